"""Runs one bnbenv command and, just before its n-th effect on a project, kills or stops itself or fills the disk.

usage: python at_effect.py PROJECT count|kill|stop|fill N COMMAND...

An effect is a file opened for writing, a folder or link made, anything renamed or deleted below PROJECT, or a program
started. ``count`` prints one line an effect on standard error instead; ``fill`` leaves no space on the disk of PROJECT
from then on, in the file ``filler``.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
TWO_PATHS = ("os.rename", "os.link", "os.symlink")
ONE_PATH = ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.utime", "os.chmod", "shutil.rmtree")


def effect(event: str, args: tuple[Any, ...], project: str) -> str | None:
    """What an audit event does to the project, in words; None for nothing."""
    if event == "subprocess.Popen":
        return f"start {Path(os.fsdecode(args[0])).name} {' '.join(map(str, args[1][1:3]))}"
    if event in ("os.remove", "os.rmdir") and args[1] != -1:
        return f"{event} of a tree"  # names are relative to a folder that was opened
    if event == "open":
        paths = args[:1] if args[2] & WRITES else ()
    elif event in TWO_PATHS:
        paths = args[:2]
    elif event in ONE_PATH:
        paths = args[:1]
    else:
        return None
    names = [os.fsdecode(path) for path in paths if not isinstance(path, int)]
    if not any(name.startswith(project) for name in names):
        return None
    if event in ("os.mkdir", "os.remove") and os.path.lexists(names[0]) == (event == "os.mkdir"):
        return None  # it is there already, or gone already
    return " ".join([event, *(name.removeprefix(project) for name in names)]).replace(str(os.getpid()), "PID")


def fill(folder: str) -> None:
    """Write until nothing more fits."""
    descriptor = os.open(f"{folder}/filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    size = 1 << 20
    while size:
        try:
            os.write(descriptor, b"\0" * size)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            size //= 2
    os.close(descriptor)


def watch(project: str, action: str, number: int) -> list[str]:
    """Watch this process from now on; returns the list that its effects are added to."""
    seen: list[str] = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        what = effect(event, args, project)
        if what is None or "filler" in what:
            return
        seen.append(what)
        if len(seen) != number:
            return
        if action in SIGNALS:
            os.kill(os.getpid(), SIGNALS[action])
        if action == "fill":
            fill(project)

    sys.addaudithook(hook)
    return seen


if __name__ == "__main__":
    from bnbenv.cli import main

    effects = watch(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    code = main(sys.argv[4:])
    if sys.argv[2] == "count":
        print("\n".join(effects), file=sys.stderr)
    sys.exit(code)
