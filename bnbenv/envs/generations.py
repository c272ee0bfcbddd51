"""Generations: environments that are made at their final path, finished by a record, and switched to by one rename.

Whatever ends bnbenv before the switch leaves the environment in use as it was; what is left unfinished is deleted by
the next run that holds the lock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bnbenv.envs.check import InUse, in_use, is_link
from bnbenv.envs.project import ADOPTED, Project, env_python
from bnbenv.envs.record import Record, made_by_newer, read_record
from bnbenv.errors import Failed
from bnbenv.paths import write_atomically

WAIT = 5.0  # seconds a second bnbenv waits for the first


class Generation(NamedTuple):
    """One environment that was made, in the folder of an environment's generations. ``record``: None while unfinished.

    ``newer``: a newer bnbenv finished it. It is neither used nor deleted by this one.
    """

    number: int
    folder: Path
    record: Record | None
    newer: bool = False

    @property
    def adopted(self) -> bool:
        """Whether others made it, somewhere else: nothing is ever written into such a one, or deleted in it."""
        return self.record is not None and self.record.adopted is not None

    @property
    def own(self) -> Path:
        """Where bnbenv makes this generation; nothing is there of one that was adopted."""
        return self.folder / str(self.number)

    @property
    def prefix(self) -> Path:
        """Where the environment is."""
        return Path(self.record.adopted) if self.record is not None and self.record.adopted else self.own

    @property
    def record_file(self) -> Path:
        return self.folder / f"{self.number}.json"

    @property
    def lock_file(self) -> Path:
        return self.folder / f"{self.number}.lock.toml"

    @property
    def usable(self) -> bool:
        return self.record is not None and env_python(self.prefix).exists()


@contextlib.contextmanager
def held(
    project: Project,
    wait: float = WAIT,
    environ: Mapping[str, str] = os.environ,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[None]:
    """Hold the project against a second bnbenv. Raises Busy if another one keeps it longer than ``wait`` seconds.

    ``say`` hears it where the file system has no locks, and a marker file does instead.
    """
    from bnbenv.envs.hold import hold

    project.home.mkdir(parents=True, exist_ok=True)
    with hold(project.home, str(project.root), wait, environ, say):
        ignore = project.home / ".gitignore"
        if not ignore.exists():
            write_atomically(ignore, "*\n")
        if project.switching.exists():
            from bnbenv.envs.together import finish

            finish(project, say)
        yield


def generations(project: Project, env: str) -> list[Generation]:
    """All generations of an environment, the oldest first, unfinished ones included."""
    folder = project.generations(env)
    try:
        numbers = {int(entry.name) for entry in os.scandir(folder) if entry.is_dir() and entry.name.isdecimal()}
    except OSError:
        return []
    zero = adopted(project, env)
    found = [_generation(folder, number) for number in sorted(numbers) if number or zero is None]
    return [zero, *found] if zero else found


def adopted(project: Project, env: str) -> Generation | None:
    """Generation zero: the environment that was adopted, by its record; None where none was."""
    zero = Generation(ADOPTED, project.generations(env), None)
    zero = zero._replace(record=read_record(zero.record_file))
    return zero if zero.adopted else None


def generation_of(project: Project, env: str, use: InUse) -> Generation:
    """The generation in use, of which there has to be one."""
    assert use.generation is not None
    return Generation(use.generation, project.generations(env), use.record)


def _generation(folder: Path, number: int) -> Generation:
    file = folder / f"{number}.json"
    record = read_record(file)
    return Generation(number, folder, record, record is None and made_by_newer(file))


def note_wishes_file(project: Project, env: str) -> None:
    """Tell the record in use of a bnbenv.toml that asks for the same in other bytes: checks need not read it then.

    The caller holds the project. Where the record cannot be written, they go on reading it.
    """
    from bnbenv.envs.wishes import as_wished

    use = in_use(project, env)
    seen = as_wished(project, env, use.record.wishes) if use.record else None
    if use.record is None or use.generation is None or seen is None:
        return
    if (use.record.config, use.record.environments) != seen:
        record = use.record._replace(config=seen[0], environments=seen[1])
        with contextlib.suppress(OSError):
            record.write(generation_of(project, env, use).record_file)


def new_generation(project: Project, env: str) -> Generation:
    """The next number and its place; nothing is made yet. Numbers are not used twice while a trace is left."""
    folder = project.generations(env)
    folder.mkdir(parents=True, exist_ok=True)
    taken = [int(entry.name.split(".")[0]) for entry in os.scandir(folder) if entry.name.split(".")[0].isdecimal()]
    number = max(taken, default=0) + 1
    return Generation(number, folder, None)


def clean_up(project: Project, env: str) -> list[int]:
    """Delete what a run that did not finish has left; returns the numbers. The one in use is never touched."""
    unfinished, files = left_over(project, env)
    for generation in unfinished:
        remove(generation)
    for path in files:
        path.unlink(missing_ok=True)
    return [generation.number for generation in unfinished]


def left_over(project: Project, env: str) -> tuple[list[Generation], list[Path]]:
    """What a run that did not finish has left: generations, and single files and links."""
    current = in_use(project, env).generation
    known = generations(project, env)
    alive = {str(generation.number) for generation in known}
    unfinished = [one for one in known if one.record is None and not one.newer and one.number != current]
    folder, config = project.generations(env), project.config
    files = [
        folder / name
        for name in _files(folder)
        if name.endswith(".part") or (name[0].isdecimal() and name.partition(".")[0] not in alive)
    ]
    files += [project.home / name for name in _files(project.home) if name.endswith(".part")]
    started = (f"{project.link(env).name}.new-", f".{project.lock(env).name}.")
    files += [project.root / name for name in _files(project.root) if name.startswith(started)]
    beside = (name for name in _files(config.parent) if name.startswith(f".{config.name}.") and name.endswith(".part"))
    files += [config.parent / name for name in beside]
    return unfinished, files


def strays(project: Project, wished: Iterable[str]) -> list[str]:
    """Environments that bnbenv.toml does not name, and of which a run that did not finish has left something.

    One that was never locked was never switched to, whatever is there of it.
    """
    names = [env for env in project.envs_made() if env not in wished and not os.path.lexists(project.link(env))]
    return [env for env in names if not project.lock(env).exists() or left_over(project, env)[0]]


def clear_strays(project: Project, wished: Iterable[str]) -> None:
    """Delete what ``strays`` finds."""
    for env in strays(project, wished):
        locked = project.lock(env).exists()
        for generation in [] if locked else generations(project, env):
            remove(generation)
        clean_up(project, env)
        half = _half_adopted(project, env)
        if half is not None:
            half.record_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is a finished generation
            project.generations(env).rmdir()


def _half_adopted(project: Project, env: str) -> Generation | None:
    """Generation zero, if it is all there is: of an adoption that was ended before bnbenv.toml and the link."""
    zero = adopted(project, env)
    return zero if zero is not None and len(generations(project, env)) == 1 else None


def _files(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if not entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def remove(generation: Generation) -> None:
    """Delete a generation: the record first, so that what a kill leaves is seen as unfinished.

    Whatever its record says, only what bnbenv made in the project is deleted. Of one that was adopted nothing is.
    """
    import shutil

    if generation.adopted:
        return
    _delete(generation.record_file)
    shutil.rmtree(generation.own, ignore_errors=True)
    if not generation.own.exists():
        _delete(generation.lock_file)


def _delete(path: Path) -> None:
    """Whatever it is: somebody may have put a folder where a file was."""
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_link(project: Project, env: str) -> None:
    """Raises Failed if something that is no link is where the environment's link belongs."""
    link = project.link(env)
    if os.path.lexists(link) and not is_link(link):
        raise Failed(
            "link-replaced",
            f"{link} is not bnbenv's link, and bnbenv does not delete what it did not make",
            f"Move it away (mv {link.name} {link.name}.old), then run: bnbenv sync",
        )


