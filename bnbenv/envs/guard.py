"""The drift guard: two files in an environment, which then says itself that it was changed behind its lock.

``bnbenv-guard.pth`` runs at every interpreter start. It looks at nothing: it only waits, in front of the other finders,
for an import of bitsandbytes (or of what else the environment is for), and then runs ``bnbenv-guard.py``, which
compares what is there with the values of the generation's record that were written into it. No import system runs that
file, so no bytecode of it is left.

Whether an environment has one is a wish in bnbenv.toml (``guard = true`` in ``[envs.NAME]``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bnbenv.envs import generations as gens
from bnbenv.envs.check import in_use
from bnbenv.envs.project import Project, site_packages
from bnbenv.envs.record import PLACES, WATCHED, Record
from bnbenv.errors import BnbenvError
from bnbenv.paths import write_atomically

PTH = "bnbenv-guard.pth"
CODE = "bnbenv-guard.py"

# What is compiled at every start, so it is short: the rest is a text until it is needed. Nothing may fail in it, since
# that would be printed at every start.
_FINDER = """\
class BnbenvGuard:
 def find_spec(self, name, path=None, target=None):
  if name in modules:
   try:
    space = dict(guard=self, name=name, path=path, target=target)
    exec(later, space)
    return space['spec']
   except Exception: pass
sys.meta_path.insert(0, BnbenvGuard())
"""

# site may read a .pth file twice, so the first finder speaks. Each stays where it is when it has spoken: another thread
# may be going through the list.
_LATER = f"""\
import os, sys
spec = None
if guard is next(one for one in sys.meta_path if type(one).__name__ == 'BnbenvGuard'):
    if not hasattr(guard, 'code'):
        site = next(one for one in sys.path if os.path.isfile(os.path.join(one, '{CODE}')))
        with open(os.path.join(site, '{CODE}'), encoding='utf-8') as file:
            code = {{'__name__': 'bnbenv_guard'}}
            exec(compile(file.read(), file.name, 'exec'), code)
        guard.site, guard.code = site, code
    spec = guard.code['find_spec'](guard, guard.site, name, path, target)
"""

# What "on" adds where bnbenv.toml has no table for the environment; "off" takes away just that.
_LINES = "\n[envs.{env}]  # bnbenv guard off takes these two lines away\nguard = true\n"
# What is imported of the packages that environments are for.
_MODULES = {"bitsandbytes": "bitsandbytes", "gptqmodel": "gptqmodel", "auto_gptq": "auto_gptq", "autoawq": "awq"}

_HEAD = "# Written by: bnbenv guard on\n"


def is_there(prefix: Path | None) -> bool:
    """Whether an environment has the guard."""
    site = site_packages(prefix) if prefix else None
    return site is not None and (site / PTH).is_file()


def settle(prefix: Path, env: str, lock: str, record: Record, wished: bool) -> None:
    """Give an environment the guard, with the values of its record, or take it away. Raises OSError.

    ``lock`` is the name of the lock's file. One that was adopted stays as it is.
    """
    site = site_packages(prefix)
    if site is None or record.adopted is not None:
        return
    if not wished:
        return _take_away(site)
    modules = tuple(_imports(record))
    pth = f"import sys; exec({_FINDER!r}, {{'sys': sys, 'modules': {modules!r}, 'later': {_LATER!r}}})\n"
    for name, text in ((CODE, _code(env, lock, record)), (PTH, pth)):  # in this order: the second one reads the first
        if _text(site / name) != text:
            write_atomically(site / name, text)


def state(project: Project, env: str, wished: bool) -> str:
    """``on``, ``off``, or ``pending``: the generation in use, if there is one, is not as bnbenv.toml asks for."""
    if is_there(in_use(project, env).prefix) != wished:
        return "pending"
    return "on" if wished else "off"


def follow(project: Project, env: str) -> None:
    """Have the generation in use as bnbenv.toml asks for. The caller holds the project.

    Where that cannot be read, or the files not be written, all is left as it is: nothing else fails for the guard.
    """
    from bnbenv.envs.wishes import load_wishes

    with contextlib.suppress(BnbenvError, OSError):
        wish, use = load_wishes(project).envs.get(env), in_use(project, env)
        if wish is not None and use.prefix is not None and use.record is not None:
            settle(use.prefix, env, project.lock(env).name, use.record, wish.guard)


def take_away(project: Project, env: str) -> None:
    """Out of every generation of an environment, those of other bnbenvs too. Raises OSError."""
    for generation in gens.generations(project, env):
        site = site_packages(generation.own)
        if site is not None:
            _take_away(site)


def _take_away(site: Path) -> None:
    """Whoever had all of an environment compiled compiled this as well."""
    (site / PTH).unlink(missing_ok=True)
    (site / CODE).unlink(missing_ok=True)
    left = [*site.glob(f".{Path(CODE).stem}.*.part"), *(site / "__pycache__").glob(f"{Path(CODE).stem}.*.pyc")]
    for path in left:
        path.unlink(missing_ok=True)


def _code(env: str, lock: str, record: Record) -> str:
    """The standalone program with what was installed by the record, which is older than any change."""
    from importlib.resources import files  # takes as long to import as all the rest

    source = (files("bnbenv.envs.standalone") / "guard.py").read_text(encoding="utf-8")
    place = "LOCKED: dict[str, Any] = {}\n"
    assert place in source
    locked = {"env": env, "lock": lock, "imports": _imports(record), "packages": _locked(record)}
    return source.replace(place, f"LOCKED: dict[str, Any] = {locked!r}\n")


def _imports(record: Record) -> dict[str, str]:
    """The modules whose import is watched, each with its package."""
    installed = {stem.partition("-")[0] for stem in record.packages}
    return {module: package for package, module in _MODULES.items() if package in installed} or {"torch": "torch"}


def _locked(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for stem in record.packages:
        package, _, version = stem.partition("-")
        if package in WATCHED:
            size = (record.stamps or {}).get(stem, [None])[0]
            own = {name: stamp for name, stamp in record.files.items() if name.startswith(PLACES[package])}
            stamps = {name: [size, nanoseconds // 10**9] for name, (size, nanoseconds) in sorted(own.items())}
            found[package] = {"version": version, "record": size, "files": stamps}
    return found


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def wished(text: str | None, envs: Iterable[str], on: bool) -> str | None:
    """bnbenv.toml (None: there is none) with the guard asked for in some environments, or not; all else as it was.

    It has been read as wishes before. What was added to it is taken away again byte for byte.
    """
    import tomlkit

    if text is not None and text.startswith("\ufeff"):
        return "\ufeff" + (wished(text[1:], envs, on) or "")
    for env in envs:
        lines = _LINES.format(env=env)
        if not on and text is not None and lines in text:
            text = text.replace(lines, "")
            text = None if text == _HEAD else text
            continue
        document = tomlkit.parse(text or "")
        table = document.get("envs", {}).get(env)
        if table is not None and on and table.get("guard") is not True:
            table["guard"] = True
        elif table is not None and not on and "guard" in table:
            del table["guard"]
        elif table is None and on:
            text = (_HEAD if text is None else text) + lines
            continue
        text = text if text is None else tomlkit.dumps(document)
    return text
