"""Which processes compute on the GPUs of this host, by NVML, asked in a process of its own with a time limit.

In use is a GPU on which a process computes: one with a CUDA context, or a client of MPS. What only draws (Xorg, a
desktop) is no such process and does not count; a program of the desktop that computes as well does. The server of MPS,
which stays when its last client has left, counts only where NVML does not tell its clients.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import msgspec

from bnbenv.facts.memory import may_have_gpus
from bnbenv.facts.model import HostFacts
from bnbenv.facts.nvml import DRIVER_NOT_LOADED, LIMIT, CallError, probe_command
from bnbenv.paths import Sysroot
from bnbenv.process import Finished, Runner

_MPS_SERVER = "nvidia-cuda-mps"  # the kernel keeps 15 characters of a program's name


class GpuProcess(msgspec.Struct, frozen=True):
    """A process on a GPU, as NVML tells. ``memory`` is in bytes, None where NVML does not say; ``name`` and ``user``
    are empty where this user may not know."""

    gpu: int
    uuid: str
    pid: int
    name: str = ""
    user: str = ""
    memory: int | None = None


class Processes(msgspec.Struct, frozen=True):
    """What computes. ``unknown`` says why there may be more than those that were found; empty: there is none."""

    found: tuple[GpuProcess, ...] = ()
    unknown: str = ""


class _Place(msgspec.Struct, frozen=True):
    gpu: int
    uuid: str
    compute: tuple[tuple[int, int | None], ...] | None = None
    mps: tuple[tuple[int, int | None], ...] | None = None


class _Answer(msgspec.Struct, frozen=True):
    places: tuple[_Place, ...] = ()
    errors: tuple[CallError, ...] = ()
    failure: CallError | None = None


def gpu_processes(
    environ: Mapping[str, str],
    sysroot: Sysroot,
    runner: Runner,
    facts: HostFacts,
    limit: float = LIMIT,
    system: str = sys.platform,
) -> Processes:
    """What computes on this host's GPUs, by NVML within ``limit`` seconds; nothing that a driver does raises.

    Without a driver nothing can. ``facts`` are this host's; recorded ones (``BNBENV_FACTS``) say nothing of that.
    """
    driver = "absent" if environ.get("BNBENV_FACTS") else facts.driver.state
    if not may_have_gpus(environ, sysroot, system):
        return Processes() if driver == "absent" else Processes(unknown="this driver has no NVML that could be asked")
    command = probe_command(environ, sysroot, "bnbenv.facts.processes_probe", (), limit, system)
    if isinstance(command, str):
        return Processes(unknown=command)
    try:
        return read_processes(runner.run(command), sysroot)
    except OSError as error:
        return Processes(unknown=f"the NVML probe could not be started ({os.strerror(error.errno or 0)})")


def read_processes(finished: Finished, sysroot: Sysroot) -> Processes:
    """The probe's output as a value; a crash, a hang and nonsense are reasons and never exceptions."""
    if finished.timed_out:
        return Processes(unknown=f"NVML did not answer within {finished.command.timeout:g} s")
    line = next((line for line in reversed(finished.stdout.splitlines()) if line.startswith("{")), "")
    if not finished.ok or not line:
        how = finished.signal_name or f"exit code {finished.returncode}"
        return Processes(unknown=f"the NVML probe ended with {how} and no answer")
    try:
        answer = msgspec.json.decode(line, type=_Answer)
    except (msgspec.MsgspecError, RecursionError) as error:
        return Processes(unknown=f"NVML's answer cannot be read ({error})")
    if answer.failure is not None:
        loaded = answer.failure.code != DRIVER_NOT_LOADED
        return Processes(unknown=str(answer.failure)) if loaded else Processes()
    found = (one for place in answer.places for one in _of_place(place, sysroot))
    return Processes(tuple(found), "; ".join(dict.fromkeys(map(str, answer.errors))))


def _of_place(place: _Place, sysroot: Sysroot) -> list[GpuProcess]:
    """The processes of a GPU or slice, each once: clients of MPS stand in both lists."""
    memory = {**dict(place.mps or ()), **dict(place.compute or ())}
    found = []
    for pid, size in sorted(memory.items()):
        name = (sysroot.read(f"/proc/{pid}/comm") or "").strip()
        if place.mps is None or name != _MPS_SERVER:
            found.append(GpuProcess(place.gpu, place.uuid, pid, name, _user(pid, sysroot), size))
    return found


def _user(pid: int, sysroot: Sysroot) -> str:
    """Who runs a process; a number where the user has no name here."""
    try:
        number = sysroot.path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return ""
    try:
        import pwd

        return pwd.getpwuid(number).pw_name
    except (ImportError, KeyError):  # Windows; a container without that user
        return str(number)
