"""The rows of the matrix: typed, frozen, each with the evidence it rests on."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["declared", "measured", "resolved", "verified"]
LEVELS: tuple[Level, ...] = ("declared", "measured", "resolved", "verified")

TorchSource = Literal["default-index", "pytorch-index", "local", "existing"]


class Evidence(msgspec.Struct, frozen=True):
    """Why a row is believed. ``source`` is a file name with its sha256, a URL or a repository path; ``date`` ISO."""

    level: Level
    source: str
    date: str


class NativeLibrary(msgspec.Struct, frozen=True):
    """One native library in a bitsandbytes wheel, as read from its bytes.

    ``name`` is the file name (``libbitsandbytes_cuda128.so``), ``backend`` cuda, cpu, rocm, xpu or other; ``sass``
    holds cubin targets as ``sm_90`` (suffix a or f kept), ``ptx`` PTX targets as ``compute_120``; ``needed`` the shared
    libraries it links; ``glibc`` and ``glibcxx`` the highest symbol versions it requires, null where none.
    """

    name: str
    backend: str
    sass: tuple[str, ...] = ()
    ptx: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    glibc: str | None = None
    glibcxx: str | None = None


class BitsandbytesWheel(msgspec.Struct, frozen=True):
    """One bitsandbytes wheel. ``os`` and ``machine`` as in the facts; ``libc_tag`` is the glibc its tag asks for.

    A wheel for ``any`` platform (through 0.42) asks for none; it holds binaries for Linux on x86-64, and what these
    need decides.
    """

    version: str
    filename: str
    sha256: str
    size: int
    os: str
    machine: str
    libc_tag: str | None
    requires_python: str | None
    requires_dist: tuple[str, ...]
    libraries: tuple[NativeLibrary, ...]
    evidence: Evidence


class TorchBuild(msgspec.Struct, frozen=True, kw_only=True):
    """One torch build for one platform: the wheels of one version, source, CUDA variant and platform tag.

    ``version`` carries the local part where the build has one (``2.13.0+cpu``). ``cuda`` is ``13.0`` or null for a CPU
    build. ``arch_list`` is what ``torch.cuda.get_arch_list()`` gives; ``pythons`` are wheel tags such as ``cp311``;
    ``libc_tag`` the glibc of the wheel tag. ``index`` is the variant on PyTorch's index (``cu126``, ``cpu``), null for
    the default index; ``triton`` the version it pins (of ``~=`` the lowest). ``path`` and ``sha256`` are set for a
    single local wheel.
    """

    version: str
    source: TorchSource
    os: str
    machine: str
    cuda: str | None = None
    arch_list: tuple[str, ...]
    pythons: tuple[str, ...]
    libc_tag: str | None = None
    requires_python: str | None = None
    requires_dist: tuple[str, ...]
    evidence: Evidence
    index: str | None = None
    triton: str | None = None
    path: str | None = None
    sha256: str | None = None


class LoaderRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which native library a bitsandbytes version loads. ``versions`` is a specifier.

    ``rule``: ``exact`` (``cuda{torch.version.cuda}`` or nothing), ``same-major`` (exact, else the highest lower, else
    the lowest higher, of the same CUDA major), ``libcudart`` (the CUDA of the libcudart found on the search paths,
    where torch's own does not lie). ``override`` is the environment variable that names a library. ``nocublaslt``:
    where the highest of all GPUs is below compute capability 7.5, the library's twin ``..._nocublaslt`` is loaded.
    """

    versions: str
    rule: Literal["libcudart", "exact", "same-major"]
    override: str | None = None
    nocublaslt: bool
    source: str


