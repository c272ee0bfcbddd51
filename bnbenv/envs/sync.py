"""Carrying a plan out: lock, stage at the final path, verify, and only then switch."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bnbenv.envs import generations as gens
from bnbenv.envs.check import Host, InUse, Reason, check_env, in_use
from bnbenv.envs.generations import Generation
from bnbenv.envs.lockfile import Locked, agrees, read_lock
from bnbenv.envs.plan import EnvPlan, Step, describe, lock_problem, next_step, only_look_again
from bnbenv.envs.project import env_python, site_packages
from bnbenv.envs.record import PTH, Record, digest, file_digest, observe_files, observe_packages
from bnbenv.envs.resolve import Setting, decide, interpreter, make_lock, sources_of, survey
from bnbenv.envs.uv import Uv
from bnbenv.errors import Failed, InputError, NoCombination, VerificationFailed
from bnbenv.paths import write_atomically
from bnbenv.solve.model import Current, Request, Solution


@dataclass(frozen=True)
class Options:
    """How to sync. ``recorded`` is true where the facts are a recorded file's: then GPUs are not there to run on."""

    locked: bool = False
    fresh: bool = False
    verify: bool = True
    recorded: bool = False


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


Say = Callable[[str], None]


def make_plan(setting: Setting, env: str, host: Host, options: Options) -> EnvPlan:
    """What has to be done. Raises InputError (lock, wishes), NoCombination (``--locked`` and it does not fit)."""
    project = setting.project
    reasons = check_env(project, env, host)
    use = in_use(project, env)
    locked, why = usable_lock(setting, env, use)
    if locked is None and options.locked:
        if not project.lock(env).exists():
            raise InputError(str(project.lock(env)), "", "there is no such lock", "Make one with: bnbenv lock")
        message = f"{project.lock(env).name} cannot be used: {why}"
        raise NoCombination("lock-does-not-fit", message, "Choose again with: bnbenv lock")
    step, reuse = _step(setting, env, use, reasons, locked, options.fresh)
    return EnvPlan(env, reasons, locked, None if locked else why, step, reuse)


