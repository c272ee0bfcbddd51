"""The document of ``bnbenv fit``: what was asked, the answer, and all that it rests on. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec

from bnbenv.matrix.huggingface import api_for
from bnbenv.models.devices import Devices, room
from bnbenv.models.dtype import loading_dtype
from bnbenv.models.fitting import Fit, Way, beside_on, judge, max_memory, offload, overhead
from bnbenv.models.layout import weights
from bnbenv.models.model import (
    FLOATS,
    QUANTIZATIONS,
    TORCH_NAMES,
    Checkpoint,
    Config,
    Parameter,
    Quantization,
    Setting,
    Skeleton,
    Workload,
)
from bnbenv.models.notes import Situation, notes
from bnbenv.models.options import Question
from bnbenv.models.placing import Block, blocks
from bnbenv.models.settings import Subject, for_workload, settings
from bnbenv.progress import shown_size

SCHEMA = "bnbenv.fit/1"
DEFAULT: Quantization = "nf4-double"
_NAMES = {short: name for name, short in TORCH_NAMES.items()}


class Asked(msgspec.Struct, frozen=True):
    """What the user wants to know. ``dtype`` is a safetensors name; ``of`` says where the release was found."""

    quantization: Quantization | None
    train: bool
    workload: Workload
    dtype: str | None
    transformers: str | None
    of: str


def method(config: Config) -> str | None:
    """How a checkpoint is quantized already (``gptq``); None: it is not."""
    if config.quantization is None:
        return None
    return str(config.quantization.get("quant_method") or ("bitsandbytes" if _own(config) else "an unknown method"))


def own(config: Config) -> Quantization | None:
    """The quantization of a checkpoint that is in bitsandbytes' own form."""
    return _own(config) if method(config) == "bitsandbytes" else None


def _own(config: Config) -> Quantization | None:
    fields = config.quantization or {}
    if fields.get("load_in_8bit") or fields.get("_load_in_8bit"):
        return "int8"
    if not (fields.get("load_in_4bit") or fields.get("_load_in_4bit")):
        return None
    double = bool(fields.get("bnb_4bit_use_double_quant"))
    if fields.get("bnb_4bit_quant_type") == "nf4":
        return "nf4-double" if double else "nf4"
    return "fp4-double" if double else "fp4"


def as_stored(checkpoint: Checkpoint, transformers: str | None) -> Skeleton:
    """A checkpoint in bitsandbytes' own form whose architecture has no row: its tensors as they lie in its files."""
    parameters = tuple(
        Parameter(one.name, one.shape, "other", dtype=one.dtype, stored=one.bytes) for one in checkpoint.tensors or ()
    )
    return Skeleton(parameters, api_for(transformers).version, "its tensors as they are stored", known=False)


def keeps_layers(skeleton: Skeleton) -> bool:
    """Whether experts, or all layers, stay as they are, which an older transformers may quantize."""
    kept = any(one.kind == "expert" and not one.converted for one in skeleton.parameters)
    return kept or not any(one.converted for one in skeleton.parameters)


def document(
    checkpoint: Checkpoint, skeleton: Skeleton, devices: Devices, asked: Asked, older: Skeleton | None = None
) -> dict[str, Any]:
    """What ``bnbenv fit --json`` prints. ``older`` is what the last transformers 4 makes of a model with experts."""
    subject = _subject(checkpoint, skeleton, devices, asked)

    @cache
    def blocks_of(name: Quantization) -> tuple[Block, ...]:
        return blocks(skeleton, name, subject.dtypes[name])

    question = Question(subject.own or asked.quantization or DEFAULT, asked.train)
    known = settings(subject, asked.workload)
    fit = judge(
        question, known, asked.workload, devices, blocks_of, lambda some, other: for_workload(subject, some, other)
    )
    setting = next(one for one in known if one.quantization == question.quantization)
    spared = None
    if fit.way.answer == "does-not-fit" and not asked.train and subject.own is None:
        spared = offload(setting, devices, blocks_of(question.quantization), blocks_of("none"))
    name = question.quantization
    less = None if older is None else weights(older, name, asked.dtype or subject.dtypes[name]).total
    situation = Situation(
        checkpoint, subject, asked.workload, setting, known, fit.way, devices, asked.train, spared, less
    )
    return {
        "schema": SCHEMA,
        "model": _model(checkpoint, skeleton),
        "answer": fit.way.answer,
        "asked": _asked(question, asked, subject.dtypes[question.quantization]),
        "settings": [_setting(one, fit, devices) for one in known],
        **_devices(devices),
        "use": _use(setting, fit.way, asked.train, devices, blocks_of),
        "missing_bytes": fit.way.missing,
        "options": [{"change": one.change, "arguments": list(one.arguments)} for one in fit.options],
        "basis": {
            "architecture": skeleton.basis,
            "known": skeleton.known,
            "transformers": skeleton.transformers,
            "of": asked.of,
        },
        "notes": notes(situation),
    }


