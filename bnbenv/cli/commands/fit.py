"""``bnbenv fit``: does a model fit into the memory that is free now, and if not, what would?"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.help import module_names, positive_number
from bnbenv.cli.modelled import DTYPES, Release, add_devices, add_model, ask_devices, find_devices, release_of
from bnbenv.errors import Exit, Failed, UsageError

if TYPE_CHECKING:
    from bnbenv.models.devices import Devices
    from bnbenv.models.environment import Environment
    from bnbenv.models.model import Checkpoint, Skeleton, Workload

SUMMARY = """\
Say whether a model fits into the memory that is free now, loaded with
bitsandbytes: the bytes of its weights as they are laid out, the peak while they
are loaded and converted, the KV cache, and what training adapters takes. All
six quantizations are shown; the answer is about one of them (--quant).

It reads config.json and the headers of the safetensors files: no weights, no
torch. --exact has the environment build the model without its weights.
A GPU's free memory is NVML's; a MIG slice counts as itself; without a GPU it is
the main memory, or what a container may use of it."""
EXAMPLE = """\
bnbenv fit ~/models/Llama-3.1-8B
bnbenv fit org/name --quant int8 --context 32768
bnbenv fit ~/models/big --train --rank 64 --facts h200.json"""
EXITS = (
    "0 it fits, in one way or another, 1 there is no such model or it is broken, 2 wrong usage or a config.json that "
    "cannot be read, "
    "4 it does not fit, 7 the hub cannot be reached"
)

QUANTS = ("none", "int8", "nf4", "nf4-double", "fp4", "fp4-double")
OPTIMIZERS = ("adamw", "adamw-8bit", "paged-adamw-8bit")
LAST_4 = "4.57.6"
CONTEXT = 4096  # tokens, where nobody says how many
MOST_TOKENS = 1 << 27  # of context times batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--quant", choices=QUANTS, help="the quantization in question (default: nf4-double)")
    parser.add_argument("--dtype", choices=DTYPES, help="the type to load it in (default: what transformers takes)")
    parser.add_argument(
        "--context", metavar="N", type=positive_number, help="tokens (default: 4096, or what the model takes)"
    )
    parser.add_argument("--batch", metavar="N", type=positive_number, default=1, help="sequences at once (default: 1)")
    parser.add_argument("--train", action="store_true", help="answer for training LoRA adapters (QLoRA)")
    parser.add_argument("--rank", metavar="N", type=positive_number, default=16, help="of the adapters (default: 16)")
    what = "the modules that get adapters, such as q_proj,v_proj (default: all-linear)"
    parser.add_argument("--target-modules", metavar="A,B", type=_targets, help=what)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw", help="default: adamw")
    parser.add_argument(
        "--checkpointing",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="gradient checkpointing, or none (default: with it)",
    )
    parser.add_argument("--exact", action="store_true", help="build the model in the environment, without its weights")
    parser.add_argument("--trust-remote-code", action="store_true", help="with --exact: run code of the checkpoint")
    add_devices(parser)
    parser.add_argument("--free", metavar="SIZE", type=_size, help="as if so much were free: 24GB, 22GiB")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    """The answer as a document; exit 0 or 4. Raises InputError, CheckpointError, SourceUnreachable, UsageError."""
    _check(args)
    asked = ask_devices(args, ctx)
    checkpoint = _open(args, ctx)
    workload = _workload(args, checkpoint)
    release = release_of(args, ctx)
    from bnbenv.models import report

    if report.method(checkpoint.config) not in (None, "bitsandbytes"):
        devices = _devices(args, ctx, asked, release)
        document = report.quantized_already(checkpoint, devices, workload, release.version, release.of)
        return Outcome(Exit.DONE, document, _view(args, ctx))
    skeleton = _skeleton(args, ctx, checkpoint, release)
    _check_targets(args, skeleton, ctx)
    devices = _devices(args, ctx, asked, release)
    _check_known(devices)
    dtype = DTYPES.get(args.dtype)
    question = report.Asked(args.quant, args.train, workload, dtype, release.version, release.of)
    document = report.document(checkpoint, skeleton, devices, question, _older(checkpoint, skeleton))
    done = Exit.NO_COMBINATION if document["answer"] == "does-not-fit" else Exit.DONE
    return Outcome(done, document, _view(args, ctx))


def _open(args: argparse.Namespace, ctx: Context) -> Checkpoint:
    from bnbenv.models.hub import open_model
    from bnbenv.progress import during

    with during(ctx.progress, f"reading {args.model}"):
        return open_model(args.model, ctx.environ, args.revision)


def _skeleton(args: argparse.Namespace, ctx: Context, checkpoint: Checkpoint, release: Release) -> Skeleton:
    if not args.exact:
        return _by_rows(checkpoint, release.version)
    if release.environment is None:
        message = "--exact builds the model in an environment, and there is none"
        raise UsageError("no-environment", message, "Make it with: bnbenv sync, or name another one with --python PATH")
    return _exact(args, ctx, checkpoint, release.environment)


def _by_rows(checkpoint: Checkpoint, transformers: str | None) -> Skeleton:
    """Of a checkpoint that bitsandbytes quantized, its config.json tells what it was made from."""
    import msgspec

    from bnbenv.models import report
    from bnbenv.models.model import CheckpointError
    from bnbenv.models.skeleton import skeleton

    if report.own(checkpoint.config) is None:
        return skeleton(checkpoint, transformers)
    try:
        return skeleton(msgspec.structs.replace(checkpoint, tensors=None), transformers)
    except CheckpointError:
        if checkpoint.tensors is None:
            raise
        return report.as_stored(checkpoint, transformers)


def _older(checkpoint: Checkpoint, skeleton: Skeleton) -> Skeleton | None:
    """What transformers 4 makes of a model whose experts, or all layers, transformers 5 leaves as they are."""
    from bnbenv.models import report
    from bnbenv.models.model import CheckpointError

    if not skeleton.transformers.startswith("5") or not report.keeps_layers(skeleton):
        return None
    try:
        return _by_rows(checkpoint, LAST_4)
    except CheckpointError:
        return None


def _exact(args: argparse.Namespace, ctx: Context, checkpoint: Checkpoint, environment: Environment) -> Skeleton:
    """Of a model on the hub its config.json is all that is needed."""
    import tempfile
    from pathlib import Path

    from bnbenv.models.dtype import loading_dtype
    from bnbenv.models.exact import exact
    from bnbenv.paths import expand
    from bnbenv.progress import during

    tensors, release = checkpoint.tensors, environment.transformers
    dtype = DTYPES.get(args.dtype) or loading_dtype(checkpoint.config, release, True, tensors)
    with during(ctx.progress, "building the model without its weights"), tempfile.TemporaryDirectory() as place:
        folder = ctx.cwd / expand(args.model)
        if not folder.is_dir():
            import json

            folder = Path(place)
            (folder / "config.json").write_text(json.dumps(checkpoint.config.fields))
        return exact(
            folder,
            environment.python,
            ctx.runner,
            dtype=dtype,
            tensors=tensors,
            trust_remote_code=args.trust_remote_code,
            environ={"PYTHONDONTWRITEBYTECODE": "1"} if environment.untouched else None,
        )


def _devices(args: argparse.Namespace, ctx: Context, asked: Any, release: Release) -> Devices:
    from bnbenv.models.devices import with_free
    from bnbenv.progress import during

    with during(ctx.progress, "asking NVML how much memory is free"):
        found = find_devices(args, ctx, asked, release.environment)
    if args.free is None:
        return found
    from bnbenv.doctor.running.sizes import read_size

    return with_free(found, read_size(args.free))


def _check_known(devices: Devices) -> None:
    """What is not known is no reason to say no."""
    from bnbenv.models.devices import room

    if not devices.gpus and not room(devices.cpu):
        message = f"how much main memory there is cannot be told here, and {devices.missing}"
        raise Failed("unknown-memory", message, "Say how much is free, such as: --free 24GB")


def _check(args: argparse.Namespace) -> None:
    if (args.context or CONTEXT) * args.batch > MOST_TOKENS:
        raise UsageError(
            "usage", f"--context times --batch is more than {MOST_TOKENS} tokens", "See: bnbenv fit --help"
        )


def _check_targets(args: argparse.Namespace, skeleton: Skeleton, ctx: Context) -> None:
    """Names that match nothing: peft refuses them too, unless others match."""
    from bnbenv.models.training import is_adapted

    asked = args.target_modules or ()
    missing = [name for name in asked if not any(is_adapted(one, (name,)) for one in skeleton.parameters)]
    if not missing:
        return
    linear = (one.name.removesuffix(".weight") for one in skeleton.parameters if one.kind == "linear")
    known = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear)) or "none"
    message = f"the model has no linear layer {' or '.join(missing)}, but {known}"
    if len(missing) == len(asked):
        raise UsageError("no-such-module", f"--target-modules: {message}", "Name some of these.")
    ctx.progress.say(f"note: {message}")


def _workload(args: argparse.Namespace, checkpoint: Checkpoint) -> Workload:
    from bnbenv.models.config import longest
    from bnbenv.models.model import Workload

    usual = min(CONTEXT, longest(checkpoint.config) or CONTEXT)
    return Workload(
        args.context or usual, args.batch, args.rank, args.target_modules, args.optimizer, args.checkpointing
    )


def _view(args: argparse.Namespace, ctx: Context) -> dict[str, Any]:
    """How the picture can be drawn here, and what else was given, for the next step."""
    from bnbenv.cli.render.fitpicture import BLOCKS

    given = {
        **{f"--{name}": str(getattr(args, name)) for name in ("python", "env", "revision", "facts", "free", "dtype")},
        **{"--context": str(args.context), "--batch": str(args.batch), "--rank": str(args.rank)},
        **{"--target-modules": ",".join(args.target_modules or ()), "--optimizer": args.optimizer},
        **{"--train": "" if args.train else None, "--no-checkpointing": None if args.checkpointing else ""},
        **{"--exact": "" if args.exact else None, "--quant": args.quant},
    }
    usual = {"--batch": "1", "--rank": "16", "--target-modules": "", "--optimizer": "adamw"}
    called = {name: text for name, text in given.items() if text not in (None, "None") and usual.get(name) != text}
    if ctx.environ.get("BNBENV_PROGRESS") == "lines":
        return {"picture": False, "called": called}
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
        return {"blocks": sys.stdout.isatty(), "called": called}
    except (AttributeError, LookupError, UnicodeError, ValueError):
        return {"called": called}


def _targets(text: str) -> tuple[str, ...] | None:
    names = module_names(text)
    return None if names == ("all-linear",) else names


def _size(text: str) -> str:
    """The text itself, for the next step to say the same."""
    from bnbenv.doctor.running.sizes import read_size

    try:
        read_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text.strip()
