"""One folder, one case: ``tests/cases/solve/<name>/case.toml`` is what ``bnbenv solve`` is asked and must answer.

``why``     one sentence: which rule decides, and how
``host``    a folder of tests/hosts; without it the case's own facts.json
``patch``   what is different on this host: a JSON merge patch (RFC 7396) over its facts; "null" stands for null
``args``    the options of ``bnbenv solve``
``expect``  only what the case is about:
  ``exit``, ``status``, ``backend``, ``python``, ``environment``, ``torch``, ``bitsandbytes``, ``covers``,
  ``visible_devices``: as in the document; of a table only the keys that stand here
  ``packages``    the packages of another family, by name and version
  ``conflict``    the names of all rules in the conflict, without the GPU or advisory they are about
  ``because``     texts that the conflict's reasons must contain
  ``options``     ``solve_args`` that must be among the options
  ``people``      texts that must stand in the options that only people can carry out
  ``no_options``  texts that no option's change may contain
  ``notes``       texts that must stand in the notes; an empty list: there are no notes
  ``error``       texts that must stand in the error's message
  ``rejected``    tables of candidate and rule (texts they contain) that must be among the rejected
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent.parent
CASES = HERE / "cases" / "solve"
NAMES = sorted(folder.name for folder in CASES.iterdir() if (folder / "case.toml").is_file())
EXPECTATIONS = {
    *("exit", "status", "backend", "python", "environment", "torch", "bitsandbytes", "covers", "visible_devices"),
    *("packages", "conflict", "because", "options", "people", "no_options", "notes", "error", "rejected"),
}


def merged(document: Any, patch: Any) -> Any:
    """RFC 7396, with the text "null" for null, which TOML has not."""
    if not isinstance(patch, dict):
        return None if patch == "null" else patch
    result = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        result[key] = merged(result.get(key), value)
    return result


def facts_of(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    source = HERE / "hosts" / case["host"] if "host" in case else folder
    document: dict[str, Any] = merged(json.loads((source / "facts.json").read_text()), case.get("patch", {}))
    return document


def bare(rule: str) -> str:
    """``torch-arch[1]`` and ``advisory:triton-ops`` without what they are about."""
    return rule.split("[")[0].split(":")[0]


def pairs(words: list[str]) -> dict[str, str | None]:
    """``--gpus 0 --torch * --build`` whatever the order."""
    flags = [word for word in words if word in ("--build", "--no-build")]
    plain = [word for word in words if word not in flags]
    return {**dict(zip(plain[::2], plain[1::2], strict=True)), **dict.fromkeys(flags)}


def check_solved(document: dict[str, Any], expect: dict[str, Any]) -> None:
    choice = document["choice"]
    for name in ("torch", "bitsandbytes"):
        wanted = expect.get(name, {})
        assert {key: choice[name][key] for key in wanted} == wanted
    for name in ("python", "environment"):
        if name in expect:
            assert choice[name] == expect[name]
    for name in ("backend", "visible_devices"):
        if name in expect:
            assert document[name] == expect[name]
    if "packages" in expect:
        assert {one["name"]: one["version"] for one in choice["packages"]} == expect["packages"]
    if "covers" in expect:
        covers = zip(document["covers"], expect["covers"], strict=True)
        assert [{key: cover[key] for key in wanted} for cover, wanted in covers] == expect["covers"]
    notes = document.get("notes", [])
    for text in expect.get("notes", []):
        assert any(text in note for note in notes), notes
    if expect.get("notes") == []:
        assert notes == []
    for row in expect.get("rejected", []):
        assert any(
            row["candidate"] in found["candidate"] and row["rule"] == bare(found["rule"])
            for found in document["rejected"]
        ), document["rejected"]


def check_refused(document: dict[str, Any], expect: dict[str, Any]) -> None:
    conflict, options = document["conflict"], document["options"]
    if "conflict" in expect:
        assert sorted({bare(part["rule"]) for part in conflict}) == sorted(expect["conflict"]), conflict
    for text in expect.get("because", []):
        assert any(text in part["because"] for part in conflict), conflict
    for wanted in expect.get("options", []):
        assert pairs(wanted) in [
            pairs(option["solve_args"]) for option in options if option["solve_args"] is not None
        ], options
    for text in expect.get("people", []):
        assert any(text in option["change"] for option in options if option["solve_args"] is None), options
    for text in expect.get("no_options", []):
        assert not any(text in option["change"] for option in options), options


@pytest.mark.parametrize("name", NAMES)
def test_case(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], conforms: Callable[[dict[str, Any]], None]
) -> None:
    folder = CASES / name
    case = tomllib.loads((folder / "case.toml").read_text())
    assert set(case) <= {"why", "host", "patch", "args", "expect"} and case["why"].endswith(".")
    expect = case["expect"]
    assert set(expect) <= EXPECTATIONS
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps(facts_of(case, folder)))
    code = main(["solve", "--json", "--shipped", "--facts", str(facts), *case["args"]])
    document = json.loads(capsys.readouterr().out)
    conforms(document)
    assert code == expect["exit"], document
    assert document.get("status") == expect.get("status")
    if "error" in document:
        for text in expect["error"]:
            assert text in document["error"]["message"]
    elif document["status"] == "solved":
        check_solved(document, expect)
    else:
        check_refused(document, expect)
