"""``bnbenv prequantize``: write a checkpoint that is quantized already, in bitsandbytes' own form."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bnbenv.cli.command import Context, Outcome
from bnbenv.errors import Exit, Failed, UsageError
from bnbenv.paths import expand

if TYPE_CHECKING:
    from bnbenv.models.devices import Devices
    from bnbenv.models.environment import Environment
    from bnbenv.models.model import Checkpoint
    from bnbenv.models.prequantize.make import Made
    from bnbenv.models.prequantize.order import Order
    from bnbenv.models.prequantize.predict import Prediction

SUMMARY = """\
Write a checkpoint in bitsandbytes' own form, which plain from_pretrained(OUT)
loads without conversion: bit for bit what quantizing while loading gives, and
without the memory that takes. Tensor by tensor, so that the largest one and its
result are the most that is held.

OUT appears when it is whole. What is interrupted goes on where it stopped when
the same command is run again. Nothing is loaded from the network, and code that
comes with a checkpoint is not run unless you ask for it."""
EXAMPLE = """\
bnbenv prequantize ~/models/llama-3-8b llama-3-8b-nf4
bnbenv prequantize mistralai/Mistral-7B-v0.3 out --quant int8"""
EXITS = "0 written, or there already, 1 failed, 2 wrong usage or unreadable input, 8 another bnbenv writes it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a folder, or a name of the hub that is in its cache here")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("--quant", choices=("nf4", "fp4", "int8"), default="nf4", help="default: nf4")
    parser.add_argument(
        "--no-double-quant", action="store_true", help="keep the statistics of 4-bit weights in float32"
    )
    types = ("bfloat16", "float16", "float32")
    parser.add_argument("--compute-dtype", choices=types, help="what it computes in (default: as bnbenv config says)")
    parser.add_argument(
        "--dtype", choices=types, help="what is loaded and stays unquantized (default: as from_pretrained)"
    )
    parser.add_argument("--skip-modules", metavar="A,B", help="modules that stay as they are, beside the output")
    parser.add_argument("--shard-size", metavar="SIZE", default="5GB", help="of a file at most (default: 5GB)")
    parser.add_argument("--device", default="auto", metavar="WHICH", help="auto, cpu or cuda:N (default: auto)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code that comes with the checkpoint")
    parser.add_argument("--revision", metavar="NAME", help="of a name of the hub: a branch, tag or commit")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--env", metavar="NAME", help="the environment of this project (default: bnb)")
    which.add_argument("--python", metavar="PATH", help="an environment's Python, or its folder")
    parser.add_argument("--force", action="store_true", help="replace what an earlier run of this command wrote")
    parser.add_argument("--limit", metavar="SECONDS", type=_seconds, help="stop after that time (default: never)")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    import msgspec

    from bnbenv.cli.modelled import find_devices, skips_of
    from bnbenv.models.compute import compute_type, has_bf16
    from bnbenv.models.devices import ask
    from bnbenv.models.prequantize.order import Order, read_device, read_modules, read_size
    from bnbenv.paths import Sysroot

    checked = (read_size(args.shard_size, "--shard-size"), read_device(args.device))
    skip = read_modules(args.skip_modules) if args.skip_modules is not None else None
    if args.quant == "int8" and args.no_double_quant:
        message = "--no-double-quant is about 4-bit weights, and int8 has no such statistics"
        raise UsageError("no-double-quant", message, "Leave it out, or name --quant nf4.")
    out = Path(os.path.normpath(ctx.cwd / expand(args.out))) if args.out else Path()
    folder, checkpoint = _checkpoint(args, ctx)
    environment = _environment(args, ctx)
    asked = ask(ctx.environ, Sysroot.from_environment(ctx.environ))
    devices = find_devices(args, ctx, asked, environment)
    compute = compute_type(checkpoint.config, devices, has_bf16(Sysroot.from_environment(ctx.environ))).name
    place = _place(checked[1], environment, devices, checkpoint)
    order = Order(
        source=args.model,
        model=folder,
        out=out,
        quant=args.quant,
        double_quant=not args.no_double_quant,
        compute_dtype=args.compute_dtype or compute,
        dtype=args.dtype,
        skip=skip and skips_of(checkpoint, environment.transformers, skip, ctx),
        shard_bytes=checked[0],
        device=place.device,
        trust_remote_code=args.trust_remote_code,
        force=args.force,
        limit=args.limit,
    )
    try:
        return _make(order, checkpoint, environment, place, ctx)
    except Failed as error:
        if error.code != "no-device" or args.device != "auto":
            raise
        ctx.progress.say(f"on the CPU, since {error.message}")
    order = msgspec.structs.replace(order, device="cpu")
    return _make(order, checkpoint, environment, Place("cpu", {}, devices.cpu.free), ctx)


class Place(NamedTuple):
    """Where it is quantized: torch's name, what the process's environment needs for it, and memory in bytes."""

    device: str
    changes: Mapping[str, str | None]
    free: int | None


def _make(order: Order, checkpoint: Checkpoint, environment: Environment, place: Place, ctx: Context) -> Outcome:
    from bnbenv.models.prequantize.make import Ports, prequantize
    from bnbenv.models.prequantize.predict import predict

    kind = "cpu" if order.device == "cpu" else "cuda"
    prediction = predict(order, checkpoint, environment.transformers, "cpu" if kind == "cpu" else "cuda")
    changes = {**place.changes, **({"PYTHONDONTWRITEBYTECODE": "1"} if environment.untouched else {})}
    ports = Ports(ctx.runner, ctx.progress, ctx.environ, changes, place.free)
    made = prequantize(order, checkpoint, environment, prediction.size, ports)
    return Outcome(Exit.DONE, document(order, checkpoint, environment, made, prediction))


def document(
    order: Order, checkpoint: Checkpoint, environment: Environment, made: Made, prediction: Prediction
) -> dict[str, Any]:
    note = made.note
    shards = {name: one for name, one in note.files.items() if name.endswith(".safetensors")}
    return {
        "schema": "bnbenv.prequantize/1",
        "status": "there" if made.there else "made",
        "model": order.source,
        "out": str(order.out),
        "architecture": checkpoint.config.architecture,
        "quantization": note.quantization,
        "compute_dtype": order.compute_dtype,
        "dtype": note.dtype,
        "device": order.device,
        "bytes_before": checkpoint.bytes,
        "bytes_after": sum(one.bytes for one in shards.values()),
        "files": [{"name": name, "bytes": one.bytes, "sha256": one.sha256} for name, one in shards.items()],
        "others": sorted(set(note.files) - set(shards)),
        "converted": note.tensors["converted"],
        "kept": note.tensors["kept"],
        "left_out": note.tensors["left_out"],
        "resumed": made.kept,
        "seconds": round(made.seconds, 2),
        "seconds_quantizing": round(made.quantizing, 3),
        "load_peak_before": prediction.peak,
        "load_peak_after": prediction.own_peak,
        "packages": dict(note.job.packages),
        "python": str(environment.python),
        "warnings": list(made.warnings),
        "notes": list(made.notes),
    }


def _environment(args: argparse.Namespace, ctx: Context) -> Environment:
    """Raises UsageError, Failed (no environment, packages missing)."""
    from bnbenv.cli.common import project_of
    from bnbenv.models.environment import find_environment
    from bnbenv.models.prequantize.make import REQUIRED

    found = find_environment(project_of(args, ctx), ctx.cwd, ctx.environ, args.env, args.python)
    if found is None:
        step = 'Make one: bnbenv init, with requirements = ["transformers", "accelerate"], then: bnbenv sync'
        raise Failed("no-environment", "there is no environment with transformers here", step)
    found.require(*REQUIRED)
    return found


def _checkpoint(args: argparse.Namespace, ctx: Context) -> tuple[Path, Checkpoint]:
    """The folder with the model, and what its headers say. Raises CheckpointError, InputError, SourceUnreachable."""
    from bnbenv.models.hub import weights_folder
    from bnbenv.models.local import read_local
    from bnbenv.models.prequantize.inputs import check

    folder = ctx.cwd / weights_folder(args.model, ctx.environ, args.revision)
    found = read_local(folder)
    check(args.model, found, args.trust_remote_code)
    return folder, found


def _place(wish: str, environment: Environment, devices: Devices, checkpoint: Checkpoint) -> Place:
    """A GPU that has room, where the environment's torch is one for GPUs; else the CPU."""
    cpu = Place("cpu", {}, devices.cpu.free)
    if wish == "cpu" or (wish == "auto" and environment.versions.get("torch", "").endswith("+cpu")):
        return cpu
    if wish != "auto":
        number = int(wish.partition(":")[2])
        return Place(wish, {}, devices.gpus[number].free if number < len(devices.gpus) else None)
    largest = max((one.bytes for one in checkpoint.tensors or ()), default=0)
    for gpu in devices.gpus:
        if gpu.uuid and gpu.free is not None and gpu.free >= CONTEXT + 4 * largest:
            return Place("cuda:0", {"CUDA_VISIBLE_DEVICES": gpu.uuid}, gpu.free)
    return cpu


CONTEXT = 1 << 30  # bytes that CUDA's context and its libraries take of a GPU, generously


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 30 * 86400:
        raise argparse.ArgumentTypeError(f'expected a number of seconds, found "{text}"')
    return value
