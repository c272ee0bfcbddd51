"""Which of several signs in a text is the cause, and what a text that speaks of none gives."""

from __future__ import annotations

import io

import pytest

from bnbenv.doctor.model import TextDiagnosis
from bnbenv.doctor.text import diagnose, memory, transient

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
NCCL = "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1970, remote process exited\n"
NOT_LOADED = "AttributeError: 'NoneType' object has no attribute 'cquantize_blockwise_fp16_nf4'\n"
NO_GPU = "RuntimeError: No GPU found. A GPU is needed for quantization.\n"
NO_LIBRARY = (
    "Could not find the bitsandbytes CUDA binary at PosixPath('/env/bitsandbytes/libbitsandbytes_cuda130.so')\n"
)
CPU_ONLY = "UserWarning: The installed version of bitsandbytes was compiled without GPU support.\n"
OTHER_TRACEBACK = "Traceback (most recent call last):\n  File \"x.py\", line 1, in <module>\nKeyError: 'labels'\n"
HANDLING = (
    "\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n"
)


def judged(text: str | bytes) -> TextDiagnosis:
    return diagnose(io.BytesIO(text.encode() if isinstance(text, str) else text))


def roles(text: str) -> dict[str, str]:
    return {seen.code: seen.role for seen in judged(text).seen}


@pytest.mark.parametrize("text", [NO_LIBRARY + NOT_LOADED, NOT_LOADED + NO_LIBRARY])
def test_what_names_the_cause_beats_what_follows_from_it_wherever_it_stands(text: str) -> None:
    assert roles(text) == {"library-cuda-missing": "primary", "cpu-library-loaded": "consequence"}


def test_the_error_at_the_end_beats_what_was_survived() -> None:
    survived = "bitsandbytes library load error: Configured CUDA binary not found at /x/libbitsandbytes_cuda130.so\n"
    found = roles(survived + "step 100 loss 0.3\n" + OOM)
    assert found["cuda-out-of-memory"] == "primary"
    assert found["library-cuda-missing"] == "note"


def test_the_other_processes_lose_each_other_because_one_ran_out_of_memory() -> None:
    assert roles("[rank1]: " + OOM + "[rank0]: " + NCCL) == {
        "cuda-out-of-memory": "primary",
        "nccl-error": "consequence",
    }


def test_the_driver_explains_everything_after_it() -> None:
    warning = "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).\n"
    found = roles(
        warning + CPU_ONLY + NO_GPU + "ImportError: Using `bitsandbytes` 8-bit quantization requires Accelerate\n"
    )
    assert found.pop("cuda-driver-too-old") == "primary"
    assert set(found.values()) == {"consequence"}


def test_an_exception_while_another_is_handled_is_no_cause() -> None:
    first = "Traceback (most recent call last):\nRuntimeError: Failed to find C compiler.\n"
    found = roles(first + HANDLING + "RuntimeError: mat1 and mat2 must have the same dtype, but got Float and Half\n")
    assert found["triton-no-compiler"] == "primary"
    found = roles(first + "Traceback (most recent call last):\nRuntimeError: mat1 and mat2 must have the same dtype\n")
    assert found["dtype-mismatch"] == "primary"
    other = OTHER_TRACEBACK + HANDLING + "RuntimeError: mat1 and mat2 must have the same dtype\n"
    assert roles(first + other)["dtype-mismatch"] == "primary"  # it was while that other one was handled


def test_what_was_done_long_before_does_not_say_when_memory_ran_out() -> None:
    frame = '  File "/venv/bitsandbytes/functional.py", line 1, in quantize_4bit\n'
    assert roles(frame + OOM)["oom-while-quantizing"] == "primary"
    assert roles(frame + "step: loss and more\n" * 300 + OOM)["cuda-out-of-memory"] == "primary"


def test_a_warning_is_no_cause_of_a_failure_that_nobody_knows() -> None:
    assert roles(CPU_ONLY + OTHER_TRACEBACK) == {"unknown": "primary", "compiled-without-gpu": "note"}
    wrapper = "subprocess.CalledProcessError: Command '['python', 'train.py']' returned non-zero exit status 1.\n"
    assert roles(CPU_ONLY + wrapper) == {"compiled-without-gpu": "primary"}


def test_a_failure_inside_bitsandbytes_follows_from_what_it_said_before() -> None:
    frame = '  File "/env/site-packages/{}/functional.py", line 9, in f\n    x\n'
    text = f"Traceback (most recent call last):\n{frame}KeyError: 3\n"
    assert roles(CPU_ONLY + text.format("bitsandbytes")) == {"compiled-without-gpu": "primary"}
    assert roles(CPU_ONLY + text.format("other"))["unknown"] == "primary"


