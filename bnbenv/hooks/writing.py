"""Putting one file of a hook in its place, looking at it, and taking it away: nothing that is not ours is touched."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import Literal

from bnbenv.errors import Failed
from bnbenv.hooks.kinds import CLOSING, OPENING, OwnFile, is_ours
from bnbenv.paths import write_atomically

State = Literal["as written", "missing", "edited", "older", "not ours"]
Did = Literal["wrote", "added to", "renewed", "unchanged", "removed", "taken out of"]

_BLOCK = re.compile(rf"{OPENING}[^\n]*\n.*?{CLOSING}[^\n]*\n".encode(), re.DOTALL)
_JOINED = f"{OPENING}, after a line without an end".encode()


def digest(file: OwnFile) -> str:
    """Of what is written, as it is kept beside the path: of a link what it leads to."""
    text = f"-> {file.link}" if file.link is not None else file.text
    return hashlib.sha256(text.encode()).hexdigest()


def look(file: OwnFile, recorded: str | None) -> State:
    """How a file stands. ``recorded``: the digest of what was written there; another than ``file`` has is older."""
    found = _found(file)
    if found is None:
        return "missing"
    if found == digest(file):
        return "as written"
    if found == recorded:
        return "older"
    return "edited" if found else "not ours"


def refuse_foreign(file: OwnFile) -> None:
    """Raises Failed where something that is not ours is in the way."""
    if look(file, None) == "not ours" or file.path.is_dir():
        message = f"{file.path} is there and was not written by bnbenv: it is left as it is"
        raise Failed("in-the-way", message, "Move it away, then run it again.")


def put(file: OwnFile) -> Did:
    """Write it in one step. Raises OSError, Failed (something is in the way)."""
    refuse_foreign(file)
    sweep(file.path)
    state = look(file, None)
    if state == "as written":
        if file.link is None and not file.block:
            _set_mode(file)
        return "unchanged"
    if file.link is not None:
        partial = file.path.with_name(f".{file.path.name}.{os.getpid()}.part")
        partial.unlink(missing_ok=True)
        partial.symlink_to(file.link)
        partial.replace(file.path)
    elif file.block:
        before = _bytes(file.path) or b""
        write_atomically(file.path, _with_block(_without_block(before), file.text.encode()))
    else:
        write_atomically(file.path, file.text)
        _set_mode(file)
    if state != "missing":
        return "renewed"
    return "added to" if file.block else "wrote"


def take_away(file: OwnFile, made: bool = False) -> Did | None:
    """Remove it, if it is ours, edited or not. ``made``: a file with a block that was not there before the block was.

    None: there was nothing of ours. Raises OSError.
    """
    sweep(file.path)
    if look(file, None) in ("missing", "not ours"):
        return None
    if file.block:
        rest = _without_block(_bytes(file.path) or b"")
        if rest or not made:
            write_atomically(file.path, rest)
            return "taken out of"
    file.path.unlink(missing_ok=True)
    return "removed"


def sweep(path: Path) -> None:
    """Delete what a bnbenv that was killed while it wrote this file left beside it."""
    with contextlib.suppress(OSError):
        for part in path.parent.glob(f".{path.name}.*.part"):
            if part.name[len(path.name) + 2 : -5].isdecimal():
                part.unlink(missing_ok=True)


def make_folders(path: Path) -> None:
    """Make a folder and those above it, to be entered by everybody, whatever the umask. Raises OSError."""
    for folder in missing_folders(path):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)


def missing_folders(path: Path) -> list[Path]:
    """The folders that have to be made for one, the uppermost first."""
    return [folder for folder in reversed((path, *path.parents)) if not os.path.lexists(folder)]


def _found(file: OwnFile) -> str | None:
    """The digest of what is there; None: nothing, "": something that is not ours."""
    if not os.path.lexists(file.path):
        return None
    if file.link is not None:
        if not file.path.is_symlink():
            return ""
        target = os.readlink(file.path)
        return hashlib.sha256(f"-> {target}".encode()).hexdigest() if Path(target).name == Path(file.link).name else ""
    if file.path.is_symlink() or not file.path.is_file():
        return ""
    data = _bytes(file.path) or b""
    if file.block:
        block = _BLOCK.search(data)
        if block is None:
            return None
        return hashlib.sha256(block[0].replace(_JOINED, OPENING.encode(), 1)).hexdigest()
    return hashlib.sha256(data).hexdigest() if is_ours(data.decode("utf-8", "replace")) else ""


def _set_mode(file: OwnFile) -> None:
    if file.path.stat().st_mode & 0o777 != file.mode:
        file.path.chmod(file.mode)


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _with_block(data: bytes, block: bytes) -> bytes:
    if data and not data.endswith(b"\n"):
        return data + b"\n" + block.replace(OPENING.encode(), _JOINED, 1)
    return data + block


def _without_block(data: bytes) -> bytes:
    found = _BLOCK.search(data)
    if found is None:
        return data
    start = found.start() - (1 if found[0].startswith(_JOINED) else 0)
    return data[: max(start, 0)] + data[found.end() :]
