#!/usr/bin/env python3
"""Gives the decoders and parsers of bnbenv as many inputs as there is time for: coverage-guided, by atheris.

usage: .test-env/bin/python scripts/fuzz.py [--runs N] [--minutes M] [--target NAME] [--random] [--corpus DIR]

What is fuzzed and what has to hold stands in tests/fuzz/fuzzed: an input gives a value, or one sentence with exit code
2, soon. Each target runs in a process of its own, from recorded hosts, shipped tables and what earlier runs found
worth keeping (the corpus). Prints a line a target; exits 1 if one failed, with the input kept.

atheris is an extra of this project (pip install -e '.[fuzz]'; Linux). Without it inputs are made by chance alone.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import logging
import os
import pkgutil
import random
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

REPO = Path(__file__).resolve().parent.parent
TABLE = REPO / "tests" / "fuzz" / "fuzzed"
MEMORY = 3 << 30  # bytes of address space for one target's process, the fuzzer's own included
KEPT = 20  # failures of one target; a process that fails more often stops
LARGEST = 1 << 17  # bytes of one input


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    table = load_table(options.table)
    names = options.target or list(table.TARGETS)
    unknown = [name for name in names if name not in table.TARGETS]
    if unknown:
        print(f"error: there is no target {unknown[0]}\nnext: one of {', '.join(table.TARGETS)}", file=sys.stderr)
        return 2
    if options.inside:
        return run_target(table, table.TARGETS[names[0]], options)
    guided = not options.random and importlib.util.find_spec("atheris") is not None
    if not guided and not options.random:
        print("fuzz: no atheris here (pip install -e '.[fuzz]'): inputs are made by chance alone", file=sys.stderr)
    options.corpus.mkdir(parents=True, exist_ok=True)
    print(f"{'target':<24} {'inputs':>9} {'refused':>9} {'seconds':>8} {'failures':>8}   {options.corpus}")
    results = [one_target(name, guided, options, len(names)) for name in names]
    total = sum(result["inputs"] for result in results)
    failures = [path for result in results for path in result["failures"]]
    print(f"{'all':<24} {total:>9} {'':>9} {sum(result['seconds'] for result in results):>8.0f} {len(failures):>8}")
    for path in failures:
        print(f"failed: {path} (what happened stands in the .txt beside it)")
    return 1 if failures else 0


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20_000, help="inputs for each target (slow ones: a tenth)")
    parser.add_argument("--minutes", type=float, default=60.0, help="for all targets together, at most")
    parser.add_argument("--target", action="append", help="only this one; may be given more than once")
    parser.add_argument("--random", action="store_true", help="by chance alone, even with atheris")
    parser.add_argument("--seed", type=int, default=1, help="of the randomness (default: 1)")
    parser.add_argument("--corpus", type=Path, default=default_corpus(), help="where inputs are kept")
    parser.add_argument("--table", type=Path, default=TABLE, help=argparse.SUPPRESS)
    parser.add_argument("--inside", choices=("atheris", "random"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def default_corpus() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("bnbenv-fuzz", appauthor=False))


def load_table(folder: Path) -> ModuleType:
    """The package of targets, which tests/fuzz loads in the same way."""
    spec = importlib.util.spec_from_file_location(
        "fuzzed", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzzed"] = module
    with instrumented():
        spec.loader.exec_module(module)
    return module


def instrumented() -> Any:
    """Inside atheris, what is imported here reports which of its branches were taken."""
    import contextlib

    if "--inside=atheris" not in sys.argv:
        return contextlib.nullcontext()
    atheris = importlib.import_module("atheris")
    return _importing_all(atheris)


def _importing_all(atheris: Any) -> Any:
    import contextlib

    @contextlib.contextmanager
    def importing() -> Any:
        with atheris.instrument_imports(include=["bnbenv"], enable_loader_override=False):
            import bnbenv

            for module in pkgutil.walk_packages(bnbenv.__path__, "bnbenv."):
                last = module.name.rpartition(".")[2]
                if ".standalone" not in module.name and last not in ("script", "__main__", "nvml_probe"):
                    importlib.import_module(module.name)
            yield

    return importing()


# -- the parent: a process for each target


def one_target(name: str, guided: bool, options: argparse.Namespace, targets: int) -> dict[str, Any]:
    """Run one target in a process, and print its line."""
    folder = options.corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    seconds = options.minutes * 60 / targets
    argv = [sys.executable, str(Path(__file__).resolve()), f"--inside={'atheris' if guided else 'random'}"]
    argv += [f"--target={name}", f"--runs={options.runs}", f"--minutes={seconds / 60}", f"--seed={options.seed}"]
    argv += [f"--corpus={options.corpus}", f"--table={options.table}"]
    outcome, log = folder / "outcome.json", folder / "log.txt"
    outcome.unlink(missing_ok=True)
    begun = time.monotonic()
    # A process that libFuzzer ends deletes nothing of its own.
    with log.open("wb") as stream, tempfile.TemporaryDirectory(prefix="bnbenv-fuzz-") as scratch:
        own = {**os.environ, "TMPDIR": scratch}
        try:
            done = subprocess.run(argv, stdout=stream, stderr=stream, env=own, timeout=seconds + 120, check=False)
            how = f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            how = "no end"
    try:
        result: dict[str, Any] = json.loads(outcome.read_bytes())
    except FileNotFoundError:  # it died, or hung where no timer reaches; libFuzzer keeps that input itself
        print(f"{name}: {how}, see {log}", file=sys.stderr)
        result = {"inputs": 0, "refused": 0, "failures": [str(log)]}
    result["seconds"] = time.monotonic() - begun
    line = f"{name:<24} {result['inputs']:>9} {result['refused']:>9} {result['seconds']:>8.0f}"
    print(f"{line} {len(result['failures']):>8}", flush=True)
    return result


# -- inside: one target


class Session:
    """Counts inputs, keeps those that fail, and knows when it is over."""

    def __init__(self, table: ModuleType, target: Any, options: argparse.Namespace) -> None:
        self.table, self.target = table, target
        self.folder = options.corpus / target.name
        self.runs = max(1, options.runs // (10 if target.slow else 1))
        self.until = time.monotonic() + options.minutes * 60
        self.inputs = self.refused = 0
        self.failures: dict[str, str] = {}

    def give(self, data: bytes) -> None:
        """One input. What fails in the same way as one before is not kept again."""
        self.inputs += 1
        try:
            self.refused += self.table.check(self.target, data) is not None
        except Exception as error:
            self._keep(data, error)

    def _keep(self, data: bytes, error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        place = "|".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:])
        key = f"{type(error).__name__} {place}"
        if key in self.failures:
            return
        path = self.folder / f"failed-{hashlib.sha256(data).hexdigest()[:16]}"
        path.write_bytes(data)
        path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        self.failures[key] = str(path)

    @property
    def over(self) -> bool:
        return self.inputs >= self.runs or len(self.failures) >= KEPT or time.monotonic() > self.until

    def finish(self) -> None:
        """Write the outcome and end at once: libFuzzer would not return."""
        found = {"inputs": self.inputs, "refused": self.refused, "failures": sorted(self.failures.values())}
        (self.folder / "outcome.json").write_text(json.dumps(found))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def run_target(table: ModuleType, target: Any, options: argparse.Namespace) -> int:
    """All inputs of one target, in this process."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    limit_memory()
    session = Session(table, target, options)
    for data in (*target.seeds, *earlier_failures(session.folder)):
        session.give(data)
    inside = by_atheris if options.inside == "atheris" else by_chance
    inside(session, random.Random(f"{options.seed} {target.name}"))
    session.finish()
    return 0


def limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def earlier_failures(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("failed-*")) if path.suffix != ".txt"]


def by_chance(session: Session, dice: random.Random) -> None:
    seeds = session.target.seeds
    while not session.over:
        session.give(mutated(session, dice.choice(seeds), dice))


def mutated(session: Session, data: bytes, dice: random.Random) -> bytes:
    edits = [
        session.table.Edit(dice.getrandbits(16), dice.getrandbits(24), dice.getrandbits(16))
        for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 5)))
    ]
    result: bytes = session.table.edited(session.target.kind, data, edits, session.target.seeds)
    return result[:LARGEST]


def by_atheris(session: Session, dice: random.Random) -> None:
    """libFuzzer keeps what takes a new branch, and edits that again: half as bytes, half by the format."""
    atheris = importlib.import_module("atheris")
    corpus = session.folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for data in session.target.seeds:
        (corpus / hashlib.sha256(data).hexdigest()[:32]).write_bytes(data)

    def one(data: bytes) -> None:
        if session.over:
            session.finish()
        session.give(data)

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        own = random.Random(seed)
        if own.random() < 0.3:
            return bytes(atheris.Mutate(data, largest))
        return mutated(session, data, own)[:largest]

    options = [f"-max_len={LARGEST}", f"-seed={dice.getrandbits(31)}", "-timeout=120", "-rss_limit_mb=0"]
    atheris.Setup(
        [sys.argv[0], *options, f"-artifact_prefix={session.folder}/", str(corpus)], one, custom_mutator=mutate
    )
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
