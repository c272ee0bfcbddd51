"""May what lies in a project be believed? A project is code: its Python is run, and its files say what to install.

So a folder of another user is not used, as git does not use another user's repository, nor what everybody may write.
Whoever works in a folder of others on purpose (a group's project, a container that runs as root) says so in
``BNBENV_TRUSTED``: folders, divided as in PATH. Root is refused in a user's project too: what it made there would
belong to root, and its owner could not change it any more. Standard library only: the fast path imports this.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bnbenv.envs.project import Project
from bnbenv.errors import UsageError

VARIABLE = "BNBENV_TRUSTED"


def check_trust(project: Project, environ: Mapping[str, str]) -> None:
    """A few ``stat`` calls. Raises UsageError for what another user owns or everybody may write."""
    _check(_looked_at(project), project, environ)


def check_files(files: Iterable[Path], project: Project, environ: Mapping[str, str]) -> None:
    """The same for further files that decide what is installed, where one of them is about to be read."""
    _check(((path, True) for path in files), project, environ)


def _check(looked_at: Iterable[tuple[Path, bool]], project: Project, environ: Mapping[str, str]) -> None:
    """Windows keeps owners and rights otherwise; there is nothing that this could look at."""
    if os.name == "nt":
        return
    user = os.geteuid()
    for path, private in looked_at:
        for found in _found(path):
            if found.st_uid not in (user, 0):
                if not _trusted(project, environ):
                    raise _foreign(path, found.st_uid, user, project)
            elif _open_to_all(found.st_mode, private) and not (_trusted(project, environ) or _no_modes(path, environ)):
                raise _writable(path, found.st_mode, project)


def _looked_at(project: Project) -> Iterator[tuple[Path, bool]]:
    """What decides what is run; with true, what nobody else has to write in, sticky or not.

    What lies deeper was made by those who may write here. Of a project that is still to be made, the folder that it
    will be made in is looked at.
    """
    root = project.root
    while not os.path.lexists(root) and root != root.parent:
        root = root.parent
    yield root, False
    yield project.config, True
    yield project.home, True
    yield project.home / "generations", True
    for env in project.envs_made():
        yield project.generations(env), True
        yield project.link(env), True
        yield project.lock(env), True


def _found(path: Path) -> Iterator[os.stat_result]:
    """A link counts as its owner's and as what it leads to; what is not there is nobody's."""
    try:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            yield os.stat_result((0o120000, *found[1:]))  # a link's own mode says nothing
            found = os.stat(path)  # noqa: PTH116
        yield found
    except OSError:
        return


def _open_to_all(mode: int, private: bool) -> bool:
    sticky = stat.S_ISDIR(mode) and bool(mode & stat.S_ISVTX)
    return bool(mode & stat.S_IWOTH) and (private or not sticky)


def _trusted(project: Project, environ: Mapping[str, str]) -> bool:
    folders = [os.path.realpath(text) for text in environ.get(VARIABLE, "").split(os.pathsep) if text]
    own = os.path.realpath(project.root)
    return any(own == folder or own.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)


def _no_modes(path: Path, environ: Mapping[str, str]) -> bool:
    """Whether the file system keeps no rights of each file, so that everything seems open to everybody."""
    from bnbenv.envs.filesystem import WITHOUT_PERMISSIONS, find_mount

    mount = find_mount(path, environ)
    return mount is not None and mount.type in WITHOUT_PERMISSIONS


def _foreign(path: Path, owner: int, user: int, project: Project) -> UsageError:
    name = _name(owner)
    allow = f"{VARIABLE}={project.root} bnbenv ..."
    if user == 0:
        message = f"{path} belongs to {name}, and what root made in that project its owner could not change"
        account = name if name != f"user {owner}" else f"'#{owner}'"
        return UsageError("not-yours", message, f"Run it as {name} (sudo -u {account} bnbenv ...), or as root: {allow}")
    message = f"{path} belongs to {name}, and what is in that project would be run as {_name(user)}"
    return UsageError("not-yours", message, f"If you trust {name}: {allow}")


def _writable(path: Path, mode: int, project: Project) -> UsageError:
    what = "folder" if stat.S_ISDIR(mode) else "file"
    message = f"everybody on this machine may write into the {what} {path}, and what it holds is run or installed"
    return UsageError("open-to-all", message, f"Close it: chmod o-w {path}; or {VARIABLE}={project.root} bnbenv ...")


def _name(user: int) -> str:
    """A user's name, or the number where it has none."""
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
