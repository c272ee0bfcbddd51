"""Installs and removes hooks again and again, each time killed before another step.

usage: python kill_each_step.py ROOT install|uninstall WORDS...

Each run is a fork, so that nothing is imported twice. After each kill the other command and then the same one are run
to their ends, or only the removal; what is left is compared with what a run that was not killed leaves.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = ("os.rename", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "subprocess.Popen")


def tree(root: Path) -> dict[str, tuple[int, str]]:
    found = {}
    for path in sorted(root.rglob("*")):
        if path.name in ("noted.json", "lock"):
            continue  # the one has a time in it, the other is empty
        text = os.readlink(path) if path.is_symlink() else "" if path.is_dir() else path.read_text()
        found[str(path.relative_to(root))] = (path.lstat().st_mode, text)
    return found


def fork(root: str, words: list[str], kill_at: int = 0) -> int:
    """How a command in a child ends: its exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        number = 0

        def hook(event: str, args: tuple[Any, ...]) -> None:
            nonlocal number
            opened = event == "open" and isinstance(args[2], int) and args[2] & WRITES
            if (opened or event in EVENTS) and (event == "subprocess.Popen" or root in str(args[:2])):
                number += 1
                if number == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        from bnbenv.cli import main

        code = main(words)
        sys.stdout.flush()
        os._exit(code)
    status = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def run(root: str, command: str, words: list[str]) -> int:
    import filelock  # noqa: F401 - what each of the forks would import

    import bnbenv.cli.commands.hook.uninstall
    import bnbenv.cli.render.hook.uninstall
    import bnbenv.envs.hold
    import bnbenv.hooks.install
    import bnbenv.hooks.uninstall  # noqa: F401

    install, uninstall = ["hook", "install", *words], ["hook", "uninstall", *(["--user"] if "--user" in words else [])]
    bare = tree(Path(root))
    assert fork(root, install) == 0
    full = tree(Path(root))
    if command == "install":
        assert fork(root, uninstall) == 0
    killed = 0
    for number in range(1, 1000):
        ended = fork(root, install if command == "install" else uninstall, number)
        if ended == 0:
            break
        assert ended == -signal.SIGKILL, (number, ended)
        killed += 1
        for again, expected in ((install, full), (uninstall, bare)) if number % 3 == 0 else ((uninstall, bare),):
            assert fork(root, again) == 0, number
            now = tree(Path(root))
            different = {name for name in {*now, *expected} if now.get(name) != expected.get(name)}
            assert not different, f"killed before step {number}, then {again[1]}: {different}"
        if command == "uninstall":
            assert fork(root, install) == 0
    return killed


if __name__ == "__main__":
    print(run(sys.argv[1], sys.argv[2], sys.argv[3:]))
