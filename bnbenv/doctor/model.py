"""What the doctor looks at and what it says, as typed frozen values.

An `Examination` is everything that was found out about a machine and one environment, without importing torch. Rules
judge it and give `Verdict`s; an error text gives `Seen`s; both become `Finding`s, of which one is primary.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from bnbenv.facts.model import HostFacts, Unknown

SCHEMA = "bnbenv.doctor/1"

Answer = Literal["yes", "no", "unknown"]

# The closed vocabulary of what is wrong. ``other``: it is known what, and it is none of these.
Cause = Literal[
    "lib_cuda_version_missing",
    "cuda_runtime_lib_missing",
    "mixed_cuda_runtimes",
    "cpu_only_torch",
    "cpu_only_bnb",
    "driver_too_old",
    "driver_library_mismatch",
    "no_gpu_visible",
    "no_kernel_image",
    "glibc_too_old",
    "windows_msvc_runtime_missing",
    "windows_no_lib",
    "out_of_memory",
    "oom_in_conversion",
    "triton_incompat",
    "transformers_version_gate",
    "bnb_override_env_stale",
    "quant_lib_conflict",
    "device_map_config",
    "dtype_config",
    "illegal_memory_access",
    "cublas_error",
    "python_abi",
    "numpy_abi",
    "rocm",
    "hf_access",
    "other",
    "unknown",
]
CAUSES: tuple[str, ...] = get_args(Cause)


class Fix(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. ``command`` is one line to run; null where only people can do it, which ``steps`` then say.

    ``automatic``: ``bnbenv doctor --fix`` carries it out. ``steps`` are lines to follow, or code to paste.
    """

    summary: str
    command: str | None = None
    automatic: bool = False
    steps: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong. ``code`` is the rule's own kebab-case name, ``cause`` that of the vocabulary.

    ``role``: the primary cause, a consequence of it, or a side note. ``source``: told by the text or by the machine.
    """

    cause: Cause
    code: str
    primary: bool
    role: Literal["primary", "consequence", "note"]
    source: Literal["text", "machine"]
    title: str
    evidence: tuple[str, ...]
    explanation: str
    fix: Fix
    reference: str


class Verdict(msgspec.Struct, frozen=True):
    """What a rule says of an examination: ``yes`` it is so, with the evidence; ``unknown`` with the reason."""

    answer: Answer
    evidence: tuple[str, ...] = ()
    because: str = ""


# ---- the environment -------------------------------------------------------------------------------------------


class SearchPath(msgspec.Struct, frozen=True):
    """One folder of ``sys.path`` in which packages lie, in import order.

    ``where``: ``pythonpath`` (PYTHONPATH, the current folder), ``environment`` (its own), ``user`` (the user's site),
    ``base`` (of the Python below it), ``added`` (by a ``.pth`` file).
    """

    path: str
    where: Literal["pythonpath", "environment", "user", "base", "added"]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The environment that is examined. ``env`` is its name where bnbenv made it; ``python`` null: there is none."""

    kind: Literal["bnbenv", "venv", "conda", "system", "none"]
    python: str | None = None
    version: str | None = None
    prefix: str | None = None
    env: str | None = None
    writable: bool = False
    search: tuple[SearchPath, ...] = ()


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """An installed distribution. ``name`` is normalized (``nvidia-cublas-cu12``), ``path`` its metadata's folder.

    ``effective``: it is the one that an import takes; another one of the same name stands earlier where it is false.
    ``requires_dist`` is kept for those that the doctor judges by it.
    """

    name: str
    version: str | None
    path: str
    where: str
    effective: bool = True
    editable: bool = False
    requires_dist: tuple[str, ...] = ()


class Torch(msgspec.Struct, frozen=True, kw_only=True):
    """The torch that an import takes. ``cuda`` null: a CPU build, unless ``hip`` or ``xpu``.

    ``fault``: why it cannot be read.
    """

    path: str
    version: str | None = None
    cuda: str | None = None
    hip: str | None = None
    xpu: str | None = None
    arch_list: tuple[str, ...] = ()
    fault: str | None = None


class LibraryFile(msgspec.Struct, frozen=True, kw_only=True):
    """One native library of bitsandbytes. ``fault``: it is damaged, empty, for another platform, or unreadable."""

    name: str
    path: str
    backend: str = "other"
    cuda: str | None = None
    sass: tuple[str, ...] = ()
    ptx: tuple[str, ...] = ()
    glibc: str | None = None
    glibcxx: str | None = None
    fault: str | None = None


class Bitsandbytes(msgspec.Struct, frozen=True, kw_only=True):
    """The bitsandbytes that an import takes. ``version`` is its metadata's, ``own_version`` its code's own word."""

    path: str
    version: str | None = None
    own_version: str | None = None
    libraries: tuple[LibraryFile, ...] = ()
    fault: str | None = None


class Loads(msgspec.Struct, frozen=True, kw_only=True):
    """Which native library bitsandbytes will load here. ``answer`` yes: ``library`` of what is there.

    No: ``wanted`` is the file name that it looks for and does not find (null: it looks for nothing by name).
    Unknown: ``library`` or ``wanted`` is what it would be if the GPU that torch is built for can be used.
    ``override`` is the value of ``BNB_CUDA_VERSION`` (``BNB_ROCM_VERSION``) where that decided.
    """

    answer: Answer
    because: str
    library: str | None = None
    wanted: str | None = None
    override: str | None = None


class Linked(msgspec.Struct, frozen=True, kw_only=True):
    """A shared library that another one needs, as the dynamic linker would find it; ``path`` null: it would not.

    ``via``: ``loaded`` (torch has loaded it before), ``rpath``, ``runpath``, ``LD_LIBRARY_PATH``, ``ld-cache``,
    ``default``, ``path`` (it is opened by its path), ``windows``. ``answer`` unknown where it cannot be told. ``lacks``
    are the symbol versions (``GLIBC_2.38``, ``GLIBCXX_3.4.32``) and of CUDA libraries the symbols
    (``__nvJitLinkComplete_12_4``) that ``needed_by`` insists on and that the file does not define: the loader refuses
    it, and ``answer`` is no.
    """

    soname: str
    needed_by: str
    answer: Answer
    path: str | None = None
    via: str | None = None
    because: str = ""
    lacks: tuple[str, ...] = ()


class Runtime(msgspec.Struct, frozen=True):
    """A copy of a CUDA library that a process may meet: ``libcudart.so.12``, where, and by which way.

    ``via``: as of `Linked`, or ``package`` (it lies in a package's folder). ``version`` is its release where the
    package or the file's name tells it (``12.4.127``). ``used``: it is the one that the process gets.
    """

    soname: str
    path: str
    via: str
    version: str | None = None
    used: bool = False


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A variable that is set. ``file`` and ``line`` (from 1): where; null for the process's own environment."""

    name: str
    value: str
    file: str | None = None
    line: int | None = None


class Leftover(msgspec.Struct, frozen=True):
    """A package of which parts of several versions lie in one folder, or a pip's remains (``~itsandbytes``).

    ``kind``: ``twice`` (two sets of metadata), ``interrupted``, ``metadata`` or ``package`` (one without the other),
    ``version`` (they differ), ``gone`` and ``cut`` (files that RECORD names), ``strange`` (it does not), ``conda``.
    """

    name: str
    because: str
    paths: tuple[str, ...]
    kind: str = ""


class Windows(msgspec.Struct, frozen=True, kw_only=True):
    """On Windows: each Microsoft runtime library and where it is (null: missing); build tools, null if unknown."""

    runtimes: dict[str, str | None] = {}
    build_tools: str | None = None


class Cxx(msgspec.Struct, frozen=True, kw_only=True):
    """The libstdc++ that a process of this environment gets, and the highest GLIBCXX version in it."""

    path: str | None = None
    glibcxx: str | None = None


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found out. What could not be is in ``unknown``, with the reason; it is never treated as no."""

    facts: HostFacts
    target: Target
    packages: tuple[Package, ...] = ()
    torch: Torch | None = None
    bitsandbytes: Bitsandbytes | None = None
    loads: Loads | None = None
    linked: tuple[Linked, ...] = ()
    runtimes: tuple[Runtime, ...] = ()
    settings: tuple[Setting, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    cxx: Cxx | None = None
    windows: Windows | None = None
    conditions: dict[str, str] = {}
    unknown: tuple[Unknown, ...] = ()

    def package(self, name: str) -> Package | None:
        """The distribution of that name that an import takes."""
        return next((one for one in self.packages if one.name == name and one.effective), None)


# ---- an error text ---------------------------------------------------------------------------------------------


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A sign of a cause in a text. ``code`` is the signature's name, ``lines`` what was read: (number from 1, text)."""

    cause: Cause
    code: str
    role: Literal["primary", "consequence", "note"]
    lines: tuple[tuple[int, str], ...] = ()


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a text says of the machine that it comes from; null where it says nothing. ``os`` as in the facts.

    ``compiling``: what is known about the first error of a build, as a sentence on what to do.
    """

    os: str | None = None
    python: str | None = None
    torch: str | None = None
    torch_cuda: str | None = None
    bitsandbytes: str | None = None
    driver: str | None = None
    capability: str | None = None
    gpu: str | None = None
    library: str | None = None
    prefix: str | None = None
    override: str | None = None
    memory_wanted: int | None = None
    memory_total: int | None = None
    compiling: str | None = None


class TextDiagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What a text says. ``seen`` is empty where nothing in it speaks of a failure; at most one is primary.

    A text that speaks of a failure that is not known has one ``unknown``. ``read`` is in bytes; ``skipped`` were
    passed over between the beginning and the end of a text that is longer than the limit.
    """

    seen: tuple[Seen, ...] = ()
    said: Said = Said()
    harmless: tuple[str, ...] = ()
    read: int = 0
    skipped: int = 0
