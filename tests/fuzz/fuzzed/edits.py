"""Changes to valid documents, as small numbers: the same for hypothesis, for plain randomness and for atheris.

An edit is three whole numbers: what to do, where, and with what. Every number means something for every document, so
that hypothesis can make a failure smaller, and a generator needs to know nothing of the formats.
"""

from __future__ import annotations

import io
import json
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SECRET = "hunter2planted"  # stands in seeds as a password, and may stand in no error

# Values that a document may hold in place of what belongs there.
ODD: tuple[Any, ...] = (
    *("", " ", "x", "9", ".", "1.", "1..2", "-1", "999.999", "1e999", "\u00b2", "9" * 5000, "1." + "9" * 5000, "a\nb"),
    *(
        "\x1b[31m",
        "\x00",
        "GPU-",
        "all",
        ">=2",
        "==",
        "===x",
        "~=1",
        "2.*",
        "\ud800",
        "\u202e",
        "a" * 5000,
        "../x",
        "/",
    ),
    *("{}", "$(x)", "C:\\", "http://[", f"https://me:{SECRET}@host/x", "cuda", "sm_90", "3.12", "2026-01-01"),
    *(None, True, False, 0, 1, -1, 7, 255, 2**31, 2**63, 2**64, 2**70, -(2**63), 1.5, -0.0, 1e308, float("inf")),
    *(float("nan"), [], {}, [[]], [{}], [None], {"": ""}, {"a": {"b": [1]}}, [""], [1, "x"], {"version": 1}),
)

