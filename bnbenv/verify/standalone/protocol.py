"""Steps, checks, and the lines that tell the parent process what happened."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO


class Skip(Exception):
    """The step cannot be done here; the text says why, and becomes a warning of the report."""


class Broken(Exception):
    """Something is wrong that no error figure can express; the text says what."""


@dataclass
class Check:
    """One comparison: passed if ``error`` is a number and at most ``threshold``; ``reason`` is why that threshold."""

    what: str
    error: float
    threshold: float
    reason: str

    @property
    def ok(self) -> bool:
        return self.error <= self.threshold  # False for NaN

    @property
    def strain(self) -> float:
        """How near to the threshold, 1.0 is at it; not a number counts as farthest."""
        if not math.isfinite(self.error):
            return math.inf
        return self.error / self.threshold if self.threshold > 0 else (0.0 if self.error == 0 else math.inf)


@dataclass
class Step:
    """Collects the checks of one step; ``figures`` are measured times and rates."""

    checks: list[Check] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def check(self, what: str, error: Any, threshold: float, reason: str) -> None:
        self.checks.append(Check(what, float(error), threshold, reason))

    def result(self) -> dict[str, Any]:
        """The check that came nearest to its threshold (or went farthest beyond) stands for the step."""
        if not self.checks:
            return {"ok": True, "error": None, "threshold": None}
        worst = max(self.checks, key=lambda check: check.strain)
        finite = math.isfinite(worst.error)
        return {
            "ok": worst.ok,
            "check": worst.what,
            "error": worst.error if finite else None,
            "threshold": worst.threshold,
            "reason": worst.reason,
            "message": None if finite else f"{worst.what}: the result is not a finite number",
        }


class Reporter:
    """Writes the protocol to the original standard output, and runs steps."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.failed = False

    def send(self, event: str, **fields: Any) -> None:
        self.stream.write(json.dumps({"event": event, **fields}, allow_nan=False) + "\n")
        self.stream.flush()

    def run(self, name: str, work: Callable[[Step], None]) -> bool:
        """Run one step; its start is told before, so that the parent knows it even if this process dies in it."""
        self.send("start", name=name)
        started = time.perf_counter()
        step = Step()
        try:
            work(step)
            result = step.result()
        except Skip as skip:
            result = {"ok": None, "error": None, "threshold": None, "skipped": str(skip)}
        except Exception as error:  # whatever a broken library raises is the finding
            result = {"ok": False, "error": None, "threshold": None, "message": describe(error)}
        if result["ok"] is False:
            self.failed = True
        for text in step.warnings:
            self.send("warning", text=text)
        seconds = round(time.perf_counter() - started, 4)
        self.send("end", name=name, **result, seconds=seconds, figures=step.figures)
        return result["ok"] is not False


def describe(error: BaseException) -> str:
    """One line for an exception. The long advice of bitsandbytes is cut down to its cause."""
    if isinstance(error, Broken):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = next((line for line in lines if line.startswith("Original error:")), lines[0] if lines else "")
    return f"{type(error).__name__}: {cause}"[:400]


def private_stdout() -> TextIO:
    """Keep standard output for the protocol: what libraries print, also from C, goes to standard error instead."""
    sys.stdout.flush()
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream
