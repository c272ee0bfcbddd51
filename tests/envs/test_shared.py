"""Machines that are shared: network file systems and their locks, other file systems than the cache's, shared caches.

No network file system is mounted here: what the kernel says of one is made up, and a lock that fails is handed in.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.filesystem import mount_of, parse_mounts, why_not_linked
from bnbenv.envs.hold import MARKER, hold
from bnbenv.errors import Busy

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 0:30 / /home rw,relatime shared:9 - nfs4 server:/home rw,vers=4.2,rsize=1048576,local_lock=none,addr=10.0.0.1
31 22 0:31 / /old\040home rw - nfs server:/old\134home rw,vers=3,nolock,local_lock=all,addr=10.0.0.1
32 30 0:32 / /home/ann/scratch rw - lustre 10.0.0.2@tcp:/scratch rw,localflock
33 22 0:33 / /tmp rw,nosuid - tmpfs tmpfs rw
this is no mount
"""
BOX = "linux-x86_64__580.65.06__h200-sm90"


@pytest.mark.parametrize(
    ("path", "kind", "network", "here_only"),
    [
        ("/", "ext4", False, False),
        ("/homes/ann", "ext4", False, False),
        ("/home/ann/project", "nfs4", True, False),
        ("/old home/ann", "nfs", True, True),
        ("/home/ann/scratch/x", "lustre", True, True),
        ("/tmp", "tmpfs", False, False),
    ],
)
def test_which_file_system_a_folder_is_on(path: str, kind: str, network: bool, here_only: bool) -> None:
    mount = mount_of(Path(path), parse_mounts(MOUNTS))
    assert mount is not None
    assert (mount.type, mount.network, mount.locks_here_only) == (kind, network, here_only)


def test_what_is_mounted_over_another_hides_it() -> None:
    mounts = parse_mounts("1 0 0:1 / /a rw - nfs s:/a rw\n2 0 0:2 / /a rw - tmpfs none rw\n")
    found = mount_of(Path("/a/b"), mounts)
    assert found is not None
    assert found.type == "tmpfs"
    assert mount_of(Path("/b"), mounts) is None


@pytest.mark.parametrize("kind", ["fuse.ceph", "fuse.ceph-fuse", "fuse.juicefs", "fuse.gcsfuse", "virtiofs", "wekafs"])
def test_what_several_machines_have(kind: str) -> None:
    (mount,) = parse_mounts(f"30 22 0:30 / /home rw - {kind} server rw,nolock\n")
    assert (mount.network, mount.locks_here_only) == (True, True)


def mounted(folder: Path, sysroot: Path, line: str) -> dict[str, str]:
    """An environment in which a folder is said to be on some file system."""
    file = sysroot / "proc" / "self" / "mountinfo"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:30 / {os.path.realpath(folder)} rw - {line}\n")
    return {"BNBENV_SYSROOT": str(sysroot)}


