"""A generation that is damaged is not gone back to, and what lies beside it is read as what it is.

torch is a stand-in that installs in no time: its kernels cannot run, and none have to here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LOCK = "pylock.bnb.toml"
SAVED = ".bnbenv/generations/bnb/1.lock.toml"
H200 = "linux-x86_64__580.65.06__h200-sm90"
STEP = "Go back to another one (bnbenv list), or make a new one with: bnbenv sync --fresh"


@pytest.fixture
def box(gpu_box: Callable[..., Any], wheel_maker: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A project in sync that asks for a small package; its cache is its own."""
    project = gpu_box(H200)
    project = type(project)(project.root, {**project.environ, "UV_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))})
    wheel_maker(project.root / "wheels", "bnbenvtestpack", "1.0")
    asked = b'requirements = ["bnbenvtestpack"]\n[sources]'
    project.replace("bnbenv.toml", lambda text: text.replace(b"[sources]", asked))
    project.done("sync")
    return project


def refused(project: Any) -> str:
    """The sentence of a rollback that is refused and changed nothing."""
    before, lock = project.generation(), (project.root / LOCK).read_bytes()
    ended = project("rollback", "--json")
    assert ended.code == 1, ended.stdout + ended.stderr
    error = ended.document["error"]
    assert (error["code"], error["next_step"]) == ("generation-damaged", STEP)
    assert (project.generation(), (project.root / LOCK).read_bytes()) == (before, lock)
    message: str = error["message"]
    return message


def test_a_generation_with_an_edited_file_is_not_gone_back_to(box: Any) -> None:
    (module,) = (box.root / ".venv-bnb").glob("lib/python*/site-packages/bnbenvtestpack.py")
    whole = module.read_bytes()
    with module.open("r+b") as stream:
        stream.write(b"E")
    assert "generation 1 shares that file and is broken too" in box("sync", "--fresh").stderr
    assert refused(box) == (
        "generation 1 of bnb is broken: bnbenvtestpack.py has another content than its package brought"
    )
    assert box.drift() == {}

    # What people put there beside the packages is no damage.
    site = box.root / ".bnbenv" / "generations" / "bnb" / "1" / module.relative_to(module.parents[3])
    site.write_bytes(whole)
    (site.parent / "mine.py").write_text("")
    assert box.done("rollback")["generation"] == 1
    assert box.drift() == {}


def test_a_generation_whose_lock_cannot_be_used_is_not_gone_back_to(box: Any) -> None:
    box.done("sync", "--fresh")
    saved = box.root / SAVED
    good = saved.read_bytes()
    other = good.replace(b'name = "torch"\nversion = "2.13.0', b'name = "torch"\nversion = "2.12.0')
    assert other != good
    for text in (b"\xff\xfe", b"", b"no lock at all", b'lock-version = "1.0"\n', other):
        saved.write_bytes(text)
        assert refused(box) == f"the lock of generation 1 of bnb ({saved}) is missing or damaged"
    saved.unlink()
    refused(box)
    # The next sync takes no offence at it.
    assert box.done("sync")["generations"][0]["generation"] == 2
    saved.write_bytes(good)
    assert box.done("rollback")["generation"] == 1
    assert box.drift() == {}


@pytest.mark.parametrize(("saved", "generation"), [(None, 1), (b"\xff", 2), (b"no lock", 2)])
def test_other_wishes_that_come_to_the_same_packages(box: Any, saved: bytes | None, generation: int) -> None:
    """Where the saved lock does not tell that they are those installed, they are installed again."""
    box.replace("bnbenv.toml", lambda text: text.replace(b'bitsandbytes = "*"', b'bitsandbytes = ">=0.40"'))
    if saved is not None:
        (box.root / SAVED).write_bytes(saved)
    ended = box("sync", "--json")
    assert ended.code == 0, ended.stderr
    assert box.generation() == generation
    assert box.drift() == {}
