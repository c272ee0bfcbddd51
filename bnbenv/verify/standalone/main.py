"""The order of the steps."""

from __future__ import annotations

import argparse
import faulthandler
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from . import families, huggingface
from .offline import offline
from .protocol import Reporter, Step, private_stdout
from .target import Target, check_device, check_library, examine, import_packages, version_of_bitsandbytes

if TYPE_CHECKING:
    from .models import Models


def main(arguments: list[str]) -> int:
    """Verify one device; see ``script.py``. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="script.py", description="Prove torch and what quantizes by running kernels.")
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--family", choices=("bitsandbytes", *families.PACKAGES), default="bitsandbytes")
    wanted = parser.parse_args(arguments)
    reporter = Reporter(private_stdout())
    tell_where_it_dies()
    with offline(wanted.device, wanted.family) as folder:
        if wanted.family == "bitsandbytes":
            prove(wanted.device, reporter, folder)
        else:
            families.prove(wanted.family, wanted.device, reporter, folder)
    reporter.send("done")
    return 1 if reporter.failed else 0


def prove(device: str, reporter: Reporter, folder: Path | None) -> None:
    """Run the steps. Without the packages, the device or the native library the others would only repeat the fault."""
    if not reporter.run("import", lambda step: import_packages("torch", "bitsandbytes")):
        return
    examined: list[Target] = []

    def try_device(step: Step) -> None:
        examined.append(examine(device, reporter, version_of_bitsandbytes()))
        check_device(step, examined[0])

    if not reporter.run("device", try_device):
        return
    target = examined[0]
    if not reporter.run("native-library", lambda step: check_library(step, target, reporter)):
        return
    for name, work in steps(target):
        reporter.run(name, work)
    if huggingface.installed("transformers"):
        prove_models(target, reporter, folder)


def prove_models(target: Target, reporter: Reporter, folder: Path | None) -> None:
    """What users of transformers do. ``folder`` is for temporary files, None where there is no place for them."""
    from . import inference, models

    reporter.send("packages", packages=huggingface.versions())
    made: list[models.Models] = []

    def make(step: Step) -> None:
        made.append(models.make(huggingface.import_transformers(target), target, folder))

    reporter.run("transformers", make)
    for model in made:
        for kind in ("4bit", "8bit"):
            reporter.run(f"transformers-{kind}", partial(inference.run, models=model, kind=kind))
        if model.loaded:
            reporter.run("generate", partial(inference.generate, models=model))
        if model.loaded and huggingface.installed("peft"):
            prove_training(reporter, model)


def prove_training(reporter: Reporter, models: Models) -> None:
    """What users of peft do, with each kind of model that could be loaded."""
    from . import adapters

    imported: list[ModuleType] = []
    reporter.run("peft", lambda step: imported.append(huggingface.import_module("peft")))
    for peft in imported:
        for kind in models.loaded:
            reporter.run(f"lora-{kind}", partial(adapters.lora, models=models, peft=peft, kind=kind))


def tell_where_it_dies() -> None:
    """Have a crash, and the parent's SIGTERM at the time limit, print the Python stack to standard error."""
    faulthandler.enable(all_threads=False)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGTERM, all_threads=False, chain=True)


def steps(target: Target) -> list[tuple[str, Callable[[Step], None]]]:
    from . import products, quantization, training

    found: list[tuple[str, Callable[[Step, Target], None]]] = [
        ("blockwise-8bit", quantization.blockwise),
        ("blockwise-8bit-nested", quantization.blockwise_nested),
    ]
    for quant_type in ("nf4", "fp4"):
        for blocksize in (64, 128, 256):
            work = partial(quantization.four_bit, quant_type=quant_type, blocksize=blocksize)
            found.append((f"{quant_type}-{blocksize}", work))
    found += [
        ("ragged-rows", quantization.ragged_rows),
        ("gemv-4bit", products.gemv_4bit),
        ("gemm-4bit", products.gemm_4bit),
        ("linear8bit", products.linear8bit),
        ("adamw8bit", training.adamw8bit),
    ]
    if target.cuda:
        found.append(("paged-adamw8bit", training.paged_adamw8bit))
    found.append(("qlora", training.qlora))
    if target.cuda:
        from . import timing

        found.append(("timing", timing.timing))
    return [(name, _on(target, work)) for name, work in found]


def _on(target: Target, work: Callable[[Step, Target], None]) -> Callable[[Step], None]:
    return lambda step: work(step, target)
