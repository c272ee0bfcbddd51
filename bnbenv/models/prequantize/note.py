"""The note in a checkpoint that was made: from what, with what, and what its files were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from bnbenv.models.prequantize.order import Job

NOTE = "bnbenv-prequantize.json"
SCHEMA = "bnbenv.prequantized/1"


class File(msgspec.Struct, frozen=True):
    """A file of the result."""

    bytes: int
    sha256: str


class Note(msgspec.Struct, frozen=True):
    """``source`` is the name that the user gave, ``revision`` the commit of the hub where one is known.

    ``bnbenv`` is the version that made it. ``files`` are all but this note itself.
    """

    source: str
    revision: str | None
    bnbenv: str
    created: str
    quantization: str
    dtype: str
    job: Job
    files: Mapping[str, File]
    tensors: Mapping[str, int]
    schema: str = SCHEMA


def read_note(folder: Path) -> Note | None:
    """The note of a folder; None where there is none, or it cannot be read."""
    if not (folder / NOTE).is_file():  # opening a pipe would not come back
        return None
    try:
        note = msgspec.json.decode((folder / NOTE).read_bytes(), type=Note)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return note if note.schema == SCHEMA else None


def others(folder: Path, note: Note) -> list[str]:
    """What lies in a folder beside what was written into it. Raises OSError."""
    known = {*note.files, NOTE}
    within = {name.partition("/")[0] for name in known if "/" in name}
    found: list[str] = []
    for path in folder.iterdir():
        if path.name in within and path.is_dir() and not path.is_symlink():
            found += [f"{path.name}/{one.name}" for one in path.iterdir()]
        else:
            found.append(path.name)
    return sorted(name for name in found if name not in known)


def complete(folder: Path, note: Note) -> bool:
    """Whether all files are there in their sizes."""
    try:
        return all((folder / name).stat().st_size == one.bytes for name, one in note.files.items())
    except OSError:
        return False


def encode(note: Note) -> bytes:
    return msgspec.json.format(msgspec.json.encode(note), indent=1) + b"\n"
