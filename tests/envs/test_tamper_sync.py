"""A cache or a lock that somebody changed: what arrives is loaded again or refused, and nothing of it is run.

torch is a stand-in that installs in no time, so no kernels can run here; that is not what these are about.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.lockfile import Locked
from bnbenv.envs.provenance import installed_otherwise, not_asked_for

LOCK = "pylock.bnb.toml"
H200 = "linux-x86_64__580.65.06__h200-sm90"
Wheels = Callable[..., Path]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for these tests alone: what they do to it must not reach anybody."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def box(gpu_box: Callable[..., Any], wheel_maker: Wheels, cache: Path) -> Any:
    """A project in sync that asks for a small package, whose wheel nobody else has."""
    project = gpu_box(H200)
    project = type(project)(project.root, {**project.environ, "UV_CACHE_DIR": str(cache)})
    wheel_maker(project.root / "wheels", "bnbenvtestpack", "1.0")
    asked = b'requirements = ["bnbenvtestpack"]\n[sources]'
    project.replace("bnbenv.toml", lambda text: text.replace(b"[sources]", asked))
    project.done("sync")
    return project


def cached(project: Any, cache: Path) -> Path:
    """The folder in uv's cache that the installed bnbenvtestpack is links into."""
    own = installed(project, "bnbenvtestpack.py")
    (module,) = [path for path in (cache / "archive-v0").glob("*/bnbenvtestpack.py") if path.samefile(own)]
    return module.parent


def evil(project: Any) -> str:
    """A line of Python that leaves a trace where it is run."""
    return f"import pathlib; pathlib.Path({str(project.root / 'ran')!r}).touch()\n"


def installed(project: Any, name: str, env: str = ".venv-bnb") -> Path:
    (path,) = (project.root / env).glob(f"lib/python*/site-packages/{name}")
    return path


def refused(project: Any, code: str, exits: int, *words: str, **changes: str | None) -> str:
    """The sentence of a sync that is refused; nothing was run, and nothing is left or switched to."""
    before = project.generation()
    ended = project("sync", *words, "--json", **changes)
    assert ended.code == exits, ended.stdout + ended.stderr
    error = ended.document["error"]
    assert error["code"] == code, error
    assert error["next_step"]
    assert project.generation() == before
    assert project.leftovers() == []
    assert not (project.root / "ran").exists()
    message: str = error["message"]
    return message


@pytest.mark.parametrize("how", ["longer", "as long and as old"])
def test_an_edit_in_one_environment_does_not_reach_the_next(box: Any, how: str) -> None:
    """Environments are links into uv's cache: an edit in one is one in the cache."""
    path = installed(box, "bnbenvtestpack.py")
    stat = path.stat()
    with path.open("r+b") as stream:
        stream.seek(0, os.SEEK_END if how == "longer" else os.SEEK_SET)
        stream.write(evil(box).encode() if how == "longer" else b"E")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    ended = box("sync", "--fresh")
    assert ended.code == 0, ended.stderr
    assert "changed in uv's cache: bnbenvtestpack.py has " in ended.stderr
    assert "loading bnbenvtestpack again" in ended.stderr
    assert "bnb: generation 1 shares that file and is broken too" in ended.stderr
    assert box.python("import bnbenvtestpack; print(bnbenvtestpack.VERSION)") == "1.0"
    assert box.generation() == 2
    # What was repaired stays so.
    assert "changed in uv's cache" not in box("sync", "--fresh").stderr


@pytest.mark.parametrize("name", ["evil.pth", "sitecustomize.py", "bnbenvtestpack/__init__.py"])
def test_a_file_that_was_put_into_the_cache_is_not_run(box: Any, cache: Path, name: str) -> None:
    archive = cached(box, cache)
    (archive / name).parent.mkdir(exist_ok=True)
    (archive / name).write_text(evil(box))
    # Compiling would run the environment: whoever asks for it, nobody gets it.
    (box.root / "uv.toml").write_text("[pip]\ncompile-bytecode = true\n")
    ended = box("sync", "--fresh", "--no-verify", UV_COMPILE_BYTECODE="1")
    assert ended.code == 0, ended.stderr
    assert f"{name} is named by no package's RECORD" in ended.stderr
    assert box.python("import bnbenvtestpack; print(bnbenvtestpack.VERSION)") == "1.0"
    assert not (box.root / "ran").exists()


