"""CUDA 13 toolkits, CMake and Ninja out of packages, each in an environment of its own in the user's data.

``toolchains/x86_64/cu130/`` is an environment (``cu130-cusparse`` one with cuSPARSE), ``cu130.json`` beside it the
record that says it is complete and names every file of it with its size. The record goes first and comes last: what has
none, or lacks a file, is made anew. A home folder may be shared by machines of several kinds.
"""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import NamedTuple

import msgspec

from bnbenv.build.held import held
from bnbenv.build.ports import Ports
from bnbenv.build.toolkit import look_at, nvcc_version, release_of, targets_of
from bnbenv.errors import BnbenvError, Failed, NoCombination, SourceUnreachable
from bnbenv.matrix.model import Matrix
from bnbenv.paths import exists, write_atomically
from bnbenv.progress import during

SCHEMA = "bnbenv.toolchain/1"
WAIT = 1800.0  # seconds for another bnbenv that makes the same: a gigabyte over a slow line
FIRST = 13  # the first major whose packages hold a compiler; those of CUDA 12 hold ptxas alone

_PARTS = ("nvcc", "cudart", "cublas", "cccl", "crt")
_EXTRA_PARTS = {"cusparse": ("cusparse", "nvjitlink")}
_TOOLS = "tools"
_ELSEWHERE = "Look at what the package index serves, or install that toolkit: CUDA_HOME"


class Record(msgspec.Struct, frozen=True):
    """An environment that is complete. ``files`` maps the path of each file in it to its size in bytes.

    ``root`` is the toolkit's folder in it, ``nvcc`` its compiler's version, ``sass`` what it compiles for; all empty
    for CMake and Ninja.
    """

    requirements: tuple[str, ...]
    files: dict[str, int]
    root: str = ""
    nvcc: str = ""
    sass: tuple[str, ...] = ()
    schema: str = SCHEMA


class Packaged(NamedTuple):
    """A toolkit from packages that is complete. ``nvcc`` is its version, ``sass`` what it compiles for."""

    root: Path
    nvcc: str
    sass: tuple[str, ...]


class Tools(NamedTuple):
    """The programs that drive a build."""

    cmake: str
    ninja: str


class Kept(NamedTuple):
    """An environment that is kept for later builds, complete or not. ``used`` is in seconds since the epoch."""

    name: str
    folder: Path
    record: Path
    used: float


