"""``bnbenv fleet sync`` as a program: real Ansible on this machine, a real project, and hosts that misbehave."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.hold import hold

HOSTS = Path(__file__).parent.parent / "hosts"
REAL = Path(sys.executable).parent / "bnbenv"

# A bnbenv whose kernels fail, and one that answers in a language of its own.
FAILING = f"""#!/bin/sh
if [ "$2" = host ]; then exec {REAL} "$@"; fi
if [ -e "$0.slow" ]; then sleep 300; fi
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

    def run(*words: str, start: bool = False) -> Any:
        all_words = ("fleet", "sync", "--project", str(folder), "-i", str(folder / "hosts.ini"), *words)
        return project.start(*all_words) if start else project(*all_words)

    run.folder = folder  # type: ignore[attr-defined]
    return run


@pytest.mark.real
def test_interrupted_then_good_and_bad_hosts_together(desk: Any, tmp_path: Path) -> None:
    slow = tmp_path / "failing" / "bnbenv.slow"
    slow.touch()
    process = desk("--json", "--limit", "done,failing", "--content", "http:127.0.0.1", start=True)
    for line in process.stderr:
        if line.startswith("failing: installing"):
            process.send_signal(signal.SIGINT)
            break
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    document = json.loads(out)
    assert faults(document) == []
    assert {row["host"]: row["state"] for row in document["hosts"]} == {"done": "in-sync", "failing": "interrupted"}
    assert json.loads(Path(document["journal"]).read_text())["ended"] == "interrupted"

    slow.unlink()
    page = tmp_path / "report.html"
    share = tmp_path / "share"
    share.mkdir()
    ended = desk("--json", "--html", str(page), "--content", f"shared:{share}")
    assert ended.code == 5, ended
    document = ended.document
    assert [path.name for path in share.iterdir()] == [f"{document['classes'][0]['content']['sha256']}.tar"]
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
    assert (
        document["run_again"]
        == f"bnbenv fleet sync -i {desk.folder}/hosts.ini --project {desk.folder} --content shared:{share}"
    )

    dry = desk("--limit", "done,failing", "--dry-run", "--json")
    assert dry.code == 3 and faults(dry.document) == []
    assert [row["state"] for row in dry.document["hosts"]] == ["in-sync", "would-change"]
    assert "1 to be changed, 1 in sync, 0 left out" in dry.stderr


def test_one_lock_for_hosts_that_nothing_fits_all_of(empty: Any, tmp_path: Path) -> None:
    """Nothing is made or changed, and who stands in the way is named."""
    rows = [f"[all:vars]\nansible_connection=local\nansible_python_interpreter={sys.executable}", "[lab]"]
    for host, facts in (
        ("old", "470.256.02__k40m-sm35"),
        ("new-1", "580.65.06__h200-sm90"),
        ("new-2", "580.65.06__h200-sm90"),
    ):
        program = tmp_path / host / "bnbenv"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nBNBENV_FACTS={HOSTS}/linux-x86_64__{facts}/facts.json exec {REAL} "$@"\n')
        program.chmod(0o755)
        rows.append(f"{host} bnbenv_project={tmp_path / host} bnbenv_executable={program}")
    (empty.root / "hosts.ini").write_text("\n".join(rows) + "\n")
    (empty.root / "bnbenv.toml").write_text("[envs.bnb]\n")
    ended = empty("fleet", "sync", "-i", "hosts.ini", "--one-lock")
    assert (ended.code, ended.stdout) == (4, ""), ended
    assert "1 of them stands in the way (old)" in ended.stderr
    assert "next: See what each of them would need: bnbenv fleet plan --one-lock" in ended.stderr
    assert not (empty.root / ".bnbenv" / "fleet" / "bundles").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--batch", "0%"), '--batch: expected a number from 1 on, or 1% to 100%, found "0%"'),
        (("--content", "shared"), '--content: expected copy, shared:DIR or http[:ADDRESS], found "shared"'),
        (("--html", "."), "is no file that can be written"),
        (("-i", "none.ini"), "none.ini"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_read_is_said_before_any_host_is_asked(words: tuple[str, ...], says: str, empty: Any) -> None:
    ended = empty("fleet", "sync", *words)
    assert (ended.code, ended.stdout) == (2, ""), ended
    assert says in ended.stderr


def test_a_second_desk_at_the_same_project(empty: Any) -> None:
    folder = empty.root / ".bnbenv" / "fleet" / "rollouts"
    folder.mkdir(parents=True)
    (empty.root / "bnbenv.toml").write_text("[envs.bnb]\n")
    with hold(folder, "it", 0, empty.environ, print):
        ended = empty("fleet", "sync", "-i", "a,", "--json")
    assert ended.code == 8, ended
    assert ended.document["error"]["message"].startswith("another bnbenv is at work on the hosts of ")
