"""What Ansible tells, and what it means for a host: its own words in one sentence, and no trust in what hosts say."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bnbenv.errors import Failed, InputError
from bnbenv.fleet.answers import decode_applied, decode_report, encode_report
from bnbenv.fleet.desk import Follower, private_folder, write_passwords
from bnbenv.fleet.events import Event, bootstrapped, read_events, report_of, result_of
from bnbenv.fleet.sentences import of_ansible, sentence, warnings_of

FACTS = json.loads(
    (Path(__file__).parents[1] / "hosts" / "linux-x86_64__580.65.06__h200-sm90" / "facts.json").read_text()
)
ANSWER: dict[str, Any] = {
    "schema": "bnbenv.fleet-host/1",
    "bnbenv": "0.1.0",
    "project": "/srv/train",
    "facts": FACTS,
    "environments": [{"env": "bnb", "in_sync": True, "lock": "0" * 64, "verified": True}],
}
APPLIED: dict[str, Any] = {"schema": "bnbenv.fleet-apply/1", "state": "changed"}


def answered(document: object) -> Any:
    return report_of(Event("ok", "node1", "Ask", {"answer": document}))


def applied(document: object, event: str = "ok") -> Any:
    return result_of(Event(event, "node1", "Apply", {"applied": document, "msg": "it failed"}))


def test_lines_are_read_as_they_are_written() -> None:
    whole = b'{"event": "began", "host": "a", "task": "Ask"}\nno line of ours\n{"event": "o'
    events, rest = read_events(whole)
    assert [(one.event, one.host) for one in events] == [("began", "a")]
    events, rest = read_events(rest + b'k", "host": "b"}\n')
    assert [(one.event, one.host) for one in events] == [("ok", "b")]
    assert rest == b""
    assert read_events(b"[" * 100_000 + b"\n") == ([], b"")


def test_an_answer_is_a_report_and_a_line_of_it_is_read_again() -> None:
    report = answered(ANSWER)
    assert report.state == "ok" and report.answer.facts.gpus[0].arch == "sm_90"
    assert decode_report(json.loads(encode_report(report)), "line 1") == report


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "bnbenv.fleet-host/9"}, 'schema: expected "bnbenv.fleet-host/1", found "bnbenv.fleet-host/9"'),
        ({"facts": {**FACTS, "schema": "bnbenv.facts/2"}}, "facts.schema: expected"),
        ({"facts": {**FACTS, "gpus": "none"}}, "facts.gpus: expected a list [...], found text in quotes"),
        ({"facts": {**FACTS, "gpus": [{**FACTS["gpus"][0], "memory_total": -1}]}}, "facts.gpus[0].memory_total"),
        ({"environments": [{"env": "../../etc", "in_sync": True}]}, "environments[0].env"),
        ({"environments": [{"env": "bnb", "in_sync": True, "lock": "{{ 1 }}"}]}, "environments[0].lock"),
        ({"environments": [{"env": f"e{i}", "in_sync": True} for i in range(1001)]}, "environments: expected at most"),
    ],
)
def test_a_host_that_lies_is_one_with_a_bad_answer(change: dict[str, Any], said: str) -> None:
    report = answered({**ANSWER, **change})
    assert (report.state, report.answer) == ("bad-answer", None)
    assert said in report.because


def test_what_hosts_say_is_shown_harmless() -> None:
    report = answered({**ANSWER, "project": "/srv\x1b[2J\r\nin sync: all", "reboot": "x" * 100_000})
    assert report.answer.project == "/srv\\x1b[2J\\r\\nin sync: all"
    assert len(report.answer.reboot) < 10_000
    deep: Any = "x"
    for _ in range(50_000):
        deep = [deep]
    assert answered({**ANSWER, "more": deep}).state == "bad-answer"
    assert answered(None).state == answered([1]).state == "bad-answer"
    too_large = report_of(Event("ok", "node1", "Ask", {}, too_large=9_000_000))
    assert too_large is not None and too_large.state == "bad-answer" and "9000000" in too_large.because


def test_what_became_of_a_host() -> None:
    assert applied(APPLIED).state == "changed"
    failed = applied({**APPLIED, "state": "verify-failed", "because": "4 bit: NaN", "next_step": "See."}, "failed")
    assert (failed.state, failed.because, failed.next_step) == ("verify-failed", "4 bit: NaN", "See.")
    assert applied({**APPLIED, "state": "splendid"}).state == "failed"
    other = applied({**APPLIED, "state": "no-combination", "because": "no Python 3.12", "next_step": "bnbenv bundle"})
    assert "Run it again" in other.next_step, "the desk makes the bundles"
    assert applied(None, "failed") == result_of(Event("failed", "node1", "Apply", {"msg": "it failed"}))
    brought = result_of(Event("failed", "node1", "Copy the bundle", {"msg": "No space left on device"}))
    assert brought is not None and brought.state == "failed" and "disk is full" in brought.because
    assert result_of(Event("ok", "node1", "Copy the bundle", {"applied": APPLIED})) is None
    lost = result_of(Event("unreachable", "node1", "Apply", {"msg": "Shared connection to 10.0.0.1 closed."}))
    assert lost is not None and (lost.state, lost.because) == ("unreachable", "Shared connection to 10.0.0.1 closed.")
    with pytest.raises(InputError, match="before"):
        decode_applied({**APPLIED, "before": [{"env": "b b", "in_sync": True}]}, "answer")


# What ansible-core 2.17 and 2.19 said here, shortened; ssh and sudo in a way that cannot be made in every test.
@pytest.mark.parametrize(
    ("msg", "because", "step"),
    [
        (
            "Task failed: Failed to connect to the host via ssh: @@@@\r\n@  WARNING: REMOTE HOST IDENTIFICATION HAS"
            " CHANGED!  @\r\n@@@@\r\nHost key verification failed.",
            "its host key is another one than before: the host was set up anew, or it is not this host",
            "ssh-keygen -R",
        ),
        ("Failed to connect to the host via ssh: Host key verification failed.", "its host key is not known", "ssh"),
        (
            "Failed to connect to the host via ssh: Warning: Permanently added '10.0.0.1'\r\n"
            "root@10.0.0.1: Permission denied (publickey,password).",
            "ssh does not let this user in: Permission denied (publickey,password)",
            "-u, --private-key",
        ),
        (
            'Task failed: Data could not be sent to remote host "10.0.0.9". Make sure this host can be reached over'
            " ssh: ssh: connect to host 10.0.0.9 port 22: No route to host\r\n",
            "ssh: connect to host 10.0.0.9 port 22: No route to host",
            "",
        ),
        ("Task failed: Incorrect sudo password", "the password for --become is not right", "-K"),
        ("Missing sudo password", "--become needs a password there", "-K"),
        (
            "to use the 'ssh' connection type with passwords or pkcs11_provider, you must install the sshpass program",
            "passwords for ssh need the program sshpass on this machine",
            "sshpass",
        ),
        (
            "Unable to execute ssh command line on a controller: [Errno 2] No such file or directory: b'ssh'",
            "there is no ssh on this machine",
            "openssh-client",
        ),
        (
            "Task failed: Module result deserialization failed: pyenv: python3.13: command not found\n",
            "the python3.13 that Ansible found there is a shim of pyenv",
            "-e",
        ),
        ("The bnbenv.fleet.sync action failed to execute in the expected time frame (30) and was terminated", "30", ""),
        ("", "Ansible gives no reason", ""),
        ("one\x1b[31m\nsecond line", "one\\x1b[31m", ""),
    ],
)
def test_a_failure_is_one_sentence(msg: str, because: str, step: str) -> None:
    said = sentence({"msg": msg})
    assert because in said.because and step in said.next_step
    assert said.because.isprintable() and len(said.because) <= 300


def test_what_a_host_says_without_end_is_read_in_no_time() -> None:
    began = time.process_time()
    assert sentence({"msg": "python" * 30_000}).because.startswith("pythonpython")
    assert "Permission denied" in sentence({"msg": "x" * 100_000 + "\nPermission denied (publickey)."}).because
    assert time.process_time() - began < 10


def test_a_module_that_crashes_is_named_by_its_error() -> None:
    trace = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nKeyError: "x"\n'
    said = sentence({"msg": "MODULE FAILURE\nSee stdout/stderr for the exact error", "module_stderr": trace, "rc": 1})
    assert said.because == 'a module of Ansible crashed there (KeyError: "x")'


def test_ansibles_own_errors_and_warnings() -> None:
    old = (
        "[WARNING]:  * Failed to parse /x/hosts with ini\nplugin: no host\nERROR! Completely failed to parse /x/hosts\n"
    )
    new = "[WARNING]: Failed to parse\n\n[ERROR]: Completely failed to parse /x/hosts\n"
    assert of_ansible(old) == of_ansible(new) == "Completely failed to parse /x/hosts"
    assert warnings_of(old) == ["* Failed to parse /x/hosts with ini plugin: no host"]
    trace = "ERROR: Error reading config file (a.cfg): no section\n\nTraceback (most recent call last):\n  File\n"
    assert of_ansible(trace) == "Error reading config file (a.cfg): no section"
    assert of_ansible("nothing of the kind") == ""


def test_what_a_killed_desk_left_is_deleted_and_not_what_another_one_has(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    code = (
        "import os, signal, sys; from bnbenv.fleet.desk import private_folder, write_passwords\n"
        "with private_folder({'XDG_RUNTIME_DIR': sys.argv[1]}) as folder:\n"
        "    write_passwords(folder, {'become': 'open sesame'}); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    assert "open sesame" in (left / "password-0").read_text()
    with private_folder(environ) as other:
        assert left.exists()  # it may be one that is just being made
        for folder in (left, other):
            os.utime(folder, (0, 0))
        with private_folder(environ) as own:
            assert set(tmp_path.iterdir()) == {other, own}
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Failed, match="cannot be written"), private_folder(environ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes, and no Ansible")
def test_passwords_are_for_nobody_else_and_gone_when_ansible_has_read_them(tmp_path: Path) -> None:
    file = write_passwords(tmp_path, {"become": "open sesame"})["become"]
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("open sesame\n", 0o600)
    (tmp_path / "events").write_text('{"event": "start"}\n')
    with Follower(tmp_path / "events", lambda event: None, [file]) as follower:
        follower.follow()
        assert follower.started and not file.exists()


def test_what_became_of_a_host_that_was_bare() -> None:
    found = [bootstrapped(None, numbers, "a") for numbers in ({"ok": 3, "changed": 1}, {"ok": 3, "changed": 0}, None)]
    assert [one and one.state for one in found] == ["changed", "in-sync", None]
    lost = bootstrapped(Event("unreachable", "a", "", {"msg": "gone"}), {"changed": 1}, "a")
    assert lost is not None and (lost.state, lost.because) == ("unreachable", "gone")
