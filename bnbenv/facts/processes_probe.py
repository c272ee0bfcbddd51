"""Asks NVML which processes compute, as a process of its own: ``python -m bnbenv.facts.processes_probe`` prints a line.

Of a GPU with MIG enabled its slices are asked, since NVML tells of the whole only to some. Each query fails on its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from bnbenv.facts.nvml_probe import ask, described

NOT_SUPPORTED, NOT_FOUND, FUNCTION_NOT_FOUND = 3, 6, 13  # NVML return codes
_VERSIONS = ("_v3", "_v2")  # of a call, from the newest driver to the oldest


def collect() -> dict[str, Any]:
    """The whole answer; ``failure`` is set where NVML could not be started."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # NVMLError, or whatever a foreign library makes of ctypes
        return {"failure": described("nvmlInit", error)}
    errors: list[dict[str, Any]] = []
    count = ask(errors, "nvmlDeviceGetCount", pynvml.nvmlDeviceGetCount) or 0
    places = [
        _place(pynvml, index, handle, errors) for index in range(count) for handle in _handles(pynvml, index, errors)
    ]
    return {"places": places, "errors": errors}


def _handles(pynvml: Any, index: int, errors: list[dict[str, Any]]) -> Iterator[Any]:
    whole = ask(errors, "nvmlDeviceGetHandleByIndex", pynvml.nvmlDeviceGetHandleByIndex, index)
    if whole is None:
        return
    mode = ask([], "nvmlDeviceGetMigMode", pynvml.nvmlDeviceGetMigMode, whole)  # not every GPU or driver knows MIG
    if not mode or mode[0] != 1:
        yield whole
        return
    most = ask(errors, "nvmlDeviceGetMaxMigDeviceCount", pynvml.nvmlDeviceGetMaxMigDeviceCount, whole) or 0
    for number in range(most):
        failed: list[dict[str, Any]] = []
        name = "nvmlDeviceGetMigDeviceHandleByIndex"
        part = ask(failed, name, pynvml.nvmlDeviceGetMigDeviceHandleByIndex, whole, number)
        if part is not None:
            yield part
        errors += [error for error in failed if error["code"] != NOT_FOUND]  # there is no slice of that number


def _place(pynvml: Any, index: int, handle: Any, errors: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "gpu": index,
        "uuid": ask([], "nvmlDeviceGetUUID", pynvml.nvmlDeviceGetUUID, handle) or "",
        "compute": _listed(pynvml, "nvmlDeviceGetComputeRunningProcesses", handle, errors),
        # Clients of MPS; not every driver and GPU knows it.
        "mps": _listed(pynvml, "nvmlDeviceGetMPSComputeRunningProcesses", handle, errors, optional=True),
    }


def _listed(
    pynvml: Any, call: str, handle: Any, errors: list[dict[str, Any]], optional: bool = False
) -> list[tuple[int, int | None]] | None:
    """Process ids with the memory that they use, in bytes; None where NVML does not tell."""
    failed: list[dict[str, Any]] = []
    for version in _VERSIONS:
        found = ask(failed, call, getattr(pynvml, call + version), handle)
        if found is not None:
            return [(int(one.pid), one.usedGpuMemory) for one in found]
        if failed[-1]["code"] != FUNCTION_NOT_FOUND:
            break
    if not (optional and failed[-1]["code"] in (NOT_SUPPORTED, FUNCTION_NOT_FOUND)):
        errors.append(failed[-1])
    return None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(collect()) + "\n")
