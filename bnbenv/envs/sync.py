"""Carrying a plan out: lock, stage at the final path, verify, and only then switch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from bnbenv.envs import generations as gens
from bnbenv.envs.adapt import asked_about, held_by_earlier, stop_on_loss, what_is_there
from bnbenv.envs.adopted import carry_out, left_behind, plan_adopted, solution_of
from bnbenv.envs.check import Host, InUse, Look, Reason, check_env, in_use
from bnbenv.envs.families import mix_note
from bnbenv.envs.generations import Generation
from bnbenv.envs.keep.above import notes_on
from bnbenv.envs.keep.find import remember, same_place, with_existing, with_kept
from bnbenv.envs.lockfile import Locked, agrees, known_wheels, measured, read_lock, read_saved_lock
from bnbenv.envs.plan import EnvPlan, Step, describe, lock_problem, next_step, only_look_again
from bnbenv.envs.project import site_packages
from bnbenv.envs.record import digest, observe_files, observe_packages, same_stamp
from bnbenv.envs.resolve import Setting, chosen_torch, decide, make_lock
from bnbenv.envs.stage import Job, Options
from bnbenv.envs.survey import survey
from bnbenv.envs.trust import check_files
from bnbenv.errors import InputError, NoCombination
from bnbenv.progress import during
from bnbenv.solve.model import Availability, Current, Request, Solution
from bnbenv.solve.situation import with_request


@dataclass(frozen=True)
class Done:
    """What was done for one environment. ``verified``: its kernels ran and agreed, now or earlier on this host."""

    plan: EnvPlan
    actions: tuple[dict[str, Any], ...]
    generation: int | None
    solution: Solution
    verification: dict[str, Any] | None
    verified: bool
    notes: tuple[str, ...] = field(default=())


def make_plan(setting: Setting, env: str, host: Host, options: Options, driver: str | None = None) -> EnvPlan:
    """What has to be done. ``driver``: the facts are as if it were installed.

    Raises InputError (lock, wishes), NoCombination (``--locked`` and it does not fit, a GPU is lost), Failed (made by a
    newer bnbenv).
    """
    project = setting.project
    if not options.fresh:
        gens.check_newer(project, env)
    setting = with_kept(setting, env)
    asked = None
    if options.together is not None and setting.config is not None:  # the file that is there need not be readable
        asked = digest(setting.config.encode()), setting.wishes
    reasons = check_env(project, env, host, Look(project, asked))
    use = in_use(project, env)
    notes = stop_on_loss(setting, env, use, options.accepted, ahead=driver is not None)
    if driver is not None:
        reasons = asked_about(env, driver, reasons, use.record)
    adopted = None if options.fresh or setting.supply is not None else plan_adopted(setting, env, use, reasons, notes)
    if adopted is not None:
        return adopted
    intact = use.record is not None and only_look_again(reasons) and not options.fresh
    locked, why = usable_lock(setting, env, use.record.lock if intact and use.record else None)
    if locked is None and options.locked:
        if not project.lock(env).exists():
            expected = "--locked needs a lock, and there is none"
            raise InputError(str(project.lock(env)), "", expected, "Make one with: bnbenv lock")
        message = f"{project.lock(env).name} cannot be used: {why}"
        raise NoCombination("lock-does-not-fit", message, "Choose again with: bnbenv lock")
    step, reuse = _step(setting, env, use, reasons, locked, options.fresh)
    known = reuse.record if reuse else None
    verified = driver is None and known is not None and known.verified and known.host == dict(host.fingerprint)
    if locked is not None:
        notes += _mixed(setting, env, locked.packages)
    own = any(one.usable and not one.adopted for one in gens.generations(project, env))
    kept = locked is None and own and not options.fresh
    return EnvPlan(env, reasons, locked, None if locked else why, step, reuse, tuple(notes), verified, kept)


def usable_lock(setting: Setting, env: str, installed: str | None = None) -> tuple[Locked | None, str | None]:
    """The project's lock if it holds for wishes and host, else why not.

    ``installed`` is the digest of the lock whose packages are in use, whole: its compiled wheel is not needed any more.
    Raises InputError if it cannot be read, UsageError if it is not to be trusted.
    """
    path = setting.project.lock(env)
    check_files([path], setting.project, setting.environ)
    try:
        text = path.read_text(encoding="utf-8") if setting.supply is None else setting.supply.locks[env]
    except FileNotFoundError:
        return None, "there is no lock"
    except OSError as error:
        step = "Move it away, then choose again with: bnbenv lock"
        raise InputError(str(path), "", f"cannot be read ({error.strerror})", step) from None
    except UnicodeDecodeError as error:
        raise InputError(
            str(path), f"byte {error.start}", "expected UTF-8 text", "bnbenv lock writes it anew"
        ) from None
    return judge_lock(setting, env, text, str(path), installed)


def judge_lock(
    setting: Setting, env: str, text: str, file: str, installed: str | None = None, request: Request | None = None
) -> tuple[Locked | None, str | None]:
    """The lock with this text if it holds for wishes and host, else why not; ``installed`` as in ``usable_lock``.

    ``request``: what it has to fulfil besides the wishes that it was made for. Raises InputError.
    """
    locked = agrees(read_lock(text, file), file)
    if locked.decision.solution.choice.compiled:
        from bnbenv.envs.builds import own_row, with_row

        row, why = own_row(setting, locked) if setting.supply is None else setting.supply.row(locked)
        if digest(text.encode()) == installed:
            row = row or locked.decision.wheel
        if row is None:
            return None, why
        setting = replace(setting, matrix=with_row(setting.matrix, row))
    else:
        if locked.decision.solution.choice.wheel is not None:
            setting = _knowing(setting, locked.packages["bitsandbytes"])
        locked = measured(locked, setting.matrix, setting.facts.platform, file)
    facts, request = setting.ahead(request or _request(setting, env))
    problem = lock_problem(locked, env, setting.wishes.digest(env), request, facts, setting.matrix)
    if problem is None and setting.kept is not None:
        problem = setting.kept.problem(locked)
    return (None, problem) if problem else (locked, None)


def _knowing(setting: Setting, version: str) -> Setting:
    """With a row for a release that came out after this bnbenv: who wrote the lock may have measured it elsewhere."""
    if known_wheels(setting.matrix, version, setting.facts.platform):
        return setting
    return survey(setting).setting


def _request(setting: Setting, env: str, current: Current | None = None) -> Request:
    """The request; with ``current``, to stay close to that: under ``minimal-change``, or after what was adopted."""
    request = setting.wishes.request(env, str(setting.project.config), current)
    return with_request(request, prefer="minimal-change") if current is not None else request


def _step(
    setting: Setting, env: str, use: InUse, reasons: Sequence[Reason], locked: Locked | None, fresh: bool
) -> tuple[Step, Generation | None]:
    wanted = digest(locked.text.encode()) if locked else None
    finished = tuple(
        generation
        for generation in gens.generations(setting.project, env)
        if generation.usable and generation.record and generation.record.lock == wanted and _intact(generation)
        if setting.kept is None or setting.kept.lies_below(generation.record)
    )
    return next_step(wanted, use, tuple(reasons), finished, fresh)


def _intact(generation: Generation) -> bool:
    site = site_packages(generation.prefix)
    record = generation.record
    if site is None or record is None:
        return False
    packages, files = observe_packages(site), observe_files(site)
    return all(packages.get(k) == v for k, v in record.packages.items()) and all(
        same_stamp(v, files.get(k)) for k, v in record.files.items()
    )


def choose(setting: Setting, env: str, use: InUse) -> Solution:
    """What a new lock would hold: sources are asked, the best that can be had is taken. Raises as ``decide``.

    Its notes also name the sources that did not answer.
    """
    found, sources, setting = survey(with_kept(setting, env), setting.wishes.envs[env].family)
    found = with_existing(setting, found)
    solution = decide(setting, _request(setting, env, what_is_there(setting, env, use)[0]), found, sources)
    asked = (re.split(r"[^A-Za-z0-9._-]", text.strip())[0] for text in setting.wishes.envs[env].requirements)
    notes = (*_silent(found), *solution.notes, *_mixed(setting, env, asked))
    return msgspec.structs.replace(solution, notes=notes)


def _mixed(setting: Setting, env: str, packages: Iterable[str]) -> list[str]:
    """The warning about families that share an environment, where they do."""
    note = mix_note(setting.wishes.envs[env].family, packages, setting.matrix.families)
    return [note] if note else []


def _silent(found: Availability) -> list[str]:
    """The configured sources that did not answer, and the local wheels that could not be read, each with the reason."""
    said = [(place, reason) for place, reason in found.unreachable.items() if place.endswith(".whl") or "://" in place]
    return [f"{'passed over ' if place.endswith('.whl') else ''}{place}: {reason}" for place, reason in said]


def new_lock(setting: Setting, env: str, use: InUse, anew: bool = False) -> tuple[Locked, Solution]:
    """Choose, compile what is to be compiled, and resolve. Raises NoCombination, SourceUnreachable, Failed, Busy.

    ``anew``: a torch that is kept is looked for again.
    """
    setting = with_kept(setting, env, anew)
    setting.progress.say(f"{env}: asking the package sources what they offer")
    found, sources, setting = survey(setting, setting.wishes.envs[env].family)
    found = with_existing(setting, found)
    for line in _silent(found):
        setting.progress.say(f"{env}: {line}")
    current, others = what_is_there(setting, env, use)
    request = _request(setting, env, current)
    solution = decide(setting, request, found, sources)
    for note in solution.notes:
        setting.progress.say(f"{env}: {note}")
    built = None
    if solution.choice.compiled:
        from bnbenv.envs.builds import build_for

        torch = chosen_torch(setting, found, solution)
        solution, built = build_for(setting, env, solution, sources, request, torch)
    setting.progress.say(f"{env}: locking {describe(solution)}, Python {solution.choice.python}")
    keep = {**held_by_earlier(setting, env), **others}
    locked = make_lock(setting, env, solution, sources, found, keep, built)
    remember(setting, env)
    notes = (*solution.notes, *notes_on(setting, env, locked), *_mixed(setting, env, locked.packages))
    return locked, msgspec.structs.replace(solution, notes=notes)


def sync_env(setting: Setting, env: str, host: Host, options: Options) -> Done:
    """Bring one environment in sync. The caller holds the project.

    Raises BnbenvError with the environment in use untouched.
    """
    with during(setting.progress, f"{env}: clearing away what an earlier run left"):
        gens.clean_up(setting.project, env)
    gens.check_link(setting.project, env)
    setting = with_kept(setting, env)
    plan = make_plan(setting, env, host, options)
    use = in_use(setting.project, env)
    if plan.adopted:
        return _adopted(setting, plan, use, options)
    locked, step, reuse = plan.lock, plan.step, plan.reuse
    solution = locked.decision.solution if locked else None
    if locked is None:
        locked, solution = new_lock(setting, env, use)
        step, reuse = _step(setting, env, use, plan.reasons, locked, options.fresh)
        if step is Step.STAGE and not options.fresh and _same_packages(setting, use, plan, locked):
            step = Step.RECORD
    assert solution is not None
    job = Job(setting, env, host, options, locked, solution)
    record, verification = use.record, None
    if step is Step.STAGE:
        record, verification = job.stage()
    elif step is Step.REUSE and reuse is not None:
        record, verification = job.reuse(reuse)
    elif step is Step.RECORD and use.generation is not None:
        record, verification = job.look_again(gens.generation_of(setting.project, env, use))
    actions = EnvPlan(env, plan.reasons, plan.lock, plan.why_lock, step, reuse).actions(solution, use.record)
    if not options.verify or (verification is None and step is not Step.NOTHING):
        actions = [action for action in actions if action["action"] != "verify"]
    notes = (*plan.notes, *solution.notes, *job.notes, *_installed_by_hand(use, step), *left_behind(env, use, locked))
    number, verified = (record.generation, record.verified) if record else (None, False)
    return Done(plan, tuple(actions), number, solution, verification, verified, notes)


def _adopted(setting: Setting, plan: EnvPlan, use: InUse, options: Options) -> Done:
    """Generation zero stays in use, or becomes so."""
    record, verification = carry_out(setting, plan, use, options)
    solution = solution_of(record)
    assert solution is not None
    actions = plan.actions(solution, record)
    if verification is None:
        actions = [action for action in actions if action["action"] != "verify"]
    return Done(plan, tuple(actions), record.generation, solution, verification, record.verified, plan.notes)


def _same_packages(setting: Setting, use: InUse, plan: EnvPlan, locked: Locked) -> bool:
    """Whether a new lock holds just the files of the generation in use, which then only needs a new record."""
    if use.record is None or use.generation is None:
        return False
    if not only_look_again(plan.reasons):
        return False
    before = read_saved_lock(gens.generation_of(setting.project, plan.env, use).lock_file)
    if before is None:
        return False
    old, new = before.decision.solution, locked.decision.solution
    same = before.hashes == locked.hashes and same_place(before, locked)
    return same and old.choice == new.choice and old.visible_devices == new.visible_devices


def _installed_by_hand(use: InUse, step: Step) -> tuple[str, ...]:
    """What people added to the generation that is being left; it stays there, and is not in the new one."""
    if step is not Step.STAGE or use.record is None or use.prefix is None:
        return ()
    site = site_packages(use.prefix)
    if site is None:
        return ()
    known = {stem.partition("-")[0] for stem in use.record.packages}
    added = sorted(stem.partition("-")[0] for stem in observe_packages(site) if stem.partition("-")[0] not in known)
    if not added:
        return ()
    names = ", ".join(added[:6]) + (" and more" if len(added) > 6 else "")
    return (f"installed by hand and not in the new generation: {names}; add them to requirements in bnbenv.toml",)
