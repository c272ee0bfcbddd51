"""Resolving what comes on top of a torch that is there: uv is offered stand-ins for what lies below, and what it takes
of those is left out of the lock."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bnbenv.envs.families import others
from bnbenv.envs.keep.below import broken_by, stand_in
from bnbenv.errors import NoCombination
from bnbenv.solve.model import Choice

if TYPE_CHECKING:
    from bnbenv.envs.keep.find import Kept
    from bnbenv.envs.keep.model import Base
    from bnbenv.envs.lockfile import Locked
    from bnbenv.envs.resolve import Setting
    from bnbenv.envs.sources import PackageSources

_HEAD = re.compile(r'^name = "([^"]+)"\nversion = "([^"]+)"$', re.MULTILINE)
_SHOWN = 4


@dataclass(frozen=True)
class OnTop:
    """One resolution on top of what is kept; without a base, one as any other.

    The packages of ``choice`` themselves always come on top: they are those that were measured.
    """

    kept: Kept | None
    choice: Choice

    @property
    def _base(self) -> Base | None:
        return self.kept.base if self.kept is not None and self.choice.torch.source == "existing" else None

    @property
    def python(self) -> str | None:
        """The interpreter to resolve for, where something lies below."""
        return self._base.python if self._base is not None else None

    @property
    def _offered(self) -> dict[str, str]:
        """What lies below and may be taken, by name."""
        if self.kept is None or self._base is None:
            return {}
        return {one.name: one.version for one in self.kept.below.values() if one.name not in self.choice.versions}

    @property
    def preferred(self) -> dict[str, str]:
        """The versions to take wherever they fit."""
        return self._offered

    @contextmanager
    def resolving(self, sources: PackageSources) -> Iterator[tuple[PackageSources, list[str]]]:
        """The package sources with the stand-ins, and the requirements for torch and what it requires.

        Those are named by the very file: an index may have the same version with more requirements. A refusal says
        what was held. Raises NoCombination, OSError.
        """
        if self.kept is None or self._base is None:
            # Arbitrary equality: "==2.13.0" would let a local "2.13.0+cpu" in.
            yield sources, [f"torch==={self.choice.torch.version}"]
            return
        below, offered = self.kept.below, self._offered
        with tempfile.TemporaryDirectory(prefix="bnbenv-") as folder:
            files = {name: stand_in(Path(folder), below[name], below, self.kept.markers) for name in offered}
            lines = [f"{name} @ {files[name].as_uri()}" for name in sorted(self.kept.held) if name in files]
            lines += [f"{name}{spec}" for name, spec in self.kept.bounds.items() if name in files]
            try:
                yield sources.with_folder(Path(folder)), lines
            except NoCombination as error:
                held = sorted({*self.kept.held, *self.kept.bounds} & {*offered})
                named = [f"{name} {offered[name]}" for name in held if name in error.detail]
                if named:
                    stays = ", ".join(named[:_SHOWN])
                    error.message += f"; with torch stays what it requires or is built for, as it is: {stays}"
                raise

    def without(self, text: str) -> tuple[str, Base | None]:
        """uv's lock without what lies below, and the base with what of it the lock counts on. Pure."""
        if self.kept is None or self._base is None:
            return text, None
        head, *blocks = re.split(r"^(?=\[\[packages\]\]$)", text, flags=re.MULTILINE)
        offered, left, counted = self._offered, [], {"torch": self.kept.below["torch"].version}
        for block in blocks:
            found = _HEAD.search(block)
            if found and same_version(offered.get(found[1]), found[2]):
                counted[found[1]] = offered[found[1]]
            else:
                left.append(block)
        base = msgspec.structs.replace(self._base, packages=dict(sorted(counted.items())))
        return head + ("".join(left) or "packages = []\n"), base


def same_version(one: str | None, other: str) -> bool:
    """Whether two texts are the same version; uv writes one in its own way. Pure."""
    from packaging.version import InvalidVersion, Version

    if one is None or one == other:
        return one == other
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return False


def notes_on(setting: Setting, env: str, locked: Locked) -> tuple[str, ...]:
    """What people should know: which packages of the lock hide others below, what below that breaks, and which of
    another family show from there. Pure."""
    kept, family = setting.kept, setting.wishes.envs[env].family
    if kept is None or not kept.below:
        return ()
    foreign = others(family, kept.below, setting.matrix.families) if family != "none" else {}
    named = ", ".join(f"{name} {kept.below[name].version}" for name in sorted(foreign))
    notes = [f"{named} lies below and shows here too: families are best kept apart"] if named else []
    return (*notes, *_hidden(kept, locked))


def _hidden(kept: Kept, locked: Locked) -> list[str]:
    below = {name: one.version for name, one in kept.below.items()}
    hidden = {name: version for name, version in locked.packages.items() if name in clashing(locked.packages, below)}
    if not hidden:
        return []
    shown = [f"{name} {version} hides {kept.below[name].version}" for name, version in sorted(hidden.items())]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    notes = [f"what lies below stays as it is; in this environment {', '.join(shown[:_SHOWN])}{more}"]
    for name, broken in sorted(broken_by(hidden, kept.below, kept.markers).items()):
        notes.append(f"{', '.join(sorted(broken)[:_SHOWN])} below asks for another {name} than {hidden[name]}")
    return notes


def clashes(packages: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """The packages that would be taken from elsewhere in another version: ``numpy 1.26.4 and not 2.1.0``. Pure."""
    return [f"{name} {found[name]} and not {packages[name]}" for name in clashing(packages, found)]


def clashing(packages: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """The names of the packages that are also found in another version. Pure."""
    return [name for name in sorted(packages) if name in found and not same_version(found[name], packages[name])]
