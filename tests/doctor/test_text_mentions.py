"""Texts that name messages which did not come, and texts in which several causes compete."""

from __future__ import annotations

import io

import pytest

from bnbenv.doctor.text import diagnose

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
NO_LIBRARY = "bitsandbytes library load error: Configured CUDA binary not found at /x/libbitsandbytes_cuda131.so\n"
TRAINING = "".join(f"{{'loss': {2 - step / 100:.3f}, 'epoch': {step / 100:.2f}}}\n" for step in range(30))
UNKNOWN = 'Traceback (most recent call last):\n  File "train.py", line 10, in <module>\nValueError: not a number\n'


def primary(text: str) -> str:
    return next((seen.code for seen in diagnose(io.BytesIO(text.encode())).seen if seen.role == "primary"), "nothing")


@pytest.mark.parametrize(
    "text",
    [
        f"Tip: if you see CUDA out of memory, lower --batch-size.\n{TRAINING}done\n",
        "Tip: if you see `CUDA out of memory`, lower the batch size.\nTraining finished.\n",
        "  --max-memory  limit in GiB, to avoid CUDA out of memory errors\n",
        "WARNING: CUDA graphs take memory. If you are running out of memory, consider eager mode.\nstartup complete\n",
        "- Fixed CUDA out of memory while loading\n- Fixed `no kernel image is available` on sm_120\n",
        "If `libcudart.so.12: cannot open shared object file` appears, add its folder to the path.\n",
        '        raise RuntimeError("No GPU found. A GPU is needed for quantization.")\n'
        "    except torch.cuda.OutOfMemoryError:\n",
        'src/a.py:10:        raise RuntimeError("No CUDA GPUs are available")\nsrc/a.py:12:    # CUDA out of memory\n',
        "Installing collected packages: nvidia-nvjitlink-cu12, exceptiongroup, error-handling, triton, bitsandbytes\n"
        "Successfully installed bitsandbytes-0.50.2 triton-3.6.0\n",
        "Requirement already satisfied: torch in /venv\n$ pip install flash-attn --no-build-isolation\n",
        "epoch 1/9 train_error: 0.345 val_error=0.412\nepoch 2/9 train_error: 0.301 val_error=0.388\n",
        '{"step": 10, "error": 0.23, "detail": {"error": null}}\nwandb:   eval/error 0.12\n',
        "memory: 12.1/24.0 GiB, no OOM so far\n",
        "CUDA runtime version: Could not collect\n[conda] Could not collect\n  diffusers: not found\nSUCCESS!\n",
        "| NVIDIA-SMI 580.65.06    Driver Version: 580.65.06   CUDA Version: 13.0 |\n"
        "| Fan  Temp  Perf  Pwr:Usage/Cap |  Memory-Usage | Volatile Uncorr. ECC |\n|  No running processes found  |\n",
        f"WARNING: CUDA out of memory at batch size 8, retrying with 4\n{TRAINING}Training completed.\n",
        f"GatedRepoError caught, falling back to a mirror\n{TRAINING}{{'train_runtime': 812.1}}\n",
    ],
)
def test_a_message_that_is_only_spoken_of_or_passed_is_no_finding(text: str) -> None:
    assert primary(text) == "nothing"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("If I run it in a container, training fails with CUDA out of memory\n", "cuda-out-of-memory"),
        (f"Tip: if you see CUDA out of memory, lower --batch-size.\n{TRAINING}{OOM}", "cuda-out-of-memory"),
        (f"CUDA out of memory, retrying with 4\n{TRAINING}Training completed.\nsaving\n{OOM}", "cuda-out-of-memory"),
        (f"{OOM}{TRAINING}{UNKNOWN}", "unknown"),
        (f"{NO_LIBRARY}{TRAINING}{UNKNOWN}", "unknown"),
        (f"{NO_LIBRARY}{UNKNOWN}", "library-cuda-missing"),
        (f"{NO_LIBRARY}{TRAINING}Training completed.\n", "library-cuda-missing"),
        (f"{NO_LIBRARY}{TRAINING}{OOM}", "cuda-out-of-memory"),
        ('    raise RuntimeError("No CUDA GPUs are available")\nRuntimeError: No CUDA GPUs are available\n', "no-gpus"),
        ("train_error: 0.3\nKeyError: 0\n", "unknown"),
    ],
)
def test_what_came_counts_and_what_was_survived_is_no_cause_of_what_nobody_knows(text: str, code: str) -> None:
    assert primary(text) == code


def test_a_page_about_many_causes_names_none() -> None:
    page = "## CUDA out of memory\nUse a smaller batch.\n## no kernel image is available\nA newer build.\n"
    assert primary(page + "## No CUDA GPUs are available\nLook at CUDA_VISIBLE_DEVICES.\n") == "unknown"
