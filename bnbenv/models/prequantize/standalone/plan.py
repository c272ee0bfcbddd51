"""What is read, what becomes of it and into which file it goes: settled before the first byte is written."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import torch

from .capture import Captured
from .checkpoint import Reader, Source
from .names import Assigned, Names
from .protocol import Job, JobError, Reporter
from .weights import Entry, Prediction, entry, is_converted, stored_shape

FORMAT = {"__metadata__": {"format": "pt"}}


@dataclass
class Unit:
    """Tensors that are handled at once: those of one weight with its statistics, or one that stays as it is.

    ``groups`` are the entries of each weight that is quantized, by its name in the model; none for what is kept.
    """

    assigned: Assigned
    entries: list[Entry]
    groups: dict[str, list[Entry]] = field(default_factory=dict)

    @property
    def read_bytes(self) -> int:
        return sum(part.source.bytes for part in self.assigned.parts)

    @property
    def need(self) -> int:
        """Bytes of what is read, in its loading type, and of the result."""
        if not self.groups:
            return 0
        parts = self.assigned.parts
        read: int = sum(part.source.bytes // part.source.dtype.itemsize * part.dtype.itemsize for part in parts)
        return read + sum(one.bytes for one in self.entries)


@dataclass
class Shard:
    """A file. ``offsets`` are of the entries, from the end of the header, in the order in which they lie."""

    name: str
    units: list[Unit]
    layout: list[Entry] = field(default_factory=list)
    offsets: dict[str, int] = field(default_factory=dict)
    header: int = 0
    bytes: int = 0


@dataclass
class Plan:
    shards: list[Shard]
    unused: list[str]

    @property
    def units(self) -> list[Unit]:
        return [unit for shard in self.shards for unit in shard.units]


def make_plan(captured: Captured, names: Names, sources: dict[str, Source], job: Job, reporter: Reporter) -> Plan:
    """Raises JobError where checkpoint and model do not belong together."""
    _check_reload(captured)
    assigned, unused = names.assign(sources)
    _check_shapes(captured.model, assigned)
    assigned, doubled = _without_doubles(captured.model, assigned)
    _check_missing(captured.model, assigned, reporter)
    place = {name: index for index, name in enumerate(sources)}
    assigned.sort(key=lambda one: min(place[part.source.name] for part in one.parts))
    units = _units(captured, names, assigned, torch.device(job.device))
    _warn_unused(captured.model, unused, reporter)
    return Plan(shard(units, job.shard_bytes), unused + doubled)


def _check_reload(captured: Captured) -> None:
    """transformers gives a quantized checkpoint of Llama 4 other modules than one that is quantized while loading."""
    from transformers.quantizers import base

    table: dict[str, Any] = getattr(base, "MODULES_TO_PATCH_FOR_QUANTIZATION", {})
    method = captured.quantizer.quantization_config.quant_method
    kinds = {type(module).__name__ for module in captured.model.modules()}
    for kind in sorted(kinds & table.keys()):
        if method in table[kind]["quantization_methods"]:
            text = f"transformers {captured.versions['transformers']} cannot load a quantized checkpoint of this model"
            text += f" as save_pretrained writes it: in place of {kind} it has {table[kind]['module_name'].__name__}"
            raise JobError("not-loadable", text, "Load the model with quantization on the fly.")


def _check_shapes(model: Any, assigned: list[Assigned]) -> None:
    for one in assigned:
        for target, shape in one.targets.items():
            wanted = stored_shape(model, target)
            # What a rule has made is already the way the model has it.
            if shape not in (wanted, wanted[::-1] if one.rule is not None else wanted):
                text = f"{one.first.name} has the shape {list(shape)}, and {target} takes {list(wanted)}"
                raise JobError("wrong-shape", text, "config.json and the weights are not of the same model.")


def _without_doubles(model: Any, assigned: list[Assigned]) -> tuple[list[Assigned], list[str]]:
    """Tied weights that the checkpoint holds twice are written once, if they are equal."""
    by_target = {target: one for one in assigned for target in one.targets}
    dropped: list[Assigned] = []
    reader = Reader(lambda count: None)
    for first, others in _tied(model).items():
        kept = by_target.get(first)
        for other in others:
            twin = by_target.get(other)
            if kept is None or twin is None or kept.rule is not None or twin.rule is not None:
                continue
            if reader.same(kept.first, twin.first) and kept.parts[0].dtype == twin.parts[0].dtype:
                dropped.append(twin)
    reader.close()
    return [one for one in assigned if one not in dropped], [one.first.name for one in dropped]


def _tied(model: Any) -> dict[str, set[str]]:
    """The names of parameters that are one, by the one that is stored."""
    groups: dict[str, set[str]] = {}
    for other, first in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        groups.setdefault(first, set()).add(other)
    seen: dict[int, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        first = seen.setdefault(id(value), name)
        if first != name:
            groups.setdefault(first, set()).add(name)
    return groups


def _check_missing(model: Any, assigned: list[Assigned], reporter: Reporter) -> None:
    """A parameter without values would be filled with random numbers, and quantized."""
    have = {target for one in assigned for target in one.targets}
    for first, others in _tied(model).items():
        group = {first, *others}
        if group & have:
            have |= group
    ignored = _patterns(getattr(model, "_keys_to_ignore_on_load_missing", None))
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    missing = [name for name in model.state_dict() if name not in have]
    missing = [name for name in missing if not (ignored and ignored.search(name))]
    lost = [name for name in missing if name in parameters]
    if lost:
        text = f"{len(lost)} of the model's tensors are not in the checkpoint: {_some(lost)}"
        raise JobError("missing-tensors", text, "Get the missing files of the checkpoint, or its right config.json.")
    if missing:
        text = f"the checkpoint has no values for buffers that transformers computes itself: {_some(missing)}"
        reporter.warn("not-in-checkpoint", text)


def _warn_unused(model: Any, unused: list[str], reporter: Reporter) -> None:
    ignored = _patterns(getattr(model, "_keys_to_ignore_on_load_unexpected", None))
    told = [name for name in unused if not (ignored and ignored.search(name)) and "rotary_emb.inv_freq" not in name]
    if told:
        reporter.warn("left-out", f"{len(told)} tensors of the checkpoint are not used by the model: {_some(told)}")


def _patterns(patterns: Any) -> re.Pattern[str] | None:
    return re.compile("|".join(f"({pattern})" for pattern in patterns)) if patterns else None


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _units(captured: Captured, names: Names, assigned: list[Assigned], device: torch.device) -> list[Unit]:
    """Each with the names under which it is written, so that plain loading finds it again."""
    model = captured.model
    converted = [one for one in assigned if any(is_converted(model, target) for target in one.targets)]
    if not converted:
        text = f"{captured.architecture} has no layer that bitsandbytes converts"
        raise JobError("nothing-to-convert", text, "Load it as it is.")
    first = next(target for target in converted[0].targets if is_converted(model, target))
    prediction = Prediction(model, names, first, captured.dtype, device)
    chosen = [_unit(model, one, one in converted, prediction, own=False) for one in assigned]
    if wrong := _unread(names, chosen):
        # Some rules for old names of a checkpoint do not know the names of statistics: the model's own then.
        chosen = [_unit(model, unit.assigned, bool(unit.groups), prediction, id(unit) in wrong) for unit in chosen]
        if wrong := _unread(names, chosen):
            bad = next(unit for unit in chosen if id(unit) in wrong)
            text = f"transformers would not find {bad.entries[0].name} again in a quantized checkpoint of this model"
            raise JobError("not-loadable", text, "Load the model with quantization on the fly.")
    return chosen


def _unit(model: Any, one: Assigned, converted: bool, prediction: Prediction, own: bool) -> Unit:
    """``own`` takes the model's names and not the checkpoint's."""
    if not converted:
        name = one.key if own and one.rule is None else None
        entries = [entry(name or part.source.name, part.dtype, part.source.shape) for part in one.parts]
        return Unit(one, entries)
    groups: dict[str, list[Entry]] = {}
    for target, shape in one.targets.items():
        name = one.first.name
        if own or one.rule is not None or not (name == "weight" or name.endswith(".weight")):
            name = target
        if is_converted(model, target):
            sides = tuple(model.get_parameter(target).shape)
            groups[target] = prediction.entries(name[: -len("weight")], sides)
        else:
            groups[target] = [entry(target, one.parts[0].dtype, shape)]
    return Unit(one, [each for group in groups.values() for each in group], groups)


def _unread(names: Names, units: list[Unit]) -> set[int]:
    """Units that plain loading of the output would not find again."""
    reread = names.reread([each.name for unit in units for each in unit.entries])
    wrong = set()
    for unit in units:
        expected = [(unit.assigned.key, unit.entries)] if not unit.groups else list(unit.groups.items())
        if any(reread[each.name] != target for target, entries in expected for each in entries):
            wrong.add(id(unit))
    return wrong


def shard(units: list[Unit], limit: int) -> list[Shard]:
    """Units in their order, as many in a file as fit; one that is larger than the limit has a file of its own."""
    groups: list[list[Unit]] = [[]]
    filled: int = 0
    for unit in units:
        size = sum(each.bytes for each in unit.entries)
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(unit)
        filled += size
    count = len(groups)
    found = []
    for index, group in enumerate(groups, 1):
        name = "model.safetensors" if count == 1 else f"model-{index:05}-of-{count:05}.safetensors"
        found.append(lay_out(Shard(name, group)))
    return found


def lay_out(one: Shard) -> Shard:
    """Where each tensor lies: those with large elements first, so that all are aligned; what has no sure size last."""
    entries = [each for unit in one.units for each in unit.entries]
    one.layout = sorted(entries, key=lambda each: (each.blob, -each.alignment))  # stable
    offset = 0
    for each in one.layout:
        one.offsets[each.name] = offset
        offset += each.bytes
    one.header = -(-len(header_text({each.name: each.bytes for each in one.layout}, one)) // 8) * 8
    one.bytes = 8 + one.header + offset
    return one


def header_text(sizes: dict[str, int], one: Shard) -> bytes:
    """The header for the real sizes of the blobs, which follow each other at the end."""
    found: dict[str, Any] = dict(FORMAT)
    offset = 0
    for each in one.layout:
        size = sizes[each.name]
        shape = [size] if each.blob else list(each.shape)
        found[each.name] = {"dtype": each.dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()