def quantized_already(
    checkpoint: Checkpoint, devices: Devices, workload: Workload, transformers: str | None, of: str
) -> dict[str, Any]:
    """The document of a checkpoint that another method quantized: bitsandbytes can convert nothing in it."""
    what = method(checkpoint.config) or ""
    size = sum(tensor.bytes for tensor in checkpoint.tensors or ()) or checkpoint.bytes
    remarks = [
        f"it is quantized with {what} already, in which bitsandbytes converts nothing: load it with its own method,"
        " or take the model's checkpoint of full precision"
    ]
    places = devices.gpus or (devices.cpu,)
    largest = max(room(one) - overhead(one) for one in places)
    if size:
        fits = "less" if size <= largest else "more"
        remarks.append(f"its tensors take {shown_size(size)} as they are stored, {fits} than one device here has free")
    return {
        "schema": SCHEMA,
        "model": _model(checkpoint, None),
        "answer": "quantized-already",
        "asked": {
            **{"quantization": None, "train": False, "dtype": None, "context": workload.context},
            **{"batch": workload.batch, "rank": workload.rank, "target_modules": None},
            **{"optimizer": workload.optimizer, "checkpointing": workload.checkpointing},
        },
        "settings": [],
        **_devices(devices),
        "use": None,
        "missing_bytes": 0,
        "options": [],
        "basis": {"architecture": None, "known": True, "transformers": transformers, "of": of},
        "notes": remarks + list(devices.notes),
    }


def _subject(checkpoint: Checkpoint, skeleton: Skeleton, devices: Devices, asked: Asked) -> Subject:
    config = checkpoint.config
    floats = [tensor for tensor in checkpoint.tensors or () if tensor.dtype in FLOATS]
    dtypes: dict[Quantization, str] = {
        name: asked.dtype or loading_dtype(config, asked.transformers, name != "none", floats) for name in QUANTIZATIONS
    }
    largest = max(floats, key=lambda tensor: tensor.bytes, default=None)
    stored_as = config.dtype if largest is None else largest.dtype
    already = own(config)
    return Subject(config, skeleton, dtypes, "cuda" if devices.gpus else "cpu", None if already else stored_as, already)


def _model(checkpoint: Checkpoint, skeleton: Skeleton | None) -> dict[str, Any]:
    config = checkpoint.config
    parameters = None
    if skeleton is not None and (skeleton.known or own(config) is None):  # what is packed cannot be counted
        parameters = sum(one.elements * one.count for one in skeleton.parameters if one.kind != "buffer")
    return {
        "source": checkpoint.source,
        "architecture": config.architecture,
        "model_type": config.model_type,
        "parameters": parameters,
        "checkpoint_bytes": checkpoint.bytes if checkpoint.tensors is not None else None,
        "quantized": method(config),
    }


def _asked(question: Question, asked: Asked, dtype: str) -> dict[str, Any]:
    workload = asked.workload
    return {
        "quantization": question.quantization,
        "train": question.train,
        "dtype": _NAMES.get(dtype, dtype),
        "context": workload.context,
        "batch": workload.batch,
        "rank": workload.rank,
        "target_modules": None if workload.targets is None else list(workload.targets),
        "optimizer": workload.optimizer,
        "checkpointing": workload.checkpointing,
    }


def _setting(setting: Setting, fit: Fit, devices: Devices) -> dict[str, Any]:
    use, train = fit.ways[setting.quantization]
    return {
        "quantization": setting.quantization,
        "weight_bytes": setting.weights.total,
        "parts": dict(setting.weights.parts),
        "load_peak_bytes": setting.load_peak,
        "prequantized_peak_bytes": setting.prequantized_peak,
        "kv_cache_bytes": setting.kv_cache,
        "forward_bytes": setting.forward,
        "training_bytes": setting.training.total,
        "training": {**msgspec.structs.asdict(setting.training), "total": setting.training.total},
        "fits": use.answer != "does-not-fit",
        "fits_training": train.answer != "does-not-fit",
        "how": _how(use, devices),
        "how_training": _how(train, devices),
    }


def _how(way: Way, devices: Devices) -> dict[str, Any]:
    return {"answer": way.answer, "gpus": [devices.gpus[at].index for at in way.gpus], "missing_bytes": way.missing}


def _devices(devices: Devices) -> dict[str, Any]:
    return {
        "gpus": [
            {
                **{"index": gpu.index, "free": gpu.free, "total": gpu.total, "name": gpu.name, "uuid": gpu.uuid},
                "usable": room(gpu),
            }
            for gpu in devices.gpus
        ],
        "cpu": {"free": devices.cpu.free, "total": devices.cpu.total, "name": devices.cpu.name},
        "no_gpu": devices.missing,
        "recorded": devices.recorded,
    }


def _use(
    setting: Setting, way: Way, train: bool, devices: Devices, parts: Callable[[Quantization], tuple[Block, ...]]
) -> dict[str, Any]:
    """How it is to be loaded, and what of the weights goes on which device."""
    limits = max_memory(setting, train, devices) if way.device_map is not None else {}
    if way.device_map is None:
        shares: list[tuple[int | None, int]] = [(_shown(way, devices), setting.weights.total)]
    else:
        sizes = {part.name: part.bytes for part in parts(setting.quantization)}
        shares = [(at, sum(sizes[name] for name, on in way.device_map.items() if on == at)) for at in way.gpus]
    return {
        "prequantized": way.prequantized,
        "device_map": way.device_map,
        "max_memory": {str(at): size for at, size in limits.items()} or None,
        "devices": [
            {
                **{"torch": at, "index": None if at is None else devices.gpus[at].index, "weight_bytes": size},
                "overhead_bytes": overhead(devices.cpu if at is None else devices.gpus[at]),
                "beside_bytes": beside_on(setting, train, size / max(1, setting.weights.total)),
            }
            for at, size in shares
        ],
    }


def _shown(way: Way, devices: Devices) -> int | None:
    """The position of the GPU that it fits on, or nearly does; None is the CPU."""
    if way.gpus or not devices.gpus:
        return way.gpus[0] if way.gpus else None
    return max(range(len(devices.gpus)), key=lambda at: room(devices.gpus[at]))
