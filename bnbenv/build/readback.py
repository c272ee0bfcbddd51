"""What was built, read back: it holds what was asked for, or it is not taken."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from collections.abc import Iterable
from pathlib import Path

from bnbenv.errors import Failed
from bnbenv.matrix.elf import exported, run_paths
from bnbenv.matrix.measure import measure_bitsandbytes
from bnbenv.matrix.model import BitsandbytesWheel, NativeLibrary
from bnbenv.matrix.native import read_native
from bnbenv.matrix.wheel import Wheel, local_wheel

_SET_UP = re.compile(r"\blib\.(\w{1,100})\.(?:restype|argtypes)\b")


def entry_points(cextension: str) -> frozenset[str]:
    """The names that the loader of a tree takes from the CUDA library at once, out of the text of its cextension.py.

    Without one of them the import fails (``AttributeError: undefined symbol``).
    """
    return frozenset(_SET_UP.findall(cextension))


def read_cuda(data: bytes, name: str, archs: Iterable[str], entries: frozenset[str]) -> NativeLibrary:
    """The row of a CUDA library. Raises Failed ``not-as-asked``; ``bad-binary``."""
    row, wanted = read_native(data, name), tuple(archs)
    ptx = f"compute_{wanted[-1].removeprefix('sm_')}"
    if set(row.sass) != set(wanted) or row.ptx != (ptx,):
        held = " ".join((*row.sass, *row.ptx)) or "no GPU code"
        raise _other(f"{name} holds {held}, asked were {' '.join((*wanted, ptx))}")
    missing = sorted(entries - exported(data, name))
    if missing:
        raise _other(f"{name} lacks what the loader takes from it: {', '.join(missing[:5])}")
    _check_paths(data, name)
    return row


def read_cpu(data: bytes, name: str) -> NativeLibrary:
    """The row of the CPU library. Raises Failed ``not-as-asked``; ``bad-binary``."""
    _check_paths(data, name)
    return read_native(data, name)


def read_wheel(path: Path, version: str, libraries: Iterable[NativeLibrary]) -> BitsandbytesWheel:
    """The row of the wheel, read from its file as any wheel's is.

    Raises Failed: ``not-as-asked`` where it holds other libraries than these, has another version, or a file that its
    RECORD does not name as it is; ``bad-wheel``; OSError.
    """
    with local_wheel(path) as wheel:
        row = measure_bitsandbytes(wheel)
        if row.version != version:
            raise _other(f"{path.name} is read as version {row.version}")
        if set(row.libraries) != set(libraries):
            raise _other(f"{path.name} holds {', '.join(library.name for library in row.libraries)}")
        _check_record(wheel)
    return row


def _check_record(wheel: Wheel) -> None:
    names = set(wheel.names())
    record = next((name for name in names if name.endswith(".dist-info/RECORD")), None)
    if record is None:
        raise _other(f"{wheel.filename} has no RECORD")
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(wheel.read(record).decode("utf-8")))}
    if set(rows) != names:
        different = ", ".join(sorted(set(rows) ^ names)[:5])
        raise _other(f"the RECORD of {wheel.filename} does not name what is in it: {different}")
    for name in names - {record}:
        data = wheel.read(name)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        if rows[name] != [f"sha256={digest}", str(len(data))]:
            raise _other(f"{name} in {wheel.filename} is not what its RECORD says")


def _check_paths(data: bytes, name: str) -> None:
    found = run_paths(data, name)
    if found:
        raise _other(f"{name} looks for its libraries where they lay when it was compiled: {', '.join(found)}")


def _other(because: str) -> Failed:
    step = "Take a release of bitsandbytes (--ref), or correct the source's CMakeLists.txt."
    return Failed("not-as-asked", f"what was compiled is not what was asked for: {because}", step)
