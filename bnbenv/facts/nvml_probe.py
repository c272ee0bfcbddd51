"""Asks NVML, as a process of its own: ``python -m bnbenv.facts.nvml_probe`` prints one JSON line.

A driver call can hang for ever and cannot be interrupted from inside, so the caller runs this with a time limit. Each
query fails on its own: a GPU whose memory cannot be read is still reported.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def collect() -> dict[str, Any]:
    """The whole answer; ``failure`` is set where NVML could not be started."""
    if sys.platform == "linux" and not _can_be_opened("libnvidia-ml.so.1"):
        not_found = "NVML Shared Library Not Found"  # as pynvml says it, whose import costs more than this look
        return {"failure": {"call": "nvmlInit", "code": 12, "text": not_found}, "library": None, "library_path": None}
    try:
        import pynvml
    except ImportError as error:
        return {"failure": described("import", error)}
    try:
        pynvml.nvmlInit()
    except Exception as error:  # NVMLError, or whatever a foreign library makes of ctypes
        return {"failure": described("nvmlInit", error), **_library(pynvml, [])}
    errors: list[dict[str, Any]] = []
    answer = _library(pynvml, errors)
    answer["driver"] = ask(errors, "nvmlSystemGetDriverVersion", pynvml.nvmlSystemGetDriverVersion)
    answer["cuda"] = ask(errors, "nvmlSystemGetCudaDriverVersion", pynvml.nvmlSystemGetCudaDriverVersion_v2)
    count = ask(errors, "nvmlDeviceGetCount", pynvml.nvmlDeviceGetCount) or 0
    answer["devices"] = [_device(pynvml, index) for index in range(count)]
    answer["errors"] = errors
    return answer


def _can_be_opened(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _library(pynvml: Any, errors: list[dict[str, Any]]) -> dict[str, Any]:
    """The library's own version, and the file that was really loaded."""
    version = ask(errors, "nvmlSystemGetNVMLVersion", pynvml.nvmlSystemGetNVMLVersion)
    maps: list[str] = []
    with contextlib.suppress(OSError):  # only Linux has it
        maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = [line.split()[-1] for line in maps if "libnvidia-ml" in line]
    return {"library": version, "library_path": mapped[0] if mapped else None}


def _device(pynvml: Any, index: int) -> dict[str, Any]:
    errors: list[dict[str, Any]] = []
    found: dict[str, Any] = {"index": index, "errors": errors}
    handle = ask(errors, "nvmlDeviceGetHandleByIndex", pynvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return found
    found["uuid"] = ask(errors, "nvmlDeviceGetUUID", pynvml.nvmlDeviceGetUUID, handle)
    found["name"] = ask(errors, "nvmlDeviceGetName", pynvml.nvmlDeviceGetName, handle)
    found["capability"] = ask(errors, "nvmlDeviceGetCudaComputeCapability", _capability(pynvml), handle)
    found["memory"] = ask(errors, "nvmlDeviceGetMemoryInfo", _memory(pynvml), handle)
    found["mig"] = _mig(pynvml, handle, errors)
    return found


def _mig(pynvml: Any, handle: Any, errors: list[dict[str, Any]]) -> dict[str, Any] | None:
    """MIG mode and slices; None on a GPU (or a driver) that knows no MIG, or where it is off."""
    quiet: list[dict[str, Any]] = []
    mode = ask(quiet, "nvmlDeviceGetMigMode", pynvml.nvmlDeviceGetMigMode, handle)
    if not mode or mode[0] != 1:
        return None
    slices = []
    for index in range(
        ask(errors, "nvmlDeviceGetMaxMigDeviceCount", pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0
    ):
        part = ask(
            quiet, "nvmlDeviceGetMigDeviceHandleByIndex", pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index
        )
        uuid = None if part is None else ask(errors, "nvmlDeviceGetUUID", pynvml.nvmlDeviceGetUUID, part)
        if uuid is None:
            continue
        name = ask(errors, "nvmlDeviceGetName", pynvml.nvmlDeviceGetName, part)
        memory = ask(errors, "nvmlDeviceGetMemoryInfo", _memory(pynvml), part)
        slices.append({"uuid": uuid, "name": name, "memory_total": memory})
    return {"mode": "enabled", "devices": slices}


def _capability(pynvml: Any) -> Callable[[Any], str]:
    return lambda handle: "{}.{}".format(*pynvml.nvmlDeviceGetCudaComputeCapability(handle))


def _memory(pynvml: Any) -> Callable[[Any], int]:
    return lambda handle: int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)


def ask(errors: list[dict[str, Any]], call: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's value, or None with the reason noted."""
    try:
        return function(*arguments)
    except Exception as error:  # NVMLError, or a name that is no UTF-8: one query lost, not all of them
        errors.append(described(call, error))
        return None


def described(call: str, error: Exception) -> dict[str, Any]:
    code = getattr(error, "value", None)
    return {"call": call, "code": code if isinstance(code, int) else None, "text": str(error) or type(error).__name__}


if __name__ == "__main__":
    print(json.dumps(collect()), flush=True)
