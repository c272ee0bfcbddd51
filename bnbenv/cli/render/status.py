"""How ``bnbenv status`` looks: the verdict, the host, a paragraph an environment, the last runs, the next step."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.list import held
from bnbenv.cli.render.text import listed, local_time, wrap

_DRIVER = {
    "ok": "NVIDIA driver {driver}",
    "absent": "no NVIDIA driver",
    "mismatch": "NVIDIA driver half upgraded: the kernel module ({driver}) and the library differ",
    "error": "NVIDIA driver {driver}, which does not work",
    "unknown": "it cannot be told what this host is",
}
_ENDS = {
    0: "done",
    1: "failed",
    2: "wrong usage or unreadable input",
    3: "changes were pending",
    4: "no known-good combination",
    5: "verification failed",
    6: "reboot required",
    7: "a package source could not be reached",
    8: "another bnbenv was at work",
    130: "interrupted",
}


def render(document: dict[str, Any], why: str | None = None, everything: bool = False) -> str:
    """``why`` is the policy of preference where the reasons are asked for."""
    rows = document["environments"]
    lines = wrap(_verdict(document))
    lines += [line for problem in document["problems"] for line in wrap(f"problem: {problem['because']}", "  ")]
    own = " (your own: no bnbenv.toml is here or above)" if document["own"] else ""
    lines += [f"project: {document['project']}{own}", *wrap(f"host: {_host(document['host'])}")]
    for row in rows:
        lines += _environment(row, document["at_work"])
        if why is not None:
            lines += _why(row, why, everything)
    lines += _now_and_before(document)
    if document["next_step"]:
        return "\n".join([*lines, f"next: {document['next_step']}"])
    return "\n".join([*lines, *(f"use {'it' if len(rows) == 1 else row['env']}: {row['python']}" for row in rows)])


def _verdict(document: dict[str, Any]) -> str:
    rows = document["environments"]
    if document["host"]["state"] == "mismatch":
        return "reboot required: the NVIDIA driver is half upgraded"
    apart = [row["env"] for row in rows if not row["in_sync"]]
    if apart:
        return f"not in sync: {', '.join(apart)}"
    agree = ", ".join(row["env"] for row in rows)
    return f"unreadable: see below; otherwise in sync: {agree}" if document["problems"] else f"in sync: {agree}"


def _host(host: dict[str, Any]) -> str:
    driver = _DRIVER.get(host["state"], "NVIDIA driver {driver}").format(driver=host["driver"] or "of unknown version")
    gpus = f"GPU: {listed(_counted(host['gpus']))}" if host["gpus"] else "no GPU" if host["state"] == "ok" else ""
    return f"{driver}; {gpus}" if gpus else driver


def _counted(gpus: list[str]) -> list[str]:
    """Equal GPUs in one: ``4 NVIDIA H200``."""
    counts = {name: gpus.count(name) for name in dict.fromkeys(gpus)}
    return [name if count == 1 else f"{count} {name}" for name, count in counts.items()]


def _environment(row: dict[str, Any], at_work: bool) -> list[str]:
    number = "nothing is in use" if row["generation"] is None else f"generation {row['generation']} is in use"
    lines = [f"{row['env']}: {'in sync' if row['in_sync'] else 'not in sync'}, {number}"]
    for reason in row["reasons"]:
        lines += wrap(f"because {reason['because']}", "  ")
    if row["holds"]:
        lines += wrap(f"holds {_holds(row['holds'])}", "  ")
        how = "made" if row["adopted"] is None else f"adopted from {row['adopted']}"
        lines += wrap(f"{how} {local_time(row['created'])} for {_made_for(row)}", "  ")
        lines += wrap(_verification(row), "  ")
    for note in row["notes"]:
        lines += wrap(f"note: {note}", "  ")
    if row["guard"]:
        lines += wrap("its drift guard is on (bnbenv guard)", "  ")
    lines += _others(row, at_work)
    if row["disk"]:
        total, own = (f"{row['disk'][name] / 2**20:.0f} MiB" for name in ("bytes", "own"))
        lines += wrap(f"all its generations take {total} of disk; without them {own} would be free", "  ")
    return lines


def _holds(holds: dict[str, Any]) -> str:
    cuda = f"CUDA {holds['cuda']}" if holds["cuda"] else "CPU"
    return f"{held(holds)}torch {holds['torch']} ({cuda}), Python {holds['python']}"


def _made_for(row: dict[str, Any]) -> str:
    made = row["made_for"]
    if row["backend"] == "cpu":
        return "the CPU"
    gpus = _counted([f"{gpu['name']} ({gpu['arch']})" for gpu in made["gpus"]])
    return listed([f"driver {made['driver'] or 'of unknown version'}", *gpus])


def _verification(row: dict[str, Any]) -> str:
    if not row["verified"]:
        return "not verified: its kernels have not been run on this host"
    when = f" {local_time(row['verified_at'])}" if row["verified_at"] else ""
    alike: dict[int, list[str]] = {}
    for one in row["verified_on"]:
        alike.setdefault(one["checks"], []).append(one["name"])
    devices = [f"{listed(_counted(names))} ({checks} checks agreed)" for checks, names in alike.items()]
    return f"verified{when}" + (f" on {listed(devices)}" if devices else "")


def _others(row: dict[str, Any], at_work: bool) -> list[str]:
    lines = []
    if row["others"]:
        several = "s" if row["others"][1:] else ""
        numbers = listed([f"{number}, the adopted one" if number == 0 else str(number) for number in row["others"]])
        what = "bnbenv rollback goes back" + (", bnbenv gc deletes" if any(row["others"]) else "")
        lines += wrap(f"also kept: generation{several} {numbers} ({what})", "  ")
    if row["unfinished"]:
        numbers = listed([str(number) for number in row["unfinished"]])
        what = "unfinished" if at_work else "unusable"
        why = "being made, or left by an earlier run" if at_work else "bnbenv gc deletes them"
        lines += wrap(f"{what} generations: {numbers} ({why})", "  ")
    if row["newer"]:
        numbers = listed([str(number) for number in row["newer"]])
        lines += wrap(f"generations of a newer bnbenv, which this one leaves alone: {numbers}", "  ")
    return lines


def _why(row: dict[str, Any], prefer: str, everything: bool) -> list[str]:
    from bnbenv.cli.render.choice import details, passed_over, rests_on, why

    solution = row["decision"]
    if solution is None:
        return [] if row["generation"] is None else ["  no decision is recorded that can be read"]
    if row["adopted"] is not None:  # nobody chose it, and it has no lock
        lines = [*details(solution), "why this one: it was adopted as it was", *rests_on(solution, everything)]
        return lines + _verified(row)
    lines = [*details(solution), *why(solution, prefer or None), *passed_over(solution["rejected"], everything)]
    resolved = f"resolved: a full set of packages with their hashes, in pylock.{row['env']}.toml"
    return lines + rests_on(solution, everything) + wrap(resolved, "  ") + _verified(row)


def _verified(row: dict[str, Any]) -> list[str]:
    """What it rests on beyond the matrix: the kernels that ran here."""
    return wrap(f"verified: {_verification(row).removeprefix('verified').strip()}", "  ") if row["verified"] else []


def _now_and_before(document: dict[str, Any]) -> list[str]:
    runs = document["runs"]
    lines = []
    if document["at_work"]:
        now = runs[0] if runs and runs[0]["exit"] is None else None
        since = f": {now['command']}, since {local_time(now['started'])}" if now else ""
        lines = [f"at work now: another bnbenv{since}"]
        runs = [run for run in runs if run is not now]
    for run in runs:
        how = "did not end by itself" if run["exit"] is None else _ENDS.get(run["exit"], f"exit {run['exit']}")
        took = f" after {run['seconds']:.0f} s" if run["seconds"] is not None else ""
        lines += wrap(f"earlier run: {run['command']} at {local_time(run['started'])}, {how}{took}")
    return lines
