"""Which DLLs Windows would find for a library that Python opens after torch.

A stand-in for the system's loader by its documented order ("Dynamic-link library search order", Microsoft; ``ctypes``
and ``os.add_dll_directory``, Python): what is loaded goes by its name alone; then the library's own folder, the
interpreter's, System32, and the folders that ``torch/__init__.py`` adds. PATH is not looked at since Python 3.8.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bnbenv.doctor.model import Linked
from bnbenv.errors import Failed
from bnbenv.matrix.installed import mapped
from bnbenv.matrix.pe import read_pe
from bnbenv.paths import Sysroot

SYSTEM = "C:/Windows/System32"
_API_SETS = ("api-ms-win-", "ext-ms-")  # names that Windows resolves by itself


def resolve_dlls(
    library: Path,
    torch: str | None,
    python: str | None,
    prefix: str | None,
    environ: Mapping[str, str],
    sysroot: Sysroot,
) -> tuple[Linked, ...]:
    """What a library needs and, of what lies beside it, what that needs; one that cannot be read needs nothing."""
    # What torch loads at its import, whatever needs it.
    loaded = _listed(Path(torch, "lib")) if torch else {}
    folders = [library.parent]
    folders += [Path(python).parent] if python else []
    folders.append(sysroot.path(SYSTEM))
    folders += [Path(prefix, "Library", "bin"), Path(prefix, "bin")] if prefix else []
    found, queue, seen = list[Linked](), [library], set[str]()
    listings = [_listed(folder) for folder in folders]
    for one in queue:  # grows
        for name in _needed(one):
            if name.lower() in seen:
                continue
            seen.add(name.lower())
            linked = _find(name, str(one), loaded, listings, environ, known_torch=torch is not None)
            found.append(linked)
            if linked.path and Path(linked.path).parent == library.parent:
                queue.append(Path(linked.path))
    return tuple(found)


def _find(
    name: str,
    needed_by: str,
    loaded: Mapping[str, str],
    listings: list[dict[str, str]],
    environ: Mapping[str, str],
    known_torch: bool,
) -> Linked:
    key = name.lower()
    if key.startswith(_API_SETS):
        return Linked(soname=name, needed_by=needed_by, answer="yes", via="windows", because="part of Windows")
    if key in loaded:
        return Linked(soname=name, needed_by=needed_by, answer="yes", path=loaded[key], via="loaded")
    for listing in listings:
        if key in listing:
            return Linked(soname=name, needed_by=needed_by, answer="yes", path=listing[key], via="windows")
    if not any(listings):
        because = "no folder of this system can be read"
        return Linked(soname=name, needed_by=needed_by, answer="unknown", because=because)
    if not known_torch:
        because = "what torch loads is unknown"
        return Linked(soname=name, needed_by=needed_by, answer="unknown", because=because)
    because = "it is neither beside the library, in torch/lib nor in System32"
    parts = [part for part in environ.get("PATH", "").split(";") if part]
    on_path = next((part for part in parts if key in _listed(Path(part))), "")
    if on_path:
        because += f"; it is in {on_path} of PATH, where Python does not look"
    return Linked(soname=name, needed_by=needed_by, answer="no", because=because)


def _needed(library: Path) -> tuple[str, ...]:
    try:
        with mapped(library) as data:
            return read_pe(memoryview(data), library.name).needed
    except (OSError, ValueError, Failed):
        return ()


def _listed(folder: Path) -> dict[str, str]:
    """The files in a folder by their name in small letters, as Windows compares them."""
    try:
        return {name.lower(): str(folder / name) for name in os.listdir(folder)}
    except (OSError, ValueError):
        return {}
