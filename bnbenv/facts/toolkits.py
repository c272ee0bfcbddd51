"""The CUDA toolkits of the host, and the version of each one's compiler."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bnbenv.facts.model import Toolkit, Unknown
from bnbenv.paths import Sysroot
from bnbenv.process import Command, Runner

LIMIT = 5.0  # seconds for one nvcc --version


def find_toolkits(
    environ: Mapping[str, str], sysroot: Sysroot, runner: Runner
) -> tuple[tuple[Toolkit, ...], tuple[Unknown, ...]]:
    """Toolkits of CUDA_HOME, CUDA_PATH, PATH's nvcc, /usr/local/cuda* and the conda prefix; each once."""
    found: dict[str, Toolkit] = {}
    unknown = []
    for folder in _candidates(environ, sysroot):
        root = folder.resolve()
        if str(root) in found or not _is_toolkit(root):
            continue
        version, reason = _nvcc_version(root, runner)
        if version is None:
            unknown.append(Unknown(f"toolkits[{len(found)}].nvcc", reason))
        found[str(root)] = Toolkit(str(root), version)
    if not found:
        reason = "no nvcc in CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda* or the conda prefix"
        unknown.append(Unknown("toolkits", reason))
    return tuple(found.values()), tuple(unknown)


def parse_nvcc(text: str) -> str | None:
    """The version in what ``nvcc --version`` prints: ``Cuda compilation tools, release 13.0, V13.0.88``."""
    match = re.search(r"release \d+\.\d+, V(\d+\.\d+\.\d+)", text, re.ASCII)
    return match[1] if match else None


def parse_version_json(text: str) -> str | None:
    """The compiler's version in a toolkit's version.json: ``{"cuda_nvcc": {"name": ..., "version": "12.8.93"}}``."""
    try:
        document: Any = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return None
    part = document.get("cuda_nvcc") if isinstance(document, dict) else None
    version = part.get("version") if isinstance(part, dict) else None
    return version if isinstance(version, str) and version[:1].isdigit() else None


def _candidates(environ: Mapping[str, str], sysroot: Sysroot) -> list[Path]:
    named = [environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [Path(value) for value in named if value]
    nvcc = shutil.which("nvcc", path=environ.get("PATH", ""))
    if nvcc:
        folders.append(_behind_wrapper(Path(nvcc).resolve()).parent.parent)
    with contextlib.suppress(OSError):
        folders += sorted(sysroot.path("/usr/local").glob("cuda*"))
    conda = environ.get("CONDA_PREFIX")
    if conda:
        folders.append(Path(conda))
    return folders


def _behind_wrapper(nvcc: Path) -> Path:
    """Debian's nvcc is a script that starts the toolkit's own: ``exec /usr/lib/nvidia-cuda-toolkit/bin/nvcc "$@"``."""
    with contextlib.suppress(OSError):
        with nvcc.open("rb") as stream:
            head = stream.read(4096)
        match = re.search(rb"(/[^\s\"'$]+/bin/nvcc)\b", head) if head.startswith(b"#!") else None
        real = Path(match[1].decode("utf-8", "replace")) if match else None
        if real is not None and real.is_file():
            return real.resolve()
    return nvcc


def _compiler(root: Path) -> Path | None:
    places = (root / "bin" / "nvcc", root / "bin" / "nvcc.exe")
    return next((place for place in places if place.is_file()), None)


def _is_toolkit(root: Path) -> bool:
    return _compiler(root) is not None or (root / "version.json").is_file() or (root / "version.txt").is_file()


def _nvcc_version(root: Path, runner: Runner) -> tuple[str | None, str]:
    """The compiler's version, else why it is not known."""
    nvcc = _compiler(root)
    if nvcc is None:
        return None, "this toolkit has no nvcc"
    try:
        known = parse_version_json((root / "version.json").read_text("utf-8", "replace"))
    except OSError:
        known = None
    if known is not None:
        return known, ""
    try:
        finished = runner.run(Command((str(nvcc), "--version"), timeout=LIMIT))
    except OSError as error:
        return None, f"nvcc could not be started ({error.strerror})"
    if finished.timed_out:
        return None, f"nvcc did not answer within {LIMIT:g} s"
    return parse_nvcc(finished.stdout), "nvcc named no version"
