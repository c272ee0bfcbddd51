"""What fixes are made of: the solver's word on this machine, the actions that carry a fix out, and what was done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from bnbenv.doctor.model import Fix
from bnbenv.envs.project import Project
from bnbenv.paths import Sysroot
from bnbenv.process import Runner
from bnbenv.progress import Progress, Quiet
from bnbenv.solve.model import Choice, FamilyName


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """One environment of those that a mixed one is split into: its name in the project, and what goes into it.

    ``package`` as in bnbenv.toml. ``requirements`` have to be in it; ``further`` go with no family, and come in where
    uv resolves them. ``known``: the project has such an environment, which gets what it lacks.
    """

    env: str
    family: FamilyName
    package: str = ""
    requirements: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    known: bool = False


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """What the solver chose for a machine and an environment. ``no_...`` says why there is none.

    ``kept``: bitsandbytes for the torch that is there. ``pair``: torch and bitsandbytes anew, for the environment's own
    Python. ``build``: a source build for the torch that is there; ``build_archs`` are its targets (``sm_61``).
    ``stays``: the bitsandbytes that is installed fits beside the torch that is there. ``hashes`` are the sha256 of
    wheels by requirement (``bitsandbytes==0.50.2``). ``driver``: the version from which on the torch that is there
    runs. ``suits``: the newest bitsandbytes for what a text says of its torch, where there is no environment to judge.
    ``shares``: the environments to split a mixed one into; ``left`` what goes into none of them, with the reason.

    ``checked`` maps an action's ``key`` to what stands against it; empty: it was resolved from the package sources, or
    looked at, and can be carried out. What is not in it was not asked about.
    """

    stays: bool = False
    hashes: dict[str, str] = {}
    suits: str | None = None
    kept: Choice | None = None
    no_kept: str = ""
    pair: Choice | None = None
    no_pair: str = ""
    build: Choice | None = None
    build_archs: tuple[str, ...] = ()
    driver: str | None = None
    shares: tuple[Share, ...] = ()
    left: dict[str, str] = {}
    checked: dict[str, str] = {}


# ---- actions: what `bnbenv doctor --fix` does ------------------------------------------------------------------


class Install(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Have uv install requirements into an environment that bnbenv did not make.

    ``reinstall``: packages to install anew even if they are there, ``upgrade``: those to take the newest of that fits.
    ``hashes`` maps a package to the sha256 of its wheel. ``index`` is the variant of PyTorch's own index that is needed
    (``cu126``). ``sweep``: folders in which what no package's RECORD names is deleted after it. ``folder``: where the
    wheels lie, in place of the package sources.
    """

    requirements: tuple[str, ...]
    reinstall: tuple[str, ...] = ()
    upgrade: tuple[str, ...] = ()
    no_deps: bool = False
    hashes: dict[str, str] = {}
    index: str | None = None
    sweep: tuple[str, ...] = ()
    folder: str | None = None

    @property
    def key(self) -> str:
        return f"install {' '.join(self.requirements)}"


class Compile(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Compile bitsandbytes, then have uv install the wheel into an environment that bnbenv did not make.

    ``release`` is the version to compile; ``cuda`` and ``archs`` as in an order of ``bnbenv.build``.
    """

    release: str
    cuda: str
    archs: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"compile {self.release} {self.cuda} {' '.join(self.archs)}"

    @property
    def line(self) -> str:
        """The command that makes the wheel."""
        archs = "".join(f" --arch {arch}" for arch in self.archs)
        return f"bnbenv build --ref {self.release} --cuda {self.cuda}{archs}"


class Delete(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Delete installed distributions by their RECORD; ``metadata`` are their ``.dist-info`` folders."""

    metadata: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"delete {' '.join(self.metadata)}"


class DropSetting(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Take a variable out of the file that sets it: comment its line out, or out of conda's state file."""

    name: str
    value: str
    file: str
    line: int | None = None

    @property
    def key(self) -> str:
        return f"drop {self.name} {self.file}:{self.line or ''}"


class NewGeneration(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Make a new generation of an environment of bnbenv's own, and switch to it once its kernels ran."""

    env: str

    @property
    def key(self) -> str:
        return f"sync {self.env}"


class Split(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Make the environments that a mixed one is split into, in the project; the mixed one stays as it is."""

    shares: tuple[Share, ...]
    python: str

    @property
    def key(self) -> str:
        return f"split {' '.join(share.env for share in self.shares)}"


Action = Install | Compile | Delete | DropSetting | NewGeneration | Split


class Treatment(msgspec.Struct, frozen=True):
    """A fix and the actions that carry it out (none: only people can)."""

    fix: Fix
    actions: tuple[Action, ...] = ()


# ---- carrying out ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hands:
    """The effects of carrying out. ``project`` is the one that an environment of bnbenv's own belongs to.

    ``recorded``: the facts are a recorded file's, so that its GPUs are not here to verify on.
    """

    environ: Mapping[str, str]
    runner: Runner
    sysroot: Sysroot
    home: Path
    cwd: Path
    project: Project | None = None
    progress: Progress = field(default_factory=Quiet)
    recorded: bool = False


class PlanStep(msgspec.Struct, frozen=True):
    """One change before it is made. ``where`` is the environment or file, ``command`` what does it or would."""

    what: str
    where: str
    command: str


class Mended(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--fix`` did. ``state``: ``nothing`` (nothing that it could do), ``planned`` (only with ``--yes``: exit 3),
    ``done``.

    ``record`` names the way back (``bnbenv doctor --undo RECORD``), ``generation`` the new one of an environment of
    bnbenv's own. ``verification`` is the report of ``bnbenv verify``; null where nothing was verified.
    """

    state: Literal["nothing", "planned", "done"]
    plan: tuple[PlanStep, ...] = ()
    record: str | None = None
    generation: int | None = None
    verification: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


class Undone(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--undo`` put back: how many files, in which places."""

    record: str
    prefix: str | None
    files: int
    notes: tuple[str, ...] = ()
