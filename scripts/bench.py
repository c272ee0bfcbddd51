#!/usr/bin/env python3
"""Speed, memory and disk of what people wait for, as ratios measured in one run, with bytecode cached.

usage: .test-env/bin/python scripts/bench.py [--rounds N] [--hosts N] [--log-megabytes N] [--keep DIR] [--json FILE]
                                             [--builds] [--models PYTHON] [--enforce]

It makes a project in a temporary folder (beside uv's cache, so that files can be linked), syncs it once, and then
measures by turns, so that a slow minute of the machine falls on both sides of a ratio. The figures are medians. "CPU"
is what the command used of the processors, which a busy machine changes less than the time that it takes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench_run import REPO, Bench, Cold, Cost, busy, by_turns, disk, many, training_log, uv, uv_sources

MANY = (1, 10, 50)  # environments in one project
UPSTREAM_REF = "0.50.1"
EXIT_REFUSED = 4
EXIT_FOUND = 3


@dataclass(frozen=True)
class Row:
    """One line of the table. ``judged`` is what is compared with the limit, in the same unit; there may be none."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    judged: float | None = None
    at_least: bool = False
    cpu_ms: float | None = None
    megabytes: float | None = None
    remark: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the limit holds; None where there is none."""
        if self.limit is None:
            return None
        found = self.value if self.judged is None else self.judged
        return found >= self.limit if self.at_least else found <= self.limit


def row(what: str, cost: Cost, limit: float | None = None, remark: str = "") -> Row:
    """A line about a command, in ms."""
    cpu = cost.cpu * 1000
    judged = cpu if limit is not None and busy() else None
    return Row(what, cost.seconds * 1000, "ms", limit, judged, cpu_ms=cpu, megabytes=cost.megabytes, remark=remark)


def ratio(what: str, one: Cost, other: Cost, limit: float | None, at_least: bool = False) -> Row:
    """How much more the one takes than the other."""
    judged = one.cpu / other.cpu if limit is not None and busy() else None
    return Row(what, one.seconds / other.seconds, "x", limit, judged, at_least)


def long(what: str, cost: Cost, limit: float | None, remark: str = "") -> Row:
    """A line about what takes many seconds, most of them on all processors. What others use of them is left out."""
    judged = cost.cpu if limit is not None and busy() else None
    return Row(what, cost.seconds, "s", limit, judged, cpu_ms=cost.cpu * 1000, remark=remark)


def quick_commands(bench: Bench) -> Iterator[Row]:
    """Commands that answer at once."""
    python = str(bench.project / ".venv-bnb/bin/python")
    lock, link = str(bench.project / "pylock.bnb.toml"), str(bench.project / ".venv-bnb")
    refused = str(REPO / "tests/hosts/linux-x86_64__470.256.02__k80-sm37+k80-sm37/facts.json")
    host = str(REPO / "tests/hosts/linux-x86_64__580.65.06__h200-sm90/facts.json")
    start, check, nothing, status, solve, refuse, by_uv = by_turns(
        bench.rounds,
        lambda: bench.run(sys.executable, "-c", "pass"),
        bench.tool("check"),
        bench.tool("sync"),
        bench.tool("status"),
        bench.tool("solve", "--facts", host),
        bench.tool("solve", "--facts", refused, exit_code=EXIT_REFUSED),
        lambda: bench.run(uv(), "pip", "install", "-q", "--offline", "-p", link, "-r", lock, changes=uv_sources(bench)),
    )

    def against(cost: Cost) -> str:
        return f"{cost.cpu / start.cpu:.1f} x the CPU of a bare interpreter"

    yield row("a bare interpreter", start)
    yield row("check, nothing changed", check, 80, against(check))
    yield Row("check, peak memory", check.megabytes, "MB", 30)
    yield row(
        "sync, nothing to do", nothing, 120, f"{against(nothing)}; uv, nothing to do: {by_uv.seconds * 1000:.0f} ms"
    )
    yield row("status", status, None, against(status))
    yield row("solve, the command, one H200", solve, 250, against(solve))
    yield row("solve, the command, refused (two K80)", refuse, 250, against(refuse))
    with Cold(bench) as first_check:
        (first,) = by_turns(min(3, bench.rounds), first_check)
    yield row(
        "check, the first time (bnbenv has no bytecode)", first, None, f"{first.cpu / check.cpu:.1f} x a later one"
    )
    again, bits = by_turns(min(3, bench.rounds), bench.tool("check"), lambda: bench.run(python, "-m", "bitsandbytes"))
    yield row("python -m bitsandbytes", bits)
    yield ratio("python -m bitsandbytes / check", bits, again, 30, at_least=True)


def diagnosing(bench: Bench) -> Iterator[Row]:
    """The doctor on a sound environment and on a training log, and a command that is run through bnbenv."""
    long, short = (training_log(bench.folder / f"{size}.log", size) for size in (bench.log_megabytes, 1))
    doctor, bare, run = by_turns(
        bench.rounds, bench.tool("doctor"), lambda: bench.run("/bin/true"), bench.tool("run", "--", "/bin/true")
    )
    yield row("doctor, nothing found", doctor, 300)
    yield Row("doctor, peak memory", doctor.megabytes, "MB")
    costs = by_turns(
        min(3, bench.rounds), *(bench.tool("doctor", "--log", log, exit_code=EXIT_FOUND) for log in (long, short))
    )
    yield row(f"doctor --log, {bench.log_megabytes} MB", costs[0], 30 * bench.log_megabytes)
    what = f"doctor --log, memory, {bench.log_megabytes} MB / 1 MB"
    yield Row(what, costs[0].megabytes / costs[1].megabytes, "x", 1.25)
    yield row("run -- true", run, None, f"true alone: {bare.seconds * 1000:.1f} ms")


def guarding(bench: Bench) -> Iterator[Row]:
    """What the drift guard adds to the start of the environment's Python."""
    python = str(bench.project / ".venv-bnb/bin/python")
    bench.tool("guard", "on")()
    (pth,) = bench.project.glob(".venv-bnb/lib/python*/site-packages/bnbenv-guard.pth")

    def without() -> Cost:
        away = pth.rename(pth.with_suffix(".away"))
        try:
            return bench.run(python, "-c", "pass")
        finally:
            away.rename(pth)

    guarded, bare = by_turns(2 * bench.rounds, lambda: bench.run(python, "-c", "pass"), without)
    bench.tool("guard", "off")()
    more = (guarded.seconds - bare.seconds) * 1000
    judged = (guarded.cpu - bare.cpu) * 1000 if busy() else None
    remark = f"{bare.seconds * 1000:.1f} ms without it: {guarded.seconds / bare.seconds:.2f} x"
    yield Row("guard, at the start of Python", more, "ms", 1, judged, remark=remark)


