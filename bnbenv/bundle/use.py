"""Syncing out of a bundle: which of its locks fit this machine, and their files, unpacked when they are needed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bnbenv.bundle.archive import Reader
from bnbenv.bundle.manifest import CONFIG, FILES, MATRIX, Class, Environment
from bnbenv.bundle.rows import Row, unknown_rows, with_rows
from bnbenv.envs.lockfile import Locked, LockedFile, agrees, read_lock
from bnbenv.envs.overlay import overlay, store
from bnbenv.envs.plan import lock_problem
from bnbenv.envs.resolve import Setting, interpreter
from bnbenv.envs.supply import Supply
from bnbenv.envs.wishes import Wishes, decode_wishes
from bnbenv.errors import Failed, InputError, NoCombination, UsageError
from bnbenv.facts.model import HostFacts

_SPARE = 64 << 20  # bytes that are to stay free


@dataclass(frozen=True)
class Chosen:
    """The locks of a bundle that fit this machine, and for whom they were made."""

    group: Class
    locks: dict[str, Locked]


def open_bundle(
    path: Path, name: str, sha256: str | None = None, told: Callable[[int], None] = lambda size: None
) -> Reader:
    """Raises InputError where the file is no bundle, cut off, changed, or made by a newer bnbenv.

    With ``sha256`` all of it is read and compared first; ``told`` hears of the bytes.
    """
    try:
        return Reader(path, name, sha256, told)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(name, "", f"cannot be read ({reason})", "Name the file that bnbenv bundle wrote.") from None


def config_of(reader: Reader) -> str | None:
    """The bnbenv.toml that the bundle was made from; None: without one. Raises InputError."""
    return reader.text(CONFIG) if reader.manifest.config else None


def check_wishes(reader: Reader, wishes: Wishes, envs: Sequence[str], file: str) -> tuple[str, ...]:
    """The environments that are asked for and in the bundle. ``wishes`` are those of the bnbenv.toml that is here.

    Raises UsageError where it asks for something else than the bundle was made for, with the difference.
    """
    text = config_of(reader)
    known = {one.env for group in reader.manifest.classes for one in group.environments}
    theirs = decode_wishes(text.encode(), f"{reader.name}: {CONFIG}") if text is not None else _defaults()
    found = tuple(env for env in envs if env in known)
    if not found:
        message = f"{reader.name} holds no environment {' or '.join(envs)} (it has: {', '.join(sorted(known))})"
        raise UsageError("not-in-bundle", message, "Name one that is in it with --env, or make another bundle.")
    lines = [line for env in found for line in _differences(wishes, theirs, env)]
    if lines:
        message = f"{file} asks for something else than {reader.name} was made for"
        step = f"Make the bundle anew from this {CONFIG}, or move it away: the bundle's is then taken."
        raise UsageError("other-wishes", message, step, "\n".join(lines))
    return found


def _defaults() -> Wishes:
    return decode_wishes(b"", CONFIG)


def _differences(here: Wishes, there: Wishes, env: str) -> list[str]:
    """What two bnbenv.toml ask for differently, as lines. Pure."""
    if env in here.envs and env in there.envs and here.digest(env) == there.digest(env):
        return []
    import msgspec

    one, other = (msgspec.to_builtins(wishes) for wishes in (here, there))
    pairs = [(f"envs.{env}", one["envs"].get(env, {}), other["envs"].get(env, {}))]
    pairs += [(part, one[part], other[part]) for part in ("policy", "sources")]
    lines = []
    for where, mine, its in pairs:
        for key in sorted({*mine, *its}):
            if mine.get(key) != its.get(key) and key != "guard":
                lines.append(f"{where}.{key}: here {_toml(mine.get(key))}, in the bundle {_toml(its.get(key))}")
    return lines


def _toml(value: object) -> str:
    import json

    from bnbenv.redact import redact

    return "not set" if value is None else redact(json.dumps(value, ensure_ascii=False))


@contextmanager
def supplied(
    reader: Reader, setting: Setting, envs: Sequence[str], place: Path | None = None
) -> Iterator[tuple[Setting, list[Row]]]:
    """The setting with what a bundle brings for this machine, and the rows of it that were not known here.

    What is unpacked, in the project unless ``place`` is another folder, is deleted at the end. The caller holds the
    project. Raises NoCombination where no lock in it fits this machine, InputError, Failed (no space), OSError.
    """
    place = setting.project.unpacked if place is None else place
    shutil.rmtree(place, ignore_errors=True)  # what a run that was killed had unpacked
    place.mkdir(parents=True)
    try:
        matrix = [path for path in reader.manifest.by_path if path.startswith(f"{MATRIX}/")]
        reader.extract(matrix, place)
        rows = unknown_rows(setting.matrix, place / MATRIX)
        setting = dataclasses.replace(setting, matrix=with_rows(setting.matrix, rows))
        chosen = choose_class(reader, setting, envs)
        unpacking = _Unpacking(reader, setting, chosen, place)
        yield dataclasses.replace(setting, supply=unpacking.supply()), rows
    finally:
        shutil.rmtree(place, ignore_errors=True)


def choose_class(reader: Reader, setting: Setting, envs: Sequence[str]) -> Chosen:
    """The machines of a bundle whose locks fit this one; of several those that are most like it.

    Raises NoCombination, which names for which machines the bundle is and why that does not fit, RebootRequired.
    """
    problems, reasons, fitting = [], [], []
    for group in reader.manifest.classes:
        locks, problem = {}, None
        for one in group.environments:
            if one.env in envs:
                locks[one.env] = _lock(reader, one)
                problem = problem or _problem(reader, setting, group, one, locks[one.env])
        if problem is None:
            fitting.append(Chosen(group, locks))
        reasons += [problem] if problem is not None else []
        problems += [f"{machine.title}: {problem}" for machine in group.machines if problem is not None]
    if not fitting:
        message = f"{reader.name} is for other machines than this one"
        step = "Record this machine (bnbenv facts --json), and make one with: bnbenv bundle OUT.tar --for facts.json"
        message += f": {reasons[0]}" if len(set(reasons)) == 1 else ""
        raise NoCombination("not-for-this-machine", message, step, "\n".join(problems))
    return max(fitting, key=lambda one: _likeness(one.group, setting.facts))


def _lock(reader: Reader, one: Environment) -> Locked:
    name = f"{reader.name}: {one.lock}"
    locked = agrees(read_lock(reader.text(one.lock), name), name)
    if set(locked.packages) != set(one.packages):
        raise InputError(reader.name, one.lock, "expected the packages of the manifest")
    known, built = reader.manifest.by_path, locked.hashes
    for package, path in one.packages.items():
        file = known[path]
        if not {file.sha256, file.built_from} & built[package] or not path.startswith(f"{FILES}/"):
            raise InputError(reader.name, path, f"expected the {package} that the lock names")
    return locked


def _problem(reader: Reader, setting: Setting, group: Class, one: Environment, locked: Locked) -> str | None:
    """Why a lock cannot be used here; None: it can. Raises RebootRequired."""
    platform, wishes = setting.facts.platform, setting.wishes
    machine = group.machines[0]
    if (machine.os, machine.machine) != (platform.os, platform.machine):
        return f"its files are for {machine.os} on {machine.machine}"
    request = wishes.request(one.env, str(setting.project.config))
    matrix = setting.matrix
    if locked.decision.solution.choice.compiled and locked.decision.wheel is not None:
        from bnbenv.envs.builds import with_row

        matrix = with_row(matrix, locked.decision.wheel)  # measured itself before anything is installed
    problem = lock_problem(locked, one.env, wishes.digest(one.env), request, setting.facts, matrix)
    if problem is None and group.python_archive is None and interpreter(setting, one.python) is None:
        return f"it needs Python {one.python}, which is neither on this machine nor in the bundle"
    return problem


def _likeness(group: Class, facts: HostFacts) -> int:
    """How much the machines that it was made for are like this one."""
    gpus, driver = sorted(gpu.name or gpu.arch for gpu in facts.gpus), facts.driver.version
    return max(2 * (sorted(one.gpus) == gpus) + (one.driver == driver) for one in group.machines)


@dataclass(frozen=True)
class _Unpacking:
    """The files of the chosen locks, on their way from the bundle to a folder."""

    reader: Reader
    setting: Setting
    chosen: Chosen
    place: Path

    def supply(self) -> Supply:
        by_path = self.reader.manifest.by_path
        files = {
            one.env: {
                package: LockedFile("wheels", (self.place / path).as_posix(), by_path[path].sha256)
                for package, path in one.packages.items()
            }
            for one in self._environments
        }
        texts = {env: locked.text for env, locked in self.chosen.locks.items()}
        python = self.chosen.group.python_archive
        return Supply(self.place / FILES, texts, files, self.unpack, self.place / "python" if python else None)

    @property
    def _environments(self) -> list[Environment]:
        return [one for one in self.chosen.group.environments if one.env in self.chosen.locks]

    def unpack(self, env: str, package: str | None) -> None:
        """Raises Failed (``no-space``), InputError (a file is not what the manifest says), OSError."""
        one = next(one for one in self._environments if one.env == env)
        paths = [*one.packages.values()] if package is None else [one.packages[package]]
        python = self.chosen.group.python_archive
        if package is None and python is not None and interpreter(self.setting, one.python) is None:
            paths.append(python)
        known = self.reader.manifest.by_path
        missing = [path for path in paths if not (self.place / path).exists()]
        total, passed = sum(known[path].size for path in missing), 0
        self._check_space(total + (0 if package else sum(known[path].unpacked for path in paths)))
        progress = self.setting.progress

        def told(size: int) -> None:
            nonlocal passed
            passed += size
            progress.at(f"{env}: unpacking the bundle, {passed / 1e6:.0f} of {total / 1e6:.0f} MB")

        try:
            self.reader.extract(missing, self.place, told)
        finally:
            progress.at("")

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.place).free
        if free < needed + _SPARE:
            message = (
                f"this takes {needed / 1e9:.1f} GB in {self.setting.project.root}, and {free / 1e9:.1f} GB are free"
            )
            raise Failed("no-space", f"{message}; nothing in use was changed", "Free some space there (bnbenv gc).")


def keep_rows(rows: Sequence[Row], environ: Mapping[str, str], setting: Setting) -> None:
    """Keep what this bnbenv did not know, so that the next check of the lock knows it. Raises Busy, OSError."""
    folder = overlay(environ)
    if folder is None or not rows:
        return
    own = store(folder, environ, setting.progress)
    for row in rows:
        own.add(row)
