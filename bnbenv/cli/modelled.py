"""What commands about a model need: its options, the release of transformers that loads it, the devices."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from bnbenv.cli.command import Context
from bnbenv.paths import Sysroot

if TYPE_CHECKING:
    from bnbenv.models.devices import Asked, Devices
    from bnbenv.models.environment import Environment
    from bnbenv.models.model import Checkpoint

NAMED = "named in llm_int8_skip_modules"  # why a parameter is kept, as Skeleton says it
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which model, and which environment loads it."""
    parser.add_argument("model", metavar="MODEL", help="a folder, or a model's name on the hub")
    parser.add_argument("--revision", metavar="R", help="of a model on the hub: a branch, a tag or a commit")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--env", metavar="NAME", help="the environment that loads it (default: bnb, if it is there)")
    which.add_argument("--python", metavar="PATH", help="another environment's Python, or its folder")


def add_devices(parser: argparse.ArgumentParser) -> None:
    """For which machine."""
    parser.add_argument("--facts", metavar="FILE", help="for the GPUs of recorded facts (bnbenv facts --json)")


class Release(NamedTuple):
    """The transformers that is meant: ``version`` None is the newest known, ``of`` says in words where it was found."""

    version: str | None
    of: str
    environment: Environment | None


def release_of(args: argparse.Namespace, ctx: Context) -> Release:
    """The transformers of the environment that was named, else of the project's, else the newest that is known.

    Raises UsageError (no such Python or environment), Failed (the environment that was named was never made).
    """
    from bnbenv.cli.common import project_of
    from bnbenv.models.environment import find_environment

    found = find_environment(project_of(args, ctx), ctx.cwd, ctx.environ, args.env, args.python)
    if found is None:
        return Release(None, "the newest release that is known", None)
    if found.transformers is None:
        return Release(None, f"the newest release that is known, since {found.called} has none", found)
    return Release(found.transformers, found.called, found)


def skips_of(checkpoint: Checkpoint, transformers: str | None, names: Sequence[str], ctx: Context) -> tuple[str, ...]:
    """Modules that are to stay as they are: those that were named, and the output layer; says what names nothing.

    Raises CheckpointError where the parameters cannot be told.
    """
    from bnbenv.models.loading import skipped
    from bnbenv.models.skeleton import skeleton

    missing = [
        name
        for name in names
        if not any(one.kept == NAMED for one in skeleton(checkpoint, transformers, (name,)).parameters)
    ]
    if missing:
        ctx.progress.say(f"note: --skip-modules: the model has no layer {' or '.join(missing)} to skip")
    return skipped(skeleton(checkpoint, transformers), tuple(names))


def ask_devices(args: argparse.Namespace, ctx: Context) -> Asked | None:
    """Begin to ask NVML, unless recorded facts are meant."""
    if args.facts is not None or ctx.environ.get("BNBENV_FACTS"):
        return None
    from bnbenv.models.devices import ask

    return ask(ctx.environ, Sysroot.from_environment(ctx.environ))


def find_devices(args: argparse.Namespace, ctx: Context, asked: Asked | None, found: Environment | None) -> Devices:
    """The devices that a program in that environment would see. Raises InputError for facts that cannot be read."""
    from bnbenv.models import devices

    sysroot = Sysroot.from_environment(ctx.environ)
    shown = ctx.environ.get("CUDA_VISIBLE_DEVICES", None if found is None else _selected(found))
    if asked is None:
        from bnbenv.cli.common import facts_of

        return devices.recorded(facts_of(ctx, args.facts), devices.main_memory_device(sysroot), shown)
    from bnbenv.facts.quick import quick_facts

    state = quick_facts(ctx.environ, sysroot).state
    return devices.now(asked.answer(), sysroot, shown, "CUDA_DEVICE_ORDER" not in ctx.environ, state)


def _selected(found: Environment) -> str | None:
    """CUDA_VISIBLE_DEVICES as the environment's own .pth sets it, where it was made for some of the GPUs alone."""
    from bnbenv.envs.record import read_record

    prefix = found.python.parent.parent.resolve()
    record = read_record(prefix.with_suffix(".json"))
    decided = record.decision.get("visible_devices") if record else None
    return ",".join(decided) if decided else None
