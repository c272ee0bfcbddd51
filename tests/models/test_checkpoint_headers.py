"""Headers of safetensors files: good ones as the library writes them, and everything that is none."""

from __future__ import annotations

import io
import json
import random
from typing import Any

import pytest

from bnbenv.models.model import CheckpointError, Tensor
from bnbenv.models.safetensors import read_header


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_of(header: Any, data: int) -> bytes:
    """A file with a header (text, or what becomes JSON) and so many bytes of tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def read(content: bytes, size: int | None = None) -> tuple[Tensor, ...]:
    return read_header(io.BytesIO(content), "model.safetensors", len(content) if size is None else size)


GOOD: list[tuple[str, Any, int]] = [
    ("two", {"b": entry("F32", [2, 3], 4, 28), "a": entry("BF16", [2], 0, 4)}, 28),
    ("metadata", {"__metadata__": {"format": "pt"}, "a": entry("U8", [1], 0, 1)}, 1),
    ("padded", b'{"a": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]}}   ', 8),
    ("empty tensors", {"a": entry("F16", [0, 5], 0, 0), "b": entry("F16", [1], 0, 2), "c": entry("U8", [0], 2, 2)}, 2),
    ("less than a byte", {"a": entry("F4", [2, 3], 0, 3), "b": entry("F6_E2M3", [4], 3, 6)}, 6),
    ("types of 8 bits", {"a": entry("F8_E4M3FNUZ", [1], 0, 1), "b": entry("F8_E8M0", [1], 1, 2)}, 2),
    ("none", {}, 0),
]
BAD: list[tuple[str, Any, int, str]] = [
    ("a hole", {"a": entry("U8", [1], 1, 2)}, 2, "leave a hole before a"),
    ("an overlap", {"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, 3, "overlap b"),
    ("bytes at the end", {"a": entry("U8", [1], 0, 1)}, 3, "2 bytes more"),
    ("another size", {"a": entry("F32", [3], 0, 10)}, 10, "shape [3] and type F32 does not have the 10 bytes"),
    ("half a byte", {"a": entry("F4", [3], 0, 2)}, 2, "does not have the 2 bytes"),
    ("a shape without end", {"a": entry("U8", [1 << 62] * 2000, 0, 1)}, 1, "does not have the 1 bytes"),
    ("an unknown type", {"a": entry("F9", [1], 0, 1)}, 1, "the type F9 of a is none"),
    ("a negative side", {"a": entry("U8", [-1], 0, 1)}, 1, "the shape of a is no list of sizes"),
    ("a fraction", b'{"a": {"dtype": "U8", "shape": [1.0], "data_offsets": [0, 1]}}', 1, "the shape of a"),
    ("truth", b'{"a": {"dtype": "U8", "shape": [true], "data_offsets": [0, 1]}}', 1, "the shape of a"),
    ("three offsets", b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}', 1, "the data_offsets of a"),
    ("an end before", {"a": entry("U8", [0], 1, 0)}, 0, "the data_offsets of a"),
    ("no shape", {"a": {"dtype": "U8", "data_offsets": [0, 1]}}, 1, "the shape of a"),
    ("no object", {"a": [1]}, 1, "the entry of a in its header is no object"),
    ("twice", b'{"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}, "a": 1}', 0, "twice, at a"),
    ("metadata of numbers", {"__metadata__": {"a": 1}}, 0, "__metadata__"),
    ("half a character", b'{"\\ud800": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}', 1, "is no text"),
    ("a space before", b' {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}', 1, "does not begin with {"),
    ("no JSON", b'{"a"', 0, "not JSON"),
    ("deep", b'{"a":' + b"[" * 200_000, 0, "nested too deeply"),
    ("brackets", b'{"a":' + b"[]," * 4_000_001, 0, "more brackets than any model needs"),
    ("a list", b"{" + b" " * 8, 0, "not JSON"),
]


@pytest.mark.parametrize(("header", "data"), [good[1:] for good in GOOD], ids=[good[0] for good in GOOD])
def test_tensors_stand_in_the_order_of_their_bytes(header: Any, data: int) -> None:
    content = file_of(header, data)
    found = read(content)
    named = json.loads(header) if isinstance(header, bytes) else header
    assert {tensor.name for tensor in found} == set(named) - {"__metadata__"}
    start = len(content) - data
    for tensor in found:
        said = named[tensor.name]
        assert (tensor.dtype, list(tensor.shape)) == (said["dtype"], said["shape"])
        assert [tensor.begin - start, tensor.end - start] == said["data_offsets"]
    assert [tensor.begin for tensor in found] == sorted(tensor.begin for tensor in found)


@pytest.mark.parametrize(("header", "data", "said"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_a_broken_header_says_what_is_wrong(header: Any, data: int, said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(file_of(header, data))
    assert said in caught.value.message and caught.value.message.startswith("model.safetensors is broken: ")
    assert caught.value.next_step == "Download it again."


ONE = file_of({"a": entry("U8", [4_900_000_000], 0, 4_900_000_000)}, 0)


@pytest.mark.parametrize(
    ("content", "size", "code", "said"),
    [
        (ONE, 3_200_000_000, "truncated-safetensors", "is truncated: 3.2 of 4.9 GB"),
        (ONE, 8 + len(ONE), "truncated-safetensors", "of 4.9 GB"),
        (ONE, len(ONE) + 4_899_999_999, "truncated-safetensors", f"of {len(ONE) + 4_900_000_000} bytes"),
        (ONE[:40], None, "truncated-safetensors", "is truncated: 40 bytes are there"),
        (ONE[:5], None, "truncated-safetensors", "is truncated: 5 bytes"),
        (ONE[:40], 3_200_000_000, "truncated-safetensors", "is truncated: 40 bytes are there"),
        (b"", None, "empty-file", "is empty"),
        (bytes(4096), None, "cut-off", "is filled with zeros"),
        (b"version https://git-lfs.example/spec/v1\noid sha256:00\n", None, "lfs-pointer", "is a pointer of Git LFS"),
        (b"\n<!DOCTYPE html>\n<html><head>...", None, "web-page", "is a web page"),
        (b'{"error": "Repository not found"}', None, "not-safetensors", "is a JSON text"),
        (b"PK\x03\x04\0\0\x08\x08" + bytes(100), None, "pickled-weights", "is a PyTorch pickle"),
        (b"\x1f\x8b\x08" + bytes(1 << 20), None, "not-safetensors", "is a gzip archive"),
        (b"GGUF\x03" + bytes(100), None, "gguf", "is a GGUF file"),
        (b"\xff" * 100, None, "not-safetensors", "is no safetensors file"),
        (bytes([1]) + bytes(99), None, "not-safetensors", "its header has no bytes"),
    ],
    ids=lambda value: repr(value[:16]) if isinstance(value, bytes) else None,
)
def test_what_is_no_whole_safetensors_file(content: bytes, size: int | None, code: str, said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(content, size)
    assert caught.value.code == code and said in caught.value.message
    assert caught.value.next_step


def test_no_more_than_the_header_is_read() -> None:
    class Weights(io.BytesIO):
        """A stream that says how far it was read."""

    content = file_of({"a": entry("U8", [1000], 0, 1000)}, 1000)
    stream = Weights(content)
    read_header(stream, "model.safetensors", len(content))
    assert stream.tell() == len(content) - 1000


# -- the library itself

PROBE = """
import json, sys
from safetensors import deserialize
for line in sys.stdin:
    try:
        found = deserialize(bytes.fromhex(line))
        print(json.dumps({name: [entry["dtype"], entry["shape"]] for name, entry in found}))
    except Exception:
        print("null")
