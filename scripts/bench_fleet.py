#!/usr/bin/env python3
"""How long planning a fleet takes, and how it grows: hosts of many kinds, made of the recorded ones, no host asked.

    .test-env/bin/python scripts/bench_fleet.py [--hosts 10000] [--kinds 200]

Each line is one run of ``bnbenv fleet plan --facts FILE --shipped --json`` in a process of its own: seconds, those of
the processor among them, and the peak of its memory. The last lines hold them against what they must reach; how it
grows is judged by the processor's time, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bnbenv.facts.model import Gpu, HostFacts, Libc, Python, decode_facts
from bnbenv.fleet.answers import encode_report
from bnbenv.fleet.classes import Sight
from bnbenv.fleet.model import HostAnswer, HostEnv, HostReport
from bnbenv.matrix.load import load_matrix
from bnbenv.solve.grid_parts import driver_bounds
from bnbenv.solve.model import Request

HOSTS = Path(__file__).parent.parent / "tests" / "hosts"
MOST_SECONDS, MOST_MEGABYTES = 60.0, 500.0


class Run(NamedTuple):
    hosts: int
    kinds: int
    one_lock: bool
    seconds: float
    cpu: float
    megabytes: float
    code: int


def different(count: int) -> list[HostFacts]:
    """Hosts of so many classes: cards, drivers, C libraries and Pythons in all mixtures, in a fixed order."""
    matrix = load_matrix()
    sight = Sight(matrix, {"bnb": Request()})
    recorded = [decode_facts(path.read_bytes(), path.parent.name) for path in sorted(HOSTS.glob("*/facts.json"))]
    cards = [facts for facts in recorded if facts.platform.os == "linux" and facts.gpus and facts.driver.version]
    drivers = [bound for bound in driver_bounds(matrix, windows=False) if bound[:2] in ("52", "53", "55", "57", "58")]
    chance = random.Random(9)
    found: dict[str, HostFacts] = {}
    while len(found) < count:
        base = chance.choice(cards)
        minors = chance.sample(["3.10.12", "3.11.7", "3.12.3", "3.13.1"], chance.choice([1, 1, 2]))
        facts = msgspec.structs.replace(
            base,
            platform=msgspec.structs.replace(base.platform, libc=Libc("glibc", chance.choice(["2.28", "2.35"]))),
            driver=msgspec.structs.replace(base.driver, version=chance.choice(drivers)),
            pythons=tuple(Python(f"/usr/bin/python{version[:4]}", version) for version in minors),
        )
        found.setdefault(sight.id_of(facts), facts)
    return list(found.values())


def reports(hosts: int, kinds: Sequence[HostFacts]) -> Iterator[str]:
    """Lines as ``bnbenv fleet facts --out`` writes them; within a kind everything differs that makes no kind."""
    chance = random.Random(10)
    for number in range(hosts):
        facts = kinds[number % len(kinds)]
        copies = chance.choice([1, 2, 4, 8])
        gpus = [
            Gpu(index, f"GPU-{chance.getrandbits(64):016x}", gpu.name, gpu.compute_capability, gpu.memory_total)
            for index, gpu in enumerate(gpu for gpu in facts.gpus for _ in range(copies))
        ]
        env = HostEnv("bnb", True, 3, "ab" * 32, True, "cuda", {"torch": "2.14.1+cu126", "bitsandbytes": "0.50.2"})
        own = msgspec.structs.replace(facts, gpus=tuple(gpus))
        yield encode_report(HostReport(f"node{number:05}", "ok", HostAnswer("1.0", "/srv/bnbenv", own, (env,))))


def measure(file: Path, hosts: int, kinds: int, one_lock: bool, folder: Path) -> Run:
    words = [sys.executable, "-m", "bnbenv", "fleet", "plan", "--facts", str(file), "--shipped", "--json", "--project"]
    words += [str(folder), *(["--one-lock"] if one_lock else [])]
    began = time.monotonic()
    child = os.posix_spawn(
        sys.executable,
        words,
        {**os.environ, "BNBENV_HOME": str(folder / "home")},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, str(folder / "plan.json"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        ],
    )
    _, status, used = os.wait4(child, 0)
    seconds = time.monotonic() - began
    cpu = used.ru_utime + used.ru_stime
    return Run(hosts, kinds, one_lock, seconds, cpu, used.ru_maxrss / 1024, os.waitstatus_to_exitcode(status))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--kinds", type=int, default=200)
    args = parser.parse_args()
    every = different(args.kinds)
    runs = []
    sizes = [(args.hosts // 10, args.kinds), (args.hosts, args.kinds // 4), (args.hosts, args.kinds // 2)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "fleet.jsonl"
        for hosts, kinds in [*sizes, (args.hosts, args.kinds)]:
            file.write_text("".join(f"{line}\n" for line in reports(hosts, every[:kinds])))
            for one_lock in (False, True):
                run = measure(file, hosts, kinds, one_lock, folder)
                runs.append(run)
                what = "plan --one-lock" if one_lock else "plan"
                size = f"{run.seconds:6.2f} s, CPU {run.cpu:5.2f} s  {run.megabytes:4.0f} MB  exit {run.code}"
                print(f"{hosts:6} hosts of {kinds:3} kinds  {what:16} {size}", flush=True)
    return verdict(runs)


def verdict(runs: Sequence[Run]) -> int:
    few, quarter, half, whole = [run for run in runs if not run.one_lock]
    locks = [run for run in runs if run.one_lock]
    print(f"ten times the hosts: {whole.cpu / few.cpu:.1f} times the time")
    print(f"four times the kinds: {whole.cpu / quarter.cpu:.1f} times, with --one-lock ", end="")
    print(f"{locks[3].cpu / locks[1].cpu:.1f} times; twice the kinds: {whole.cpu / half.cpu:.1f} times")
    good = all(run.seconds <= MOST_SECONDS and run.megabytes <= MOST_MEGABYTES for run in runs)
    print(f"{'reached' if good else 'NOT reached'}: {MOST_SECONDS:.0f} s and {MOST_MEGABYTES:.0f} MB")
    return 0 if good and all(run.code in (0, 3, 4) for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
