"""One environment brought to one lock: staged at its final path, verified, recorded, and only then switched to."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bnbenv.envs import generations as gens
from bnbenv.envs import guard
from bnbenv.envs.check import Host
from bnbenv.envs.families import asked_for
from bnbenv.envs.fill import Filling
from bnbenv.envs.firststart import is_first, made_for_words
from bnbenv.envs.generations import Generation
from bnbenv.envs.inspection import Inspection
from bnbenv.envs.keep.join import notes_on_module, show_below, stop_on_hidden
from bnbenv.envs.keep.observe import base_reasons
from bnbenv.envs.lockfile import Locked, locked_build
from bnbenv.envs.plan import describe
from bnbenv.envs.project import env_python, site_packages
from bnbenv.envs.record import PTH, Record, digest, file_digest, observe_files, observe_packages, observe_stamps
from bnbenv.envs.resolve import Setting, interpreter, sources_of, uv_for
from bnbenv.envs.together import Switch, Together
from bnbenv.envs.wishes import as_wished
from bnbenv.errors import Failed, VerificationFailed
from bnbenv.paths import write_atomically
from bnbenv.progress import About, during
from bnbenv.solve.model import Solution, telling


@dataclass(frozen=True)
class Options:
    """How to sync.

    ``recorded``: the facts are a recorded file's, so that its GPUs are not there to run on. ``accepted``: the GPUs to
    use were just asked for, so that lost ones are given up. ``together``: what is made waits there to be switched to.
    """

    locked: bool = False
    fresh: bool = False
    verify: bool = True
    recorded: bool = False
    accepted: bool = False
    together: Together | None = None


@dataclass(frozen=True)
class Job:
    """One environment being brought to one lock."""

    setting: Setting
    env: str
    host: Host
    options: Options
    locked: Locked
    solution: Solution
    notes: list[str] = field(default_factory=list)  # what making it showed

    def stage(self) -> tuple[Record, dict[str, Any] | None]:
        """A new generation at its final path: filled, verified, recorded, switched to."""
        project, choice = self.setting.project, self.solution.choice
        if self.setting.supply is not None:
            self.setting.supply.unpack(self.env, None)
        sources = sources_of(self.setting)
        if choice.torch.index is not None:
            sources = sources.with_pytorch(choice.torch.index)
        wheel = locked_build(self.locked) if choice.compiled and self.setting.supply is None else None
        if wheel is not None:  # of this user's own cache: the lock was made or judged a moment ago
            if not wheel.is_file():
                message = f"{wheel.name} has to be installed again, and is no longer in the cache of builds"
                raise Failed("wheel-gone", message, f"Compile it again: bnbenv sync --env {self.env} --fresh")
            sources = sources.with_folder(wheel.parent)
        uv = uv_for(self.setting, self.env, sources)
        kept, runner, environ = self.setting.kept, self.setting.runner, self.setting.environ
        if kept is not None and kept.base is not None:
            python = kept.base.python
            stop_on_hidden(choice, environ)
        else:
            python = interpreter(self.setting, choice.python) or uv.download_python(choice.python)
        generation = gens.new_generation(project, self.env)
        try:
            write_atomically(generation.lock_file, self.locked.text)
            self.setting.progress.say(
                f"{self.env}: installing {len(self.locked.packages)} packages into generation {generation.number}"
            )
            Filling(self.setting, self.env, self.locked, sources, uv, python, self.options.verify).fill(generation)
            self._write_pth(generation.prefix)
            show_below(kept, generation.prefix, runner)
            verification = self._verify(generation.prefix)
            self.notes.extend(notes_on_module(kept, self.locked, env_python(generation.prefix), runner, environ))
            record = self._record(generation, python, verification)
            self._write_record(generation, record)
        except BaseException:
            with during(self.setting.progress, f"{self.env}: clearing away what was begun"):
                gens.remove(generation)
            raise
        self._finish(generation, record, made=True)
        return record, verification

    def reuse(self, generation: Generation) -> tuple[Record, dict[str, Any] | None]:
        """Switch to a finished generation that holds this lock."""
        assert generation.record is not None
        known = generation.record
        if self._damaged(generation):
            return self.stage()
        current = known.verified and known.host == dict(self.host.fingerprint) and not base_reasons(known.base)
        verification = None if current else self._verify(generation.prefix)
        record = self._record(generation, known.python, known.verification if current else verification)
        self._write_record(generation, record)
        self._finish(generation, record)
        return record, verification

    def look_again(self, generation: Generation) -> tuple[Record, dict[str, Any] | None]:
        """The packages are right: run the kernels on the host as it is now, and renew the record."""
        assert generation.record is not None
        if self.options.verify and is_first(generation.record, self.options.recorded):
            made_for = f"what was made from recorded facts, for {made_for_words(generation.record)}"
            self.setting.progress.say(f"{self.env}: first start of {made_for}: its kernels run here now")
        if self._damaged(generation):
            return self.stage()
        verification = self._verify(generation.prefix)
        record = self._record(generation, generation.record.python, verification)
        if self.options.together is not None:  # until then its record is the one that goes with its lock
            self.options.together.switches.append(Switch(self.env, generation, self.locked.text, record=record))
            return record, verification
        write_atomically(generation.lock_file, self.locked.text)
        self._write_record(generation, record)
        self._finish(generation, record)
        return record, verification

    def _damaged(self, generation: Generation) -> bool:
        """Whether a file of a generation was changed after it was installed: it is not run again then.

        One whose kernels never ran is read in full.
        """
        verified = generation.record is not None and generation.record.verified
        wished = self.setting.wishes.envs[self.env].requirements
        asked = asked_for(self.setting.matrix, self.solution.choice, wished)
        progress, every_byte = self.setting.progress, self.options.verify and not verified
        look = Inspection(self.setting.project, self.env, generation, self.locked, asked, progress, every_byte)
        damage = look.finished()
        for one in damage[:1]:
            more = f", and {len(damage) - 1} more" if damage[1:] else ""
            progress.say(f"{self.env}: making a new generation, since in generation {generation.number} {one}{more}")
        return bool(damage)

    def _finish(self, generation: Generation, record: Record, made: bool = False) -> None:
        """Wishes and lock beside the project, then the switch; each in one step. ``made``: it is a new generation."""
        project = self.setting.project
        if self.options.together is not None:
            return self.options.together.switches.append(Switch(self.env, generation, self.locked.text, made))
        lock = project.lock(self.env)
        self.setting.write_wishes()
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
        return run_kernels(self.setting, self.env, self.options, self.solution, prefix)

    def _record(self, generation: Generation, python: str, verification: dict[str, Any] | None) -> Record:
        site = site_packages(generation.prefix)
        assert site is not None
        setting = self.setting
        facts = msgspec.to_builtins(setting.facts)
        now, known = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), generation.record
        wished = setting.wishes.digest(self.env)
        if setting.config is None:  # where the file asks for something else by now, the next check has to read it
            config, environments = as_wished(setting.project, self.env, wished) or ("", [])
        else:
            config, environments = digest(setting.config.encode()), list(setting.wishes.envs)
        earlier = known.verified_at if known and verification is known.verification else now
        return Record(
            generation=generation.number,
            created=known.created if known else now,
            python=python,
            wishes=wished,
            config=config,
            environments=environments,
            lock=digest(self.locked.text.encode()),
            host=dict(self.host.fingerprint),
            facts={key: facts[key] for key in ("platform", "driver", "gpus")},
            packages=observe_packages(site),
            files=observe_files(site),
            decision=self._decision(known),
            verified=verification is not None,
            verification=verification or {},
            verified_at=earlier if verification is not None else None,
            stamps=observe_stamps(site),
            base=setting.kept.observed(self.locked) if setting.kept is not None else None,
        )

    def _write_record(self, generation: Generation, record: Record) -> None:
        """The record, which finishes a generation, and before it the drift guard, where that is wished for."""
        wished = self.setting.wishes.envs[self.env].guard
        guard.settle(generation.prefix, self.env, self.setting.project.lock(self.env).name, record, wished)
        record.write(generation.record_file)

    def _decision(self, known: Record | None) -> dict[str, Any]:
        """What the lock says, and what was passed over: that hangs on this host and day, so it is not in the lock."""
        solution = msgspec.structs.replace(self.locked.decision.solution, rejected=telling(self.solution.rejected))
        decision: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(solution))  # as a record has it: no tuples
        if not decision["rejected"] and known and known.decision.get("choice") == decision["choice"]:
            decision["rejected"] = known.decision.get("rejected", [])
        return decision


def run_kernels(
    setting: Setting,
    env: str,
    options: Options,
    solution: Solution,
    prefix: Path,
    changes: Mapping[str, str | None] = {},
) -> dict[str, Any] | None:
    """Run the kernels of an environment; ``changes`` are variables of its processes.

    None: not asked for, or the recorded GPUs are not here. Raises VerificationFailed.
    """
    from bnbenv.verify.run import devices_for, verify_environment

    facts = setting.facts
    if not options.verify:
        return None
    if options.recorded and facts.gpus:
        setting.progress.say(
            f"{env}: not verified, the facts are recorded: run bnbenv sync again on the machine itself"
        )
        return None
    gpus = () if solution.backend == "cpu" else solution.visible_devices or ("all",)
    unwritten = {"PYTHONDONTWRITEBYTECODE": "1"} if setting.kept is not None else {}  # what lies below is not ours
    # What is set in this shell must not decide: the environment's own .pth does.
    report = verify_environment(
        env_python(prefix),
        devices_for(facts, gpus),
        setting.runner,
        family=setting.wishes.envs[env].family,
        environ={"BNB_CUDA_VERSION": None, **unwritten, **changes},
        progress=About(setting.progress, env),
    )
    document: dict[str, Any] = msgspec.to_builtins(report)
    if not report.ok:
        from bnbenv.verify.report import explain_all, explain_failure

        message = f"{describe(solution)} failed its verification: {explain_failure(report)}"
        step = "The environment in use was kept. Ask for other versions (bnbenv sync --help), or report this one."
        base = setting.kept.base if setting.kept is not None else None
        if base is not None:
            own = f"{base.python} -c 'import torch'"
            step = f"The environment in use was kept. See whether that torch runs by itself: {own}"
        raise VerificationFailed("verification-failed", message, step, explain_all(report))
    return document
