"""Which tensor of a checkpoint becomes which of the model, as the loader of each major release of transformers says."""

from __future__ import annotations

import importlib
import re
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .capture import Captured
from .checkpoint import Source


@dataclass(frozen=True)
class Part:
    """A tensor of the checkpoint, the type that it is cast to, and the pattern by which a rule found it."""

    source: Source
    dtype: torch.dtype
    pattern: str = ""


@dataclass
class Assigned:
    """What tensors of the checkpoint become: ``targets`` are names and shapes in the model.

    ``key`` is the name that each of the parts has once it is renamed. ``rule`` is transformers' own object that puts
    several together or takes one apart; None where a tensor only gets another name.
    """

    key: str
    parts: list[Part]
    targets: dict[str, tuple[int, ...]]
    rule: Any = None

    @property
    def first(self) -> Source:
        return self.parts[0].source


class Names(Protocol):
    """One of the two loaders."""

    def assign(self, sources: dict[str, Source]) -> tuple[list[Assigned], list[str]]:
        """What is loaded, and the names of those that the model does not use."""
        ...

    def reread(self, names: list[str]) -> dict[str, str]:
        """The model's names for a quantized checkpoint's: of a statistic, that of its weight."""
        ...

    def quantize(self, target: str, value: torch.Tensor) -> torch.nn.Parameter:
        """The library's own conversion of a weight."""
        ...


def names_for(captured: Captured) -> Names:
    return Five(captured) if "load_config" in captured.arguments else Four(captured)


class Five:
    """transformers 5: rules of renaming, and rules that merge and split; core_model_loading.py."""

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        self.model = captured.model
        self.load = captured.arguments["load_config"]
        self.state = self.model.state_dict()
        self.operation = captured.quantizer.get_quantize_ops()

    def assign(self, sources: dict[str, Source]) -> tuple[list[Assigned], list[str]]:
        renamings, converters = _rules(self.load.weight_mapping or [])
        by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
        found: dict[str, Assigned] = {}
        unused: list[str] = []
        for name in sorted(sources, key=_core().dot_natural_key):
            target, pattern = self._rename(name, renamings, converters)
            if target not in self.state:
                unused.append(name)
                continue
            entry = found.get(target)
            if entry is None:
                rule = deepcopy(by_pattern[pattern]) if pattern is not None else None
                entry = found[target] = Assigned(target, [], {}, rule)
            entry.parts.append(Part(sources[name], self._dtype(target, sources[name]), pattern or name))
        for target, entry in found.items():
            entry.targets = self._targets(target, entry)
        return list(found.values()), unused

    def reread(self, names: list[str]) -> dict[str, str]:
        rules = importlib.import_module("transformers.conversion_mapping")
        quantizer = self.captured.quantizer
        quantizer.pre_quantized = True
        try:
            mapping = rules.get_model_conversion_mapping(self.model, None, quantizer)
        finally:
            quantizer.pre_quantized = False
        renamings, converters = _rules(mapping)
        return {name: self._rename(name, renamings, converters)[0] for name in names}

    def quantize(self, target: str, value: torch.Tensor) -> torch.nn.Parameter:
        made = self.operation.convert({target: [value]}, model=self.model, full_layer_name=target)
        result = made[target]
        return result[0] if isinstance(result, list) else result

    def put_together(self, target: str, entry: Assigned, tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the rule makes of the tensors, by the model's names."""
        rule = deepcopy(entry.rule)
        for index, part in enumerate(entry.parts):
            rule.add_tensor(target, part.source.name, part.pattern, tensors[index])
        made = rule.convert(target, model=self.model, config=self.model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    def _rename(self, name: str, renamings: list[Any], converters: list[Any]) -> tuple[str, str | None]:
        prefix = self.model.base_model_prefix
        target, pattern = _core().rename_source_key(name, renamings, converters, prefix, self.state)
        if target not in self.state and name in self.state:
            # A model's own name that a rule for old checkpoints would spoil.
            target, pattern = _core().rename_source_key(name, [], [], prefix, self.state)
        return target, pattern

    def _dtype(self, target: str, source: Source) -> torch.dtype:
        """convert_and_load_state_dict_in_model, step 3."""
        plan = self.load.dtype_plan or {}
        if plan:
            search, by_group, _ = _core().build_glob_alternation(list(plan))
            if matched := search.search(target):
                return plan[by_group[matched.lastgroup]]
        own = self.state[target].dtype
        if own != self.load.dtype and not self.captured.quantizer.param_needs_quantization(self.model, target):
            return own
        return self.load.dtype

    def _targets(self, target: str, entry: Assigned) -> dict[str, tuple[int, ...]]:
        if entry.rule is None:
            return {target: entry.first.shape}
        empty = [torch.empty(part.source.shape, dtype=part.dtype, device="meta") for part in entry.parts]
        return {name: tuple(value.shape) for name, value in self.put_together(target, entry, empty).items()}


class Four:
    """transformers 4 from 4.49 on: names are changed one by one; _load_pretrained_model of modeling_utils.py."""

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        self.model = captured.model
        self.state = self.model.state_dict()

    def assign(self, sources: dict[str, Source]) -> tuple[list[Assigned], list[str]]:
        renamed = self._rename(list(sources))
        unused = [name for name in sources if renamed.get(name) not in self.state]
        found: dict[str, Assigned] = {}
        for name, source in sources.items():
            if name in unused:
                continue
            target = renamed[name]
            found[target] = Assigned(target, [Part(source, self._dtype(target, source))], {target: source.shape})
        return list(found.values()), unused

    def reread(self, names: list[str]) -> dict[str, str]:
        renamed = self._rename(names)
        return {name: _weight_of(renamed.get(name, "")) for name in names}

    def quantize(self, target: str, value: torch.Tensor) -> torch.nn.Parameter:
        device = torch.device(self.captured.arguments["device_map"][""])
        self.captured.quantizer.create_quantized_param(self.model, value, target, device)
        made: torch.nn.Parameter = self.model.get_parameter(target)
        return made

    def _rename(self, names: list[str]) -> dict[str, str]:
        prefix = self.model.base_model_prefix
        has = any(name.startswith(prefix) for name in names) if prefix else False
        expects = hasattr(self.model, prefix) if prefix else False
        mapping: dict[str, str] = self.model._get_key_renaming_mapping(
            names, self.captured.arguments.get("key_mapping"), has and not expects, expects and not has
        )
        return mapping

    def _dtype(self, target: str, source: Source) -> torch.dtype:
        """_infer_parameter_dtype."""
        if not source.dtype.is_floating_point or source.dtype == getattr(torch, "float8_e4m3fn", None):
            return source.dtype
        regex: re.Pattern[str] | None = self.captured.arguments.get("keep_in_fp32_regex")
        if regex is not None and regex.search(target):
            return torch.float32
        return self.captured.dtype


def _core() -> Any:
    """Only transformers 5 has it."""
    return importlib.import_module("transformers.core_model_loading")


def _rules(mapping: list[Any]) -> tuple[list[Any], list[Any]]:
    renamings = [rule for rule in mapping if isinstance(rule, _core().WeightRenaming)]
    return renamings, [rule for rule in mapping if isinstance(rule, _core().WeightConverter)]


_STATISTICS = re.compile(r"\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__\w+)$")


def _weight_of(name: str) -> str:
    """The weight that a statistic belongs to; other names as they are."""
    if name.endswith((".SCB", ".weight_format")):
        return name.rpartition(".")[0] + ".weight"
    return _STATISTICS.sub("", name)