def usable_lock(setting: Setting, env: str, use: InUse) -> tuple[Locked | None, str | None]:
    """The project's lock if it holds for wishes and host, else why not. Raises InputError if it cannot be read."""
    path = setting.project.lock(env)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None, "there is no lock"
    except OSError as error:
        raise InputError(str(path), "", f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(
            str(path), f"byte {error.start}", "expected UTF-8 text", "bnbenv lock writes it anew"
        ) from None
    locked = agrees(read_lock(text, str(path)), str(path))
    problem = lock_problem(
        locked, env, setting.wishes.digest(env), _request(setting, env, use), setting.facts, setting.matrix
    )
    return (None, problem) if problem else (locked, None)


def _request(setting: Setting, env: str, use: InUse) -> Request:
    current = None
    if use.record is not None:
        choice = use.record.decision.get("choice", {})
        current = Current(
            str(choice.get("python", "")),
            str(choice.get("torch", {}).get("version", "")),
            str(choice.get("bitsandbytes", {}).get("version", "")),
        )
    return setting.wishes.request(env, str(setting.project.config), current)


def _step(
    setting: Setting, env: str, use: InUse, reasons: Sequence[Reason], locked: Locked | None, fresh: bool
) -> tuple[Step, Generation | None]:
    wanted = digest(locked.text.encode()) if locked else None
    finished = tuple(
        generation
        for generation in gens.generations(setting.project, env)
        if generation.usable and generation.record and generation.record.lock == wanted and _intact(generation)
    )
    return next_step(wanted, use, tuple(reasons), finished, fresh)


def _intact(generation: Generation) -> bool:
    site = site_packages(generation.prefix)
    record = generation.record
    if site is None or record is None:
        return False
    packages, files = observe_packages(site), observe_files(site)
    return all(packages.get(k) == v for k, v in record.packages.items()) and all(
        files.get(k) == v for k, v in record.files.items()
    )


def choose(setting: Setting, env: str, use: InUse) -> Solution:
    """What a new lock would hold: sources are asked, the best that can be had is taken. Raises as ``decide``."""
    found, _ = survey(sources_of(setting), setting.facts, setting.matrix)
    return decide(setting, _request(setting, env, use), found)


def new_lock(setting: Setting, env: str, use: InUse, say: Say) -> tuple[Locked, Solution]:
    """Choose and resolve. Raises NoCombination, SourceUnreachable, Failed."""
    say(f"{env}: asking the package sources what they offer")
    found, sources = survey(sources_of(setting), setting.facts, setting.matrix)
    for place, reason in found.unreachable.items():
        if place.endswith(".whl") or "://" in place:
            say(f"{env}: passed over {place}: {reason}" if place.endswith(".whl") else f"{env}: {place}: {reason}")
    solution = decide(setting, _request(setting, env, use), found)
    for note in solution.notes:
        say(f"{env}: {note}")
    say(f"{env}: locking {describe(solution)}, Python {solution.choice.python}")
    return make_lock(setting, env, solution, sources, found), solution


def sync_env(setting: Setting, env: str, host: Host, options: Options, say: Say) -> Done:
    """Bring one environment in sync. The caller holds the project.

    Raises BnbenvError with the environment in use untouched.
    """
    gens.clean_up(setting.project, env)
    gens.check_link(setting.project, env)
    plan = make_plan(setting, env, host, options)
    use = in_use(setting.project, env)
    locked, step, reuse = plan.lock, plan.step, plan.reuse
    solution = locked.decision.solution if locked else None
    if locked is None:
        locked, solution = new_lock(setting, env, use, say)
        step, reuse = _step(setting, env, use, plan.reasons, locked, options.fresh)
        if step is Step.STAGE and not options.fresh and _same_packages(use, plan, locked):
            step = Step.RECORD
    assert solution is not None
    job = _Job(setting, env, host, options, say, locked, solution)
    record, verification = use.record, None
    if step is Step.STAGE:
        record, verification = job.stage()
    elif step is Step.REUSE and reuse is not None:
        record, verification = job.reuse(reuse)
    elif step is Step.RECORD and use.prefix is not None and use.generation is not None:
        generation = Generation(use.generation, use.prefix, use.record)
        record, verification = job.look_again(generation)
    actions = EnvPlan(env, plan.reasons, plan.lock, plan.why_lock, step, reuse).actions(solution, use.record)
    if not options.verify or (verification is None and step is not Step.NOTHING):
        actions = [action for action in actions if action["action"] != "verify"]
    notes = (*solution.notes, *_installed_by_hand(use, step))
    number, verified = (record.generation, record.verified) if record else (None, False)
    return Done(plan, tuple(actions), number, solution, verification, verified, notes)


def _same_packages(use: InUse, plan: EnvPlan, locked: Locked) -> bool:
    """Whether a new lock holds just the files of the generation in use, which then only needs a new record."""
    if use.record is None or use.generation is None or use.prefix is None:
        return False
    if not only_look_again(plan.reasons):
        return False
    saved = Generation(use.generation, use.prefix, use.record).lock_file
    try:
        before = read_lock(saved.read_text(encoding="utf-8"), saved.name)
    except (OSError, InputError):
        return False
    old, new = before.decision.solution, locked.decision.solution
    return before.hashes == locked.hashes and old.choice == new.choice and old.visible_devices == new.visible_devices


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


@dataclass(frozen=True)
class _Job:
    """One environment being brought to one lock."""

    setting: Setting
    env: str
    host: Host
    options: Options
    say: Say
    locked: Locked
    solution: Solution

    def stage(self) -> tuple[Record, dict[str, Any] | None]:
        """A new generation at its final path: filled, verified, recorded, switched to."""
        project, choice = self.setting.project, self.solution.choice
        sources = sources_of(self.setting)
        if choice.torch.index is not None:
            sources = sources.with_pytorch(choice.torch.index)
        uv = Uv.find(self.setting.runner, sources.uv_environment(), project.root, sources.uv_arguments())
        python = interpreter(self.setting.facts, choice.python) or uv.download_python(choice.python)
        generation = gens.new_generation(project, self.env)
        try:
            write_atomically(generation.lock_file, self.locked.text)
            self.say(f"{self.env}: installing {len(self.locked.packages)} packages into generation {generation.number}")
            uv.venv(generation.prefix, python)
            # uv takes a lock by its name, so it is given one under the name that PEP 751 asks for.
            named = generation.prefix / "pylock.toml"
            write_atomically(named, self.locked.text)
            uv.install(named, env_python(generation.prefix))
            self._write_pth(generation.prefix)
            verification = self._verify(generation.prefix)
            record = self._record(generation, python, verification)
        except BaseException:
            gens.remove(generation)
            raise
        self._finish(generation, record)
        return record, verification

    def reuse(self, generation: Generation) -> tuple[Record, dict[str, Any] | None]:
        """Switch to a finished generation that holds this lock."""
        assert generation.record is not None
        known = generation.record
        current = known.verified and known.host == dict(self.host.fingerprint)
        verification = None if current else self._verify(generation.prefix)
        record = self._record(generation, known.python, known.verification if current else verification)
        self._finish(generation, record)
        return record, verification

    def look_again(self, generation: Generation) -> tuple[Record, dict[str, Any] | None]:
        """The packages are right: run the kernels on the host as it is now, and renew the record."""
        assert generation.record is not None
        verification = self._verify(generation.prefix)
        write_atomically(generation.lock_file, self.locked.text)
        record = self._record(generation, generation.record.python, verification)
        self._finish(generation, record)
        return record, verification

    def _finish(self, generation: Generation, record: Record) -> None:
        """The record last, wishes and lock beside the project, then the switch; each in one step."""
        project, config = self.setting.project, self.setting.config
        lock = project.lock(self.env)
        record.write(generation.record_file)
        if config is not None:
            write_atomically(project.config, config)
        if file_digest(lock) != record.lock:
            write_atomically(lock, self.locked.text)
        gens.switch(project, self.env, generation)

    def _write_pth(self, prefix: Path) -> None:
        """What the solution says must be set, at interpreter start and for every way in, unless it is set already."""
        values = dict(self.solution.choice.environment)
        if self.solution.visible_devices:
            values["CUDA_VISIBLE_DEVICES"] = ",".join(self.solution.visible_devices)
        site = site_packages(prefix)
        if site is None:
            raise Failed("no-site-packages", f"{prefix} has no site-packages", "Run it again: bnbenv sync --fresh")
        if values:
            write_atomically(site / PTH, f"import os; [os.environ.setdefault(k, v) for k, v in {values!r}.items()]\n")

    def _verify(self, prefix: Path) -> dict[str, Any] | None:
        """Run the kernels. Raises VerificationFailed. None: not asked for, or the recorded GPUs are not here."""
        from bnbenv.verify.run import devices_for, verify_environment

        facts = self.setting.facts
        if not self.options.verify:
            return None
        if self.options.recorded and facts.gpus:
            self.say(f"{self.env}: not verified, the facts are recorded: run bnbenv sync again on the machine itself")
            return None
        gpus = () if self.solution.backend == "cpu" else self.solution.visible_devices or ("all",)
        self.say(f"{self.env}: running kernels ({self.solution.backend})")
        # What is set in this shell must not decide: the environment's own .pth does.
        report = verify_environment(
            env_python(prefix), devices_for(facts, gpus), self.setting.runner, environ={"BNB_CUDA_VERSION": None}
        )
        document: dict[str, Any] = msgspec.to_builtins(report)
        if not report.ok:
            from bnbenv.verify.run import explain_failure

            message = f"the kernels of {describe(self.solution)} failed: {explain_failure(report)}"
            step = "The environment in use was kept. Look closer with: bnbenv verify, and report the combination."
            raise VerificationFailed("verification-failed", message, step)
        return document

    def _record(self, generation: Generation, python: str, verification: dict[str, Any] | None) -> Record:
        site = site_packages(generation.prefix)
        assert site is not None
        setting = self.setting
        facts = msgspec.to_builtins(setting.facts)
        return Record(
            generation=generation.number,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            python=python,
            wishes=setting.wishes.digest(self.env),
            config=file_digest(setting.project.config) if setting.config is None else digest(setting.config.encode()),
            environments=list(setting.wishes.envs),
            lock=digest(self.locked.text.encode()),
            host=dict(self.host.fingerprint),
            facts={key: facts[key] for key in ("platform", "driver", "gpus")},
            packages=observe_packages(site),
            files=observe_files(site),
            decision=msgspec.to_builtins(self.locked.decision.solution),
            verified=verification is not None,
            verification=verification or {},
        )
