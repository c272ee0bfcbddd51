"""transformers, accelerate and peft: whether they are in the environment, and whether they work with one another."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
from types import ModuleType

from .protocol import Broken, Skip, describe
from .target import Target, numbers

# transformers before that version loads nothing quantized on a CPU without Intel's extension of torch.
CPU_TRANSFORMERS = (4, 53)


NAMES = ("transformers", "accelerate", "peft")


def versions() -> dict[str, str]:
    """The version of each that is installed."""
    return {name: version_of(name) for name in NAMES if installed(name)}


def installed(name: str) -> bool:
    """Whether a package is there, be it in pieces: its metadata, or a module that has a file."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        spec = importlib.util.find_spec(name)
        return spec is not None and spec.origin is not None
    return True


def import_transformers(target: Target) -> ModuleType:
    """Import transformers and accelerate; raises Broken where they do not work, Skip where a part was not asked for."""
    if target.old_cpu:
        version = ".".join(map(str, target.version))
        raise Skip(f"bitsandbytes {version} has only some of its operations on a CPU, models need all of them")
    heard = Heard()
    logging.getLogger("transformers").addHandler(heard)
    transformers = import_module("transformers")
    version = transformers.__version__
    if not target.cuda and numbers(version) < CPU_TRANSFORMERS:
        raise Skip(f"transformers {version} loads no quantized model on a CPU, from 4.53 on it does")
    if not transformers.is_torch_available():
        import torch

        why = next((line for line in heard.lines if "torch" in line.lower()), "it takes torch for missing")
        raise Broken(f"transformers {version} does not work with torch {torch.__version__}: {why}")
    if not installed("accelerate"):
        raise Skip("accelerate is not installed, and without it transformers loads no model in 4 or 8 bits")
    accelerate = import_module("accelerate").__version__
    if not transformers.utils.is_accelerate_available():
        raise Broken(f"accelerate {accelerate} does not work with transformers {version}, which takes it for too old")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def import_module(name: str) -> ModuleType:
    """Import a package that is installed; raises Broken with its version and the cause."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise Broken(f"{name} {version_of(name)} cannot be imported: {describe(cause_of(error))}") from error


def version_of(name: str) -> str:
    """The version in the metadata."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def cause_of(error: BaseException) -> BaseException:
    """The first of a chain of errors: transformers wraps what happened into "failed to import, see above"."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


class Heard(logging.Handler):
    """Keeps what is logged, as the reason of a refusal often stands only there."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
