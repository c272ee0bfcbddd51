#!/usr/bin/env python3
"""How long the solver takes on every recorded host and on many GPUs; prints JSON, in milliseconds. Run by bench.py.

Each is solved twice: the first time in a process of its own with nothing remembered, as a user meets it, and again.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from bnbenv.facts.model import HostFacts, decode_facts
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import Matrix
from bnbenv.solve.model import Request, Solution
from bnbenv.solve.solver import solve

HOSTS = Path(__file__).resolve().parent.parent / "tests" / "hosts"
COUNTS = (1, 2, 4, 8, 16)
MODERN = 7.5  # the compute capability from which on today's releases have code for all GPUs at once


def clocked(facts: HostFacts, matrix: Matrix) -> tuple[float, bool]:
    """Milliseconds, and whether there is a solution."""
    started = time.process_time()
    answer = solve(facts, matrix, Request())
    return (time.process_time() - started) * 1000, isinstance(answer, Solution)


def measured(facts: HostFacts, matrix: Matrix) -> dict[str, Any]:
    """The first time and the second, in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        first, solved = clocked(facts, matrix)
        again, _ = clocked(facts, matrix)
        os.write(writer, json.dumps({"first": first, "again": again, "solved": solved}).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        found: dict[str, Any] = json.loads(stream.read())
    os.waitpid(child, 0)
    return found


def boxes(documents: dict[str, dict[str, Any]]) -> dict[str, HostFacts]:
    """Machines of 1 to 16 GPUs, made from recorded ones: all alike, and of different kinds."""
    kinds: dict[float, dict[str, Any]] = {}
    for name, document in documents.items():
        if name.startswith("linux-x86_64"):
            kinds.update({float(gpu["compute_capability"]): gpu for gpu in document["gpus"]})
    base = documents["linux-x86_64__580.95.05__8xb300-sm103"]  # whose driver knows every kind but the oldest
    ordered = [gpu for _, gpu in sorted(kinds.items())]
    modern = [gpu for capability, gpu in sorted(kinds.items()) if capability >= MODERN]
    pools = {"equal": base["gpus"], "mixed": modern, "too old": ordered[:1], "of every kind": ordered}
    found = {}
    for kind, pool in pools.items():
        for count in COUNTS:
            gpus = [{**pool[i % len(pool)], "index": i, "uuid": f"GPU-{i}", "mig": None} for i in range(count)]
            found[f"{count} {kind}"] = decode_facts(json.dumps({**base, "gpus": gpus}), kind)
    return found


def main() -> None:
    started = time.process_time()
    matrix = load_matrix()
    load = (time.process_time() - started) * 1000
    documents = {file.parent.name: json.loads(file.read_bytes()) for file in sorted(HOSTS.glob("*/facts.json"))}
    hosts = {name: decode_facts(json.dumps(document), name) for name, document in documents.items()}
    hosts = {name: facts for name, facts in hosts.items() if facts.driver.state != "mismatch"}  # a reboot, no solution
    print(
        json.dumps(
            {
                "load": load,
                "hosts": {name: measured(facts, matrix) for name, facts in hosts.items()},
                "gpus": {name: measured(facts, matrix) for name, facts in boxes(documents).items()},
            }
        )
    )


if __name__ == "__main__":
    main()
