"""Carrying fixes out: the plan first, then the way back, then the change, then its kernels; or what was there again."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bnbenv.doctor.fixes import change, records, source_builds, splitting
from bnbenv.doctor.fixes.choose import choose, edited
from bnbenv.doctor.fixes.model import (
    Action,
    Compile,
    Delete,
    DropSetting,
    Hands,
    Install,
    Mended,
    NewGeneration,
    PlanStep,
    Split,
    Treatment,
)
from bnbenv.doctor.fixes.patient import shell
from bnbenv.doctor.fixes.prescribe import treat
from bnbenv.doctor.fixes.records import MendRecord, SavedFile
from bnbenv.doctor.fixes.undo import back
from bnbenv.doctor.model import Examination, Finding
from bnbenv.errors import BnbenvError, Failed, VerificationFailed
from bnbenv.matrix.model import Matrix
from bnbenv.paths import write_atomically
from bnbenv.solve.situation import reboot_required

# Files with their bytes before and after.
Edits = dict[Path, tuple[bytes, bytes]]


def carry_out(
    findings: Sequence[Finding], examination: Examination, matrix: Matrix, hands: Hands, *, yes: bool
) -> Mended:
    """See ``bnbenv.doctor.fixes.carry_out``."""
    if examination.facts.driver.state == "mismatch":
        raise reboot_required(examination.facts.driver)
    treatments = _treatments(findings, examination, matrix, hands)
    actions = _without_doubles(action for one in treatments for action in one.actions)
    if not actions:
        return Mended(state="nothing", notes=_why_nothing(findings))
    plan = tuple(step for action in actions for step in _steps(action, examination, hands))
    generations = [isinstance(action, NewGeneration | Split) for action in actions]
    if yes or any(generations):  # else the plan is all that there is to print
        hands.progress.say("what will be changed:" if yes or all(generations) else "what would be changed:")
        for step in plan:
            hands.progress.say(f"  {step.what}: {step.where}")
            hands.progress.say(f"    {step.command}")
    mended = Mended(state="planned", plan=plan)
    own = [one for one in actions if isinstance(one, NewGeneration)]
    others = [one for one in actions if not isinstance(one, NewGeneration | Split)]
    for action in own:
        number, verification = change.new_generation(action.env, examination, hands)
        mended = msgspec.structs.replace(mended, generation=number, verification=verification, state="done")
    for split in (one for one in actions if isinstance(one, Split)):
        mended = splitting.carry(split, examination, matrix, hands, mended)
    if not others:
        return mended
    if not yes:
        note = "bnbenv did not make this: it is changed with --yes only, and what is there is kept first"
        return msgspec.structs.replace(mended, state="planned", notes=(*mended.notes, note))
    ready = (source_builds.made(one, examination, matrix, hands) if isinstance(one, Compile) else one for one in others)
    return _Change(examination, matrix, hands, plan, tuple(ready)).make(mended)


def _treatments(findings: Sequence[Finding], examination: Examination, matrix: Matrix, hands: Hands) -> list[Treatment]:
    """What to do about the primary cause and what stands beside it; what follows from it goes with it.

    Everything is asked again: between the examination and now the sources may have changed. Raises Failed where the
    primary cause has a fix and something stands against it.
    """
    wanted = [one for one in findings if one.primary or (one.role != "consequence" and one.source == "machine")]
    chosen = choose([(one.code, one.cause) for one in wanted], examination, None, matrix, hands)
    found = []
    for one in wanted:
        treatment = treat(one.code, one.cause, examination, None, chosen)
        if one.source == "text" and not one.fix.automatic:
            continue  # it is of another machine
        if treatment.fix.automatic:
            found.append(treatment)
        elif one.primary and treatment.actions:
            reasons = [chosen.checked[action.key] for action in treatment.actions if chosen.checked.get(action.key)]
            step = f"By hand: {treatment.fix.command}" if treatment.fix.command else "See: bnbenv doctor"
            raise Failed("not-automatic", f"this cannot be mended here: {'; '.join(dict.fromkeys(reasons))}", step)
    return found


def _without_doubles(actions: Iterable[Action]) -> list[Action]:
    """Each once; of several that install one package, that of the more important finding."""
    kept: list[Action] = []
    seen: set[str] = set()
    for action in actions:
        names = _touched(action)
        if not names & seen:
            kept.append(action)
            seen |= names
    # What shadows others or wrote into the same folder goes before anything is installed.
    return sorted(kept, key=lambda one: isinstance(one, Install | Compile))


def _touched(action: Action) -> set[str]:
    if isinstance(action, Install):
        # "===" holds a package as it is, except where it is installed again.
        pinned = {one.partition("=")[0] for one in action.requirements if "===" in one} - set(action.reinstall)
        return {
            f"package {one.partition('=')[0].partition('<')[0].partition('>')[0]}" for one in action.requirements
        } - {f"package {one}" for one in pinned}
    return {"package bitsandbytes"} if isinstance(action, Compile) else {action.key}


def _why_nothing(findings: Sequence[Finding]) -> tuple[str, ...]:
    first = next((one for one in findings if one.primary), None)
    return (f"this is for people to do: {first.fix.summary}",) if first is not None else ()


def _steps(action: Action, examination: Examination, hands: Hands) -> tuple[PlanStep, ...]:
    """An action for people."""
    if isinstance(action, Split):
        return splitting.plan(action, hands.project) if hands.project is not None else ()
    return (_step(action, examination),)


def _step(action: NewGeneration | DropSetting | Delete | Compile | Install, examination: Examination) -> PlanStep:
    prefix, python = examination.target.prefix or "", examination.target.python or "python"
    if isinstance(action, NewGeneration):
        what = "make a new generation, run its kernels, switch to it"
        return PlanStep(what, prefix, shell("bnbenv", "sync", "--fresh", "--env", action.env))
    if isinstance(action, DropSetting):
        where = f"{action.file}, line {action.line}" if action.line else action.file
        return PlanStep(f"take {action.name}={action.value} out", where, f"unset {action.name}")
    if isinstance(action, Delete):
        names = [Path(one).name.removesuffix(".dist-info") for one in action.metadata]
        where = str(Path(action.metadata[0]).parent)
        return PlanStep(f"uninstall {', '.join(names)}", where, shell(python, "-m", "pip", "uninstall", *names))
    if isinstance(action, Compile):
        what = f"compile bitsandbytes {action.release} for {', '.join(action.archs)}, and install it"
        return PlanStep(what, prefix, action.line)
    options = [word for name in action.reinstall for word in ("--reinstall-package", name)]
    options += [word for name in action.upgrade for word in ("--upgrade-package", name)]
    options += ["--no-deps"] if action.no_deps else []
    command = shell("uv", "pip", "install", "--python", python, *options, *action.requirements)
    return PlanStep(f"install {', '.join(action.requirements)}", prefix, command)


@dataclass(frozen=True)
class _Change:
    """A change of what bnbenv did not make."""

    examination: Examination
    matrix: Matrix
    hands: Hands
    plan: tuple[PlanStep, ...]
    actions: tuple[Action, ...]

    def make(self, mended: Mended) -> Mended:
        """Keep what is there, change it, look at what came of it. Raises BnbenvError with everything as it was."""
        hands = self.hands
        with records.held(hands.environ, hands.progress.say) as folder:
            records.prune(folder)
            edits = self._edits()
            record = self._keep(folder, edits)
            hands.progress.say(f"what is there is kept: bnbenv doctor --undo {record.name} puts it back")
            try:
                self._act(edits)
                report = change.verified(self.examination, hands, self._dropped())
                if report is not None and not report.ok:
                    raise _kernels_failed(report)
            except BaseException as error:
                back(record, folder, hands)
                if isinstance(error, BnbenvError):
                    error.next_step = f"{error.next_step} What was there was put back.".strip()
                raise
            finished = change.finished(record)
            records.write(finished, folder)
        document: dict[str, Any] | None = msgspec.to_builtins(report) if report is not None else None
        notes = tuple(
            f"{one.name}: unset it in shells that are open" for one in self.actions if isinstance(one, DropSetting)
        )
        return msgspec.structs.replace(
            mended,
            state="done",
            record=record.name,
            verification=document or mended.verification,
            notes=(*mended.notes, *notes),
        )

    def _dropped(self) -> list[str]:
        return [one.name for one in self.actions if isinstance(one, DropSetting)]

    def _keep(self, folder: Path, edits: Edits) -> MendRecord:
        """Everything that will be changed, in the user's data; the record is written when all of it lies there.

        Raises Failed where that is not possible; what was kept by then is deleted again.
        """
        name = records.new_name(folder)
        place = folder / name
        place.mkdir(mode=0o700)
        try:
            record = self._kept(name, place, edits)
            records.write(record, folder)
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            why = f"{(error.strerror or str(error)).lower()} ({error.filename})"
            message = f"what is there cannot be kept in {folder}, so nothing was changed: {why}"
            raise Failed("not-kept", message, "Free some space there, or name another place: BNBENV_HOME") from None
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return record

    def _kept(self, name: str, place: Path, edits: Edits) -> MendRecord:
        target = self.examination.target
        installs = [one for one in self.actions if isinstance(one, Install)]
        deletes = [one for one in self.actions if isinstance(one, Delete)]
        trees, packages = change.keep_trees(installs, deletes, self.examination, self.matrix, self.hands, place)
        return MendRecord(
            name=name,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            state="changing",
            prefix=target.prefix,
            python=target.python,
            plan=self.plan,
            packages=packages,
            trees=trees,
            files=tuple(_keep_files(place, edits)),
        )

    def _edits(self) -> Edits:
        """Each file with its bytes before and after all that is taken out of it. Raises Failed."""
        edits: Edits = {}
        day = datetime.date.today().isoformat()
        for action in self.actions:
            if not isinstance(action, DropSetting):
                continue
            found = edited(action, self.hands, day, {path: after for path, (_, after) in edits.items()})
            if isinstance(found, str):
                raise Failed("not-automatic", found, "Edit it by hand.")
            path, before, after = found
            edits[path] = (edits[path][0] if path in edits else before, after)
        return edits

    def _act(self, edits: Edits) -> None:
        for path, (_, after) in edits.items():
            write_atomically(path, after)
        for action in self.actions:
            if isinstance(action, Delete):
                change.delete(action)
            elif isinstance(action, Install):
                change.install_clean(action, self.examination, self.matrix, self.hands)


def _keep_files(place: Path, edits: Edits) -> Iterable[SavedFile]:
    for number, (path, (before, after)) in enumerate(edits.items()):
        write_atomically(place / f"file{number}", before)
        yield SavedFile(
            path=str(path), saved=f"file{number}", before=records.digest(before), after=records.digest(after)
        )


def _kernels_failed(report: Any) -> VerificationFailed:
    from bnbenv.verify.report import explain_all, explain_failure

    message = f"after the fix the kernels do not run: {explain_failure(report)}"
    return VerificationFailed("verification-failed", message, "", explain_all(report))
