"""What is seen of the packages below an environment, for its record and for ``check``.

Standard library only: the fast path imports this. Folders are listed, and torch's native libraries looked at by size
and time; nothing is read but ``torch/version.py``, and that only where torch has no metadata.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bnbenv.envs.record import observe_files, same_stamp

_VERSION = re.compile(r"^__version__\s*(?::[^=\n]*)?=\s*['\"]([^'\"\n]{1,200})['\"]", re.MULTILINE)
_SHOWN = 4


def observe_base(
    site: str, python: str, where: str, folders: Iterable[str], torch: str, names: Iterable[str]
) -> dict[str, Any]:
    """What a record keeps of the packages below; ``torch`` is the folder of that name, ``names`` those that count."""
    folders = list(folders)
    versions = versions_below(folders, torch)
    return {
        **{"site": site, "python": python, "where": where, "folders": folders, "torch": torch},
        "packages": {name: versions[name] for name in sorted({"torch", *names}) if name in versions},
        "files": _files(folders, torch),
    }


def base_reasons(base: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    """How what lies below differs from what a record says of it (None: nothing does), as codes and sentences:
    ``base-gone`` or ``base-changed``; nothing: it does not."""
    if base is None:
        return ()
    torch, folders = base["torch"], base["folders"]
    if not Path(torch).is_dir():
        return (("base-gone", f"the torch that it lies on is gone ({torch})"),)
    versions = versions_below(folders, torch)
    changes = [
        f"{name} was {before} and is {versions.get(name, 'gone')}"
        for name, before in base["packages"].items()
        if versions.get(name) != before
    ]
    if changes:
        changes.sort(key=lambda change: not change.startswith("torch "))
        more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        return (("base-changed", f"below it, in {base['site']}: {', '.join(changes[:_SHOWN])}{more}"),)
    now = _files(folders, torch)
    files = sorted(name for name, stamp in base["files"].items() if not same_stamp(stamp, now.get(name)))
    if files:
        return (("base-changed", f"the torch that it lies on was replaced ({', '.join(files[:_SHOWN])})"),)
    return ()


def versions_below(folders: Iterable[str], torch: str) -> dict[str, str]:
    """The version of each distribution below, by normalized name; what is found first counts, as in an import."""
    found: dict[str, str] = {}
    for folder in folders:
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for entry in names:
            stem, _, kind = entry.rpartition(".")
            if kind in ("dist-info", "egg-info"):
                name, _, version = stem.partition("-")
                version = version.partition("-py")[0] if kind == "egg-info" else version
                found.setdefault(name.replace("_", "-").replace(".", "-").lower(), version)
    if "torch" not in found:
        said = _VERSION.search(_text(Path(torch) / "version.py"))
        found["torch"] = said[1] if said else "of no known version"
    return found


def _files(folders: Iterable[str], torch: str) -> dict[str, list[int]]:
    """Size and time of torch's native libraries and entry points, and of the RECORD of its installation."""
    place = Path(torch).parent
    files = {name: stamp for name, stamp in observe_files(place).items() if name.startswith("torch/")}
    for folder in folders:
        for record in Path(folder).glob("torch-*.dist-info/RECORD"):
            try:
                stat = record.stat()
            except OSError:
                continue
            files[f"{record.parent.name}/RECORD"] = [stat.st_size, stat.st_mtime_ns]
    return files


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
