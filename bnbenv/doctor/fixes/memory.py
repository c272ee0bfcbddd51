"""Fixes where memory is not enough: what to set while loading in 4 bits, as code for this machine's numbers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bnbenv.doctor.fixes.model import Treatment
from bnbenv.doctor.fixes.patient import Patient, told
from bnbenv.doctor.model import Cause

GIB = 1 << 30
MIB = 1 << 20
LOADING = 0.85  # of a GPU's memory for weights: the rest is for the context, activations and the cache of keys
CONVERTING = 0.7  # less, since parts of the 16-bit checkpoint lie beside what was quantized already


def memories(patient: Patient) -> dict[int, int]:
    """The memory of each GPU in bytes, by its index as a process counts them: of this machine, else of the text."""
    gpus = patient.examination.facts.gpus if patient.examination else ()
    known = {number: gpu.memory_total for number, gpu in enumerate(gpus) if gpu.memory_total}
    if known:
        return known
    return {0: patient.said.memory_total} if patient.said.memory_total else {}


def compute_dtype(patient: Patient) -> str:
    """bfloat16 from compute capability 8.0 on, float16 before: there it is only emulated. Unknown: the code asks."""
    gpus = patient.examination.facts.gpus if patient.examination else ()
    capabilities = [gpu.capability for gpu in gpus]
    said = patient.said.capability
    if not capabilities and said and said.replace(".", "", 1).isdigit():
        capabilities = [(int(said.partition(".")[0]), int(said.partition(".")[2] or 0))]
    if not capabilities:
        return "torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16"
    return "torch.float16" if min(capabilities) < (8, 0) else "torch.bfloat16"


def max_memory(totals: Mapping[int, int], share: float) -> str:
    """The argument ``max_memory`` with a share of each GPU, and room on the CPU to load through."""
    parts = []
    for index, total in totals.items():
        size = f"{int(total * share) // GIB}GiB" if total * share >= 4 * GIB else f"{int(total * share) // MIB}MiB"
        parts.append(f'{index}: "{size}"')
    return "{" + ", ".join(parts) + "}"


def loading_code(patient: Patient, share: float) -> list[str]:
    """Loading in 4 bits, to be pasted."""
    dtype, totals = compute_dtype(patient), memories(patient)
    limits = [f"    max_memory={max_memory(totals, share)},"] if totals else []
    return [
        "import torch",
        "from transformers import AutoModelForCausalLM, BitsAndBytesConfig",
        "model = AutoModelForCausalLM.from_pretrained(",
        "    MODEL,",
        '    device_map="auto",',
        *limits,
        "    quantization_config=BitsAndBytesConfig(",
        '        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,',
        f"        bnb_4bit_compute_dtype={dtype},",
        "    ),",
        ")",
    ]


def _allocator(patient: Patient) -> str:
    if patient.os == "windows":
        return "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True is not available on Windows."
    return "Against fragments: PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True (PYTORCH_ALLOC_CONF from torch 2.9 on)."


def out_of_memory(patient: Patient) -> Treatment:
    """It does not fit: first who else holds memory, then what to set."""
    wanted, total = patient.said.memory_wanted, max(memories(patient).values(), default=0)
    numbers = ""
    if wanted and total:
        numbers = f"The last {wanted / GIB:.2f} GiB did not fit into {total / GIB:.1f} GiB."
    return told(
        "Free what others hold, then load in 4 bits with limits for these GPUs (code below).",
        numbers,
        "Who holds memory: nvidia-smi --query-compute-apps=pid,used_memory --format=csv",
        _allocator(patient),
        *loading_code(patient, LOADING),
        "While training: batch size 1 with gradient accumulation, model.gradient_checkpointing_enable(), "
        'optim="paged_adamw_8bit", and shorter sequences; activations grow with their length.',
        "bnbenv run --wait-memory 20GiB -- CMD waits until that much is free.",
        command=None if patient.os == "windows" else "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    )


def in_conversion(patient: Patient) -> Treatment:
    """It would fit in 4 bits, and the way there does not: the 16-bit weights lie on the GPU before."""
    transformers = patient.package("transformers")
    version = f" (here {transformers.version})" if transformers and transformers.version else ""
    return told(
        "Load a checkpoint that is in 4 bits already, or quantize with more room (code below).",
        "A pre-quantized checkpoint (one with quantization_config in its "
        "config.json) is never held in 16 bits: quantize "
        "once on a machine with more memory, model.save_pretrained(FOLDER), and load that.",
        "Have one process load at a time: with several ranks each one loads, by default onto GPU 0; "
        'device_map={"": LOCAL_RANK} gives each its own.',
        f"transformers 5.0 before its release put weights on the GPU unquantized{version}: take a released one.",
        *loading_code(patient, CONVERTING),
        _allocator(patient),
    )


Write = Callable[[Patient], Treatment]

BY_CAUSE: Mapping[Cause, Write] = {"out_of_memory": out_of_memory, "oom_in_conversion": in_conversion}
