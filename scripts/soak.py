#!/usr/bin/env python3
"""Kills bnbenv at random times, over and over, and looks each time whether the environment in use still runs.

usage: .test-env/bin/python scripts/soak.py [--kills 300] [--seed N] [--project DIR] [-v | --json]

A round starts a sync, a rollback or a gc, at times with a second and a third sync beside it, and kills it: with kill
-9, or SIGTERM, or SIGINT, or only its children. Half of the kills fall around the switch: the project's folder is
watched for the end of the verification, the record and the link. Then the link has to lead to a finished generation
with the packages that were recorded, its Python has to start and, at times, to quantize; and the next sync has to
succeed and to leave nothing behind. Linux only: children are found through /proc.

Exit code 1 if anything was broken. The folder is kept then, as it was found.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soak_project import PATIENCE, QUANTIZE, Broken, Project, descendants, make_wheel

NEAR = 0.02  # seconds around the switch within which a kill falls
SWITCH = "around the switch"
PHASES = ("locking", "installing", "verifying", SWITCH, "going back", "deleting")


@dataclass(frozen=True)
class Shot:
    """What is started and how it is ended. ``aim`` is ``anytime`` or what is waited for around the switch."""

    words: tuple[str, ...]
    aim: str
    delay: float
    target: str  # "it", "children", "all"
    signal: signal.Signals
    rivals: int

    def __str__(self) -> str:
        rivals = f" beside {self.rivals} more" if self.rivals else ""
        return f"{' '.join(self.words)}{rivals}: {self.signal.name} to {self.target}, {self.aim}+{self.delay:.3f} s"


def phase(project: Project, pid: int, words: tuple[str, ...], number: int, link: str) -> str:
    """What a bnbenv is at, from its children and from what it has made."""
    if words[0] != "sync":
        return {"rollback": "going back", "gc": "deleting"}[words[0]]
    children = " ".join(descendants(pid).values())
    if "script.py" in children:
        return "verifying"
    if " pip install " in children or " venv " in children:
        return "installing"
    new = project.generations / str(number)
    if str(project.link.readlink()) != link or any(new.glob("lib/python*/site-packages/*.dist-info")):
        return SWITCH
    return "installing" if new.exists() else "locking"


def watch(project: Project, process: subprocess.Popen[str], aim: str, number: int, link: str) -> bool:
    """Wait for what a shot around the switch is aimed at; False if the process ended before."""
    last = ("script.py",) if aim == "verified" else (" pip install ",)

    def child() -> bool:
        return any(word in line for word in last for line in descendants(process.pid).values())

    def seen(condition: Callable[[], bool]) -> bool:
        while process.poll() is None:
            if condition():
                return True
            time.sleep(0.0003)
        return False

    record = project.generations / f"{number}.json"
    if aim == "record":
        return seen(record.exists)
    if aim == "link":
        return seen(lambda: str(project.link.readlink()) != link)
    return seen(child) and seen(lambda: not child())


class Soak:
    """Rounds of syncs that are killed, and what became of them."""

    def __init__(self, project: Project, seed: int, quantize_every: int, verify: float, verbose: bool) -> None:
        self.project = project
        self.random = random.Random(seed)
        self.quantize_every = quantize_every
        self.verify = verify
        self.verbose = verbose
        self.hits: Counter[str] = Counter()
        self.signals: Counter[str] = Counter()
        self.seconds: dict[tuple[str, ...], float] = {}
        self.rounds = self.quantized = self.tracebacks = 0

    @property
    def kills(self) -> int:
        return sum(self.hits.values())

    def prepare(self) -> None:
        """A project in sync, and how long each command takes here where nobody kills it."""
        for version in ("1.0", "2.0"):
            make_wheel(self.project.root / "wheels", version)
        self.project.wish("1.0")
        self.project.run("sync", "--no-verify")
        started = time.monotonic()
        self.project.python(QUANTIZE)
        kernels = time.monotonic() - started  # importing takes most of it, there and when kernels are verified
        for words in (("sync", "--fresh", "--no-verify"), ("sync", "--no-verify")):
            self.ready(words)
            started = time.monotonic()
            self.project.run(*words)
            self.seconds[words] = time.monotonic() - started
        fresh, locked = self.seconds.values()
        self.seconds |= {
            ("sync", "--fresh"): fresh + kernels,
            ("sync",): locked + kernels,
            ("rollback",): fresh / 2,
            ("gc", "--keep", "0"): fresh / 2,
        }

    def ready(self, words: tuple[str, ...]) -> None:
        """Make sure that the command has something to do."""
        if words[0] == "sync" and "--fresh" not in words:
            now = (self.project.root / "bnbenv.toml").read_text()
            self.project.wish("2.0" if "1.0" in now else "1.0")
        if words[0] != "sync":
            self.project.run("sync", "--fresh", "--no-verify")

    def shot(self) -> Shot:
        """The next one, at random; half of those at a sync around its switch."""
        chance = self.random
        verify = chance.random() < self.verify
        kinds: list[tuple[str, ...]] = [("sync", "--fresh"), ("sync",)]
        words = chance.choice(kinds) + (() if verify else ("--no-verify",))
        if chance.random() < 0.1:
            words = chance.choice([("rollback",), ("gc", "--keep", "0")])
        target = chance.choices(("it", "all", "children"), (8, 1, 1))[0]
        sig = chance.choices((signal.SIGKILL, signal.SIGTERM, signal.SIGINT), (8, 1, 1))[0]
        rivals = chance.choices((0, 1, 2), (8, 1, 1))[0]
        aim, delay = "anytime", chance.uniform(0, self.seconds[words])
        if words[0] == "sync" and target != "children" and self.hits[SWITCH] * 2 <= self.kills:
            aim = chance.choice(["verified" if verify else "installed", "record", "link"])
            delay = chance.uniform(0, NEAR)
        return Shot(words, aim, delay, target, signal.SIGKILL if target != "it" else sig, rivals)

    def round(self) -> None:
        """One kill, and what is left of the environment. Raises Broken."""
        shot = self.shot()
        self.rounds += 1
        self.ready(shot.words)
        number, link = self.project.next_number(), str(self.project.link.readlink())
        started = time.monotonic()
        process = self.project.start(*shot.words)
        rivals = [
            self.project.start("sync", *("--fresh",) * which, "--no-verify", "--wait", ("60", "0.5")[which])
            for which in range(shot.rivals)
        ]
        where = self.fire(shot, process, number, link)
        _, err = process.communicate(timeout=PATIENCE)
        self.tracebacks += "Traceback" in err
        if where:
            self.hits[where] += 1
            self.signals[f"{shot.signal.name} to {shot.target}"] += 1
        for rival in rivals:
            _, words = rival.communicate(timeout=PATIENCE)
            if rival.returncode not in (0, 8):
                raise Broken(f"a sync beside it ended with {rival.returncode}: {words.strip()}")
        try:
            self.judge(bool(where) and self.kills % self.quantize_every == 0)
        except Broken as error:
            raise Broken(f"{shot} ({where or 'missed'}): {error}") from None
        if self.verbose:
            took = time.monotonic() - started
            print(f"{self.kills:4} {shot}  [{where or 'missed'}]  {took:.1f} s", file=sys.stderr, flush=True)

    def fire(self, shot: Shot, process: subprocess.Popen[str], number: int, link: str) -> str | None:
        """Wait for the moment and kill; returns the phase that was hit, None if all was over by then."""
        if shot.aim != "anytime" and not watch(self.project, process, shot.aim, number, link):
            return None
        time.sleep(shot.delay)
        where = phase(self.project, process.pid, shot.words, number, link)
        below = list(descendants(process.pid)) if shot.target != "it" else []
        if process.poll() is not None or (shot.target == "children" and not below):
            return None
        for pid in [*([process.pid] if shot.target != "children" else []), *below]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, shot.signal)
        return where

    def judge(self, quantize: bool) -> None:
        """The environment in use is whole and runs, and the next sync brings all in order. Raises Broken."""
        project = self.project
        try:
            target = project.generations / project.link.readlink().name
            record = json.loads(target.with_name(f"{target.name}.json").read_bytes())
        except (OSError, ValueError) as error:
            raise Broken(f"the link leads to no finished generation: {error}") from None
        if str(record["generation"]) != target.name:
            raise Broken(f"the record of {target} is that of generation {record['generation']}")
        project.python("pass")
        if quantize:
            project.python(QUANTIZE)
            self.quantized += 1
        self.drift({"unverified", "lock-changed", "wishes-changed"})
        project.run("sync", "--no-verify")
        if project.leftovers():
            raise Broken(f"the next sync left behind: {', '.join(project.leftovers())}")
        self.drift({"unverified"})
        project.run("gc")

    def drift(self, allowed: set[str]) -> None:
        """What check says; the packages among it. Raises Broken."""
        reasons = self.project.run("check", codes=(0, 3))["reasons"]
        wrong = [reason for reason in reasons if reason["code"] not in allowed]
        if wrong:
            raise Broken(f"check: {wrong[0]['because']}")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kill bnbenv at random times and look what is left.")
    parser.add_argument("--kills", type=int, default=300, help="how many kills have to hit (default: 300)")
    parser.add_argument("--seed", type=int, default=1, help="the times and kinds of the kills (default: 1)")
    parser.add_argument("--project", type=Path, help="an existing project in sync (default: a new one)")
    parser.add_argument(
        "--quantize-every", type=int, default=3, metavar="N", help="quantize after each n-th kill (default: 3)"
    )
    parser.add_argument("--verify", type=float, default=0.3, metavar="SHARE", help="share of syncs with verification")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line a round on standard error")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser.parse_args()


def summary(soak: Soak, seconds: float, broken: str | None) -> dict[str, Any]:
    return {
        "kills": soak.kills,
        "rounds": soak.rounds,
        "phases": {name: soak.hits[name] for name in PHASES},
        "signals": dict(soak.signals),
        "quantized": soak.quantized,
        "tracebacks": soak.tracebacks,
        "broken": 0 if broken is None else 1,
        "found": broken,
        "seconds": round(seconds),
    }


def main() -> int:
    args = options()
    folder = Path(tempfile.mkdtemp(prefix="bnbenv-soak-"))
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environ.setdefault("BNBENV_HOME", str(folder / "home"))
    root = args.project or folder / "project"
    root.mkdir(exist_ok=True)
    soak = Soak(Project(root.resolve(), environ), args.seed, args.quantize_every, args.verify, args.verbose)
    started, broken = time.monotonic(), None
    try:
        soak.prepare()
        while soak.kills < args.kills:
            soak.round()
        soak.project.python(QUANTIZE)
        soak.quantized += 1
    except Broken as error:
        broken = str(error)
    found = summary(soak, time.monotonic() - started, broken)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            print(f"{name}: {', '.join(f'{n} {k}' for k, n in value.items()) if isinstance(value, dict) else value}")
    if broken is None:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    print(f"kept as it was found: {root}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