def check_newer(project: Project, env: str) -> None:
    """Raises Failed if what is in use was made by a newer bnbenv: this one would not replace it with the like."""
    use = in_use(project, env)
    if use.problem is not None and use.problem.code == "record-newer":
        step = "Upgrade bnbenv, or make a new generation all the same with: bnbenv sync --fresh"
        raise Failed("record-newer", f"{use.problem.because}; it was left as it is", step)


def switch(project: Project, env: str, generation: Generation) -> None:
    """Point the environment's link at a generation, in one rename. Raises Failed as ``check_link``."""
    check_link(project, env)
    link = project.link(env)
    if os.name == "nt":
        _switch_junction(link, generation.prefix)
        return
    fresh = link.with_name(f"{link.name}.new-{os.getpid()}")
    fresh.unlink(missing_ok=True)
    # What was adopted stays where it is when the project is moved.
    target = str(generation.prefix) if generation.adopted else os.path.relpath(generation.prefix, link.parent)
    fresh.symlink_to(target, target_is_directory=True)
    fresh.replace(link)


def _switch_junction(link: Path, target: Path) -> None:
    """A junction needs no privilege on Windows; it cannot be replaced in one step, so the old one is renamed first."""
    import importlib

    junction = importlib.import_module("_winapi").CreateJunction
    old = link.with_name(f"{link.name}.old")
    if is_link(old):
        old.rmdir()
    if os.path.lexists(link):
        link.replace(old)
    junction(str(target), str(link))
    if is_link(old):
        old.rmdir()


def previous(project: Project, env: str, wanted: int | None = None) -> Generation:
    """The generation to go back to: the one named, else the newest usable one before that in use. Raises Failed."""
    current = in_use(project, env).generation
    known = generations(project, env)
    if wanted is not None:
        found = next((generation for generation in known if generation.number == wanted), None)
        if found is None or not found.usable:
            state = "is not finished or its Python is gone" if found else "does not exist"
            state = "was made by a newer bnbenv" if found and found.newer else state
            raise Failed("no-generation", f"generation {wanted} of {env} {state}", "See: bnbenv list")
        return found
    older = [g for g in known if g.usable and g.number != current and (current is None or g.number < current)]
    if not older:
        raise Failed("no-generation", f"there is no earlier generation of {env} to go back to", "See: bnbenv list")
    return older[-1]
