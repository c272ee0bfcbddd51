"""Installing hooks and taking them away: exact files, no trace, nobody else's touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bnbenv
from bnbenv.errors import UsageError
from bnbenv.hooks.caller import check_safe
from bnbenv.hooks.kinds import Caller
from bnbenv.hooks.place import changeable, closed, place_of

ALL = ("apt", "dnf", "pacman", "zypper", "systemd", "profile")
FILES = {
    "etc/apt/apt.conf.d/99bnbenv",
    "etc/dnf/libdnf5-plugins/actions.d/bnbenv.actions",
    "etc/dnf/plugins/post-transaction-actions.d/bnbenv.action",
    "etc/pacman.d/hooks/bnbenv.hook",
    "usr/lib/zypp/plugins/commit/bnbenv",
    "etc/systemd/system/bnbenv-sync@.service",
    "etc/systemd/user/bnbenv-tell.service",
    "etc/systemd/user/bnbenv-tell.path",
    "etc/profile.d/bnbenv.sh",
    "var/lib/bnbenv/hook.sh",
    "var/lib/bnbenv/tell.sh",
}


def test_install_and_uninstall_leave_no_trace(machine: Any, faults: Any) -> None:
    before = machine.listing()
    # Whatever the umask: other users have to read this.
    os.umask(0o077)
    try:
        document = machine.document("hook", "install", *ALL)
    finally:
        os.umask(0o022)
    assert faults(document) == []
    there = {str(path.relative_to(machine.root)) for path in machine.root.rglob("*") if path.is_file()}
    assert there >= FILES
    owner = os.geteuid()
    assert f"etc/systemd/system/multi-user.target.wants/bnbenv-sync@{owner}.service" in there
    for name in FILES:
        path = machine.root / name
        assert "bnbenv hook uninstall" in path.read_text()
        assert path.stat().st_mode & 0o777 == (0o755 if "zypp" in name else 0o644), name
        assert path.parent.stat().st_mode & 0o055 == 0o055, name
    assert [one["path"] for one in document["projects"]] == [str(machine.project)]

    again = machine.document("hook", "install", "apt")
    assert {file["state"] for file in again["files"]} == {"unchanged"}
    assert machine.document("hook", "status")["places"][0]["works"]

    part = machine.document("hook", "uninstall", "apt", "profile")
    assert {file["kind"] for file in part["files"]} == {"apt", "profile"}
    assert not (machine.root / "etc/apt/apt.conf.d/99bnbenv").exists()
    assert (machine.root / "var/lib/bnbenv/hook.sh").exists()
    gone = machine.document("hook", "uninstall")
    assert faults(gone) == [] and gone["projects"] == []
    assert machine.listing() == before
    assert machine.document("hook", "uninstall")["files"] == []


def test_the_hooks_of_one_user(machine: Any) -> None:
    (machine.home / "dotfiles").mkdir()
    (machine.home / "dotfiles/zshrc").write_text("# mine\n")
    (machine.home / ".zshrc").symlink_to("dotfiles/zshrc")
    with_dotfiles = machine.listing()
    machine("hook", "install", "--user", "systemd", "profile")
    assert (machine.home / ".bashrc").read_text().startswith("alias ll='ls -l'\n# >>> bnbenv hook")
    assert "tell.sh" in (machine.home / "dotfiles/zshrc").read_text() and (machine.home / ".zshrc").is_symlink()
    assert (machine.home / ".config/systemd/user/default.target.wants/bnbenv-sync.service").exists()
    assert not (machine.root / "var/lib/bnbenv").exists()
    # What the user writes after it stays.
    with (machine.home / ".bashrc").open("a") as stream:
        stream.write("alias la='ls -a'\n")
    assert [one["user"] for one in machine.document("hook", "status", "--user")["places"]] == [True]
    assert "bnbenv hook run --user" in machine.document("hook", "run")["trouble"]
    done = machine.document("hook", "uninstall", "--user")
    states = {file["path"]: file["state"] for file in done["files"]}
    assert states[str(machine.home / ".bashrc")] == "taken out of"
    assert (machine.home / ".bashrc").read_text() == "alias ll='ls -l'alias la='ls -a'\n"
    (machine.home / ".bashrc").write_text("alias ll='ls -l'")
    assert machine.listing() == with_dotfiles


def test_a_user_without_such_files_gets_one_and_loses_it(machine: Any) -> None:
    (machine.home / ".bashrc").unlink()
    before = machine.listing()
    machine("hook", "install", "--user", "profile")
    assert "tell.sh" in (machine.home / ".profile").read_text()
    machine("hook", "uninstall", "--user")
    assert machine.listing() == before


def test_what_is_not_ours_is_left_as_it_is(machine: Any) -> None:
    foreign = machine.root / "etc/apt/apt.conf.d/99bnbenv"
    foreign.write_text('Acquire::Retries "3";\n')
    before = machine.listing()
    refused = machine("hook", "install", "apt", "profile", code=1)
    assert f"{foreign} is there and was not written by bnbenv" in refused.stderr
    assert machine.listing() == before
    machine("hook", "uninstall")
    assert machine.listing() == before
    foreign.unlink()
    (machine.root / "etc/profile.d/bnbenv.sh").symlink_to("/etc/passwd")
    machine("hook", "install", "profile", code=1)


def test_status_tells_what_was_edited_or_lost_and_install_puts_it_right(machine: Any, faults: Any) -> None:
    machine("hook", "install", "apt", "profile")
    snippet, script = machine.root / "etc/apt/apt.conf.d/99bnbenv", machine.root / "var/lib/bnbenv/tell.sh"
    snippet.write_text(snippet.read_text() + "// mine\n")
    script.unlink()
    manifest = machine.root / "var/lib/bnbenv/installed.json"
    hook = machine.root / "var/lib/bnbenv/hook.sh"
    # As an older bnbenv wrote it, and as it wrote that down.
    import hashlib

    old = hook.read_text().replace("Written by bnbenv 0", "Written by bnbenv 0.0")
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in (hook.read_text(), old)]
    hook.write_text(old)
    manifest.write_text(manifest.read_text().replace(*digests))
    document = machine.document("hook", "status", code=3)
    assert faults(document) == []
    states = {file["path"]: file["state"] for file in document["places"][0]["files"]}
    assert (states[str(snippet)], states[str(script)], states[str(hook)]) == ("edited", "missing", "older")
    done = {file["path"]: file["state"] for file in machine.document("hook", "install", "apt")["files"]}
    assert (done[str(snippet)], done[str(script)], done[str(hook)]) == ("renewed", "wrote", "renewed")
    machine("hook", "status")


def test_a_project_is_forgotten(machine: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    both = machine.document("hook", "install", "systemd", "--project", ".", "--project", str(other))
    assert [one["path"] for one in both["projects"]] == [str(machine.project), str(other)]
    other.rmdir()
    left = machine.document("hook", "uninstall", "--project", str(other))
    assert [one["path"] for one in left["projects"]] == [str(machine.project)] and left["files"] == []
    assert (machine.root / "etc/systemd/system/bnbenv-sync@.service").exists()


def test_what_an_earlier_bnbenv_wrote_under_another_name_goes(machine: Any) -> None:
    machine("hook", "install", "apt")
    folder, manifest = machine.root / "etc/apt/apt.conf.d", machine.root / "var/lib/bnbenv/installed.json"
    earlier = folder / "98bnbenv"
    shutil.copy(folder / "99bnbenv", earlier)
    known = json.loads(manifest.read_text())
    known["kinds"]["apt"][str(earlier)] = "0" * 64
    manifest.write_text(json.dumps(known))
    machine("hook", "install", "apt")
    assert [path.name for path in folder.iterdir()] == ["99bnbenv"]
    assert str(earlier) not in manifest.read_text()


def test_wrong_usage_names_the_next_step(machine: Any) -> None:
    refused = machine("hook", "install", "--user", "apt", code=2)
    assert "what apt calls after its work is set for the whole system" in refused.stderr
    assert "next: For one user there are systemd and profile; for the system leave out --user." in refused.stderr
    assert 'found "yum"' in machine("hook", "install", "yum", code=2).stderr
    assert "is not a folder" in machine("hook", "install", "apt", "--project", "nowhere", code=2).stderr
    assert list(machine.root.rglob("*bnbenv*")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused what others may change")
def test_root_runs_nothing_that_others_may_change(machine: Any, tmp_path: Path) -> None:
    """A bnbenv in a user's folder would have that user's code run as root after each installation of a package."""
    theirs = tmp_path / "theirs"
    shutil.copytree(Path(__file__).parents[2] / "bnbenv", theirs / "bnbenv", ignore=shutil.ignore_patterns("*.pyc"))
    os.chown(theirs / "bnbenv", 12345, -1)
    code = f"import sys; sys.path.insert(0, {str(theirs)!r}); from bnbenv.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "hook", "install", "apt"]
    done = subprocess.run(command, cwd=tmp_path, env=machine.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "root's hooks would run" in done.stderr, done.stderr
    assert "user 12345 may change" in done.stderr and "bnbenv hook install --user" in done.stderr
    assert not (machine.root / "var/lib/bnbenv").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what others may change")
def test_who_may_change_or_enter_what_root_runs(machine: Any, tmp_path: Path) -> None:
    folder = tmp_path / "opt"
    program = folder / "bnbenv"
    folder.mkdir(mode=0o755)
    program.touch(mode=0o755)
    assert changeable(program) is None
    for path, group, mode in ((folder, 12345, 0o775), (folder, 0, 0o757), (program, 12345, 0o775)):
        os.chown(path, 0, group)
        path.chmod(mode)
        found = changeable(program)
        assert found is not None and found[0] == path
        os.chown(path, 0, 0)
        path.chmod(0o755)
    link = tmp_path / "link"
    link.symlink_to(folder)
    os.chown(folder, 12345, 0)
    assert changeable(link / "bnbenv") is not None
    os.chown(folder, 0, 0)
    (folder / "way").mkdir(mode=0o1777)  # as /tmp: only owners replace what is theirs
    assert changeable(folder / "way") is None

    # What its owner's unit starts has to be within the owner's reach.
    folder.chmod(0o700)
    assert closed(program) == program.parent
    if changeable(Path(bnbenv.__file__).parent) is not None:
        pytest.skip("others than root may change this bnbenv, which is refused first")
    place = place_of({"BNBENV_SYSROOT": str(machine.root)}, user=False)
    caller = Caller((str(program),), {}, "1", str(program))
    check_safe(place, caller, [0])
    with pytest.raises(UsageError, match=f"user 12345 owns the project and may not enter {folder}"):
        check_safe(place, caller, [0, 12345])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be in another user's home")
def test_root_writes_nothing_into_the_home_of_another_user(machine: Any) -> None:
    """sudo can leave HOME as it is: a ~/.bashrc that root wrote anew would be root's, and may lead anywhere."""
    os.chown(machine.home, 12345, -1)
    before = machine.listing()
    for command in ("install", "uninstall"):
        refused = machine("hook", command, "--user", "profile", code=2)
        assert "is not root's" in refused.stderr and "without sudo" in refused.stderr
    assert machine.listing() == before
    assert "no hooks" in machine("hook", "status").stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused what others may change")
