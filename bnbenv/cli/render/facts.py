"""The facts of a host for people: the driver and the GPUs first, what is unknown last."""

from __future__ import annotations

import textwrap
from typing import Any

_WIDTH = 80
_LABEL = 11


def render(document: dict[str, Any]) -> str:
    """Plain text, 80 columns."""
    lines = _labelled("driver", [_driver(document["driver"])])
    lines += _labelled("GPUs", _gpus(document["gpus"]))
    lines += _labelled("platform", [_platform(document["platform"])])
    lines += _labelled("Pythons", [f"{python['version']:<9} {python['path']}" for python in document["pythons"]])
    toolkits = [f"{toolkit['nvcc'] or 'no nvcc':<9} {toolkit['path']}" for toolkit in document["toolkits"]]
    lines += _labelled("toolkits", toolkits)
    environment = [f"{name}={value}" for name, value in document["environment"].items() if value is not None]
    lines += _labelled("variables", environment)
    lines += _unknown(document["unknown"])
    return "\n".join(lines)


def _labelled(label: str, entries: list[str]) -> list[str]:
    labels = [label] + [""] * len(entries)
    shown = [f"{name:<{_LABEL}}{entry}" for name, entry in zip(labels, entries or ["none"], strict=False)]
    return [part for line in shown for part in _wrapped(line)]


def _wrapped(line: str, indent: int = _LABEL) -> list[str]:
    """At most 80 columns, except where one word (a path) is longer."""
    return textwrap.wrap(
        line,
        _WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def _driver(driver: dict[str, Any]) -> str:
    state = {
        "ok": "OK",
        "absent": "none",
        "mismatch": "reboot required: kernel module and library differ",
        "error": "does not work",
    }[driver["state"]]
    parts = [driver["version"], f"CUDA up to {driver['cuda']}" if driver["cuda"] else None]
    if driver["state"] != "ok":
        parts += [
            f"kernel module {driver['kernel_module']}" if driver["kernel_module"] else None,
            f"library {driver['userland']}" if driver["userland"] else None,
        ]
    parts.append(f"from {driver['source']}" if driver["source"] else None)
    known = ", ".join(part for part in parts if part)
    return f"{state} ({known})" if known else state


def _gpus(gpus: list[dict[str, Any]]) -> list[str]:
    lines = []
    for gpu in gpus:
        memory = f"{gpu['memory_total'] / 2**30:.1f} GiB" if gpu["memory_total"] else "memory unknown"
        major_minor = gpu["compute_capability"].replace(".", "")
        lines.append(f"{gpu['index']}  {gpu['name']}, sm_{major_minor}, {memory}")
        if gpu["uuid"]:
            lines.append(f"   {gpu['uuid']}")
        mig = gpu["mig"]
        if isinstance(mig, dict):
            lines += [f"   MIG {part['uuid']} {part['name'] or ''}".rstrip() for part in mig["devices"]]
            if not mig["devices"]:
                lines.append(f"   MIG {mig['mode']}, no slices")
    return lines


def _platform(platform: dict[str, Any]) -> str:
    libc = platform["libc"]
    parts = [
        f"{platform['os']} {platform['machine']}",
        f"{libc['name']} {libc['version']}" if libc else None,
        "WSL2" if platform["wsl"] else None,
        f"in a container ({platform['container']})" if platform["container"] else None,
        f"Jetson, L4T {platform['jetson']}" if platform["jetson"] else None,
    ]
    return ", ".join(part for part in parts if part)


def _unknown(entries: list[dict[str, str]]) -> list[str]:
    """Facts with the same reason stand together."""
    by_reason: dict[str, list[str]] = {}
    for entry in entries:
        by_reason.setdefault(entry["reason"], []).append(entry["fact"])
    lines = ["", "unknown, and why"] if by_reason else []
    for reason, facts in by_reason.items():
        lines += _wrapped(f"  {', '.join(facts)}:", 4)
        lines += _wrapped(f"    {reason}", 4)
    return lines
