"""The lock of each class: the project's own where it holds, else the one that the desk keeps, else what is chosen now.

What was locked once stays, as long as it holds for the class and the wishes: the same bytes on each host of it, at any
time. Classes that get the same choice share one lock where its files fit them all.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from bnbenv.bundle.gather import files_for, refuse_kept
from bnbenv.envs.builds import build_for
from bnbenv.envs.lockfile import Locked, LockedFile, read_lock
from bnbenv.envs.plan import describe
from bnbenv.envs.record import digest
from bnbenv.envs.resolve import Setting, chosen_torch, decide, make_lock
from bnbenv.envs.survey import Surveyed, survey
from bnbenv.envs.sync import judge_lock, usable_lock
from bnbenv.errors import BnbenvError, Failed, InputError, NoCombination
from bnbenv.facts.model import Platform
from bnbenv.fleet.kept import Home, all_locks, keep_lock, read_locks
from bnbenv.fleet.model import ClassPlan
from bnbenv.fleet.planning import same_versions
from bnbenv.matrix.drivers import number
from bnbenv.progress import Progress
from bnbenv.solve.model import Choice, Request, Solution

Files = dict[str, LockedFile]


@dataclass(frozen=True)
class ClassLocks:
    """What a class gets: by environment the lock, and of it the file of each package that is installed there.

    ``setting`` is the one that they were judged in: the class's facts, and rows for what was new.
    """

    setting: Setting
    locks: dict[str, Locked]
    files: dict[str, Files]

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 of each lock, as a host that has it in use tells it."""
        return {env: digest(locked.text.encode()) for env, locked in self.locks.items()}

    @property
    def choices(self) -> dict[str, Choice]:
        return {env: locked.decision.solution.choice for env, locked in self.locks.items()}


@dataclass(frozen=True)
class Under:
    """Tells of one class among several: lines of its own below its title. ``heading`` holds the title that was told."""

    progress: Progress
    title: str
    heading: list[str]

    def say(self, line: str) -> None:
        if self.heading != [self.title]:
            self.progress.say(f"{self.title}:")
            self.heading[:] = [self.title]
        self.progress.say(f"  {line}")

    def detail(self, line: str) -> None:
        self.progress.detail(f"  {line}")

    def at(self, text: str) -> None:
        self.progress.at(text)


