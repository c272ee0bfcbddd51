"""Fixes in the program that loads a model, and for failures of kernels: what to write, what to run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bnbenv.doctor.fixes.install import another_bitsandbytes
from bnbenv.doctor.fixes.memory import LOADING, compute_dtype, loading_code
from bnbenv.doctor.fixes.model import Treatment
from bnbenv.doctor.fixes.patient import Patient, told
from bnbenv.doctor.model import Cause


def device_map(patient: Patient) -> Treatment:
    """A quantized model is placed while it is loaded, and not moved after."""
    return told(
        "Place the model while it is loaded, with device_map; take .to(), .cuda() and .half() on it out (code below).",
        *loading_code(patient, LOADING),
        'For one GPU: device_map={"": 0}. For several ranks: device_map={"": LOCAL_RANK}, never "auto".',
        "Should parts have to lie on the CPU: "
        "BitsAndBytesConfig(load_in_8bit=True, llm_int8_enable_fp32_cpu_offload=True) "
        "with a device_map that names them; 4-bit weights are not offloaded.",
        "Arguments that start with an underscore (_load_in_4bit) are from "
        "a saved config of an older version: harmless.",
        "In ComfyUI and other programs: update the node or extension, then the program; they call .to() themselves.",
    )


def dtype(patient: Patient) -> Treatment:
    """Two float types meet where one is needed."""
    chosen = compute_dtype(patient)
    return told(
        f"Use one float type throughout{'' if ' ' in chosen else f', {chosen} for this GPU'} (code below).",
        f"dtype = {chosen}",
        "BitsAndBytesConfig(",
        '    load_in_4bit=True, bnb_4bit_quant_type="nf4",',
        "    bnb_4bit_compute_dtype=dtype, bnb_4bit_quant_storage=dtype,",
        ")",
        "With FSDP the storage type above has to be the type of the other "
        "weights too: that is what 'must flatten tensors "
        "with uniform dtype' says. Load with the same dtype, and save LoRA adapters in it.",
        "In float8 or 'Half and BFloat16' errors: cast the inputs to "
        "model.dtype, and set bf16=True or fp16=True to match.",
        "From compute capability 8.0 on that is bfloat16, before (T4, V100) float16.",
    )


def access(patient: Patient) -> Treatment:
    """The model's hub refuses, or has no such repository."""
    return told(
        "Log in with a token of an account that was given access to this model.",
        "HTTP 401: no token, or one that expired: hf auth login "
        "(huggingface-cli login with older versions), or set HF_TOKEN.",
        "HTTP 403: ask for access on the model's page, with the account that the token is of; then wait.",
        "A fine-grained token needs 'read access to gated repositories'. HTTP 404: is the name spelled rightly?",
        "On machines without network: load it elsewhere, then HF_HUB_OFFLINE=1 with the same HF_HOME.",
        command="hf auth login",
    )


def cublas(patient: Patient) -> Treatment:
    """cuBLAS fails: out of memory in disguise, a wrong library, or int8 on a GPU that this version has none for."""
    if patient.own or (patient.foreign and _newer(patient)):
        found = another_bitsandbytes(patient)
        return found
    return told(
        "Take a current bitsandbytes; if it fails still, run the failing "
        "step alone to see which of three causes it is.",
        "Memory: CUBLAS_STATUS_ALLOC_FAILED and NOT_INITIALIZED mostly mean that none was left. Try a batch of 1.",
        "An index out of range: CUDA_LAUNCH_BLOCKING=1 python ..., or the same step on the CPU, names the line.",
        "LLM.int8() on H100 needs bitsandbytes 0.45 or newer; 4 bits work with older ones too.",
        "Another cuBLAS is found first: env -u LD_LIBRARY_PATH python ...",
        "On AMD GPUs 'cublasLt' is hipBLASLt, which not all of them have.",
        command="bnbenv verify",
    )


def _newer(patient: Patient) -> bool:
    kept = patient.chosen.kept
    return kept is not None and kept.bitsandbytes.version != patient.bitsandbytes


def illegal_access(patient: Patient) -> Treatment:
    """A kernel read or wrote where it may not: the line that is named is mostly not the one at fault."""
    several = len(patient.examination.facts.gpus) > 1 if patient.examination else True
    return told(
        "Run it with CUDA_LAUNCH_BLOCKING=1: only then does the traceback name the call that failed.",
        "Do the kernels themselves work here? bnbenv verify",
        "With several GPUs: tensors of one model on two devices without device_map do this; try CUDA_VISIBLE_DEVICES=0."
        if several
        else "",
        "bitsandbytes before 0.43 has known faults of this kind on several GPUs: take a current one.",
        "If it comes at random, on one card only: sudo dmesg | grep -i xid "
        "(31 is the program, 48, 63, 79, 94, 95 the card).",
        command="CUDA_LAUNCH_BLOCKING=1 python SCRIPT",
    )


