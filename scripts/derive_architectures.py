#!/usr/bin/env python3
"""Measure what releases of transformers make of the models that people load in 4 bit, and write the table of it.

    python scripts/derive_architectures.py PYTHON [PYTHON ...]

Each PYTHON is that of an environment with transformers, bitsandbytes, accelerate and torch, where each model class is
built on the meta device for many configs (scripts/architecture_probe.py). Shapes become formulas over the fields of
config.json, looked for among most of the samples and held against the rest. Rows of releases that are not measured
now stay as they are; what two releases make the same of is one row.

    --check     write nothing; hold the table against new samples (give another --seed), and against small models that
                from_pretrained loads; exit 1 where they differ
    --samples   files with the lines that architecture_probe.py has printed, in place of environments
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
from architecture_check import check_loads, check_samples, differences
from architecture_formulas import Instance, Search
from deriving import ended

from bnbenv.errors import Failed
from bnbenv.matrix.architectures import (
    ARCHITECTURES,
    Architecture,
    ArchitectureTable,
    Case,
    Default,
    Pattern,
    release,
)
from bnbenv.matrix.model import Evidence
from bnbenv.paths import write_atomically
from bnbenv.process import Command
from bnbenv.process.runner import SystemRunner

MATRICES = Path(__file__).resolve().parent.parent / "matrices"
PROBE = Path(__file__).with_name("architecture_probe.py")
HOURS = 3 * 3600.0
SECONDS = 10.0  # of computing, for the formulas of one class
HIDDEN = ("hidden_size", "n_embd", "d_model", "embed_dim", "dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads")
SMALL = 1 << 16  # elements of a buffer whose shape may be that of the plainest config where no formula is found

Record = dict[str, Any]


def measure(pythons: Iterable[Path], names: Sequence[str], seed: int, joint: int) -> list[Path]:
    """The files with what the probe has printed in each environment. Raises Failed, OSError."""
    found = []
    for python in pythons:
        out = Path(tempfile.mkdtemp()) / "samples.jsonl"
        argv = (str(python), str(PROBE), "--out", str(out), "--seed", str(seed), "--joint", str(joint), *names)
        done = SystemRunner().run(Command(argv, timeout=HOURS))
        if not done.ok:
            raise Failed("probe", f"{python} could not measure", "See what it says.", detail=done.stderr)
        found.append(out)
    return found


def values_of(sample: Record, defaults: dict[str, Any]) -> dict[str, Any]:
    """The fields of a sample as the config object has them."""
    return {**defaults, **sample["config"], **sample["resolved"]}


def varied(record: Record) -> tuple[str, ...]:
    """The fields that are not the same in all samples."""
    base = values_of(record["samples"][0], record["defaults"])
    found: dict[str, None] = {}
    for sample in record["samples"]:
        for name, value in values_of(sample, record["defaults"]).items():
            if value != base.get(name, ...) and not name.endswith("model_type"):
                found.setdefault(name)
    return tuple(found)


def even(values: dict[str, Any]) -> bool:
    """Whether the heads share the hidden size evenly: what a model does otherwise, no formula needs to say."""
    for name, value in values.items():
        prefix, dot, last = name.rpartition(".")
        if last in HIDDEN and isinstance(value, int):
            heads = [values.get(f"{prefix}{dot}{one}") for one in HEADS]
            if any(one and value % one for one in heads if isinstance(one, int)):
                return False
    return True


class Derived:
    """The row of one class, put together from its samples."""

    def __init__(self, record: Record, versions: dict[str, str], seconds: float) -> None:
        self.record, self.versions, self.seconds = record, versions, seconds
        for sample in record["samples"]:  # fields that a model reads and its config class does not have
            for name in sample["config"]:
                if name not in record["types"]:
                    record["defaults"].setdefault(name, None)
        self.samples = [one for one in record["samples"] if even(values_of(one, record["defaults"]))] or record[
            "samples"
        ]
        self.values = [values_of(one, record["defaults"]) for one in self.samples]
        self.learned = [number for number, one in enumerate(self.samples) if one["why"] != "check"]
        self.search = Search(varied(record), until=time.process_time() + seconds)
        self.groups: dict[str, dict[int, list[Record]]] = {}  # by pattern and sample
        for number, sample in enumerate(self.samples):
            for group in sample["groups"][1:]:
                self.groups.setdefault(group["name"], {}).setdefault(number, []).append(group)
        self.done: dict[str, Pattern] = {}
        self.sizes = [self.stars(number) for number in range(len(self.samples))]

    def stars(self, number: int) -> dict[str, int]:
        """In one sample, by what stands before a star, how many numbers there are."""
        found: dict[str, int] = {}
        for group in self.samples[number]["groups"][1:]:
            parts = group["name"].split("*")
            for star in range(len(parts) - 1):
                key = "*".join(parts[: star + 1])
                found[key] = max(found.get(key, 0), 1 + max(at[star] for at in group["at"]))
        return found

    def pattern(self, name: str) -> Pattern:
        by_sample = self.groups[name]
        if name.endswith("bias"):  # most likely as long as its weight has rows
            weight = self.done.get(f"{name[:-4]}weight")
            rows = [case.gives[0] for case in (weight.cases or () if weight else ()) if case.gives]
            self.search.known = list(dict.fromkeys([*rows, *self.search.known]))
        first = next(iter(by_sample.values()))[0]
        parts = name.split("*")
        ranges = []
        for star in range(len(parts) - 1):
            key = "*".join(parts[: star + 1])
            given = [
                Instance(self.values[number], None, (self.sizes[number][key],), number)
                for number in self.learned
                if key in self.sizes[number]
            ]
            formula = self.search.shape(given)
            ranges.append(formula[0] if formula else "")
        cases = (
            self.search.cases(self.instances(name, parts[0] if len(parts) > 1 else None))
            if all([*ranges, True])
            else None
        )
        stored = {part[0]: part for groups in by_sample.values() for one in groups for part in one["stored"] or ()}
        converted = any(one["converted"] for groups in by_sample.values() for one in groups)
        module: Any = first["module"] if first["module"] != "linear-like" or converted else ""
        if cases is None and first["buffer"] and not first["persistent"] and math.prod(first["shape"]) <= SMALL:
            cases = [Case(tuple(map(str, first["shape"])))]
        return Pattern(
            name=name,
            kind=first["kind"],
            cases=None if cases is None else tuple(cases),
            ranges=tuple(ranges) if all(ranges) else (),
            module=module,
            dtype=first["dtype"],
            stored=tuple(stored),
            split=max([1, *(part[3] for part in stored.values())]),
            saved=not first["buffer"] or bool(first["persistent"]),
        )

    def instances(self, name: str, prefix: str | None) -> list[Instance]:
        found = []
        for number in self.learned:
            there: dict[int | None, tuple[int, ...]] = {}
            for group in self.groups[name].get(number, ()):
                if group["tied"] is None:
                    for at in group["at"]:
                        there[at[0] if prefix is not None else None] = tuple(group["shape"])
            layers: Iterable[int | None] = range(self.sizes[number].get(prefix, 0)) if prefix is not None else (None,)
            found += [Instance(self.values[number], layer, there.get(layer), number) for layer in layers]
        return found

    def skips(self) -> tuple[Case, ...] | None:
        """Which names are skipped by default, and when."""
        labels = [
            tuple(self.of_last_layer(name, number) for name in one["groups"][0]["skips"])
            for number, one in enumerate(self.samples)
        ]
        distinct = list(dict.fromkeys(labels))
        cases: list[Case] = []
        for label in distinct[:-1]:
            given = [
                Instance(self.values[number], None, () if labels[number] == label else None, number)
                for number in self.learned
                if labels[number] not in distinct[: distinct.index(label)]
            ]
            found = self.search.cases(given)
            if found is None:
                return None
            cases += [Case(label, one.when) for one in found]
        return (*cases, Case(distinct[-1]))

    def of_last_layer(self, name: str, sample: int) -> str:
        """The name with ``$`` for the number of the last layer."""
        parts = name.split(".")
        for at, part in enumerate(parts):
            if part.isdigit() and int(part) + 1 == self.sizes[sample].get(".".join(parts[:at]) + "."):
                return ".".join([*parts[:at], "$", *parts[at + 1 :]])
        return name

    def default(self, name: str) -> Default:
        """What a field is where config.json does not say."""
        value = self.record["defaults"].get(name)
        missing, null = [], []
        for number in self.learned:
            config, resolved = self.samples[number]["config"], self.values[number].get(name)
            if name not in config:
                missing.append((number, resolved))
            elif config[name] is None:
                null.append((number, resolved))
        return Default(
            value=value if value != [] else None,
            missing=self.resolved(missing) if any(one != value for _, one in missing) else (),
            null=self.resolved(null) if any(one is not None for _, one in null) else (),
        )

    def resolved(self, given: list[tuple[int, Any]]) -> tuple[Case, ...]:
        """A default as a formula over the fields that config.json itself holds, so that no two ask for each other."""
        computed = {name for one in self.samples for name in one["resolved"]}
        search = Search(
            tuple(name for name in self.search.fields if name not in computed), until=time.process_time() + self.seconds
        )
        found = search.cases(
            [
                Instance(self.values[number], None, (value,) if isinstance(value, int) else None, number)
                for number, value in given
            ]
        )
        return tuple(found or ())

    def row(self) -> Architecture:
        record = self.record
        for name in self.groups:
            self.done[name] = self.pattern(name)
        patterns = tuple(self.done.values())
        skips = self.skips()
        common = self.samples[0]["groups"][0]
        cases = [case for one in patterns for case in one.cases or ()] + list(skips or ())
        defaults: dict[str, Default] = {}
        wanted = fields_of(cases, [one for pattern in patterns for one in pattern.ranges])
        while wanted:
            name = wanted.pop()
            if name not in defaults:
                defaults[name] = self.default(name)
                wanted |= fields_of([*defaults[name].missing, *defaults[name].null], ())
        without = [one.name for one in patterns if one.cases is None or len(one.ranges) < one.name.count("*")]
        versions = self.versions
        return Architecture(
            architecture=record["architecture"],
            model_type=record["model_type"],
            transformers=(versions["transformers"],),
            parameters=patterns,
            prefix=record["prefix"],
            defaults=dict(sorted(defaults.items())),
            aliases={one: name for one, name in sorted(record["aliases"].items()) if name in defaults},
            types=record["types"],
            skips=skips or (Case(tuple(common["skips"])),),
            fp32=tuple(common["fp32"]),
            strict=tuple(common["fp32_strict"]),
            formulas=f"no formula for {without[0]}" if without else None,
            evidence=Evidence(
                "measured",
                f"transformers {versions['transformers']}, {record['file']}, built with torch {versions['torch']}",
                datetime.now(timezone.utc).date().isoformat(),
            ),
        )


def fields_of(cases: Iterable[Case], ranges: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for case in cases:
        for condition in case.when:
            what, _, rest = condition.lstrip("!").partition(":")
            found |= set(rest.split(":")) if what == "same" else {rest.split(":")[0]}
        found |= {name for formula in case.gives for name in names_in(formula)}
    return found | {name for formula in ranges for name in names_in(formula)}


def names_in(formula: str) -> set[str]:
    parts = formula.replace("+", "*").replace("/", "*").split("*")
    return {one for one in parts if one and not one.lstrip("-").isdigit()}


def rows_of(path: Path, seconds: float) -> list[Architecture]:
    """The rows of one file of samples; a row whose formulas the samples for checking contradict loses them."""
    lines = path.read_text(encoding="utf-8").splitlines()
    versions = json.loads(lines[0])
    rows = []
    for line in lines[1:]:
        record = json.loads(line)
        if not record["samples"]:
            print(f"{record['architecture']}: {'; '.join(record['said'])}", file=sys.stderr)
            continue
        row = Derived(record, versions, seconds).row()
        if row.formulas is None:
            wrong = [
                (sample["why"], one)
                for sample in record["samples"]
                if even(values_of(sample, record["defaults"]))
                for one in differences(row, sample, versions["transformers"])
            ]
            checks = sum(sample["why"] == "check" for sample in record["samples"])
            if wrong:
                row = msgspec.structs.replace(row, formulas=f"the formulas do not always hold: {wrong[0][1]}")
            elif not checks:
                row = msgspec.structs.replace(row, formulas="there was no config to check the formulas with")
        print(f"{row.architecture} {versions['transformers']}: {row.formulas or 'formulas'}", flush=True)
        rows.append(row)
    return rows


def joined(rows: Iterable[Architecture]) -> list[Architecture]:
    """Rows that say the same of several releases, in one; by name, then by release."""
    same: dict[bytes, Architecture] = {}
    for row in sorted(rows, key=lambda one: [release(version) for version in one.transformers]):
        key = msgspec.json.encode(msgspec.structs.replace(row, transformers=(), evidence=Evidence("measured", "", "")))
        if key in same:
            there = same[key]
            versions = tuple(sorted({*there.transformers, *row.transformers}, key=release))
            row = msgspec.structs.replace(row, transformers=versions)
        same[key] = row
    return sorted(same.values(), key=lambda one: (one.architecture, release(one.transformers[0])))


def read_rows(path: Path) -> list[Architecture]:
    return list(msgspec.json.decode(path.read_bytes(), type=ArchitectureTable).rows) if path.is_file() else []


def write_rows(path: Path, rows: Iterable[Architecture]) -> None:
    lines = ",\n".join(msgspec.json.encode(row).decode() for row in rows)
    write_atomically(path, f'{{"schema":"bnbenv.matrix.architectures/1","rows":[\n{lines}\n]}}\n')


def derive(given: argparse.Namespace) -> int:
    """Raises Failed, OSError."""
    files = given.samples or measure(given.pythons, given.only, given.seed, given.joint)
    path = given.out / ARCHITECTURES
    fresh = [row for file in files for row in rows_of(file, given.seconds)]
    measured = {(row.architecture, version) for row in fresh for version in row.transformers}
    kept = []
    for row in read_rows(path):
        rest = tuple(one for one in row.transformers if (row.architecture, one) not in measured)
        if rest:
            kept.append(msgspec.structs.replace(row, transformers=rest))
    write_rows(path, joined([*kept, *fresh]))
    return 0


def check(given: argparse.Namespace) -> int:
    """Raises Failed, OSError."""
    wrong = 0
    for python in given.pythons:
        with tempfile.TemporaryDirectory() as folder:
            wrong += check_loads(python, Path(folder), given.only)
    for file in given.samples or measure(given.pythons, given.only, given.seed, given.joint):
        wrong += check_samples(file, read_rows(given.out / ARCHITECTURES), even)
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", type=Path, metavar="PYTHON")
    parser.add_argument("--samples", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--only", nargs="*", default=[], metavar="CLASS", help="these classes (default: all)")
    parser.add_argument("--joint", type=int, default=36, metavar="N", help="samples with many changes (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of computing, for the formulas of one class (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path, default=MATRICES, metavar="DIR")
    given = parser.parse_args()
    return ended(lambda: check(given) if given.check else derive(given))


if __name__ == "__main__":
    sys.exit(main())
