"""The Ansible collection in plain playbooks: the real ansible-playbook on this machine, with the real bnbenv."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import bnbenv

TOOLS = Path(sys.executable).parent
COLLECTIONS = Path(bnbenv.__file__).parent / "fleet"
COLLECTION = COLLECTIONS / "ansible_collections" / "bnbenv" / "fleet"

pytestmark = pytest.mark.skipif(not (TOOLS / "ansible-playbook").exists(), reason="ansible-core is missing")

Play = Callable[..., dict[str, Any]]
Ansible = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def ansible(tmp_path: Path, tool_environ: dict[str, str]) -> Ansible:
    """``ansible("galaxy", ...)``: a program of Ansible with nothing of this user's, and how it ended."""
    own = {name: str(tmp_path / "ansible") for name in ("ANSIBLE_HOME", "ANSIBLE_REMOTE_TMP")}
    own |= {"ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"}
    own |= {"PATH": f"{TOOLS}:{tool_environ['PATH']}", "LC_ALL": "C.UTF-8"}

    def run(tool: str, *words: str, cwd: Path = tmp_path, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(TOOLS / f"ansible-{tool}"), *words],
            cwd=cwd,
            env={**tool_environ, **own, **changes},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def play(tmp_path: Path, ansible: Ansible) -> Play:
    """``play(looked={"bnbenv.fleet.facts": {...}}, ...)``: what each task returned, by its name. None ends the play."""

    def run(roles: tuple[Mapping[str, Any], ...] = (), changes: Mapping[str, str] = {}, **tasks: Any) -> dict[str, Any]:
        rows = [{**task, "register": name, "ignore_errors": True} for name, task in tasks.items()]
        found = "{{ {" + ", ".join(f"'{name}': {name}" for name in tasks) + "} | to_json }}"
        tell = {"ansible.builtin.copy": {"content": found, "dest": str(tmp_path / "told.json"), "mode": "0600"}}
        whole = [{"hosts": "all", "gather_facts": False, "roles": [*roles], "tasks": [*rows, tell]}]
        (tmp_path / "play.yml").write_text(json.dumps(whole))
        python = f"ansible_python_interpreter={sys.executable}"
        ended = ansible("playbook", "-i", "this,", "-c", "local", "-e", python, str(tmp_path / "play.yml"), **changes)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        told: dict[str, Any] = json.loads((tmp_path / "told.json").read_text())
        return told

    return run


def wheel(folder: Path, name: str, more: Mapping[str, str] = {}) -> None:
    """A package with nothing in it but these files."""
    info = f"{name}-1.0.dist-info"
    files = {
        **more,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)


