"""What is asked for, and what a checkpoint was made from: equal jobs give the same files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from bnbenv.errors import UsageError
from bnbenv.models.model import Quantization

Quant = Literal["nf4", "fp4", "int8"]
DTYPES = ("bfloat16", "float16", "float32")
SMALLEST_SHARD = 100_000

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*(?:([KMGT])(i?)B?|B)?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,4})?")


class Order(msgspec.Struct, frozen=True):
    """What the user wants. ``model`` is the folder with the checkpoint, ``source`` its name as the user gave it.

    ``dtype`` None is what ``from_pretrained`` of that release loads in by itself, ``skip`` None its own choice of
    modules that stay as they are. ``shard_bytes`` is the most that a file of the result has.
    """

    source: str
    model: Path
    out: Path
    quant: Quant = "nf4"
    double_quant: bool = True
    compute_dtype: str = "bfloat16"
    dtype: str | None = None
    skip: tuple[str, ...] | None = None
    shard_bytes: int = 5_000_000_000
    device: str = "cpu"
    trust_remote_code: bool = False
    force: bool = False
    limit: float | None = None

    @property
    def quantization(self) -> Quantization:
        if self.quant == "int8":
            return "int8"
        if self.quant == "nf4":
            return "nf4-double" if self.double_quant else "nf4"
        return "fp4-double" if self.double_quant else "fp4"

    def options(self) -> dict[str, object]:
        """Those that change the bytes of the result."""
        return {
            "quant": self.quant,
            "double_quant": self.double_quant and self.quant != "int8",
            "compute_dtype": self.compute_dtype,
            "dtype": self.dtype,
            "skip": None if self.skip is None else list(self.skip),
            "shard_bytes": self.shard_bytes,
            "device": self.device.partition(":")[0],
            "trust_remote_code": self.trust_remote_code,
        }


class Source(msgspec.Struct, frozen=True):
    """A file of the checkpoint that is read. ``digest`` is the sha256 of its header, or of all of a small file."""

    bytes: int
    mtime_ns: int
    digest: str


class Job(msgspec.Struct, frozen=True):
    """What the bytes of the result depend on."""

    options: Mapping[str, object]
    sources: Mapping[str, Source]
    packages: Mapping[str, str]
    script: int = 1  # raised when the script writes other bytes for the same job


def difference(before: Job, now: Job) -> str | None:
    """What the one before had, in words ("other options (quant)"); None: they are equal. Pure."""
    changed = [name for name in sorted({*before.sources, *now.sources}) if _differs(before.sources, now.sources, name)]
    if changed:
        return f"another checkpoint ({_some(changed)})"
    changed = [name for name in now.options if before.options.get(name) != now.options[name]]
    if changed or before.script != now.script:
        return f"other options ({_some(changed)})" if changed else "another bnbenv"
    changed = [
        f"{name} {before.packages.get(name, 'none')}, now {now.packages.get(name, 'none')}"
        for name in sorted({*before.packages, *now.packages})
        if _differs(before.packages, now.packages, name)
    ]
    return f"other packages ({_some(changed)})" if changed else None


def _differs(before: Mapping[str, object], now: Mapping[str, object], name: str) -> bool:
    return before.get(name) != now.get(name)


def _some(words: list[str], most: int = 3) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def read_size(text: str, option: str) -> int:
    """``5GB`` in bytes; GB are powers of 1000 and GiB of 1024, as in transformers' max_shard_size.

    Raises UsageError.
    """
    found = _SIZE.fullmatch(text.strip())
    size = 0
    if found:
        size = int(float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[(found[2] or "").upper()])
    if not SMALLEST_SHARD <= size <= 10**15:
        message = f'{option}: expected a size of 100KB or more such as "5GB", found "{text[:60]}"'
        raise UsageError("bad-size", message, "Try: bnbenv prequantize --help")
    return size


def read_device(text: str) -> str:
    """Raises UsageError."""
    if not _DEVICE.fullmatch(text):
        message = f'--device: expected auto, cpu or cuda:N, found "{text[:60]}"'
        raise UsageError("bad-device", message, "Try: bnbenv prequantize --help")
    return "cuda:0" if text == "cuda" else text


def read_modules(text: str) -> tuple[str, ...]:
    """Names of modules, divided by commas. Raises UsageError."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names or not all(re.fullmatch(r"[A-Za-z0-9_.*\[\]|()^$\\-]{1,200}", name) for name in names):
        message = f'--skip-modules: expected names such as "lm_head,q_proj", found "{text[:60]}"'
        raise UsageError("bad-modules", message, "Try: bnbenv prequantize --help")
    return names
