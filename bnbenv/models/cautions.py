"""What has to be known beside the code that loads a model. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from bnbenv.models.advice import Advice, Situation
from bnbenv.models.compute import AMPERE, OVERFLOWS, SUSPECTED
from bnbenv.models.devices import room
from bnbenv.models.fitting import LEFT, in_use, overhead
from bnbenv.models.layout import BLOCK, held
from bnbenv.models.model import Device, Setting, Skeleton
from bnbenv.progress import shown_size

# The first bitsandbytes that transformers believes to work on a CPU: the first whose ``features`` name multi_backend.
ON_CPUS = "0.46.0"


class Caution(msgspec.Struct, frozen=True):
    """A sentence, and who says so."""

    because: str
    source: str


class Installed(msgspec.Struct, frozen=True):
    """What is installed where the model is to be loaded; ``of`` says where that is."""

    of: str
    bitsandbytes: str | None
    accelerate: str | None
    peft: str | None
    there: bool = True


def cautions(
    s: Situation, advice: Advice, installed: Installed, skeleton: Skeleton | None, plain: Setting | None
) -> tuple[Caution, ...]:
    """In the order of how much they matter. ``plain`` are the bytes of the model without quantization."""
    found = (
        *_packages(s, installed),
        *_already(s),
        *_overflow(s, advice),
        *_mixed(s, advice),
        *_sliced(s),
        *_experts(s, skeleton),
        *_ragged(s, skeleton),
        *_room(s, plain),
        *_training(s),
        *_purpose(s),
        *_remote(s),
        *(Caution(note, "NVML") for note in s.devices.notes),
    )
    return tuple(found)


def _packages(s: Situation, installed: Installed) -> Iterator[Caution]:
    source = f"transformers {s.api.version}, is_bitsandbytes_available"
    if s.transformers is None:
        yield Caution(
            f"no environment with transformers was found: the names are those of {s.api.version}. Name one with --env "
            "or --python",
            "the environment's packages",
        )
    if not installed.there:
        return
    on_cpu = not s.devices.gpus and s.quantization != "none" and _older(s.api.bitsandbytes or "0", ON_CPUS)
    for name, have, least in (
        ("bitsandbytes", installed.bitsandbytes, ON_CPUS if on_cpu else s.api.bitsandbytes),
        ("accelerate", installed.accelerate, s.api.accelerate),
    ):
        if have is None:
            yield Caution(f"{name} is missing in {installed.of}: this code needs it", "the environment's packages")
        elif least and _older(have, least):
            where = " on a CPU" if on_cpu and name == "bitsandbytes" else ""
            asks = f"transformers {s.api.version} asks for {name} {least} or newer{where}; here is {have}"
            yield Caution(asks, source)
    if s.train and installed.peft is None:
        yield Caution(f"peft is missing in {installed.of}: training adapters needs it", "the environment's packages")


def _older(one: str, other: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(one) < Version(other)
    except InvalidVersion:
        return False


def _already(s: Situation) -> Iterator[Caution]:
    if s.method is None:
        return
    source = "quantization_config in config.json"
    if s.method != "bitsandbytes":
        yield Caution(
            f"this checkpoint is quantized with {s.method} already: bitsandbytes converts nothing in it, and "
            "transformers loads it with the package of that method",
            source,
        )
        if s.method in ("gptq", "awq"):
            yield Caution(f"an environment for it, apart from bitsandbytes: bnbenv add {s.method}", source)
        return
    yield Caution(
        "this checkpoint is in bitsandbytes' own form already: from_pretrained takes its BitsAndBytesConfig from "
        "config.json, and another one would be ignored",
        source,
    )
    compute = (s.config.quantization or {}).get("bnb_4bit_compute_dtype")
    old = [gpu for gpu in s.devices.gpus if gpu.compute_capability and float(gpu.compute_capability) < AMPERE]
    if compute == "bfloat16" and old:
        yield Caution(
            f"it computes in bfloat16, which {old[0].name} (compute capability {old[0].compute_capability}) has not: "
            'that works and is slow; "bnb_4bit_compute_dtype" in its config.json decides',
            source,
        )


def _overflow(s: Situation, advice: Advice) -> Iterator[Caution]:
    kind = s.config.model_type or ""
    if s.method is not None or advice.dtype != "float16" or s.config.dtype != "BF16":
        return
    source = SUSPECTED.get(kind) or OVERFLOWS.get(kind) or "config.json: the checkpoint is bfloat16"
    seen = f"; others saw it with {kind}" if kind in SUSPECTED else ""
    yield Caution(
        "this model was trained in bfloat16, and float16 ends at 65504: its activations may overflow"
        f"{seen}. If it prints nothing, one sign over and over, or the loss is nan, write torch.float32 for both: "
        "right, and slow",
        source,
    )


def _mixed(s: Situation, advice: Advice) -> Iterator[Caution]:
    """Old GPUs beside new ones decide for all of them."""
    known = [(at, float(gpu.compute_capability or 0)) for at, gpu in enumerate(s.devices.gpus)]
    new = [str(at) for at, capability in known if capability >= AMPERE]
    if advice.dtype == "bfloat16" or s.method is not None or not new:
        return
    yield Caution(
        f"the oldest GPU decides: with CUDA_VISIBLE_DEVICES={','.join(new)} alone it would be bfloat16",
        "CUDA_VISIBLE_DEVICES, which bnbenv config reads",
    )


def _sliced(s: Situation) -> Iterator[Caution]:
    gpu = s.devices.gpus[0] if s.devices.gpus else None
    if gpu is not None and (gpu.uuid or "").startswith("MIG-"):
        yield Caution(
            f"a process sees one MIG slice: CUDA_VISIBLE_DEVICES={gpu.uuid} makes it this one",
            "NVIDIA's MIG user guide, CUDA_VISIBLE_DEVICES",
        )


def _experts(s: Situation, skeleton: Skeleton | None) -> Iterator[Caution]:
    if skeleton is None or s.method is not None or s.quantization == "none":
        return
    if not any(one.converted for one in skeleton.parameters):
        yield Caution(
            f"nothing of this model is quantized: transformers {skeleton.transformers} gives bitsandbytes plain linear "
            "layers only, and it has none",
            skeleton.basis,
        )
        return
    left = [one for one in skeleton.parameters if one.kind == "expert" and not one.converted]
    if not left or s.setting is None:
        return
    size = shown_size(sum(one.count * held(one, "none", s.taken) for one in left))
    yield Caution(
        f"transformers {skeleton.transformers} keeps the experts of this model as they are, in 16 bit: {size} of "
        f"{shown_size(s.setting.weights.total)} are not quantized, since they are no linear layers there",
        skeleton.basis,
    )


def _ragged(s: Situation, skeleton: Skeleton | None) -> Iterator[Caution]:
    if skeleton is None or s.devices.gpus or not s.cpu_bf16 or s.quantization in ("none", "int8"):
        return
    names = [one.name for one in skeleton.parameters if one.converted and len(one.shape) > 1 and one.shape[-1] % BLOCK]
    modules = dict.fromkeys(name.removesuffix(".weight").rpartition(".")[2] for name in names)
    if modules:
        yield Caution(
            f"on this CPU the rows of a 4-bit layer have to be a multiple of {BLOCK}, or its first use fails "
            f'("shape is invalid"): --skip-modules {",".join(modules)}',
            "bitsandbytes 0.50.2, _convert_weight_packed_for_cpu",
        )


def _room(s: Situation, plain: Setting | None) -> Iterator[Caution]:
    if s.setting is None or s.fsdp:
        return
    devices = s.devices.gpus or (s.devices.cpu,)
    source = "bnbenv fit"
    if s.quantization != "none" and s.method is None and plain is not None and not s.train and _fits(plain, devices):
        where = "one GPU" if s.devices.gpus else "main memory"
        yield Caution(
            f"without quantization it takes {shown_size(in_use(plain, False))} and fits into {where} too: nothing is "
            "rounded then, and bitsandbytes is not needed (--quant none)",
            source,
        )
    need = in_use(s.setting, s.train)
    if s.train and not _fits(s.setting, devices, s.train):
        yield Caution(
            f"training takes {shown_size(need)}, more than one device here has room for: --fsdp shards it over "
            "several, and bnbenv fit --train says what else would help",
            source,
        )
    elif not s.train and _lacks(s, s.setting):
        yield Caution(
            f"it takes {shown_size(need)}, more than there is room for: bnbenv fit says what would fit", source
        )


def _lacks(s: Situation, setting: Setting) -> bool:
    """Whether it is more than ``max_memory`` allows, or without a GPU more than there is; statistics do not count."""
    if not s.devices.gpus:
        return in_use(setting, False) + overhead(s.devices.cpu) > room(s.devices.cpu)
    counted = setting.weights.total - setting.weights.parts.get("statistics", 0)
    left = 1 if s.quantization == "none" else LEFT
    return s.memory is not None and counted > sum(s.memory.values()) * left


def _fits(setting: Setting, devices: tuple[Device, ...], train: bool = False) -> bool:
    need = max(setting.load_peak, in_use(setting, train))
    return any(need + overhead(one) <= room(one) for one in devices)


def _training(s: Situation) -> Iterator[Caution]:
    if not s.train:
        return
    if s.fsdp:
        yield Caution(
            "no device_map and no prepare_model_for_kbit_training: FSDP places the weights, and all that it shards has "
            "to be of one type. Gradient checkpointing is fsdp_activation_checkpointing of accelerate's configuration",
            "huggingface/trl pull request 1416",
        )
        yield Caution(
            "FSDP of version 1 is meant: with version 2 4-bit weights lost their scales when that was last reported",
            "huggingface/accelerate issue 3874",
        )
    elif not s.devices.gpus and s.cpu_bf16 and s.quantization not in ("none", "int8"):
        yield Caution(
            "train before you evaluate: on a CPU with AVX-512 BF16, once a 4-bit layer ran in eval mode no gradient "
            "comes through it any more (measured with bitsandbytes 0.50.2)",
            "bitsandbytes 0.50.2, Linear4bit.forward: packing_format_for_cpu",
        )


def _purpose(s: Situation) -> Iterator[Caution]:
    if s.quantization == "int8" and s.method is None and s.devices.gpus and s.taken != "F16":
        yield Caution(
            'its log line "inputs will be cast from torch.bfloat16 to float16 during quantization" is harmless',
            "bitsandbytes 0.50.2, MatMul8bitLt",
        )
    if not s.train and s.method in (None, "bitsandbytes") and s.quantization != "none":
        yield Caution(
            "for serving only, runtimes such as vLLM, llama.cpp and ExLlama have faster quantizations of their own; "
            "bitsandbytes' place is QLoRA training and loading a model quickly without preparing it",
            "bitsandbytes' documentation",
        )


def _remote(s: Situation) -> Iterator[Caution]:
    if s.config.remote_code and not s.remote_code:
        yield Caution(
            "this checkpoint brings code of its own, which is not run: where transformers has no class for it, loading "
            "stops and says so. Read the code, then ask with --trust-remote-code",
            "auto_map in config.json",
        )
