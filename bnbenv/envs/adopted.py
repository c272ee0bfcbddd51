"""An environment that was adopted, afterwards: it stays as generation zero, or is left for one that is made from it."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from bnbenv.envs import generations as gens
from bnbenv.envs.adoption import FAILED, NEVER_ASKED, UNTOUCHED, few
from bnbenv.envs.check import InUse, Reason
from bnbenv.envs.lockfile import Locked, normalized
from bnbenv.envs.plan import EnvPlan, Step
from bnbenv.envs.record import Record
from bnbenv.envs.resolve import Setting
from bnbenv.envs.stage import Options, run_kernels
from bnbenv.errors import VerificationFailed
from bnbenv.solve.model import Solution


def plan_adopted(
    setting: Setting, env: str, use: InUse, reasons: tuple[Reason, ...], notes: list[str]
) -> EnvPlan | None:
    """The plan where generation zero is, or is about to be, in use and may stay so; None: a new one has to be made."""
    codes = {reason.code for reason in reasons}
    if use.record is not None and use.record.adopted is not None and solution_of(use.record) is not None:
        if codes <= {"unverified"}:
            step = Step.RECORD if reasons else Step.NOTHING
            return EnvPlan(env, reasons, None, None, step, notes=tuple(notes), adopted=True)
        return None
    zero = gens.adopted(setting.project, env)
    if codes != {"no-environment"} or zero is None or not zero.usable or solution_of(zero.record) is None:
        return None
    assert zero.record is not None
    if zero.record.wishes != setting.wishes.digest(env) or len(gens.generations(setting.project, env)) > 1:
        return None
    # As verified as it was when it was adopted: the next check says so.
    return EnvPlan(env, reasons, None, None, Step.REUSE, zero, tuple(notes), verified=True, adopted=True)


def solution_of(record: Record | None) -> Solution | None:
    """What an adopted environment holds, as it was recorded; None where that cannot be read."""
    try:
        return msgspec.convert(record.decision, Solution) if record is not None else None
    except (msgspec.ValidationError, RecursionError):
        return None


def carry_out(setting: Setting, plan: EnvPlan, use: InUse, options: Options) -> tuple[Record, dict[str, Any] | None]:
    """Do what a plan for generation zero says; its record and the report of the kernels, where they ran.

    Raises VerificationFailed, after which the next sync makes a generation of bnbenv's own.
    """
    env, project = plan.env, setting.project
    if plan.step is Step.REUSE and plan.reuse is not None and plan.reuse.record is not None:
        gens.switch(project, env, plan.reuse)
        return plan.reuse.record, None
    generation = gens.generation_of(project, env, use)
    record, solution = generation.record, solution_of(generation.record)
    assert record is not None and solution is not None
    if plan.step is not Step.RECORD:
        return record, None
    try:
        verification = run_kernels(setting, env, options, solution, generation.prefix, UNTOUCHED)
    except VerificationFailed as error:
        record._replace(decision={**record.decision, "against": {FAILED: error.message}}).write(generation.record_file)
        error.next_step = f"Make a generation of bnbenv's own from what it holds: bnbenv sync --env {env}"
        raise
    if verification is not None:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        record = record._replace(verified=True, verification=verification, verified_at=now)
        record.write(generation.record_file)
    return record, verification


def left_behind(env: str, use: InUse, locked: Locked) -> tuple[str, ...]:
    """What is to be said where a generation of bnbenv's own follows an adopted one: how it differs from that. Pure."""
    if use.record is None or use.record.adopted is None:
        return ()
    stems = (stem.partition("-") for stem in use.record.packages)
    had = {normalized(name): version for name, _, version in stems}
    now = locked.packages
    moved = [f"{name} {had[name]} -> {now[name]}" for name in sorted(had.keys() & now.keys()) if had[name] != now[name]]
    gone = sorted(had.keys() - now.keys() - {*NEVER_ASKED})
    return (
        f"{use.record.adopted} stays as it is: bnbenv rollback --env {env} goes back to it",
        *([f"other versions than there: {few(moved)}"] if moved else []),
        *([f"there, and not in the new generation: {few(gone)}"] if gone else []),
    )