@pytest.mark.real
def test_a_playbook_looks_syncs_and_fails_where_kernels_do(project: Any, play: Play, ansible: Ansible) -> None:
    """``changed`` is true where another generation is in use than before, and nowhere else."""
    wheel(project.root / "wheels", "harmless")
    wheel(project.root / "wheels", "harmful", {"harmful.pth": "import sys; sys.modules['bitsandbytes'] = None\n"})
    asked = project.root.joinpath("bnbenv.toml").read_text().replace("# find-links = []", 'find-links = ["wheels"]')
    harmless, harmful = (
        asked.replace("# requirements = [", f'requirements = ["{name}"] # [') for name in ("harmless", "harmful")
    )
    where = {"project": str(project.root)}
    lock = project.done("fleet", "host")["environments"][0]["lock"]
    before = project.listing()

    def sync(**options: Any) -> dict[str, Any]:
        return {"bnbenv.fleet.sync": {**where, **options}}

    told = play(
        looked={"bnbenv.fleet.facts": where},
        checked={"bnbenv.fleet.check": {**where, "env": "bnb"}},
        empty={"bnbenv.fleet.check": {"project": str(project.root / "nothing")}},
        verified={"bnbenv.fleet.verify": where},
        nothing=sync(expect={"bnb": lock}),
        would={**sync(config=harmless), "check_mode": True, "diff": True},
        moved=sync(config=harmless, expect={"bnb": "0" * 64}, left="ok"),
    )
    assert project.listing() == before
    assert told["looked"]["answer"]["schema"] == "bnbenv.fleet-host/1"
    assert told["looked"]["answer"] == told["looked"]["ansible_facts"]["bnbenv"]
    assert told["checked"]["in_sync"] and told["checked"]["environments"] == ["bnb"]
    assert not told["empty"]["failed"] and told["empty"]["reasons"][0]["because"].endswith("nothing is not a folder")
    assert (told["empty"]["in_sync"], told["empty"]["reboot_required"]) == (False, False), "as fleet check says it"
    assert told["verified"]["ok"] and told["verified"]["devices"][0]["device"] == "cpu"
    assert told["nothing"]["applied"]["state"] == "in-sync"
    assert told["would"]["applied"]["state"] == "would-change" and told["would"]["changed"]
    assert "would change: " in told["would"]["diff"]["after"]
    assert told["moved"]["applied"]["state"] == "moved" and not told["moved"]["failed"]
    assert not any(told[name]["changed"] for name in told if name != "would")

    told = play(
        done={**sync(config=harmless, expect={"bnb": lock}), "diff": True},
        again=sync(config=harmless),
        bad=sync(config=harmful),
        moved=sync(config=asked, expect={"bnb": lock}),
        checked={"bnbenv.fleet.check": where},
    )
    assert told["done"]["changed"] and told["done"]["applied"]["environments"][0]["verified"]
    lines = [set(told["done"]["diff"][side].splitlines()) for side in ("before", "after")]
    assert [sum("generation" in line for line in side) for side in (lines[0] - lines[1], lines[1] - lines[0])] == [1, 1]
    assert (told["again"]["changed"], told["again"]["applied"]["state"]) == (False, "in-sync")
    assert (told["bad"]["failed"], told["bad"]["changed"], told["bad"]["reason"]) == (True, False, "verify-failed")
    assert told["bad"]["because"] in told["bad"]["msg"] and told["bad"]["applied"]["state"] == "verify-failed"
    assert (told["moved"]["failed"], told["moved"]["reason"]) == (True, "moved")
    assert told["checked"]["in_sync"], "what failed left what was there"
    assert project.generation() == 2

    words = ["-i", "this,", "-c", "local", "-e", f"bnbenv_project={project.root}"]
    words += ["-e", f"ansible_python_interpreter={sys.executable}"]
    ready = [f"bnbenv.fleet.{name}" for name in ("facts", "sync", "check")]
    ended = ansible("playbook", *words, *ready)
    assert ended.returncode == 0 and "changed=0" in ended.stdout, ended.stdout + ended.stderr

    (library,) = (project.root / ".venv-bnb").glob("lib/python*/site-packages/bitsandbytes/libbitsandbytes_cpu.so")
    library.unlink()
    told = play(verified={"bnbenv.fleet.verify": where}, checked={"bnbenv.fleet.check": where})
    assert (told["verified"]["failed"], told["verified"]["reason"]) == (True, "verify-failed")
    assert told["verified"]["because"].startswith("verification failed: ") and told["verified"]["devices"]
    assert not told["checked"]["in_sync"] and not told["checked"]["failed"]
    assert {reason["env"] for reason in told["checked"]["reasons"]} == {"bnb"}


def test_what_a_host_answers_is_not_trusted(play: Play, tmp_path: Path) -> None:
    """A module fails with a reason that programs can read, and says what to do."""

    def prints(document: Any) -> str:
        return f"/bin/sh\necho '{json.dumps(document)}'"

    said = {
        "absent": None,
        "broken": "/no/such/python",
        "noise": "/bin/sh\necho Welcome to this host\necho 'Segmentation fault' >&2\nexit 139",
        "other": prints({"schema": "bnbenv.fleet-host/99", "answer": "<script>"}),
        "nothing": prints([]),
        "old": prints({"schema": "bnbenv.error/1", "error": {"code": "unknown-command", "message": "no"}}),
        "deep": f"/bin/sh\necho '{{\"more\": {'[' * 60}{']' * 60}}}'",
        "signs": """/bin/sh\nprintf '%s' '{"schema": "bnbenv.fleet-host/1", "x": ["\\ud800"]}'""",
        "odd": prints({"error": {"code": {}, "message": ["no"], "next_step": 7}}),
        "failing": prints({"error": {"code": "no-permission", "message": "no", "next_step": "Ask root."}}),
    }
    tasks = {}
    for name, text in said.items():
        path = tmp_path / name
        if text is not None:
            path.write_text(f"#!{text}\n")
            path.chmod(0o755)
        tasks[name] = {"bnbenv.fleet.facts": {"project": str(tmp_path), "executable": str(path)}}
    told = play(**tasks)
    reasons = dict.fromkeys(said, "bad-answer") | {"absent": "no-bnbenv", "broken": "no-bnbenv", "failing": "failed"}
    assert {name: one["reason"] for name, one in told.items()} == reasons
    assert all(one["failed"] and not one["changed"] and one["next_step"] in one["msg"] for one in told.values())
    assert "role bnbenv.fleet.bootstrap" in told["absent"]["next_step"]
    assert "Segmentation fault, exit code 139" in told["noise"]["because"]
    assert "bnbenv.fleet-host/99" in told["other"]["because"] and "<script>" not in told["other"]["msg"]
    assert (told["failing"]["code"], told["failing"]["next_step"]) == ("no-permission", "Ask root.")


