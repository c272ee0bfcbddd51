"""The drift guard of an environment: says in a line, when bitsandbytes (or what else the environment is for) is
imported, what was changed behind its lock.

Written by bnbenv, which it does not need; ``bnbenv guard off`` takes it away. It never raises: whatever goes wrong in
it, the import goes on as if it were not there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import threading
from pathlib import Path
from typing import Any

# ``env``, ``lock`` (its file's name), ``imports`` (the modules that are watched, with their packages), and
# ``packages``: of each its version, the size of its RECORD, and its files with [size, time in seconds]. bnbenv writes
# the values here.
LOCKED: dict[str, Any] = {}

_asking: set[int] = set()  # threads that ask the other finders right now
_said: list[str] = []  # once a process


def find_spec(guard: object, site: str, name: str, path: Any, target: Any) -> Any:
    """The spec of a module as the other finders give it, with a loader that tells when the module is made.

    To be looked for is not to be imported: transformers asks only whether it is there.
    """
    thread = threading.get_ident()
    if _said or thread in _asking:  # other import hooks ask all finders, this one among them
        return None
    _asking.add(thread)
    try:
        for finder in sys.meta_path:
            find = None if finder is guard else getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find else None
            if spec is not None:
                with contextlib.suppress(AttributeError, TypeError):  # a loader of another kind is not watched
                    _watch(spec, Path(site))
                return spec
        return None
    finally:
        _asking.discard(thread)


def _watch(spec: Any, site: Path) -> None:
    """Not by running the module from here: what fails in it has to show the same traceback as ever."""
    loader = spec.loader
    make = loader.create_module

    def create_module(wanted: Any) -> Any:
        loader.__dict__.pop("create_module", None)
        with contextlib.suppress(Exception):
            if not _said:
                _said.append(wanted.name)
                _say(site, wanted.name, spec.origin)
        return make(wanted)

    loader.create_module = create_module


def _say(site: Path, module: str, origin: str | None) -> None:
    changes = changes_in(site) or _elsewhere(site, module, origin)
    if changes and sys.stderr is not None:
        shown = "; ".join(changes[:3]) + (f" and {len(changes) - 3} more" if changes[3:] else "")
        what = f"bnbenv: environment {LOCKED['env']} was changed behind {LOCKED['lock']}: {shown}"
        sys.stderr.write(f"{what} (what that breaks: bnbenv doctor; to put it right: bnbenv sync)\n")
        sys.stderr.flush()


def changes_in(site: Path) -> list[str]:
    """What differs in site-packages from what was installed, each in a few words."""
    changes = []
    listed = {entry.name for entry in site.iterdir()}
    installed = [name[: -len(".dist-info")].partition("-") for name in listed if name.endswith(".dist-info")]
    for package, locked in LOCKED["packages"].items():
        was, now = locked["version"], sorted(version for name, _, version in installed if name.lower() == package)
        if now == [was]:
            record = _stamp(site, f"{package}-{was}.dist-info/RECORD")
            if record is None or locked["record"] not in (None, record[0]):
                changes.append(f"{package} {was} was installed anew")
        elif now:
            changes.append(f"{package} was {was} and is {' and '.join(now)}")
        elif package in listed:
            changes.append(f"{package} was {was} and its metadata (dist-info) is gone")
        else:
            changes.append(f"{package} was {was} and is gone")
    return changes or _changed_files(site)


def _changed_files(site: Path) -> list[str]:
    """Files of another size or time. Where all have another time and none another size, the environment was copied."""
    changes, touched, same = [], [], 0
    for locked in LOCKED["packages"].values():
        for name, (size, time) in locked["files"].items():
            now = _stamp(site, name)
            if now is None:
                changes.append(f"{name} is gone")
            elif now[0] != size:
                changes.append(f"{name} had {size} bytes and has {now[0]}")
            elif now[1] != time:
                touched.append(f"{name} was replaced")
            else:
                same += 1
    return [*changes, *touched] if same else changes


def _elsewhere(site: Path, module: str, origin: str | None) -> list[str]:
    """Packages that an import takes from another folder: PYTHONPATH, or the user's own site-packages."""
    torch = importlib.util.find_spec("torch") if module != "torch" else None
    changes = []
    for package, file in (("torch", torch.origin if torch else None), (LOCKED["imports"][module], origin)):
        folder = Path(file).parent.parent if file else site
        if folder.is_absolute() and not folder.samefile(site):
            changes.append(f"{package} was {LOCKED['packages'][package]['version']} and is taken from {folder}")
    return changes


def _stamp(site: Path, name: str) -> tuple[int, int] | None:
    """Size and time of a file, to the second: archives and images keep no more. None where there is none."""
    try:
        found = (site / name).stat()
    except OSError:
        return None
    return found.st_size, int(found.st_mtime)
