"""What a checkpoint is made from, as it lies on the disk: whether it is still the same can be asked again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from bnbenv.models.model import Checkpoint, CheckpointError
from bnbenv.models.prequantize.order import Source

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
_HEADER = 8  # bytes that say how long the header is
_LONGEST = 100_000_000  # bytes of a header, by safetensors' own limit


def check(source: str, checkpoint: Checkpoint, code: bool) -> None:
    """Raises CheckpointError where it is clear from the headers alone that nothing can be made of a checkpoint.

    ``source`` is its name as the user gave it, ``code`` whether its own code may be run.
    """
    config = checkpoint.config
    if config.quantization is not None:
        method = str(config.quantization.get("quant_method") or "another method")[:60]
        if method == "bitsandbytes":
            step = "Load it as it is: from_pretrained needs no BitsAndBytesConfig for it."
        else:
            step = "Take the original, in 16 or 32 bit."
        raise CheckpointError("quantized-already", f"{source} is quantized already ({method})", step)
    if checkpoint.tensors is None:
        message = f"{source} has a config.json and no weights in safetensors files"
        raise CheckpointError("no-weights", message, "Download those too, or name the folder that holds them.")
    if config.remote_code and not code:
        message = f"{source} comes with code of its own, which is not run unless you ask for it"
        raise CheckpointError("remote-code", message, "Read that code; then add: --trust-remote-code")


def sources(folder: Path, checkpoint: Checkpoint, code: bool) -> dict[str, Source]:
    """Each file that the result depends on. ``code``: the checkpoint's own modules too. Raises CheckpointError."""
    names = [*checkpoint.files, CONFIG, *(name for name in (INDEX,) if (folder / name).exists())]
    if code:
        names += sorted(path.name for path in folder.glob("*.py"))
    return {name: _source(folder / name, whole=name not in checkpoint.files) for name in names}


def changed(folder: Path, before: dict[str, Source], checkpoint: Checkpoint) -> list[str]:
    """The names of files that are not what they were. Raises nothing: what cannot be read has changed."""
    return [name for name, one in before.items() if _now(folder / name, name not in checkpoint.files) != one]


def sha256(path: Path) -> str:
    """Of a whole file. Raises OSError."""
    with path.open("rb") as stream:
        return _digest(iter(lambda: stream.read(1 << 20), b""))


def _now(path: Path, whole: bool) -> Source | None:
    try:
        return _source(path, whole)
    except CheckpointError:
        return None


def _source(path: Path, whole: bool) -> Source:
    try:
        with path.open("rb") as stream:
            stat = path.stat()
            if whole:
                digest = _digest(iter(lambda: stream.read(1 << 20), b""))
            else:
                first = stream.read(_HEADER)
                length = min(int.from_bytes(first, "little"), _LONGEST)
                digest = _digest([first, stream.read(length)])
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError("unreadable-checkpoint", f"{path} cannot be read ({reason})") from None
    return Source(stat.st_size, stat.st_mtime_ns, digest)


def _digest(pieces: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()
