"""``fleet apply``: all of a bundle or all that was there. The packages are tiny, all else is real."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.generations import generations, held
from bnbenv.envs.project import Project
from bnbenv.envs.resolve import Setting
from bnbenv.envs.together import Switch, Together
from bnbenv.envs.wishes import load_wishes
from bnbenv.facts.model import decode_facts
from bnbenv.matrix.load import load_matrix
from bnbenv.process import SystemRunner

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the wheels that are made here are for Linux")

DRIVER = str(Path(__file__).parents[1] / "envs" / "at_effect.py")
TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"
H200 = {"index": 0, "uuid": "GPU-1", "name": "NVIDIA H200", "compute_capability": "9.0", "memory_total": 1, "mig": None}
STUB = "gpu uuid=GPU-1 cc=9.0 memory=1 name=NVIDIA H200\n"
ONE = '[envs.plain]\nfamily = "none"\ntorch = "99.0.0"\nbackend = "cpu"\n'
TWO = ONE.replace("plain", "other")
FAKE_TORCH: tuple[str, str, str, dict[str, bytes]] = (
    *("torch", "99.0.0", f"{TAG}-{TAG}-manylinux_2_17_{platform.machine()}"),
    {"torch/__init__.py": b"", "torch/version.py": b"cuda = None\n"},
)
BUNDLE = """\
import json, os, sys
from pathlib import Path
from bnbenv.bundle.gather import Wanted, groups_for
from bnbenv.bundle.make import Also, make_of
from bnbenv.envs.project import Project
from bnbenv.envs.resolve import Setting, user_matrix
from bnbenv.envs.wishes import load_wishes
from bnbenv.facts.model import decode_facts
from bnbenv.process import SystemRunner
root, facts = Path.cwd(), decode_facts(Path(sys.argv[2]).read_bytes(), "facts")
project = Project(root, root / "bnbenv.toml")
setting = Setting(project, load_wishes(project), facts, user_matrix(os.environ), os.environ, SystemRunner())
groups = groups_for(setting, [Wanted("", facts)], tuple(setting.wishes.envs))
locks = {env: locked.text for env, locked in groups[0].locks.items()}
print(json.dumps([make_of(setting, groups, Path(sys.argv[1]), Also(tool=False)).sha256, locks]))
"""


def wheel(folder: Path, name: str, version: str, tag: str, files: dict[str, bytes]) -> None:
    info = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        lines = ""
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path), data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines += f"{path},sha256={digest},{len(data)}\n"
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), f"{lines}{info}/RECORD,,\n")


def recorded(environ: dict[str, str]) -> bytes:
    """The facts of this machine."""
    return subprocess.check_output([sys.executable, "-m", "bnbenv", "facts", "--json"], env=environ)


@dataclasses.dataclass(frozen=True)
class Bundle:
    """``locks`` are the texts of the locks in it."""

    path: Path
    sha256: str
    locks: dict[str, str]

    @property
    def words(self) -> tuple[str, ...]:
        return ("--bundle", str(self.path), "--bundle-sha256", self.sha256)

    def lock(self, env: str = "plain") -> str:
        return hashlib.sha256(self.locks[env].encode()).hexdigest()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tool_environ: dict[str, str]) -> Callable[..., Bundle]:
    """``desk(config)``: a bundle of what a bnbenv.toml asks for; each is made once."""
    root = tmp_path_factory.mktemp("desk")
    wheel(root / "wheels", *FAKE_TORCH)
    for version in ("1.0", "2.0"):
        wheel(root / "wheels", "tiny", version, "py3-none-any", {"tiny.py": f"VERSION = '{version}'\n".encode()})
    environ = {**tool_environ, "BNBENV_OFFLINE": "1"}
    (root / "facts.json").write_bytes(recorded(environ))
    made: dict[str, Bundle] = {}

    def make(config: str) -> Bundle:
        if config not in made:
            for lock in root.glob("pylock.*.toml"):
                lock.unlink()
            (root / "bnbenv.toml").write_text(f'{config}[sources]\nfind-links = ["{root}/wheels"]\n')
            out = root / f"{len(made)}.tar"
            words = [sys.executable, "-c", BUNDLE, str(out), str(root / "facts.json")]
            done = subprocess.run(words, cwd=root, env=environ, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            made[config] = Bundle(out, *json.loads(done.stdout))
        return made[config]

    return make


@dataclasses.dataclass(frozen=True)
class Host:
    """Runs ``bnbenv fleet apply`` for a folder that need not be there."""

    root: Path
    environ: dict[str, str]

    def run(self, *words: str, driver: tuple[str, ...] = (), **changes: str | None) -> tuple[int, Any]:
        """Exit code, and the document (None after a kill)."""
        environ = {name: value for name, value in {**self.environ, **changes}.items() if value is not None}
        start = [sys.executable, *(driver or ("-m", "bnbenv")), *words, "--project", str(self.root), "--json"]
        done = subprocess.run(start, env=environ, capture_output=True, text=True, timeout=120, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    def apply(self, *words: str, **more: Any) -> tuple[int, Any]:
        return self.run("fleet", "apply", *words, **more)

    def state(self) -> dict[str, str]:
        """bnbenv.toml, locks and links."""
        files = [path for path in (self.root / "bnbenv.toml", *self.root.glob("pylock.*.toml")) if path.exists()]
        links = [path for path in self.root.glob(".venv-*") if path.is_symlink() and ".new-" not in path.name]
        return {**{path.name: path.read_text() for path in files}, **{path.name: os.readlink(path) for path in links}}

    def tiny(self, env: str = "plain") -> str:
        python = self.root / f".venv-{env}" / "bin" / "python"
        return subprocess.check_output([python, "-c", "import tiny; print(tiny.VERSION)"], text=True).strip()


@pytest.fixture
def host(tool_environ: dict[str, str], tmp_path: Path) -> Host:
    """A host that has nothing and reaches nothing; of recorded facts, so that no kernels are run."""
    driver = {"state": "ok", "version": "580.65.06", "kernel_module": None, "userland": None, "cuda": None}
    facts = json.loads(recorded(tool_environ)) | {"driver": {**driver, "source": None}, "gpus": [H200]}
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    own = {"BNBENV_HOME": str(tmp_path / "user"), "BNBENV_OFFLINE": "1", "BNBENV_FACTS": str(tmp_path / "facts.json")}
    return Host(tmp_path / "host", {**tool_environ, **own})


@pytest.fixture(scope="session")
def faults() -> Callable[[Any], list[str]]:
    """What a document's schema has against it."""
    from importlib.resources import files

    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    schemas = [json.loads(path.read_text()) for path in (files("bnbenv") / "schemas").iterdir()]
    known = {schema["$id"]: schema for schema in schemas}
    registry = Registry().with_resources((name, Resource.from_contents(schema)) for name, schema in known.items())

    def check(document: Any) -> list[str]:
        schema = known[f"urn:bnbenv:schema:{document['schema'].removeprefix('bnbenv.').removesuffix('/1')}"]
        return [error.message for error in Draft202012Validator(schema, registry=registry).iter_errors(document)]

    return check


