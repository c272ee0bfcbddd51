"""What a desk makes for the classes of a fleet and keeps. The packages are tiny; solver, uv and files are real."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import platform
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.bundle.archive import Reader
from bnbenv.envs.builds import survey_builds
from bnbenv.envs.project import Project
from bnbenv.envs.resolve import Setting, sources_of, user_matrix
from bnbenv.envs.survey import survey
from bnbenv.envs.wishes import load_wishes
from bnbenv.errors import BnbenvError, Busy, Exit
from bnbenv.facts.model import HostFacts, Python, decode_facts
from bnbenv.fleet.content import make_contents
from bnbenv.fleet.kept import FORGET, holding
from bnbenv.fleet.model import ClassPlan, Content, HostClass
from bnbenv.process import SystemRunner
from bnbenv.solve.model import Availability, Request
from bnbenv.solve.situation import with_request
from bnbenv.solve.solver import solve

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the wheels and hosts here are Linux's on x86-64"
)

HOSTS = Path(__file__).parent.parent / "hosts"
H200, A10, V100 = (
    "linux-x86_64__580.65.06__h200-sm90",
    "linux-x86_64__580.65.06__rtx5090-sm120",
    "linux-x86_64__580.65.06__v100-sm70",
)
WINDOWS, ORIN = "windows-x86_64__581.57__rtx4090-sm89", "linux-aarch64__540.4.0__orin-sm87__jetson36.4"
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
BACKEND = """\
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    info = "helper-1.0.dist-info/"
    files = {"helper.py": "", info + "METADATA": "Metadata-Version: 2.1\\nName: helper\\nVersion: 1.0\\n",
             info + "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"}
    with zipfile.ZipFile(folder + "/helper-1.0-py3-none-any.whl", "w") as archive:
        for name, text in {**files, info + "RECORD": "".join(f"{name},,\\n" for name in files)}.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return "helper-1.0-py3-none-any.whl"
"""
CHILD = """\
import os, pickle, sys
from pathlib import Path
from bnbenv.envs.project import Project
from bnbenv.envs.resolve import Setting, user_matrix
from bnbenv.envs.wishes import load_wishes
from bnbenv.fleet.content import make_contents
from bnbenv.process import SystemRunner
project = Project(Path(sys.argv[1]), Path(sys.argv[1], "bnbenv.toml"))
plans = pickle.loads(Path(sys.argv[2]).read_bytes())
wishes = load_wishes(project)
make_contents(Setting(project, wishes, plans[0].kind.facts, user_matrix(os.environ), os.environ, SystemRunner()), plans)
"""


class Said:
    """Progress that remembers what stays."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def detail(self, line: str) -> None: ...

    def at(self, text: str) -> None: ...

    def __contains__(self, part: str) -> bool:
        return any(part in line for line in self.lines)


@dataclasses.dataclass
class Desk:
    """A project whose only source is a folder of wheels, and classes of hosts."""

    root: Path
    environ: dict[str, str]
    said: Said = dataclasses.field(default_factory=Said)

    def setting(self, facts: HostFacts) -> Setting:
        project = Project(self.root, self.root / "bnbenv.toml")
        environ, runner = self.environ, SystemRunner()
        return Setting(project, load_wishes(project), facts, user_matrix(environ), environ, runner, progress=self.said)

    def plan(self, name: str, class_id: str, hosts: Sequence[str] = ("a", "b")) -> ClassPlan:
        """A class of hosts like a recorded one, solved."""
        facts = msgspec.structs.replace(
            decode_facts((HOSTS / name / "facts.json").read_bytes(), name),
            pythons=(Python(f"/usr/bin/python{MINOR}", f"{MINOR}.7"),),
        )
        setting = self.setting(facts)
        found, _, knowing = survey(setting, "none")
        answers = {env: solve(facts, knowing.matrix, setting.wishes.request(env), found) for env in setting.wishes.envs}
        return ClassPlan(HostClass(class_id, name.rpartition("_")[2], facts, tuple(hosts)), answers)

    def make(self, *plans: ClassPlan, requests: Any = None, fresh: bool = False) -> dict[str, Any]:
        self.said.lines.clear()
        return make_contents(self.setting(plans[0].kind.facts), plans, requests, fresh)

    def made(self, *plans: ClassPlan, **more: Any) -> dict[str, Content]:
        found = self.make(*plans, **more)
        assert all(isinstance(one, Content) for one in found.values()), found
        return found

    @property
    def bundles(self) -> set[str]:
        return {path.name for path in (self.root / ".bnbenv/fleet/bundles").iterdir()} - {"lock"}


