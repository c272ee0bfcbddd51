"""What people see: each document in ``screens/`` and the text that it is shown as.

To renew the texts after a change of wording, look at the difference, and commit it:

    RENEW_SCREENS=1 .test-env/bin/python -m pytest tests/cli/test_screens.py && git diff tests/cli/screens
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli import main
from bnbenv.cli.errors import render as render_error
from bnbenv.errors import NoCombination

SCREENS = Path(__file__).parent / "screens"
NAMES = sorted(path.stem for path in SCREENS.glob("*.json"))


@pytest.fixture(autouse=True)
def _clock_of_greenwich() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    yield
    os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
    time.tzset()


def shown(name: str) -> str:
    document = json.loads((SCREENS / f"{name}.json").read_text())
    command = document["schema"].removeprefix("bnbenv.").removesuffix("/1")
    return str(importlib.import_module(f"bnbenv.cli.render.{command}").render(document)) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_document_is_shown_as(name: str) -> None:
    screen = SCREENS / f"{name}.txt"
    if os.environ.get("RENEW_SCREENS"):
        screen.write_text(shown(name))
    assert shown(name) == screen.read_text()


def too_wide(text: str) -> list[str]:
    """Lines of more than 80 columns that could be broken: not one word, no command to copy, no device's title."""
    kept = ("    bnbenv sync", "next: ", "use ", "project: ", "GPU-", "cpu: ")
    return [line for line in text.splitlines() if len(line) > 80 and " " in line.strip() and not line.startswith(kept)]


@pytest.mark.parametrize("name", NAMES)
def test_screens_are_plain_and_fit_80_columns(name: str) -> None:
    text = shown(name)
    # Commands are copied whole, and so they stand on one line.
    assert too_wide(text) == []
    assert "\x1b" not in text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_the_first_line_says_it_and_the_last_what_to_do() -> None:
    for name, first, last in [
        ("check-in-sync", "in sync: bnb", "in sync: bnb"),
        ("check-not-in-sync", "not in sync: bnb, eval", "next: bnbenv sync (bnbenv plan shows what it would do)"),
        ("plan-first", "changes are pending: bnb", "next: bnbenv sync"),
        ("sync-nothing", "in sync, nothing to do: bnb (generation 1)", "in sync, nothing to do: bnb (generation 1)"),
        ("list-empty", "no generations yet", "next: bnbenv sync"),
        ("solve-h200", "bitsandbytes 0.50.2 with torch ", "next: bnbenv sync"),
        ("solve-refused-v100", "nothing known to be good fits:", "next: bnbenv sync --torch '*'"),
        ("rollback", "bnb: generation 2 is in use (was 3)", "next: bnbenv check"),
    ]:
        lines = shown(name).splitlines()
        assert lines[0].startswith(first), name
        assert lines[-1].startswith(last), name


def test_solve_fits_80_columns_for_every_recorded_host(hosts: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for host in hosts:
        for words in ([], ["--torch", ">=2.15", "--bitsandbytes", "<0.47"]):
            code = main(["solve", "--shipped", "--facts", str(host), *words])
            text = capsys.readouterr().out
            if code == 6:
                continue
            assert too_wide(text) == [], host
            assert text.splitlines()[-1].startswith("next: "), host


def test_an_error_is_a_sentence_then_the_detail_then_the_next_step() -> None:
    plain = NoCombination("unsatisfiable", "the packages do not fit together", "Loosen the requirements.")
    assert render_error(plain, {}) == "error: the packages do not fit together\nnext: Loosen the requirements."
    full = NoCombination("unsatisfiable", "they do not", "Loosen.", "one cause\n  and another\n")
    assert render_error(full, {}) == "error: they do not\n\n  one cause\n    and another\n\nnext: Loosen."
    assert render_error(NoCombination("unsatisfiable", "they do not"), {}) == "error: they do not"


def test_an_error_obeys_no_codes_and_shows_no_login() -> None:
    hostile = NoCombination("x", "found \x1b[31mred\nnew", "see https://user:secret@host/x", "at https://t0ken@host/")
    text = render_error(hostile, {})
    assert text.splitlines()[0] == r"error: found \x1b[31mred\nnew"
    assert "secret" not in text and "t0ken" not in text
    assert "https://****@host/x" in text


@pytest.mark.real
def test_what_a_real_project_shows(project: Any) -> None:
    for words in (["check"], ["plan"], ["list"], ["gc"], ["lock"], ["verify"]):
        ended = project(*words)
        assert ended.code == 0, ended
        assert too_wide(ended.stdout.replace(str(project.root), "~")) == [], words
