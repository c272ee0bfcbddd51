"""The type that a model is to be computed in, by the GPUs and by what others saw of its family."""

from __future__ import annotations

import msgspec

from bnbenv.models.devices import Devices
from bnbenv.models.model import Config
from bnbenv.paths import Sysroot

PROGRAMMING_GUIDE = "NVIDIA, CUDA C++ Programming Guide, compute capabilities"
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})  # as /proc/cpuinfo calls them
AMPERE = 8.0  # the first compute capability with bfloat16

# Families whose activations leave the range of float16 (65504), with who saw it. T5 is none of them any more:
# transformers keeps its "wo" in float32 (_keep_in_fp32_modules).
OVERFLOWS = {
    "gemma3": "huggingface/transformers issue 36822",
    "gemma3_text": "huggingface/transformers issue 36822",
}
# Families with which others saw nan in float16, on some machines or sizes.
SUSPECTED = {
    "qwen2": "QwenLM/Qwen3 issue 826",
    "qwen2_vl": "huggingface/transformers issue 33294",
    "deepseek_v2": "deepseek-ai/DeepSeek-V2 issue 93",
    "gemma3n": "unslothai/unsloth pull request 5055",
    "gemma3n_text": "unslothai/unsloth pull request 5055",
    "gemma4": "unslothai/unsloth pull request 6865",
    "gemma4_text": "unslothai/unsloth pull request 6865",
    "qwen3_moe": "unslothai/unsloth pull request 6865",
    "glm4_moe": "unslothai/unsloth pull request 6865",
    "longt5": "huggingface/transformers pull request 19229",
}


class Type(msgspec.Struct, frozen=True):
    """torch's name of a type to compute in, and why."""

    name: str
    because: str
    source: str


def compute_type(config: Config, devices: Devices, cpu_bf16: bool) -> Type:
    """bfloat16 where every GPU has it, float16 before, and float32 where float16 is known to overflow.

    ``cpu_bf16`` is ``has_bf16`` of this machine, which counts without a GPU.
    """
    gpus = devices.gpus
    if not gpus:
        return _on_cpu(cpu_bf16)
    known = [float(gpu.compute_capability) for gpu in gpus if gpu.compute_capability]
    if len(known) < len(gpus):
        because = "the compute capability of a GPU here is not known, and float16 runs on all of them"
        return Type("float16", because, PROGRAMMING_GUIDE)
    if min(known) >= AMPERE:
        every = "this GPU has" if len(gpus) == 1 else "every GPU here has"
        because = (
            f"{every} bfloat16 (compute capability {min(known)}; it begins at 8.0): float32's range in 16 bits, "
            "so that nothing overflows"
        )
        return Type("bfloat16", because, PROGRAMMING_GUIDE)
    oldest = min(gpus, key=lambda gpu: float(gpu.compute_capability or 0))
    kind = config.model_type or ""
    if kind in OVERFLOWS:
        because = (
            f"{oldest.name} (compute capability {oldest.compute_capability}) has no bfloat16, and {kind} models "
            "overflow in float16: float32 is right and slow"
        )
        return Type("float32", because, OVERFLOWS[kind])
    because = (
        f"{oldest.name} (compute capability {oldest.compute_capability}) has no bfloat16, which begins at 8.0; "
        "float16 is what it multiplies fast"
    )
    return Type("float16", because, PROGRAMMING_GUIDE)


def _on_cpu(bf16: bool) -> Type:
    """Measured with bitsandbytes 0.50.2 and torch 2.13 on two cores, one NF4 layer of 2048 x 2048.

    With AVX-512 BF16 and AMX, 256 rows: forward 29 ms in bfloat16, 44 in float32; with backward 37 and 110. The same
    CPU held to AVX2 (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA), one row, with backward: 127 and 50.
    """
    source = "measured: bitsandbytes 0.50.2, torch 2.13, a 2048 x 2048 layer in NF4"
    if bf16:
        return Type(
            "bfloat16", "this CPU multiplies bfloat16 by itself, faster than float32, in half the memory", source
        )
    return Type("float32", "this CPU has no instructions for 16-bit numbers: float32 is the fastest there", source)


def has_bf16(sysroot: Sysroot) -> bool:
    """Whether this CPU multiplies bfloat16 by itself; where /proc/cpuinfo does not tell, no."""
    text = sysroot.read("/proc/cpuinfo", 1 << 14) or ""
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return not BF16_FLAGS.isdisjoint(flags.split())
