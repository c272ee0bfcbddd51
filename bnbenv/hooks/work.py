"""``bnbenv hook run``: note what the machine is like, and have the projects follow once its driver is whole again.

The event says who calls. A package manager's is root's, who notes, and leaves the rest to the owners of the projects:
systemd starts a unit for each, or a line tells them. ``boot`` is that unit; ``login`` is a user's own shell. Between
the upgrade of a driver and the reboot nothing is touched.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bnbenv.errors import BnbenvError, Exit
from bnbenv.facts.quick import Quick
from bnbenv.hooks import tell, units
from bnbenv.hooks.note import Noted, boot_id, compare, driver_change, now, observe, read_noted, write_noted
from bnbenv.hooks.place import Place
from bnbenv.hooks.registry import (
    Registered,
    Result,
    check_root_project,
    read_manifest,
    read_projects,
    read_results,
    write_results,
)
from bnbenv.paths import Sysroot

if TYPE_CHECKING:
    from bnbenv.envs.project import Project
    from bnbenv.process import Runner
    from bnbenv.progress import Progress

MANUAL, BOOT, LOGIN = "manual", "boot", "login"
EVENTS = ("apt", "dnf", "pacman", "zypper", BOOT, LOGIN, MANUAL)

# Of all that can be out of step, what a change of the machine brings about; the rest is its owner's doing.
FOLLOWED = frozenset(
    {"host-changed", "gpu-lost", "driver-too-old", "unverified", "no-environment", "base-changed", "base-gone"}
)
PAUSES = (30.0, 120.0, 600.0)  # seconds before a package source that did not answer is asked again
SYNC_LIMIT = 4 * 3600.0  # seconds: a source build and large downloads are in it
_HOPELESS = (Exit.NO_COMBINATION, Exit.VERIFY_FAILED)
_AGAIN = (Exit.UNREACHABLE, Exit.BUSY)


class Ran(NamedTuple):
    """What a run did: the driver's state, what changed since the last one, and the projects.

    Each project is ``(path, state, said)``; state is ``in sync``, ``synced``, ``failed``, ``pending`` or ``waiting``
    (for the reboot). ``started``: systemd was asked to sync.
    """

    event: str
    state: str
    changes: list[str]
    projects: list[tuple[str | None, str, str]]
    started: bool = False


class Port(NamedTuple):
    """The effects of a run; ``sleep`` is given seconds."""

    environ: Mapping[str, str]
    runner: Runner
    progress: Progress
    sleep: Any = time.sleep


def run(place: Place, event: str, port: Port) -> Ran:
    """Raises OSError and BnbenvError; who calls it ends well all the same."""
    sysroot = Sysroot(place.root)
    boot = boot_id(sysroot)
    quick = observe(sysroot)
    owner = place.user or (place.uid == 0 and event != BOOT)
    if not owner:
        return _follow(place, event, quick, boot, port)
    before = read_noted(place.noted)
    noted, news = compare(before, quick, event, boot)
    if noted is not before:
        write_noted(place.noted, noted)
    if place.user:
        if news:
            _announce(place, (place.uid,), before, noted, boot, units_there=True)
        if event in (BOOT, MANUAL) or not _by_units(place, port):
            return _follow(place, event, quick, boot, port)._replace(changes=noted.changes if news else [])
        pending = [one for one in read_projects(place) if _reasons(place, one, port)[0]]
        started = bool(pending) and quick.state == "ok" and units.start(place, (), port.runner)
        return Ran(event, quick.state, noted.changes if news else [], [], started)
    return _as_root(place, before, noted, news, port, boot)


def _as_root(place: Place, before: Noted | None, noted: Noted, news: bool, port: Port, boot: str) -> Ran:
    """Nothing of any project is looked at here."""
    if not news:
        return Ran(noted.event, noted.state, [], [])
    uids = tuple(dict.fromkeys((0, *(one.uid for one in read_projects(place)))))
    by_units = _by_units(place, port)
    _announce(place, uids, before, noted, boot, by_units)
    owners = {one.uid for one in read_projects(place)}
    started = by_units and noted.state == "ok" and units.start(place, owners, port.runner)
    return Ran(noted.event, noted.state, noted.changes, [], started)


def _by_units(place: Place, port: Port) -> bool:
    """Whether systemd brings the environments in line by itself."""
    manifest = read_manifest(place)
    return manifest is not None and "systemd" in manifest.kinds and units.systemd_runs(place, port.environ)


def _announce(
    place: Place, uids: tuple[int, ...], before: Noted | None, noted: Noted, boot: str, units_there: bool
) -> None:
    """Leave a line for those whom a change of the driver concerns. One box that cannot be written hinders no other."""
    change = driver_change(before.fingerprint if before else {}, noted.fingerprint)
    what = f"the NVIDIA driver was changed{f' ({change})' if change else ''}"
    todo = "bring your environments in line with it: bnbenv sync"
    if noted.state == "mismatch":
        until = f"{what}: GPU programs fail until this machine is restarted"
        after = "" if units_there else f"{what}; {todo}"
    elif noted.state == "ok" and change and not units_there:
        until = after = f"{what}; {todo}"
    else:
        until = after = ""
    for uid in uids:
        with contextlib.suppress(OSError):
            if until:
                tell.leave(place.box(uid), noted.name, boot, until, after)
            else:
                tell.clear(place.box(uid))


def _follow(place: Place, event: str, quick: Quick, boot: str, port: Port) -> Ran:
    """Sync the projects of this user that do not fit the machine any more."""
    mine = [one for one in read_projects(place) if one.uid == place.uid]
    rows = []
    for one in mine:
        reasons, trouble, why = _reasons(place, one, port)
        if trouble is not None:
            rows.append((one.path, "waiting" if trouble.exit == Exit.REBOOT else "failed", trouble.message))
        elif not reasons:
            rows.append((one.path, "in sync", ""))
        elif event == LOGIN:
            rows.append((one.path, "pending", reasons[0]))
        else:
            rows.append(_bring_in_line(place, one, reasons[0], why, port))
    _tell_results(place, rows, boot)
    return Ran(event, quick.state, [], rows)


def _reasons(place: Place, one: Registered, port: Port) -> tuple[list[str], BnbenvError | None, str]:
    """Why a project has to follow, what hinders the answer, and a digest of what a sync would be made for."""
    import hashlib

    from bnbenv.envs.check import Look, check_env, env_names, observe_host
    from bnbenv.envs.trust import check_trust

    try:
        project = _project(one, port.environ)
        check_trust(project, port.environ)
        check_root_project(place, one)
        host = observe_host(port.environ, port.runner)
        if host.state == "mismatch":
            from bnbenv.errors import RebootRequired

            return [], RebootRequired("reboot", "the driver's kernel module and library differ", ""), ""
        look = Look(project)
        reasons = [reason for env in env_names(project, None, look) for reason in check_env(project, env, host, look)]
        why = hashlib.sha256(repr((sorted(host.fingerprint.items()), look.config)).encode()).hexdigest()
    except BnbenvError as error:
        return [], error, ""
    except OSError as error:
        return [], BnbenvError("os-error", f"{one.path}: {error.strerror or error}"), ""
    followed = [reason for reason in reasons if reason.code in FOLLOWED]
    return [f"{reason.env}: {reason.because}" for reason in followed], None, why


def _project(one: Registered, environ: Mapping[str, str]) -> Project:
    """Raises UsageError where it is gone."""
    from bnbenv.envs.project import find_project

    return find_project(Path(os.sep), environ, one.path)


def _bring_in_line(place: Place, one: Registered, because: str, why: str, port: Port) -> tuple[str | None, str, str]:
    """Run ``bnbenv sync``, unless that failed for the very same; what it said is kept."""
    results = read_results(place.box(place.uid))
    known = results.get(one.path)
    if known is not None and known.why == why and known.exit in _HOPELESS:
        return one.path, "failed", known.said
    port.progress.say(f"{one.path or 'your own environment'}: {because}")
    code, said = _sync(one, port)
    for pause in () if port.environ.get("BNBENV_OFFLINE") else PAUSES:
        if code not in _AGAIN:
            break
        port.progress.say(f"{said}; it is tried again in {pause:.0f} s")
        port.sleep(pause)
        code, said = _sync(one, port)
    results[one.path] = Result(one.path, now(), code, said, why)
    with contextlib.suppress(OSError):
        write_results(place.box(place.uid), results.values())
    return one.path, "synced" if code == Exit.DONE else "waiting" if code == Exit.REBOOT else "failed", said


def _sync(one: Registered, port: Port) -> tuple[int, str]:
    """The exit code of a sync, and what it came to in one sentence."""
    import json

    from bnbenv.process import Command

    where = ("--project", one.path) if one.path is not None else ()
    words = (sys.executable, "-I", "-m", "bnbenv", "sync", "--json", "--wait", "60", *where)
    try:
        ended = port.runner.run(Command(words, timeout=SYNC_LIMIT, cwd=os.sep))
    except OSError as error:
        return int(Exit.FAILED), f"bnbenv sync cannot be started ({error.strerror or error})"
    code = int(Exit.FAILED) if ended.returncode is None or ended.returncode < 0 else ended.returncode
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        document = json.loads(ended.stdout)
        if "error" in document:
            return code, str(document["error"]["message"])
        rows = document["generations"]
        return code, ", ".join(f"{row['env']} is in generation {row['generation']}" for row in rows)
    return code, "it took too long" if ended.timed_out else f"bnbenv sync ended with {code}"


def _tell_results(place: Place, rows: list[tuple[str | None, str, str]], boot: str) -> None:
    """One line about all of them, where there is something to say."""
    import hashlib

    def named(state: str) -> list[tuple[str, str]]:
        return [(path or "your own environment", said) for path, what, said in rows if what == state]

    failed, synced, pending, waiting = (named(state) for state in ("failed", "synced", "pending", "waiting"))
    if waiting and not failed:
        noted = read_noted(place.noted)
        if noted is not None and noted.state == "mismatch":
            return  # that was told when it was noted
        text = f"{waiting[0][1]}: GPU programs fail until this machine is restarted"
    elif failed:
        path, said = failed[0]
        text = f"{path} was not brought in line with this machine: {said}"
    elif pending:
        text = f"{pending[0][0]} does not fit this machine ({pending[0][1]}); bring it in line: bnbenv sync"
    elif synced:
        names = ", ".join(path for path, _ in synced)
        text = f"{names}: the environments were brought in line with this machine"
    else:
        return
    event = hashlib.sha256(text.encode()).hexdigest()[:12]
    with contextlib.suppress(OSError):
        tell.leave(place.box(place.uid), event, boot, text, "" if waiting else text)