def syncing(bench: Bench) -> Iterator[Row]:
    """A new environment from a warm cache against uv alone, and what a second one takes on the disk."""
    record = json.loads(next(bench.project.glob(".bnbenv/generations/bnb/*.json")).read_text())
    plain_env, lock = bench.project / "plain", bench.project / "pylock.bnb.toml"
    links = {**uv_sources(bench), "UV_OFFLINE": "1"}  # else uv may load files again that are in its cache

    def plain() -> Cost:
        shutil.rmtree(plain_env, ignore_errors=True)
        made = bench.run(uv(), "venv", "-q", str(plain_env), "-p", record["python"], changes=links)
        filled = bench.run(uv(), "pip", "install", "-q", "-p", str(plain_env), "-r", str(lock), changes=links)
        return Cost(made.seconds + filled.seconds, made.cpu + filled.cpu, filled.megabytes)

    fresh, by_uv = by_turns(max(1, bench.rounds // 3), bench.tool("sync", "--fresh", "--no-verify"), plain)
    shutil.rmtree(plain_env, ignore_errors=True)
    remark = f"uv alone {by_uv.seconds:.2f} s, {by_uv.cpu:.2f} s of CPU, {by_uv.megabytes:.0f} MB"
    limit, judged = by_uv.seconds * 1.2 + 0.3, None
    if busy():
        limit, judged = by_uv.cpu * 1.2 + 0.3, fresh.cpu
    what = "sync --fresh --no-verify, warm cache"
    yield Row(what, fresh.seconds, "s", limit, judged, False, fresh.cpu * 1000, fresh.megabytes, remark)
    shares = []
    for _ in range(3):  # another program may renew what is in the cache between two runs
        first = (bench.project / ".venv-bnb").resolve()
        bench.tool("sync", "--fresh", "--no-verify")()
        used = (bench.project / ".venv-bnb").resolve()
        one = disk(first)
        shares.append(100 * (disk(first, used) - one) / one)
        if shares[-1] <= 5:
            break
    yield Row("a second environment, of the first's disk space", min(shares), "%", 5)
    for number in range(int(used.name) - 1, 1, -1):
        shutil.rmtree(used.parent / str(number), ignore_errors=True)


def hooking(bench: Bench) -> Iterator[Row]:
    """What a package manager waits for after its work, and what goes on in the background then."""
    root = bench.folder / "hooked"  # in place of /
    changes = {"BNBENV_SYSROOT": str(root)}
    (root / "var" / "lib").mkdir(parents=True, exist_ok=True)
    bench.run(*bench.bnbenv, "hook", "install", "apt", "--project", str(bench.project), changes=changes)
    script, python = str(root / "var/lib/bnbenv/hook.sh"), (sys.executable, "-I", "-m", "bnbenv")
    run, waited = by_turns(
        bench.rounds,
        lambda: bench.run(*python, "hook", "run", "--event", "apt", changes=changes),
        lambda: bench.run("/bin/sh", script, "apt"),
    )
    yield row("hook run, nothing changed", run, 100, f"the package manager waits {waited.seconds * 1000:.1f} ms")
    shutil.rmtree(root, ignore_errors=True)  # the last run may still write in the background


def solving(bench: Bench) -> Iterator[Row]:
    """The solver alone, without the start of Python: every recorded host, and 1 to 16 GPUs."""
    found = script(bench, "bench_solve.py")
    for solved, what in ((True, "solve, a solution"), (False, "solve, a refusal")):
        hosts = {name: each["first"] for name, each in found["hosts"].items() if each["solved"] is solved}
        worst = max(hosts, key=lambda name: hosts[name])
        remark = f"median {statistics.median(hosts.values()):.0f} ms; slowest: {worst}"
        yield Row(f"{what}, slowest of {len(hosts)} hosts", hosts[worst], "ms CPU", 50, remark=remark)
    yield Row("solve, loading the matrix", found["load"], "ms CPU")
    kinds = dict.fromkeys(name.partition(" ")[2] for name in found["gpus"])
    for kind in kinds:
        counts = {int(name.split()[0]): each for name, each in found["gpus"].items() if name.partition(" ")[2] == kind}
        most = max(counts)
        answer = "a solution" if counts[most]["solved"] else "a refusal"
        grown = ", ".join(f"{count}: {each['first']:.0f}" for count, each in counts.items())
        yield Row(f"solve, {most} GPUs {kind}, {answer}", counts[most]["first"], "ms CPU", 50, remark=grown)
    yield from many_hosts(bench)


def many_hosts(bench: Bench) -> Iterator[Row]:
    """Different hosts in one process, as a page or a fleet asks for them."""
    found = script(bench, "bench_hosts.py", str(bench.hosts))
    remark = f"{found['solved']} solved, {found['refused']} refused, {found['reboot']} to be rebooted"
    remark += f"; slowest {found['slowest'] * 1000:.0f} ms"
    limit = 60 * bench.hosts / 10_000
    what = f"{bench.hosts} different hosts in one process"
    yield Row(what, found["seconds"], "s CPU", limit, megabytes=found["megabytes"], remark=remark)


def reading(bench: Bench) -> Iterator[Row]:
    """One new bitsandbytes wheel, read over HTTP: what is fetched, and the time that the reading itself takes."""
    site = next((bench.project / ".venv-bnb").glob("lib/python*/site-packages"))
    found = script(bench, "bench_wheel.py", str(site), str(bench.rounds))
    remark = f"bitsandbytes {found['version']}, {found['members'] / 1e6:.0f} MB of members"
    yield Row("a wheel, bytes fetched / of its members", found["fetched"] / found["members"], "x", 1.3, remark=remark)
    parse = found["parse"] * 1000
    yield Row("a wheel, reading its libraries", parse, "ms CPU", 300, remark=f"{found['libraries']} libraries")


LARGE = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "vocab_size": 128256},
    **{"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
    **{"num_key_value_heads": 8, "max_position_embeddings": 131072, "tie_word_embeddings": False},
}


def fitting(bench: Bench) -> Iterator[Row]:
    """Does a model of 70 billion parameters fit, from its config.json alone."""
    folder = bench.folder / "large"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LARGE))
    start, fit = by_turns(
        bench.rounds,
        lambda: bench.run(sys.executable, "-c", "pass"),
        bench.tool("fit", str(folder), "--free", "200GB"),
    )
    remark = f"{fit.cpu / start.cpu:.1f} x the CPU of a bare interpreter"
    yield row("fit, a config.json of 70 billion parameters", fit, 300, remark)


