"""Runs the making of a checkpoint with the stand-in for the script, and does something just before its n-th effect.

usage: python prequantize_driver.py MODEL OUT ACTION N [--force]

An effect is a file opened for writing, a folder made, anything renamed or deleted beside OUT, or a program started.
ACTION: ``run`` does nothing, ``kill`` kills this process, ``each`` tries N = 1, 2, ... in forks and looks after each.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import filelock  # noqa: F401 - what each of the forks would import
import prequantize_stand_in

import bnbenv.envs.hold  # noqa: F401
from bnbenv.models.environment import Environment
from bnbenv.models.local import read_local
from bnbenv.models.prequantize.make import Ports, prequantize
from bnbenv.models.prequantize.note import complete, read_note
from bnbenv.models.prequantize.order import Order
from bnbenv.process import Command, Finished, Runner, SystemRunner
from bnbenv.progress import Quiet

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "subprocess.Popen", "shutil.copyfile")


class Here:
    """Runs the stand-in in this process: a hundred times in a few seconds."""

    def run(self, command: Command) -> Finished:
        text = ""
        for line in prequantize_stand_in.work(json.loads(command.stdin or "")):
            text += line
            if command.watch is not None:
                command.watch(0, text, "")
        return Finished(command, 0, text, "", False, 0.0)


def make(model: Path, out: Path, force: bool, runner: Runner) -> Any:
    packages = {"torch": "2.13.0", "transformers": "5.23.0", "bitsandbytes": "0.50.2"}
    packages |= {"accelerate": "1.15.0", "safetensors": "0.8.0"}
    environment = Environment(Path(sys.executable), "this Python", packages)
    ports = Ports(runner, Quiet(), os.environ, script=Path(__file__).with_name("prequantize_stand_in.py"))
    order = Order(str(model), model, out, force=force)
    return prequantize(order, read_local(model), environment, 20_000, ports)


def in_fork(model: Path, out: Path, force: bool, kill_at: int = 0) -> int:
    """The exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        number = 0

        def hook(event: str, args: tuple[Any, ...]) -> None:
            nonlocal number
            opened = event == "open" and isinstance(args[2], int) and args[2] & WRITES
            if (opened or event in EVENTS) and (event == "subprocess.Popen" or str(out.parent) in str(args[:2])):
                number += 1
                if number == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        code = 1
        try:
            make(model, out, force, Here())
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def whole(out: Path) -> bool:
    note = read_note(out)
    return note is not None and complete(out, note) and len(read_local(out).tensors or ()) == 3


def each(model: Path, out: Path) -> tuple[int, int]:
    """Kill before each step, look, run it again; then the same where OUT is replaced. How many steps there were."""
    counts: list[int] = []
    for force in (False, True):
        for number in range(counts[0] - 20 if force else 1, 1000):  # up to the switch both are alike
            ended = in_fork(model, out, force, number)
            if ended == 0:
                break
            assert ended == -signal.SIGKILL, (number, ended)
            if out.exists():
                assert whole(out), f"killed before step {number}: OUT is there in part"
            elif force:  # between two renames: what was there lies beside it, whole
                assert whole(out.with_name(f".{out.name}.bnbenv-part") / "old"), number
            assert in_fork(model, out, force) == 0, number
            assert whole(out), number
            assert sorted(path.name for path in out.parent.iterdir()) == [out.name], number
            if not force:
                for path in out.iterdir():
                    path.unlink()
                out.rmdir()
        counts.append(number - 1)
    return counts[0], counts[1]


if __name__ == "__main__":
    source, target, action, *rest = sys.argv[1:]
    if action == "each":
        print(json.dumps(each(Path(source), Path(target))))
    else:
        made = make(Path(source), Path(target), "--force" in rest, SystemRunner())
        print(json.dumps({"there": made.there, "kept": made.kept, "warnings": made.warnings}))
