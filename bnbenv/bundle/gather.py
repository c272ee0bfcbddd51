"""Which locks the machines need, those that need the same one together, and which files of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from bnbenv.bundle.fetch import Piece
from bnbenv.bundle.manifest import Machine
from bnbenv.bundle.target import best, minors, tags_for
from bnbenv.envs.check import InUse, in_use
from bnbenv.envs.lockfile import Locked, LockedFile
from bnbenv.envs.plan import lock_problem
from bnbenv.envs.reach import answering, check_reach
from bnbenv.envs.resolve import Setting, sources_of
from bnbenv.envs.sources import PackageSources
from bnbenv.envs.sync import choose, new_lock, usable_lock
from bnbenv.errors import BnbenvError, Failed, SourceUnreachable, UsageError
from bnbenv.facts.model import HostFacts, Platform
from bnbenv.solve.model import KEEP

NOBODY = InUse(None, None, None)


@dataclass(frozen=True)
class Wanted:
    """One machine to make the bundle for. ``name`` is its facts' file; empty: this machine."""

    name: str
    facts: HostFacts

    @property
    def machine(self) -> Machine:
        """As the manifest names it: nothing in it tells one card of a kind from another."""
        platform, driver = self.facts.platform, self.facts.driver
        gpus = tuple(gpu.name or gpu.arch for gpu in self.facts.gpus)
        pythons = tuple(minors(python.version for python in self.facts.pythons))
        version = driver.version if driver.state == "ok" else None
        return Machine(self.name, platform.os, platform.machine, version, gpus, pythons)


@dataclass
class Group:
    """Machines that share locks, and the files that these take there: by environment, then by package."""

    setting: Setting
    machines: list[Machine]
    locks: dict[str, Locked]
    files: dict[str, dict[str, LockedFile]] = field(default_factory=dict)

    @cached_property
    def sources(self) -> PackageSources:
        """The sources that answer: uv ends at the first one that does not."""
        own = sources_of(self.setting)
        return answering(own, check_reach(own))

    @property
    def platform(self) -> Platform:
        return self.setting.facts.platform

    @property
    def pythons(self) -> list[str]:
        """The Pythons that the locks are for, newest first."""
        return minors({one.decision.solution.choice.python for one in self.locks.values()})


def groups_for(setting: Setting, machines: Iterable[Wanted], envs: Sequence[str]) -> list[Group]:
    """Locks for all machines: the project's own where it holds, else what is chosen for that machine.

    Raises what ``choose`` and ``new_lock`` raise, with the machine's name in it.
    """
    groups: list[Group] = []
    for wanted in machines:
        own = dataclasses.replace(setting, facts=wanted.facts, elsewhere=bool(wanted.name))
        refuse_kept(own, envs)
        try:
            locks = {env: _lock(own, env, groups) for env in envs}
            files = {env: files_for(locked, wanted.facts.platform) for env, locked in locks.items()}
        except BnbenvError as error:
            if wanted.name and not error.message.startswith(wanted.name):
                error.message = f"{wanted.name}: {error.message}"
                error.args = (error.message,)
            raise
        for group in groups:
            if group.files == files and all(group.locks[env].text == locks[env].text for env in envs):
                group.machines.append(wanted.machine)
                break
        else:
            groups.append(Group(own, [wanted.machine], locks, files))
    return groups


def check_online(setting: Setting, pieces: Iterable[Piece]) -> None:
    """Raises SourceUnreachable where something has to be downloaded, and that was forbidden."""
    offline = sources_of(setting).offline
    away = next((piece.shown for piece in pieces if piece.path is None), None)
    if offline is not None and away is not None:
        message = f"{away} has to be downloaded, and the network is switched off ({offline})"
        raise SourceUnreachable("offline", message, f"Unset {offline}, then run it again.")


def refuse_kept(setting: Setting, envs: Iterable[str]) -> None:
    """Raises UsageError where a torch is to be kept that only the other machine could be asked about."""
    for env in envs:
        if setting.elsewhere and setting.wishes.envs[env].torch.strip() == KEEP:
            message = f'{env}: torch = "keep" is about the torch of one machine, and facts of a machine do not hold it'
            raise UsageError("bundle-keep", message, "Make the bundle on a machine with that torch, without --for.")


def _lock(setting: Setting, env: str, groups: Sequence[Group]) -> Locked:
    """The lock of one environment for one machine."""
    locked, _ = usable_lock(setting, env)
    if locked is not None:
        setting.progress.say(f"{env}: the lock that is there holds")
        return locked
    use = NOBODY if setting.elsewhere else in_use(setting.project, env)
    shared = _shared(setting, env, use, groups) if groups else None
    return shared or new_lock(setting, env, use)[0]


def _shared(setting: Setting, env: str, use: InUse, groups: Iterable[Group]) -> Locked | None:
    """The lock of machines before it, where it holds just what is chosen for this one."""
    solution, here = choose(setting, env, use), setting.facts.platform
    if solution.choice.compiled:
        return None
    request = setting.wishes.request(env, str(setting.project.config))
    wished = setting.wishes.digest(env)
    for group in groups:
        known, there = group.locks[env], group.platform
        same = known.decision.solution
        alike = (same.choice, same.backend, same.visible_devices, there.os, there.machine) == (
            *(solution.choice, solution.backend, solution.visible_devices),
            *(here.os, here.machine),
        )
        if alike and lock_problem(known, env, wished, request, setting.facts, setting.matrix) is None:
            return known
    return None


def files_for(locked: Locked, platform: Platform) -> dict[str, LockedFile]:
    """The file of each package that an installer takes there. Raises Failed where a package has none for it."""
    tags = tags_for(platform, locked.decision.solution.choice.python)
    found = {}
    for package, files in locked.files.items():
        one = best(files, tags)
        if one is None:
            message = f"the lock holds no file of {package} for {platform.os} on {platform.machine}"
            raise Failed("no-file", message, "Choose again with: bnbenv lock")
        found[package] = one
    return found
