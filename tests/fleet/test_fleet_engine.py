"""The engine with real Ansible on this machine: hosts of all kinds in one run, and each is heard of exactly once."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli import main
from bnbenv.errors import Failed, InputError, UsageError
from bnbenv.fleet.engine import AnsibleEngine, find_programs
from bnbenv.fleet.model import Content, Delivery, HostResult, Job
from bnbenv.fleet.options import Options
from bnbenv.process import Command, Finished, SystemRunner

REAL = shlex.join([sys.executable, "-m", "bnbenv"])
SHA = "5f" * 32
ANSWER = {
    "schema": "bnbenv.fleet-host/1",
    "bnbenv": "0.1.0",
    "project": "/srv/train",
    "facts": {
        "schema": "bnbenv.facts/1",
        "platform": {"os": "linux", "machine": "x86_64"},
        "driver": {"state": "absent"},
        "gpus": [],
    },
    "environments": [{"env": "bnb", "in_sync": True}],
}
# An ansible.cfg that would leave the desk without answers, if it were asked.
HOSTILE = """\
[defaults]
stdout_callback = ansible.builtin.oneline
no_log = True
any_errors_fatal = True
verbosity = 3
strategy = ansible.builtin.free
enable_task_debugger = True
callbacks_enabled = ansible.builtin.junit, no.such.callback
forks = 7
jinja2_native = True
inject_facts_as_vars = False
gathering = explicit
task_timeout = 1
[tags]
run = mine
skip = always
"""


class Fleet:
    """Hosts of an inventory, all of them this machine: each has a ``bnbenv`` of its own, a small script."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[str] = []

    def host(self, name: str, script: str | None = None, answer: object = None, code: int = 0, more: str = "") -> None:
        """A host whose bnbenv is a shell script, or one that prints a document; none: there is no bnbenv."""
        if answer is not None:
            (self.folder / f"{name}.json").write_text(json.dumps(answer))
            script = f"cat '{self.folder}/{name}.json'; exit {code}"
        path = self.folder / f"bnbenv-{name}"
        if script is not None:
            log = f"printf '%s\\n' \"$*\" >> '{self.folder}/{name}.log'"
            path.write_text(f"#!/bin/sh\ncat > /dev/null\n{log}\n{script}\n")
            path.chmod(0o755)
        self.rows.append(f"{name} bnbenv_executable={path} {more}".strip())

    def calls(self, name: str) -> list[str]:
        log = self.folder / f"{name}.log"
        return log.read_text().splitlines() if log.exists() else []

    def inventory(self, *more: str) -> str:
        own = ["[all:vars]", "ansible_connection=local", f"ansible_python_interpreter={sys.executable}"]
        own.append(f"bnbenv_content={self.folder}/content")  # all hosts see this one folder
        path = self.folder / "hosts.ini"
        path.write_text("\n".join([*self.rows, *more, *own, ""]))
        return str(path)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


@pytest.fixture
def engine(tmp_path: Path) -> Callable[..., AnsibleEngine]:
    """``engine("hosts.ini", limit="gpu")``: Ansible in a folder of its own, where nobody can be asked anything."""

    def make(*inventories: str, answers: Sequence[str] = (), **options: Any) -> AnsibleEngine:
        given = list(answers)

        def ask(prompt: str) -> str:
            if not given:
                raise UsageError("no-terminal", prompt)
            return given.pop(0)

        own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        (tmp_path / "private").mkdir(exist_ok=True)
        environ = {**own, "XDG_RUNTIME_DIR": str(tmp_path / "private")}
        return AnsibleEngine(Options(inventories, **options), environ, tmp_path, SystemRunner(), ask)

    return make


def silent(host: str, line: str) -> None:
    """Nobody looks on."""


def test_the_hosts_are_those_of_the_inventory_in_its_order(engine: Any, tmp_path: Path) -> None:
    names = [f"node{number:02d}" for number in (7, 3, 11, 1)]
    (tmp_path / "a.ini").write_text("[all]\n" + "\n".join(names) + "\n[gpu]\nnode11\nnode03\n")
    assert engine("a.ini", limit="gpu").hosts() == ("node03", "node11")
    (tmp_path / "ansible.cfg").write_text("[defaults]\ninventory = b.ini\n")
    (tmp_path / "b.ini").write_text("\n".join(names))
    assert engine().hosts() == tuple(names)
    assert engine("b.ini", "other,node07,").hosts() == (*names, "other")


