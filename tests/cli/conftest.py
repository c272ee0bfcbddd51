"""How the tests of the command line run it: the real program, in a folder of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on standard output."""
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def bnbenv(tool_environ: dict[str, str], tmp_path: Path) -> Callable[..., Ran]:
    """``bnbenv("check", "--json", cwd=folder, BNBENV_OFFLINE="1")``: the program, with nothing of this machine's users.

    It asks no package source, since it is given neither an index nor the network, unless a test names one.
    """
    own = {
        "BNBENV_HOME": str(tmp_path / "user"),
        "XDG_CONFIG_HOME": str(tmp_path / "no-configuration"),
        "HOME": str(tmp_path / "home"),
        "BNBENV_OFFLINE": "1",
        "TZ": "UTC",
    }
    base = {name: value for name, value in tool_environ.items() if not name.startswith(("UV_", "PIP_"))}

    def run(*words: str, cwd: Path | None = None, stdin: bytes = b"", **changes: str | None) -> Ran:
        environ = {name: value for name, value in {**base, **own, **changes}.items() if value is not None}
        folder = cwd or tmp_path / "project"
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "bnbenv", *words],
            cwd=folder,
            input=stdin,
            env=environ,
            capture_output=True,
            timeout=120,
            check=False,
        )
        ran = Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in ran.err and "fault of bnbenv" not in ran.err, ran.err
        return ran

    return run


@lru_cache(maxsize=1)
def _schemas() -> dict[str, Any]:
    folder = files("bnbenv") / "schemas"
    return {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in folder.iterdir()}


@pytest.fixture
def schemas() -> dict[str, Any]:
    """The schemas in the package, by command."""
    return _schemas()


@pytest.fixture
def faults() -> Callable[[Any], list[str]]:
    """What a document's schema has against it: ``faults(document) == []``. Of an error it is ``error``."""
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    known = _schemas()
    registry = Registry().with_resources((schema["$id"], Resource.from_contents(schema)) for schema in known.values())

    def check(document: Any) -> list[str]:
        name = str(document.get("schema", "")).removeprefix("bnbenv.").removesuffix("/1")
        if "error" in document:
            name = "error"
        if name not in known:
            return [f"there is no schema {name}"]
        validator = Draft202012Validator(known[name], registry=registry)
        return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(document)]

    return check


@pytest.fixture
def refused(bnbenv: Any, faults: Callable[[Any], list[str]]) -> Callable[..., str]:
    """Runs a command that has to be refused, for people and with ``--json``; returns the sentence."""

    def run(*words: str, code: int = 2, step: str = "", **more: Any) -> str:
        ran = bnbenv(*words, **more)
        assert ran.code == code, ran
        assert ran.out == ""
        errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
        steps = [line for line in ran.err.splitlines() if line.startswith("next: ")]
        assert len(errors) == 1 and len(steps) <= 1, ran.err
        assert ran.err.splitlines()[0] == errors[0]
        assert step in "".join(steps), steps
        again = bnbenv(*words, "--json", **more)
        assert again.code == code
        document = again.document
        assert faults(document) == []
        assert f"error: {document['error']['message']}" == errors[0]
        assert "".join(steps) == (f"next: {document['error']['next_step']}" if document["error"]["next_step"] else "")
        return errors[0].removeprefix("error: ")

    return run


@pytest.fixture(scope="session")
def hosts() -> list[Path]:
    """The recorded facts of every host."""
    return sorted((Path(__file__).parent.parent / "hosts").glob("*/facts.json"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The project in which ``bnbenv`` runs, with an environment: a Python and nothing in it."""
    root = tmp_path / "project"
    generation = root / ".bnbenv" / "generations" / "bnb" / "1"
    venv.create(generation, symlinks=True, with_pip=False)
    (root / "bnbenv.toml").write_text("[envs.bnb]\n")
    (root / ".venv-bnb").symlink_to(generation)
    record: dict[str, Any] = dict.fromkeys(("python", "wishes", "config", "lock", "created"), "")
    record |= {name: {} for name in ("host", "facts", "packages", "files", "decision", "verification")}
    record |= {"schema": "bnbenv.generation/1", "generation": 1, "environments": ["bnb"], "verified": True}
    generation.with_suffix(".json").write_text(json.dumps(record))
    return root
