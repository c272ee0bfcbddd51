"""Which torch is kept: the one that was found when it was first asked for, as long as it is there."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bnbenv.envs.check import in_use
from bnbenv.envs.existing import LIMIT, Place, first_torch, places
from bnbenv.envs.keep.below import Distribution, bounds, held, read_below
from bnbenv.envs.keep.model import Base
from bnbenv.envs.keep.observe import observe_base
from bnbenv.envs.project import Project, env_python
from bnbenv.facts.model import HostFacts
from bnbenv.paths import expand, write_atomically
from bnbenv.process import Command, Runner
from bnbenv.progress import during
from bnbenv.solve.model import KEEP, Availability, Existing

if TYPE_CHECKING:
    from bnbenv.envs.lockfile import Locked
    from bnbenv.envs.record import Record
    from bnbenv.envs.resolve import Setting

# Asked of the base's own interpreter: which folders of packages it shows, and those that it does not before them.
_ASK = """\
import json, os, site, sys
library = os.path.dirname(os.__file__)
def shown(path):
    return [one for one in path if one != library and os.path.basename(one) != "lib-dynload" and one[-4:] != ".zip"]
own = shown(sys.path)
before = len(sys.path)
for folder in sys.argv[1:]:
    if os.path.realpath(folder) not in map(os.path.realpath, sys.path):
        site.addsitedir(folder)
own = sys.path[before:] + own
print(json.dumps({
    "version": "%d.%d.%d" % sys.version_info[:3], "folders": own, "system": sys.base_prefix in site.PREFIXES
}))
"""


class _Remembered(msgspec.Struct, frozen=True):
    """Which torch an environment's wish to keep it is for."""

    site: str
    python: str
    where: str
    folders: tuple[str, ...] = ()


class _Answer(msgspec.Struct, frozen=True):
    version: str
    folders: list[str]
    system: bool


@dataclass(frozen=True)
class Kept:
    """The torch that an environment keeps, or with ``existing`` None why there is none."""

    existing: Existing | None = None
    why: str = ""
    base: Base | None = None
    markers: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def below(self) -> dict[str, Distribution]:
        """What lies below, by name. It is read once."""
        if self.existing is None or self.base is None:
            return {}
        return read_below(self.base.folders, self.existing.torch)

    @cached_property
    def held(self) -> frozenset[str]:
        """The names of torch and of what it requires, which nothing may hide."""
        return held(self.below, self.markers) if self.below else frozenset()

    @property
    def bounds(self) -> dict[str, str]:
        """What else torch binds, as specifiers by name."""
        return {name: spec for name, spec in bounds(self.below).items() if name not in self.held}

    @property
    def metadata(self) -> dict[str, str]:
        """What the packages below require, as lines of METADATA."""
        return {one.name: "".join(f"Requires-Dist: {line}\n" for line in one.requires) for one in self.below.values()}

    def problem(self, locked: Locked) -> str | None:
        """Why a lock cannot be used on top of it; None: it can. It may be another machine's."""
        base, existing = locked.decision.base, self.existing
        if existing is None:
            return f"the torch that is there was to be kept, and none was found: {self.why}"
        if base is None:
            return "it was made for a torch of its own"
        torch, row = existing.torch, locked.decision.torch
        if torch.version != row.version:
            return f"the torch that is there was {row.version} and is {torch.version}"
        if torch.sha256 != row.sha256:
            return f"the torch that is there is another build of {torch.version} than it was"
        for name, version in base.packages.items():
            now = self.below.get(name)
            if now is None or now.version != version:
                return f"below it {name} was {version} and is {now.version if now else 'gone'}"
        return None

    def lies_below(self, record: Record) -> bool:
        """Whether a generation was made on top of just this."""
        base, made = self.base, record.base
        if base is None or made is None:
            return False
        return _place_of(base) == (made["site"], made["python"], made["folders"])

    def observed(self, locked: Locked) -> dict[str, object] | None:
        """What the record of an environment on top of it keeps."""
        if self.existing is None or self.base is None or locked.decision.base is None:
            return None
        base, torch = self.base, str(self.existing.torch.path)
        return observe_base(base.site, base.python, base.where, base.folders, torch, locked.decision.base.packages)


def with_kept(setting: Setting, env: str, anew: bool = False) -> Setting:
    """The setting with the torch that an environment keeps, where it is to; it is measured, not imported.

    ``anew``: whichever is found first now, whatever was kept before.
    """
    from dataclasses import replace

    if setting.wishes.envs[env].torch.strip() != KEEP:
        return setting
    if setting.kept is not None and not anew:
        return setting
    with during(setting.progress, "measuring the torch that is there"):
        kept = find_kept(setting.environ, _here(setting), setting.runner, setting.project, env, anew)
    return replace(setting, kept=kept)


def _here(setting: Setting) -> HostFacts:
    """The facts with this machine's own Pythons, where they were recorded on another: it is here that torch lies."""
    if not setting.environ.get("BNBENV_FACTS"):
        return setting.facts
    from bnbenv.facts.pythons import find_pythons

    pythons = find_pythons(setting.environ, setting.runner, None, sys.platform)[0]
    return msgspec.structs.replace(setting.facts, pythons=pythons)


def with_existing(setting: Setting, found: Availability) -> Availability:
    """What can be had, with the torch that is kept."""
    if setting.kept is None:
        return found
    return msgspec.structs.replace(found, existing=setting.kept.existing, no_existing=setting.kept.why)


def same_place(one: Locked, other: Locked) -> bool:
    """Whether two locks are for the same folders below, or both for none."""
    first, second = one.decision.base, other.decision.base
    return first is second if first is None or second is None else _place_of(first) == _place_of(second)


