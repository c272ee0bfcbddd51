"""A folder of another user, or one that everybody may write into, is not used; links to other places are."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.project import Project
from bnbenv.envs.trust import check_trust
from bnbenv.envs.uvconfig import project_file
from bnbenv.errors import UsageError
from bnbenv.paths import write_atomically

SOMEBODY = 54321  # has no account anywhere
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no owners and modes of this kind")
as_root = pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="giving a file to another user takes root")
pytestmark = posix


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project that nobody could object to, with one environment."""
    root = tmp_path / "project"
    generation = root / ".bnbenv" / "generations" / "bnb" / "1"
    generation.mkdir(parents=True)
    (root / "bnbenv.toml").write_text("")
    (root / "pylock.bnb.toml").write_text("")
    (root / ".venv-bnb").symlink_to(generation)
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return Project(root, root / "bnbenv.toml")


def objection(project: Project, **environ: str) -> UsageError | None:
    try:
        check_trust(project, environ)
    except UsageError as error:
        return error
    return None


def test_an_ordinary_project(project: Project) -> None:
    assert objection(project) is None


PLACES = [
    ".",
    "bnbenv.toml",
    ".bnbenv",
    ".bnbenv/generations",
    ".bnbenv/generations/bnb",
    ".bnbenv/generations/bnb/1",
    "pylock.bnb.toml",
]


@pytest.mark.parametrize("place", PLACES)
def test_what_everybody_may_write_is_refused(project: Project, place: str) -> None:
    path = project.root / place
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    error = objection(project)
    assert error is not None
    assert (error.code, int(error.exit)) == ("open-to-all", 2)
    assert "everybody on this machine may write into the" in error.message
    assert error.next_step.startswith("Close it: chmod o-w ")
    assert objection(project, BNBENV_TRUSTED=str(project.root.parent)) is None
    assert objection(project, BNBENV_TRUSTED=f"/elsewhere:{project.root}-other:{str(project.root)[:-1]}") is not None


UV_FILES = ["uv.toml", "pyproject.toml", "../uv.toml", "../pyproject.toml"]


@pytest.mark.parametrize("place", ["pylock.bnb.toml", *UV_FILES])
def test_what_decides_what_is_installed_is_looked_at_before_it_is_read(empty: Any, place: str) -> None:
    """Nothing was made here yet."""
    (empty.root / "bnbenv.toml").write_text("[envs.bnb]\n")
    path = Path(os.path.normpath(empty.root / place))
    path.write_text("[tool.uv]\noffline = true\n" if path.name == "pyproject.toml" else "offline = true\n")
    path.chmod(0o646)
    ended = empty("plan", "--json")
    assert ended.code == 2, ended.stderr
    assert ended.document["error"]["code"] == "open-to-all"
    assert f"chmod o-w {path};" in ended.document["error"]["next_step"]
    path.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(path, SOMEBODY, SOMEBODY)
        assert empty("plan", "--json").document["error"]["code"] == "not-yours"
    trusted = empty("plan", "--json", BNBENV_TRUSTED=str(empty.root)).document
    assert trusted.get("error", {}).get("code") not in ("open-to-all", "not-yours")


def test_only_the_file_that_uv_goes_by_is_looked_at(tmp_path: Path) -> None:
    root = tmp_path / "above" / "project"
    root.mkdir(parents=True)
    (tmp_path / "uv.toml").touch()
    assert project_file({}, root) == tmp_path / "uv.toml"
    (root.parent / "pyproject.toml").write_text("[tool.uv]\n")
    (root / "pyproject.toml").write_text("[project]\n")
    assert project_file({}, root) == root.parent / "pyproject.toml"
    (root / "uv.toml").touch()
    assert project_file({}, root) == root / "uv.toml"
    assert project_file({"UV_NO_CONFIG": "1"}, root) is None
    assert project_file({"UV_CONFIG_FILE": "other.toml"}, root) is None


# Containers often run with no umask at all.
OPEN = "import os, sys; os.umask(0); os.execv(sys.executable, [sys.executable, '-m', 'bnbenv', *sys.argv[1:]])"


