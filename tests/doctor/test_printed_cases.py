"""Texts printed by the programs themselves (scripts/print_failures.py): the doctor names the cause of each."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from bnbenv.doctor.model import CAUSES
from bnbenv.doctor.text import diagnose

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRINTED = Path(__file__).parent / "printed"
CASES: list[dict[str, Any]] = tomllib.loads((PRINTED / "cases.toml").read_text(encoding="utf-8"))["case"]


def named(case: dict[str, Any], change: bytes = b"") -> tuple[str, str]:
    """The cause and the code that are primary in a case's text; ("none", "") where nothing is wrong in it."""
    text = change + (PRINTED / f"{case['name']}.txt").read_bytes()
    found = [one for one in diagnose(io.BytesIO(text)).seen if one.role == "primary"]
    return (found[0].cause, found[0].code) if found else ("none", "")


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_what_a_program_printed_is_named(case: dict[str, Any]) -> None:
    cause, code = named(case)
    assert cause in {case["cause"], *case.get("also", ())}
    assert code == case.get("code", code)


@pytest.mark.parametrize("case", CASES[::7], ids=lambda case: str(case["name"]))
def test_colours_windows_line_ends_and_a_log_before_it_change_nothing(case: dict[str, Any]) -> None:
    plain = (PRINTED / f"{case['name']}.txt").read_bytes()
    dressed = b"step 1 of 3\r\n" + plain.replace(b"\n", b"\x1b[0m\r\n").replace(b"Error", b"\x1b[31mError\x1b[0m")
    found = [one for one in diagnose(io.BytesIO(dressed)).seen if one.role == "primary"]
    assert (found[0].cause if found else "none") == named(case)[0]


def test_every_text_belongs_to_a_case_and_speaks_of_no_one() -> None:
    names = {case["name"] for case in CASES}
    assert {path.stem for path in PRINTED.glob("*.txt")} == names
    for case in CASES:
        assert {case["cause"], *case.get("also", ())} <= {*CAUSES, "none"}
        text = (PRINTED / f"{case['name']}.txt").read_text(encoding="utf-8")
        assert text.strip()
        homes = {part.split("/")[0] for part in text.split("/home/")[1:]}
        assert homes <= {"USER"}