def with_tiny(*versions: str) -> str:
    """bnbenv.toml of two environments with these versions, or of one."""
    return "".join(
        f'{env}requirements = ["tiny=={version}"]\n' for env, version in zip((ONE, TWO), versions, strict=False)
    )


def test_a_host_with_nothing_gets_what_the_bundle_holds(desk: Any, host: Host, faults: Any) -> None:
    bundle = desk(with_tiny("1.0", "1.0"))
    assert host.run("fleet", "host")[1]["environments"] == []
    code, asked = host.apply("--check", *bundle.words)
    assert (code, asked["state"], host.root.exists()) == (3, "would-change", False), asked
    code, done = host.apply(*bundle.words, "--expect", '{"plain": null, "other": null}')
    assert (code, done["state"]) == (0, "changed"), done
    assert done["because"].startswith("the kernels of plain, other were not run: the facts are recorded")
    assert (done["before"], done["rolled_back"], done["seconds"] > 0) == ([], [], True)
    rows = {row["env"]: row for row in done["environments"]}
    assert {env: row["lock"] for env, row in rows.items()} == {env: bundle.lock(env) for env in ("plain", "other")}
    assert rows["plain"]["holds"] == {"torch": "99.0.0"} and rows["plain"]["in_sync"]
    assert hashlib.sha256((host.root / "pylock.plain.toml").read_bytes()).hexdigest() == bundle.lock()
    assert (host.tiny(), host.tiny("other")) == ("1.0", "1.0")
    code, again = host.apply(*bundle.words)
    assert (code, again["state"], again["environments"]) == (0, "in-sync", done["environments"])
    answer = host.run("fleet", "host")[1]
    assert answer["environments"] == done["environments"]
    assert [faults(document) for document in (asked, done, answer)] == [[], [], []]