@pytest.fixture
def wheels(tmp_path: Path, torch_wheel: Callable[..., str]) -> Path:
    """Two builds of torch, of which only the older has kernels for a V100, and a package published as source."""
    folder = tmp_path / "wheels"
    torch_wheel(folder, "13.0")
    torch_wheel(folder, "12.6", "2.12.0", "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90")
    project = '[project]\nname = "helper"\nversion = "1.0"\n'
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    metadata = "Metadata-Version: 2.2\nName: helper\nVersion: 1.0\n"
    with tarfile.open(folder / "helper-1.0.tar.gz", "w:gz") as archive:
        for name, text in (("pyproject.toml", project + system), ("backend.py", BACKEND), ("PKG-INFO", metadata)):
            info = tarfile.TarInfo(f"helper-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return folder


@pytest.fixture
def desk(tmp_path: Path, wheels: Path, tool_environ: dict[str, str]) -> Callable[[str], Desk]:
    """``desk("one")``: a project of that name."""
    own = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "UV_PYTHON_DOWNLOADS": "never"}
    own |= {"UV_CACHE_DIR": str(tmp_path / "cache"), "BNBENV_HOME": str(tmp_path / "user")}
    kept = {name: value for name, value in tool_environ.items() if not name.startswith(("UV_", "PIP_"))}

    def make(name: str) -> Desk:
        root = tmp_path / name
        root.mkdir()
        wish = '[envs.plain]\nfamily = "none"\nbackend = "cuda"\nrequirements = ["helper"]\n'
        python = f'python = "=={MINOR}.*"\n'
        (root / "bnbenv.toml").write_text(f'{wish}{python}[sources]\nfind-links = ["{wheels}"]\n')
        return Desk(root, {**kept, **own})

    return make


def test_the_same_bytes_in_any_order_at_any_desk_and_they_are_found_again(
    desk: Callable[[str], Desk], wheels: Path
) -> None:
    one = desk("one")
    new, other, old = one.plan(H200, "a" * 12), one.plan(A10, "b" * 12), one.plan(V100, "c" * 12)
    first = one.made(new, other, old)
    assert list(first) == ["a" * 12, "b" * 12, "c" * 12]
    shas = {class_id: content.sha256 for class_id, content in first.items()}
    assert shas["a" * 12] == shas["b" * 12] != shas["c" * 12]  # what installs alike travels once
    assert first["a" * 12].locks == first["b" * 12].locks
    with Reader(Path(first["c" * 12].path), "it") as reader:
        (group,) = reader.manifest.classes
        assert group.environments[0].torch == "2.12.0+cu126"
        assert "helper" in group.environments[0].packages and not group.tool
        assert reader.manifest.config

    # Another desk, on another day, asks in another order, and other hosts are there.
    two = desk("two")
    hosts = {"hosts": ("z", "y", "x")}
    again = two.made(two.plan(V100, "c" * 12, **hosts), two.plan(A10, "b" * 12, **hosts), two.plan(H200, "a" * 12))
    assert {class_id: content.sha256 for class_id, content in again.items()} == shas

    # The bundle holds bnbenv.toml: with another one it is another, though the locks still hold.
    with (two.root / "bnbenv.toml").open("a") as config:
        config.write("# a word for people\n")
    third = two.made(two.plan(V100, "c" * 12))["c" * 12]
    assert (third.locks, third.sha256 == shas["c" * 12]) == (first["c" * 12].locks, False)

    # Nothing is asked for, weighed or loaded again; a run for fewer classes keeps the bundles of the others.
    for wheel in wheels.iterdir():
        wheel.unlink()
    before = one.bundles
    assert one.made(old)["c" * 12] == first["c" * 12]
    assert one.made(old, new, other) == first and one.bundles == before
    assert one.said.lines == []


