"""What people see: each document in ``screens/`` and the text that it is shown as, without colour and with.

To renew the texts after a change of wording, look at the difference, and commit it:

    RENEW_SCREENS=1 .test-env/bin/python -m pytest tests/cli/test_screens.py && git diff tests/cli/screens
"""

from __future__ import annotations

import importlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli import main
from bnbenv.cli.errors import render as render_error
from bnbenv.cli.render import style
from bnbenv.errors import BnbenvError, NoCombination

SCREENS = Path(__file__).parent / "screens"
DOCUMENTS = sorted(path.stem for path in SCREENS.glob("*.json"))
# What was asked to be seen of a document, and the same document seen in another way.
VIEWS: dict[str, dict[str, Any]] = {
    "check-not-in-sync+reason": {"reason": True},
    "check-in-sync+reason": {"reason": True},
    "status-why": {"why": "newest"},
    "status-why+all": {"why": "minimal-change", "everything": True},
    "plan-refused": {
        "refused": {"other": "Give up the wish for torch: bnbenv sync --env other --torch '*' (gives torch 2.15.0)"}
    },
    "solve-gtx970+all": {"everything": True},
    "build-done": {"torch": {"torch": "2.14.1", "cuda": "13.0", "called": "pylock.bnb.toml"}},
    "build-done+other": {
        "torch": {"torch": "2.10.0", "cuda": "12.8", "called": "pylock.bnb.toml"},
        "older_libc": "2.28",
        "older_driver": ("535.183.01", "580"),
    },
    "build-cached": {"exact": True, "named": True},
    "build-cached+lock": {
        "exact": True,
        "torch": {"torch": "2.15.0", "cuda": "13.2", "called": "pylock.bnb.toml"},
    },
    "matrix-show": {"own": {"folder": "/home/me/.local/share/bnbenv/matrix", "bitsandbytes": 0, "torch": 0}},
    "matrix-show+own": {"own": {"folder": "/home/me/matrix", "bitsandbytes": 1, "torch": 2, "newest": "2026-11-21"}},
    "matrix-show-release": {"project": "bitsandbytes"},
    "matrix-show-torch": {"project": "torch"},
    "matrix-show-package": {"project": "autoawq-kernels"},
    "matrix-show-gpu": {
        "gpu": "RTX 5090",
        "versions": {
            "bitsandbytes": ["0.45.2", "0.45.3", "0.45.4", "0.45.5", "0.46.0", "0.46.1", "0.50.2"],
            "torch": ["2.7.0", "2.7.1", "2.8.0", "2.9.0", "2.9.1", "2.10.0"],
        },
    },
    "matrix-show-gpu+release": {"gpu": "sm_120", "project": "bitsandbytes"},
    "matrix-show-nothing": {"gpu": "GeForce GTX 680"},
    "solve-refused-v100+all": {"everything": True},
    "solve-gptq-h200": {"make": "bnbenv add gptq"},
    "solve-awq-kernels": {"elsewhere": True, "make": "bnbenv add awq --package 'autoawq[kernels]'"},
    "solve-none": {"driver": "580.65.06", "make": "bnbenv add none"},
}
NAMES = sorted({*DOCUMENTS, *VIEWS})
COLOURS = {"\x1b[31m": "<red>", "\x1b[32m": "<green>", "\x1b[33m": "<yellow>", "\x1b[1m": "<bold>", "\x1b[0m": "</>"}


@pytest.fixture(autouse=True)
def _clock_of_greenwich() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    yield
    os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
    time.tzset()


def shown(name: str) -> str:
    document = json.loads((SCREENS / f"{name.partition('+')[0]}.json").read_text())
    if "error" in document:
        error = document["error"]
        return (
            render_error(BnbenvError(error["code"], error["message"], error["next_step"], error["detail"]), {}) + "\n"
        )
    command = document["schema"].removeprefix("bnbenv.").removesuffix("/1")
    command = re.sub("^(matrix|hook|fleet)-?", r"\1.", command + "show" * (command == "matrix")).replace("-", "_")
    render = importlib.import_module(f"bnbenv.cli.render.{command}").render
    return str(render(document, **VIEWS.get(name, {}))) + "\n"


def coloured(name: str) -> str:
    """The screen in colour, the codes as words."""
    text = style.paint(shown(name))
    for code, word in COLOURS.items():
        text = text.replace(code, word)
    return text


@pytest.mark.parametrize("name", NAMES)
def test_a_document_is_shown_as(name: str) -> None:
    screen = SCREENS / f"{name}.txt"
    if os.environ.get("RENEW_SCREENS"):
        screen.write_text(shown(name))
    assert shown(name) == screen.read_text()


@pytest.mark.parametrize("name", [path.stem.removesuffix(".colour") for path in SCREENS.glob("*.colour.txt")])
def test_a_document_is_shown_in_colour_as(name: str) -> None:
    screen = SCREENS / f"{name}.colour.txt"
    if os.environ.get("RENEW_SCREENS"):
        screen.write_text(coloured(name))
    assert coloured(name) == screen.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_colour_adds_nothing_but_colour(name: str) -> None:
    """Without its codes a screen is the plain one, so nothing is said by colour alone."""
    text = style.paint(shown(name))
    assert re.sub(r"\x1b\[[0-9]+m", "", text) == shown(name)
    for line in text.splitlines():  # what begins in a line ends in it: pagers show lines alone
        assert line.count("\x1b[0m") * 2 == line.count("\x1b["), line


# The others are tables, with their own words, and a script.
SENTENCES = [name for name in NAMES if not name.startswith(("verify", "facts", "fit", "completion"))]


@pytest.mark.parametrize("name", SENTENCES)
def test_screens_can_be_heard(name: str) -> None:
    """A screen reader reads signs out and knows no columns: no drawing, no tabs, no arrows but in versions."""
    for line in shown(name).splitlines():
        assert line.isascii() and line.isprintable(), line
        assert not re.search(r"\S {2,}\S", line.strip()), f"columns: {line}"
        assert not re.search(r"[-=*_#]{3,}", line), f"drawing: {line}"


def too_wide(text: str) -> list[str]:
    """Lines of more than 80 columns that could be broken: not one word, no command to copy, no device's title."""
    kept = ("    bnbenv sync", "    uv pip ", "next: ", "fix: ", "more: ", "use ", "project: ", "GPU-", "cpu: ")
    return [line for line in text.splitlines() if len(line) > 80 and " " in line.strip() and not line.startswith(kept)]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("error")])
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
        ("solve-h200", "bitsandbytes 0.50.2, torch 2.15.0 ", "next: bnbenv sync"),
        ("status-in-sync", "in sync: bnb", "use it: /home/me/train/.venv-bnb/bin/python"),
        ("status-broken", "not in sync: bnb, eval", "next: correct that file, then run: bnbenv status"),
        ("status-reboot", "reboot required: ", "next: Reboot, then run: bnbenv sync"),
        ("list", "bnb 1: made ", "next: bnbenv rollback N "),
        ("error-detail", "error: no known-good combination", "next: Give up the wish"),
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
    for words in (
        ["check"],
        ["plan"],
        ["list"],
        ["gc"],
        ["lock"],
        ["status"],
        ["status", "--why", "--all"],
        ["verify"],
    ):
        ended = project(*words)
        assert ended.code == 0, ended
        assert too_wide(ended.stdout.replace(str(project.root), "~")) == [], words