def test_where_all_that_is_made_would_be_open_to_everybody_what_bnbenv_makes_is_not(empty: Any) -> None:
    for command in ("init", "gc", "check"):
        process = empty.start(command, command=("-c", OPEN))
        _, err = process.communicate(timeout=60)
        assert process.returncode == (3 if command == "check" else 0), err
    made = sorted(empty.root.rglob("*"))
    assert {"bnbenv.toml", ".bnbenv", ".gitignore", "log"} <= {path.name for path in made}
    assert [path for path in made if path.lstat().st_mode & stat.S_IWOTH] == []


def test_nor_is_an_environment(gpu_box: Callable[..., Any]) -> None:
    project = gpu_box("linux-x86_64__580.65.06__h200-sm90")
    process = project.start("sync", command=("-c", OPEN))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert project.drift() == {}


def test_a_folder_like_tmp_may_be_a_project_but_not_bnbenvs_own(project: Project) -> None:
    project.root.chmod(0o1777)
    assert objection(project) is None
    project.home.chmod(0o1777)
    assert objection(project) is not None


def test_a_folder_that_a_group_shares_is_its_affair(project: Project) -> None:
    for path in (project.root, project.home):
        path.chmod(0o2775)
    assert objection(project) is None


@as_root
@pytest.mark.parametrize("place", [*PLACES, ".venv-bnb"])
def test_what_belongs_to_another_user_is_refused(project: Project, place: str) -> None:
    os.lchown(project.root / place, SOMEBODY, SOMEBODY)
    error = objection(project)
    assert error is not None
    assert error.code == "not-yours"
    assert f"belongs to user {SOMEBODY}" in error.message
    assert f"sudo -u '#{SOMEBODY}'" in error.next_step
    assert f"BNBENV_TRUSTED={project.root} bnbenv" in error.next_step
    assert objection(project, BNBENV_TRUSTED=str(project.root)) is None


@as_root
def test_a_project_that_is_still_to_be_made_in_a_folder_of_another_user(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, SOMEBODY, SOMEBODY)
    error = objection(Project(home / "data" / "default", home / "config" / "bnbenv.toml", user=True))
    assert error is not None
    assert str(home) in error.message


@as_root
def test_a_link_to_a_folder_of_another_user_is_refused(project: Project, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    project.home.rename(elsewhere)
    project.home.symlink_to(elsewhere)
    assert objection(project) is None
    os.chown(elsewhere, SOMEBODY, SOMEBODY)
    assert objection(project) is not None


def test_a_file_system_without_rights_is_not_blamed(project: Project, tmp_path: Path) -> None:
    """On such a one every file seems to be open to everybody (here: what the kernel says is made up)."""
    project.root.chmod(0o777)
    mounts = tmp_path / "sysroot" / "proc" / "self" / "mountinfo"
    mounts.parent.mkdir(parents=True)
    line = f"30 1 0:30 / {os.path.realpath(tmp_path)} rw,relatime - {{}} /dev/sdb1 rw\n"
    for kind, refused in {"exfat": False, "9p": False, "ext4": True}.items():
        mounts.write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + line.format(kind))
        assert (objection(project, BNBENV_SYSROOT=str(tmp_path / "sysroot")) is not None) is refused


AS_ANOTHER = """\
import os, sys
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
os.execv(sys.executable, [sys.executable, "-m", "bnbenv", *sys.argv[2:]])
"""


