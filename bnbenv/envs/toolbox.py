"""What a source build is handed: packages by uv from the project's sources, the runner, and a folder of its own."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bnbenv.build.ports import Ports
from bnbenv.envs.filesystem import forget, uv_cache
from bnbenv.envs.integrity import Damage, examine, package_of, read_records
from bnbenv.envs.lockfile import normalized
from bnbenv.envs.project import Project, env_python, site_packages
from bnbenv.envs.sources import PackageSources
from bnbenv.envs.trust import check_files
from bnbenv.envs.uv import Uv
from bnbenv.envs.uverrors import cause
from bnbenv.errors import BnbenvError, Failed
from bnbenv.paths import Sysroot, data_home, write_atomically
from bnbenv.process import Runner
from bnbenv.progress import Progress, Quiet
from bnbenv.redact import strip_credentials

# A question whether packages can be had is no reason to wait long: the sources were asked before.
_BRIEFLY: dict[str, str | None] = {"UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "5"}


ROOM = 1 << 30  # bytes; the largest file of a toolkit is half as large, and uv leaves what it could not finish

_ITS_OWN = "The text above is its own; take another release or branch (--ref), or correct the source."


@dataclass(frozen=True)
class UvPackages:
    """``bnbenv.build.ports.Packages`` by uv, which asks the sources that it was given.

    ``python`` is the interpreter of the environments: bnbenv's own. ``progress`` is told what uv does. ``link_mode`` is
    uv's: never symlink, since nvcc looks for its own files beside the file that it really is.
    """

    runner: Runner
    sources: PackageSources
    cwd: Path
    progress: Progress = field(default_factory=Quiet)
    python: str = sys.executable
    link_mode: str = "hardlink"

    def environment(self, folder: Path, requirements: tuple[str, ...]) -> None:
        """Make an environment with these packages at a folder, in place of what is there.

        The lock that it was made of stays beside them, as ``pylock.toml``. Raises SourceUnreachable, NoCombination (no
        source offers them), Failed, OSError.
        """
        uv = self._uv()
        locked = strip_credentials(uv.compile(_lines(requirements), self.python))
        damage = self._fill(uv, folder, locked)
        packages = {one.package for one in damage if one.package}
        if packages and not _is_full(folder) and forget(uv, frozenset(packages)):  # changed in uv's cache
            damage = self._fill(uv, folder, locked)
        if not damage:
            return
        if _is_full(folder):  # uv does not always say so
            message = f"no space left on the device to install the packages at {folder}"
            raise Failed("no-space", message, "Free some space, then run it again; uv cache prune may help.")
        message = f"what was installed is not what its packages brought: {'; '.join(map(str, damage[:3]))}"
        raise Failed("damaged-files", message, f"Load it again: uv cache clean {' '.join(sorted(packages))}".strip())

    def _fill(self, uv: Uv, folder: Path, locked: str) -> tuple[Damage, ...]:
        """Make the environment of a lock; what is wrong with its files then."""
        if os.path.lexists(folder):
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        uv.venv(folder, self.python)
        lock = folder / "pylock.toml"
        write_atomically(lock, locked)
        uv.install(lock, env_python(folder))
        site = site_packages(folder)
        if site is None:
            return (Damage("site-packages", None, "is missing"),)
        records, _ = read_records(site)
        wanted = {normalized(name) for name in re.findall(r'^name = "([^"]+)"', locked, re.M)}
        gone = sorted(wanted - {package_of(name) for name in records})
        return (*(Damage(name, name, "is missing") for name in gone), *examine(site, folder, every_byte=False))

    def missing(self, requirements: tuple[str, ...]) -> str:
        """Why these packages cannot be had, asked without downloading them; empty where they can.

        A second or less where the sources answer. Raises nothing.
        """
        try:
            uv = self._uv(_BRIEFLY)
            locked = uv.compile(_lines(requirements), self.python)
            if self.sources.offline is None or re.search(r"\b(?:path = |url = .file:)", locked):
                return ""
            # In the cache itself, so that links can be made and nothing is copied.
            with tempfile.TemporaryDirectory(prefix=".bnbenv-", dir=uv_cache(uv)) as nowhere:
                lock = Path(nowhere, "pylock.toml")
                lock.write_text(locked, encoding="utf-8")
                cached = uv.has_cached(lock, self.python)
        except OSError as error:
            return f"uv's cache cannot be used: {error.strerror}"
        except BnbenvError as error:
            # Of a version that nobody offers, uv says so only in the cause.
            said = re.search(r"only (\S+ is available)", cause(error.detail)) if error.code == "unsatisfiable" else None
            return f"of its packages, only {said[1]}" if said else error.message
        why = f"it was not downloaded before, and the network is switched off ({self.sources.offline})"
        return "" if cached else why

    def wheel(self, tree: Path, out: Path, environ: Mapping[str, str | None]) -> Path:
        """The wheel that a tree's own build backend makes, in an isolated environment, in the folder ``out``.

        All that was said meanwhile is kept there as ``wheel.log``. ``environ`` changes the environment it runs in.
        Raises SourceUnreachable, Failed.
        """
        out.mkdir(parents=True, exist_ok=True)
        before = set(out.glob("*.whl"))
        log = out / "wheel.log"
        try:
            self._uv(environ).build_wheel(
                tree, out, self.python, lambda text: write_atomically(log, self.sources.redact(text))
            )
        except Failed as error:
            raise _of_backend(error) if error.code == "build-failed" else error from None
        made = sorted(set(out.glob("*.whl")) - before)
        if len(made) != 1:
            found = ", ".join(path.name for path in made) or "none"
            message = f"the tree's build made {len(made)} wheels where one was to be made: {found}"
            raise Failed("not-as-asked", message, f"See what it said: {log}")
        return made[0]

    def _uv(self, changes: Mapping[str, str | None] | None = None) -> Uv:
        uv = Uv.find(
            self.runner, self.sources.uv_environment(), self.cwd, self.sources.uv_arguments(), progress=self.progress
        )
        # A variable that asks for hashes means people's own requirements; that for compiling is refused beside its
        # opposite.
        plain: dict[str, str | None] = {"UV_REQUIRE_HASHES": None, "UV_COMPILE_BYTECODE": None}
        own = {**plain, "UV_LINK_MODE": self.link_mode}
        return dataclasses.replace(uv, environment={**uv.environment, **own, **(changes or {})})


def builds_home(environ: Mapping[str, str]) -> Path:
    """The folder of source builds, below the user's data. Its compilers are run, and its wheels installed.

    Raises UsageError where there is no place for the user's data, and where others may put something there.
    """
    home = (data_home(environ) / "builds").absolute()
    folders = [home, *(home / name for name in ("wheels", "toolchains", "sources", "work"))]
    check_files(folders, Project(home, home), environ)
    return home


def build_ports(
    environ: Mapping[str, str],
    runner: Runner,
    sources: PackageSources,
    cwd: Path,
    progress: Progress | None = None,
) -> Ports:
    """What a build is handed. ``cwd`` is the folder whose uv.toml holds: that of the project.

    Raises UsageError as ``builds_home``.
    """
    told, mode = progress or Quiet(), environ.get("UV_LINK_MODE")
    return Ports(
        environ={**sources.network.changes, **environ},  # git and the like take pip's proxy and certificates too
        runner=runner,
        sysroot=Sysroot.from_environment(environ),
        packages=UvPackages(runner, sources, cwd, told, link_mode=mode if mode == "copy" else "hardlink"),
        home=builds_home(environ),
        progress=told,
        offline=sources.offline,
    )


def _of_backend(error: Failed) -> Failed:
    """That a tree's own build backend failed, with the error that it ended with."""
    raised = re.findall(r"^(\w[\w.]*(?:Error|Exception|Exit): .+)$", error.detail, re.M)
    said = raised[-1] if raised else cause(error.detail)
    if "build-system.requires" in error.detail:
        message = f"what the source's own packaging needs cannot be had: {said}"
        return Failed("build-failed", message, "Name an index that has it, in bnbenv.toml, uv.toml or pip.conf.")
    return Failed("build-failed", f"the source's own packaging failed: {said}", _ITS_OWN, error.detail)


def _is_full(folder: Path) -> bool:
    return shutil.disk_usage(folder).free < ROOM


def _lines(requirements: tuple[str, ...]) -> str:
    return "".join(f"{one}\n" for one in requirements)
