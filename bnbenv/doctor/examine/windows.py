"""On Windows: where Microsoft's runtime libraries and build tools are, told by files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from bnbenv.doctor.examine.layout import Layout
from bnbenv.doctor.model import Windows
from bnbenv.paths import Sysroot

RUNTIMES = ("vcruntime140.dll", "vcruntime140_1.dll", "msvcp140.dll")
MOST = 64  # folders of PATH that are looked into

_EDITIONS = ("BuildTools", "Community", "Professional", "Enterprise")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def read_windows(layout: Layout | None, torch: Path | None, environ: Mapping[str, str], root: Sysroot) -> Windows:
    """The runtime libraries as a process of this Python finds them, and the newest build tools for C++.

    Looked into in the order of the loader: the folder of the interpreter, those that torch adds, System32, PATH.
    """
    listings = [(folder, _names(folder)) for folder in _folders(layout, torch, environ, root)]
    runtimes: dict[str, str | None] = {}
    for name in RUNTIMES:
        runtimes[name] = next((str(folder / names[name]) for folder, names in listings if name in names), None)
    return Windows(runtimes=runtimes, build_tools=_build_tools(environ, root))


def _folders(layout: Layout | None, torch: Path | None, environ: Mapping[str, str], root: Sysroot) -> Iterator[Path]:
    if layout is not None:
        if layout.python is not None:
            yield layout.python.parent
        for prefix in dict.fromkeys((layout.prefix, layout.base)):
            yield _below(str(prefix), root)
            yield _below(str(prefix), root) / "Library" / "bin"
    if torch is not None:
        yield torch / "lib"
    yield root.path(f"{_slashes(_of(environ, 'SystemRoot', 'C:/Windows'))}/System32")
    for entry in _of(environ, "PATH", "").split(";")[:MOST]:
        if _DRIVE.match(entry):
            yield _below(entry, root)


def _build_tools(environ: Mapping[str, str], root: Sysroot) -> str | None:
    """The newest cl.exe of Visual Studio or its Build Tools, by where their installer puts it."""
    found = []
    for variable, usual in (("ProgramFiles(x86)", "C:/Program Files (x86)"), ("ProgramFiles", "C:/Program Files")):
        studio = root.path(f"{_slashes(_of(environ, variable, usual))}/Microsoft Visual Studio")
        for year in _names(studio).values():
            for edition in _EDITIONS:
                tools = studio / year / edition / "VC" / "Tools" / "MSVC"
                for version in _names(tools).values():
                    for host in ("Hostx64/x64", "Hostarm64/arm64"):
                        compiler = tools / version / "bin" / host / "cl.exe"
                        if compiler.is_file():
                            found.append(([int(number) for number in re.findall(r"\d{1,9}", version)], str(compiler)))
    return max(found)[1] if found else None


def _of(environ: Mapping[str, str], name: str, usual: str) -> str:
    """A variable, whose name Windows takes in any case."""
    return next((value for key, value in environ.items() if key.upper() == name.upper() and value), usual)


def _below(path: str, root: Sysroot) -> Path:
    return root.path(_slashes(path)) if _DRIVE.match(path) else Path(path)


def _slashes(path: str) -> str:
    return path.replace("\\", "/").rstrip("/")


def _names(folder: Path) -> dict[str, str]:
    """The names in a folder by their lower-case form, which is all that Windows looks at."""
    try:
        return {name.lower(): name for name in os.listdir(folder)}
    except OSError:
        return {}