class CudaDriver(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Driver needs of a CUDA toolkit release.

    ``family_min_*`` is the oldest driver on which any build of that major runs its SASS (minor-version
    compatibility), ``bundled_*`` the driver that came with the toolkit, from which on its PTX can be compiled, null
    where none was bundled.
    """

    cuda: str
    family_min_linux: str
    family_min_windows: str
    bundled_linux: str | None = None
    bundled_windows: str | None = None
    source: str


class GpuArch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An architecture: compute capability, generation, the first driver that knows it and the last branch that does.

    ``last_branch`` is the major number of the last driver branch (``580``), null while supported; a branch's Windows
    drivers can have a higher one (``582.78``). ``products`` are names as the driver reports them (without the vendor).
    """

    arch: str
    compute_capability: str
    generation: str
    first_driver_linux: str | None = None
    first_driver_windows: str | None = None
    last_branch: int | None = None
    products: tuple[str, ...]
    source: str


class Toolkit(msgspec.Struct, frozen=True, kw_only=True):
    """What a CUDA toolkit release compiles, and with which host compilers.

    ``cuda`` is its release (``12.8``), ``ptxas`` the version of the assembler that was asked. ``sass`` and ``ptx`` are
    the targets it compiles to (``sm_90``, suffixes a and f kept, and ``compute_90``). ``gcc_max`` and ``clang_max``
    are the newest majors that its ``crt/host_config.h`` admits, ``clang_min`` the oldest; ``msc_min`` the oldest and
    ``msc_end`` the first too new value of ``_MSC_VER`` (1910 is Visual Studio 2017, 1950 the one after 2022). Null: the
    header names no limit.
    """

    cuda: str
    ptxas: str
    sass: tuple[str, ...]
    ptx: tuple[str, ...]
    gcc_max: int | None
    clang_min: int | None
    clang_max: int | None
    msc_min: int | None
    msc_end: int | None
    evidence: Evidence


class SourceTag(msgspec.Struct, frozen=True, kw_only=True):
    """One release of bitsandbytes in upstream's repository, and what its own files say of compiling it.

    ``tag`` names ``commit``. ``cuda_min`` is the oldest CUDA that its CMakeLists.txt takes (``11.8``), ``cuda_end`` the
    first that is too new for it (``14.0``), ``cmake`` the oldest CMake; ``sass_min`` the oldest target that its kernels
    know (``sm_50``), null where they name none; ``requires_python`` is that of its pyproject.toml, null where it names
    none.
    """

    version: str
    tag: str
    commit: str
    cuda_min: str
    cuda_end: str
    cmake: str
    sass_min: str | None
    requires_python: str | None
    evidence: Evidence


class Family(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Quantization packages that share an environment, and why they are kept apart from those of other families.

    ``packages`` are distribution names; ``references`` are threads that were read.
    """

    name: str
    packages: tuple[str, ...]
    why: str
    references: tuple[str, ...]


class PackageFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a quantization package other than bitsandbytes (gptqmodel, autoawq-kernels, ...).

    ``name`` is normalized. ``pythons`` are wheel tags (``cp311``), none: any Python; ``os`` and ``machine`` as in the
    facts, null: any; ``libc_tag`` the glibc of the tag. ``requires_dist`` are its requirements on torch, transformers,
    triton, numpy and other quantization packages, verbatim. ``libraries`` are its kernels, ``cuda`` the CUDA major of
    the runtime that these link (``12``), ``ptx_cuda`` the oldest CUDA release that reads their PTX. ``torch_releases``
    are the series of torch (``2.2``) whose libc10 and libc10_cuda (on Windows c10.dll) export every name that the
    kernels take from them; null: not read. ``build_needs_torch``: the setup.py of a source archive looks for torch,
    which is not there when installers build it, even where it is told to compile nothing (BUILD_CUDA_EXT=0).
    ``uploaded`` is an ISO date, null where the index tells none.
    """

    name: str
    version: str
    filename: str
    sha256: str
    size: int
    kind: Literal["sdist", "wheel"]
    pythons: tuple[str, ...] = ()
    os: str | None = None
    machine: str | None = None
    libc_tag: str | None = None
    requires_python: str | None = None
    requires_dist: tuple[str, ...] = ()
    libraries: tuple[NativeLibrary, ...] = ()
    cuda: str | None = None
    ptx_cuda: str | None = None
    torch_releases: tuple[str, ...] | None = None
    build_needs_torch: bool = False
    uploaded: str | None = None
    evidence: Evidence


class PackageAdvisory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the metadata of a quantization package does not say. All conditions that are set must hold.

    ``versions`` and ``torch`` are version specifiers, ``os`` operating systems, ``backend`` is what it is used on,
    ``capability`` a comparison such as ``<7.0`` that one of the GPUs meets, ``without`` a package beside which it does
    not hold. ``requires`` are requirements that the environment needs beside the package's own; ``refuses``: it does
    not work at all, whatever is added. With neither it is a note.
    """

    id: str
    package: str
    versions: str = "*"
    torch: str | None = None
    os: tuple[str, ...] = ()
    backend: Literal["cuda", "cpu"] | None = None
    capability: str | None = None
    without: str | None = None
    requires: tuple[str, ...] = ()
    refuses: bool = False
    summary: str
    remedy: str
    reference: str


class Advisory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A known-bad combination. All conditions that are set must hold for it to apply.

    ``bitsandbytes``, ``torch``, ``triton`` are version specifiers; ``torch_cuda`` CUDA versions of the torch build
    (``13.1``, or a prefix such as ``13``); ``libraries`` native library names (``*`` stands for any text);
    ``glibc_below`` a glibc version;
    ``capability`` a comparison such as ``<7.5`` or ``==9.0``; ``os`` operating systems; ``override`` true where it
    applies only with BNB_CUDA_VERSION set. ``refuses`` is false where only some uses suffer: then it is a note.
    """

    id: str
    summary: str
    remedy: str
    reference: str
    bitsandbytes: str | None = None
    torch: str | None = None
    triton: str | None = None
    torch_cuda: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    glibc_below: str | None = None
    capability: str | None = None
    os: tuple[str, ...] = ()
    override: bool | None = None
    refuses: bool = True


class TransformersApi(msgspec.Struct, frozen=True, kw_only=True):
    """What ``from_pretrained`` and ``BitsAndBytesConfig`` of one release of transformers take.

    ``dtype_argument`` is the name of the argument for the type to load in; ``default_dtype`` is the type that loading
    with a BitsAndBytesConfig takes without it: ``auto`` is that of config.json, else the checkpoint's. ``parameters``
    are BitsAndBytesConfig's and their defaults; ``loose_arguments`` says that from_pretrained itself takes
    ``load_in_4bit=``. ``saves_4bit`` is the first bitsandbytes with which 4-bit weights can be saved, null where
    they cannot. ``bitsandbytes`` and ``accelerate`` are the first releases that it works with, null where it names
    none. ``cpu`` says that it quantizes without a GPU and without Intel's extension, ``checkpointing_kwargs`` that
    gradient checkpointing can be told ``use_reentrant``.
    """

    version: str
    dtype_argument: Literal["dtype", "torch_dtype"]
    default_dtype: Literal["auto", "float16"]
    parameters: dict[str, bool | float | str | None]
    loose_arguments: bool
    saves_4bit: str | None
    bitsandbytes: str | None
    accelerate: str | None
    cpu: bool
    checkpointing_kwargs: bool
    evidence: Evidence


class Matrix(msgspec.Struct, frozen=True):
    """Everything the solver judges on, and where packages and sources come from.

    ``pytorch_index`` is the address of PyTorch's own index without a variant, ``upstream`` that of the git repository
    in which bitsandbytes is developed.
    """

    bitsandbytes: tuple[BitsandbytesWheel, ...]
    torch: tuple[TorchBuild, ...]
    loaders: tuple[LoaderRule, ...]
    drivers: tuple[CudaDriver, ...]
    archs: tuple[GpuArch, ...]
    advisories: tuple[Advisory, ...]
    pytorch_index: str
    toolkits: tuple[Toolkit, ...] = ()
    families: tuple[Family, ...] = ()
    upstream: str = ""
    source_releases: tuple[SourceTag, ...] = ()
    packages: tuple[PackageFile, ...] = ()
    package_advisories: tuple[PackageAdvisory, ...] = ()
