#!/usr/bin/env python3
"""How long many different hosts take in one process; prints JSON, in seconds of a processor. Run by bench.py.

usage: bench_hosts.py COUNT

The hosts are recorded ones with another driver, other GPUs, another C library and other Pythons: the same ones in every
run, none of them twice.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bnbenv.errors import RebootRequired
from bnbenv.facts.model import decode_facts
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import Matrix
from bnbenv.solve.model import Request, Solution
from bnbenv.solve.solver import solve

HOSTS = Path(__file__).resolve().parent.parent / "tests" / "hosts"
SEED = 20261121
MOST_GPUS = 8
LIBCS = ("2.17", "2.24", "2.27", "2.28", "2.31", "2.34", "2.35", "2.36", "2.39", "2.41")
PYTHONS = ("3.8.10", "3.9.18", "3.10.12", "3.11.9", "3.12.3", "3.13.7", "3.14.0")

Document = dict[str, Any]


def varied(recorded: list[Document], matrix: Matrix) -> Iterator[bytes]:
    """Different hosts without end, always in the same order."""
    dice = random.Random(SEED)
    seen: set[bytes] = set()
    gpus = [gpu for document in recorded for gpu in document["gpus"]]
    drivers = {
        "linux": sorted({row.bundled_linux for row in matrix.drivers if row.bundled_linux}),
        "windows": sorted({row.bundled_windows for row in matrix.drivers if row.bundled_windows}),
    }
    for document in recorded:
        driver = document["driver"]["version"]
        if driver and not document["platform"]["jetson"]:
            drivers["windows" if document["platform"]["wsl"] else document["platform"]["os"]].append(driver)
    while True:
        host = changed(dice, dice.choice(recorded), gpus, drivers)
        data = json.dumps(host, sort_keys=True).encode()
        if data not in seen:
            seen.add(data)
            yield data


def changed(dice: random.Random, recorded: Document, gpus: list[Document], drivers: dict[str, list[str]]) -> Document:
    """One host of another driver, other GPUs, another C library and other Pythons."""
    platform = dict(recorded["platform"])
    host = {**recorded, "platform": platform}
    if platform["libc"] and platform["libc"]["name"] == "glibc":
        platform["libc"] = {"name": "glibc", "version": dice.choice(LIBCS)}
    have = dice.sample(PYTHONS, dice.choice((0, 1, 1, 1, 2, 3)))
    host["pythons"] = [{"path": f"/usr/bin/python{version[:4].rstrip('.')}", "version": version} for version in have]
    if recorded["driver"]["state"] == "ok" and not platform["jetson"]:
        version = dice.choice(drivers["windows" if platform["wsl"] else platform["os"]])
        host["driver"] = {**recorded["driver"], "version": version, "cuda": None}
        kinds = dice.sample(gpus, dice.choice((1, 1, 2, 3)))
        count = dice.choice((1, 1, 1, 2, 2, 4, MOST_GPUS))
        chosen = [kinds[number % len(kinds)] for number in range(count)]
        host["gpus"] = [{**gpu, "index": n, "uuid": f"GPU-{n:08x}", "mig": None} for n, gpu in enumerate(chosen)]
    return host


def main() -> None:
    count = int(sys.argv[1])
    started = time.process_time()
    matrix = load_matrix()
    spent = loading = time.process_time() - started
    recorded = [json.loads(file.read_bytes()) for file in sorted(HOSTS.glob("*/facts.json"))]
    found = {"solved": 0, "refused": 0, "reboot": 0}
    slowest = 0.0
    for _, data in zip(range(count), varied(recorded, matrix), strict=False):
        started = time.process_time()
        try:
            answer = solve(decode_facts(data, "a host"), matrix, Request())
            found["solved" if isinstance(answer, Solution) else "refused"] += 1
        except RebootRequired:
            found["reboot"] += 1
        took = time.process_time() - started
        spent, slowest = spent + took, max(slowest, took)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**found, "seconds": spent, "load": loading, "slowest": slowest, "megabytes": megabytes}))


if __name__ == "__main__":
    main()
