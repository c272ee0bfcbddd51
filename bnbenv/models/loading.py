"""The document of ``bnbenv config``: the code, what was chosen, and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from bnbenv.errors import UsageError
from bnbenv.matrix.huggingface import api_for
from bnbenv.matrix.model import TransformersApi
from bnbenv.models import report
from bnbenv.models.advice import OUTPUTS, Advice, Situation, advise
from bnbenv.models.cautions import Installed, cautions
from bnbenv.models.compute import compute_type
from bnbenv.models.devices import Devices, room
from bnbenv.models.dtype import loading_dtype
from bnbenv.models.fitting import CUDA_CONTEXT, LEFT, in_use, max_memory, overhead, splittable
from bnbenv.models.loadcode import code
from bnbenv.models.model import (
    FLOATS,
    QUANTIZATIONS,
    TORCH_NAMES,
    Checkpoint,
    Quantization,
    Setting,
    Skeleton,
    Workload,
)
from bnbenv.models.settings import Subject, settings
from bnbenv.progress import shown_size

SCHEMA = "bnbenv.config/1"
WORDS: Mapping[Quantization, str] = {
    **{"none": "without quantization", "int8": "in 8 bit (LLM.int8)"},
    **{"nf4": "in 4 bit (NF4)", "nf4-double": "in 4 bit (NF4, double quantization)"},
    **{"fp4": "in 4 bit (FP4)", "fp4-double": "in 4 bit (FP4, double quantization)"},
}


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for; ``source`` is what from_pretrained is to be given: an absolute path, or a name."""

    source: str
    quantization: Quantization | None = None
    train: bool = False
    fsdp: bool = False
    context: int = 4096
    skip: tuple[str, ...] = ()
    remote_code: bool = False
    revision: str | None = None
    cpu_bf16: bool = False


def document(
    checkpoint: Checkpoint,
    skeleton: Skeleton | None,
    devices: Devices,
    wanted: Wanted,
    transformers: str | None,
    installed: Installed,
) -> dict[str, Any]:
    """What ``bnbenv config --json`` prints. Raises UsageError for what cannot be had together."""
    api = api_for(transformers)
    refuse(checkpoint, devices, wanted, api)
    situation = _situation(checkpoint, devices, wanted, transformers, api, installed)
    if skeleton is not None:
        situation = _counted(situation, skeleton, wanted)
    advice = advise(situation)
    plain = None if skeleton is None else _setting(situation, skeleton, wanted, "none")
    found = cautions(situation, advice, installed, skeleton, plain)
    notes = [{"because": one.because, "source": one.source} for one in found]
    head = [*_head(situation, installed), *(f"Note: {one.because}." for one in found)]
    return {
        "schema": SCHEMA,
        "model": wanted.source,
        "code": code(wanted.source, advice, head),
        "settings": _chosen(situation, advice, wanted),
        "reasons": [msgspec.structs.asdict(line) for line in advice.lines()],
        "notes": notes,
        "transformers": {"version": transformers, "measured": api.version, "of": installed.of},
        "gpus": [
            {"index": at, "name": gpu.name, "compute_capability": gpu.compute_capability, "free": gpu.free}
            for at, gpu in enumerate(situation.devices.gpus)
        ],
    }


def refuse(checkpoint: Checkpoint, devices: Devices, wanted: Wanted, api: TransformersApi) -> None:
    """Raises UsageError."""
    method = report.method(checkpoint.config)
    if method is not None and wanted.quantization is not None:
        message = f"{checkpoint.source} is quantized already ({method}): --quant can choose nothing any more"
        step = "Leave --quant out, or take the model's checkpoint of full precision."
        raise UsageError("quantized-already", message, step)
    if not devices.gpus and not api.cpu and wanted.quantization != "none":
        message = f"transformers {api.version} quantizes on a GPU only, and none can be used here"
        step = "Take transformers 4.51 or newer, or give the facts of the machine with the GPU: --facts FILE"
        raise UsageError("no-gpu", message, step)
    if wanted.fsdp:
        _refuse_fsdp(checkpoint, devices, wanted, api, method)


