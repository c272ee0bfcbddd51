"""All of it in turn: look, stage, quantize, complete, and put it in its place."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from bnbenv.errors import Failed, UsageError
from bnbenv.models.environment import Environment
from bnbenv.models.model import Checkpoint, CheckpointError
from bnbenv.models.prequantize.finish import all_files, check_result, copy_others
from bnbenv.models.prequantize.inputs import changed, sources
from bnbenv.models.prequantize.note import NOTE, Note, complete, encode
from bnbenv.models.prequantize.order import Job, Order, difference
from bnbenv.models.prequantize.run import AGAIN, SCRIPT, Follower, OtherPackages, Plan, run
from bnbenv.models.prequantize.staging import Staging, staged, staging_folder, sync_files
from bnbenv.models.prequantize.target import check_room, check_target, no_space
from bnbenv.paths import write_atomically
from bnbenv.process import Runner
from bnbenv.progress import Progress, during, shown_size

REQUIRED = ("torch", "transformers", "accelerate", "bitsandbytes", "safetensors")


class Ports(NamedTuple):
    """The effects. ``changes`` are to the environment of the process, ``free`` is memory in bytes (None: unknown).

    ``script`` is what the environment's Python runs.
    """

    runner: Runner
    progress: Progress
    environ: Mapping[str, str]
    changes: Mapping[str, str | None] = {}
    free: int | None = None
    script: Path = SCRIPT


class Made(NamedTuple):
    """The result. ``there``: it lay there already, made by an earlier run of the same job. ``kept`` files were taken
    over from a run that was interrupted. ``seconds`` are all, ``quantizing`` those without imports and without what is
    done around it. ``warnings`` and ``notes`` are sentences."""

    note: Note
    there: bool
    kept: int
    seconds: float
    quantizing: float = 0.0
    copied: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def prequantize(order: Order, checkpoint: Checkpoint, environment: Environment, predicted: int, ports: Ports) -> Made:
    """Make the checkpoint that was ordered. ``predicted`` are the bytes that it will have.

    Whatever ends it, OUT is as it was before, or whole. Raises UsageError where it may not go there, CheckpointError,
    Failed (``exists``, ``no-space``, ``out-of-memory``, ``changed`` ...), Busy, OSError.
    """
    environment.require(*REQUIRED)
    packages = {name: environment.versions[name] for name in REQUIRED}
    read = sources(order.model, checkpoint, order.trust_remote_code)
    job = Job(order.options(), read, packages)
    if (there := _look(order, job)) is not None and not staging_folder(order.out).exists():
        return there
    check_room(order.out, predicted, _begun(order.out))
    with staged(order.out, ports.environ, ports.progress.say) as staging:
        if (there := _look(order, job)) is not None:  # another run has just ended
            return there
        staging.begin(job, ports.progress)
        kept = len(staging.shards)
        started = time.monotonic()
        follower = _quantize(order, environment, staging, job, predicted, ports)
        if names := changed(order.model, read, checkpoint):
            staging.anew(job)
            message = f"the checkpoint changed while it was read ({', '.join(names[:3])})"
            raise CheckpointError("changed", message, "Wait until nothing writes into it, then run it again.")
        try:
            with during(ports.progress, "completing the folder"):
                note, copied, notes = _complete(order, staging, job, follower)
                staging.switch(replace=_replaced(order))
        except OSError as error:
            raise _no_room(error, order, predicted, staging) from error
        assert follower.done is not None
        seconds = time.monotonic() - started
        quantizing = float(follower.done["seconds"])
        return Made(note, False, kept, seconds, quantizing, tuple(copied), tuple(follower.warnings), tuple(notes))


def _look(order: Order, job: Job) -> Made | None:
    """What lies at OUT already, if it is what was ordered. Raises UsageError, Failed where it is something else."""
    note = check_target(order)
    if note is None or order.force:
        return None
    other = difference(note.job, job) or (None if complete(order.out, note) else "files that are missing or changed")
    if other is None:
        return Made(note, True, 0, 0.0)
    raise _exists(order, f"with {other}")


def _replaced(order: Order) -> bool:
    """Whether something is to be replaced. Hours have gone by: raises UsageError for what came there meanwhile."""
    there = check_target(order)
    if there is not None and not order.force:
        raise _exists(order, "which came there meanwhile")
    return there is not None


def _exists(order: Order, what: str) -> UsageError:
    step = "Name another folder, or replace it: --force"
    return UsageError("exists", f"{order.out} holds the result of an earlier run, {what}", step)


def _begun(out: Path) -> int:
    """Bytes of the finished files of an earlier run, which need no room any more."""
    folder = staging_folder(out) / "out"
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except OSError:
        return 0


def _quantize(
    order: Order, environment: Environment, staging: Staging, job: Job, predicted: int, ports: Ports
) -> Follower:
    """Raises as ``run`` does; a disk that is full, with numbers."""
    while True:
        follower = _follower(order, staging, predicted, ports)
        try:
            program = (str(environment.python), str(ports.script))
            run(order, program, staging.out, staging.shards, follower, ports.runner, ports.changes)
        except OtherPackages:
            ports.progress.say("begun anew, since an earlier run had other packages")
            staging.anew(job)
        except OSError as error:
            raise _no_room(error, order, predicted, staging) from error
        except Failed as error:
            if error.code == "disk-full":
                raise no_space(order.out, _size(follower.plan, predicted), staging.finished) from None
            if error.code == "other-plan" and staging.shards:
                ports.progress.say("begun anew, since an earlier run had another plan")
                staging.anew(job)
                continue
            if isinstance(error, CheckpointError):  # nothing can come of what is finished
                staging.anew(job)
            elif staging.shards and not error.next_step.startswith(AGAIN[:5]):
                error.next_step = f"{error.next_step} {len(staging.shards)} finished files are kept.".strip()
            raise
        else:
            return follower


def _follower(order: Order, staging: Staging, predicted: int, ports: Ports) -> Follower:
    def told(packages: Mapping[str, str]) -> None:
        assert staging.journal is not None
        staging.write(msgspec.structs.replace(staging.journal, packages=packages))

    def planned(plan: Plan) -> None:
        check_room(order.out, plan.bytes, staging.finished)
        if ports.free is not None and plan.largest > ports.free:
            where = "the GPU" if order.device.startswith("cuda") else "this machine"
            message = (
                f"the largest tensor takes {shown_size(plan.largest)} of memory while it is quantized, and"
                f" {shown_size(ports.free)} are free on {where}"
            )
            raise Failed("out-of-memory", message, "Free memory there, or choose another device with --device.")
        what = f"{plan.converted} of {plan.converted + plan.kept} tensors"
        ports.progress.say(f"quantizing {what} to {order.quantization}, on {order.device}")

    packages = staging.journal.packages if staging.journal else None
    return Follower(ports.progress, packages, told, planned, staging.add)


def _size(plan: Plan | None, predicted: int) -> int:
    return plan.bytes if plan else predicted


def _no_room(error: OSError, order: Order, predicted: int, staging: Staging) -> Exception:
    import errno

    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return no_space(order.out, predicted, staging.finished) if full else error


def _complete(order: Order, staging: Staging, job: Job, follower: Follower) -> tuple[Note, list[str], list[str]]:
    from bnbenv import __version__

    assert follower.plan is not None and follower.done is not None
    shards = {name: staging.shards[name] for name in sorted(staging.shards)}
    check_result(staging.out, shards, int(follower.done["total_size"]))
    copied, notes = copy_others(order.model, staging.out, order.trust_remote_code)
    plan = follower.plan
    note = Note(
        source=order.source,
        revision=_commit(order.model),
        bnbenv=__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        quantization=order.quantization,
        dtype=plan.dtype,
        job=job,
        files=all_files(staging.out, shards),
        tensors={"converted": plan.converted, "kept": plan.kept, "left_out": plan.left_out},
    )
    write_atomically(staging.out / NOTE, encode(note))
    sync_files(staging.out)
    return note, copied, notes


def _commit(model: Path) -> str | None:
    """The commit of a snapshot in the hub's cache."""
    return model.name if model.parent.name == "snapshots" else None