@pytest.mark.parametrize("part", [".", "bnbenv.toml", ".."])
def test_root_syncs_no_project_that_others_may_change(machine: Any, tmp_path: Path, part: str) -> None:
    """Its unit would run what they put there, at each start of the machine."""
    project = tmp_path / "group" / "train"
    project.mkdir(parents=True)
    (project / "bnbenv.toml").touch()
    machine("hook", "install", "profile", "--project", str(project))
    path = project / part
    path.chmod(0o775)
    os.chown(path, 0, 12345)
    ran = machine.document("hook", "run", "--event", "boot")
    assert "others than root may change" in ran["projects"][0]["said"]
    machine("hook", "uninstall")
    refused = machine("hook", "install", "profile", "--project", str(project), code=2)
    assert f"root would sync {project}, and others than root may change" in refused.stderr
    assert "chown" in refused.stderr


def test_a_relative_folder_of_the_configuration_counts_as_none(machine: Any) -> None:
    machine("hook", "install", "--user", "systemd", "profile", XDG_CONFIG_HOME="conf")
    assert (machine.home / ".config/systemd/user/bnbenv-sync.service").exists()
    assert not (machine.project / "conf").exists()


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_killed_before_any_step_the_next_run_completes_it(machine: Any, command: str, tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_each_step.py")
    words = [sys.executable, script, tmp_path, command, "apt"]
    done = subprocess.run(
        words, cwd=machine.project, env=machine.environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 10
