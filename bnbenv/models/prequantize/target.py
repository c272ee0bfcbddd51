"""Where the result may go, and whether it fits there. Nothing is written here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bnbenv.errors import Failed, UsageError
from bnbenv.models.prequantize.note import NOTE, Note, others, read_note
from bnbenv.models.prequantize.order import Order
from bnbenv.progress import shown_size

SMALL = 64 << 20  # bytes kept free beside the weights: tokenizer, index, journal


def check_target(order: Order) -> Note | None:
    """The note of a checkpoint that lies at OUT already and that an earlier run made; None where nothing is there.

    Raises UsageError where it may not go there. What an earlier run made is the caller's to replace or to keep.
    """
    out, model = order.out, Path(os.path.realpath(order.model))
    parent = out.parent
    for path in (order.model, out):
        if not is_text(str(path)):
            message = f"the path {str(path)!a} is no UTF-8, in which checkpoints name their files"
            raise UsageError("bad-name", message, "Rename that folder, or make a link to it with a plain name.")
    if not out.name or not parent.is_dir():
        step = f"Make it with: mkdir -p '{parent}'" if out.name else "Name the folder to write, such as: model-nf4"
        raise UsageError("no-folder", f"{parent} is no folder" if out.name else "OUT names no folder", step)
    real = Path(os.path.realpath(parent)) / out.name
    if real == model or model in real.parents:
        raise UsageError("inside-model", f"{out} is the model's own folder or lies in it", _ELSEWHERE)
    if real in model.parents:
        raise UsageError("around-model", f"the model lies in {out}", _ELSEWHERE)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError("no-permission", f"{parent} cannot be written to by this user", _ELSEWHERE)
    if not os.path.lexists(out):
        return None
    if out.is_symlink() or not out.is_dir():
        raise UsageError("in-the-way", f"{out} is there and is no folder", _ELSEWHERE)
    return _there(out)


def is_text(name: str) -> bool:
    """Whether a name can be written down in a JSON text; file systems take any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _there(out: Path) -> Note | None:
    try:
        if not any(out.iterdir()):
            return None
        note = read_note(out)
        more = others(out, note) if note else []
    except OSError as error:
        raise UsageError("not-readable", f"{out}: {(error.strerror or '').lower()}", _ELSEWHERE) from None
    if note is None:
        raise UsageError("in-the-way", f"{out} holds files that bnbenv did not write", _ELSEWHERE)
    if more:
        named = ", ".join(more[:3]) + (f" and {len(more) - 3} more" if len(more) > 3 else "")
        message = f"{out} holds more than was written into it: {named}"
        raise UsageError("in-the-way", message, f"Move that away, or name another folder (what was written: {NOTE}).")
    return note


def check_room(out: Path, needed: int, there: int) -> None:
    """``needed`` bytes in all, of which ``there`` are finished. Raises Failed (``no-space``) with the numbers."""
    free = shutil.disk_usage(out.parent).free
    if needed + SMALL - there > free:
        raise no_space(out, needed, there)


def no_space(out: Path, needed: int, there: int) -> Failed:
    """The error about a disk that is full, or would be."""
    free = shutil.disk_usage(out.parent).free
    done = f" ({shown_size(there)} of it done)" if there else ""
    message = (
        f"no space for {out}: it takes {shown_size(needed)}{done} and {shown_size(SMALL)} to spare, and"
        f" {shown_size(free)} are free in {out.parent}"
    )
    if needed + SMALL - there <= free:  # of a disk that says that it is full
        message += "; there may be no room for more files (df -i), or a quota may be used up"
    kept = " It goes on where it stopped." if there else ""
    return Failed("no-space", message, f"Free some space there, or name a folder on another disk.{kept}")


_ELSEWHERE = "Name another folder for the result."