def test_damage_is_noticed_and_what_kills_left_is_cleared(desk: Callable[[str], Desk], tmp_path: Path) -> None:
    lab = desk("lab")
    plans = [lab.plan(H200, "a" * 12), lab.plan(V100, "c" * 12)]
    (tmp_path / "plans").write_bytes(pickle.dumps(plans))
    words = [sys.executable, "-c", CHILD, str(lab.root), str(tmp_path / "plans")]
    for _ in range(4):
        child = subprocess.Popen(words, env=lab.environ, start_new_session=True)
        time.sleep(0.4 + random.random())
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    home = lab.root / ".bnbenv/fleet"
    (home / "bundles").mkdir(parents=True, exist_ok=True)
    (home / "bundles/new.tar").write_bytes(b"whole, and not in its place")
    (home / f"bundles/{'0' * 64}.tar").write_bytes(b"in its place, and not written down")
    found = lab.made(*plans)
    keys = [name for name in lab.bundles if name.endswith(".json")]
    assert lab.bundles == {*keys, *(f"{one.sha256}.tar" for one in found.values())} and len(keys) == 2
    assert "that no class has any more" in lab.said  # one, or two where the kills came late

    whole = Path(found["a" * 12].path).read_bytes()
    for damage in (whole[:-1024], whole.replace(b"cuda = '13.0'", b"cuda = '13.1'"), b""):
        Path(found["a" * 12].path).write_bytes(damage)
        assert lab.made(*plans) == found
        assert "was damaged or changed: it is made anew" in lab.said
        assert Path(found["a" * 12].path).read_bytes() == whole
    # Whoever only touches it has it compared once.
    os.utime(found["a" * 12].path)
    assert lab.made(*plans) == found and lab.said.lines == []

    (lock,) = (home / "locks" / ("c" * 12)).glob("*.toml")
    lock.write_text(lock.read_text().replace("sm_70", "sm_71"))
    assert lab.made(*plans) == found  # chosen anew, and the same since nothing else changed
    assert "was damaged or changed: the lock is made anew" in lab.said


def test_a_class_that_cannot_have_a_lock_harms_no_other(desk: Callable[[str], Desk], tmp_path: Path) -> None:
    lab = desk("lab")
    new, old = lab.plan(H200, "a" * 12), lab.plan(V100, "c" * 12)
    first = lab.made(new)
    shutil.move(tmp_path / "wheels", tmp_path / "elsewhere")
    (tmp_path / "wheels").mkdir()
    closed = {"PIP_NO_INDEX": "0", "UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple"}
    found = dataclasses.replace(
        lab, environ={**lab.environ, **closed, "BNBENV_PYTORCH_INDEX": "http://127.0.0.1:9"}
    ).make(old, new)
    assert found["a" * 12] == first["a" * 12]
    error = found["c" * 12]
    assert isinstance(error, BnbenvError) and error.exit is Exit.UNREACHABLE, error

    # The next run, when the source is there again.
    (tmp_path / "wheels").rmdir()
    shutil.move(tmp_path / "elsewhere", tmp_path / "wheels")
    assert set(lab.made(old, new)) == {"a" * 12, "c" * 12}
    with holding(lab.setting(new.kind.facts).project, lab.environ, lab.said.say), pytest.raises(Busy):
        lab.make(new)

    # A bundle that cannot be made is the trouble of its class alone, too.
    for content in lab.made(old, new).values():
        Path(content.path).unlink()
    (wheel,) = (tmp_path / "wheels").glob("torch-2.12*")
    wheel.unlink()
    found = lab.make(old, new)
    assert isinstance(found["c" * 12], BnbenvError) and found["a" * 12] == first["a" * 12]


