"""What ``bnbenv fleet apply`` decides: whether a host is left as it is, and how an end is called. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bnbenv.decode import convert
from bnbenv.errors import BnbenvError, Exit, InputError
from bnbenv.facts.processes import Processes
from bnbenv.fleet.model import AppliedState, HostEnv

# What a state is called by a script. Of "failed" and "verify-failed" the error says it.
EXITS: dict[AppliedState, Exit] = {
    "changed": Exit.DONE,
    "in-sync": Exit.DONE,
    "would-change": Exit.PENDING,
    "in-use": Exit.PENDING,
    "moved": Exit.PENDING,
    "busy": Exit.BUSY,
    "reboot": Exit.REBOOT,
    "verify-failed": Exit.VERIFY_FAILED,
    "no-combination": Exit.NO_COMBINATION,
    "failed": Exit.FAILED,
}
_OF_ERRORS: dict[Exit, AppliedState] = {
    Exit.NO_COMBINATION: "no-combination",
    Exit.VERIFY_FAILED: "verify-failed",
    Exit.REBOOT: "reboot",
    Exit.BUSY: "busy",
}
_FEW = 3  # processes that are named


def state_of(error: BnbenvError) -> AppliedState:
    """How an error is called."""
    return _OF_ERRORS.get(error.exit, "failed")


def read_expect(text: str) -> dict[str, str | None]:
    """The value of ``--expect``: by environment the sha256 of its lock, or null. Raises InputError."""
    import msgspec

    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError("--expect", "", f"no JSON document ({error})") from None
    return convert(document, dict[str, str | None], "--expect")


def moved(expect: Mapping[str, str | None], now: Mapping[str, str | None]) -> str:
    """What somebody else changed since the desk had looked; empty: nothing."""
    others = [env for env, lock in expect.items() if now.get(env) != lock]
    if not others:
        return ""
    env = others[0]
    more = f", and {len(others) - 1} more" if others[1:] else ""
    return f"{env} was changed meanwhile: {_lock(now.get(env))} is in use, and {_lock(expect[env])} was expected{more}"


def _lock(lock: str | None) -> str:
    return f"lock {lock[:12]}" if lock else "no lock"


def why_in_use(processes: Processes) -> str:
    """Why its GPUs count as in use; empty: they are free. What cannot be told counts as in use."""
    if processes.found:
        few = [
            f"{one.name or 'a process'} ({one.pid}{f' of {one.user}' if one.user else ''}) on GPU {one.gpu}"
            for one in processes.found[:_FEW]
        ]
        more = f" and {len(processes.found) - _FEW} more" if processes.found[_FEW:] else ""
        return f"its GPUs are in use: {', '.join(few)}{more}"
    return f"which processes are on its GPUs cannot be told: {processes.unknown}" if processes.unknown else ""


def what_ran(before: Sequence[HostEnv], after: Sequence[HostEnv], done: Sequence[str], recorded: bool) -> str:
    """What is to be said of the kernels: that they ran again where a generation stays, or did not run. ``done`` are the
    environments for which there was something to do."""
    had = {one.env: one.generation for one in before}
    same = [one.env for one in after if one.env in done and had.get(one.env) == one.generation]
    said = [f"the kernels of {', '.join(same)} ran again; the packages stay"] if same and not recorded else []
    unverified = [one.env for one in after if not one.verified]
    if unverified and recorded:
        because = "the facts are recorded (BNBENV_FACTS), and their GPUs are not here"
        said.append(f"the kernels of {', '.join(unverified)} were not run: {because}")
    return "; ".join(said)


def left_over(before: Sequence[HostEnv], wished: Sequence[str]) -> str:
    """What is to be said of environments that the new bnbenv.toml does not name; empty: there are none."""
    gone = [one.env for one in before if one.env not in wished and one.generation is not None]
    return f"bnbenv.toml no longer names {', '.join(gone)}, which stays as it is" if gone else ""
