"""Is the environment in sync? Compares the record of the generation in use with what is there. The fast path.

Nothing here imports a third-party package or asks NVML, unless the kernel's files say too little or bnbenv.toml
changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bnbenv.envs.project import ADOPTED, DEFAULT_ENV, Project, env_python, site_packages
from bnbenv.envs.record import (
    Record,
    file_digest,
    made_by_newer,
    observe_conda,
    observe_files,
    observe_packages,
    read_record,
    same_stamp,
)

if TYPE_CHECKING:
    from bnbenv.envs.wishes import Wishes
    from bnbenv.process import Runner


RECORDED = "facts file"  # stands in a fingerprint that was taken from BNBENV_FACTS


class Reason(NamedTuple):
    """Why an environment is not in sync: a stable code and one sentence."""

    env: str
    code: str
    because: str


class Host(NamedTuple):
    """What is quickly known of the host: the driver's state and a named fingerprint."""

    state: str
    fingerprint: Mapping[str, str]


class InUse(NamedTuple):
    """The generation that the link leads to; ``record`` is None where it is neither a finished one of bnbenv's own nor
    one that was adopted (generation 0, whose ``prefix`` lies elsewhere)."""

    generation: int | None
    prefix: Path | None
    record: Record | None
    problem: Reason | None = None


class Look:
    """One look at a project while nothing is changed: what is asked about each of its environments is read once."""

    def __init__(self, project: Project, asked: tuple[str, Wishes] | None = None) -> None:
        self.project = project
        self._uses: dict[str, InUse] = {}
        if asked is not None:  # a bnbenv.toml that is still to be written: its digest, and what stands in it
            self.config, self.wishes = asked

    @cached_property
    def config(self) -> str | None:
        """The digest of bnbenv.toml's bytes; None: no file."""
        return file_digest(self.project.config)

    @cached_property
    def wishes(self) -> Wishes:
        """Raises InputError."""
        from bnbenv.envs.wishes import load_wishes

        return load_wishes(self.project)

    def in_use(self, env: str) -> InUse:
        """As the function of that name."""
        if env not in self._uses:
            self._uses[env] = in_use(self.project, env)
        return self._uses[env]


def observe_host(environ: Mapping[str, str], runner: Runner) -> Host:
    """The host's quick fingerprint; NVML is asked (bounded) only where the kernel's files say too little."""
    from bnbenv.facts.quick import nvml_fingerprint, quick_facts
    from bnbenv.paths import Sysroot

    sysroot = Sysroot.from_environment(environ)
    quick = quick_facts(environ, sysroot)
    if quick.state == "unclear":
        quick = nvml_fingerprint(environ, sysroot, runner)
    return Host(quick.state, quick.fingerprint)


def in_use(project: Project, env: str) -> InUse:
    """What the link leads to, and what is wrong with it."""
    link = project.link(env)
    if not os.path.lexists(link):
        return InUse(None, None, None, Reason(env, "no-environment", f"there is no {link.name} yet"))
    if not is_link(link):
        because = f"{link} is a {'folder' if link.is_dir() else 'file'} and not bnbenv's link"
        return InUse(None, None, None, Reason(env, "link-replaced", because))
    target = Path(os.path.realpath(link))
    own = target.parent == Path(os.path.realpath(project.generations(env))) and target.name.isdecimal()
    zero = None if own else _adopted(project, env, target)
    if not target.is_dir():
        because = f"{link.name} leads nowhere ({target} is gone)"
        if zero is not None:
            because = f"the environment that was adopted is gone: {target} was moved or deleted"
        return InUse(None, None, None, Reason(env, "adopted-gone" if zero else "link-broken", because))
    if zero is not None:
        return InUse(ADOPTED, target, zero)
    if not own:
        because = f"{link.name} leads to {target}, which is no generation of bnbenv"
        return InUse(None, target, None, Reason(env, "link-foreign", because))
    number = int(target.name)
    file = target.parent / f"{number}.json"
    record = read_record(file)
    if record is None and made_by_newer(file):
        because = f"generation {number} was made by a newer bnbenv, whose record this one cannot read"
        return InUse(number, target, None, Reason(env, "record-newer", because))
    if record is None:
        because = f"the record of generation {number} is missing or damaged"
        return InUse(number, target, None, Reason(env, "record-missing", because))
    return InUse(number, target, record)


