"""All ways to load a model, each with the bytes that it needs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from bnbenv.models.cache import kv_cache
from bnbenv.models.layout import weights
from bnbenv.models.model import QUANTIZATIONS, SIZES, Config, Quantization, Setting, Skeleton, Training, Workload
from bnbenv.models.peak import load_peak, prequantized_peak
from bnbenv.models.training import training


class Subject(msgspec.Struct, frozen=True):
    """A model and how it would be loaded.

    ``dtypes`` is the loading type of each quantization, ``stored_as`` that of the checkpoint's tensors, None unknown;
    all are safetensors' names. ``own``: the checkpoint is in bitsandbytes' own form of that quantization already.
    """

    config: Config
    skeleton: Skeleton
    dtypes: Mapping[Quantization, str]
    device: Literal["cuda", "cpu"]
    stored_as: str | None = None
    own: Quantization | None = None


def settings(subject: Subject, workload: Workload) -> tuple[Setting, ...]:
    """A setting of each quantization; of a checkpoint that is in bitsandbytes' own form that one alone."""
    kinds = QUANTIZATIONS if subject.own is None else (subject.own,)
    uses = _uses(subject, kinds, workload)
    return tuple(_setting(subject, kind, uses[kind]) for kind in kinds)


def for_workload(subject: Subject, known: Sequence[Setting], workload: Workload) -> tuple[Setting, ...]:
    """The same settings for another use: weights and loading are the same."""
    uses = _uses(subject, [one.quantization for one in known], workload)
    return tuple(msgspec.structs.replace(one, **uses[one.quantization]) for one in known)


def _setting(subject: Subject, kind: Quantization, use: Mapping[str, Any]) -> Setting:
    skeleton, dtype, device = subject.skeleton, subject.dtypes[kind], subject.device
    converted = prequantized_peak(skeleton, kind, dtype, device)
    if subject.own is not None and converted is not None:
        peak = converted
    else:
        peak = load_peak(skeleton, kind, dtype, device, subject.stored_as)
    return Setting(kind, weights(skeleton, kind, dtype), peak, converted, **use)


def _uses(subject: Subject, kinds: Sequence[Quantization], workload: Workload) -> dict[Quantization, dict[str, Any]]:
    """What use and training take beside the weights. NF4 and FP4 are trained alike, which is counted once."""
    trained: dict[tuple[str, str], Training] = {}
    uses: dict[Quantization, dict[str, Any]] = {}
    for kind in kinds:
        dtype = subject.dtypes[kind]
        key = (kind.replace("fp4", "nf4"), dtype)
        if key not in trained:
            trained[key] = training(subject.skeleton, subject.config, kind, dtype, workload)
        uses[kind] = {
            "kv_cache": kv_cache(subject.config, workload, dtype, subject.skeleton.transformers),
            "training": trained[key],
            "forward": forward(subject, kind, workload),
        }
    return uses


def forward(subject: Subject, kind: Quantization, workload: Workload) -> int:
    """Bytes that computing takes at its peak while a whole prompt is read, beside weights and KV cache.

    By reading the code, not measured: of a prompt bitsandbytes 0.50.2 decodes a 4-bit weight as a whole
    (``gemm_4bit``, from some dozens to 1536 tokens on, as the GPU is), and has the product with an int8 one in int32
    (``int8_linear_matmul``); beside that there are the inputs and outputs of the widest layer and what is added up, and
    the logits of the last token in float32.
    """
    dtype = SIZES[subject.dtypes[kind]]
    tokens = workload.context * workload.batch
    linears = [one for one in subject.skeleton.parameters if one.kind in ("linear", "expert") and len(one.shape) > 1]
    largest = max((one.elements for one in linears if one.converted), default=0)
    widest = max((max(one.shape[-2:]) for one in linears), default=0)
    narrow = max((min(one.shape[-2:]) for one in linears), default=0)
    decoded = 0 if kind == "none" else 4 * tokens * widest if kind == "int8" else largest * dtype
    vocabulary = max(
        (one.shape[0] for one in subject.skeleton.parameters if one.kind == "embedding" and one.shape), default=0
    )
    return decoded + tokens * (2 * widest + 4 * narrow) * dtype + 4 * workload.batch * vocabulary