def test_an_unknown_failure_is_shown() -> None:
    (seen,) = judged("first\n" + OTHER_TRACEBACK).seen
    assert (seen.cause, seen.code, seen.role) == ("unknown", "unknown", "primary")
    assert seen.lines == ((4, "KeyError: 'labels'"),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "step 1 loss 0.3\nstep 2 loss 0.2\nsaved to out\n",
        "`use_cache=True` is incompatible with gradient checkpointing. Setting `use_cache=False`.\n"
        "{'loss': 1.2, 'word error rate': 0.2, 'learning_rate': 1e-4}\n" + "step\n" * 200 + "mean squared error: 0.21\n"
        "training finished without errors, 0 failed\n",
        "Loading checkpoint shards: 100%|##########| 2/2 [00:09<00:00]\r\n0 errors, 3 warnings\n",
        "Found duplicate ['libcudart.so'] files: {1}.. We'll flip a coin\n"
        "If you get `CUDA error: invalid device function` errors, the above might be the cause\n",
    ],
)
def test_a_text_that_speaks_of_no_failure_has_no_signs(text: str) -> None:
    assert judged(text).seen == ()


def test_source_that_a_traceback_shows_around_the_line_is_not_what_happened() -> None:
    text = (
        "     70             raise ImportError('Using `bitsandbytes` 4-bit quantization requires Accelerate')\n"
        "     71 \n"
        "---> 72         if not torch.cuda.is_available():\n"
        '     73             raise RuntimeError("No GPU found. A GPU is needed for quantization.")\n'
        "\n"
        "RuntimeError: CUDA error: an illegal memory access was encountered\n"
    )
    assert roles(text) == {"illegal-memory-access": "primary"}


def test_the_rest_of_a_raise_is_what_happened() -> None:
    shown = (
        '   1880         if getattr(self, "is_loaded_in_8bit", False):\n'
        "-> 1881             raise ValueError(\n"
        '   1882                 "`.to` is not supported for `8-bit` models. Please use the model as it is,"\n'
        '   1883                 " since it has already been set to the correct devices"\n'
        "   1884             )\n"
        '   1885         print("CUDA out of memory")\n'
    )
    assert roles(shown) == {"moved-quantized-model": "primary"}
    assert judged(shown.replace("raise ValueError(", "report(self,  ")).seen == ()


def test_what_was_copied_out_of_a_page_or_an_address() -> None:
    assert roles("NVIDIA-SMI has failed because it couldn\u2019t communicate with the NVIDIA driver") == {
        "no-driver": "primary"
    }
    assert roles("libtorch_cuda.so:%20undefined%20symbol:%20ncclCommRegister") == {"nvjitlink-mixed": "primary"}


def test_what_can_pass_and_what_memory_was() -> None:
    assert transient("device-busy")
    assert transient("memory-held-elsewhere")
    assert transient("ecc-error")
    assert transient("nccl-error")
    assert not transient("cuda-out-of-memory")
    assert not transient("library-cuda-missing")
    assert not transient("no such code")
    assert memory("cuda-out-of-memory")
    assert memory("oom-while-quantizing")
    assert not memory("device-busy")


def test_what_a_text_says_of_its_machine() -> None:
    said = judged(
        "=================== bitsandbytes v0.49.2 ===================\n"
        "Platform: Linux-6.6.113+-x86_64-with-glibc2.35\nPython: 3.12.13\nPyTorch: 2.11.0+cu130\n  CUDA: 13.0\n"
        "PyTorch settings found: CUDA_VERSION=130, Highest Compute Capability: (8, 9).\n"
        "| NVIDIA-SMI 580.65.06    Driver Version: 580.65.06    CUDA Version: 13.0 |\n"
        "WARNING: BNB_CUDA_VERSION=129 environment variable detected; loading libbitsandbytes_cuda129.so.\n"
        "/home/me/venv/lib/python3.12/site-packages/bitsandbytes/cextension.py:1\n"
        "NVIDIA GeForce RTX 4090 with CUDA capability sm_89\n"
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB. "
        "GPU 0 has a total capacity of 23.50 GiB\n"
    ).said
    assert (said.os, said.python, said.torch, said.torch_cuda) == ("linux", "3.12.13", "2.11.0+cu130", "13.0")
    assert (said.bitsandbytes, said.driver, said.capability) == ("0.49.2", "580.65.06", "8.9")
    assert (said.gpu, said.library) == ("NVIDIA GeForce RTX 4090", "libbitsandbytes_cuda129.so")
    assert (said.prefix, said.override) == ("/home/me/venv", "129")
    assert (said.memory_wanted, said.memory_total) == (3 << 29, 47 << 29)


def test_what_a_text_from_windows_says() -> None:
    said = judged("bin C:\\Users\\me\\my env\\lib\\site-packages\\bitsandbytes\\libbitsandbytes_cuda118.dll\n").said
    assert (said.os, said.prefix) == ("windows", "C:\\Users\\me\\my env")
    assert said.torch is None
