"""``bnbenv fleet sync`` as a program: real Ansible on this machine, a real project, and hosts that misbehave."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

REAL = Path(sys.executable).parent / "bnbenv"

# A bnbenv whose kernels fail, and one that answers in a language of its own.
FAILING = f"""#!/bin/sh
if [ "$2" = host ]; then exec {REAL} "$@"; fi
cat <<'DOCUMENT'
{{"schema": "bnbenv.fleet-apply/1", "state": "verify-failed", "because": "linear-nf4: error 0.73 of 0.11 allowed",
 "next_step": "See bnbenv doctor.", "before": [], "environments": [], "rolled_back": [], "seconds": 3.5}}
DOCUMENT
exit 5
"""
LYING = """#!/bin/sh
read -r _
echo '{"schema": "bnbenv.fleet-host/9", "hosts": "all"}'
"""


def faults(document: dict[str, Any]) -> list[str]:
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    schemas = [json.loads((files("bnbenv") / "schemas" / f"{name}.json").read_text()) for name in ("common", "error")]
    schema = json.loads((files("bnbenv") / "schemas" / "fleet-sync.json").read_text())
    registry = Registry().with_resources((one["$id"], Resource.from_contents(one)) for one in schemas)
    return [error.message[:200] for error in Draft202012Validator(schema, registry=registry).iter_errors(document)]


@pytest.fixture
def desk(project: Any, tmp_path: Path) -> Callable[..., Any]:
    """A desk whose wishes and lock are those of a real project, which is one of the hosts: ``done``."""
    folder = tmp_path / "desk"
    folder.mkdir()
    for name in ("bnbenv.toml", "pylock.bnb.toml"):
        shutil.copy2(project.root / name, folder)
    rows = [f"done bnbenv_project={project.root} bnbenv_executable={REAL}"]
    for name, text in (("failing", FAILING), ("lying", LYING)):
        program = tmp_path / name / "bnbenv"
        program.parent.mkdir()
        program.write_text(text)
        program.chmod(0o755)
        rows.append(f"{name} bnbenv_project={tmp_path / name} bnbenv_executable={program}")
    rows.append(f"bare bnbenv_executable={tmp_path}/none/bnbenv")
    rows.append("[all:vars]")
    rows.append(f"ansible_connection=local\nansible_python_interpreter={sys.executable}")
    rows.append(f"bnbenv_content={tmp_path}/content")
    (folder / "hosts.ini").write_text("\n".join(rows) + "\n")

    def run(*words: str) -> Any:
        return project("fleet", "sync", "--project", str(folder), "-i", str(folder / "hosts.ini"), *words)

    run.folder = folder  # type: ignore[attr-defined]
    return run


@pytest.mark.real
def test_good_and_bad_hosts_together(desk: Any, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    ended = desk("--json", "--html", str(page))
    assert ended.code == 5, ended
    document = ended.document
    assert faults(document) == []
    rows = {row["host"]: row for row in document["hosts"]}
    assert {host: row["state"] for host, row in rows.items()} == {
        "done": "in-sync",
        "failing": "verify-failed",
        "lying": "bad-answer",
        "bare": "no-bnbenv",
    }
    assert rows["failing"]["because"] == "linear-nf4: error 0.73 of 0.11 allowed"
    assert rows["failing"]["wave"] == 1 and not rows["failing"]["canary"], (
        "its class is proven by the host that is done"
    )
    assert rows["done"]["environments"][0]["lock"] == document["classes"][0]["gets"][0]["lock"]
    assert json.loads(Path(document["journal"]).read_text())["hosts"] == document["hosts"]
    assert "linear-nf4" in page.read_text()
    assert document["run_again"] == f"bnbenv fleet sync -i {desk.folder}/hosts.ini --project {desk.folder}"

    dry = desk("--limit", "done,failing", "--dry-run", "--json")
    assert dry.code == 3 and faults(dry.document) == []
    assert [row["state"] for row in dry.document["hosts"]] == ["in-sync", "would-change"]