# Pieces of text that are put in place of words. Some are no valid UTF-8, and some make numbers, lists or keys of it.
PIECES: tuple[bytes, ...] = (
    *(bytes([one]) for one in b"\0\n\t \x0b\x1c\x85\xff\"'`\\,:=[]{}()#/@?&%.-*$~0"),
    *(b"", b"\r\n", b"://", b"..", b"--", b"\x1b[31m", b"\xc3\x28", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe"),
    *(
        one.encode()
        for one in ("\u202e", "\u00b2", "\u0663", "-1", "1e999", "NaN", "null", "true", "[N/A]", "all", "cpu")
    ),
    *(b"9" * 30, b"9" * 5000, b"0." + b"9" * 5000, b"a" * 5000, b"[" * 200, b"{" * 200, b'{"a":' * 120, b"a." * 600),
    *(b"\\ud800", b"\\u0000", b"%00", b"%zz", b"http://[", b"file:///", b"name=https://host/simple", b"latest"),
    f"https://me:{SECRET}@host/x".encode(),
)

_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 64, 255, 256, 4095, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000)
_NUMBERS += (0xFFFFFFFF, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
_WORD = re.compile(rb"[A-Za-z0-9_.+-]+|[^A-Za-z0-9_.+-]+")


class Edit(NamedTuple):
    what: int
    where: int
    value: int


def edited(kind: str, data: bytes, edits: Sequence[Edit], others: Sequence[bytes] = ()) -> bytes:
    """A document with some edits made; ``others`` are documents of the same kind, of which parts are taken."""
    pool = (*others, data)
    if kind == "zip":
        return _edited_zip(data, edits, pool)
    if kind in _READ:
        data = _edited_tree(kind, data, [edit for edit in edits if edit.what % 3])
        edits = [edit for edit in edits if not edit.what % 3]
        return _in_turn(_TEXT, data, edits, pool)
    return _in_turn(_BYTES if kind == "binary" else _TEXT, data, edits, pool)


def _in_turn(table: Sequence[Any], data: bytes, edits: Sequence[Edit], pool: Sequence[bytes]) -> bytes:
    for edit in edits:
        data = table[edit.what // 3 % len(table)](data, edit.where, edit.value, pool)
    return data


# -- documents of keys and values


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, below in inner for place in [(*path, key), *_places(below, (*path, key))]]


def _edited_tree(kind: str, data: bytes, edits: Sequence[Edit]) -> bytes:
    if not edits:
        return data
    try:
        document = _READ[kind](data)
        for edit in edits:
            places = _places(document)
            if places:
                _change(document, places, edit)
        return _WRITE[kind](document)
    except (ValueError, RecursionError):  # it was no such document, or is too deep for one to be made of it
        return data


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


def _change(document: Any, places: list[tuple[Any, ...]], edit: Edit) -> None:
    path = places[edit.where % len(places)]
    holder, key, odd = _at(document, path[:-1]), path[-1], ODD[edit.value % len(ODD)]
    what = edit.what % 8
    if what == 0:
        del holder[key]
    elif what in (1, 2, 3):
        holder[key] = odd
    elif what == 4:  # another value of the same document
        holder[key] = json.loads(json.dumps(_at(document, places[edit.value % len(places)]), default=str))
    elif what == 5:
        value = holder[key]
        for level in range(edit.value % 40):
            value = [value] if level % 2 else {"x": value}
        holder[key] = value
    elif what == 6 and isinstance(holder, dict):
        holder[str(odd)] = holder.pop(key)
    elif what == 6:
        holder.append(holder[key])
    elif isinstance(holder[key], str):
        text, place = holder[key], edit.value % (len(holder[key]) + 1)
        holder[key] = text[:place] + ("" if edit.value % 2 else str(odd)) + text[place + edit.value % 3 :]
    elif isinstance(holder[key], int | float):
        holder[key] = edit.value - 100


def _write_toml(document: Any) -> bytes:
    lines: list[str] = []

    def table(value: dict[str, Any], name: str) -> None:
        plain = {key: one for key, one in value.items() if not isinstance(one, dict)}
        if name and (plain or not value):
            lines.append(f"[{name}]")
        lines.extend(f"{_quoted(key)} = {_inline(one)}" for key, one in plain.items() if one is not None)
        for key, one in value.items():
            if isinstance(one, dict):
                table(one, f"{name}.{_quoted(key)}" if name else _quoted(key))

    table(document, "")
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def _quoted(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(k)} = {_inline(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(one) for one in value if one is not None) + "]"
    if isinstance(value, float):
        return repr(value)
    return value.isoformat() if hasattr(value, "isoformat") else json.dumps(value, ensure_ascii=False)


def _write_json(document: Any) -> bytes:
    return json.dumps(document).encode()


_READ: dict[str, Callable[[bytes], Any]] = {
    "json": json.loads,
    "toml": lambda data: tomllib.loads(data.decode()),
}
_WRITE: dict[str, Callable[[Any], bytes]] = {"json": _write_json, "toml": _write_toml}


# -- texts


def _replace_word(data: bytes, where: int, value: int, pool: Sequence[bytes]) -> bytes:
    words = _WORD.findall(data)
    if words:
        words[where % len(words)] = PIECES[value % len(PIECES)]
    return b"".join(words)


def _insert_piece(data: bytes, where: int, value: int, pool: Sequence[bytes]) -> bytes:
    place = where % (len(data) + 1)
    return data[:place] + PIECES[value % len(PIECES)] + data[place:]


def _delete(data: bytes, where: int, value: int, pool: Sequence[bytes]) -> bytes:
    place = where % (len(data) + 1)
    return data[:place] + data[place + 1 + value % 24 :]


def _truncate(data: bytes, where: int, value: int, pool: Sequence[bytes]) -> bytes:
    place = where % (len(data) + 1)
    return data[place:] if value % 4 == 0 else data[:place]


def _repeat(data: bytes, where: int, value: int, pool: Sequence[bytes]) -> bytes:
    place, length = where % (len(data) + 1), 1 + value % 97
    part = data[place : place + length]
    return data[:place] + part * (2 + value % 50) + data[place + length :]


def _lines(data: bytes, where: int, value: int, pool: Sequence[bytes]) -> bytes:
    """A line is left out, doubled, put elsewhere, or taken from another text."""
    lines = data.split(b"\n")
    place, other = where % len(lines), value // 4 % len(lines)
    if value % 4 == 0:
        del lines[place]
    elif value % 4 == 1:
        lines.insert(other, lines[place])
    elif value % 4 == 2:
        lines[place], lines[other] = lines[other], lines[place]
    else:
        source = pool[value // 4 % len(pool)].split(b"\n")
        lines.insert(place, source[where % len(source)])
    return b"\n".join(lines)


def _swap_words(data: bytes, where: int, value: int, pool: Sequence[bytes]) -> bytes:
    words = _WORD.findall(data)
    if words:
        one, other = where % len(words), value % len(words)
        words[one], words[other] = words[other], words[one]
    return b"".join(words)


def _flip(data: bytes, where: int, value: int, pool: Sequence[bytes]) -> bytes:
    if not data:
        return bytes([value % 256])
    place = where % len(data)
    return data[:place] + bytes([data[place] ^ (1 << value % 8)]) + data[place + 1 :]


_TEXT = (_replace_word, _insert_piece, _delete, _truncate, _repeat, _lines, _swap_words, _flip, _replace_word)


# -- bytes


def _number(data: bytes, where: int, value: int, pool: Sequence[bytes]) -> bytes:
    """A number of 2, 4 or 8 bytes, most of them in the first or last hundred bytes, where headers are."""
    size = (2, 4, 8)[value % 3]
    near = min(len(data), 128)
    place = (where % (near + 1), len(data) - where % (near + 1), where % (len(data) + 1))[where // 7 % 3]
    choices = (*_NUMBERS, len(data), len(data) - 1, place)
    number = choices[value // 3 % len(choices)] & ((1 << 8 * size) - 1)
    return data[:place] + number.to_bytes(size, "little") + data[place + size :]


def _fill(data: bytes, where: int, value: int, pool: Sequence[bytes]) -> bytes:
    place, length = where % (len(data) + 1), 1 + value % 64
    return data[:place] + bytes([(0, 255, value % 256)[value % 3]]) * length + data[place + length :]


def _splice(data: bytes, where: int, value: int, pool: Sequence[bytes]) -> bytes:
    other = pool[value % len(pool)]
    start = value // 3 % (len(other) + 1)
    place = where % (len(data) + 1)
    return data[:place] + other[start : start + 1 + value % 200] + data[place:]


def _add(data: bytes, where: int, value: int, pool: Sequence[bytes]) -> bytes:
    """A number of four bytes a little larger or smaller than it was."""
    if len(data) < 4:
        return data
    place = where % (len(data) - 3) & ~3
    number = (struct.unpack_from("<I", data, place)[0] + value % 65 - 32) & 0xFFFFFFFF
    return data[:place] + struct.pack("<I", number) + data[place + 4 :]


_BYTES = (_number, _number, _add, _flip, _delete, _truncate, _repeat, _splice, _fill)


# -- zip files


def _edited_zip(data: bytes, edits: Sequence[Edit], pool: Sequence[bytes]) -> bytes:
    """Members are edited, renamed, left out and doubled; of four edits one is of the bytes of the file itself."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:
        return _in_turn(_BYTES, data, edits, pool)
    inside = [edit for edit in edits if edit.what % 4]
    for edit in inside:
        if members:
            _change_member(members, edit)
    if inside:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content)
        data = stream.getvalue()
    return _in_turn(_BYTES, data, [edit for edit in edits if not edit.what % 4], pool)


def _change_member(members: list[tuple[str, bytes]], edit: Edit) -> None:
    place = edit.value % len(members)
    name, content = members[place]
    what = edit.what // 4 % 8
    if what == 0:
        del members[place]
    elif what == 1:
        members.append((name, content[: edit.where % (len(content) + 1)]))
    elif what == 2:
        fresh = _in_turn(_TEXT, name.encode("utf-8", "replace"), [edit], [b"x/METADATA"]).decode("utf-8", "replace")
        members[place] = (fresh.replace("\0", "") or "x", content)
    elif what < 5:
        members[place] = (name, _in_turn(_BYTES, content, [edit], [content]))
    else:
        members[place] = (name, _in_turn(_TEXT, content, [edit], [content]))
