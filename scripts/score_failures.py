#!/usr/bin/env python3
"""How many reports of a file bnbenv's doctor names rightly, by their text alone.

usage: .test-env/bin/python scripts/score_failures.py FILE [--quiet]

FILE has one JSON object a line with error_text, cause, alt_causes and id. Prints right, wrong and unknown for each
cause, and each report that was not right. An empty answer is right where the label, or an alternative, is "none", and
where the label is "other". Exits 1 where FILE cannot be read.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bnbenv.doctor.text import diagnose


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--quiet", action="store_true", help="only the last line")
    options = parser.parse_args(argv)
    try:
        reports = load(options.file)
    except (OSError, ValueError) as error:
        print(f"error: {options.file} cannot be read: {error}\nnext: give a file of labelled reports", file=sys.stderr)
        return 1
    started = time.perf_counter()
    results = [(report, *answer(report["error_text"])) for report in reports]
    seconds = time.perf_counter() - started
    table: dict[str, Counter[str]] = {}
    for report, cause, code in results:
        verdict = judged(report, cause)
        table.setdefault(report["cause"], Counter())[verdict] += 1
        if verdict != "right" and not options.quiet:
            print(f"{verdict:<8} {report['id']}: {cause} ({code}), expected {report['cause']}")
    total = sum(table.values(), Counter[str]())
    if not options.quiet:
        print(f"\n{'cause':<30} {'right':>6} {'wrong':>6} {'unknown':>8}")
        for cause in sorted(table):
            print(f"{cause:<30} {table[cause]['right']:>6} {table[cause]['wrong']:>6} {table[cause]['unknown']:>8}")
    count = max(1, len(results))
    shares = ", ".join(
        f"{word} {total[word]} ({100 * total[word] / count:.1f} %)" for word in ("right", "wrong", "unknown")
    )
    print(f"{len(results)} reports: {shares}; {seconds:.1f} s")
    return 0


def load(path: Path) -> list[dict[str, Any]]:
    """The reports of a file. Raises OSError, and ValueError with the line that is no report."""
    reports = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        report = json.loads(line)
        if not isinstance(report, dict) or not {"error_text", "cause"} <= report.keys():
            raise ValueError(f"line {number} has no error_text and cause")
        reports.append({"id": f"line {number}", "alt_causes": [], **report})
    return reports


def answer(text: str) -> tuple[str, str]:
    """The primary cause that the doctor names, and the code of its signature; ``none`` where it finds nothing."""
    seen = diagnose(io.BytesIO(text.encode("utf-8", "surrogatepass"))).seen
    primary = next((one for one in seen if one.role == "primary"), None)
    return (primary.cause, primary.code) if primary else ("none", "nothing")


def judged(report: dict[str, Any], cause: str) -> str:
    """right, wrong or unknown; unknown is right only where it is the label, or an alternative."""
    nothing_to_name = cause == "none" and report["cause"] == "other"
    if cause == report["cause"] or cause in (report["alt_causes"] or []) or nothing_to_name:
        return "right"
    return "unknown" if cause == "unknown" else "wrong"


if __name__ == "__main__":
    sys.exit(main())
