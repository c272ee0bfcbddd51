"""``bnbenv status``: the same verdict as ``check``, everything else beside it, and an answer whatever is broken."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

HOSTS = Path(__file__).parent.parent / "hosts"


def status(project: Any, *words: str, code: int, **changes: str | None) -> tuple[dict[str, Any], str]:
    """The document, and what people see; both ended with that code."""
    ended, seen = project("status", "--json", *words, **changes), project("status", *words, **changes)
    assert (ended.code, seen.code) == (code, code), ended.stdout + ended.stderr
    assert seen.stderr == ""
    return ended.document, seen.stdout


def test_where_nothing_was_made_it_says_so(empty: Any, faults: Callable[[Any], list[str]]) -> None:
    document, text = status(empty, code=3)
    assert faults(document) == []
    assert text.splitlines()[0] == "not in sync: bnb"
    assert "because there is no .venv-bnb yet" in text
    assert "your own: no bnbenv.toml is here or above" in text
    assert text.splitlines()[-1].startswith("next: bnbenv sync")
    assert list(empty.root.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("[envs.bnb\n", "this is not TOML"),
        ("[envs.bnb]\ntorhc = '2.9'\n", 'did you mean "torch"?'),
        ("\0", "not TOML"),
        ("[envs.bnb]\ngpus = 'first'\n", 'expected "all", indices or UUIDs'),
    ],
)
def test_a_bnbenv_toml_that_cannot_be_read_is_one_line_of_many(
    config: str, said: str, empty: Any, faults: Callable[[Any], list[str]]
) -> None:
    (empty.root / "bnbenv.toml").write_text(config)
    document, text = status(empty, "--why", code=3)
    assert faults(document) == []
    assert [problem["code"] for problem in document["problems"]] == ["unreadable-input"]
    assert said in document["problems"][0]["because"]
    assert "host: " in text and "bnb: not in sync" in text


def test_facts_that_cannot_be_read_are_one_line_of_many(empty: Any, faults: Callable[[Any], list[str]]) -> None:
    document, text = status(empty, code=3, BNBENV_FACTS=str(empty.root / "gone.json"))
    assert faults(document) == []
    assert document["host"]["state"] == "unknown"
    assert "gone.json: cannot be read" in document["problems"][0]["because"]
    assert "because there is no .venv-bnb yet" in text


def test_a_folder_that_nobody_should_believe_is_one_line_of_many(empty: Any) -> None:
    (empty.root / "bnbenv.toml").write_text("[envs.bnb]\n")
    empty.root.chmod(0o777)
    assert empty("check").code == 2
    document, text = status(empty, code=3)
    assert [problem["code"] for problem in document["problems"]] == ["open-to-all"]
    assert f"next: Close it: chmod o-w {empty.root}" in text
    assert "because there is no .venv-bnb yet" in text


def test_a_driver_half_upgraded_is_a_reboot(empty: Any, faults: Callable[[Any], list[str]]) -> None:
    facts = str(HOSTS / "linux-x86_64__mismatch__nogpu" / "facts.json")
    document, text = status(empty, code=6, BNBENV_FACTS=facts)
    assert faults(document) == []
    assert text.splitlines()[0].startswith("reboot required: ")
    assert text.splitlines()[-1] == "next: Reboot, then run: bnbenv sync"
    assert "bnb: not in sync" in text


@pytest.mark.parametrize("host", sorted(path.name for path in HOSTS.iterdir() if path.is_dir()))
def test_of_every_recorded_host(host: str, bnbenv: Any, faults: Callable[[Any], list[str]]) -> None:
    facts = str(HOSTS / host / "facts.json")
    ran = bnbenv("status", "--json", BNBENV_FACTS=facts)
    recorded = json.loads(Path(facts).read_text())
    assert ran.code == (6 if recorded["driver"]["state"] == "mismatch" else 3)
    assert faults(ran.document) == []
    assert ran.document["host"]["state"] == recorded["driver"]["state"]
    assert ran.document["host"]["driver"] == (recorded["driver"]["version"] or recorded["driver"]["userland"])
    assert len(ran.document["host"]["gpus"]) == len(recorded["gpus"])


def test_an_environment_that_there_is_not_is_wrong_usage(refused: Callable[..., str]) -> None:
    assert 'names no environment "nope"' in refused("status", "--env", "nope")
    assert "--env" in refused("status", "--env", "../up")


@pytest.mark.real
def test_in_sync_it_says_what_is_in_use_and_how_to_use_it(
    project: Any, synced: Any, faults: Callable[[Any], list[str]]
) -> None:
    document, text = status(project, code=0)
    assert faults(document) == []
    lines = text.splitlines()
    assert lines[0] == "in sync: bnb"
    assert lines[-1] == f"use it: {project.root}/.venv-bnb/bin/python"
    row = document["environments"][0]
    assert (row["generation"], row["in_sync"], row["verified"], row["backend"]) == (1, True, True, "cpu")
    chosen = synced.first["sync"].document["generations"][0]["choice"]
    assert row["holds"]["torch"] == chosen["torch"]["version"]
    assert row["verified_on"][0]["device"] == "cpu" and row["verified_on"][0]["checks"] > 10
    assert row["created"] <= row["verified_at"]
    assert "for the CPU" in text
    assert project.python("print('used')") == "used"


@pytest.mark.real
def test_why_says_what_was_chosen_and_what_it_rests_on(project: Any, faults: Callable[[Any], list[str]]) -> None:
    document, text = status(project, "--why", code=0)
    assert faults(document) == []
    decision = document["environments"][0]["decision"]
    for words in ("why this one, what counts most first:", "it rests on:", "measured ", "resolved: ", "verified: "):
        assert words in text, words
    for row in decision["evidence"][:2]:
        assert row["date"] in text
        assert f"{row['source'].partition('sha256:')[2][:12]}..." in text
        assert row["source"].partition("sha256:")[2] not in text
    whole = project("status", "--all").stdout  # which implies --why
    assert all(word in whole for row in decision["evidence"] for word in row["source"].split())
    assert project("status").stdout in whole or "why this one" not in project("status").stdout


@pytest.mark.real
def test_what_was_passed_over_is_kept_in_the_record_when_it_is_renewed(project: Any) -> None:
    record = project.root / ".bnbenv" / "generations" / "bnb" / "1.json"
    document = json.loads(record.read_text())
    passed = {"candidate": "torch 9.9 (CPU, local)", "rule": "libc", "because": "it is tagged for glibc 9.9"}
    record.write_text(json.dumps({**document, "verified": False, "verified_at": None, "decision": {
        **document["decision"], "rejected": [passed]}}))  # fmt: skip
    assert set(project.drift()) == {"unverified"}
    assert "torch 9.9 (CPU, local): it is tagged for glibc 9.9" in project("status", "--why").stdout
    project.done("sync")
    after = json.loads(record.read_text())
    assert after["decision"]["rejected"] == [passed]
    assert after["created"] == document["created"] < after["verified_at"]


def _link_replaced(root: Path) -> None:
    (root / ".venv-bnb").unlink()
    (root / ".venv-bnb").mkdir()


DRIFTS: dict[str, Callable[[Path], object]] = {
    "wishes": lambda root: (root / "bnbenv.toml").write_text("[envs.bnb]\ntorch = '<9'\n"),
    "another environment": lambda root: (root / "bnbenv.toml").write_text("[envs.other]\n"),
    "no lock": lambda root: (root / "pylock.bnb.toml").unlink(),
    "lock edited": lambda root: (root / "pylock.bnb.toml").write_text("x = 1\n"),
    "link gone": lambda root: (root / ".venv-bnb").unlink(),
    "link replaced": _link_replaced,
    "link elsewhere": lambda root: [(root / ".venv-bnb").unlink(), (root / ".venv-bnb").symlink_to(root)],
    "Python gone": lambda root: (root / ".venv-bnb/bin/python").unlink(),
    "no record": lambda root: (root / ".bnbenv/generations/bnb/1.json").unlink(),
    "record damaged": lambda root: (root / ".bnbenv/generations/bnb/1.json").write_text("{"),
    "record of a newer bnbenv": lambda root: (root / ".bnbenv/generations/bnb/1.json").write_text(
        '{"schema": "bnbenv.generation/9"}'
    ),
}


@contextlib.contextmanager
def _undone(root: Path) -> Iterator[None]:
    """What is changed inside is as before afterwards."""
    files = [root / name for name in ("bnbenv.toml", "pylock.bnb.toml", ".bnbenv/generations/bnb/1.json")]
    links = [root / ".bnbenv/generations/bnb/1/bin/python", root / ".venv-bnb"]
    contents, targets = [path.read_bytes() for path in files], [path.readlink() for path in links]
    yield
    for path, content in zip(files, contents, strict=True):
        path.write_bytes(content)
    for path, target in zip(links, targets, strict=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        path.symlink_to(target)


@pytest.mark.real
def test_what_is_wrong_is_told_as_check_tells_it(project: Any, faults: Callable[[Any], list[str]]) -> None:
    for name, change in DRIFTS.items():
        with _undone(project.root):
            change(project.root)
            checked = project("check", "--json")
            document, text = status(project, "--why", code=checked.code)
            assert checked.code == 3 and faults(document) == [], name
            reasons = [reason for row in document["environments"] for reason in row["reasons"]]
            assert reasons == checked.document["reasons"], name
            said = " ".join(text.split())
            assert all(" ".join(reason["because"].split()) in said for reason in reasons), name
    assert status(project, code=0)[0]["in_sync"]


@pytest.mark.real
def test_a_record_in_which_anything_may_stand_is_told_as_far_as_it_goes(
    project: Any, faults: Callable[[Any], list[str]]
) -> None:
    record = project.root / ".bnbenv" / "generations" / "bnb" / "1.json"
    sound = json.loads(record.read_text())
    for damage in (
        {"verification": {"devices": "none"}},
        {"verification": {"devices": [None, {"steps": 3}, {"steps": [None]}]}},
        {"facts": {"gpus": {}, "driver": []}},
        {"facts": {"gpus": [None, {}]}, "decision": {"backend": "cuda", "covers": 1}},
        {"decision": {"choice": {"torch": {"version": 2.13}, "python": None}}},
        {"decision": {**sound["decision"], "evidence": "x", "rejected": [1]}},
        {"decision": {}},
        {"created": "yesterday", "verified_at": "+99999-01-01"},
    ):
        record.write_text(json.dumps({**sound, **damage}))
        document, text = status(project, "--why", code=0)
        if "created" not in damage:
            assert faults(document) == [], damage
        assert "generation 1 is in use" in text


@pytest.mark.real
def test_another_bnbenv_at_work_and_the_last_runs(project: Any) -> None:
    folder = project.root / ".bnbenv" / "log"
    folder.mkdir(exist_ok=True)
    for log in folder.iterdir():
        log.unlink()
    (folder / "20261120T210000.000Z-sync-11.log").write_text("bnbenv\n    0.10 s  exit 5 after 61.4 s\n")
    (folder / "20261120T220000.000Z-gc-12.log").write_text("bnbenv\n    0.10 s  deleted exit 3 times\n")
    (folder / "notes.txt").write_text("exit 0 after 1 s\n")
    (folder / "20261120T230000.000Z-sync-13.log").mkdir()
    document, text = status(project, code=0)
    assert [(run["command"], run["exit"], run["seconds"]) for run in document["runs"]] == [
        ("sync", None, None),
        ("gc", None, None),
        ("sync", 5, 61.4),
    ]
    assert document["runs"][2]["started"] == "2026-11-20T21:00:00+00:00"
    assert "verification failed after 61 s" in text and "did not end by itself" in text
    assert document["at_work"] is False
    with FileLock(project.root / ".bnbenv" / "lock"):
        document, text = status(project, code=0)
        assert document["at_work"] is True
        assert "at work now: another bnbenv: sync, since " in text
    marker = project.root / ".bnbenv" / "lock.held"  # where a file system has no locks
    for number, machine, held in [(os.getpid(), platform.node(), True), (2**22 + 1, platform.node(), False)]:
        marker.write_text(f"{number}\n{machine}\n")
        assert status(project, code=0)[0]["at_work"] is held
    marker.write_text("4711\nanother-machine\n")
    assert status(project, code=0)[0]["at_work"] is True
    marker.unlink()
    assert project("sync").code == 0  # status held nothing back
    assert status(project, code=0)[0]["at_work"] is False


@pytest.mark.real
def test_the_disk_space_counts_each_file_once(project: Any) -> None:
    one = status(project, "--disk", code=0)[0]["environments"][0]["disk"]
    folder = project.root / ".bnbenv" / "generations" / "bnb"
    (folder / "2").mkdir()
    (folder / "2" / "own").write_bytes(os.urandom(1 << 20))
    (folder / "2" / "own-too").hardlink_to(folder / "2" / "own")
    shared = next(path for path in (folder / "1").rglob("libbitsandbytes_cpu.so"))
    (folder / "2" / "shared.so").hardlink_to(shared)
    document, text = status(project, "--disk", code=0)
    two = document["environments"][0]["disk"]
    assert document["environments"][0]["unfinished"] == [2]
    assert 1 << 20 <= two["bytes"] - one["bytes"] < (1 << 20) + 65536
    assert 1 << 20 <= two["own"] - one["own"] < (1 << 20) + 65536
    assert one["own"] < one["bytes"] / 4  # the packages are links into uv's cache
    assert " MiB of disk; without them " in text
