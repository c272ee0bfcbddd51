"""Tells how much GPU memory is used, as a process of its own: ``python -m bnbenv.facts.memory_probe SECONDS [PID]``.

Every SECONDS it prints one JSON line, until nobody reads it; with 0 one line alone. With PID it also says how much that
process and those that it started use. NVML is started once: where no process holds the driver, that takes a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Names of the call, from the newest driver to the oldest.
_PROCESSES = (
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetComputeRunningProcesses_v2",
)


def sample(pynvml: Any, family: Family | None) -> dict[str, Any]:
    """All GPUs now; of one with MIG enabled its slices, since nothing else of it can be used."""
    places = []
    try:
        count = pynvml.nvmlDeviceGetCount()
    except Exception as error:
        return {"failure": str(error), "places": []}
    for index in range(count):
        for handle in _handles(pynvml, index):
            try:
                places.append(_place(pynvml, index, handle, family) | {"capability": _capability(pynvml, index)})
            except Exception:  # NVMLError: this one cannot be read now, the others can
                continue
    return {"failure": None, "places": places}


def _handles(pynvml: Any, index: int) -> Iterator[Any]:
    try:
        whole = pynvml.nvmlDeviceGetHandleByIndex(index)
    except Exception:
        return
    try:
        divided = pynvml.nvmlDeviceGetMigMode(whole)[0] == 1
    except Exception:  # a GPU, or a driver, that knows no MIG
        divided = False
    if not divided:
        yield whole
        return
    with contextlib.suppress(Exception):
        for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(whole)):
            with contextlib.suppress(Exception):  # there is no slice of that number
                yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, number)


def _place(pynvml: Any, index: int, handle: Any, family: Family | None) -> dict[str, Any]:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    holders = _holders(pynvml, handle)
    ours = [size for pid, size in holders if family is not None and family.has(pid)]
    return {
        "gpu": index,
        "uuid": pynvml.nvmlDeviceGetUUID(handle),
        "name": pynvml.nvmlDeviceGetName(handle),
        "total": int(memory.total),
        "free": int(memory.free),
        "used": int(memory.used),
        "holders": [{"pid": pid, "bytes": size, "program": _program(pid)} for pid, size in holders],
        # Unknown where the driver does not say how much a process uses (WSL2), or lists none of ours (containers).
        "ours": sum(size or 0 for size in ours) if ours and None not in ours else None,
    }


def _capability(pynvml: Any, index: int) -> str | None:
    """Of the whole GPU: a slice has the same, and not every driver tells it."""
    with contextlib.suppress(Exception):
        whole = pynvml.nvmlDeviceGetHandleByIndex(index)
        return "{}.{}".format(*pynvml.nvmlDeviceGetCudaComputeCapability(whole))
    return None


def _holders(pynvml: Any, handle: Any) -> list[tuple[int, int | None]]:
    for name in _PROCESSES:
        try:
            return [(int(one.pid), one.usedGpuMemory) for one in getattr(pynvml, name)(handle)]
        except Exception:
            continue
    return []


def _program(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip() or None
    except OSError:
        return None


class Family:
    """A process and those that it started, also those whose parent ended meanwhile."""

    def __init__(self, root: int) -> None:
        self._known = {root}

    def has(self, pid: int) -> bool:
        line, at = [pid], pid
        while at not in self._known:
            parent = _parent(at)
            if parent is None or parent <= 1:
                return False
            line.append(parent)
            at = parent
        self._known.update(line)
        return True


def _parent(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return int(text.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def main(interval: float, root: int | None) -> None:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # NVMLError, or whatever a foreign library makes of ctypes
        _tell({"failure": str(error) or type(error).__name__, "places": []})
        return
    family = None if root is None else Family(root)
    while True:
        _tell(sample(pynvml, family))
        if not interval:
            return
        time.sleep(interval)


def _tell(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(float(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else None)
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)
