"""Filling a new generation with what a lock names, and making sure of it before anything of it is run."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnbenv.envs import generations as gens
from bnbenv.envs.families import asked_for
from bnbenv.envs.filesystem import CLONES, find_mount, forget, uv_cache, why_not_linked
from bnbenv.envs.generations import Generation
from bnbenv.envs.inspection import Inspection, blamed, shared_with
from bnbenv.envs.integrity import Damage
from bnbenv.envs.keep.join import make_venv
from bnbenv.envs.lockfile import Locked
from bnbenv.envs.project import env_python
from bnbenv.envs.provenance import check_sources
from bnbenv.envs.record import digest, file_digest
from bnbenv.envs.resolve import Setting
from bnbenv.envs.sources import PackageSources
from bnbenv.envs.uv import Uv
from bnbenv.errors import BnbenvError, Failed
from bnbenv.paths import write_atomically

SHOWN = 4
FULL = 1 << 20  # bytes that are free on a disk that is as good as full


@dataclass(frozen=True)
class Filling:
    """One generation to fill by uv, for an interpreter. ``every_byte``: all files are read before the kernels run."""

    setting: Setting
    env: str
    locked: Locked
    sources: PackageSources
    uv: Uv
    python: str
    every_byte: bool

    def fill(self, generation: Generation) -> None:
        """Make the environment, install the lock, and look at what arrived.

        A file that was changed in uv's cache is loaded again, once. Raises Failed (what arrived is not what the lock
        names, or nobody asked for it), SourceUnreachable.
        """
        self._check_lock()
        cache = uv_cache(self.uv)
        uv = self._linking(cache, generation)
        self._install(uv, generation, cache)
        look = Inspection(
            self.setting.project,
            self.env,
            generation,
            self._local,
            asked_for(
                self.setting.matrix,
                self.locked.decision.solution.choice,
                self.setting.wishes.envs[self.env].requirements,
            ),
            self.setting.progress,
            self.every_byte,
            self.setting.kept.metadata if self.setting.kept is not None else {},
        )
        damage = look.new()
        if damage and shutil.disk_usage(generation.prefix).free < FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(generation.prefix))  # uv does not always say so
        packages = blamed(damage, look.site, cache)
        if damage and packages:
            self._tell(damage, packages, look.site)
            if not forget(uv, packages):
                raise _refusal(damage, f"uv cache clean {' '.join(sorted(packages))}")
            shutil.rmtree(generation.prefix)
            self._install(uv, generation, cache)
            damage = look.new(loaded_again=True)
        if damage:
            raise _refusal(damage, f"uv cache clean {' '.join(sorted(packages))}".strip())

    @property
    def _local(self) -> Locked:
        """The lock, with the files of a bundle in place of addresses."""
        return self.locked if self.setting.supply is None else self.setting.supply.here(self.locked)

    def _check_lock(self) -> None:
        """A lock that was not made here a moment ago and was never installed here is from elsewhere."""
        lock = digest(self.locked.text.encode())
        if self.setting.supply is not None or file_digest(self.setting.project.lock(self.env)) != lock:
            return  # it stands in no file yet
        finished = gens.generations(self.setting.project, self.env)
        if not any(one.record is not None and one.record.lock == lock for one in finished):
            check_sources(self.locked, self.sources, asked=self.setting.wishes.envs[self.env].requirements)

    def _install(self, uv: Uv, generation: Generation, cache: Path | None) -> None:
        try:
            if self.setting.kept is not None:
                make_venv(self.setting.kept, uv, generation.prefix)
            else:
                uv.venv(generation.prefix, self.python)
            # uv takes a lock by its name, so it is given one under the name that PEP 751 asks for.
            named = generation.prefix / "pylock.toml"
            write_atomically(named, self._local.text)
            uv.install(named, env_python(generation.prefix))
        except BnbenvError as error:
            if error.code == "no-permission" and cache is not None and str(cache) in error.message + error.detail:
                raise _not_our_cache(error, cache) from None
            raise

    def _linking(self, cache: Path | None, generation: Generation) -> Uv:
        """uv, told to copy where it cannot link, so that it need not warn; people are told once, the first time."""
        environ = {**self.setting.environ, **self.uv.environment}
        # uv refuses it beside --no-compile-bytecode, which keeps it from running what nobody looked at.
        changes: dict[str, str | None] = {"UV_COMPILE_BYTECODE": None}
        why = None
        if cache is not None and not environ.get("UV_LINK_MODE"):
            why = why_not_linked(cache, generation.prefix.parent)
        mount = find_mount(generation.prefix.parent, self.setting.environ) if why else None
        if why and not (mount and mount.type in CLONES):
            changes["UV_LINK_MODE"] = "copy"
            if not any(gens.generations(self.setting.project, env) for env in self.setting.project.envs_made()):
                self.setting.progress.say(
                    f"{self.env}: packages are copied and not linked, since {why}; to save the space, set UV_CACHE_DIR"
                    f" to a folder of yours on the file system of {self.setting.project.root}"
                )
        return dataclasses.replace(self.uv, environment={**self.uv.environment, **changes})

    def _tell(self, damage: Sequence[Damage], packages: frozenset[str], site: Path) -> None:
        say = self.setting.progress.say
        say(f"{self.env}: changed in uv's cache: {_shown(damage)}; loading {', '.join(sorted(packages))} again")
        for other in shared_with(self.setting.project, site, damage):
            say(f"{other.folder.name}: generation {other.number} shares that file and is broken too")


def _shown(damage: Sequence[Damage]) -> str:
    more = f", and {len(damage) - SHOWN} more files" if len(damage) > SHOWN else ""
    return "; ".join(str(one) for one in damage[:SHOWN]) + more


def _refusal(damage: Sequence[Damage], command: str) -> Failed:
    message = f"what was installed is not what its packages brought, and was not run: {_shown(damage)}"
    step = f"Load it again: {command}, then bnbenv sync; if it stays, the package itself is built wrongly."
    return Failed("damaged-files", message, step if "clean " in command else "Report it to whoever built the package.")


def _not_our_cache(error: BnbenvError, cache: Path) -> Failed:
    """Several users with one cache: who may not write there cannot add what is missing."""
    message = f"uv's cache {cache} holds files of another user that this one may not use"
    step = "Have its owner give your group the right (chmod -R g+rwX), or use one of your own: UV_CACHE_DIR=~/.uv-cache"
    return Failed("no-permission", message, step, error.detail or error.message)