def test_another_bundle_replaces_all_and_says_what_it_no_longer_names(desk: Any, host: Host) -> None:
    both, one = desk(with_tiny("1.0", "1.0")), desk(with_tiny("2.0"))
    assert host.apply(*both.words)[0] == 0
    code, done = host.apply(*one.words, "--expect", json.dumps({"plain": both.lock()}))
    assert (code, done["state"], host.tiny()) == (0, "changed", "2.0"), done
    assert "bnbenv.toml no longer names other, which stays as it is" in done["because"]
    assert host.tiny("other") == "1.0"
    assert "other" not in (host.root / "bnbenv.toml").read_text()
    # Another desk that had seen the former lock; and one that wants what is there, which is no matter then.
    code, left = host.apply(*both.words, "--expect", json.dumps({"plain": both.lock()}))
    assert (code, left["state"]) == (3, "moved"), left
    assert f"lock {one.lock()[:12]} is in use, and lock {both.lock()[:12]} was expected" in left["because"]
    assert host.apply(*one.words, "--expect", '{"plain": null}')[1]["state"] == "in-sync"
    assert host.apply(*both.words, "--expect", '{"plain": null}')[1]["state"] == "moved"
    (host.root / "bnbenv.toml").write_text("[envs.plain]\nnonsense = 1\n")
    answer = host.run("fleet", "host")[1]["environments"]
    assert {row["reasons"][0]["code"] for row in answer} == {"config-unreadable"}, answer
    code, broken = host.apply(*both.words)
    assert (code, broken["state"], host.tiny()) == (0, "changed", "1.0"), broken


def test_a_host_in_use_is_left_and_so_is_one_where_nobody_can_tell(desk: Any, host: Host, nvml_stub: Any) -> None:
    bundle = desk(with_tiny("1.0"))
    free = nvml_stub.environment(STUB)
    (nvml_stub.folder / "pid").write_text("4242")
    conf = Path(free["NVML_STUB_CONFIG"])
    for trouble, because in (
        (f"process pid=@{nvml_stub.folder / 'pid'}", "its GPUs are in use: a process (4242) on GPU 0"),
        ("fail nvmlDeviceGetComputeRunningProcesses_v3 3", "which processes are on its GPUs cannot be told: nvml"),
    ):
        conf.write_text(f"{STUB}{trouble}\n")
        for words in (bundle.words, ("--check", *bundle.words)):
            code, busy = host.apply(*words, **free)
            assert (code, busy["state"], host.root.exists()) == (3, "in-use", False), busy
            assert because in busy["because"]
    assert host.apply("--in-use", "anyway", *bundle.words, **free)[1]["state"] == "changed"
    assert host.apply(*bundle.words, **free)[1]["state"] == "in-sync"  # nothing to do, whoever is there


def test_kernels_that_fail_leave_a_host_as_it_was(desk: Any, host: Host) -> None:
    bundle = desk(with_tiny("1.0", "1.0"))
    probed = {"BNBENV_FACTS": None}
    code, done = host.apply(*bundle.words, **probed)
    assert (code, done["state"], host.root.exists()) == (5, "verify-failed", False), done
    assert "failed its verification" in done["because"]
    host.root.mkdir()
    (host.root / "notes.txt").write_text("mine")
    assert host.apply(*bundle.words, **probed)[1]["state"] == "verify-failed"
    assert host.state() == {} and (host.root / "notes.txt").exists()
    assert not list((host.root / ".bnbenv").glob("generations/*"))