def test_a_lock_stays_until_it_does_not_hold_or_another_is_asked_for(
    desk: Callable[[str], Desk], torch_wheel: Callable[..., str], wheels: Path
) -> None:
    lab = desk("lab")
    first = lab.made(lab.plan(H200, "a" * 12))["a" * 12]
    torch_wheel(wheels, "13.0", "2.14.0")
    newer = lab.plan(H200, "a" * 12)
    assert lab.made(newer)["a" * 12] == first  # a newer release is no reason
    # A class that comes later and gets the newest choice has a lock of its own.
    assert lab.made(newer, lab.plan(A10, "b" * 12))["b" * 12].choices["plain"].torch.version == "2.14.0+cu130"
    fresh = lab.made(newer, fresh=True)["a" * 12]
    assert fresh.choices["plain"].torch.version == "2.14.0+cu130"
    assert "deleted a bundle that no class has any more" in lab.said and not Path(first.path).exists()
    with Reader(Path(fresh.path), "it") as it:
        people = it.text(it.manifest.classes[0].environments[0].lock)

    # One combination for all: what is kept is not taken where it is another.
    asked = {"plain": with_request(lab.setting(newer.kind.facts).wishes.request("plain"), torch="===2.12.0+cu126")}
    facts, setting = newer.kind.facts, lab.setting(newer.kind.facts)
    answer = solve(facts, setting.matrix, asked["plain"], survey(setting, "none").found)
    common = msgspec.structs.replace(newer, answers={"plain": answer})
    pinned = lab.made(common, requests=asked)["a" * 12]
    assert pinned.choices["plain"].torch.version == "2.12.0+cu126"
    assert lab.made(newer)["a" * 12] == pinned  # which holds without that as well

    # The project's own lock is there for people to see, and goes before.
    (lab.root / "pylock.plain.toml").write_text(people)
    assert lab.made(newer)["a" * 12].choices["plain"].torch.version == "2.14.0+cu130"

    (lab.root / "pylock.plain.toml").unlink()  # what the hosts have by now is no reason to change them back
    assert lab.made(newer)["a" * 12].choices["plain"].torch.version == "2.14.0+cu130"

    # Other wishes ask for other locks; a class that nobody is in any more is forgotten.
    text = (lab.root / "bnbenv.toml").read_text()
    (lab.root / "bnbenv.toml").write_text(text.replace('["helper"]', "[]"))
    changed = lab.made(lab.plan(H200, "a" * 12))["a" * 12]
    with Reader(Path(changed.path), "x") as it:
        assert set(it.manifest.classes[0].environments[0].packages) == {"torch"}
    note = lab.root / ".bnbenv/fleet/locks" / ("b" * 12) / "bundle"
    long_ago = time.time() - FORGET - 100
    for alive in (True, False):
        os.utime(note, (long_ago, long_ago))
        if alive:  # its hosts have what they should have, so it needs no bundle
            gone = lab.plan(H200, "b" * 12)
            make_contents(lab.setting(gone.kind.facts), [gone], bundles=False)
        lab.made(lab.plan(H200, "a" * 12))
        assert note.exists() is alive
    assert not note.parent.exists() and lab.bundles == {
        f"{changed.sha256}.tar",
        *(name for name in lab.bundles if name.endswith(".json")),
    }


def test_a_desk_compiles_for_no_other_kind_of_machine(desk: Callable[[str], Desk]) -> None:
    for name, there in ((WINDOWS, "windows on x86_64"), (ORIN, "linux on aarch64")):
        setting = desk(there).setting(decode_facts((HOSTS / name / "facts.json").read_bytes(), name))
        request = Request(build="always")
        found, error = survey_builds(setting, sources_of(setting), request, Availability())
        assert found.no_source == f"this machine is linux on x86_64, and what it compiles does not run on {there}"
        assert (found.toolkits, error) == ({}, None)


@pytest.mark.real
def test_a_real_bundle_of_a_class_installs_without_any_source(project: Any, empty: Any) -> None:
    """Real torch and bitsandbytes on the CPU, and a kernel that runs."""
    facts = decode_facts(json.dumps(project.done("facts")), "facts")
    root = Project(project.root, project.root / "bnbenv.toml")
    (project.root / "pylock.bnb.toml").unlink()  # or that would be the lock
    said, runner = Said(), SystemRunner()
    setting = Setting(
        root, load_wishes(root), facts, user_matrix(project.environ), project.environ, runner, progress=said
    )
    found, _, knowing = survey(setting)
    answer = solve(facts, knowing.matrix, setting.wishes.request("bnb"), found)
    plan = ClassPlan(HostClass("d" * 12, "CPU hosts", facts, ("a",)), {"bnb": answer})
    content = make_contents(setting, [plan])["d" * 12]
    assert isinstance(content, Content), content
    try:
        assert content.size == Path(content.path).stat().st_size > 100 << 20
        ended = empty("sync", "--offline", "--bundle", content.path, "--no-verify", "--json", UV_OFFLINE="1")
    finally:
        shutil.rmtree(project.root / ".bnbenv/fleet")
    assert ended.code == 0, ended
    assert empty.quantizes()
    record = json.loads((empty.root / ".bnbenv/generations/bnb/1.json").read_text())
    assert record["lock"] == content.locks["bnb"]
