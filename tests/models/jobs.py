"""Run by the Python of an environment: several jobs of the script that quantizes, one after another in one process.

``python jobs.py STANDALONE`` reads one JSON list of jobs from standard input and writes a list of lists of events. A
job's ``keep`` names files of an earlier job's ``out`` that are copied into this one's and counted as done.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any


def run(standalone: Path, jobs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    sys.path.insert(0, str(standalone.parent))
    protocol = importlib.import_module(f"{standalone.name}.protocol")
    main = importlib.import_module(f"{standalone.name}.main")
    found = []
    for job in jobs:
        out = Path(job["out"])
        out.mkdir(exist_ok=True)
        for file in map(Path, job.pop("keep", [])):
            shutil.copy(file, out)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            job.setdefault("done", {})[file.name] = {"bytes": file.stat().st_size, "sha256": digest}
        stream = io.StringIO()
        main.attempt(json.dumps(job), protocol.Reporter(stream))
        found.append([json.loads(line) for line in stream.getvalue().splitlines()])
    return found


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), json.load(sys.stdin))))