def _adopted(project: Project, env: str, target: Path) -> Record | None:
    """The record of generation zero, if it is about just that folder."""
    record = read_record(project.generations(env) / f"{ADOPTED}.json")
    return record if record is not None and record.adopted == str(target) else None


def is_link(path: Path) -> bool:
    """A symbolic link or, on Windows, a junction."""
    if os.name == "nt":
        try:
            return bool(os.readlink(path))
        except OSError:
            return False
    return path.is_symlink()


def check_env(project: Project, env: str, host: Host, look: Look | None = None) -> tuple[Reason, ...]:
    """Every reason why an environment is not in sync; none: it is. Raises InputError for a bnbenv.toml that changed."""
    look = look or Look(project)
    use = look.in_use(env)
    if use.problem is not None:
        return (use.problem,)
    assert use.prefix is not None and use.record is not None
    record = use.record
    reasons = [
        *_unfinished(project, env),
        *_environment_reasons(env, use.prefix, record),
        *_host_reasons(env, host, record),
        *_wishes_reasons(look, env, record),
    ]
    if record.base is not None:
        from bnbenv.envs.keep.observe import base_reasons

        reasons += [Reason(env, *found) for found in base_reasons(record.base)]
    if record.adopted is not None:
        return (*reasons, *_adopted_reasons(env, host, record))
    lock = project.lock(env)
    if not lock.exists():
        reasons.append(Reason(env, "lock-missing", f"{lock.name} is gone"))
    elif file_digest(lock) != record.lock:
        reasons.append(_lock_reason(env, lock, record))
    if not record.verified and RECORDED not in host.fingerprint:
        reasons.append(
            Reason(env, "unverified", f"generation {record.generation} was made without running its kernels")
        )
    return tuple(reasons)


def _unfinished(project: Project, env: str) -> list[Reason]:
    if not project.switching.exists():
        return []
    return [Reason(env, "switch-unfinished", "a switch was cut short, and the next sync does the rest")]


def _adopted_reasons(env: str, host: Host, record: Record) -> list[Reason]:
    """An adopted environment has no lock. What was found against it then stays so until something changes."""
    found = record.decision.get("against")
    if isinstance(found, dict) and found:
        return [Reason(env, str(code), str(because)) for code, because in found.items()]
    if record.verified or RECORDED in host.fingerprint:
        return []
    return [Reason(env, "unverified", "it was adopted without running its kernels")]


def _lock_reason(env: str, lock: Path, record: Record) -> Reason:
    """What is to be said of a lock in other bytes than the generation was made from: only such a one is read."""
    from bnbenv.envs.lockfile import agrees, read_lock
    from bnbenv.errors import InputError

    try:
        agrees(read_lock(lock.read_text(encoding="utf-8"), lock.name), lock.name)
    except OSError as error:
        return Reason(env, "lock-changed", f"{lock.name} cannot be read ({error.strerror})")
    except UnicodeDecodeError:
        return Reason(env, "lock-unreadable", f"{lock.name} cannot be read: it is no UTF-8 text")
    except InputError as error:
        return Reason(
            env, "lock-unreadable", f"{lock.name} cannot be read: {error.message.removeprefix(lock.name)[2:]}"
        )
    return Reason(env, "lock-changed", f"{lock.name} changed since generation {record.generation} was made")


def changes_behind(project: Project, env: str) -> tuple[str, ...]:
    """What was changed in the generation in use behind its lock; nothing where there is no finished one."""
    use = in_use(project, env)
    if use.prefix is None or use.record is None:
        return ()
    return tuple(reason.because for reason in _environment_reasons(env, use.prefix, use.record))


