"""Every signature of an error text has a text that shows it and one that comes near, in whatever clothes it comes.

The texts stand in ``texts_signatures``, by code.
"""

from __future__ import annotations

import io
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.doctor.causes import about, rule_codes
from bnbenv.doctor.model import CAUSES, TextDiagnosis
from bnbenv.doctor.text import diagnose
from bnbenv.doctor.text.signatures import compiled, signatures

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEXTS = Path(__file__).parent / "texts_signatures"


def tables() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(TEXTS.glob("*.toml")):
        found |= tomllib.loads(path.read_text(encoding="utf-8"))
    return found


def texts(kind: str) -> list[Any]:
    return [
        pytest.param(code, text, id=f"{code}-{index}")
        for code, table in tables().items()
        for index, text in enumerate(table.get(kind, []))
    ]


def judged(text: str | bytes) -> TextDiagnosis:
    return diagnose(io.BytesIO(text.encode() if isinstance(text, str) else text))


def primary(text: str | bytes) -> str | None:
    return next((seen.code for seen in judged(text).seen if seen.role == "primary"), None)


def test_every_signature_has_its_texts() -> None:
    known, shown = signatures(), tables()
    assert set(shown) == set(known)
    for code, table in shown.items():
        assert table.get("harmless" if known[code].role == "harmless" else "yes"), code
        assert table.get("no"), code


@pytest.mark.parametrize(("code", "text"), texts("yes"))
def test_a_text_that_shows_it(code: str, text: str) -> None:
    seen = judged(text).seen
    assert [(one.role, one.code) for one in seen][:1] == [("primary", code)]
    assert seen[0].cause == about(code).cause
    assert [one.role for one in seen].count("primary") == 1
    shown = " ".join(line for _, line in seen[0].lines)
    assert shown
    assert all(line.strip()[:60] in text for _, line in seen[0].lines)


@pytest.mark.parametrize(("code", "text"), texts("no"))
def test_a_text_that_comes_near(code: str, text: str) -> None:
    assert code not in {one.code for one in judged(text).seen}


@pytest.mark.parametrize(("code", "text"), texts("harmless"))
def test_what_is_harmless_is_no_finding(code: str, text: str) -> None:
    found = judged(text)
    assert found.seen == ()
    assert about(code).title in found.harmless


def hard(text: str, width: int) -> str:
    """As a terminal wraps: at the last column, in the middle of words."""
    return "\n".join(line[at : at + width] for line in text.split("\n") for at in range(0, max(1, len(line)), width))


def rich(text: str) -> str:
    wrapped = [
        textwrap.wrap(line, 60, initial_indent="13:22:01 ERROR    ", subsequent_indent=" " * 25) or [""]
        for line in text.split("\n")
    ]
    return "\n".join(part for parts in wrapped for part in parts)


def each(prefix: str) -> Callable[[str], bytes]:
    return lambda text: "\n".join(prefix + line for line in text.split("\n")).encode()


CLOTHES: dict[str, Callable[[str], bytes]] = {
    "crlf": lambda text: text.replace("\n", "\r\n").encode(),
    "wrapped at 80": lambda text: hard(text, 80).encode(),
    "wrapped at 57": lambda text: hard(text, 57).encode(),
    "wrapped in a quote": lambda text: each("> ")(hard(text, 70)),
    "wrapped in a log": lambda text: each("trainer-1  | ")(hard(text, 90)),
    "boxed": lambda text: each("│ ")(hard(text, 70)),
    "coloured": lambda text: (
        "\x1b[31m" + text.replace(" ", " \x1b[0;32m", 2).replace("/", "\x1b[35m/\x1b[0m")
    ).encode(),
    "UTF-16 with mark": lambda text: text.encode("utf-16"),
    "UTF-16-LE": lambda text: text.encode("utf-16-le"),
    "UTF-16-BE": lambda text: text.encode("utf-16-be"),
    "half UTF-8, half UTF-16": lambda text: b"\xef\xbb\xbfa log\r\n" + ("\n" + text).encode("utf-16-le"),
    "behind a progress bar": lambda text: ("  1%|   | 1/9\r" * 40 + text).encode(),
    "HTML": lambda text: text.replace("'", "&#39;").replace("<", "&lt;").replace(">", "&gt;").encode(),
    "ranks": each("[rank0]: "),
    "times": each("2026-01-02T03:04:05.123456Z "),
}


@pytest.mark.parametrize("clothes", CLOTHES)
def test_a_message_is_known_in_any_clothes(clothes: str) -> None:
    """Each text of the tables; those whose signs are words on a line need that line whole."""
    missed = {}
    for code, table in tables().items():
        for text in table.get("yes", []):
            if code == "unknown" or (clothes.startswith(("wrapped", "boxed")) and by_words(code)):
                continue
            found = primary(CLOTHES[clothes](text))
            if found != code:
                missed[text] = found
    assert missed == {}


def test_a_message_is_known_as_rich_wraps_it() -> None:
    library = "/home/somebody/venv/lib/python3.12/site-packages/bitsandbytes/libbitsandbytes_cuda129.so"
    long = f"RuntimeError: Configured CUDA binary not found at {library}"
    assert primary(rich(long)) == "library-cuda-missing"


def by_words(code: str) -> bool:
    return bool(signatures()[code].words)


def test_codes_are_those_of_one_table_and_edges_lead_somewhere() -> None:
    codes = {**signatures(), **rule_codes()}
    assert not set(signatures()) & set(rule_codes())
    for one in signatures().values():
        assert one.title and one.explanation and one.reference.startswith("https://"), one.code
        assert one.cause in CAUSES
        for edge in one.explains:
            assert edge in codes or edge in CAUSES, (one.code, edge)


def test_expressions_are_linear() -> None:
    """No group that repeats holds a repetition, and every gap has an end: time grows with the text, not faster."""
    for one in compiled():
        for expression in (*one.patterns, *one.words, *one.before, *one.also, *one.unless):
            text = expression.text.decode()
            re.compile(text, expression.flags)
            assert not re.search(r"(?<!\\)[*+}]\)[*+{]", text), text
            assert not re.search(r"(?<!\\)\.[*+]", text), text
