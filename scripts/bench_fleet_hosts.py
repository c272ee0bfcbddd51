#!/usr/bin/env python3
"""How long a fleet of real hosts takes (scripts/fleet_hosts.py): the engine's overhead, and six hosts beside one.

usage: .test-env/bin/python scripts/bench_fleet_hosts.py [--hosts 6] [--rounds 3] [--recorded] [--json FILE]

All hosts share this machine's processors, where real ones have their own: beside each time stand the seconds that
processors worked for the hosts and the desk. The times themselves say something on a quiet machine only.

--recorded: hosts are H200 by their facts, and their torch is a small stand-in: no kernels run, what is left is copying,
installing and the engine. Otherwise they install the CPU build of torch and run its kernels. Root on Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fleet_hosts import HOME, REPO, Fleet, Host, Wanted, fleet, missing

H200 = REPO / "tests/hosts/linux-x86_64__580.65.06__h200-sm90/facts.json"
OVERHEAD = 2.0  # seconds a host that the engine may take
TIMES = 2.0  # as long as one host alone: what all of them may take, were each on a machine of its own


class Took(NamedTuple):
    """Seconds on the clock, and seconds that processors worked for it."""

    wall: float
    busy: float


class Desk(NamedTuple):
    root: Path
    environ: Mapping[str, str]
    made: Fleet

    def __call__(self, *words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "bnbenv", "fleet", *words, "-i", str(self.made.inventory), "--json"]
        environ, nothing = dict(self.environ), subprocess.DEVNULL
        ended = subprocess.run(
            command, cwd=self.root, env=environ, stdin=nothing, capture_output=True, text=True, check=False
        )
        if ended.returncode not in (0, 3):
            raise SystemExit(f"bench_fleet_hosts: {' '.join(words)}: exit {ended.returncode}\n{ended.stderr}")
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    def timed(self, *words: str) -> Took:
        hosts = list(self.made.hosts.values())
        before, start = used(hosts), time.monotonic()
        self(*words)
        return Took(time.monotonic() - start, used(hosts) - before)


def used(hosts: Sequence[Host]) -> float:
    """How long processors have worked for the hosts and for the desk's commands, whatever else this machine does."""
    ticks = 0
    for host in hosts:
        for pid in host.processes():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))  # its own, and those of its children that have ended
    desk = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ticks / os.sysconf("SC_CLK_TCK") + desk.ru_utime + desk.ru_stime


def forget(hosts: Sequence[Host]) -> None:
    """Take the project off the hosts; their bundles, uv's cache and bytecode stay."""
    for host in hosts:
        shutil.rmtree(host.home / "bnbenv", ignore_errors=True)


def measure(desk: Desk, rounds: int) -> dict[str, Any]:
    hosts = list(desk.made.hosts.values())
    shared = f"shared:{desk.root.parent / 'shared'}"
    words = ("sync", "--content", shared, "--canary", str(len(hosts)), "--batch", "100%")
    desk(*words, "--limit", hosts[0].name)  # makes the bundle, and warms what is warm afterwards
    for host in hosts[1:]:
        subprocess.run(["cp", "-al", str(hosts[0].home / ".cache"), str(host.home)], check=True)
    forget(hosts)
    desk(*words)
    one, all_of_them, check, alone, own = [], [], [], [], []
    for _ in range(rounds):
        forget(hosts)
        one.append(desk.timed(*words, "--limit", hosts[0].name))
        forget(hosts)
        all_of_them.append(desk.timed(*words))
        check.append(desk.timed("check"))
        alone.append(desk.timed("check", "--limit", hosts[0].name))
        start = time.monotonic()
        hosts[0]("bnbenv", "fleet", "host", "--project", f"{HOME}/bnbenv", "--json")
        own.append(time.monotonic() - start)
    return figures(len(hosts), one, all_of_them, check, alone, statistics.median(own))


def figures(
    hosts: int, one: Sequence[Took], every: Sequence[Took], check: Sequence[Took], alone: Sequence[Took], own: float
) -> dict[str, Any]:
    """The medians, and what they come to. Pure."""

    def median(rows: Sequence[Took]) -> Took:
        return Took(statistics.median(row.wall for row in rows), statistics.median(row.busy for row in rows))

    single, together, looked, looked_alone = median(one), median(every), median(check), median(alone)
    cores = os.cpu_count() or 1
    # What one host more costs, without what the desk does once.
    each = (together.busy - single.busy) / (hosts - 1)
    return {
        "hosts": hosts,
        "processors": cores,
        "sync one host": shown(single),
        "sync all hosts": shown(together),
        "times as long": round(together.wall / single.wall, 2),
        "processor seconds a host more": round(each, 2),
        "of all processors at work": round(together.busy / (together.wall * cores), 2),
        # With a processor of its own each host would take as long as the one does alone; what the desk does stays.
        "times as long, processors apart": round(
            max(single.wall, together.wall - each * (hosts - 1) / cores) / single.wall, 2
        ),
        "check one host": shown(looked_alone),
        "check all hosts": shown(looked),
        "a host's own answer": round(own, 2),
        "engine's overhead a host": round((looked.wall - own) / hosts, 2),
        "engine's overhead of one host alone": round(looked_alone.wall - own, 2),
    }


def shown(took: Took) -> dict[str, float]:
    return {"seconds": round(took.wall, 2), "busy": round(took.busy, 2)}


def torch_stub(folder: Path) -> str:
    """The stand-in for a CUDA build of torch that the tests have; returns its version."""
    file = REPO / "tests" / "conftest.py"
    spec = importlib.util.spec_from_file_location("bnbenv_tests", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bnbenv_tests"] = module
    spec.loader.exec_module(module)
    return str(module.cuda_torch_wheel(folder, "13.0"))


def prepare(root: Path, recorded: bool) -> None:
    root.mkdir()
    lines = ["[envs.bnb]", f'python = "=={sys.version_info.major}.{sys.version_info.minor}.*"']
    if recorded:
        lines += [f'torch = "{torch_stub(root / "wheels")}"', "[sources]", 'find-links = ["wheels"]']
    else:
        lines.append('backend = "cpu"')
    (root / "bnbenv.toml").write_text("\n".join([*lines, ""]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=6, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--recorded", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if why := missing():
        print(f"bench_fleet_hosts: {why}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="bench-fleet-") as name:
        base = Path(name)
        (base / "shared").mkdir()
        prepare(base / "desk", args.recorded)
        facts = {"BNBENV_FACTS": f"{HOME}/facts.json"} if args.recorded else {}
        wanted = [Wanted(f"host{number + 1}", facts) for number in range(args.hosts)]
        foreign = ("ANSIBLE", "BNBENV", "PYTHON", "SSH_")
        environ = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        environ |= {"BNBENV_HOME": str(base / "user"), "ANSIBLE_HOME": str(base / "ansible")}
        with fleet(base / "hosts", wanted, base / "bytecode", [base / "shared"]) as made:
            if args.recorded:
                known = json.loads(made.hosts["host1"]("bnbenv", "facts", "--json", BNBENV_FACTS=""))
                known |= {key: json.loads(H200.read_text())[key] for key in ("driver", "gpus")} | {"unknown": []}
                for host in made.hosts.values():
                    (host.home / "facts.json").write_text(json.dumps(known))
            found = measure(Desk(base / "desk", environ, made), args.rounds)
    text = json.dumps(found, indent=2)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n")
    good = found["engine's overhead a host"] <= OVERHEAD and found["times as long, processors apart"] <= TIMES
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