def no_space(patient: Patient) -> Treatment:
    """The disk is full."""
    return told(
        "Free space: uv's and pip's caches and the models' cache are the largest in most homes.",
        "uv cache prune; python -m pip cache purge; bnbenv gc",
        "Models: hf cache ls names them, hf cache rm deletes; HF_HOME moves them to another disk.",
        "/dev/shm in a container: docker run --shm-size 8g",
        command="df -h . ~ /tmp /dev/shm",
    )


def nccl(patient: Patient) -> Treatment:
    """Ranks do not find each other."""
    return told(
        "Start it again; if it stays, have NCCL say what it does: NCCL_DEBUG=INFO.",
        "The first rank's own error, further up in its log, mostly is the cause: the others only wait for it.",
        "Several network cards: NCCL_SOCKET_IFNAME=eth0 (the one that all machines share).",
        "A port in use: torchrun --master-port 0, or end what was left: pkill -u $USER -f torchrun",
        "In a container: --ipc=host or --shm-size 8g. GPUs without peer access: NCCL_P2P_DISABLE=1",
        command="bnbenv run --retries 3 -- CMD",
    )


def busy(patient: Patient) -> Treatment:
    """Another process has the GPU for itself."""
    return told(
        "Wait until the GPU is free, or end what holds it.",
        "Who? nvidia-smi, or: sudo fuser -v /dev/nvidia*",
        "If the card admits one process only: sudo nvidia-smi -c 0 (compute mode Default).",
        "bnbenv run --retries 3 -- CMD tries again, with growing pauses.",
        command="nvidia-smi",
    )


def host_memory(patient: Patient) -> Treatment:
    """The machine's own memory ran out, and the kernel ended the process."""
    return told(
        "Load through less of the machine's own memory: one process at a time, from safetensors, in 4 bits.",
        "Was it so? sudo dmesg | grep -i 'killed process'; free -h",
        "Checkpoints as *.safetensors are mapped and not read in full; pytorch_model.bin is read in full.",
        "In a container or job the limit is its own: docker run --memory, sbatch --mem. On Windows and WSL2: a larger "
        "paging file, or memory= in .wslconfig.",
        *loading_code(patient, LOADING),
    )


def shared_memory(patient: Patient) -> Treatment:
    """/dev/shm is too small for what data loaders pass on."""
    return told(
        "Give the container more shared memory.",
        "Or have the data loaders do without it: DataLoader(..., num_workers=0)",
        "Kubernetes: an emptyDir volume with medium: Memory, mounted at /dev/shm.",
        command="docker run --ipc=host IMAGE",
    )


def device_assert(patient: Patient) -> Treatment:
    """An index is out of range, in most cases a token that the embedding has no row for."""
    return told(
        "Run the same step on the CPU: there the traceback names the line, and the index that is out of range.",
        "Mostly tokens were added: model.resize_token_embeddings(len(tokenizer))",
        "Or labels outside of the classes; -100 is the one that is passed over.",
        "On the GPU: CUDA_LAUNCH_BLOCKING=1 python ... names the call. Restart the process: all later calls fail.",
        command="CUDA_VISIBLE_DEVICES= python SCRIPT",
    )


def checkpoint(patient: Patient) -> Treatment:
    """A file of the model is incomplete."""
    return told(
        "Load the model's files again: one of them is incomplete.",
        "Only the broken ones are loaded: hf download REPO --force-download --include '*.safetensors'",
        "A file of some 130 bytes is a pointer of Git LFS: git lfs pull",
        command="hf download REPO --force-download",
    )


def illegal_instruction(patient: Patient) -> Treatment:
    """The processor lacks instructions that a binary was compiled for."""
    return told(
        "This processor is too old for one of these binaries: the last lines name which one was loaded.",
        "Which instructions are there? lscpu | grep -o -w -E 'sse4_2|avx|avx2|avx512f'",
        "In a virtual machine, have the host's processor passed on (QEMU: -cpu host): the default hides most of them.",
        "Built from source on that machine, bitsandbytes takes what is there: -march=native.",
        command="bnbenv verify",
    )


def no_distribution(patient: Patient) -> Treatment:
    """The index has no wheel for this platform or Python."""
    return told(
        "Take a version that has a wheel for this system and this Python: bnbenv solve names it.",
        "macOS: bitsandbytes 0.49 and newer have wheels for Apple's processors; before, only 0.42 and older install.",
        "A very new Python has none yet: uv venv --python 3.12",
        "32-bit Python has none: python -c 'import struct; print(struct.calcsize(\"P\") * 8)' has to say 64.",
        command="bnbenv solve",
    )


Write = Callable[[Patient], Treatment]

BY_CODE: Mapping[str, Write] = {
    "no-space": no_space,
    "nccl-error": nccl,
    "device-busy": busy,
    "no-matching-distribution": no_distribution,
    "host-out-of-memory": host_memory,
    "process-killed": host_memory,
    "paging-file": host_memory,
    "shared-memory": shared_memory,
    "device-assert": device_assert,
    "checkpoint-damaged": checkpoint,
    "illegal-instruction": illegal_instruction,
}
BY_CAUSE: Mapping[Cause, Write] = {
    "device_map_config": device_map,
    "dtype_config": dtype,
    "hf_access": access,
    "cublas_error": cublas,
    "illegal_memory_access": illegal_access,
}
