"""What the solver is asked and what it answers. Frozen values; the JSON of ``bnbenv solve`` is made of these."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from bnbenv.matrix.model import TorchBuild, TorchSource

SCHEMA = "bnbenv.solve/1"

KEEP = "keep"  # the wish for torch that leaves the one that is there as it is

Backend = Literal["cuda", "cpu"]
FamilyName = Literal["bitsandbytes", "gptq", "awq", "none"]


class Current(msgspec.Struct, frozen=True):
    """What is there now, as versions; the policy ``minimal-change`` stays close to it.

    ``bitsandbytes`` is empty in an environment of another family, whose own packages are in ``packages``, by name.
    """

    python: str
    torch: str
    bitsandbytes: str
    packages: dict[str, str] = {}


class Request(msgspec.Struct, frozen=True):
    """The wishes. Specifiers have been read (``versions.read_specifier``); that for torch may be ``keep``.

    ``family`` is what the environment is for; ``package`` names another package of it than its first, as a requirement
    (``gptqmodel>=7``, ``autoawq[kernels]``; empty: the family's own). ``bitsandbytes`` and ``build`` are for that
    family alone, and the family ``none`` has torch only.

    ``build``: ``auto`` and ``never`` take wheels (``auto`` offers a source build where none fits), ``always`` a source
    build of bitsandbytes. ``gpus`` is ``all`` or indices and UUIDs; ``driver`` a version to judge by as if it were
    installed.
    """

    torch: str = "*"
    bitsandbytes: str = "*"
    python: str = ">=3.10"
    gpus: tuple[str, ...] = ("all",)
    backend: Literal["auto", "cuda", "cpu"] = "auto"
    build: Literal["auto", "never", "always"] = "auto"
    driver: str | None = None
    prefer: Literal["newest", "minimal-change"] = "newest"
    current: Current | None = None
    family: FamilyName = "bitsandbytes"
    package: str = ""

    @property
    def kept(self) -> Current | None:
        """What to stay close to: under ``minimal-change`` what is there."""
        return self.current if self.prefer == "minimal-change" else None


class Existing(msgspec.Struct, frozen=True):
    """The torch that is there, measured where it lies, and the version of the Python that it belongs to (``3.11``)."""

    torch: TorchBuild
    python: str


class Buildable(msgspec.Struct, frozen=True):
    """What can be compiled here and now.

    ``toolkits`` maps a CUDA release (``13.0``) to why its toolkit cannot be had, empty where it can; a release that is
    not in it cannot. ``releases`` are the versions of bitsandbytes whose source can be had, None: of any;
    ``no_source`` why none can.
    """

    toolkits: dict[str, str]
    releases: frozenset[str] | None = None
    no_source: str = ""


class Availability(msgspec.Struct, frozen=True):
    """What can be had here and now. Source keys: ``default-index``, ``pytorch-index/cu126``.

    ``unreachable`` maps a source key to the reason (what ``torch`` holds can be had all the same: from another index
    beside it); ``torch`` the torch versions a source offers, ``bitsandbytes`` the wheel file names offered anywhere and
    ``packages`` the names of files of the other families' packages (None: not asked); ``local`` the torch builds in
    folders of wheels; ``managed_python`` whether uv may download an interpreter; ``existing`` the torch that a wish to
    keep it means, and ``no_existing`` why there is none; ``builds`` what can be compiled (None: not asked).
    """

    unreachable: dict[str, str] = {}
    torch: dict[str, frozenset[str]] = {}
    bitsandbytes: frozenset[str] | None = None
    local: tuple[TorchBuild, ...] = ()
    managed_python: bool = True
    existing: Existing | None = None
    no_existing: str = "nobody looked for one"
    builds: Buildable | None = None
    packages: frozenset[str] | None = None


class TorchChoice(msgspec.Struct, frozen=True, kw_only=True):
    """``cuda`` is None for a CPU build; ``index`` the variant where it is from PyTorch's own index."""

    version: str
    cuda: str | None = None
    source: TorchSource
    index: str | None = None


class BitsandbytesChoice(msgspec.Struct, frozen=True):
    """Of a source build ``library`` is what will be loaded; ``sha256`` and ``filename`` are empty."""

    version: str
    source: Literal["wheel", "build", "existing"]
    library: str
    sha256: str
    filename: str


class PackageChoice(msgspec.Struct, frozen=True):
    """A package of another family than bitsandbytes, by its normalized name. An ``sdist`` is built by uv (no kernels in
    it, or compiled when first used); a ``wheel`` may hold kernels; of an ``existing`` one no file is known."""

    name: str
    version: str
    source: Literal["wheel", "sdist", "existing"]
    filename: str
    sha256: str


class Choice(msgspec.Struct, frozen=True):
    """The combination. ``environment`` holds only what must be set (``BNB_CUDA_VERSION``).

    ``wheel`` (``bitsandbytes`` in documents) is in environments of that family alone; those of ``gptq`` and ``awq``
    hold ``packages``, the family's main package first, and those of ``none`` neither.
    """

    python: str
    torch: TorchChoice
    environment: dict[str, str]
    wheel: BitsandbytesChoice | None = msgspec.field(default=None, name="bitsandbytes")
    packages: tuple[PackageChoice, ...] = ()

    @property
    def bitsandbytes(self) -> BitsandbytesChoice:
        """For what is about that family alone."""
        assert self.wheel is not None, "an environment of another family has no bitsandbytes"
        return self.wheel

    @property
    def compiled(self) -> bool:
        """Whether its bitsandbytes is a source build."""
        return self.wheel is not None and self.wheel.source == "build"

    @property
    def versions(self) -> dict[str, str]:
        """The packages that it decides on besides torch, by name: ``{"gptqmodel": "7.6.0"}``."""
        own = {} if self.wheel is None else {"bitsandbytes": self.wheel.version}
        return {**own, **{one.name: one.version for one in self.packages}}

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of their files, where they are known: what is still to be compiled has none."""
        own = {} if self.wheel is None else {"bitsandbytes": self.wheel.sha256}
        known = {**own, **{one.name: one.sha256 for one in self.packages}}
        return {name: sha256 for name, sha256 in known.items() if sha256}

    @property
    def title(self) -> str:
        """``bitsandbytes 0.50.2``, or ``torch alone``."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items()) or "torch alone"


class Cover(msgspec.Struct, frozen=True):
    """What runs on one GPU: ``sass sm_80`` or ``ptx compute_90``, for torch, for bitsandbytes, and for the binary
    kernels of another family's package (empty where there are none)."""

    gpu: int
    arch: str
    torch: str
    bitsandbytes: str = ""
    kernels: str = ""


class EvidenceLine(msgspec.Struct, frozen=True):
    """What a solution rests on. ``date`` (ISO) is null where the source itself says when it was read."""

    about: str
    level: str
    source: str
    date: str | None = None


class Rejected(msgspec.Struct, frozen=True):
    candidate: str
    rule: str
    because: str


def telling(rejected: tuple[Rejected, ...], most: int = 8) -> tuple[Rejected, ...]:
    """What was passed over, and first each rule that stands against the newest wheel, pair and torch build."""
    newest: dict[tuple[str, bool], str] = {}
    rules: dict[tuple[str, str], Rejected] = {}
    for row in rejected:
        newest.setdefault((row.candidate.split()[0], " + " in row.candidate), row.candidate)
        rules.setdefault((row.candidate, row.rule.partition("[")[0]), row)
    first = [row for (candidate, _), row in rules.items() if candidate in newest.values()]
    return tuple(dict.fromkeys((*first, *rejected)))[:most]


class Solution(msgspec.Struct, frozen=True):
    """A known-good combination. ``visible_devices`` are UUIDs where a subset of the GPUs was solved for."""

    backend: Backend
    choice: Choice
    covers: tuple[Cover, ...]
    evidence: tuple[EvidenceLine, ...]
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...] = ()
    visible_devices: tuple[str, ...] = ()
    torch_sha256: str | None = None

    def document(self, driver_change: str | None = None) -> dict[str, Any]:
        """The document of ``bnbenv solve``; ``driver_change`` is what the driver that is asked about would change."""
        body = msgspec.to_builtins(self)
        return {"schema": SCHEMA, "status": "solved", **body, "driver_change": driver_change}


class Conflict(msgspec.Struct, frozen=True):
    rule: str
    because: str
    source: str


class Option(msgspec.Struct, frozen=True):
    """What would resolve a refusal. ``solve_args`` are for ``bnbenv solve``, null for what only people can do."""

    change: str
    gives: str
    command: str | None
    solve_args: tuple[str, ...] | None


class Refusal(msgspec.Struct, frozen=True):
    """Nothing fits: a minimal set of facts that contradict each other, and what would resolve it."""

    conflict: tuple[Conflict, ...]
    options: tuple[Option, ...]

    @property
    def unreachable(self) -> bool:
        """Whether it would fit if all sources answered."""
        return any(part.rule == "reachable" for part in self.conflict)

    def document(self, driver_change: str | None = None) -> dict[str, Any]:
        """As that of a solution."""
        body = msgspec.to_builtins(self)
        return {"schema": SCHEMA, "status": "refused", **body, "driver_change": driver_change}
