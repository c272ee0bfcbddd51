"""Inputs that are simple and large, and so find what takes a time or a memory that grows with the square."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

from .edits import SECRET
from .oracle import Target

_PIECES = (b"\0", b"9", b"a", b"[", b"{", b'{"a":', b"\n", b"a.", b'"', b" ", b"://a:", b"a=1\n", b"GPU-,", b"\xff")
_PIECES += (f"https://me:{SECRET}@".encode(), b"[a]\n", b"{a=", b"0.", b"<a>", b"- ", b"error: ", b"\\")


def large(target: Target, size: int) -> Iterator[bytes]:
    """Some inputs of about ``size`` bytes."""
    for piece in _PIECES:
        yield piece * (size // len(piece))
    for seed in target.seeds[:3]:
        yield seed * (size // (len(seed) or 1))
        yield seed + bytes(size)
        middle = len(seed) // 2
        for piece in (b"9", b"[", b"a.", b"\n"):
            yield seed[:middle] + piece * (size // len(piece)) + seed[middle:]
    if target.kind == "zip":
        yield _zip({"torch-2.dist-info/METADATA": bytes(size * 500)})
        yield _zip({f"bitsandbytes/libbitsandbytes_cuda{n}.so": b"\x7fELF" + bytes(300) for n in range(size // 400)})


def _zip(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()
