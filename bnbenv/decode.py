"""Strict decoding at the boundary: what is wrong in a document becomes one error that names the path in it.

msgspec finds what is wrong and speaks of types; here this becomes what people write: the key that they wrote, what was
expected in its place, and which values or keys there are.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from bnbenv.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

LONGEST = 60  # characters of a wrong value in an error
MOST_DOTS = 500  # in a line of TOML

_WORDS = {
    "str": "text in quotes",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list [...]",
    "null": "null",
}
_LOGIN = re.compile(r"(?<=://)[^\s/]{1,16384}@")
_TOKEN = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")


def shown(value: object, longest: int = LONGEST) -> str:
    """A value that somebody wrote, as an error quotes it: not more of it than one can read."""
    text = _LOGIN.sub("****@", str(value))  # the end of what is cut short could be all that tells a password
    return text if len(text) <= longest else f"{text[:longest]}..."


def load_toml(text: str) -> dict[str, Any]:
    """The plain values of a TOML text. Raises TOMLDecodeError; ValueError where reading has no end.

    tomllib's time and memory grow with the square of a key's parts: minutes and gigabytes for 100 KB of dots.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MOST_DOTS:
            raise ValueError(f"line {number} has more than {MOST_DOTS} dots")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_toml(text: str, file: str, next_step: str = "") -> dict[str, Any]:
    """The plain values of a TOML text. Raises InputError with line and column."""
    try:
        return load_toml(text)
    except tomllib.TOMLDecodeError as error:
        said, _, place = str(error).rpartition(" (at ")
        what = said or str(error)
        where = place.rstrip(")") if said else ""
        raise InputError(file, where, f"this is not TOML: {what[:1].lower()}{what[1:]}", next_step) from None
    except ValueError as error:  # among them a number of thousands of digits
        raise InputError(file, "", f"this is not TOML that can be read: {error}", next_step) from None


def convert(document: object, kind: type[T], file: str, within: str = "", next_step: str = "") -> T:
    """A document of plain values as a value of ``kind``; ``within`` is where in ``file`` it stands.

    Raises InputError with the path of what is missing, unknown or wrong, such as ``envs.bnb.gpus[0]``.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        tokens, expected = _explain(str(error), document, kind, "a table" if file.endswith(".toml") else "an object")
        raise InputError(file, f"{within}{_written(tokens)}".lstrip("."), expected, next_step) from None


def _explain(said: str, document: Any, kind: Any, table: str) -> tuple[list[str | int], str]:
    """Where it is wrong, and what was expected there."""
    sentence, found_path, path = said.rpartition(" - at `")
    if not found_path or not path.startswith("$"):
        sentence, path = said, ""
    tokens: list[str | int] = []
    for key, position in _TOKEN.findall(path.rstrip("`")):
        if position == "...":  # msgspec does not tell which key of a mapping: the first whose value does not fit
            return _explain_value(tokens, document, kind, table)
        token = int(position) if position else key
        try:
            document = document[token]
        except (LookupError, TypeError):  # a key that somebody wrote looked like a path
            return [], said[:1].lower() + said[1:]
        tokens.append(token)
        kind = _inner(kind, token)
    quoted = re.findall(r"[`']([^`']*)[`']", sentence)
    if sentence.startswith("Object contains unknown field"):
        return [*tokens, quoted[0]], f"there is no such key; {_suggestion(quoted[0], _keys(kind))}"
    if sentence.startswith("Object missing required field"):
        return [*tokens, quoted[0]], "missing required field"
    if sentence.startswith("Invalid enum value"):
        return tokens, f'expected {_either(_values(kind))}, found "{shown(document)}"'
    if re.fullmatch("Expected `[^`]*`, got `[^`]*`", sentence):
        expected, found = ([_word(one, table) for one in part.split(" | ")] for part in quoted)
        wanted = _values(kind) or [one for one in expected if one != "null"]
        return tokens, f"expected {_either(wanted)}, found {found[0]}"
    return tokens, sentence[:1].lower() + sentence[1:]


def _explain_value(
    tokens: list[str | int], document: dict[str, Any], kind: Any, table: str
) -> tuple[list[str | int], str]:
    inner = _inner(kind, "")
    for key, value in document.items():
        try:
            msgspec.convert(value, inner)
        except msgspec.ValidationError as error:
            below, expected = _explain(str(error), value, inner, table)
            return [*tokens, key, *below], expected
    raise AssertionError("every value fits")


def _written(tokens: Iterable[str | int]) -> str:
    return "".join(f"[{token}]" if isinstance(token, int) else f".{shown(token)}" for token in tokens)


def _inner(kind: Any, token: str | int) -> Any:
    """The type of what stands at a key or position of a value of a type."""
    for one in _alternatives(kind):
        if isinstance(token, int) and get_origin(one) in (tuple, list):
            return get_args(one)[0]
        if get_origin(one) is dict:
            return get_args(one)[1]
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            for field in msgspec.structs.fields(one):
                if field.encode_name == token:
                    return field.type
    return Any


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _keys(kind: Any) -> list[str]:
    structs = [one for one in _alternatives(kind) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    return [field.encode_name for one in structs for field in msgspec.structs.fields(one)]


def _values(kind: Any) -> list[str]:
    return [f'"{value}"' for one in _alternatives(kind) if get_origin(one) is Literal for value in get_args(one)]


def _word(name: str, table: str) -> str:
    return table if name == "object" else _WORDS.get(name, name)


def _either(words: Iterable[str]) -> str:
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} or {last}" if others else last


def _suggestion(word: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, 1)
    return f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known)}"