def _place_of(base: Base) -> tuple[str, str, list[str]]:
    return base.site, base.python, list(base.folders)


def find_kept(
    environ: Mapping[str, str], facts: HostFacts, runner: Runner, project: Project, env: str, anew: bool = False
) -> Kept:
    """The torch that was kept before, if it is there, else the first one found outside this project; ``anew`` the
    other way round."""
    known = remembered(project, env)
    before = [Place(Path(known.site), known.where, None, known.python)] if known and Path(known.python).exists() else []
    elsewhere, why = _elsewhere(environ, facts, runner, project), ""
    for looked_in in (elsewhere, before) if anew else (before, elsewhere):
        found, place, said = first_torch(looked_in, facts)
        if place is not None:
            if place.called != "PYTHONPATH":
                shown: Sequence[str] = (str(place.folder),)
            else:  # a module has its numpy in another module's folder
                shown = known.folders if known and looked_in is before else _modules(environ, place, project)
            return _kept(found, place, said, environ, facts, runner, shown)
        why = said if looked_in is elsewhere else why
    if known is not None:
        module = ", for which a module may have to be loaded," if known.where == "PYTHONPATH" else ""
        why = f"that in {known.site}{module} is gone; {why}"
    return Kept(why=why)


def remembered(project: Project, env: str) -> _Remembered | None:
    """Which torch is meant: by ``remember``, else by the generation in use."""
    try:
        return msgspec.json.decode(_file(project, env).read_bytes(), type=_Remembered)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        pass
    record = in_use(project, env).record
    return msgspec.convert(record.base, _Remembered) if record is not None and record.base is not None else None


def remember(setting: Setting, env: str) -> None:
    """Note which torch a new lock is for. Raises OSError."""
    if setting.kept is not None and setting.kept.base is not None:
        base = setting.kept.base
        note = msgspec.json.encode(_Remembered(base.site, base.python, base.where, base.folders)).decode()
        write_atomically(_file(setting.project, env), note + "\n")


def _file(project: Project, env: str) -> Path:
    return project.home / f"kept-torch-{env}.json"


def _elsewhere(environ: Mapping[str, str], facts: HostFacts, runner: Runner, project: Project) -> Iterator[Place]:
    """Where torch may lie, but for this project's own environments: those are what is made, also when one is active."""
    for place in places(environ, facts, runner, None):
        # The environment of an interpreter, whose bin/python leads elsewhere.
        prefix = [Path(place.interpreter).parent.parent] if place.interpreter else []
        if not any(_is_own(path, project) for path in (place.folder, *prefix)):
            yield place


def _is_own(path: Path, project: Project) -> bool:
    return path.resolve().is_relative_to(project.home.resolve())


def _modules(environ: Mapping[str, str], place: Place, project: Project) -> list[str]:
    """The folders of PYTHONPATH in which packages are installed, in its order; the others are people's own code."""
    folders = [expand(one) for one in environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    installed = [one for one in folders if one == place.folder or any(one.glob("*.*-info"))]
    return [str(one) for one in installed if not _is_own(one, project)]


def _kept(
    found: Existing | None,
    place: Place,
    why: str,
    environ: Mapping[str, str],
    facts: HostFacts,
    runner: Runner,
    shown: Sequence[str],
) -> Kept:
    """The torch of a place with what its own interpreter says of the folders beside it; ``shown`` are those that it
    may not show by itself."""
    if found is None:
        return Kept(why=why)
    minor = ".".join(found.python.split(".")[:2])
    said = ""
    for python in [place.interpreter] if place.interpreter else _interpreters(minor, environ, facts):
        answer, said = _asked(python, shown, runner)
        if answer is not None and answer.version.startswith(f"{minor}."):
            existing = msgspec.structs.replace(found, python=answer.version)
            folders = tuple(dict.fromkeys(answer.folders))
            base = Base(str(place.folder), python, place.called, folders, answer.system)
            return Kept(existing, "", base, _markers(answer.version))
        said = said or f"{python} is Python {answer.version if answer else '?'}"
    because = f"there is a torch for Python {minor} in {place.folder}, and no such Python that could be started"
    return Kept(why=f"{because} ({said})" if said else because)


def _interpreters(minor: str, environ: Mapping[str, str], facts: HostFacts) -> Iterator[str]:
    """For a folder that says no Python: the active environment's, the shell's, then those of this host."""
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if environ.get(name):
            yield str(env_python(Path(environ[name])))
    for name in (f"python{minor}", "python3", "python"):
        found = shutil.which(name, path=environ.get("PATH"))
        if found:
            yield found
    yield from (python.path for python in facts.pythons if python.version.startswith(f"{minor}."))


def _asked(python: str, folders: Sequence[str], runner: Runner) -> tuple[_Answer | None, str]:
    """What an interpreter says, or why it says nothing. It writes no bytecode: the base belongs to somebody else."""
    try:
        done = runner.run(Command((python, "-I", "-B", "-c", _ASK, *folders), timeout=LIMIT))
        if done.ok:
            return msgspec.json.decode(done.stdout.strip().rpartition("\n")[2], type=_Answer), ""
    except (OSError, msgspec.MsgspecError) as error:
        return None, f"{python}: {error}"
    said = done.stderr.strip().rpartition("\n")[2][:200]
    return None, f"{python}: {said}" if said else f"{python} did not answer"


def _markers(version: str) -> dict[str, str]:
    from packaging.markers import default_environment

    markers = {name: str(value) for name, value in default_environment().items()}
    return {**markers, "python_version": ".".join(version.split(".")[:2]), "python_full_version": version}