def _refuse_fsdp(
    checkpoint: Checkpoint, devices: Devices, wanted: Wanted, api: TransformersApi, method: str | None
) -> None:
    because, step = "", "Leave --fsdp out."
    if not devices.gpus:
        because = f"no GPU can be used here: {devices.missing}"
        step = "Give the facts of the machine with the GPUs: --facts FILE"
    elif "bnb_4bit_quant_storage" not in api.parameters:
        because = f"transformers {api.version} has no bnb_4bit_quant_storage, without which FSDP cannot shard 4 bit"
        step = "Take transformers 4.39 or newer."
    elif wanted.quantization == "int8":
        because, step = "FSDP shards floating types only, and LLM.int8's are integers", "Take --quant nf4-double."
    elif method is not None:
        stored = (checkpoint.config.quantization or {}).get("bnb_4bit_quant_storage", "uint8")
        if method != "bitsandbytes" or str(stored).endswith("int8"):
            because = f"the checkpoint is quantized already ({method}) and stored as integers, which FSDP cannot shard"
            step = "Take the model's checkpoint of full precision."
    if because:
        raise UsageError("no-fsdp", f"--fsdp cannot be had: {because}", step)


def _situation(
    checkpoint: Checkpoint,
    devices: Devices,
    wanted: Wanted,
    transformers: str | None,
    api: TransformersApi,
    installed: Installed,
) -> Situation:
    config = checkpoint.config
    floats = [tensor for tensor in checkpoint.tensors or () if tensor.dtype in FLOATS]
    largest = max(floats, key=lambda tensor: tensor.bytes, default=None)
    quantization = report.own(config) or wanted.quantization or report.DEFAULT
    method = report.method(config)
    return Situation(
        config=config,
        stored=(config.dtype or "F32") if largest is None else largest.dtype,
        taken=loading_dtype(config, transformers, quantization != "none", floats),
        api=api,
        transformers=transformers,
        bitsandbytes=installed.bitsandbytes,
        devices=devices,
        cpu_bf16=wanted.cpu_bf16,
        quantization=quantization if method in (None, "bitsandbytes") else "none",
        method=method,
        train=wanted.train,
        fsdp=wanted.fsdp,
        skip=wanted.skip,
        remote_code=wanted.remote_code,
        revision=wanted.revision,
        memory=_limits(None, devices) or None,
    )


def skipped(skeleton: Skeleton, names: tuple[str, ...]) -> tuple[str, ...]:
    """The list that takes the place of transformers' own: the output layer, and what the user named."""
    return tuple(dict.fromkeys((*(_outputs(skeleton) or OUTPUTS), *names)))


def _outputs(skeleton: Skeleton) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.name.removesuffix(".weight") for one in skeleton.parameters if one.kind == "output"))


def _counted(s: Situation, skeleton: Skeleton, wanted: Wanted) -> Situation:
    """With the bytes of the model, and what follows from them."""
    replaced = msgspec.structs.replace(s, outputs=_outputs(skeleton) or s.outputs)
    if s.method not in (None, "bitsandbytes"):
        return replaced
    setting = _setting(s, skeleton, wanted, s.quantization)
    s = msgspec.structs.replace(s, devices=_one_process(s.devices, setting, s.train))
    replaced = msgspec.structs.replace(replaced, devices=s.devices)
    memory, alone = _memory(setting, s.devices, s.quantization != "none")
    tight = not any(
        in_use(setting, True) + overhead(gpu) <= room(gpu) * LEFT and setting.load_peak + overhead(gpu) <= room(gpu)
        for gpu in s.devices.gpus
    )
    return msgspec.structs.replace(replaced, setting=setting, memory=memory, alone=alone, tight=tight)


def _one_process(devices: Devices, setting: Setting, train: bool) -> Devices:
    """Where a MIG slice is to be taken, that one alone: a process sees no other device, and torch calls it 0."""
    need = max(setting.load_peak, in_use(setting, train))
    fits = [gpu for gpu in devices.gpus if need + overhead(gpu) <= room(gpu)]
    one = fits[0] if fits else max(devices.gpus, key=room, default=None)
    whole = [devices.gpus[at] for at in splittable(devices)]
    return devices if one is None or one in whole else msgspec.structs.replace(devices, gpus=(one,))


