#!/usr/bin/env python3
"""Speed, memory and disk of what people wait for, as ratios measured in one run, with bytecode cached.

usage: .test-env/bin/python scripts/bench.py [--rounds N] [--keep DIR]

It makes a project in a temporary folder (beside uv's cache, so that files can be linked), syncs it once, and then
measures by turns, so that a slow minute of the machine falls on both sides of a ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
BNBENV = (sys.executable, "-m", "bnbenv")


def environment(home: Path) -> dict[str, str]:
    """As users have it: bytecode is cached, and nothing of this shell's own bnbenv is read."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("BNBENV_")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**env, "BNBENV_HOME": str(home)}


def run(argv: tuple[str, ...], env: dict[str, str], cwd: Path) -> float:
    """Seconds that a command takes; it has to succeed."""
    started = time.perf_counter()
    done = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stderr}{done.stdout}")
    return seconds


def by_turns(rounds: int, *tasks: Callable[[], float]) -> list[float]:
    """The median seconds of each task, run by turns."""
    taken: list[list[float]] = [[] for _ in tasks]
    for _ in range(rounds):
        for task, seconds in zip(tasks, taken, strict=True):
            seconds.append(task())
    return [statistics.median(seconds) for seconds in taken]


def peak_memory(argv: tuple[str, ...], env: dict[str, str], cwd: Path) -> float:
    """MB that a command takes at most."""
    process = subprocess.Popen(argv, env=env, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_maxrss / 1024


def solve_milliseconds() -> tuple[float, float]:
    """The slowest of the recorded hosts and the matrix's load, in this process."""
    from bnbenv.facts.model import decode_facts
    from bnbenv.matrix.load import load_matrix
    from bnbenv.solve.model import Request
    from bnbenv.solve.solver import solve

    started = time.perf_counter()
    matrix = load_matrix()
    load = time.perf_counter() - started
    slowest = 0.0
    for file in sorted((REPO / "tests" / "hosts").glob("*/facts.json")):
        facts = decode_facts(file.read_bytes(), file.name)
        if facts.driver.state == "mismatch":
            continue
        runs = []
        for _ in range(3):
            started = time.perf_counter()
            solve(facts, matrix, Request())
            runs.append(time.perf_counter() - started)
        slowest = max(slowest, statistics.median(runs))
    return slowest * 1000, load * 1000


def disk(*folders: Path) -> int:
    """Bytes of folders with hard links counted once and bytecode left out."""
    words = ("du", "-sbc", "--exclude=__pycache__", *map(str, folders))
    return int(subprocess.check_output(words, text=True).split()[-2])


def line(what: str, value: str, limit: str) -> None:
    print(f"{what:<58} {value:>14}   {limit}")


def measure(project: Path, env: dict[str, str], rounds: int) -> None:
    from uv import find_uv_bin

    uv = str(find_uv_bin())
    bare = (sys.executable, "-c", "pass")
    link = project / ".venv-bnb"
    record = json.loads((project / ".bnbenv/generations/bnb/1.json").read_text())

    start, check, nothing = by_turns(
        rounds,
        lambda: run(bare, env, project),
        lambda: run((*BNBENV, "check"), env, project),
        lambda: run((*BNBENV, "sync"), env, project),
    )
    line("check, nothing changed", f"{check * 1000:.0f} ms", f"at most 80 ms; {check / start:.1f} x bare interpreter")
    line("check, peak memory", f"{peak_memory((*BNBENV, 'check'), env, project):.0f} MB", "at most 30 MB")
    line("sync, nothing to do", f"{nothing * 1000:.0f} ms", f"at most 120 ms; {nothing / start:.1f} x bare interpreter")

    plain_env = project / "plain"
    lock = project / "pylock.bnb.toml"
    links = {**env, **uv_sources(project)}

    def plain() -> float:
        shutil.rmtree(plain_env, ignore_errors=True)
        seconds = run((uv, "venv", "-q", str(plain_env), "-p", record["python"]), links, project)
        return seconds + run((uv, "pip", "install", "-q", "-p", str(plain_env), "-r", str(lock)), links, project)

    fresh, by_uv = by_turns(
        max(3, rounds // 3), lambda: run((*BNBENV, "sync", "--fresh", "--no-verify"), env, project), plain
    )
    limit = by_uv * 1.2 + 0.3
    line("sync --fresh --no-verify, warm cache", f"{fresh:.2f} s", f"at most {limit:.2f} s (uv alone {by_uv:.2f} s)")
    slowest, load = solve_milliseconds()
    line("solve, slowest recorded host, in process", f"{slowest:.0f} ms", f"at most 100 ms (matrix load {load:.0f} ms)")

    used = link.resolve()
    one = disk(used)
    both = disk(used, used.parent / str(int(used.name) - 1))
    line("a second environment with the same packages", f"{100 * (both - one) / one:.1f} %", "at most 5 % more disk")

    bits = (str(link / "bin/python"), "-m", "bitsandbytes")
    (slow,) = by_turns(3, lambda: run(bits, env, project))
    line("check against python -m bitsandbytes", f"{slow / check:.0f} x quicker", f"({slow:.2f} s)")


def uv_sources(project: Path) -> dict[str, str]:
    """The sources that bnbenv gives to uv, so that both install from the same places."""
    from bnbenv.envs.sources import read_sources
    from bnbenv.envs.wishes import SourcesWish
    from bnbenv.paths import Sysroot

    sources = read_sources(os.environ, Sysroot(), SourcesWish(), Path.home(), project, "")
    return {key: value for key, value in sources.uv_environment().items() if value is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keep", metavar="DIR", help="use and keep this folder")
    args = parser.parse_args()
    folder = Path(args.keep or tempfile.mkdtemp(prefix="bnbenv-bench-")).resolve()
    project = folder / "project"
    project.mkdir(parents=True, exist_ok=True)
    env = environment(folder / "home")
    try:
        (project / "bnbenv.toml").touch()
        run((*BNBENV, "sync"), env, project)
        measure(project, env, args.rounds)
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
