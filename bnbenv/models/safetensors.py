"""The header of a safetensors file: which tensors it holds, and where. No weights are read. Pure over a stream.

The format (documentation of safetensors, section Format; types and checks of its release 0.8.0): eight bytes with the
length N of the header, little-endian and unsigned; N bytes of JSON that begin with ``{`` and may end in spaces; the
bytes of the tensors, which begin at 0, follow each other without holes and end with the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from bnbenv.decode import shown
from bnbenv.models.mistaken import HEAD, mistaken
from bnbenv.models.model import SIZES, CheckpointError, Tensor
from bnbenv.models.strictjson import NotJson, load

LONGEST = 100_000_000  # bytes of a header, by the format
_BITS: Mapping[str, int] = {**{name: size * 8 for name, size in SIZES.items()}, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_MOST = 1 << 63
_AGAIN = "Download it again."


def read_header(stream: IO[bytes], name: str, size: int) -> tuple[Tensor, ...]:
    """The tensors of a file, in the order of their bytes, which count from the file's beginning.

    ``stream`` stands at the beginning of the file, ``name`` is what errors and tensors call it, ``size`` its whole
    size. Raises CheckpointError for a file that is truncated, broken, or something else; OSError of the stream.
    """
    head = stream.read(9)
    if head[8:] != b"{":
        head += stream.read(HEAD)
    length = header_length(head, name, size)
    text = head[8 : 8 + length]
    text += stream.read(length - len(text))
    if len(text) < length:
        raise _truncated(name, f"{readable(8 + len(text))} are there, its header alone has {readable(8 + length)}")
    return _tensors(text, name, size)


def header_length(head: bytes, name: str, size: int) -> int:
    """How many bytes the header has that follows the first eight.

    ``head`` is the file's beginning: nine bytes are enough of a safetensors file, of others the format is named by
    more. Raises CheckpointError.
    """
    other = mistaken(head) if head[8:9] != b"{" else None
    if other:
        raise CheckpointError(other.code, f"{name} is {other.what}", other.step)
    if len(head) < 8:
        raise _truncated(name, f"{len(head)} bytes are there")
    length = int.from_bytes(head[:8], "little")
    if not 2 <= length <= LONGEST:
        what = "its header has no bytes" if length < 2 else f"a header of {length} bytes is more than the format allows"
        raise CheckpointError("not-safetensors", f"{name} is no safetensors file: {what}", _AGAIN)
    if 8 + length > size:
        raise _truncated(name, f"{readable(size)} are there, its header alone has {readable(8 + length)}")
    return length


def _tensors(text: bytes, name: str, size: int) -> tuple[Tensor, ...]:
    if not text.startswith(b"{"):
        raise _broken(name, "its header does not begin with {")
    try:
        entries = load(text)
    except NotJson as error:
        place = f", at {error.where}" if error.where else ""
        raise _broken(name, f"its header cannot be read: {error}{place}") from None
    metadata = entries.pop("__metadata__", None)
    if metadata is not None and not _texts(metadata):
        raise _broken(name, "__metadata__ in its header is no map of texts")
    start = 8 + len(text)
    found = sorted((_tensor(key, entry, name, start) for key, entry in entries.items()), key=_place)
    position = start
    for tensor in found:
        if tensor.begin != position:
            what = "overlap" if tensor.begin < position else "leave a hole before"
            raise _broken(name, f"the bytes of the tensors {what} {_name(tensor.name)}")
        position = tensor.end
    if position > size:
        raise _truncated(name, _portion(size, position))
    if position < size:
        raise _broken(name, f"it has {size - position} bytes more than its header speaks of")
    return tuple(found)


def _name(name: str) -> str:
    return shown(name, 150)


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.begin, tensor.end


def _tensor(key: str, entry: Any, name: str, start: int) -> Tensor:
    """One entry, checked by itself."""
    if not isinstance(entry, dict):
        raise _broken(name, f"the entry of {_name(key)} in its header is no object")
    if not key.isprintable() and not _sayable(key):
        raise _broken(name, f"the name {shown(ascii(key))} in its header is no text")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    bits = _BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _broken(name, f"the type {shown(dtype)} of {_name(key)} is none that safetensors knows")
    if not isinstance(shape, list) or not _numbers(shape):
        raise _broken(name, f"the shape of {_name(key)} is no list of sizes")
    if not isinstance(offsets, list) or not _numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(name, f"the data_offsets of {_name(key)} are no beginning and end")
    begin, end = offsets
    if _count(shape, 8 * (end - begin)) * bits != 8 * (end - begin):
        message = f"{_name(key)} of shape {shown(shape)} and type {dtype} does not have the {end - begin} bytes"
        raise _broken(name, f"{message} that its header gives it")
    return Tensor(key, str(dtype), tuple(shape), name, start + begin, start + end)


def _count(shape: list[int], most: int) -> int:
    """The number of elements; something above ``most`` where it is more than that."""
    if 0 in shape:
        return 0
    count = 1
    for side in shape:
        count *= side
        if count > most:
            break
    return count


def _numbers(value: list[Any]) -> bool:
    return all(type(one) is int and 0 <= one < _MOST for one in value)


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _sayable(text: str) -> bool:
    """Whether it is Unicode; JSON can write half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _broken(name: str, what: str) -> CheckpointError:
    return CheckpointError("broken-safetensors", f"{name} is broken: {what}", _AGAIN)


def _truncated(name: str, how: str) -> CheckpointError:
    return CheckpointError("truncated-safetensors", f"{name} is truncated: {how}", _AGAIN)


def readable(size: int) -> str:
    """A number of bytes in decimal units."""
    unit, power = _unit(size)
    return f"{size} {unit}" if power == 1 else f"{size / power:.1f} {unit}"


def _portion(part: int, whole: int) -> str:
    """Such as ``3.2 of 4.9 GB``, or exactly where that would say the same twice."""
    unit, power = _unit(whole)
    one, other = f"{part / power:.1f}", f"{whole / power:.1f}"
    return f"{part} of {whole} bytes" if power == 1 or one == other else f"{one} of {other} {unit}"


def _unit(size: int) -> tuple[str, int]:
    for unit, power in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size >= power:
            return unit, power
    return "bytes", 1
