"""Every document of ``--json`` has the schema in the package, and the schemas are strict."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli import COMMANDS, command_names, main

SCREENS = Path(__file__).parent / "screens"
SAMPLES = sorted(path.stem for path in SCREENS.glob("*.json"))
# Names of documents: what "matrix show" prints is the matrix.
DOCUMENTS = {name.replace("matrix show", "matrix").replace(" ", "-") for name in command_names()}
# Objects whose keys are names that somebody chose.
MAPS = {"environment", "packages", "figures", "parts", "device_map", "max_memory", "holds"}


def test_there_is_a_schema_for_every_command_and_for_errors(schemas: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator

    assert {*DOCUMENTS, "error", "common"} == set(schemas)
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_documents_behind_the_screens_are_valid(name: str, faults: Callable[[Any], list[str]]) -> None:
    assert faults(json.loads((SCREENS / f"{name}.json").read_text())) == []


def test_the_samples_are_of_every_command() -> None:
    schemas = {json.loads((SCREENS / f"{name}.json").read_text())["schema"] for name in SAMPLES}
    assert schemas == {f"bnbenv.{name}/1" for name in DOCUMENTS}


def _objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all objects in a document but those with free keys, and facts, which may have more fields."""
    if path[-1:] == ("facts",):
        return
    if isinstance(value, dict):
        if not path or path[-1] not in MAPS:
            yield path
        for key, inner in value.items():
            yield from _objects(inner, (*path, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _objects(inner, (*path, position))


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


@pytest.mark.parametrize("name", [name for name in SAMPLES if not name.startswith("facts")])
def test_a_missing_renamed_or_added_field_is_noticed(name: str, faults: Callable[[Any], list[str]]) -> None:
    document = json.loads((SCREENS / f"{name}.json").read_text())
    shapes = set()
    for path in _objects(document):
        shape = tuple("*" if isinstance(step, int) else step for step in path)
        if shape in shapes:  # one object of each list is enough
            continue
        shapes.add(shape)
        for field in _at(document, path):
            broken = copy.deepcopy(document)
            _at(broken, path)[field + "_"] = _at(broken, path).pop(field)
            assert faults(broken), f"{path}.{field} may be renamed"
            broken = copy.deepcopy(document)
            _at(broken, path).pop(field)
            assert faults(broken), f"{path}.{field} may be missing"
        broken = copy.deepcopy(document)
        _at(broken, path)["more"] = 1
        assert faults(broken), f"{path} may have more fields"


def test_fields_may_be_added_to_facts_and_none_may_be_missing(faults: Callable[[Any], list[str]]) -> None:
    document = json.loads((SCREENS / "facts-gh200.json").read_text())
    for path in _objects(document):
        added = copy.deepcopy(document)
        _at(added, path)["more"] = 1
        assert faults(added) == []
        for field in _at(document, path):
            broken = copy.deepcopy(document)
            _at(broken, path).pop(field)
            assert faults(broken), f"{path}.{field} may be missing"


@pytest.mark.parametrize("type_", [None, 1, "text", [], {}, True])
def test_a_field_of_another_type_is_noticed(type_: Any, faults: Callable[[Any], list[str]]) -> None:
    """Not for each field is each type wrong, but of each field are most types."""
    for name in ("sync-done", "solve-mixed", "verify-died", "check-not-in-sync"):
        document = json.loads((SCREENS / f"{name}.json").read_text())
        for field in document:
            nullable = (name, field) in (("verify-died", "warnings"), ("solve-mixed", "driver_change"))
            if type(document[field]) is type(type_) or nullable:
                continue
            assert faults({**document, field: type_}), (name, field)


def test_facts_of_every_recorded_host(
    hosts: list[Path], faults: Callable[[Any], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for host in hosts:
        assert main(["facts", "--json", "--facts", str(host)]) == 0
        assert faults(json.loads(capsys.readouterr().out)) == [], host


WISHES: list[list[str]] = [[], ["--torch", ">=2.15", "--bitsandbytes", "<0.47"], ["--backend", "cpu"], ["--gpus", "0"]]


@pytest.mark.parametrize("wishes", WISHES, ids=" ".join)
def test_solutions_and_refusals_for_every_recorded_host(
    wishes: list[str], hosts: list[Path], faults: Callable[[Any], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    ended = set()
    for host in hosts:
        code = main(["solve", "--json", "--shipped", "--facts", str(host), *wishes])
        document = json.loads(capsys.readouterr().out)
        assert faults(document) == [], host
        expected = {0: "solved", 4: "refused"}.get(code)
        assert document.get("status") == expected, host
        assert ("error" in document) == (code == 6), host
        ended.add(code)
    assert {0, 4} <= ended or wishes == ["--backend", "cpu"]


def test_facts_of_this_host(bnbenv: Any, faults: Callable[[Any], list[str]]) -> None:
    ran = bnbenv("facts", "--json")
    assert ran.code == 0
    assert faults(ran.document) == []


def test_the_commands_in_an_empty_project(bnbenv: Any, faults: Callable[[Any], list[str]]) -> None:
    for words, code in [
        (("init",), 0),
        (("init",), 1),
        (("check",), 3),
        (("list",), 0),
        (("gc",), 0),
        (("path",), 1),
        (("rollback",), 1),
        (("verify",), 1),
        (("sync", "--locked"), 2),
        (("synk",), 2),
    ]:
        ran = bnbenv(*words, "--json")
        assert ran.code == code, (words, ran)
        assert faults(ran.document) == [], words
        assert ("error" in ran.document) == (code in (1, 2)), words
        name = words[0] if words[0] in COMMANDS else "error"
        assert ran.document["schema"] == f"bnbenv.{name}/1"


def test_the_kernels_that_cannot_run_are_a_document_too(bnbenv: Any, faults: Callable[[Any], list[str]]) -> None:
    """A Python with neither torch nor bitsandbytes: the report of a failure, exit 5."""
    ran = bnbenv("verify", "--json", "--device", "cpu", "--python", sys.executable)
    assert ran.code == 5
    assert ran.document["ok"] is False
    assert faults(ran.document) == []


@pytest.mark.real
def test_the_documents_of_a_real_project(synced: Any, project: Any, faults: Callable[[Any], list[str]]) -> None:
    for name in ("init", "plan", "lock", "sync"):
        assert faults(synced.first[name].document) == [], name
    for words in (["check"], ["plan"], ["sync"], ["list"], ["path"], ["gc"], ["verify"]):
        assert faults(project.done(*words)) == [], words
    for words in (["sync", "--fresh", "--no-verify"], ["list"], ["rollback"]):
        assert faults(project.done(*words)) == [], words
    (project.root / "bnbenv.toml").write_text('[envs.bnb]\ntorch = "<2.13.0"\n')
    ended = project("check", "--json")
    assert (ended.code, faults(ended.document)) == (3, [])