def script(bench: Bench, name: str, *words: str) -> dict[str, Any]:
    """What another script here measured."""
    command = (sys.executable, str(REPO / "scripts" / name), *words)
    found: dict[str, Any] = json.loads(subprocess.check_output(command, env=bench.environ, text=True))
    return found


def growth(bench: Bench) -> Iterator[Row]:
    """``check``, ``status`` and ``sync`` with nothing to do, of 1 to 50 environments in one project."""
    folders = {count: many(bench, count) for count in MANY}
    for name, limit in (("check", 4.0), ("sync", 4.0), ("status", None)):
        costs = by_turns(max(1, bench.rounds // 2), *(bench.tool(name, cwd=folder) for folder in folders.values()))
        first, last = costs[0], costs[-1]
        each = (last.cpu - first.cpu) / (MANY[-1] - MANY[0]) * 1000
        grown = ", ".join(f"{n}: {cost.seconds * 1000:.0f}" for n, cost in zip(MANY, costs, strict=True))
        yield row(f"{name}, {MANY[-1]} environments", last, None, f"{grown}; {each:.2f} ms of CPU for each further one")
        yield ratio(f"{name}, {MANY[-1]} environments / 1", last, first, limit)
    for folder in folders.values():
        shutil.rmtree(folder)


def families(bench: Bench) -> Iterator[Row]:
    """Three families in one project: what is to be waited for where all is in sync, and what they take on the disk."""
    for family in ("gptq", "awq"):
        bench.tool("add", family)()
    for name in ("check", "sync"):
        (cost,) = by_turns(bench.rounds, bench.tool(name))
        yield row(f"{name}, three families in sync", cost, {"check": 80, "sync": 200}[name])
    each = {env: bench.project / ".bnbenv" / "generations" / env for env in ("bnb", "gptq", "awq")}
    sizes = {env: disk(folder) for env, folder in each.items()}
    remark = ", ".join(f"{env} {size / 1e6:.0f} MB" for env, size in sizes.items())
    share = disk(*each.values()) / max(sizes.values())
    yield Row("three families, of the largest's disk space", share, "x", 1.3, remark=remark)


def compiling(bench: Bench) -> Iterator[Row]:
    """Source builds with CUDA 13.0: of the small tree of the tests, or of upstream's if a source is given."""
    upstream = os.environ.get("BNBENV_TEST_BNB_SOURCE")
    source = ("--source", upstream, "--ref", UPSTREAM_REF) if upstream else ("--source", str(REPO / "tests/build/tree"))
    name = f"bitsandbytes {UPSTREAM_REF}" if upstream else "a small tree"
    builds, cold = bench.folder / "home" / "builds", bench.folder / "cold-cache"

    def build(*archs: str, **changes: str) -> Cost:
        words = [word for arch in archs for word in ("--arch", arch)]
        return bench.run(*bench.bnbenv, "build", *source, "--cuda", "13.0", *words, changes=changes)

    def anew(*archs: str) -> Cost:
        shutil.rmtree(builds / "wheels", ignore_errors=True)
        return build(*archs)

    shutil.rmtree(builds, ignore_errors=True)
    first = build("9.0", UV_CACHE_DIR=str(cold))
    shutil.rmtree(cold)
    yield long(f"build, {name}, nothing in any cache", first, 180, "compiler and all")
    times = 1 if upstream else min(3, bench.rounds)
    one, three = by_turns(times, lambda: anew("9.0"), lambda: anew("8.0", "9.0", "12.0"))
    yield long(f"build, {name}, one architecture", one, 90 if upstream else None)
    yield ratio("build, three architectures / one", three, one, 3)
    (again,) = by_turns(bench.rounds, lambda: build("8.0", "9.0", "12.0"))
    yield row("build, the second time", again, 2000)


def prequantizing(bench: Bench, python: str) -> Iterator[Row]:
    """A checkpoint of 1 GB, against the library calls that read and quantize it and write nothing."""
    found = script(bench, "bench_prequantize.py", python, "--rounds", str(min(3, bench.rounds)))
    speeds = f"{found['prequantize']:.0f} of {found['plain']:.0f} MB/s"
    yield Row("prequantize / reading and quantizing, speed", found["ratio"], "x", 0.6, at_least=True, remark=speeds)


def shown(row: Row) -> str:
    """One line: what, how much, the limit, and what else there is to say."""
    digits = 0 if row.value >= 20 else 1 if row.value >= 1 else 2
    limit, mark = "", " "
    if row.limit is not None:
        limit = f"{'>=' if row.at_least else '<='} {row.limit:.{0 if row.limit >= 20 else 2}f}".removesuffix(".00")
        mark = "!" if not row.met else " " if row.judged is None else "~"
    cpu = "" if row.cpu_ms is None else f"{row.cpu_ms:.0f}"
    memory = "" if row.megabytes is None else f"{row.megabytes:.0f}"
    value = f"{row.value:.{digits}f} {row.unit}"
    return f"{mark} {row.what:<48} {value:>13}  {limit:<9} {cpu:>5} {memory:>4}  {row.remark}".rstrip()


def load() -> str:
    remark = ": others are at work, so limits are compared with the CPU used (~)" if busy() else ""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors{remark}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="how often each is measured (default: 15)")
    parser.add_argument("--hosts", type=int, default=10_000, help="different hosts to solve for (default: 10000)")
    parser.add_argument("--log-megabytes", type=int, default=100, help="the log that the doctor reads (default: 100)")
    parser.add_argument("--families", action="store_true", help="measure three families in one project alone")
    parser.add_argument("--keep", metavar="DIR", help="use and keep this folder")
    parser.add_argument("--json", metavar="FILE", help="write the figures into a file, too")
    parser.add_argument("--builds", action="store_true", help="measure source builds alone (loads 1.2 GB)")
    parser.add_argument("--models", metavar="PYTHON", help="measure prequantize alone, in that environment")
    parser.add_argument("--enforce", action="store_true", help="exit 1 if a limit is missed")
    args = parser.parse_args()
    folder = Path(args.keep or tempfile.mkdtemp(prefix="bnbenv-bench-")).resolve()
    bench = Bench(folder, max(1, args.rounds), max(1, args.hosts), max(1, args.log_megabytes))
    bench.project.mkdir(parents=True, exist_ok=True)
    machine: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine(), "before": load()}
    print(f"Python {machine['python']}, {machine['before']}")
    print(f"  {'what':<48} {'measured':>13}  {'limit':<9} {'CPU':>5} {'MB':>4}  (CPU in ms)")
    rows: list[Row] = []
    try:
        (bench.project / "bnbenv.toml").touch()
        if not args.builds and not args.models:
            bench.tool("sync")()
        parts: tuple[Callable[[Bench], Iterator[Row]], ...]
        parts = (quick_commands, fitting, diagnosing, guarding, hooking, solving, reading, growth, syncing)
        if args.models:
            parts = (partial(prequantizing, python=args.models),)
        for part in (compiling,) if args.builds else (families,) if args.families else parts:
            for one in part(bench):
                rows.append(one)
                print(shown(one), flush=True)
    finally:
        if not args.keep:
            shutil.rmtree(bench.folder, ignore_errors=True)
    machine["after"] = load()
    print(machine["after"])
    if args.json:
        document = {"schema": "bnbenv.bench/1", **machine, "rows": [{**asdict(one), "met": one.met} for one in rows]}
        Path(args.json).write_text(json.dumps(document, indent=2) + "\n")
    missed = [one.what for one in rows if one.met is False]
    if missed:
        print(f"missed: {', '.join(missed)}")
    return 1 if missed and args.enforce else 0


if __name__ == "__main__":
    raise SystemExit(main())