HOLDER = """\
import sys, time
from pathlib import Path
from bnbenv.envs.hold import hold
with hold(Path(sys.argv[1]), "it", 0, {"BNBENV_SYSROOT": sys.argv[2]}, print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["nfs4 server:/home rw,local_lock=none", "nfs server:/home rw,nolock"], ids=["lock", "marker"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Path, dict[str, str]]]:
    """Another process that holds a folder, the folder, and the environment of both."""
    folder = tmp_path / "folder"
    folder.mkdir()
    environ = mounted(folder, tmp_path / "sysroot", request.param)
    words = [sys.executable, "-c", HOLDER, str(folder), environ["BNBENV_SYSROOT"]]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.readline()
    if "nolock" in request.param:
        assert "the nfs file system of" in said
        assert "has no locks that all machines see" in said
        said = process.stdout.readline()
    assert said == "held\n"
    yield process, folder, environ
    process.kill()
    process.wait()


def test_one_process_keeps_another_out_and_a_killed_one_does_not(other: tuple[Any, Path, dict[str, str]]) -> None:
    process, folder, environ = other
    marker = (folder / MARKER).exists()
    with pytest.raises(Busy) as caught, hold(folder, "it", 0.3, environ, print):
        pass
    assert caught.value.message == "another bnbenv is at work on it"
    assert (f"process {process.pid} on " in caught.value.next_step) is marker
    assert (str(folder / MARKER) in caught.value.next_step) is marker
    process.send_signal(signal.SIGKILL)
    process.wait()
    with hold(folder, "it", 5, environ, lambda line: None):
        pass
    assert not (folder / MARKER).exists()


class Unlockable:
    """A lock on a file system that answers with an error."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def acquire(self, timeout: float) -> None:
        raise self.error


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_a_marker_is_used_and_it_is_said(tmp_path: Path, number: int) -> None:
    said: list[str] = []
    broken: Any = Unlockable(OSError(number, os.strerror(number)))
    with hold(tmp_path, "it", 0, {"BNBENV_SYSROOT": str(tmp_path)}, said.append, lambda path: broken):
        assert (tmp_path / MARKER).exists()
        with pytest.raises(Busy), hold(tmp_path, "it", 0, {}, said.append, lambda path: broken):
            pass
    assert not (tmp_path / MARKER).exists()
    (line,) = said
    assert "should this machine go down meanwhile, delete it" in line


NO_FLOCK = """\
#include <errno.h>
int flock(int file, int how) { errno = ENOSYS; return -1; }
"""
ONCE = """\
import sys
from pathlib import Path
from bnbenv.envs.hold import MARKER, hold
folder = Path(sys.argv[1])
with hold(folder, "it", 0, {"BNBENV_SYSROOT": sys.argv[1]}, lambda line: None):
    print((folder / MARKER).exists())
"""


def test_the_lock_that_an_earlier_run_left_is_no_marker(tmp_path: Path) -> None:
    """Here the kernel really says to a program that it has no locks, after it has lent one."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a C compiler (gcc) on Linux is missing")
    (tmp_path / "no.c").write_text(NO_FLOCK)
    library = tmp_path / "no.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "no.c"], check=True, timeout=60)
    folder = tmp_path / "folder"
    folder.mkdir()

    def marked(**changes: str) -> str:
        words = [sys.executable, "-c", ONCE, str(folder)]
        return subprocess.run(
            words, env={**os.environ, **changes}, check=True, stdout=subprocess.PIPE, text=True, timeout=60
        ).stdout.strip()

    assert marked() == "False"
    assert (folder / "lock").exists()
    assert [marked(LD_PRELOAD=str(library)) for _ in range(2)] == ["True", "True"]
    assert marked() == "False"


def test_a_marker_that_names_nobody_is_named(tmp_path: Path) -> None:
    (tmp_path / MARKER).touch()
    environ = mounted(tmp_path, tmp_path / "sysroot", "nfs server:/home rw,nolock")
    with pytest.raises(Busy) as caught, hold(tmp_path, "it", 0, environ, print):
        pass
    assert caught.value.next_step.endswith(f"if none is at work on any machine: rm {tmp_path / MARKER}")


def test_the_marker_of_a_machine_without_locks_keeps_out_one_that_has_them(tmp_path: Path) -> None:
    folder, marker = tmp_path / "folder", tmp_path / "folder" / MARKER
    folder.mkdir()
    environ = mounted(folder, tmp_path / "sysroot", "nfs4 server:/home rw,local_lock=none")
    marker.write_text("4711\nanother-machine\n")
    with pytest.raises(Busy) as caught, hold(folder, "it", 0.2, environ, print):
        pass
    assert "Wait for process 4711 on another-machine" in caught.value.next_step
    marker.write_text(f"{2**22 + 1}\n{platform.node()}\n")  # of a process that is gone
    with hold(folder, "it", 5, environ, print):
        pass
    assert not marker.exists()
    marker.write_text("4711\nanother-machine\n")
    local = mounted(folder, tmp_path / "sysroot", "ext4 /dev/sdb1 rw")  # a copy of a project, no other machine's
    with hold(folder, "it", 0, local, print):
        pass


def test_other_faults_of_a_lock_are_not_hidden(tmp_path: Path) -> None:
    broken: Any = Unlockable(OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"), hold(tmp_path, "it", 0, {}, print, lambda path: broken):
        pass
    assert not (tmp_path / MARKER).exists()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than that of the test."""
    for place in ("/dev/shm", "/run", str(Path.home())):
        if os.access(place, os.W_OK) and Path(place).stat().st_dev != tmp_path.stat().st_dev:
            with tempfile.TemporaryDirectory(prefix="bnbenv-test-", dir=place) as folder:
                yield Path(folder)
            return
    pytest.skip("a second file system that may be written is missing (such as /dev/shm)")