def test_a_bundle_that_is_of_no_use_is_deleted_only_if_it_may_be(project: Any, play: Play, tmp_path: Path) -> None:
    for name in ("kept", "given", "unfit"):
        (tmp_path / f"{name}.tar").write_bytes(b"tampered with")
    unfit = {"schema": "bnbenv.fleet-apply/1", "state": "no-combination", "because": "it is for others"}
    refusing = tmp_path / "refusing"
    refusing.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{json.dumps(unfit)}'\nexit 4\n")
    refusing.chmod(0o755)
    before = project.listing()

    def sync(name: str, **options: Any) -> dict[str, Any]:
        bundle = {"bundle": str(tmp_path / f"{name}.tar"), "bundle_sha256": "0" * 64}
        return {"bnbenv.fleet.sync": {"project": str(project.root), **bundle, **options}}

    told = play(
        kept=sync("kept"),
        given=sync("given", keep_bundle=False),
        absent={**sync("absent"), "check_mode": True},
        unreadable=sync("kept", bundle_sha256="no hash"),
        unfit=sync("unfit", keep_bundle=False, executable=str(refusing)),
    )
    assert told["unfit"]["reason"] == "no-combination" and not (tmp_path / "unfit.tar").exists()
    assert [(one["reason"], one["changed"]) for one in (told["kept"], told["given"])] == [("failed", False)] * 2
    assert [(tmp_path / f"{name}.tar").exists() for name in ("kept", "given")] == [True, False]
    assert told["absent"]["skipped"] and not told["absent"]["changed"]
    assert "64 hexadecimal digits" in told["unreadable"]["msg"]
    assert project.listing() == before


