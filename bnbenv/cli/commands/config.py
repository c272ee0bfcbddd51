"""``bnbenv config``: the code that loads a model on this machine, with the reason of each line."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.help import module_names, positive_number
from bnbenv.cli.modelled import Release, add_devices, add_model, ask_devices, find_devices, release_of
from bnbenv.errors import Exit, UsageError

if TYPE_CHECKING:
    from bnbenv.models.cautions import Installed
    from bnbenv.models.devices import Devices
    from bnbenv.models.loading import Wanted
    from bnbenv.models.model import Checkpoint, Skeleton

SUMMARY = """\
Print the Python that loads a model with bitsandbytes on this machine, to paste
or to write into a file: BitsAndBytesConfig and from_pretrained by the names
that the environment's transformers takes, each line with its reason.

The type to compute in follows from the GPUs (bfloat16 from compute capability
8.0 on), max_memory from what is free on them now. It reads config.json and the
headers of the weights, and runs nothing of the model."""
EXAMPLE = """\
bnbenv config ~/models/Llama-3.1-8B > load.py
bnbenv config org/name --train
bnbenv config org/name --train --fsdp --facts h200x8.json"""
EXITS = (
    "0 printed, 1 a broken checkpoint, 2 wrong usage, or what cannot be read or had together, "
    "7 the hub cannot be reached"
)

QUANTS = ("none", "int8", "nf4", "nf4-double", "fp4", "fp4-double")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--quant", choices=QUANTS, help="the quantization (default: nf4-double)")
    purpose = parser.add_mutually_exclusive_group()
    purpose.add_argument("--train", action="store_true", help="to train LoRA adapters (QLoRA)")
    purpose.add_argument("--inference", action="store_true", help="to use it (default)")
    parser.add_argument("--fsdp", action="store_true", help="to train sharded over several GPUs with FSDP")
    parser.add_argument("--context", metavar="N", type=positive_number, default=4096, help="tokens (default: 4096)")
    what = "modules that are to stay as they are (llm_int8_skip_modules)"
    parser.add_argument("--skip-modules", metavar="A,B", type=module_names, default=(), help=what)
    parser.add_argument("--trust-remote-code", action="store_true", help="the printed code runs code of the checkpoint")
    add_devices(parser)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    """The code. Raises InputError, CheckpointError, SourceUnreachable, UsageError."""
    if args.fsdp and args.inference:
        raise UsageError("usage", "--fsdp is for training", "Leave --inference out, or --fsdp.")
    asked = ask_devices(args, ctx)
    checkpoint = _open(args, ctx)
    release = release_of(args, ctx)
    from bnbenv.models.loading import document
    from bnbenv.progress import during

    skeleton = _skeleton(checkpoint, release, args.skip_modules, ctx)
    with during(ctx.progress, "asking NVML how much memory is free"):
        devices = find_devices(args, ctx, asked, release.environment)
    wanted = _wanted(args, ctx, devices)
    found = document(checkpoint, skeleton, devices, wanted, release.version, _installed(release))
    return Outcome(Exit.DONE, found)


def _open(args: argparse.Namespace, ctx: Context) -> Checkpoint:
    from bnbenv.models.hub import open_model
    from bnbenv.progress import during

    with during(ctx.progress, f"reading {args.model}"):
        return open_model(args.model, ctx.environ, args.revision)


def _skeleton(checkpoint: Checkpoint, release: Release, skip: tuple[str, ...], ctx: Context) -> Skeleton | None:
    """Its parameters, or None where they cannot be told: then the code goes without figures."""
    from bnbenv.cli.modelled import skips_of
    from bnbenv.models.model import CheckpointError
    from bnbenv.models.report import method
    from bnbenv.models.skeleton import skeleton

    if method(checkpoint.config) not in (None, "bitsandbytes"):
        return None
    try:
        skips = skips_of(checkpoint, release.version, skip, ctx) if skip else ()
        return skeleton(checkpoint, release.version, skips)
    except CheckpointError as error:
        ctx.progress.say(f"note: no bytes are counted: {error.message}")
        return None


def _wanted(args: argparse.Namespace, ctx: Context, devices: Devices) -> Wanted:
    import os

    from bnbenv.models.compute import has_bf16
    from bnbenv.models.loading import Wanted
    from bnbenv.paths import Sysroot, expand

    folder = ctx.cwd / expand(args.model)
    return Wanted(
        source=os.path.abspath(folder) if folder.is_dir() else args.model,  # noqa: PTH100 - links stay as they are
        quantization=args.quant,
        train=args.train or args.fsdp,
        fsdp=args.fsdp,
        context=args.context,
        skip=args.skip_modules,
        remote_code=args.trust_remote_code,
        revision=args.revision,
        cpu_bf16=not devices.recorded and has_bf16(Sysroot.from_environment(ctx.environ)),
    )


def _installed(release: Release) -> Installed:
    from bnbenv.models.cautions import Installed

    if release.environment is None or release.version is None:
        return Installed(release.of, None, None, None, there=False)
    found = release.environment.versions
    return Installed(release.of, found.get("bitsandbytes"), found.get("accelerate"), found.get("peft"))
