"""What a host answers a desk: what it is, what its project has in use, and what computes on its GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bnbenv.envs.check import Host, InUse, Look, Reason, check_env, env_names, in_use
from bnbenv.envs.project import CONFIG, Project, find_project
from bnbenv.envs.record import versions_in
from bnbenv.errors import InputError
from bnbenv.facts.model import Driver, HostFacts
from bnbenv.facts.processes import Processes
from bnbenv.fleet.model import Cause, HostAnswer, HostEnv
from bnbenv.paths import expand
from bnbenv.solve.situation import reboot_required

UNREADABLE = "config-unreadable"


def project_at(cwd: Path, environ: Mapping[str, str], explicit: str | None) -> Project:
    """The project of a folder that need not be there yet. Raises UsageError where it is something else than a folder.

    Without ``explicit``: as for every command.
    """
    if explicit:
        root = Path(os.path.normpath(cwd / expand(explicit)))
        if not os.path.lexists(root):
            return Project(root, root / CONFIG)
    return find_project(cwd, environ, explicit)


def environments(project: Project, host: Host, only: Iterable[str] = ()) -> tuple[HostEnv, ...]:
    """The environments of bnbenv.toml, as they are in use, and those of ``only`` besides; none without a project.

    What cannot be read is a reason for not being in sync, and no failure.
    """
    if not project.root.is_dir():
        return ()
    look = Look(project)
    try:
        names, problem = env_names(project, None, look), ""
    except InputError as error:
        names, problem = project.envs_made(), error.message
    return tuple(_environment(look, env, host, problem) for env in dict.fromkeys((*names, *only)))


def _environment(look: Look, env: str, host: Host, problem: str) -> HostEnv:
    use = look.in_use(env)
    reasons: tuple[Reason, ...] = (Reason(env, UNREADABLE, problem),) if problem else ()
    if not problem:
        try:
            reasons = check_env(look.project, env, host, look)
        except InputError as error:
            reasons = (Reason(env, UNREADABLE, error.message),)
    decision: Mapping[str, Any] = use.record.decision if use.record else {}
    return HostEnv(
        env=env,
        in_sync=not reasons,
        generation=use.generation,
        lock=lock_of(use),
        verified=bool(use.record and use.record.verified and use.record.host == dict(host.fingerprint)),
        backend=backend if isinstance(backend := decision.get("backend"), str) else None,
        holds=_holds(decision),
        reasons=tuple(Cause(reason.code, reason.because) for reason in reasons),
    )


def lock_of(use: InUse) -> str | None:
    """The sha256 of the lock that a generation in use was made from; None: there is none."""
    return (use.record.lock or None) if use.record else None


def locks_in_use(project: Project, envs: Iterable[str]) -> dict[str, str | None]:
    """By environment the sha256 of the lock in use."""
    return {env: lock_of(in_use(project, env)) for env in envs}


def _holds(decision: Mapping[str, Any]) -> dict[str, str]:
    version = decision.get("choice", {}).get("torch", {}).get("version")
    return {**({"torch": version} if isinstance(version, str) else {}), **versions_in(decision)}


def why_reboot(host: Host, driver: Driver) -> str:
    """Why a reboot is required; empty: none is."""
    if "mismatch" not in (host.state, driver.state):
        return ""
    return reboot_required(driver).message.partition(": nothing was changed")[0]


def answer(project: Project, host: Host, facts: HostFacts, processes: Processes) -> HostAnswer:
    """Everything that a desk asks, as one value."""
    from bnbenv import __version__

    return HostAnswer(
        bnbenv=__version__,
        project=str(project.root),
        facts=facts,
        environments=environments(project, host),
        processes=processes.found,
        processes_unknown=processes.unknown,
        reboot=why_reboot(host, facts.driver),
    )
