"""``bnbenv status`` as metrics, for the textfile collector of Prometheus' node_exporter. Pure.

The text is valid both in the Prometheus text format, which that collector reads, and in OpenMetrics: gauges only (the
former knows no info and no stateset), no timestamps (the collector refuses them), ``# EOF`` at the end (a comment to
the former). Sources: prometheus.io/docs/instrumenting/exposition_formats, the README of node_exporter.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from typing import Any

STATES = ("ok", "absent", "mismatch", "error", "unknown")

Sample = tuple[dict[str, str], float]


def metrics(document: dict[str, Any], now: float) -> str:
    """The text for a document of ``bnbenv status``; ``now`` is in seconds since 1970.

    Each sample names its project, since one collector reads the files of several.
    """
    project = {"project": document["project"]}
    rows = document["environments"]
    lines: list[str] = []
    for name, says, samples in (
        ("in_sync", "Whether nothing is to be done in the project.", [(project, document["in_sync"])]),
        ("environment_in_sync", "Whether an environment is in sync.", _each(project, rows, "in_sync")),
        (
            "environment_verified",
            "Whether its kernels ran and agreed with their references.",
            _each(project, rows, "verified"),
        ),
        ("environment_generation", "The number of the generation in use.", _each(project, rows, "generation")),
        (
            "environment_verified_timestamp_seconds",
            "When its kernels last ran and agreed, in seconds since 1970.",
            [(labels, _seconds(row["verified_at"])) for labels, row in _labelled(project, rows) if row["verified_at"]],
        ),
        ("environment_info", "What an environment holds; the value is 1.", _holds(project, rows)),
        ("environment_reason", "Why it is not in sync, by code; the value is 1.", _reasons(project, rows)),
        (
            "problem",
            "What cannot be read, or is not to be trusted, by code; the value is 1.",
            [({**project, "code": code}, 1) for code in dict.fromkeys(one["code"] for one in document["problems"])],
        ),
        (
            "driver_state",
            "The state of the NVIDIA driver; mismatch: it was upgraded, and a reboot is due.",
            [({**project, "state": state}, document["host"]["state"] == state) for state in STATES],
        ),
        ("driver_info", "The version of the driver; the value is 1.", _driver(project, document["host"])),
        ("gpus", "How many GPUs are known without asking the driver.", [(project, len(document["host"]["gpus"]))]),
        ("status_timestamp_seconds", "When this was written, in seconds since 1970.", [(project, now)]),
    ):
        lines += _family(f"bnbenv_{name}", says, samples)
    return "\n".join([*lines, "# EOF"]) + "\n"


def _family(name: str, says: str, samples: Iterable[Sample]) -> Iterator[str]:
    """One metric. Without a sample it is left out."""
    known = list(samples)
    if known:
        yield f"# HELP {name} {says}"
        yield f"# TYPE {name} gauge"
    for labels, value in known:
        inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        yield f"{name}{{{inner}}} {float(value):.15g}"


def _labelled(
    project: dict[str, str], rows: Iterable[dict[str, Any]]
) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    return (({**project, "env": row["env"]}, row) for row in rows)


def _each(project: dict[str, str], rows: Iterable[dict[str, Any]], key: str) -> list[Sample]:
    return [(labels, row[key]) for labels, row in _labelled(project, rows) if row[key] is not None]


def _holds(project: dict[str, str], rows: Iterable[dict[str, Any]]) -> list[Sample]:
    """The versions as labels. What an environment has not is left out: an empty label is as none."""
    found = []
    for labels, row in _labelled(project, rows):
        if row["holds"] is not None:
            held = {**row["holds"], "backend": row["backend"]}
            own = {name.replace("-", "_"): value for name, value in held.items() if isinstance(value, str) and value}
            found.append(({**labels, **own}, 1.0))
    return found


def _reasons(project: dict[str, str], rows: Iterable[dict[str, Any]]) -> list[Sample]:
    return [
        ({**labels, "code": code}, 1.0)
        for labels, row in _labelled(project, rows)
        for code in dict.fromkeys(one["code"] for one in row["reasons"])
    ]


def _driver(project: dict[str, str], host: dict[str, Any]) -> list[Sample]:
    return [({**project, "version": host["driver"]}, 1.0)] if host["driver"] else []


def _seconds(moment: str) -> float:
    """An ISO time in seconds since 1970; 0 for what is none."""
    try:
        return datetime.datetime.fromisoformat(moment).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _escaped(text: str) -> str:
    """As both formats write it; a name of a file that is no UTF-8 must not spoil the collector's whole answer."""
    text = text.encode("utf-8", "replace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
