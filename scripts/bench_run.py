"""What bench.py measures with: commands run as users run them, and the projects to run them in."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from uv import find_uv_bin

from bnbenv.envs import generations as gens
from bnbenv.envs.project import Project
from bnbenv.envs.record import digest, file_digest, read_record
from bnbenv.envs.sources import read_sources
from bnbenv.envs.wishes import SourcesWish, load_wishes
from bnbenv.paths import Sysroot

REPO = Path(__file__).resolve().parent.parent

NO_CHANGES: Mapping[str, str] = {}

# A child's peak memory begins with that of the process that starts it. So a small one does.
LAUNCHER = """
import os, sys, time
started = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, used = os.wait4(child, 0)
seconds = time.perf_counter() - started
print(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss, os.waitstatus_to_exitcode(status))
"""


class Cost(NamedTuple):
    """Seconds that a command takes, seconds of a processor that it and its children use, and the MB of the largest."""

    seconds: float
    cpu: float
    megabytes: float


@dataclass(frozen=True)
class Bench:
    """A project in ``folder``, and how much: rounds of each thing, hosts in one process, megabytes of a log."""

    folder: Path
    rounds: int
    hosts: int = 10_000
    log_megabytes: int = 100

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @cached_property
    def environ(self) -> dict[str, str]:
        """As users have it: bytecode is cached, and nothing of this shell's own bnbenv is read."""
        own = {key for key in os.environ if key.startswith("BNBENV_")} - {"BNBENV_SYSROOT"}
        env = {key: value for key, value in os.environ.items() if key not in own | {"PYTHONDONTWRITEBYTECODE"}}
        return {**env, "BNBENV_HOME": str(self.folder / "home")}

    @cached_property
    def bnbenv(self) -> tuple[str, ...]:
        """The command as users call it, else the module."""
        script = Path(sys.executable).parent / "bnbenv"
        return (sys.executable, str(script)) if script.is_file() else (sys.executable, "-m", "bnbenv")

    def run(
        self, *argv: str, cwd: Path | None = None, exit_code: int = 0, changes: Mapping[str, str] = NO_CHANGES
    ) -> Cost:
        """What a command costs; it has to end with that code."""
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, *argv],
            env={**self.environ, **changes},
            cwd=cwd or self.project,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)} could not be started:\n{done.stderr}")
        seconds, cpu, kilobytes, code = done.stdout.split()
        if int(code) != exit_code:
            raise SystemExit(f"{' '.join(argv)} ended with {code}:\n{done.stderr}")
        return Cost(float(seconds), float(cpu), int(kilobytes) / 1024)

    def tool(self, *words: str, cwd: Path | None = None, exit_code: int = 0) -> Callable[[], Cost]:
        """bnbenv, ready to be run."""
        return lambda: self.run(*self.bnbenv, *words, cwd=cwd, exit_code=exit_code)


def by_turns(rounds: int, *tasks: Callable[[], Cost]) -> list[Cost]:
    """The median cost of each task, run by turns."""
    taken: list[list[Cost]] = [[] for _ in tasks]
    for _ in range(rounds):
        for task, costs in zip(tasks, taken, strict=True):
            costs.append(task())
    return [Cost(*(statistics.median(values) for values in zip(*costs, strict=True))) for costs in taken]


def busy() -> bool:
    """Whether others are at work on this machine: then a command takes longer than it has to."""
    return os.getloadavg()[0] > max(1.25, 0.75 * (os.cpu_count() or 1))  # what is measured here makes a load of 1


class Cold:
    """A copy of the package that has no bytecode each time it runs."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.copy = bench, bench.folder / "cold"

    def __enter__(self) -> Callable[[], Cost]:
        plain = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPO / "bnbenv", self.copy / "bnbenv", ignore=plain, dirs_exist_ok=True)
        return self.run

    def run(self) -> Cost:
        for folder in list(self.copy.rglob("__pycache__")):
            shutil.rmtree(folder)
        return self.bench.run(sys.executable, "-m", "bnbenv", "check", changes={"PYTHONPATH": str(self.copy)})

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.copy)


def disk(*folders: Path) -> int:
    """Bytes of folders with hard links counted once and bytecode left out."""
    words = ("du", "-sbc", "--exclude=__pycache__", *map(str, folders))
    return int(subprocess.check_output(words, text=True).split()[-2])


def training_log(path: Path, megabytes: int) -> str:
    """A log as a training leaves it, which dies in the end; its name."""
    bar = "".join(f"\r{n}%|{'#' * (n // 4):<25}| {n}/100 [00:{n % 60:02}<00:07, 11.42it/s]" for n in range(0, 100, 4))
    line = "{'loss': 1.4142, 'grad_norm': 0.7071, 'learning_rate': 0.0002, 'epoch': 0.42}\n"
    block = f"{bar}\n\x1b[33mwarning\x1b[0m: the cache is off\n{line * 40}".encode()
    death = (
        'Traceback (most recent call last):\n  File "train.py", line 31, in <module>\n    trainer.train()\n'
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64"
        " GiB of which 1.20 GiB is free.\n"
    )
    with path.open("wb") as stream:
        for _ in range(megabytes * 1_000_000 // len(block)):
            stream.write(block)
        stream.write(death.encode())
    return str(path)


def uv() -> str:
    return str(find_uv_bin())


def uv_sources(bench: Bench) -> dict[str, str]:
    """The sources that bnbenv gives to uv, so that both install from the same places."""
    sources = read_sources(os.environ, Sysroot(), SourcesWish(), Path.home(), bench.project, "")
    return {key: value for key, value in sources.uv_environment().items() if value is not None}


def many(bench: Bench, count: int) -> Path:
    """A project of many environments in sync. Their packages are one folder of links; all else is the tool's own."""
    made = (bench.project / ".venv-bnb").resolve()
    known = read_record(made.parent / f"{made.name}.json")
    lock = (made.parent / f"{made.name}.lock.toml").read_text()
    assert known is not None
    root = bench.folder / f"of-{count}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    project = Project(root, root / "bnbenv.toml")
    project.config.write_text("".join(f"[envs.env{number}]\n" for number in range(count)))
    wishes = load_wishes(project)
    for env in wishes.envs:
        generation = gens.new_generation(project, env)
        generation.prefix.mkdir()
        for name in ("bin", "lib", "pyvenv.cfg"):
            (generation.prefix / name).symlink_to(made / name)
        generation.lock_file.write_text(lock)
        project.lock(env).write_text(lock)
        record = known._replace(
            generation=1,
            wishes=wishes.digest(env),
            config=file_digest(project.config),
            environments=list(wishes.envs),
            lock=digest(lock.encode()),
        )
        record.write(generation.record_file)
        gens.switch(project, env, generation)
    return root
