"""What is verified: the device, the versions, and the native library that bitsandbytes really loaded."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .protocol import Broken, Reporter, Skip, Step

# From this version on every operation tested here has a CPU implementation, so that a missing one is a fault.
CPU_COMPLETE = (0, 50)
# Before this version scales came as lists, which nothing here reads.
OLDEST = (0, 42)


@dataclass(frozen=True)
class Target:
    """One device (``cuda`` or ``cpu``), its compute capability, and the version of bitsandbytes (empty: not asked)."""

    device: str
    capability: tuple[int, int] | None
    version: tuple[int, ...]

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def old_cpu(self) -> bool:
        """The CPU code before 0.50: -1 stands for the lowest 8-bit value, -0.993, and 0.0052 for FP4's smallest."""
        return not self.cuda and self.version < CPU_COMPLETE

    @property
    def early_cpu(self) -> bool:
        """The CPU code before 0.47: 8 bits of float32 only; NF4 only, in whole blocks."""
        return not self.cuda and self.version < (0, 47)

    def dtypes(self) -> list[Any]:
        import torch

        return [torch.float32, torch.float16, torch.bfloat16]

    def quant_types(self) -> tuple[str, ...]:
        return ("nf4",) if self.early_cpu else ("nf4", "fp4")

    def need(self, *operations: str) -> None:
        """Raise Skip where an older bitsandbytes has no CPU implementation of an operation. On a GPU it never skips.

        From 0.46 on the operations are known to torch's dispatcher, which is asked; before, only the 8-bit
        quantization was written for the CPU.
        """
        if not self.old_cpu:
            return
        import torch

        has = torch._C._dispatch_has_computed_kernel_for_dispatch_key
        known = set(torch._C._dispatch_get_all_op_names())
        for operation in operations:
            name = f"bitsandbytes::{operation}"
            if name not in known or not has(name, "CPU"):
                raise self.missing(operation)

    def need_int8(self) -> None:
        """Raise Skip on a GPU that is too old for LLM.int8."""
        if self.cuda and self.capability is not None and self.capability < (7, 5):
            have = ".".join(map(str, self.capability))
            raise Skip(f"LLM.int8 needs the int8 tensor cores of compute capability 7.5; this GPU has {have}")

    def missing(self, operation: str) -> Skip:
        version = ".".join(map(str, self.version))
        return Skip(f"bitsandbytes {version} has no CPU implementation of {operation}")


def import_packages(*names: str) -> None:
    """Import torch and what is verified; raises Broken with one sentence where one is missing or does not load."""
    for name in names:
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                raise Broken(f"{name} is not installed in this environment") from None
            raise Broken(f"{name} cannot be imported: {error}") from error
        except Exception as error:
            raise Broken(f"{name} cannot be imported: {type(error).__name__}: {str(error).strip()[:300]}") from error


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``0.50.2.dev0`` is (0, 50, 2)."""
    parts = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


def version_of_bitsandbytes() -> str:
    """Its own word; up to 0.41 its metadata's."""
    import bitsandbytes

    version: str | None = getattr(bitsandbytes, "__version__", None)
    if version is None:
        from importlib import metadata

        version = metadata.version("bitsandbytes")
    return version


def examine(device: str, reporter: Reporter, bitsandbytes: str | None = None) -> Target:
    """Report the versions and what the device is; the device itself is tried by ``check_device``."""
    import torch

    fields: dict[str, Any] = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "bitsandbytes": bitsandbytes,
    }
    capability = None
    if device == "cuda" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        capability = (properties.major, properties.minor)
        fields.update(
            name=properties.name,
            compute_capability=f"{properties.major}.{properties.minor}",
            memory_total=properties.total_memory,
        )
    reporter.send("environment", **fields)
    return Target(device, capability, numbers(bitsandbytes or ""))


def check_device(step: Step, target: Target) -> None:
    """torch itself must be able to compute on the device, or no result of another package would mean anything."""
    import torch

    if target.cuda and not torch.cuda.is_available():
        raise Broken(why_no_gpu(torch))
    # Every later product in plain torch is to be a true float32 product.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    a = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    product = (a.to(target.device) @ a.to(target.device).t()).cpu().double()
    error = (product - a.double() @ a.double().t()).abs().max() / 128
    step.check("torch's own float32 product", error, 1e-5, "float32 rounds by 6e-8; a sum of 128 stays far below")


def why_no_gpu(torch: Any) -> str:
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return f"torch {torch.__version__} is a CPU build, it cannot use the GPU"
    try:
        torch.cuda.init()
    except Exception as error:  # torch's own words, whatever its type
        return f"torch {torch.__version__} cannot use the GPU: {str(error).strip().splitlines()[0]}"
    return f"torch {torch.__version__} sees no GPU (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')})"


def check_library(step: Step, target: Target, reporter: Reporter) -> None:
    """The native library for this device is loaded: neither none, nor the stub that fails at first call, nor another.

    Up to 0.45 a library that does not load leaves ``lib`` None, from 0.46 on an object that raises when it is called.
    Up to 0.43.0 ``lib`` is the library itself.
    """
    if target.version and target.version < OLDEST:
        found, oldest = (".".join(map(str, version)) for version in (target.version, OLDEST))
        raise Broken(f"bitsandbytes {found} cannot be verified: bnbenv knows how from {oldest} on")
    from bitsandbytes import cextension

    lib = cextension.lib
    bare = isinstance(lib, ctypes.CDLL)
    loaded = lib if bare or lib is None else vars(lib).get("_lib")
    if not isinstance(loaded, ctypes.CDLL):
        cause = "" if lib is None else str(vars(lib).get("error_msg", ""))
        cause = next((line.strip() for line in cause.splitlines() if line.strip()), "")
        raise Broken("bitsandbytes loaded no native library" + (f": {cause}" if cause else ""))
    path = Path(loaded._name).resolve()
    name = path.name
    reporter.send("library", library=name, library_path=str(path))
    wanted = "rocm" if getattr(__import__("torch").version, "hip", None) else "cuda"
    compiled_with_cuda = cextension.COMPILED_WITH_CUDA if bare else lib.compiled_with_cuda
    if target.cuda and (wanted not in name or not compiled_with_cuda):
        raise Broken(f"bitsandbytes uses {name} on a GPU, not its CUDA library")
    if not target.cuda and "cpu" not in name:
        raise Broken(f"bitsandbytes uses {name} where there is no GPU, not its CPU library")
    symbol = "cdequantize_blockwise_fp16_nf4" if target.cuda else "cdequantize_blockwise_cpu_fp32"
    if not hasattr(loaded, symbol):
        raise Broken(f"{name} holds no {symbol}")
