"""What lies in the place of a file of a checkpoint: a pointer of Git LFS, a web page, another format. Pure."""

from __future__ import annotations

from typing import NamedTuple

HEAD = 512  # bytes of a file that are looked at


class Mistaken(NamedTuple):
    """``what`` goes after "is", ``step`` is what to do."""

    code: str
    what: str
    step: str


_AGAIN = "Download it again."
_PICKLE = Mistaken(
    "pickled-weights",
    "a PyTorch pickle and no safetensors file; pickles can run code and are not opened",
    "Take the model's safetensors files, or convert it: load it with transformers and call save_pretrained.",
)
_FORMATS: tuple[tuple[bytes, Mistaken], ...] = (
    (b"GGUF", Mistaken("gguf", "a GGUF file of llama.cpp", "Take the model's safetensors files.")),
    (b"PK\x03\x04", _PICKLE),
    (b"\x80\x02", _PICKLE),
    (b"\x1f\x8b", Mistaken("not-safetensors", "a gzip archive", "Unpack it.")),
)


def mistaken(head: bytes, weights: bool = True) -> Mistaken | None:
    """What a file is by its first bytes, if it is known to be something else than it should be.

    ``weights``: it should be safetensors; else text.
    """
    if not head:
        return Mistaken("empty-file", "empty", _AGAIN)
    if head.startswith(b"version https://git-lfs"):
        return Mistaken(
            "lfs-pointer",
            "a pointer of Git LFS, not the file itself",
            "Run git lfs pull in the folder (git lfs install before, if git does not know it).",
        )
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return Mistaken("web-page", "a web page, as a server sends with an error or a login", _AGAIN)
    if not weights:
        return None
    if head.startswith(b"{"):
        return Mistaken("not-safetensors", "a JSON text and no safetensors file", _AGAIN)
    if not head.strip(b"\0"):
        return Mistaken("cut-off", "filled with zeros: the download was cut off", _AGAIN)
    return next((kind for magic, kind in _FORMATS if head.startswith(magic)), None)