def _setting(s: Situation, skeleton: Skeleton, wanted: Wanted, kind: Quantization) -> Setting:
    dtype = TORCH_NAMES[compute_type(s.config, s.devices, s.cpu_bf16).name]
    own = report.own(s.config)
    device: Literal["cuda", "cpu"] = "cuda" if s.devices.gpus else "cpu"
    subject = Subject(s.config, skeleton, dict.fromkeys(QUANTIZATIONS, dtype), device, s.stored, own)
    known = settings(subject, Workload(context=wanted.context))
    return next((one for one in known if one.quantization == kind), known[0])


def _memory(setting: Setting, devices: Devices, quantized: bool) -> tuple[dict[int, int] | None, int]:
    """What each GPU may be given, of one that the model fits on that one alone; else the GPU that takes all of it."""
    limits = _limits(setting, devices)
    for at in sorted(limits, key=lambda at: -limits[at]):
        if setting.weights.total <= limits[at] * (LEFT if quantized else 1):
            return {at: limits[at]}, at
    for at, gpu in enumerate(devices.gpus):
        if max(setting.load_peak, in_use(setting, False)) + overhead(gpu) <= room(gpu):
            return None, at
    return limits or None, 0


def _limits(setting: Setting | None, devices: Devices) -> dict[int, int]:
    usable = splittable(devices) or [at for at, _ in enumerate(devices.gpus)][:1]
    if setting is None:
        found = {at: round(room(devices.gpus[at]) * LEFT) - CUDA_CONTEXT for at in usable}
    else:
        found = {at: size for at, size in max_memory(setting, False, devices).items() if at in usable}
    return {at: size for at, size in found.items() if size > 0}


def _head(s: Situation, installed: Installed) -> list[str]:
    how = WORDS[s.quantization] if s.method in (None, "bitsandbytes") else f"as it is ({s.method})"
    use = "to train adapters with FSDP" if s.fsdp else "to train adapters" if s.train else "for inference"
    with_it = f" and bitsandbytes {s.bitsandbytes}" if s.bitsandbytes else ""
    release = s.transformers or s.api.version
    found = [f"A model {how}, {use}, with transformers {release}{with_it} ({installed.of})."]
    found += _gpus(s.devices)
    if not s.devices.gpus:
        found.append("On the CPU.")
    if s.setting is not None:
        found.append(f"Its weights take {shown_size(s.setting.weights.total)} (bnbenv fit says more).")
    return found


def _gpus(devices: Devices) -> list[str]:
    """A sentence for each kind."""
    kinds: dict[str, list[str]] = {}
    for at, gpu in enumerate(devices.gpus):
        free = "" if gpu.free is None else f", {shown_size(gpu.free)} free"
        kind = f"{gpu.name}, compute capability {gpu.compute_capability or 'unknown'}{free}"
        kinds.setdefault(kind, []).append(str(at))
    return [f"GPU {', '.join(numbers)}: {kind}." for kind, numbers in kinds.items()]


def _chosen(s: Situation, advice: Advice, wanted: Wanted) -> dict[str, Any]:
    placed = next((one.line for one in advice.loading if one.line.startswith("device_map=")), None)
    inference = bool(s.devices.gpus) and not s.train
    return {
        "quantization": s.quantization if s.method in (None, "bitsandbytes") else None,
        "quantized_already": s.method,
        "purpose": "train" if s.train else "inference",
        "fsdp": s.fsdp,
        "loader": advice.loader,
        "dtype": advice.dtype,
        "compute_dtype": advice.compute,
        "quant_storage": advice.storage,
        "device_map": None if placed is None else placed.partition("=")[2],
        "max_memory": {str(at): size for at, size in s.memory.items()} if inference and s.memory else None,
        "skip_modules": [*dict.fromkeys((*s.outputs, *s.skip))] if s.skip else None,
        "optimizer": advice.optimizer,
        "context": wanted.context,
    }
