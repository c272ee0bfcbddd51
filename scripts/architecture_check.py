"""Holds the table of model classes against new samples, and against models that are really loaded."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bnbenv.errors import BnbenvError
from bnbenv.matrix.architectures import Architecture
from bnbenv.models.formulas import Unresolved
from bnbenv.models.local import read_local
from bnbenv.models.model import SIZES
from bnbenv.models.skeleton import skeleton
from bnbenv.models.structure import Fields, Skips, Structure
from bnbenv.process import Command
from bnbenv.process.runner import SystemRunner

LOADS = Path(__file__).with_name("architecture_loads.py")
LOADED = (
    *("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM", "GemmaForCausalLM"),
    *("Gemma2ForCausalLM", "Gemma3ForCausalLM", "OPTForCausalLM", "MixtralForCausalLM", "Phi3ForCausalLM"),
    *("GPT2LMHeadModel", "GPTNeoXForCausalLM", "FalconForCausalLM", "BloomForCausalLM", "StableLmForCausalLM"),
    *("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"),
)
MINUTES = 30 * 60.0

Record = dict[str, Any]


def differences(row: Architecture, sample: Record, transformers: str) -> list[str]:
    """What the row says otherwise than one sample: shapes, and what is converted."""
    document: dict[str, Any] = {}
    for key, value in sample["config"].items():
        at = document
        *path, last = key.split(".")
        for step in path:
            at = at.setdefault(step, {})
        at[last] = value
    fields = Fields(row, document)
    wanted: dict[str, tuple[list[int], bool]] = {}
    for group in sample["groups"][1:]:
        for at in group["at"]:
            if group["tied"] is None:
                parts = group["name"].split("*")
                name = parts[0] + "".join(f"{number}{part}" for number, part in zip(at, parts[1:], strict=True))
                wanted[name] = (group["shape"], group["converted"])
    try:
        skips = Skips(row, fields, transformers, ())
        given = {
            one.name: (
                list(one.shape),
                one.pattern.module in ("linear", "conv1d", "linear-like")
                and skips.why(one.name.rpartition(".")[0]) is None,
            )
            for one in Structure(row, fields).places()
        }
    except Unresolved as error:
        return [f"unresolved {error}"]
    return [
        f"{name}: {given.get(name)} but is {wanted.get(name)}"
        for name in sorted({*given, *wanted})
        if given.get(name) != wanted.get(name) and not small_buffer(row, name, (given.get(name), wanted.get(name)))
    ]


def small_buffer(row: Architecture, name: str, there: Iterable[Any]) -> bool:
    """A buffer so small that it does not matter whether it is there, or has the shape of another config."""
    kinds = {one.name: one.kind for one in row.parameters}
    pattern = ".".join("*" if part.isdigit() else part for part in name.split("."))
    sizes = [math.prod(one[0]) for one in there if one is not None]
    return kinds.get(pattern) == "buffer" and max(sizes) <= 4096


def check_samples(file: Path, rows: Iterable[Architecture], counts: Callable[[Record], bool]) -> int:
    """How many samples of a file the rows of its release contradict; those with formulas are asked."""
    lines = file.read_text(encoding="utf-8").splitlines()
    version = json.loads(lines[0])["transformers"]
    known = {row.architecture: row for row in rows if version in row.transformers and row.formulas is None}
    wrong = 0
    for line in lines[1:]:
        record = json.loads(line)
        row = known.get(record["architecture"])
        if row is None:
            continue
        samples = [
            one for one in record["samples"] if counts({**record["defaults"], **one["config"], **one["resolved"]})
        ]
        found = [one for sample in samples for one in differences(row, sample, version)[:1]]
        wrong += len(found)
        said = found[0] if found else "all agree"
        print(f"{row.architecture} {version}: {len(samples)} configs, {len(found)} otherwise: {said}", flush=True)
    return wrong


def check_loads(python: Path, folder: Path, names: Iterable[str]) -> int:
    """How many small models an environment loads otherwise than the skeleton of their checkpoint says."""
    argv = (str(python), str(LOADS), str(folder), *(names or LOADED))
    environ = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = SystemRunner().run(Command(argv, env=environ, timeout=MINUTES))
    version = next((one[8:] for one in done.stdout.splitlines() if one.startswith("release ")), None)
    return sum(compared(json.loads(line), folder, version) for line in done.stdout.splitlines() if line.startswith("{"))


def compared(loaded: Record, folder: Path, version: str | None) -> bool:
    """Whether one model was loaded otherwise than told; what was found is printed."""
    name = loaded["class"]
    if "rows" not in loaded:
        print(f"{name} {version}: not made: {loaded['said']}", file=sys.stderr)
        return False
    try:
        found = skeleton(read_local(folder / name), version)
    except BnbenvError as error:
        print(f"{name} {version}: {error.message}")
        return True
    told = {
        one.name: [one.name, one.elements, one.converted, None if one.converted else SIZES[one.dtype or "BF16"]]
        for one in found.parameters
    }
    really = {row[0]: row for row in loaded["rows"]}
    wrong = [one for one in sorted({*told, *really}) if told.get(one) != really.get(one)]
    at = f"{told.get(wrong[0])} but is {really.get(wrong[0])}" if wrong else "as told"
    print(f"{name} {version}: {len(really)} parameters and buffers, {len(wrong)} otherwise: {at}", flush=True)
    return bool(wrong)
