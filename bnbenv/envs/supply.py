"""What a bundle brings to a sync: locks, and a folder with the very files that they name, instead of any index."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bnbenv.envs.lockfile import Locked, LockedFile
from bnbenv.envs.network import Network
from bnbenv.envs.sources import PackageSources, Source
from bnbenv.matrix.model import BitsandbytesWheel

OPTION = "--bundle"  # what forbids the network, as the setting that is named in messages


@dataclass(frozen=True)
class Supply:
    """Files that are unpacked and compared with their hashes once they are needed.

    ``locks`` are the texts of the locks by environment, ``files`` the file of each of their packages by its name.
    ``pythons`` is a folder that uv takes an interpreter from, as from a mirror of its own downloads. ``unpack`` makes
    the files of one environment be there, or of one of its packages.
    """

    folder: Path
    locks: Mapping[str, str]
    files: Mapping[str, Mapping[str, LockedFile]]
    unpack: Callable[[str, str | None], None]
    pythons: Path | None = None

    def sources(self) -> PackageSources:
        """No index and no network, only the folder."""
        changes = {"UV_OFFLINE": "1"}
        if self.pythons is not None:
            changes["UV_PYTHON_INSTALL_MIRROR"] = self.pythons.as_uri()
        return PackageSources(
            default=None,
            indexes=(),
            find_links=(Source("find-links", self.folder.as_uri(), "bnbenv"),),
            pytorch_base="",
            network=Network(OPTION, changes=changes),
            no_index=True,
        )

    def here(self, locked: Locked) -> Locked:
        """A lock with these files in place of the addresses that it names."""
        files = self.files[locked.decision.env]
        return dataclasses.replace(
            locked,
            text=installable(locked, files),
            hashes={name: frozenset({one.sha256}) for name, one in files.items()},
            files={name: (one,) for name, one in files.items()},
        )

    def row(self, locked: Locked) -> tuple[BitsandbytesWheel | None, str]:
        """The row of a compiled bitsandbytes, measured now; None where it cannot be read, and why."""
        from bnbenv.errors import BnbenvError
        from bnbenv.matrix.measure import measure_bitsandbytes
        from bnbenv.matrix.wheel import local_wheel

        self.unpack(locked.decision.env, "bitsandbytes")
        file = self.files[locked.decision.env]["bitsandbytes"]
        try:
            with local_wheel(Path(file.place)) as opened:
                if opened.sha256 not in locked.hashes["bitsandbytes"]:
                    return None, "the bitsandbytes of the bundle is not the wheel that was locked"
                return measure_bitsandbytes(opened), ""
        except (BnbenvError, OSError) as error:
            return None, f"the bitsandbytes of the bundle cannot be read ({error})"


def installable(locked: Locked, files: Mapping[str, LockedFile]) -> str:
    """A PEP 751 document that installs a lock's packages from files on a disk. Pure.

    ``place`` of each is a path, which may be relative to the document.
    """
    lines = ['lock-version = "1.0"', 'created-by = "bnbenv"', f'requires-python = ">={_python(locked)}"']
    for name, version in sorted(locked.packages.items()):
        one = files[name]
        place, digest = json.dumps(one.place), f'{{ sha256 = "{one.sha256}" }}'
        lines += ["", "[[packages]]", f"name = {json.dumps(name)}"]
        lines += [f"version = {json.dumps(version)}"] if version else []
        lines.append(f"wheels = [{{ path = {place}, hashes = {digest} }}]")
    return "\n".join([*lines, ""])


def _python(locked: Locked) -> str:
    return locked.decision.solution.choice.python
