"""The doctor's reading of error texts: any bytes give an answer that a document can hold."""

from __future__ import annotations

import io

import msgspec

from bnbenv.doctor.causes import about
from bnbenv.doctor.text import diagnose

from .oracle import Target

SEEDS = (
    'Traceback (most recent call last):\n  File "/e/lib/python3.11/site-packages/bitsandbytes/functional.py", line 1\n'
    "RuntimeError: Configured CUDA binary not found at /env/bitsandbytes/libbitsandbytes_cuda129.so\n",
    "[rank0]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
    "23.65 GiB of which 1.10 GiB is free. Process 42 has 4.97 GiB memory in use. Including non-PyTorch\n",
    "CUDA SETUP: Loading binary C:\\env\\lib\\site-packages\\bitsandbytes\\libbitsandbytes_cpu.so...\r\n"
    "argument of type 'WindowsPath' is not iterable\r\nPlatform: Windows-10\r\n",
    "  1%|          | 1/100\r\x1b[31mImportError\x1b[0m: libcusparse.so.11: cannot open shared object file\n",
)


def _diagnose(data: bytes) -> None:
    found = diagnose(io.BytesIO(data))
    assert msgspec.json.encode(found)
    assert found.read == len(data)
    assert sum(seen.role == "primary" for seen in found.seen) == bool(found.seen)
    for seen in found.seen:
        assert about(seen.code).title
        assert all(number >= 1 and line.isprintable() for number, line in seen.lines)


def _seeds() -> tuple[bytes, ...]:
    return (*(text.encode() for text in SEEDS), *(text.encode("utf-16") for text in SEEDS))


TARGETS = (Target("error-text", "text", _diagnose, _seeds, slow=True),)
