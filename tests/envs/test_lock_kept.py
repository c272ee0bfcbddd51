"""``sync --locked`` installs just the lock or refuses; what is not what was locked is never switched to."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

LOCK = "pylock.bnb.toml"
H200 = "linux-x86_64__580.65.06__h200-sm90"
Wheels = Callable[..., Path]


@pytest.fixture
def tiny(project: Any, wheel_maker: Wheels) -> Path:
    """A small wheel in a local folder that the project asks for beside torch and bitsandbytes."""
    wheel = wheel_maker(project.root / "wheels", "tinypackage", "1.0")
    project.replace(
        "bnbenv.toml",
        lambda text: text.replace(b"# requirements = [", b'requirements = ["tinypackage"] # [').replace(
            b"# find-links = []", b'find-links = ["wheels"]'
        ),
    )
    return wheel


def refused(project: Any, *words: str, code: str, exits: int = 1, **changes: str) -> str:
    """The sentence of a sync that is refused, after which all is as it was."""
    before = project.listing()
    ended = project("sync", *words, "--json", **changes)
    assert ended.code == exits, ended.stderr
    assert ended.document["error"]["code"] == code
    assert project.leftovers() == []
    now = project.listing()
    changed = {path for path in {*before, *now} if before.get(path) != now.get(path) and not path.endswith("/.")}
    changed = {path for path in changed if "/.bnbenv/log" not in path}
    assert {Path(path).name for path in changed} <= {".bnbenv", "lock", ".gitignore", "generations", "bnb"}
    message: str = ended.document["error"]["message"]
    return message


def test_without_a_lock_it_is_exit_2(empty: Any) -> None:
    ended = empty("sync", "--locked", "--json")
    assert ended.code == 2
    assert LOCK in ended.document["error"]["message"]
    assert ended.document["error"]["next_step"] == "Make one with: bnbenv lock"


@pytest.mark.real
def test_a_lock_for_other_wishes_is_refused(project: Any) -> None:
    project.replace("bnbenv.toml", lambda text: text.replace(b'# torch = "*"', b'torch = "<99"'))
    message = refused(project, "--locked", code="lock-does-not-fit", exits=4)
    assert message == f"{LOCK} cannot be used: the wishes changed"


@pytest.mark.real
def test_a_lock_of_another_environment_is_refused(project: Any) -> None:
    project.replace(LOCK, lambda text: text.replace(b'env = "bnb"', b'env = "other"'))
    assert refused(project, "--locked", code="lock-does-not-fit", exits=4).endswith("it is the lock of other")


def test_a_lock_for_gpus_is_refused_where_there_are_none(gpu_box: Callable[..., Any]) -> None:
    project = gpu_box(H200)
    (row,) = project.done("lock")["locks"]
    assert row["choice"]["torch"]["cuda"] == "13.0"
    message = refused(project, "--locked", code="lock-does-not-fit", exits=4, BNBENV_FACTS=None)
    assert message == f"{LOCK} cannot be used: it was made for cuda and this host calls for cpu"
    # On the host itself it is taken.
    assert project.done("sync", "--locked")["generations"][0]["backend"] == "cuda"


def test_a_lock_for_one_gpu_is_refused_where_bitsandbytes_would_load_another_library(
    gpu_box: Callable[..., Any],
) -> None:
    project = gpu_box(H200, cuda="12.7", bitsandbytes="==0.49.2")
    project.done("lock")
    project.replace(LOCK, lambda text: text.replace(b'BNB_CUDA_VERSION = "126"', b'BNB_CUDA_VERSION = "124"'))
    message = refused(project, "--locked", code="lock-does-not-fit", exits=4)
    assert message.endswith("bitsandbytes would load another library here than the one it was made for")


@pytest.mark.real
@pytest.mark.parametrize("package", ["jinja2", "bitsandbytes", "torch"])
def test_a_hash_that_was_changed_in_the_lock_stops_before_anything_is_switched(project: Any, package: str) -> None:
    text = (project.root / LOCK).read_text()
    (section,) = re.findall(rf'name = "{package}".*?(?=\n\[)', text, re.S)
    wrong = re.sub(r'sha256 = "(.)', lambda m: f'sha256 = "{int(m[1], 16) ^ 1:x}', section)
    assert wrong != section
    project.replace(LOCK, lambda _: text.replace(section, wrong).encode())
    known = package != "jinja2"  # the decision in the lock says which file of it was chosen
    code, exits = ("unreadable-input", 2) if known else ("hash-mismatch", 1)
    assert package in refused(project, "--locked", "--no-verify", code=code, exits=exits)
    assert project.generation() == 1


@pytest.mark.real
def test_a_lock_without_a_hash_is_exit_2(project: Any) -> None:
    project.replace(LOCK, lambda data: re.sub(rb', hashes = \{ sha256 = "\w+" \}', b"", data))
    ended = project("sync", "--locked", "--json")
    assert ended.code == 2
    assert "expected a sha256 for every file of" in ended.document["error"]["message"]


@pytest.mark.real
@pytest.mark.parametrize(("change", "code"), [("one byte", "damaged-file"), ("another wheel", "hash-mismatch")])
def test_a_wheel_that_is_not_the_locked_one_stops_before_anything_is_switched(
    project: Any, tiny: Path, wheel_maker: Wheels, change: str, code: str
) -> None:
    # The same lock on another machine: here uv has the right file in its cache, and would install that.
    elsewhere = project.root / "elsewhere"
    elsewhere.mkdir()
    project.replace("bnbenv.toml", lambda text: text.replace(b'["wheels"]', b'["wheels", "elsewhere"]'))
    project.done("lock")
    project.replace(LOCK, lambda text: text.replace(b"/wheels/tinypackage", b"/elsewhere/tinypackage"))
    other = wheel_maker(elsewhere, "tinypackage", "1.0", ("jinja2",) if change == "another wheel" else ())
    if change == "one byte":
        other.write_bytes(tiny.read_bytes().replace(b"VERSION = '1.0'", b"VERSION = '6.0'"))
    message = refused(project, "--locked", "--no-verify", code=code)
    assert "tinypackage" in message
    assert project.generation() == 1


@pytest.mark.real
def test_locking_leaves_the_environment_alone(project: Any) -> None:
    (row,) = project.done("lock")["locks"]
    assert row["changed"] is False
    assert project.drift() == {}


@pytest.mark.real
def test_other_installers_can_use_the_lock(synced: Any, project: Any, tmp_path: Path) -> None:
    version = synced.first["lock"].document["locks"][0]["choice"]["python"]
    words = ("pip", "install", "--dry-run", "--python-version", version, "--target", str(tmp_path / "target"))
    done = subprocess.run(
        [find_uv_bin(), *words, "-r", LOCK, "--preview"],
        cwd=project.root,
        env=project.changed(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "+ bitsandbytes==" in done.stderr
