"""No space, no permission, no network, no Python, kernels that fail: one sentence, and what was in use is kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

DRIVER = str(Path(__file__).with_name("at_effect.py"))
Wheels = Callable[..., Path]

# Gives up root's right to read and write where permissions forbid it; others have none to give up.
AS_USER = """\
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability)
os.execv(sys.executable, [sys.executable, "-m", "bnbenv", *sys.argv[1:]])
"""


def failure(project: Any, code: int, *words: str, command: tuple[str, ...] = ("-m", "bnbenv"), **changes: Any) -> Any:
    """The error of a command that has to end with an exit code; it is told in one sentence, on both streams."""
    process = project.start(*words, "--json", command=command, changes=changes)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    assert process.returncode == code, err
    error = json.loads(out)["error"]
    assert error["message"] in err
    assert "\n" not in error["message"]
    return error


def wish(project: Any, old: str, new: str) -> None:
    project.replace("bnbenv.toml", lambda text: text.replace(old.encode(), new.encode()))


@pytest.fixture
def small(synced: Any, project: Any, tmp_path: Path) -> Iterator[Any]:
    """A project on a file system of 48 MB, its packages symbolic links into uv's cache."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("a small file system cannot be mounted: that takes root")
    words = [mount, "-t", "tmpfs", "-o", "size=48m", "bnbenv-test", place]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        for name in ("bnbenv.toml", "pylock.bnb.toml"):
            shutil.copy(synced.root / name, place)
        # Bytecode has no room there: it lies elsewhere.
        changes = {"UV_LINK_MODE": "symlink", "PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}
        yield type(project)(place, {**project.environ, **changes})
    finally:
        subprocess.run(["umount", "-l", place], check=False)
        shutil.rmtree(tmp_path / "bytecode", ignore_errors=True)


def full_at(project: Any, number: int, *words: str) -> tuple[int, str, str]:
    """Run a command whose disk is full from its n-th effect on: exit code, standard output, standard error."""
    process = project.start(str(project.root), "fill", str(number), *words, "--json", command=(DRIVER,))
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def test_a_disk_that_is_full_from_any_step_on(small: Any, wheel_maker: Wheels) -> None:
    small.done("sync", "--no-verify")
    wheel_maker(small.root / "wheels", "tinypackage", "1.0")
    wish(small, "# requirements = [", 'requirements = ["tinypackage"] # [')
    wish(small, "# find-links = []", 'find-links = ["wheels"]')
    before = (small.root / "pylock.bnb.toml").read_bytes()
    refused = 0
    for number in range(1, 60, 2):  # what is written is opened and then renamed: of each pair one is met
        code, out, err = full_at(small, number, "sync", "--no-verify")
        (small.root / "filler").unlink(missing_ok=True)
        if code == 0:
            break
        refused += 1
        assert code == 1, err
        assert json.loads(out)["error"]["code"] == "no-space"
        assert small.generation() == 1
        assert (small.root / "pylock.bnb.toml").read_bytes() == before or "pylock" not in err
        assert set(small.drift()) <= {"wishes-changed", "lock-changed", "unverified"}
    assert refused > 5
    assert small.python("import tinypackage; print(tinypackage.VERSION)") == "1.0"
    small.done("sync", "--no-verify")
    assert small.leftovers() == []
    assert set(small.drift()) == {"unverified"}
    assert small.quantizes()


def test_too_small_a_disk_for_the_packages(small: Any) -> None:
    small.done("sync", "--no-verify")
    error = failure(small, 1, "sync", "--fresh", "--no-verify", UV_LINK_MODE="copy")
    assert error["code"] == "no-space"
    assert "bnbenv gc" in error["next_step"]
    assert small.generation() == 1
    assert small.leftovers() == []
    assert shutil.disk_usage(small.root).free > 40e6
    assert set(small.drift()) == {"unverified"}


def test_a_file_system_that_became_read_only(small: Any) -> None:
    small.done("sync", "--no-verify")
    subprocess.run(["mount", "-o", "remount,ro", small.root], check=True)
    assert set(small.drift()) == {"unverified"}
    assert failure(small, 1, "sync", "--fresh")["code"] == "read-only"
    assert failure(small, 1, "gc")["code"] == "read-only"
    assert small("plan").code == 3


def test_a_folder_that_may_not_be_written(project: Any) -> None:
    folder = project.root / ".bnbenv" / "generations" / "bnb"
    folder.chmod(0o555)
    error = failure(project, 1, "sync", "--fresh", "--no-verify", command=("-c", AS_USER))
    assert error["code"] == "no-permission"
    assert str(folder) in error["message"]
    folder.chmod(0o755)
    assert project.drift() == {}
    assert project.leftovers() == []


def test_a_project_that_may_not_be_written(locked: Any) -> None:
    locked.root.chmod(0o555)
    assert failure(locked, 1, "sync", command=("-c", AS_USER))["code"] == "no-permission"
    locked.root.chmod(0o755)
    (locked.root / "bnbenv.toml").chmod(0o000)
    for words in (("check",), ("plan",), ("sync",)):
        error = failure(locked, 2, *words, command=("-c", AS_USER))
        assert error["code"] == "unreadable-input"
        assert "bnbenv.toml: cannot be read (Permission denied)" in error["message"]


CLOSED = "http://127.0.0.1:1/simple"
NOTHING_ELSE = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": None, "PIP_EXTRA_INDEX_URL": None}


@pytest.mark.parametrize(
    "changes", [{"BNBENV_OFFLINE": "1"}, {"UV_DEFAULT_INDEX": CLOSED, **NOTHING_ELSE}], ids=["offline", "closed port"]
)
def test_without_a_network_a_new_lock_is_exit_7(project: Any, changes: dict[str, str | None]) -> None:
    wish(project, "# requirements = [", 'requirements = ["bnbenv-has-no-such-package"] # [')
    begun = project.listing()
    error = failure(project, 7, "sync", **changes)
    assert error["code"] == ("offline" if "BNBENV_OFFLINE" in changes else "source-unreachable")
    assert project.generation() == 1
    assert project.leftovers() == []
    assert {path: seen for path, seen in project.listing().items() if "/1/" in path} == {
        path: seen for path, seen in begun.items() if "/1/" in path
    }
    assert set(project.drift()) == {"wishes-changed"}


def test_without_a_network_what_is_locked_and_cached_is_installed(project: Any) -> None:
    assert project.done("sync", BNBENV_OFFLINE="1")["actions"] == []
    done = project.done("sync", "--locked", "--fresh", "--no-verify", BNBENV_OFFLINE="1")
    assert done["generations"][0]["generation"] == 2


def test_without_a_python_that_fits_it_is_exit_4(project: Any) -> None:
    wish(project, '# python = ">=3.10"', 'python = "==3.4.*"')
    error = failure(project, 4, "sync")
    assert error["code"] == "no-combination"
    assert "3.4" in error["detail"]
    assert "python" in error["next_step"].lower()
    assert project.generation() == 1
    assert set(project.drift()) == {"wishes-changed"}


def test_requirements_that_do_not_fit_together_are_exit_4(project: Any, wheel_maker: Wheels) -> None:
    wheel_maker(project.root / "wheels", "tinypackage", "1.0", ("torch<2",))
    wish(project, "# requirements = [", 'requirements = ["tinypackage"] # [')
    wish(project, "# find-links = []", 'find-links = ["wheels"]')
    error = failure(project, 4, "sync")
    assert error["code"] == "unsatisfiable"
    assert "tinypackage" in error["detail"]
    assert project.generation() == 1


def test_kernels_that_fail_are_exit_5_and_never_switched_to(project: Any, wheel_maker: Wheels) -> None:
    hides = {"tinypackage.pth": "import sys; sys.modules['bitsandbytes'] = None\n"}
    wheel_maker(project.root / "wheels", "tinypackage", "1.0", more=hides)
    lock = (project.root / "pylock.bnb.toml").read_bytes()
    original = (project.root / "bnbenv.toml").read_bytes()
    wish(project, "# requirements = [", 'requirements = ["tinypackage"] # [')
    wish(project, "# find-links = []", 'find-links = ["wheels"]')
    error = failure(project, 5, "sync")
    assert error["code"] == "verification-failed"
    assert "import" in error["message"]
    assert "cpu: import: " in error["detail"]
    assert project.generation() == 1
    assert (project.root / "pylock.bnb.toml").read_bytes() == lock
    assert project.leftovers() == []
    assert set(project.drift()) == {"wishes-changed"}
    project.replace("bnbenv.toml", lambda _: original)
    assert project.drift() == {}