def test_what_is_wrong_with_a_bundle_or_the_host_is_said_and_changes_nothing(
    desk: Any, host: Host, tmp_path: Path
) -> None:
    bundle = desk(with_tiny("1.0"))
    assert host.apply(*bundle.words)[0] == 0
    before, other = host.state(), desk(with_tiny("2.0"))
    changed = tmp_path / "changed.tar"
    data = bytearray(other.path.read_bytes())
    data[-20000] ^= 1
    changed.write_bytes(data)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(data[: len(data) // 2])
    whole = hashlib.sha256(cut.read_bytes()).hexdigest()
    elsewhere = json.loads((tmp_path / "facts.json").read_text())
    elsewhere["pythons"] = []
    for code, state, because, words, facts in (
        (2, "failed", "damaged or changed", ("--bundle", str(changed), "--bundle-sha256", other.sha256), None),
        (2, "failed", "cut off", ("--bundle", str(cut), "--bundle-sha256", whole), None),
        (2, "failed", "cannot be read", ("--bundle", "none.tar", "--bundle-sha256", whole), None),
        (4, "no-combination", "than this one: torch 99.0.0 (CPU) does not fit this host", other.words, elsewhere),
        (6, "reboot", "differ", other.words, {**elsewhere, "driver": {**elsewhere["driver"], "state": "mismatch"}}),
    ):
        changes = {}
        if facts is not None:
            (tmp_path / "other.json").write_text(json.dumps(facts))
            changes["BNBENV_FACTS"] = str(tmp_path / "other.json")
        ended, done = host.apply(*words, **changes)
        assert (ended, done["state"]) == (code, state), done
        assert because in done["because"], done
        assert host.state() == before
    held = "import sys, time; from pathlib import Path; from bnbenv.envs.generations import held; "
    held += "from bnbenv.envs.project import Project; root = Path(sys.argv[1])\n"
    held += "with held(Project(root, root / 'bnbenv.toml')):\n print(flush=True)\n time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", held, str(host.root)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        code, done = host.apply(*other.words, "--wait", "0")
        holder.kill()
    assert (code, done["state"], host.state()) == (8, "busy", before), done
    (host.root / "bnbenv.toml").chmod(0o666)
    code, done = host.apply(*other.words)
    assert (code, done["state"], host.state()) == (2, "failed", before) and "everybody" in done["because"], done


def test_options_that_do_not_go_together_are_wrong_usage(host: Host) -> None:
    for words in (
        ("--bundle", "a.tar"),
        ("--bundle", "a.tar", "--bundle-sha256", "12"),
        ("--bundle", "a.tar", "--bundle-sha256", "a" * 64, "--config", "b.toml"),
        ("--expect", "{"),
        ("--expect", '{"bnb": 1}'),
    ):
        code, document = host.apply(*words)
        assert (code, document["schema"]) == (2, "bnbenv.fleet-apply/1") and document["error"]["message"], words


@pytest.fixture
def copies(desk: Any, host: Host, tmp_path: Path) -> Callable[[], Host]:
    """Hosts that have the first bundle, one after the other in the same place."""
    assert host.apply(*desk(with_tiny("1.0", "1.0")).words)[0] == 0
    template = host.root.rename(tmp_path / "template")

    def copy() -> Host:
        shutil.rmtree(host.root, ignore_errors=True)
        shutil.copytree(template, host.root, symlinks=True)
        return host

    return copy


def counted(host: Host, words: tuple[str, ...]) -> list[str]:
    start = [
        sys.executable,
        DRIVER,
        str(host.root),
        "count",
        "0",
        "fleet",
        "apply",
        *words,
        "--project",
        str(host.root),
    ]
    done = subprocess.run(start, env=host.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith(("os.", "open ", "start ", "shutil."))]


def test_killed_before_any_step_it_is_all_or_nothing(desk: Any, copies: Any) -> None:
    """At each step of the switch, and at some of those that come before it."""
    words = desk(with_tiny("2.0", "2.0")).words
    old = copies().state()
    lines = counted(copies(), words)
    first = next(number for number, line in enumerate(lines, 1) if "switching.json" in line)
    host = copies()
    assert host.apply(*words)[0] == 0
    new = host.state()
    assert set(old.items()).isdisjoint(new.items())
    seen = []
    for number in (*range(5, first, max(1, first // 4)), *range(first, len(lines) + 1)):
        host = copies()
        code, _ = host.apply(*words, driver=(DRIVER, str(host.root), "kill", str(number)))
        assert code == -signal.SIGKILL
        at = f"killed before {lines[number - 1]}"
        if number >= first:  # whoever holds the project next
            with held(Project(host.root, host.root / "bnbenv.toml"), environ=host.environ):
                assert host.state() in (old, new), at
            seen.append(host.state() == new)
        else:
            assert host.state() == old, at
        if number < first or not number % 6:
            code, done = host.apply(*words)
            assert (code, host.state().keys()) == (0, new.keys()), (at, done)
            assert (host.tiny(), host.tiny("other")) == ("2.0", "2.0"), at
            assert not [path.name for path in host.root.rglob("*.part")], at
            assert not (host.root / ".bnbenv" / "switching.json").exists()
    assert seen == sorted(seen) and {*seen} == {False, True}


def test_a_switch_that_fails_half_way_is_taken_back(desk: Any, host: Host) -> None:
    """By this process, whose number is known: a folder is where its new link is to be."""
    both, other = desk(with_tiny("1.0", "1.0")), desk(with_tiny("2.0", "2.0"))
    assert host.apply(*both.words)[0] == 0
    old, project = host.state(), Project(host.root, host.root / "bnbenv.toml")
    assert host.apply(*other.words)[0] == 0
    new = host.state()
    facts = decode_facts(Path(host.environ["BNBENV_FACTS"]).read_bytes(), "facts")
    setting = Setting(project, load_wishes(project), facts, load_matrix(), host.environ, SystemRunner())
    now = hashlib.sha256(new["bnbenv.toml"].encode()).hexdigest()
    setting = dataclasses.replace(setting, config=old["bnbenv.toml"], config_before=now)
    switches = [Switch(env, generations(project, env)[0], both.locks[env]) for env in ("plain", "other")]
    together, obstacle = Together(switches), host.root / f".venv-other.new-{os.getpid()}"
    obstacle.mkdir()
    with pytest.raises(OSError, match="new-"):
        together.commit(setting)
    assert (together.undone, host.state()) == (("plain",), new)
    obstacle.rmdir()
    Together(list(switches)).discard(project)  # what was there before it was begun stays
    assert [len(generations(project, env)) for env in ("plain", "other")] == [2, 2]
    assert {path.name for path in host.root.iterdir()} == {".bnbenv", *new}
    together.commit(setting)
    assert host.state() == old
    assert host.run("check")[1]["in_sync"]


def test_a_connection_that_is_lost_leaves_a_host_as_it_was(desk: Any, host: Host) -> None:
    """What is started over it is told by SIGHUP, here while the second environment is made."""
    words = desk(with_tiny("1.0", "1.0")).words
    number = next(at for at, line in enumerate(counted(host, words), 1) if "/generations/other" in line)
    shutil.rmtree(host.root)
    start = [sys.executable, DRIVER, str(host.root), "stop", str(number), "fleet", "apply", *words]
    with subprocess.Popen([*start, "--project", str(host.root)], env=host.environ, stderr=subprocess.PIPE) as process:
        os.waitpid(process.pid, os.WUNTRACED)  # it has stopped
        assert (host.root / ".bnbenv" / "generations" / "plain" / "1.json").exists()
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    assert (process.returncode, host.root.exists()) == (130, False)


def test_without_a_bundle_a_bnbenv_toml_is_solved_here(desk: Any, host: Host, tmp_path: Path) -> None:
    wheels = desk(with_tiny("1.0")).path.parent / "wheels"
    config = f'{with_tiny("1.0")}{TWO}requirements = ["tiny"]\n[sources]\nfind-links = ["{wheels}"]\n'
    (tmp_path / "new.toml").write_text(config)
    words = ("--config", str(tmp_path / "new.toml"))
    code, done = host.apply(*words)
    assert (code, done["state"], (host.root / "bnbenv.toml").read_text()) == (0, "changed", config), done
    # What two environments have in common is one set of files, though both are switched to at the end.
    assert (host.tiny(), host.tiny("other")) == ("1.0", "1.0")
    assert host.apply(*words)[1]["state"] == "in-sync"
    (tmp_path / "new.toml").write_text("[envs.plain]\nnonsense = 1\n")
    code, broken = host.apply(*words)
    assert (code, broken["state"]) == (2, "failed") and f"{tmp_path}/new.toml: envs.plain.nonsense" in broken["because"]
    assert (host.root / "bnbenv.toml").read_text() == config


def test_what_somebody_changed_after_a_kill_stays(desk: Any, copies: Any) -> None:
    words = desk(with_tiny("2.0", "2.0")).words
    lines = counted(copies(), words)
    number = next(at for at, line in enumerate(lines, 1) if "open /.pylock.plain.toml" in line)
    host = copies()
    host.apply(*words, driver=(DRIVER, str(host.root), "kill", str(number)))
    (row, _) = host.run("fleet", "host")[1]["environments"]
    assert "switch-unfinished" in {reason["code"] for reason in row["reasons"]}
    assert (host.root / ".bnbenv" / "switching.json").stat().st_mode & 0o077 == 0  # there may be a login in it
    (host.root / ".venv-plain").unlink()
    (host.root / "pylock.plain.toml").write_text("mine")
    (host.root / "bnbenv.toml").write_text("# mine\n" + (host.root / "bnbenv.toml").read_text())
    assert host.run("gc", "--keep", "9")[0] == 0
    state = host.state()
    assert (state["pylock.plain.toml"], state["bnbenv.toml"][:6], host.tiny("other")) == ("mine", "# mine", "2.0")
    assert ".venv-plain" not in state


def test_a_full_disk_leaves_all_as_it_was(desk: Any, host: Host, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small file system cannot be mounted: that takes root")
    host.root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "bnbenv-test", str(host.root)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        assert host.apply(*desk(with_tiny("1.0", "1.0")).words)[0] == 0
        old, other = host.state(), desk(with_tiny("2.0", "2.0"))
        lines = counted(host, other.words)
        assert host.apply(*desk(with_tiny("1.0", "1.0")).words)[0] == 0
        assert host.run("gc", "--keep", "0")[0] == 0
        before = host.state()
        assert before.keys() == old.keys()
        found = [number for number, line in enumerate(lines, 1) if line.startswith("open /.pylock.other")]
        journal = next(number for number, line in enumerate(lines, 1) if "switching.json" in line)
        for number in (next(at for at, line in enumerate(lines, 1) if "generations/other" in line), journal, found[-1]):
            code, ended = host.apply(*other.words, driver=(DRIVER, str(host.root), "fill", str(number)))
            assert (code, ended["state"]) == (1, "failed"), ended
            assert "no space left" in ended["because"]
            (host.root / "filler").unlink()
            assert host.state() == before, lines[number - 1]
            assert all(row["in_sync"] for row in host.run("fleet", "host")[1]["environments"])
        assert host.apply(*other.words)[1]["state"] == "changed"
    finally:
        subprocess.run(["umount", "-l", str(host.root)], check=False)


@pytest.mark.real
def test_of_two_environments_one_that_fails_its_kernels_leaves_both(project: Any) -> None:
    """The real torch passes, and what only reads as one fails after it."""
    wheels = project.root / "wheels"
    wheel(wheels, "tiny", "1.0", "py3-none-any", {"tiny.py": b""})
    wheel(wheels, *FAKE_TORCH)
    text = '[envs.bnb]\nrequirements = ["tiny"]\n'
    sources = '[sources]\nfind-links = ["wheels"]\n'
    (project.root / "new.toml").write_text(f"{text}{ONE}{sources}")
    before = project.listing()
    ended = project("fleet", "apply", "--config", "new.toml", "--json")
    assert (ended.code, ended.document["state"]) == (5, "verify-failed"), ended
    assert ended.document["because"].startswith("plain: ")
    assert [row["generation"] for row in ended.document["environments"]] == [1]
    assert project.listing().keys() == before.keys()
    assert project.drift() == {}
