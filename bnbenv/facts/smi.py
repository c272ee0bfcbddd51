"""``nvidia-smi --query-gpu``, the last source: where NVML could not be asked. Its banner is never parsed."""

from __future__ import annotations

import csv
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bnbenv.facts import kernel
from bnbenv.paths import Sysroot
from bnbenv.process import Command, Finished, Runner

LIMIT = 8.0  # seconds
FIELDS = ("index", "uuid", "name", "compute_cap", "memory.total", "driver_version")
_MISMATCH = 18  # nvidia-smi exits with NVML's return code
_MIB = 1 << 20


@dataclass(frozen=True)
class SmiGpu:
    """One row; None for what reads ``[N/A]`` and the like. ``memory`` is in bytes."""

    index: int
    uuid: str | None
    name: str | None
    capability: str | None
    memory: int | None


@dataclass(frozen=True)
class SmiAnswer:
    """What nvidia-smi said, or why it did not."""

    driver: str | None = None
    gpus: tuple[SmiGpu, ...] = ()
    mismatch: bool = False
    failure: str | None = None


def ask_smi(
    environ: Mapping[str, str], sysroot: Sysroot, runner: Runner, limit: float = LIMIT, system: str = sys.platform
) -> SmiAnswer:
    """nvidia-smi's answer within ``limit`` seconds a call; never raises for what the driver does."""
    program = find_smi(environ, sysroot, system)
    if program is None:
        return SmiAnswer(failure="there is no nvidia-smi")
    answer = _query(environ, runner, program, limit, FIELDS)
    if answer.failure is not None and "compute_cap" in answer.failure:  # drivers before 510 do not know the field
        answer = _query(environ, runner, program, limit, tuple(name for name in FIELDS if name != "compute_cap"))
    return answer


def find_smi(environ: Mapping[str, str], sysroot: Sysroot, system: str) -> str | None:
    """Where nvidia-smi is: PATH, WSL's folder, or the folders of Windows."""
    found = shutil.which("nvidia-smi", path=environ.get("PATH", ""))
    if found:
        return found
    if system == "win32":
        places = [
            Path(environ.get("WINDIR", "C:/Windows")) / "System32" / "nvidia-smi.exe",
            Path(environ.get("ProgramFiles", "C:/Program Files")) / "NVIDIA Corporation" / "NVSMI" / "nvidia-smi.exe",
        ]
    else:
        places = [sysroot.path(kernel.WSL_LIBRARIES) / "nvidia-smi"]
    return next((str(place) for place in places if place.is_file()), None)


def parse_query(text: str, fields: tuple[str, ...] = FIELDS) -> SmiAnswer:
    """Rows of ``--format=csv,noheader,nounits``; lines of another shape are ignored.

    ``0, GPU-5c6e..., NVIDIA H200, 9.0, 143771, 580.65.06``
    """
    gpus: list[SmiGpu] = []
    driver = None
    for cells in csv.reader((line for line in text.splitlines() if "\0" not in line), skipinitialspace=True):
        if len(cells) != len(fields):
            continue
        row = {name: _known(cell) for name, cell in zip(fields, cells, strict=True)}
        index, memory = row["index"], row["memory.total"]
        if index is None or not _digits(index) or any(gpu.index == int(index) for gpu in gpus):
            continue
        driver = driver or _matching(row["driver_version"], r"\d{1,4}(\.\d{1,6}){1,3}")
        gpus.append(
            SmiGpu(
                index=int(index),
                uuid=row["uuid"],
                name=row["name"],
                capability=_matching(row.get("compute_cap"), r"\d{1,2}\.\d"),
                memory=int(memory) * _MIB if memory is not None and _digits(memory) else None,
            )
        )
    return SmiAnswer(driver, tuple(gpus))


def _query(
    environ: Mapping[str, str], runner: Runner, program: str, limit: float, fields: tuple[str, ...]
) -> SmiAnswer:
    argv = (program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    try:
        finished = runner.run(Command(argv, timeout=limit, env=dict(environ)))
    except OSError as error:
        return SmiAnswer(failure=f"nvidia-smi could not be started ({error.strerror})")
    return _read(finished, fields)


def _read(finished: Finished, fields: tuple[str, ...]) -> SmiAnswer:
    if finished.timed_out:
        return SmiAnswer(failure=f"nvidia-smi did not answer within {finished.command.timeout:g} s")
    said = " ".join((finished.stdout + " " + finished.stderr).split())[:300]
    if not finished.ok:
        mismatch = finished.returncode == _MISMATCH or "Driver/library version mismatch" in said
        return SmiAnswer(mismatch=mismatch, failure=f"nvidia-smi ended with exit code {finished.returncode}: {said}")
    answer = parse_query(finished.stdout, fields)
    return answer if answer.gpus else SmiAnswer(failure=f"nvidia-smi named no GPU: {said}")


def _known(cell: str) -> str | None:
    """``[N/A]``, ``[Not Supported]``, ``[Unknown Error]`` and an empty cell are no values."""
    cell = cell.strip()
    return None if not cell or cell.startswith("[") or cell in ("N/A", "Unknown") else cell


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16


def _matching(text: str | None, pattern: str) -> str | None:
    return text if text is not None and text.isascii() and re.fullmatch(pattern, text) else None
