"""The packages that this needs: all there, new enough, and able to run on the device."""

from __future__ import annotations

import importlib
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from .protocol import JobError, Reporter

# Read in their sources, not run: transformers 4.49 has the loader that is followed here; bitsandbytes 0.43 writes and
# reads 4-bit checkpoints, and from 0.46 on it quantizes on the CPU too. Run were transformers 4.57.6 and 5.23.0.
NEEDED = {
    "torch": (2, 1),
    "transformers": (4, 49),
    "accelerate": (0, 26),
    "bitsandbytes": (0, 43),
    "safetensors": (0, 4),
}


def check_packages(reporter: Reporter) -> dict[str, str]:
    """Releases by name. Raises JobError where one is missing or too old."""
    versions: dict[str, str] = {}
    for name in NEEDED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            message = f"{name} is not installed in this environment ({sys.prefix})"
            raise JobError("package-missing", message, f"Add {name} to the environment.") from None
    reporter.send("packages", python=sys.version.split()[0], versions=versions)
    for name, least in NEEDED.items():
        if release(versions[name]) < least:
            wanted = ".".join(map(str, least))
            message = f"{name} {versions[name]} is too old to write a checkpoint that loads; it takes {wanted} or newer"
            raise JobError("package-too-old", message, f"Put {name}>={wanted} into the environment.")
    return versions


def release(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: (5, 23) of 5.23.0.dev0."""
    return tuple(int(number) for number in re.findall(r"\d+", text.split("+")[0])[:2])


def import_packages() -> ModuleType:
    """transformers, silent. Raises JobError with the cause where a package cannot be imported."""
    try:
        for name in ("torch", "bitsandbytes", "accelerate"):
            importlib.import_module(name)
        transformers = importlib.import_module("transformers")
        importlib.import_module("transformers.modeling_utils")
    except MemoryError:
        raise
    except Exception as error:  # whatever a broken package raises
        message = f"the packages of this environment cannot be imported: {type(error).__name__}: {error}"
        raise JobError("package-missing", message[:400], "Run bnbenv doctor on it.") from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def check_device(device: str) -> None:
    """Raises JobError where this torch cannot use the device."""
    import torch

    kind, _, index = device.partition(":")
    if kind == "cuda" and not (torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count()):
        step = "Take the CPU (--device cpu), or see bnbenv doctor."
        raise JobError("no-device", f"torch {torch.__version__} of this environment cannot use {device}", step)