@as_root
def test_another_user_is_told_so_by_each_command(empty: Any) -> None:
    """In a folder that everybody may enter; in the end it is as it was."""
    root = Path("/tmp") / f"bnbenv-trust-{os.getpid()}"  # below pytest's own folders nobody else may go
    root.mkdir(mode=0o755)
    try:
        (root / "bnbenv.toml").write_text("[envs.bnb]\n")
        os.chown(root / "bnbenv.toml", SOMEBODY, SOMEBODY)
        os.chown(root, SOMEBODY, SOMEBODY)
        before = sorted(path.name for path in root.iterdir())
        for command in ("check", "plan", "sync", "list", "path", "rollback", "gc"):
            ended = empty(command, "--project", str(root), "--json")
            assert ended.code == 2, (command, ended.stderr)
            assert ended.document["error"]["code"] == "not-yours"
            assert "what root made in that project its owner could not change" in ended.document["error"]["message"]
        assert sorted(path.name for path in root.iterdir()) == before
        assert empty("check", "--project", str(root), "--json", BNBENV_TRUSTED=str(root)).code == 3
        # And the other way round: somebody else in a folder of a third.
        words = (str(SOMEBODY + 1), "check", "--project", str(root), "--json")
        process = empty.start(*words, command=("-c", AS_ANOTHER), changes={"PYTHONDONTWRITEBYTECODE": "1"})
        out, err = process.communicate(timeout=60)
        if process.returncode == 2:
            assert f"would be run as user {SOMEBODY + 1}" in out
        else:
            pytest.skip(f"another user cannot start this Python: {err.strip()[-200:]}")
    finally:
        shutil.rmtree(root)


@pytest.fixture
def box(gpu_box: Callable[..., Any]) -> Any:
    project = gpu_box("linux-x86_64__580.65.06__h200-sm90")
    project.done("lock")
    return project


def test_through_links_it_is_the_same_project(box: Any, tmp_path: Path) -> None:
    """The project is reached through a link, and its own folder is one to a larger disk."""
    large = tmp_path / "large"
    large.mkdir()
    (box.root / ".bnbenv").rename(large / "bnbenv")
    (box.root / ".bnbenv").symlink_to(large / "bnbenv")
    link = tmp_path / "link"
    link.symlink_to(box.root)
    through = type(box)(link, box.environ)
    assert through.done("sync")["generations"][0]["generation"] == 1
    assert through.drift() == box.drift() == {}
    assert through("check", "--project", str(link)).code == 0
    assert (large / "bnbenv" / "generations" / "bnb" / "1").is_dir()
    assert box.done("sync", "--fresh")["generations"][0]["generation"] == 2
    assert through.done("rollback")["generation"] == 1
    assert through.drift() == box.drift() == {}
    assert through.leftovers() == []
    assert box.done("gc", "--keep", "0")["environments"][0]["removed"] == [2]


def test_a_planted_folder_is_no_generation(box: Any) -> None:
    planted = box.root / ".bnbenv" / "generations" / "bnb" / "1"
    (planted / "bin").mkdir(parents=True)
    (planted / "bin" / "python").symlink_to(sys.executable)
    (planted / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (planted / "lib" / "python3.11" / "site-packages" / "evil.pth").write_text("import sys\n")
    done = box.done("sync")
    assert done["generations"][0]["changed"] is True
    assert not list(box.root.glob(".venv-bnb/lib/*/site-packages/evil.pth"))
    assert box.leftovers() == []


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_what_is_written_follows_no_link(tmp_path: Path, strict_umask: None) -> None:
    """A link under the name that a file is first written to, or under its own, leads nowhere."""
    victim, target = tmp_path / "victim", tmp_path / "file"
    victim.write_text("kept")
    (tmp_path / f".file.{os.getpid()}.part").symlink_to(victim)
    write_atomically(target, "new")
    assert (victim.read_text(), target.read_text()) == ("kept", "new")
    target.unlink()
    target.symlink_to(victim)
    write_atomically(target, "newer")
    assert (victim.read_text(), target.read_text(), target.is_symlink()) == ("kept", "newer", False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "victim"]


class Raced(type(Path())):  # type: ignore[misc]
    """A path at which somebody puts a link to another file as soon as it is free."""

    def unlink(self, missing_ok: bool = False) -> None:
        super().unlink(missing_ok)
        if not self.exists():
            os.link(self.parent / "victim", self)


def test_what_is_put_there_meanwhile_is_not_written_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    with pytest.raises(FileExistsError):
        write_atomically(Raced(tmp_path / "file"), "new")
    assert victim.read_text() == "kept"
    assert not (tmp_path / "file").exists()


def test_what_is_written_keeps_its_rights(tmp_path: Path, strict_umask: None) -> None:
    target = tmp_path / "file"
    write_atomically(target, "new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    for mode in (0o600, 0o664):
        target.chmod(mode)
        write_atomically(target, "newer")
        assert stat.S_IMODE(target.stat().st_mode) == mode