@pytest.mark.real
def test_the_role_installs_bnbenv_out_of_a_bundle_without_network(project: Any, play: Play, tmp_path: Path) -> None:
    bundle = tmp_path / "tool.tar"
    made = subprocess.run(
        [sys.executable, "-c", MAKE_BUNDLE, str(project.root), str(bundle)],
        env=project.changed(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    prefix, links = tmp_path / "a place" / "tool", tmp_path / "links"
    own = {"bootstrap_prefix": str(prefix), "bootstrap_links": str(links), "bootstrap_bundle": str(bundle)}
    role = {"role": "bnbenv.fleet.bootstrap", **own}
    offline = {"UV_OFFLINE": "1", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    asked = {"bnbenv.fleet.facts": {"project": str(project.root), "executable": str(links / "bnbenv")}}

    told = play(({**role, "bootstrap_sha256": "0" * 64, "ignore_errors": True},), offline, asked=asked)
    assert told["asked"]["reason"] == "no-bnbenv" and list(prefix.iterdir()) == []
    told = play((role,), offline, asked=asked)
    assert told["asked"]["answer"]["bnbenv"] == bnbenv.__version__
    assert (links / "bnbenv").resolve() == (prefix / "bin" / "bnbenv").resolve()
    first = sorted((path, path.lstat().st_mtime_ns) for path in prefix.rglob("*") if path.suffix != ".pyc")

    # Neither the same again nor one that is unusable changes anything.
    play((role,), offline)
    (tmp_path / "no.tar").write_bytes(b"no bundle")
    play(({**role, "bootstrap_bundle": str(tmp_path / "no.tar"), "ignore_errors": True},), offline)
    files = ((path, path.lstat().st_mtime_ns) for path in prefix.rglob("*") if path.suffix != ".pyc")
    assert sorted(file for file in files if "__pycache__" not in str(file[0])) == [
        file for file in first if "__pycache__" not in str(file[0])
    ]
    assert [path.name for path in prefix.parent.iterdir()] == ["tool"]


def test_the_playbook_for_a_bundle_brings_it_where_the_inventory_says(ansible: Ansible, tmp_path: Path) -> None:
    bundle, program, log = tmp_path / "lab.tar", tmp_path / "bnbenv", tmp_path / "log"
    bundle.write_bytes(b"a bundle")
    done = json.dumps({"schema": "bnbenv.fleet-apply/1", "state": "changed"})
    program.write_text(f"#!/bin/sh\necho \"$*\" >>'{log}'\necho '{done}'\n")
    program.chmod(0o755)
    row = f"one bnbenv_executable={program} bnbenv_content={tmp_path}/scratch"
    (tmp_path / "hosts.ini").write_text(f"{row} ansible_python_interpreter={sys.executable}\n")
    words = ("-i", "hosts.ini", "-c", "local", "-e", f"bnbenv_bundle={bundle}", "bnbenv.fleet.sync")
    foretold = ansible("playbook", *words, "--check", "--diff")
    assert foretold.returncode == 0 and not log.exists(), foretold.stdout + foretold.stderr
    ended = ansible("playbook", *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    sha256 = hashlib.sha256(b"a bundle").hexdigest()
    assert f"--bundle {tmp_path}/scratch/lab.tar --bundle-sha256 {sha256}" in log.read_text()


def test_a_login_shell_that_takes_one_line_can_look_at_a_bare_host() -> None:
    """As csh, which clusters still give to their users; sh itself has to read what becomes of it."""
    yaml, jinja2 = pytest.importorskip("yaml"), pytest.importorskip("jinja2")  # ansible-core has both
    role = COLLECTION / "roles" / "bootstrap"
    look = yaml.safe_load((role / "tasks" / "main.yml").read_text())[0]["ansible.builtin.raw"]
    rows = jinja2.Environment()
    rows.filters["quote"] = shlex.quote
    values = {"bootstrap_prefix": "/a place", "bootstrap_links": "", "ansible_python_interpreter": sys.executable}
    text = rows.from_string((role / "templates" / "look.sh.j2").read_text()).render(values)
    line = rows.from_string(look).render(lookup=lambda *_: text)
    assert "\n" not in line
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    found = [f"bnbenv-python={sys.executable}", "bnbenv-prefix=/a place"]
    assert (done.stdout.splitlines()[:2], done.stderr) == (found, "")


MAKE_BUNDLE = """
import os, platform, shutil, sys
from bnbenv.envs.project import find_project
from bnbenv.envs.resolve import Setting, user_matrix
from bnbenv.envs.wishes import load_wishes
from bnbenv.facts import read_facts
from bnbenv.fleet.toolbundle import tool_bundle
from bnbenv.paths import Sysroot
from bnbenv.process import SystemRunner
from pathlib import Path

project = find_project(Path.cwd(), os.environ, sys.argv[1])
facts = read_facts(os.environ, Sysroot.from_environment(os.environ), SystemRunner())
setting = Setting(project, load_wishes(project), facts, user_matrix(os.environ), os.environ, SystemRunner())
made = tool_bundle(setting, [platform.machine()], ["%d.%d" % sys.version_info[:2]])
shutil.copy(made.path, sys.argv[2])
"""


def test_it_can_be_copied_installed_and_built_without_network(ansible: Ansible, tmp_path: Path) -> None:
    def copy(place: Path) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "bnbenv", "fleet", "collection", "--to", str(place), "--json"]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)

    place = tmp_path / "place"
    first, again = json.loads(copy(place).stdout), json.loads(copy(place).stdout)
    assert (first["changed"], again["changed"]) == (True, False)
    copied = Path(first["collection"])
    assert copied == place / "ansible_collections" / "bnbenv" / "fleet"
    assert first["version"] == bnbenv.__version__, "the collection has the version of bnbenv"
    (copied / "README.md").write_text("older\n")
    (copied / "more.txt").write_text("of an older one\n")
    assert json.loads(copy(place).stdout)["changed"] and not (copied / "more.txt").exists()
    names = {path.relative_to(COLLECTION) for path in COLLECTION.rglob("*") if path.is_file()}
    assert {path.relative_to(copied) for path in copied.rglob("*") if path.is_file()} == {
        name for name in names if "__pycache__" not in name.parts
    }
    in_the_way = tmp_path / "other" / "ansible_collections" / "bnbenv" / "fleet"
    in_the_way.mkdir(parents=True)
    (in_the_way / "mine.txt").write_text("mine")
    refused = copy(tmp_path / "other")
    assert (refused.returncode, json.loads(refused.stdout)["error"]["code"]) == (2, "in-the-way")
    assert (in_the_way / "mine.txt").read_text() == "mine"

    installed = tmp_path / "installed"
    before = sorted(place.rglob("*"))
    there = {"ANSIBLE_COLLECTIONS_PATH": str(installed)}
    ended = ansible("galaxy", "collection", "install", str(copied), "-p", str(installed), "--offline", **there)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    ended = ansible("galaxy", "collection", "build", str(copied), "--output-path", str(tmp_path / "built"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [path.name for path in (tmp_path / "built").iterdir()] == [f"bnbenv-fleet-{bnbenv.__version__}.tar.gz"]
    assert sorted(place.rglob("*")) == before

    modules = ("facts", "check", "sync", "verify")
    words = ("-t", "module", "--json", *(f"bnbenv.fleet.{name}" for name in modules))
    ended = ansible("doc", *words, **there)
    assert ended.returncode == 0, ended.stderr
    documented = json.loads(ended.stdout)
    for name in modules:
        one = documented[f"bnbenv.fleet.{name}"]
        assert {"project", "executable"} <= set(one["doc"]["options"]) and one["examples"], name
        assert all("sample" in row or "contains" in row for row in one["return"].values()), name


def test_it_travels_in_the_wheel(tmp_path: Path) -> None:
    from bnbenv.bundle.itself import write_wheel

    with zipfile.ZipFile(write_wheel(tmp_path)) as archive:
        inside = {name for name in archive.namelist() if "/ansible_collections/" in name}
    files = (path for path in COLLECTION.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert inside == {f"bnbenv/fleet/{path.relative_to(COLLECTIONS)}" for path in files}
    assert any(name.endswith("galaxy.yml") for name in inside)


def test_ansible_lint_has_nothing_against_it(ansible: Ansible, tmp_path: Path) -> None:
    """With the profile for production. It has no public address that galaxy.yml could name."""
    if not (TOOLS / "ansible-lint").exists():
        pytest.skip("ansible-lint is missing")
    copied = tmp_path / "lint" / "ansible_collections" / "bnbenv" / "fleet"
    shutil.copytree(COLLECTION, copied, ignore=shutil.ignore_patterns("__pycache__"))
    words = ("--offline", "--nocolor", "--profile", "production", "-x", "galaxy[no-repository]")
    changes = {"ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "lint"), "HOME": str(tmp_path)}
    ended = ansible("lint", *words, cwd=copied, **changes)
    assert ended.returncode == 0, ended.stdout + ended.stderr


# ansible-doc, pep8, pylint, shellcheck, yamllint and smaller ones are run by hand: each has an environment of its own.
SANITY = ("compile", "import", "ignores", "runtime-metadata", "shebang", "symlinks", "validate-modules")


def test_ansible_test_has_nothing_against_it(ansible: Ansible, tmp_path: Path) -> None:
    """Its environments are kept beside those of the tests, since making them takes longer than the tests."""
    if not (TOOLS / "ansible-test").exists() or os.name == "nt":
        pytest.skip("ansible-test is missing")
    home = Path(sys.prefix) / "ansible-test-home"
    (home / ".ansible" / "test" / "cache").mkdir(parents=True, exist_ok=True)
    for version in ("23_1_2", "24_2"):  # where ansible-test would load pip's installer from an address of its own
        script = home / ".ansible" / "test" / "cache" / f"get_pip_{version}.py"
        script.write_text("import ensurepip\nensurepip.bootstrap(default_pip=True)\n")
    copied = tmp_path / "sanity" / "ansible_collections" / "bnbenv" / "fleet"
    shutil.copytree(COLLECTION, copied, ignore=shutil.ignore_patterns("__pycache__"))
    tests = [word for name in SANITY for word in ("--test", name)]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    ended = ansible("test", "sanity", "--python", python, "--color", "no", *tests, cwd=copied, HOME=str(home))
    if "No matching distribution found" in ended.stdout + ended.stderr:
        pytest.skip("no package index answers, from which ansible-test would install what it needs")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for name in SANITY:
        assert f'Running sanity test "{name}"' in ended.stdout + ended.stderr, name