def _environment_reasons(env: str, prefix: Path, record: Record) -> list[Reason]:
    if not env_python(prefix).exists():
        return [Reason(env, "python-gone", f"its Python is gone ({os.path.realpath(env_python(prefix))})")]
    site = site_packages(prefix)
    if site is None:
        return [Reason(env, "packages-changed", f"{prefix} has no site-packages any more")]
    files = {**observe_files(site), **observe_conda(prefix, record.files)}
    return _package_reasons(env, record, observe_packages(site, record), files)


def _package_reasons(
    env: str, record: Record, packages: Mapping[str, str], files: Mapping[str, list[int]]
) -> list[Reason]:
    """Changes behind bnbenv's back. What was only added is none: people install more."""
    now = {name.partition("-")[0]: name for name in packages}
    changed: list[str] = []
    for stem, record_digest in record.packages.items():
        name, _, version = stem.partition("-")
        if stem not in packages:
            other = now.get(name)
            is_now = f"is now {other.partition('-')[2]}" if other else "is gone"
            changed.append(f"{name} {version} {is_now}")
        elif packages[stem] != record_digest:
            changed.append(f"{name} {version} was installed anew")
    if changed:
        shown = ", ".join(changed[:4]) + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")
        return [Reason(env, "packages-changed", _changed(env, record, shown))]
    different = [name for name, stamp in record.files.items() if not same_stamp(stamp, files.get(name))]
    if different:
        return [Reason(env, "files-changed", _changed(env, record, ", ".join(sorted(different)[:4])))]
    return []


def _changed(env: str, record: Record, what: str) -> str:
    """An adopted environment is somebody else's, who may have meant it."""
    if record.adopted is None:
        return f"changed behind bnbenv's back: {what}"
    import shlex

    again = f"bnbenv adopt {shlex.quote(record.adopted)} --env {env}"
    return f"changed since it was adopted: {what} (if that was on purpose: {again})"


def _host_reasons(env: str, host: Host, record: Record) -> list[Reason]:
    """Every named difference; between a probed host and a recorded file only those of driver and GPUs say something."""
    from bnbenv.facts.quick import differences

    before, now = record.host, host.fingerprint
    changes = []
    if (RECORDED in now) != (RECORDED in before):
        present, then = ("from a recorded file (BNBENV_FACTS)", "probed")[:: 1 if RECORDED in now else -1]
        changes.append(f"the facts are {present} now, and were {then} when it was made")
    if RECORDED in before and RECORDED not in now:  # the two name everything differently
        from bnbenv.envs.firststart import made_for_words

        changes[0] += f", for {made_for_words(record)}"
    else:
        changes += differences(_hardware(before) if changes else before, _hardware(now) if changes else now)
    if not changes:
        return []
    from bnbenv.envs.lost import driver_reasons

    worse = [Reason(env, *found) for found in driver_reasons(record, host.state, host.fingerprint)]
    return [*worse, *(Reason(env, "host-changed", change) for change in changes)]


def _hardware(fingerprint: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in fingerprint.items() if name.startswith(("driver", "GPU", "MIG"))}


def _wishes_reasons(look: Look, env: str, record: Record) -> list[Reason]:
    """The bytes are compared first; only a changed file is read."""
    if look.config == record.config:
        return []
    name = look.project.config.name
    if env not in look.wishes.envs:
        return [Reason(env, "not-wished", f"{name} does not name {env} any more")]
    if look.wishes.digest(env) == record.wishes:
        return []
    return [Reason(env, "wishes-changed", f"{name} asks for something else than before")]


def env_names(project: Project, only: str | None, look: Look | None = None) -> tuple[str, ...]:
    """The environments that a command is about: the one named, else those of bnbenv.toml, else the default.

    On the fast path the records tell which environments there are, as long as bnbenv.toml is as it was.
    """
    if only is not None:
        return (only,)
    look = look or Look(project)
    made = project.envs_made()
    if look.config is None and not os.path.lexists(project.config):
        return tuple(env for env in made if os.path.lexists(project.link(env))) or (DEFAULT_ENV,)
    records = [look.in_use(env).record for env in made]
    if made and all(record is not None and record.config == look.config for record in records):
        known = records[0].environments if records[0] else []
        if set(known) == set(made):
            return tuple(known)
    return tuple(look.wishes.envs)
