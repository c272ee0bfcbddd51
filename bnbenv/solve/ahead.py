"""What another driver would change against the one that is there, before it is installed. Pure."""

from __future__ import annotations

from bnbenv.facts.model import HostFacts
from bnbenv.matrix.drivers import unsupported
from bnbenv.matrix.model import Matrix
from bnbenv.solve.model import Availability, Refusal, Request, Solution
from bnbenv.solve.situation import as_installed, on_windows_driver, with_request
from bnbenv.solve.solver import try_out
from bnbenv.solve.wording import gives


def driver_change(
    facts: HostFacts, matrix: Matrix, request: Request, availability: Availability, ahead: Solution | Refusal
) -> str | None:
    """One sentence: which GPUs the driver that is asked about loses and gains, and whether the choice is another one.

    ``ahead`` is the answer under that driver. None where none is asked about.
    """
    if request.driver is None:
        return None
    version = as_installed(request.driver, facts, matrix).version or request.driver
    present = facts.driver.version if facts.driver.state == "ok" else None
    parts = [] if present is None else _gpus(facts, matrix, present, version)
    today = None
    if facts.driver.state != "mismatch":
        today = try_out(facts, matrix, with_request(request, driver=None), availability)
    unseen = next((item.reason for item in facts.unknown if item.fact == "gpus"), None)
    if facts.driver.state == "absent" and unseen and facts.platform.os != "macos" and request.backend != "cpu":
        parts.append(f"which GPUs it would find is unknown ({unseen}); this is judged without any")
    else:
        parts.append(_choices(today, ahead))
    before = {"ok": f"instead of {present}", "mismatch": "instead of the two that differ"}
    return f"driver {version} {before.get(facts.driver.state, 'instead of none that works')}: {'; '.join(parts)}"


def _gpus(facts: HostFacts, matrix: Matrix, present: str, version: str) -> list[str]:
    """The GPUs that a driver no longer runs, and those that it runs and the present one does not."""
    rows = {row.compute_capability: row for row in matrix.archs}
    windows = on_windows_driver(facts)
    said = []
    for gpu in facts.gpus:
        row = rows.get(gpu.compute_capability)
        now, then = unsupported(row, present, windows), unsupported(row, version, windows)
        name = f"GPU {gpu.index} ({gpu.name})"
        if then is not None and now is None:
            family = row.generation if row else gpu.arch
            never = f"does not support {family} yet" if then.first_driver else f"no longer supports {family}"
            said.append(f"{name} is lost, since it {never}")
        elif now is not None and then is None:
            said.append(f"{name} can be used")
    return said


def _choices(today: Solution | None, ahead: Solution | Refusal) -> str:
    then = ahead if isinstance(ahead, Solution) else None
    if today is None and then is None:
        return "nothing fits, as today"
    if then is None:
        return f"nothing fits any more, today {gives(today) if today else ''} does"
    if today is None:
        return f"{gives(then)} fits, today nothing does"
    if (today.choice, today.covers) == (then.choice, then.covers):
        return "the same is chosen as today"
    if today.choice == then.choice:
        return "the same is chosen as today, and other code of it runs"
    return f"today {gives(today)} is chosen"