"""


@pytest.mark.real
@pytest.mark.xdist_group("models-5")
def test_what_is_read_here_the_library_reads_alike(models_run: Any) -> None:
    """It is laxer in a few places (types as floats, fields in a list, the last of two keys): never the other way."""
    dice = random.Random(8)
    texts = [(header if isinstance(header, bytes) else json.dumps(header).encode(), data) for _, header, data in GOOD]
    texts += [
        (header if isinstance(header, bytes) else json.dumps(header).encode(), data)
        for _, header, data, _ in BAD
        if len(header) < 10_000
    ]
    for text, data in list(texts):
        for _ in range(15):  # one byte of it changed
            place = dice.randrange(len(text))
            texts.append((text[:place] + bytes([dice.choice(b'0123456789[]{},:"F8UEM \\')]) + text[place + 1 :], data))
    files = [file_of(text, data) for text, data in texts]
    given = "".join(f"{content.hex()}\n" for content in files)
    printed = models_run("-c", PROBE, stdin=given)
    read_here = 0
    for content, line in zip(files, printed.splitlines(), strict=True):
        library = json.loads(line)
        try:
            here = {tensor.name: [tensor.dtype, list(tensor.shape)] for tensor in read(content)}
        except CheckpointError:
            continue
        read_here += 1
        assert library == here, content
    assert read_here > len(GOOD)
