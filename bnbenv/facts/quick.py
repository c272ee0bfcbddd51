"""Is it still the host a decision was made for? Answered from files alone, in a few milliseconds.

A fingerprint maps human-readable names to values; two of them are compared with ``differences``, which names each
change. Only what a decision rests on is in it. ``quick_facts`` never starts a process; where files cannot tell (WSL,
Windows, some containers) its state is ``unclear`` and ``nvml_fingerprint`` asks NVML, once and bounded in time.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bnbenv.facts import kernel
from bnbenv.paths import Sysroot

if TYPE_CHECKING:
    from bnbenv.process import Runner


class Quick(NamedTuple):
    """``state`` is ok, absent, mismatch, error or unclear; ``fingerprint`` names what a decision rests on."""

    state: str
    fingerprint: dict[str, str]


def quick_facts(environ: Mapping[str, str], sysroot: Sysroot, system: str = sys.platform) -> Quick:
    """The driver's state and the host's fingerprint, from the kernel's files or from ``BNBENV_FACTS``.

    Raises InputError where ``BNBENV_FACTS`` names a file that cannot be read.
    """
    recorded = environ.get("BNBENV_FACTS")
    if recorded:
        return _recorded(recorded)
    if system == "win32":
        return Quick("absent" if kernel.windows_nvml(environ) is None else "unclear", {})
    if system == "darwin":
        return Quick("absent", {})
    found = {"libc": _libc(sysroot)}
    module = kernel.module_version(sysroot)
    nvml = kernel.nvml_library(environ, sysroot)
    if nvml is not None:
        found["driver library"] = nvml.version or "present"
    if module is None:
        found.update({f"GPU {gpu.bus}": f"PCI {gpu.device}, no driver" for gpu in kernel.pci_gpus(sysroot)})
        return Quick("absent" if nvml is None else "unclear", found)
    found["driver module"] = module
    for gpu in kernel.kernel_gpus(sysroot):
        found[f"GPU {gpu.bus}"] = gpu.name or "unknown"
        found[f"GPU {gpu.bus} UUID"] = gpu.uuid or "unknown"
    found.update({f"MIG {gpu}": slices for gpu, slices in kernel.mig_instances(sysroot).items()})
    if nvml is None:
        return Quick("error", found)
    if nvml.version is None:
        return Quick("unclear", found)
    return Quick("ok" if nvml.version == module else "mismatch", found)


def nvml_fingerprint(environ: Mapping[str, str], sysroot: Sysroot, runner: Runner) -> Quick:
    """As ``quick_facts``, with NVML's answer added: for where that says ``unclear``. Starts one child process."""
    from bnbenv.facts.driver import Seen, judge
    from bnbenv.facts.nvml import ask_nvml

    known = quick_facts(environ, sysroot)
    if known.state != "unclear":
        return known
    answer = ask_nvml(environ, sysroot, runner)
    driver, _ = judge(Seen.read(environ, sysroot, answer))
    found = {**known.fingerprint, "driver": driver.version or driver.state}
    if driver.userland is not None:
        found["driver library"] = driver.userland
    for device in answer.devices:
        found[f"GPU {device.uuid or device.index}"] = f"{device.name} ({device.capability})"
        if device.mig is not None:
            found[f"MIG of GPU {device.uuid}"] = " ".join(part.uuid for part in device.mig.devices)
    return Quick(driver.state, found)


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Each change between two fingerprints, named: ``driver module 570.124.06 -> 580.65.06``.

    A value that reads ``unknown`` on one side (a GPU not used since boot has no UUID yet) is no change.
    """
    changes = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after or "unknown" in (before, after):
            continue
        if name.endswith(" UUID") and (before is None or after is None):
            continue  # told by the line of the GPU itself
        if before is None:
            changes.append(f"{name} is new ({after})")
        elif after is None:
            changes.append(f"{name} gone (was {before})")
        else:
            changes.append(f"{name} {before} -> {after}")
    return changes


def _libc(sysroot: Sysroot) -> str:
    musl = (path.name for path in sysroot.path("/lib").glob("ld-musl-*.so.1"))
    return kernel.glibc() or min(musl, default="unknown")


def _recorded(name: str) -> Quick:
    """The fingerprint of a recorded facts file: its platform, driver and GPUs, flat."""
    import json

    from bnbenv.errors import InputError

    try:
        document = json.loads(Path(name).read_bytes())
        platform, driver, gpus = document["platform"], document["driver"], document["gpus"]
        found = {"facts file": "in use"}
        found |= {f"platform {key}": _flat(platform.get(key)) for key in ("os", "machine", "libc", "wsl", "jetson")}
        keys = ("state", "version", "kernel_module", "userland", "cuda")
        found.update({f"driver {key}": _flat(driver.get(key)) for key in keys})
        for gpu in gpus:
            mig = f", MIG {_flat(gpu['mig'])}" if gpu.get("mig") else ""
            found[f"GPU {gpu['uuid']}"] = (
                f"{gpu['name']} ({gpu['compute_capability']}, {gpu['memory_total']} bytes){mig}"
            )
        return Quick(str(driver["state"]), found)
    except OSError as error:
        raise InputError(name, "", f"cannot be read ({error.strerror})", "Correct or unset BNBENV_FACTS.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(
            name, "", "expected the facts of a host", "Record them with: bnbenv facts --json, or unset BNBENV_FACTS."
        ) from None


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(_flat(part) for part in value.values())
    if isinstance(value, list):
        return " ".join(_flat(part) for part in value)
    return "none" if value is None else str(value)
