"""What hosts answered, put together: the kinds of machines, and who is in sync. Pure; each host is in one list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bnbenv.errors import Exit
from bnbenv.facts.model import HostFacts
from bnbenv.fleet.model import HostAnswer, HostReport

NOTHING_THERE = ("no-environment", "no environment was made there yet")


def facts_document(reports: Sequence[HostReport], out: str | None) -> dict[str, Any]:
    """The document ``bnbenv.fleet-facts/1``. Hosts with the same GPUs, driver and platform are one kind, the largest
    first. ``out`` is the file with all that the hosts said."""
    kinds: dict[tuple[Any, ...], list[str]] = {}
    answers = {report.name: report.answer for report in reports if report.answer is not None}
    for name, answer in answers.items():
        kinds.setdefault(_kind(answer.facts), []).append(name)
    return {
        "schema": "bnbenv.fleet-facts/1",
        "hosts": len(reports),
        "kinds": [_kind_row(kind, hosts) for kind, hosts in sorted(kinds.items(), key=lambda item: -len(item[1]))],
        "reboot": [name for name, answer in answers.items() if _reboot(answer)],
        "in_use": [name for name, answer in answers.items() if answer.processes],
        "in_use_unknown": [name for name, answer in answers.items() if answer.processes_unknown],
        "no_answer": _no_answer(reports),
        "out": out,
    }


def check_document(reports: Sequence[HostReport]) -> dict[str, Any]:
    """The document ``bnbenv.fleet-check/1``. ``reasons`` are those of the hosts in ``not_in_sync``, the most frequent
    first; a host that needs a reboot is in ``reboot`` alone, whatever else it has."""
    in_sync: list[str] = []
    apart: list[str] = []
    reboot: list[dict[str, str]] = []
    reasons: dict[tuple[str | None, str, str], list[str]] = {}
    for report in reports:
        if report.answer is None:
            continue
        because, found = _reboot(report.answer), _reasons(report.answer)
        if because:
            reboot.append({"host": report.name, "because": because})
            continue
        (apart if found else in_sync).append(report.name)
        for reason in found:
            reasons.setdefault(reason, []).append(report.name)
    rows = [
        {"env": env, "code": code, "because": because, "hosts": hosts}
        for (env, code, because), hosts in sorted(reasons.items(), key=lambda item: -len(item[1]))
    ]
    return {
        "schema": "bnbenv.fleet-check/1",
        "in_sync": len(in_sync) == len(reports),
        "hosts": len(reports),
        "hosts_in_sync": in_sync,
        "not_in_sync": apart,
        "reasons": rows,
        "reboot": reboot,
        "no_answer": _no_answer(reports),
    }


def facts_exit(document: dict[str, Any]) -> Exit:
    return Exit.FAILED if document["no_answer"] else Exit.DONE


def check_exit(document: dict[str, Any]) -> Exit:
    """The first that applies: a host did not answer, something is pending, only reboots are left."""
    if document["no_answer"]:
        return Exit.FAILED
    if document["not_in_sync"]:
        return Exit.PENDING
    return Exit.REBOOT if document["reboot"] else Exit.DONE


def _no_answer(reports: Sequence[HostReport]) -> list[dict[str, str]]:
    return [
        {"host": report.name, "state": report.state, "because": report.because, "next_step": report.next_step}
        for report in reports
        if report.answer is None
    ]


def _reboot(answer: HostAnswer) -> str:
    if answer.reboot:
        return answer.reboot
    mismatch = answer.facts.driver.state == "mismatch"
    return "the NVIDIA kernel module and the driver library differ" if mismatch else ""


def _reasons(answer: HostAnswer) -> list[tuple[str | None, str, str]]:
    """Why a host is not in sync; a host that says so without a reason is believed."""
    if not answer.environments:
        return [(None, *NOTHING_THERE)]
    found: list[tuple[str | None, str, str]] = []
    for one in answer.environments:
        if not one.in_sync:
            found += [(one.env, cause.code, cause.because) for cause in one.reasons] or [
                (one.env, "unknown", "it gives no reason")
            ]
    return found


def _kind(facts: HostFacts) -> tuple[Any, ...]:
    platform, driver = facts.platform, facts.driver
    counts: dict[tuple[str, str], int] = {}
    for gpu in facts.gpus:
        counts[gpu.name, gpu.compute_capability] = counts.get((gpu.name, gpu.compute_capability), 0) + 1
    gpus = tuple((*key, number) for key, number in sorted(counts.items()))
    return gpus, driver.state, driver.version, platform.os, platform.machine, platform.wsl, platform.jetson


def _kind_row(kind: tuple[Any, ...], hosts: list[str]) -> dict[str, Any]:
    gpus, state, version, system, machine, wsl, jetson = kind
    return {
        "gpus": [{"name": name, "compute_capability": pair, "number": number} for name, pair, number in gpus],
        "driver": {"state": state, "version": version},
        "platform": {"os": system, "machine": machine, "wsl": wsl, "jetson": jetson},
        "hosts": hosts,
    }