@dataclass
class Locker:
    """Makes and finds the locks of classes. The caller holds ``home``.

    ``requests``: by environment what is asked for beyond the wishes (the one combination for all hosts), None: nothing;
    a lock then has to hold the very versions of the plan. ``fresh``: of what the desk keeps nothing is taken.
    """

    setting: Setting
    home: Home
    requests: Mapping[str, Request] | None = None
    fresh: bool = False
    _surveyed: dict[tuple[str, str, str], Surveyed] = field(default_factory=dict)
    _heading: list[str] = field(default_factory=list)
    _made: dict[tuple[str, str], Locked] = field(default_factory=dict)  # of this run, by environment and text

    def settle(self, plans: Iterable[ClassPlan]) -> dict[str, ClassLocks | BnbenvError]:
        """By class id its locks, or why there are none. What was chosen anew is kept. Raises nothing of a class."""
        found: dict[str, ClassLocks | BnbenvError] = {}
        for plan in in_order(plans):
            try:
                found[plan.kind.id] = self._class(plan)
            except BnbenvError as error:
                found[plan.kind.id] = error
            except OSError as error:
                because = f"its lock cannot be made ({(error.strerror or type(error).__name__).lower()})"
                found[plan.kind.id] = Failed("no-lock", because, "Free some space, then run it again.")
        return found

    def _class(self, plan: ClassPlan) -> ClassLocks:
        own = dataclasses.replace(
            self.setting,
            facts=plan.kind.facts,
            elsewhere=True,
            progress=Under(self.setting.progress, plan.kind.title, self._heading),
        )
        refuse_kept(own, plan.answers)
        kept = {} if self.fresh else read_locks(self.home, plan.kind.id, own.progress.say)
        locks: dict[str, Locked] = {}
        files: dict[str, Files] = {}
        for env, answer in plan.answers.items():
            if not isinstance(answer, Solution):
                raise NoCombination("no-combination", f"no known-good combination fits {env} there")
            locks[env], files[env] = self._lock(own, plan.kind.id, env, answer, kept)
        return ClassLocks(own, locks, files)

    def _lock(
        self, own: Setting, class_id: str, env: str, answer: Solution, kept: Mapping[str, str]
    ) -> tuple[Locked, Files]:
        held = self._projects_own(own, env, answer)
        if held is not None:
            if kept.get(env) != held[0].text:  # it stays that of the class when people move theirs away
                keep_lock(self.home, class_id, env, held[0].text)
            return held
        if env in kept:
            held, why = self._held(own, env, kept[env], answer)
            if held is not None:
                return held
            own.progress.say(f"{env}: its lock does not hold any more: {why}")
        held = self._new(own, env)
        self._made[env, held[0].text] = held[0]
        keep_lock(self.home, class_id, env, held[0].text)
        return held

    def _projects_own(self, own: Setting, env: str, answer: Solution) -> tuple[Locked, Files] | None:
        """The lock beside bnbenv.toml, which people made and can see."""
        locked, _ = usable_lock(own, env)
        held = self._held(own, env, locked.text, answer)[0] if locked is not None else None
        if held is not None:
            again = ", which bnbenv lock chooses anew" if self.fresh else ""
            own.progress.detail(f"{env}: the lock of the project holds{again}")
        return held

    def _held(self, own: Setting, env: str, text: str, answer: Solution) -> tuple[tuple[Locked, Files] | None, str]:
        """A lock with its files if it holds for a class, else why not."""
        request = self.requests[env] if self.requests else None
        try:
            locked, why = judge_lock(own, env, text, f"pylock.{env}.toml", request=request)
            if locked is None:
                return None, why or ""
            if request is not None and not same_versions(locked.decision.solution, answer):
                return None, f"it holds {describe(locked.decision.solution)}"
            return (locked, files_for(locked, own.facts.platform)), ""
        except InputError as error:
            return None, error.message
        except Failed as error:  # a package has no file for this class
            return None, error.message

    def _new(self, own: Setting, env: str) -> tuple[Locked, Files]:
        """Choose, and lock it, unless another class has the lock of that very choice. Raises as ``new_lock``."""
        request = self.requests[env] if self.requests else own.wishes.request(env, str(own.project.config))
        found, sources, knowing = self._survey(own, env)
        own = dataclasses.replace(own, matrix=knowing.matrix)
        solution, built = decide(own, request, found, sources), None
        if solution.choice.compiled:
            solution, built = build_for(own, env, solution, sources, request, chosen_torch(own, found, solution))
        shared = self._shared(own, env, solution)
        if shared is not None:
            return shared
        own.progress.say(f"{env}: locking {describe(solution)}, Python {solution.choice.python}")
        locked = make_lock(own, env, solution, sources, found, None, built)
        return locked, files_for(locked, own.facts.platform)

    def _shared(self, own: Setting, env: str, solution: Solution) -> tuple[Locked, Files] | None:
        """The lock of a class that holds just what is chosen for this one."""
        others = {} if self.fresh else self._others
        for (name, text), known in (*self._made.items(), *others.items()):
            if name == env and _same(known, solution, own.facts.platform):
                held, _ = self._held(own, env, text, solution)
                if held is not None:
                    return held
        return None

    @cached_property
    def _others(self) -> dict[tuple[str, str], Locked]:
        """Every lock that the desk keeps and that can be read."""
        found = {}
        for env, text in all_locks(self.home, self.setting.progress.say):
            with contextlib.suppress(InputError):
                found[env, text] = read_lock(text, env)
        return found

    def _survey(self, own: Setting, env: str) -> Surveyed:
        """What the sources offer for a platform: asked once, however many classes there are."""
        family, platform = own.wishes.envs[env].family, own.facts.platform
        key = (platform.os, platform.machine, family)
        if key not in self._surveyed:
            self._surveyed[key] = survey(own, family)
        return self._surveyed[key]


def in_order(plans: Iterable[ClassPlan]) -> list[ClassPlan]:
    """Plans in an order that depends on the classes alone; the oldest C library first, whose files fit the others."""

    def standing(plan: ClassPlan) -> tuple[object, ...]:
        platform = plan.kind.facts.platform
        return platform.os, platform.machine, number(platform.libc.version if platform.libc else ""), plan.kind.id

    return sorted(plans, key=standing)


def _same(known: Locked, solution: Solution, platform: Platform) -> bool:
    """Whether a lock is that of a choice, on such a platform. Pure."""
    held, torch = known.decision.solution, known.decision.torch
    if solution.choice.compiled:
        return False
    return (held.choice, held.backend, held.visible_devices, torch.os, torch.machine) == (
        *(solution.choice, solution.backend, solution.visible_devices),
        *(platform.os, platform.machine),
    )