def requirements(cuda: str, extras: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The packages of a toolkit's release (``13.0``)."""
    parts = (*_PARTS, *(part for extra in extras for part in _EXTRA_PARTS[extra]))
    return (f"cuda-toolkit[{','.join(parts)}]=={cuda}.*",)


def can_hold(cuda: str) -> bool:
    """Whether packages of that release hold a compiler at all."""
    return int(cuda.split(".")[0]) >= FIRST


def kept_toolkit(cuda: str, home: Path, extras: tuple[str, ...] = ()) -> Packaged | None:
    """A toolkit that is there, whole, with these extras; None where there is none. It takes a few milliseconds."""
    name = _name(cuda, extras)
    folder, record = _folder(home, name), _read(_record(home, name))
    if record is None:
        return None
    root = folder / record.root
    return Packaged(root, record.nvcc, record.sass) if _whole(folder, record) and exists(root / "lib64") else None


def kept_tools(home: Path) -> Tools | None:
    """CMake and Ninja, if they are there, whole."""
    record = _read(_record(home, _TOOLS))
    folder = _folder(home, _TOOLS)
    return _tools(folder) if record is not None and _whole(folder, record) else None


def get_toolkit(
    cuda: str, ports: Ports, matrix: Matrix, machine: str, extras: tuple[str, ...] = (), wait: float = WAIT
) -> Packaged:
    """The same, made if need be. Raises NoCombination (``no-toolkit``), SourceUnreachable, Failed, Busy, OSError."""
    name, what = _name(cuda, extras), f"the compiler of CUDA {cuda}"
    with held(_folder(ports.home, f"{name}.lock"), what, wait, ports.progress):
        found = kept_toolkit(cuda, ports.home, extras)
        if found is None:
            ports.progress.say(f"getting {what} from packages (1 GB or more, kept for later builds)")
            with during(ports.progress, f"getting {what}"):
                found = _made_toolkit(cuda, ports, matrix, machine, extras)
        os.utime(_record(ports.home, name))
        return found


def _made_toolkit(cuda: str, ports: Ports, matrix: Matrix, machine: str, extras: tuple[str, ...]) -> Packaged:
    name, asked = _name(cuda, extras), requirements(cuda, extras)
    folder = _folder(ports.home, name)
    _make(ports, name, asked, f"the packages of CUDA {cuda}'s compiler")
    root = _complete(folder)
    look = look_at(root, machine, extras)
    if look.missing:
        message = f"the packages of CUDA {cuda} do not hold all that a build needs: {', '.join(look.missing)}"
        raise Failed("bad-toolkit", message, _ELSEWHERE)
    version = nvcc_version(look.nvcc, ports.runner)
    if release_of(version) != cuda:
        raise Failed("bad-toolkit", f"the packages of CUDA {cuda} hold the compiler of CUDA {version}", _ELSEWHERE)
    sass = targets_of(root, cuda, matrix, ports.runner)
    _write(ports, name, Record(asked, _files(folder), root.relative_to(folder).as_posix(), version, sass))
    return Packaged(root, version, sass)


def get_tools(ports: Ports, wait: float = WAIT) -> Tools:
    """CMake and Ninja, made if need be. Raises SourceUnreachable, NoCombination, Failed, Busy, OSError."""
    with held(_folder(ports.home, f"{_TOOLS}.lock"), "CMake and Ninja", wait, ports.progress):
        tools = kept_tools(ports.home)
        if tools is None:
            folder = _folder(ports.home, _TOOLS)
            with during(ports.progress, "getting CMake and Ninja"):
                _make(ports, _TOOLS, ("cmake", "ninja"), "CMake and Ninja")
                tools = _tools(folder)
            _write(ports, _TOOLS, Record(("cmake", "ninja"), _files(folder)))
        os.utime(_record(ports.home, _TOOLS))
        return tools


def kept(home: Path) -> tuple[Kept, ...]:
    """All that is kept, for who wants to delete it: the record first, then the folder, while nobody holds its lock."""
    found = []
    # What begins with a dot is left of a write that was killed, and names nothing.
    names = {path.name.split(".")[0] for path in _folder(home, "").glob("*") if not path.name.startswith(".")}
    for name in sorted(names):
        folder, record = _folder(home, name), _record(home, name)
        try:
            used = max(path.lstat().st_mtime for path in (folder, record) if os.path.lexists(path))
        except (OSError, ValueError):
            continue
        found.append(Kept(name, folder, record, used))
    return tuple(found)


def _name(cuda: str, extras: tuple[str, ...]) -> str:
    """Each set of extras has an environment of its own: none is changed while another bnbenv may compile with it."""
    return "-".join((f"cu{cuda.replace('.', '')}", *sorted(extras)))


def _folder(home: Path, name: str) -> Path:
    return home / "toolchains" / platform.machine() / name


def _record(home: Path, name: str) -> Path:
    return _folder(home, f"{name}.json")


def _read(path: Path) -> Record | None:
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return None
    return record if record.schema == SCHEMA else None


def _whole(folder: Path, record: Record) -> bool:
    base = str(folder)
    try:
        # One call for each of some two thousand files: os.stat on text costs a fifth of pathlib's.
        return all(os.stat(f"{base}/{name}").st_size == size for name, size in record.files.items())  # noqa: PTH116
    except (OSError, ValueError):
        return False


def _make(ports: Ports, name: str, asked: tuple[str, ...], what: str) -> None:
    """The environment, without a record. Raises as ``get_toolkit``."""
    _record(ports.home, name).unlink(missing_ok=True)
    folder = _folder(ports.home, name)
    try:
        ports.packages.environment(folder, asked)
    except NoCombination as error:
        if ports.offline is not None:
            message = f"{what} were not downloaded before, and the network is switched off ({ports.offline})"
            raise SourceUnreachable("offline", message, "Switch it on, then run it again.", error.detail) from None
        step = "Name an index that has them, in bnbenv.toml, uv.toml or pip.conf; or install that toolkit: CUDA_HOME"
        raise NoCombination("no-toolkit", f"no package source offers {what}", step, error.detail) from None
    except BnbenvError as error:
        if error.code == "no-space":
            error.next_step = f"Free some space for {folder.parent}, or set BNBENV_HOME to a larger disk."
        shutil.rmtree(folder, ignore_errors=True)  # a disk that is full gets it back
        raise


def _complete(folder: Path) -> Path:
    """The toolkit's folder, with the names that nvcc and CMake look for and the packages do not have."""
    nvcc = next(iter(sorted(folder.glob("lib/python3*/site-packages/nvidia/cu*/bin/nvcc"))), None)
    if nvcc is None:
        raise Failed("bad-toolkit", "the packages hold no nvcc", _ELSEWHERE)
    root = nvcc.parent.parent
    library = root / "lib"
    for path in sorted(library.glob("lib*.so.*")):
        plain = library / f"{path.name.partition('.so.')[0]}.so"
        if not os.path.lexists(plain):
            plain.symlink_to(path.name)
    if not os.path.lexists(root / "lib64"):
        (root / "lib64").symlink_to("lib")
    return root


def _files(folder: Path) -> dict[str, int]:
    """What a build uses, with its sizes: no bytecode, which any Python may write, and no link to the Python itself."""
    found = {}
    for place, folders, names in os.walk(folder):
        if "__pycache__" in folders:
            folders.remove("__pycache__")
        for name in names:
            path = Path(place, name)
            if not (path.is_symlink() and path.parent == folder / "bin"):
                found[path.relative_to(folder).as_posix()] = path.stat().st_size
    return found


def _write(ports: Ports, name: str, record: Record) -> None:
    write_atomically(_record(ports.home, name), msgspec.json.encode(record))


def _tools(folder: Path) -> Tools:
    """The programs themselves: what lies in ``bin`` may be a script that starts a Python first."""
    cmake = next(folder.glob("lib/python3*/site-packages/cmake/data/bin/cmake"), folder / "bin" / "cmake")
    return Tools(str(cmake), str(folder / "bin" / "ninja"))