@pytest.mark.parametrize(
    ("name", "text", "limit", "said"),
    [
        ("missing.ini", None, None, "there is no such file or folder"),
        ("bad.yml", "all: [", None, "Completely failed to parse inventory source"),
        ("empty.ini", "", None, "it holds no hosts"),
        ("script", "#!/bin/sh\necho the cloud is down >&2; exit 3\n", None, "Completely failed to parse"),
        ("good.ini", "node1\n", "nod", 'no host of the inventory fits "nod"'),
    ],
)
def test_an_inventory_that_cannot_be_read(
    name: str, text: str | None, limit: str | None, said: str, engine: Any, tmp_path: Path
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    with pytest.raises(InputError) as caught:
        engine(str(path), limit=limit).hosts()
    assert said in caught.value.message
    assert caught.value.message.startswith("--limit: " if limit else f"{path}: ")
    assert ("with -i" in caught.value.next_step) is (name in ("missing.ini", "empty.ini"))
    if name == "script":
        assert "the cloud is down" in caught.value.detail or "exit code 3" in caught.value.detail


def test_what_is_wrong_with_ansible_itself(engine: Any, tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").write_text("[defaults\n")
    with pytest.raises(InputError, match=r"ansible\.cfg.*section header"):
        engine("a,").hosts()
    with pytest.raises(Failed) as caught:
        find_programs({"PATH": str(tmp_path)}, python=str(tmp_path / "python"))
    assert f"{sys.executable} -m pip install 'bnbenv[fleet]'" in caught.value.next_step, "beside this bnbenv"
    with pytest.raises(UsageError) as refused:
        find_programs({}, system="nt")
    assert "WSL" in refused.value.next_step


class Said:
    """A runner that runs nothing: what programs print, and how they end, one after the other."""

    def __init__(self, *ended: tuple[int, str, str]) -> None:
        self._ended = list(ended)
        self.commands: list[Command] = []

    def run(self, command: Command) -> Finished:
        self.commands.append(command)
        code, out, err = self._ended.pop(0)
        return Finished(command, code, out, err, False, 0.0)


def said(runner: Said) -> AnsibleEngine:
    return AnsibleEngine(Options(("a,",)), os.environ, Path.cwd(), runner, lambda prompt: "")


@pytest.mark.skipif(not (Path(sys.executable).parent / "ansible").exists(), reason="ansible-core is missing")
def test_an_ansible_that_is_broken_or_wants_another_locale() -> None:
    for err in (
        "Traceback (most recent call last):\nImportError: x\n",
        "ansible-config: error: unrecognized arguments: a",
    ):
        with pytest.raises(Failed, match=r"ansible-config does not run, or is older than 2\.") as caught:
            said(Said((1, "\0rubbish", err))).hosts()
        assert "bnbenv[fleet]" in caught.value.next_step and err in caught.value.detail
    refused = (5, "", "ERROR: Ansible requires the locale encoding to be UTF-8; Detected None.\n")
    runner = Said(refused, (0, "[]", ""), (0, "  hosts (1):\n    a\n", ""))
    assert said(runner).hosts() == ("a",)
    assert [(command.env or {}).get("LC_ALL") for command in runner.commands] == [None, "C.UTF-8", "C.UTF-8"]
    with pytest.raises(InputError, match="locale encoding"):
        said(Said(refused, refused)).hosts()


def test_every_host_is_heard_of_whatever_it_is(engine: Any, fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").write_text(HOSTILE)
    fleet.host("good", answer=ANSWER)
    fleet.host("slow", script="sleep 60")
    fleet.host("bare")
    fleet.host(
        "old", answer={"schema": "bnbenv.error/1", "error": {"code": "unknown-command", "message": "no"}}, code=2
    )
    fleet.host("garbage", script="echo hello; exit 1")
    fleet.host("liar", answer={**ANSWER, "facts": {**ANSWER["facts"], "gpus": "eight"}})  # type: ignore[dict-item]
    fleet.host("large", script="printf '{\"x\": \"'; head -c 5000000 /dev/zero | tr '\\0' a; printf '\"}'")
    fleet.host("large2", answer={**ANSWER, "more": "x" * 5_000_000})
    fleet.host("no-python", answer=ANSWER, more="ansible_python_interpreter=/nonexistent/python3")
    fleet.host("undefined", answer=ANSWER, more="bnbenv_project='{{ nowhere }}'")
    fleet.host("dead", answer=ANSWER, more="ansible_connection=ssh ansible_host=127.0.0.1 ansible_port=1")
    mad = tmp_path / "mad-python"
    mad.write_text("""#!/bin/sh\ncat > /dev/null\necho '{"answer": {"more": NaN}}'\n""")
    mad.chmod(0o755)
    fleet.host("mad", answer=ANSWER, more=f"ansible_python_interpreter={mad}")
    fleet.host("template", answer={**ANSWER, "project": "{{ lookup('pipe', 'touch executed') }}"})
    told: list[str] = []
    asked = engine(fleet.inventory(), timeout=6)
    reports = asked.ask(asked.hosts(), lambda host, line: told.append(host))
    assert {name: report.state for name, report in reports.items()} == {
        "good": "ok",
        "slow": "failed",
        "bare": "no-bnbenv",
        "old": "bad-answer",
        "garbage": "bad-answer",
        "liar": "bad-answer",
        "large": "bad-answer",
        "large2": "bad-answer",
        "mad": "bad-answer",
        "no-python": "failed",
        "undefined": "failed",
        "dead": "unreachable",
        "template": "ok",
    }
    assert tuple(reports) == asked.hosts() and sorted(told) == sorted(reports)
    assert "6 seconds" in reports["slow"].because
    assert reports["bare"].next_step == (
        "Install it there: bnbenv fleet sync --bootstrap, or name it: bnbenv_executable in the inventory."
    )
    assert "too large" in reports["large2"].because
    assert "there is no Python at /nonexistent/python3" in reports["no-python"].because
    assert "'nowhere' is undefined" in reports["undefined"].because
    assert reports["dead"].because.endswith(("Connection refused", "ssh ended at once"))
    assert reports["template"].answer.project == "{{ lookup('pipe', 'touch executed') }}"
    assert not list(tmp_path.rglob("executed"))
    assert fleet.calls("good") == ["fleet host --project " + os.path.expanduser("~/bnbenv") + " --json"]  # noqa: PTH111
    assert list((tmp_path / "private").iterdir()) == []


def jobs_for(hosts: Sequence[str], tmp_path: Path, expect: dict[str, str | None] | None = None) -> list[Job]:
    bundle = tmp_path / "made.tar"
    bundle.write_bytes(b"a bundle" * 1000)
    content = Content("0" * 12, str(bundle), SHA, bundle.stat().st_size, {})
    return [Job(host, content, expect or {"bnb": None}, "later") for host in hosts]


def document(state: str, **more: Any) -> dict[str, Any]:
    return {"schema": "bnbenv.fleet-apply/1", "state": state, **more}


def test_a_bundle_is_brought_and_applied(engine: Any, fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").write_text(HOSTILE)
    fleet.host("good", answer=document("changed", seconds=3.5), more="bnbenv_project=/srv/train")
    fleet.host("busy", answer=document("busy", because="another bnbenv is at work"), code=8)
    fleet.host("ill", answer=document("verify-failed", because="NaN", next_step="See the card."), code=5)
    fleet.host("odd", answer=document("splendid"))
    fleet.host("bare")
    fleet.host("full", answer=document("changed"), more="bnbenv_content=/proc/none")
    applied = engine(fleet.inventory(), project="/srv/other")
    hosts = applied.hosts()
    told: dict[str, list[str]] = {}
    expect = {"bnb": "{{ lookup('pipe', 'touch executed') }}"}
    jobs = jobs_for(hosts, tmp_path, expect)
    results: dict[str, HostResult] = applied.apply(
        jobs, Delivery(), lambda host, line: told.setdefault(host, []).append(line)
    )
    assert {host: result.state for host, result in results.items()} == {
        **dict.fromkeys(("odd", "bare", "full"), "failed"),
        **{"good": "changed", "busy": "busy", "ill": "verify-failed"},
    }
    good = results["good"].applied
    assert good is not None and good.seconds == 3.5
    assert (results["ill"].because, results["ill"].next_step) == ("NaN", "See the card.")
    assert "the bundle was not brought there" in results["full"].because
    assert told["good"] == ["copying the bundle", "installing", "changed"]
    # What it was called with: templates that come from hosts stay text, and the inventory's folder wins.
    (call,) = fleet.calls("good")
    assert f"--bundle {tmp_path}/content/good/{SHA}.tar --bundle-sha256 {SHA}" in call
    assert "--project /srv/train" in call and "--project /srv/other" in fleet.calls("ill")[0]
    assert "{{ lookup('pipe', 'touch executed') }}" in call
    assert not list(tmp_path.rglob("executed"))
    # Where it is in use now nobody needs it any more; where it is not, it is there for the next time.
    assert not (tmp_path / "content" / "good" / f"{SHA}.tar").exists()
    left = tmp_path / "content" / "busy" / f"{SHA}.tar"
    assert left.read_bytes() == Path(jobs[0].content.path).read_bytes()
    assert left.stat().st_mode & 0o777 == 0o600


def test_a_shared_folder_is_left_as_it_is(engine: Any, fleet: Fleet, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / f"{SHA}.tar").write_bytes(b"a bundle")
    fleet.host("good", answer=document("changed"))
    fleet.host("used", answer=document("changed"))
    good, used = jobs_for(["good", "used"], tmp_path)
    jobs = [good, Job(used.host, used.content, used.expect, "anyway")]
    results = engine(fleet.inventory()).apply(jobs, Delivery("shared", str(shared)), silent)
    assert [result.state for result in results.values()] == ["changed", "changed"]
    assert f"--bundle {shared}/{SHA}.tar" in fleet.calls("good")[0]
    assert "--in-use later" in fleet.calls("good")[0] and "--in-use anyway" in fleet.calls("used")[0]
    assert (shared / f"{SHA}.tar").exists()


# Ends the ansible-playbook that it is run by, as the kernel does where memory is short.
KILL = """\
pid=$$
while [ "$pid" -gt 1 ]; do
  tr '\\0' ' ' < /proc/$pid/cmdline | grep -q bin/ansible-playbook && main=$pid
  pid=$(awk '{print $4}' /proc/$pid/stat)
done
kill -9 "$main"; sleep 1"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes under /proc")
def test_ansible_is_killed_half_way(engine: Any, fleet: Fleet, tmp_path: Path) -> None:
    fleet.host("first", answer=document("in-sync"))
    fleet.host("second", script=KILL)
    fleet.host("third", answer=document("changed"))
    results = engine(fleet.inventory(), forks=1).apply(
        jobs_for(["first", "second", "third"], tmp_path), Delivery("shared", str(tmp_path)), silent
    )
    assert [result.state for result in results.values()] == ["in-sync", "unreachable", "not-tried"]
    assert "SIGKILL" in results["second"].because
    assert fleet.calls("third") == []


SUDO = """\
#!/bin/bash
while [ $# -gt 0 ]; do
  case "$1" in -p) prompt=$2; shift 2 ;; -u) shift 2 ;; -*) shift ;; *) break ;; esac
done
printf '%s' "$prompt" >&2; read -r given
[ "$given" = "$(cat SECRET)" ] || { echo "Sorry, try again." >&2; printf '%s' "$prompt" >&2; read -r given; exit 1; }
exec "$@"
"""


def test_a_password_is_asked_for_once_and_stays_private(engine: Any, fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("open sesame\n")
    sudo = tmp_path / "sudo"
    sudo.write_text(SUDO.replace("SECRET", str(tmp_path / "secret")))
    sudo.chmod(0o755)
    # What it was given does not show in any process's words.
    show = f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' > '{tmp_path}/words'; cat '{tmp_path}/one.json'"
    fleet.host("one", answer=ANSWER)
    fleet.host("one", script=show)
    become = f"ansible_become=true ansible_become_user=daemon ansible_become_exe={sudo}"
    fleet.rows = [f"{fleet.rows[-1]} {become}"]
    asked = engine(fleet.inventory(), asked=frozenset({"become"}), answers=["open sesame"])
    for _ in range(2):
        assert asked.ask(asked.hosts(), silent)["one"].state == "ok"
    words = (tmp_path / "words").read_text()
    assert "--become-password-file" in words and "open sesame" not in words
    wrong = engine(fleet.inventory(), asked=frozenset({"become"}), answers=["wrong"])
    report = wrong.ask(["one"], silent)["one"]
    assert (report.state, report.because) == ("failed", "the password for --become is not right")
    with pytest.raises(UsageError, match="BECOME password"):
        engine(fleet.inventory(), asked=frozenset({"become"})).hosts()
    assert list((tmp_path / "private").iterdir()) == []


def test_a_vault_opens_with_its_password_alone(engine: Any, fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("right\n")
    (tmp_path / "bad").write_text("wrong\n")
    secret = tmp_path / "group_vars" / "all.yml"
    secret.parent.mkdir()
    secret.write_text("bnbenv_project: /srv/secret\n")
    vault = find_programs(os.environ) / "ansible-vault"
    words = ["encrypt", "--vault-password-file", str(tmp_path / "key"), str(secret)]
    subprocess.run([str(vault), *words], check=True, capture_output=True)
    fleet.host("one", answer=ANSWER)
    inventory = fleet.inventory()
    good = engine(inventory, words=(f"--vault-password-file={tmp_path / 'key'}",))
    assert good.ask(["one"], silent)["one"].state == "ok"
    assert fleet.calls("one") == ["fleet host --project /srv/secret --json"]
    with pytest.raises(InputError, match=r"(?i)decrypt") as caught:
        engine(inventory, words=(f"--vault-password-file={tmp_path / 'bad'}",)).ask(["one"], silent)
    assert "--vault-password-file" in caught.value.next_step


@pytest.fixture
def faults() -> Callable[[Any], list[str]]:
    """What a document's schema has against it."""
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    schemas = [json.loads(path.read_text()) for path in (files("bnbenv") / "schemas").iterdir()]
    known = {schema["$id"]: schema for schema in schemas}
    registry = Registry().with_resources((name, Resource.from_contents(schema)) for name, schema in known.items())

    def check(document: Any) -> list[str]:
        name = document["schema"].removeprefix("bnbenv.").removesuffix("/1")
        validator = Draft202012Validator(known[f"urn:bnbenv:schema:{name}"], registry=registry)
        return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(document)]

    return check


def test_the_commands_ask_the_real_thing(fleet: Fleet, tmp_path: Path, capsys: Any, faults: Any) -> None:
    """``fleet facts`` and ``fleet check`` with the bnbenv that is tested, and what one writes the other reads."""
    fleet.host("real", script=f'exec {REAL} "$@"', more=f"bnbenv_project={tmp_path}/none")
    fleet.host("bare")
    inventory, out = fleet.inventory(), tmp_path / "hosts.jsonl"
    assert main(["fleet", "facts", "-i", inventory, "--out", str(out), "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert faults(facts) == []
    assert [kind["hosts"] for kind in facts["kinds"]] == [["real"]]
    assert [(row["host"], row["state"]) for row in facts["no_answer"]] == [("bare", "no-bnbenv")]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["name"], line["state"]) for line in lines] == [("real", "ok"), ("bare", "no-bnbenv")]
    assert main(["fleet", "check", "-i", inventory, "--limit", "real", "--json"]) == 3
    check = json.loads(capsys.readouterr().out)
    assert faults(check) == []
    assert check["not_in_sync"] == ["real"] and check["reasons"][0]["hosts"] == ["real"]
    assert main(["fleet", "check", "-i", str(tmp_path / "none.ini")]) == 2
    assert main(["fleet", "facts", "-i", inventory, "--out", "/dev/null"]) == 2