def test_a_cache_on_another_file_system_is_said_once(gpu_box: Callable[..., Any], elsewhere: Path) -> None:
    """Packages are copied then; uv is told so, and has nothing to warn of."""
    project = gpu_box(BOX)
    project = type(project)(project.root, {**project.environ, "UV_CACHE_DIR": str(elsewhere / "cache")})
    first = project("sync")
    assert first.code == 0, first.stderr
    (line,) = [line for line in first.stderr.splitlines() if "copied and not linked" in line]
    assert f"uv's cache ({elsewhere / 'cache'}) is on another file system" in line
    assert "set UV_CACHE_DIR" in line
    again = project("sync", "--fresh")
    assert "copied and not linked" not in again.stderr
    assert "hardlink" not in (first.stderr + again.stderr).lower()
    assert project.drift() == {}
    (module,) = project.root.glob(".venv-bnb/lib/python*/site-packages/bitsandbytes/__init__.py")
    assert module.stat().st_nlink == 1
    assert project.leftovers() == []


def test_where_uv_clones_files_it_is_not_told_to_copy(
    gpu_box: Callable[..., Any], elsewhere: Path, tmp_path: Path
) -> None:
    """The kernel is made to say so; uv finds out that it is not so, and copies all the same."""
    project = gpu_box(BOX)
    cache = {"UV_CACHE_DIR": str(elsewhere / "cache")}
    changes = {**cache, **mounted(project.root, tmp_path / "sysroot", "btrfs /dev/sdb1 rw")}
    project = type(project)(project.root, {**project.environ, **changes})
    ended = project("sync")
    assert ended.code == 0, ended.stderr
    assert "copied and not linked" not in ended.stderr
    assert project.drift() == {}


def test_linking_is_tried_and_not_guessed(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "CACHEDIR.TAG").touch()
    (elsewhere / "CACHEDIR.TAG").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    assert why_not_linked(tmp_path, folder) is None
    assert why_not_linked(elsewhere, folder) == f"uv's cache ({elsewhere}) is on another file system"
    assert why_not_linked(tmp_path / "none", folder) is None
    assert list(folder.iterdir()) == []


# Gives up root's right to read and write where permissions forbid it; others have none to give up.
AS_USER = """\
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability)
os.execv(sys.executable, [sys.executable, "-m", "bnbenv", *sys.argv[1:]])
"""


def test_a_cache_of_another_user(gpu_box: Callable[..., Any], tmp_path: Path) -> None:
    project = gpu_box(BOX)
    project.done("lock")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "CACHEDIR.TAG").touch()
    cache.chmod(0o555)
    words = ("sync", "--json")
    process = project.start(*words, command=("-c", AS_USER), changes={"UV_CACHE_DIR": str(cache)})
    _, err = process.communicate(timeout=120)
    cache.chmod(0o755)
    assert process.returncode == 1, err
    assert f"uv's cache {cache} holds files of another user that this one may not use" in err
    assert "UV_CACHE_DIR=" in err
    assert project.leftovers() == []
