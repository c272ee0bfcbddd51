"""A model of a class that no row is about, told from the names and shapes of its checkpoint's tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from bnbenv.matrix.architectures import Pattern, release
from bnbenv.models.model import Config, Parameter, Skeleton, Tensor

LONGEST = 20  # digits of what is taken for a number in a tensor's name
# Whose "wo" transformers does not quantize (_keep_in_fp32_modules): 4 has it in float32, 5 in the loading type.
_WITH_WO = frozenset({"t5", "mt5", "umt5", "udop", "pop2piano"})
_EXPERT = re.compile(r"\.experts\.\d+\.")
_BEYOND = re.compile(r"(?:^|\.)mtp\.|^model\.layers\.(\d{1,9})\.")  # layers that predict further tokens


def guessed(tensors: Sequence[Tensor], config: Config, version: str, skip: Sequence[str]) -> Skeleton:
    """By names and shapes: a weight with two sides that is no embedding, output or norm is taken for a linear layer.

    Not those of experts with transformers 5, whose own classes have them in one parameter, all of them (5.23.0).
    """
    tied = bool(config.text.get("tie_word_embeddings", config.fields.get("tie_word_embeddings", False)))
    five, own = release(version)[0] >= 5, not config.remote_code
    wo = own and config.model_type in _WITH_WO
    parameters = []
    for tensor in in_order(tensors, version):
        if own and _is_beyond(tensor.name, config):
            continue
        pattern = _pattern_of(tensor, joined=five and own)
        module, _, _ = tensor.name.rpartition(".")
        if tied and pattern.kind == "output" and module.endswith("lm_head"):
            continue
        kept = None
        if pattern.kind == "linear" and any(one == module or module.endswith(f".{one}") for one in skip):
            kept = "named in llm_int8_skip_modules"
        elif pattern.kind == "expert":
            kept = "experts in one 3-D parameter: bitsandbytes converts linear layers alone"
        elif wo and module.endswith(".wo"):
            kept = "kept in float32 by transformers"
        parameters.append(
            Parameter(
                tensor.name,
                tensor.shape,
                pattern.kind,
                converted=pattern.kind == "linear" and kept is None,
                kept=kept,
                dtype="F32" if wo and module.endswith(".wo") and not five else None,
                stored=tensor.bytes,
            )
        )
    said = config.architecture or config.model_type or "an unnamed class"
    basis = f"the names and shapes of the tensors alone: bnbenv's table has no {said} of transformers {version}"
    if config.remote_code:
        basis = f"the names and shapes of the tensors alone: {said} comes with code of its own"
    return Skeleton(tuple(parameters), version, basis, known=False)


def _is_beyond(name: str, config: Config) -> bool:
    found, layers = _BEYOND.search(name), config.text.get("num_hidden_layers")
    if found is None or found[1] is None:
        return found is not None
    return isinstance(layers, int) and int(found[1]) >= layers


def _pattern_of(tensor: Tensor, joined: bool) -> Pattern:
    """What a tensor is by its name and shape; ``joined``: the experts of a layer become one parameter."""
    module, _, last = tensor.name.rpartition(".")
    name, sides = module.rpartition(".")[2].lower(), len(tensor.shape)
    if last == "bias":
        return Pattern(tensor.name, "bias")
    if "norm" in name or name.startswith("ln_"):
        return Pattern(tensor.name, "norm")
    if name in ("lm_head", "output", "embed_out") and sides == 2:
        return Pattern(tensor.name, "output")
    if ("emb" in name or name in ("wte", "wpe", "shared", "relative_attention_bias")) and sides == 2:
        return Pattern(tensor.name, "embedding")
    if (sides == 3 and "expert" in tensor.name.lower()) or (joined and sides == 2 and _EXPERT.search(tensor.name)):
        return Pattern(tensor.name, "expert")
    if last == "weight" and sides == 2:
        return Pattern(tensor.name, "linear", module="linear")
    return Pattern(tensor.name, "other")


def in_order(tensors: Iterable[Tensor], version: str) -> list[Tensor]:
    """As that release of transformers loads them."""
    if release(version)[0] >= 5:
        return sorted(tensors, key=lambda one: natural(one.name))
    return sorted(tensors, key=lambda one: (one.file, one.name))


def natural(name: str) -> list[tuple[int, int | str, int]]:
    """Sorts as transformers 5 does: the parts of a name one by one, numbers as numbers and before text."""
    return [_part(part) for part in name.split(".")]


@lru_cache(4096)
def _part(part: str) -> tuple[int, int | str, int]:
    if part.isdecimal() and len(part) < LONGEST:
        return (0, int(part), -1)
    text = part.rstrip("0123456789")
    end = part[len(text) :]
    return (1, text, int(end)) if 0 < len(end) < LONGEST else (1, part, -1)