def test_a_cache_in_which_the_record_was_changed_too(box: Any, cache: Path) -> None:
    """The wheel lies on this machine, and the RECORD in it tells."""
    archive = cached(box, cache)
    record, module = archive / "bnbenvtestpack-1.0.dist-info/RECORD", archive / "bnbenvtestpack.py"
    module.write_text(evil(box))
    record.write_text(re.sub(r"(?m)^bnbenvtestpack\.py,.*$", "bnbenvtestpack.py,,", record.read_text()))
    ended = box("sync", "--fresh")
    assert ended.code == 0, ended.stderr
    assert "bnbenvtestpack.py is not the file of its wheel" in ended.stderr
    assert box.python("import bnbenvtestpack; print(bnbenvtestpack.VERSION)") == "1.0"
    assert not (box.root / "ran").exists()


def test_a_wheel_whose_own_record_leaves_a_file_out_is_installed(box: Any) -> None:
    """uv completes it, and the wheel is the one that was locked."""
    import zipfile

    with zipfile.ZipFile(box.root / "wheels" / "bnbenvtestpack-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("bnbenvtestpack_more.py", "MORE = 1\n")
    box.done("lock")
    ended = box("sync")
    assert ended.code == 0, ended.stderr
    assert "changed in uv's cache" not in ended.stderr
    assert box.python("import bnbenvtestpack_more; print(bnbenvtestpack_more.MORE)") == "1"


def test_an_edited_generation_is_not_gone_back_to_by_sync(box: Any) -> None:
    """A finished generation with just this lock is switched to; one that was edited is not."""
    lock = (box.root / LOCK).read_bytes()
    first = installed(box, "bnbenvtestpack.py")
    box.replace("bnbenv.toml", lambda text: text.replace(b'requirements = ["bnbenvtestpack"]', b"requirements = []"))
    box.done("sync")
    fresh = first.with_name("fresh")
    fresh.write_text(evil(box))
    target = box.root / ".bnbenv/generations/bnb/1"
    (edited,) = target.glob("lib/python*/site-packages/bnbenvtestpack.py")
    fresh.replace(edited)
    box.replace("bnbenv.toml", lambda text: text.replace(b"requirements = []", b'requirements = ["bnbenvtestpack"]'))
    (box.root / LOCK).write_bytes(lock)
    ended = box("sync")
    assert ended.code == 0, ended.stderr
    assert "making a new generation, since in generation 1 bnbenvtestpack.py has " in ended.stderr
    assert box.generation() == 3


ADDED = """
[[packages]]
name = "strangepackage"
version = "1.0"
archive = {{ path = "{path}", hashes = {{ sha256 = "{sha256}" }} }}
"""


def with_package(project: Any, wheel: Path) -> None:
    """Add a package to the lock, as somebody who edits it would."""
    import hashlib

    entry = ADDED.format(path=wheel, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    project.replace(LOCK, lambda text: text.replace(b"\n[tool.bnbenv]", f"{entry}\n[tool.bnbenv]".encode()))


def test_a_package_that_nobody_asked_for(box: Any, wheel_maker: Wheels) -> None:
    wheel = wheel_maker(box.root / "wheels", "strangepackage", "1.0", more={"evil.pth": evil(box)})
    with_package(box, wheel)
    message = refused(box, "not-asked-for", 1, "--locked")
    assert message == "the lock holds what nobody asked for and nothing in it requires: strangepackage"


def test_a_package_from_elsewhere(box: Any, wheel_maker: Wheels, tmp_path: Path) -> None:
    wheel = wheel_maker(tmp_path / "elsewhere", "strangepackage", "1.0", more={"evil.pth": evil(box)})
    with_package(box, wheel)
    message = refused(box, "foreign-source", 1, "--locked")
    assert f"takes strangepackage from {wheel}, and none of the package sources here" in message


def test_a_file_from_a_server_that_no_source_names(box: Any) -> None:
    box.replace(
        LOCK, lambda text: re.sub(rb'url = "[^"]*/bnbenvtestpack', b'url = "https://localhost:1/bnbenvtestpack', text)
    )
    message = refused(box, "foreign-source", 1, "--locked")
    assert message.startswith("the lock takes bnbenvtestpack from https://localhost:1/bnbenvtestpack-1.0")
    # Who cannot be asked is named. Offline nothing new can come, and so uv is asked for what it has.
    nobody = {"UV_DEFAULT_INDEX": "http://localhost:1/simple", "UV_INDEX": None, "PIP_EXTRA_INDEX_URL": None}
    assert "nobody says whether" in refused(box, "source-unreachable", 7, "--locked", **nobody)
    assert "not in uv's cache" in refused(box, "offline", 7, "--locked", BNBENV_OFFLINE="1")


VARIABLES = "[tool.bnbenv.solution.choice.environment]\n"
PACK = 'name = "bnbenvtestpack"\nversion = "1.0"\n'
OTHER_SOURCE = 'source = "default-index"\n'
EDITS = {
    # Variables that every process of the environment would start with.
    "environment": (VARIABLES, VARIABLES + 'LD_PRELOAD = "/tmp/evil.so"\n', "lock-does-not-fit", 4, "another library"),
    "torch's source": ('source = "local"\n', OTHER_SOURCE, "unreadable-input", 2, "tool.bnbenv.torch.source"),
    "marker": (PACK, PACK + "marker = \"python_version < '3'\"\n", "not-as-locked", 1, "lock was not installed"),
    "directory": (PACK, PACK + 'directory = { path = "." }\n', "unreadable-input", 2, "directory: expected files"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_other_edits_of_a_lock(box: Any, edit: str) -> None:
    old, new, code, exits, words = EDITS[edit]
    assert old in (box.root / LOCK).read_text()
    box.replace(LOCK, lambda text: text.replace(old.encode(), new.encode(), 1))
    assert words in refused(box, code, exits, "--locked")


def test_a_bitsandbytes_that_was_not_measured(box: Any, wheel_maker: Wheels) -> None:
    """A second wheel of the chosen version, which an installer might prefer."""
    address = "https://localhost:1/bitsandbytes-0.0-py3-none-any.whl"
    other = f'{{ url = "{address}", hashes = {{ sha256 = "{"0" * 64}" }} }}, '.encode()
    begin = rb'(name = "bitsandbytes"\n.*\nwheels = \[)'
    box.replace(LOCK, lambda text: re.sub(begin, lambda found: found[1] + other, text))
    message = refused(box, "unreadable-input", 2, "--locked")
    assert "that was measured, found another bitsandbytes-0.0-py3-none-any.whl" in message


def test_a_colleagues_lock_is_installed(box: Any, tmp_path: Path) -> None:
    """What was edited and put right again, or came from elsewhere, is asked about and then taken."""
    for path in (box.root / ".bnbenv", box.root / ".venv-bnb"):
        path.rename(tmp_path / path.name)
    assert box.done("sync", "--locked")["generations"][0]["generation"] == 1


def test_installed_packages_are_compared_by_name_and_version() -> None:
    packages = {"typing-extensions": "4.16.0", "torch": "2.13.0+cpu", "old": "2013.09"}
    same = ["typing_extensions-4.16.0.dist-info", "torch-2.13.0+cpu.dist-info", "old-2013.9.dist-info"]
    nothing: Any = None
    lock = Locked("", nothing, packages, {})
    assert installed_otherwise(lock, same) is None
    assert installed_otherwise(lock, same[1:]) == "typing-extensions of the lock was not installed"
    assert installed_otherwise(lock, [*same, "evil-1.dist-info"]) == "evil was installed and is not in the lock"
    assert installed_otherwise(lock, ["typing_extensions-5.dist-info", *same[1:]]) == (
        "typing-extensions was installed as 5 and not 4.16.0"
    )


def test_what_is_required_by_what_was_asked_for_is_not_strange() -> None:
    metadata = {
        "peft": "Name: peft\nRequires-Dist: Typing_Extensions>=4; python_version < '3'\n\nRequires-Dist: evil\n",
        "typing-extensions": "Name: typing_extensions\n",
        "evil": "Name: evil\n",
    }
    assert not_asked_for(["PEFT[extra]>=0.14 ; python_version > '3'"], metadata) == ["evil"]
    assert not_asked_for(["peft", "evil"], metadata) == []
