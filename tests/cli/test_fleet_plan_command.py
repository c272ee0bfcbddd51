"""``bnbenv fleet plan`` as people call it, on recorded hosts; nothing is asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.facts.model import decode_facts
from bnbenv.fleet.answers import encode_report
from bnbenv.fleet.model import HostAnswer, HostEnv, HostReport

HOSTS = Path(__file__).parent.parent / "hosts"
TORCH = {"580.65.06__h200-sm90": "2.15.0", "580.65.06__v100-sm70": "2.14.1+cu126"}


def line(name: str, kind: str, torch: str | None = None) -> str:
    path = next(path for path in sorted(HOSTS.glob("*/facts.json")) if kind in path.parent.name)
    holds = {"torch": torch, "bitsandbytes": "0.50.2"} if torch else {}
    env = (HostEnv("bnb", True, 1, "ab" * 32, True, "cuda", holds),) if torch else ()
    return encode_report(
        HostReport(name, "ok", HostAnswer("1.0", "/srv/x", decode_facts(path.read_bytes(), name), env))
    )


@pytest.fixture
def plan(bnbenv: Any, faults: Callable[[Any], list[str]], tmp_path: Path) -> Callable[..., tuple[int, Any]]:
    """Plans for lines of a record: the exit code and the document, which has to be valid."""

    def run(*lines: str, words: tuple[str, ...] = (), **changes: str) -> tuple[int, Any]:
        (tmp_path / "fleet.jsonl").write_text("\n".join(lines))
        ran = bnbenv("fleet", "plan", "--facts", str(tmp_path / "fleet.jsonl"), "--json", *words, **changes)
        assert faults(ran.document) == []
        assert "error" in ran.document or set(_hosts(ran.document)) == {json.loads(text)["name"] for text in lines}
        return ran.code, ran.document

    return run


def _hosts(document: Any) -> list[str]:
    inside = [host["host"] for kind in document["classes"] for host in kind["hosts"]]
    return inside + [one["host"] for one in document["left_out"]]


def test_the_exit_code_says_what_is_to_be_done(plan: Callable[..., tuple[int, Any]]) -> None:
    good = [line(f"good-{kind}", kind, torch) for kind, torch in TORCH.items()]
    reboot, old = line("reboot", "mismatch__nogpu"), line("old", "k40m")
    for lines, code in [
        (good, 0),
        ([*good, line("behind", "580.65.06__h200-sm90", "2.10.0"), line("new", "580.65.06__h200-sm90"), reboot], 3),
        ([*good, reboot], 6),
        ([*good, old, reboot], 4),
        ([*good, old, reboot, encode_report(HostReport("far", "unreachable", None, "no route", "Wait."))], 1),
    ]:
        found, _ = plan(*lines, words=("--shipped",))
        assert found == code, lines


def test_the_document_names_every_host_once(plan: Callable[..., tuple[int, Any]]) -> None:
    kinds = ("580.65.06__h200-sm90", "580.65.06__v100-sm70", "gh200", "rtx4090-sm89__wsl", "error__nogpu__hung")
    lines = [line(f"{kind}-{number}", kind) for number in range(3) for kind in kinds]
    _, document = plan(*lines, words=("--shipped", "--one-lock"))
    assert document["hosts"] == len(lines) == len(_hosts(document)) == len(set(_hosts(document)))
    assert len(document["classes"]) == 4
    assert [one["code"] for one in document["left_out"]] == ["unknown-facts"] * 3
    found = document["one_lock"]
    assert found["fits_all"] is False or found["pins"][0]["package"] == "bitsandbytes"


def test_only_what_the_sources_offer_counts_unless_told(plan: Callable[..., tuple[int, Any]]) -> None:
    lines = [line("a", "580.65.06__h200-sm90")]
    assert plan(*lines, words=("--shipped",))[0] == 3
    code, document = plan(*lines)  # offline
    assert (code, document["asked"]) == (7, True)
    assert any(part["rule"] == "reachable" for part in document["classes"][0]["gets"][0]["conflict"])


def test_what_cannot_be_read(refused: Callable[..., str], tmp_path: Path) -> None:
    words = ("fleet", "plan", "--shipped", "--facts")
    (tmp_path / "empty").write_text("")
    assert "it is empty" in refused(*words, str(tmp_path / "empty"), step="bnbenv fleet facts -i")
    (tmp_path / "hosts.ini").write_text("[gpu]\nnode[01:20]\n")
    assert "line 1 is no JSON document" in refused(*words, str(tmp_path / "hosts.ini"))
    (tmp_path / "project").mkdir(exist_ok=True)
    (tmp_path / "project" / "bnbenv.toml").write_text('[envs.bnb]\ntorch = "keep"\n')
    (tmp_path / "one").write_text(line("a", "580.65.06__h200-sm90"))
    assert '"keep" is about the torch of one machine' in refused(*words, str(tmp_path / "one"))


def test_a_name_obeys_no_terminal(bnbenv: Any, tmp_path: Path) -> None:
    """What hosts say of themselves is shown, and not obeyed."""
    document = json.loads(line("good", "580.65.06__h200-sm90"))
    document["answer"]["facts"]["gpus"][0]["name"] = "\x1b[2Jcard\r\n"
    lying = json.dumps({**document, "name": "\x1b]0;title\x07"})
    (tmp_path / "fleet.jsonl").write_text(f"{json.dumps(document)}\n{lying}\n")
    ran = bnbenv("fleet", "plan", "--shipped", "--facts", str(tmp_path / "fleet.jsonl"))
    assert ran.code == 1
    assert "\x1b" not in ran.out and "\\x1b[2Jcard" in ran.out
    assert "left out, bad-answer: line 2" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80


def test_hosts_of_the_inventory_that_nothing_is_recorded_of(bnbenv: Any, tmp_path: Path) -> None:
    pytest.importorskip("ansible", reason="ansible-core is not installed")
    rows = [line("known", "580.65.06__h200-sm90"), line("elsewhere", "580.65.06__h200-sm90")]
    (tmp_path / "fleet.jsonl").write_text("\n".join(rows))
    (tmp_path / "hosts.ini").write_text("[gpus]\nknown\nnew\n")
    words = ("fleet", "plan", "--shipped", "--facts", str(tmp_path / "fleet.jsonl"), "-i", str(tmp_path / "hosts.ini"))
    ran = bnbenv(*words)
    assert ran.code == 1
    assert "left out, failed: new\n  because there is nothing about it in" in ran.out
    assert "\n    known\n" in ran.out
    assert "note: recorded, and not among these: elsewhere\n" in ran.out


@pytest.mark.real
def test_a_lock_that_holds_is_what_they_get(project: Any, faults: Callable[[Any], list[str]], tmp_path: Path) -> None:
    """As a rollout would, though the matrix knows a newer torch: nothing changes by the mere passing of time."""
    facts = decode_facts(json.dumps(project.done("facts")), "facts")
    text = (project.root / "pylock.bnb.toml").read_bytes()
    ours = hashlib.sha256(text).hexdigest()
    holds = {"torch": "2.13.0+cpu", "bitsandbytes": "0.50.2"}
    lines = [
        encode_report(
            HostReport(name, "ok", HostAnswer("1", "/x", facts, (HostEnv("bnb", True, 1, lock, True, "cpu", holds),)))
        )
        for name, lock in [("same", ours), ("other", "ab" * 32)]
    ]
    (tmp_path / "fleet.jsonl").write_text("\n".join(lines))
    words = ("fleet", "plan", "--shipped", "--json", "--facts", str(tmp_path / "fleet.jsonl"))
    ended = project(*words)
    assert (ended.code, faults(ended.document)) == (3, [])
    (kind,) = ended.document["classes"]
    assert {host["host"]: host["state"] for host in kind["hosts"]} == {"same": "in-sync", "other": "change"}
    (gets,) = kind["gets"]
    assert gets["choice"]["torch"]["version"] == "2.13.0+cpu"
    assert any("the lock that is there holds" in note and "2.15" in note for note in gets["notes"])
    # So does the one that the desk keeps of this class.
    folder = project.root / ".bnbenv" / "fleet" / "locks" / kind["id"]
    folder.mkdir(parents=True)
    (project.root / "pylock.bnb.toml").rename(folder / f"bnb.{ours}.toml")
    assert project(*words).document["classes"] == ended.document["classes"]
    # Of one combination for all the lock has these very versions, or is none.
    one = project(*words, "--one-lock").document
    assert one["classes"][0]["gets"][0]["choice"]["torch"]["version"] == one["one_lock"]["pins"][0]["torch"]


def test_a_limit_without_an_inventory_is_not_passed_over(plan: Callable[..., tuple[int, Any]]) -> None:
    code, document = plan(line("a", "580.65.06__h200-sm90"), words=("--limit", "gpu"))
    assert code == 2 and "-i INVENTORY" in document["error"]["next_step"]
