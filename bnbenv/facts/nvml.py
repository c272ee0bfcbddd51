"""NVML's answer, had through a child process with a time limit, as a typed value."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bnbenv.facts import kernel
from bnbenv.facts.model import Mig
from bnbenv.paths import Sysroot
from bnbenv.process import Command, Finished, Runner

LIMIT = 8.0  # seconds; NVML's start takes up to a few where no process holds the driver
NOT_SUPPORTED, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, MISMATCH = 3, 9, 12, 18  # NVML return codes


class CallError(msgspec.Struct, frozen=True):
    """An NVML query that failed: the call (empty where none was made), its code (None if not NVML's) and its text."""

    call: str
    code: int | None = None
    text: str = ""

    def __str__(self) -> str:
        if not self.call:
            return self.text
        number = "" if self.code is None else f" (NVML error {self.code})"
        return f"{self.call}: {self.text}{number}"


class Device(msgspec.Struct, frozen=True):
    """A GPU as NVML tells it; what could not be read is None and has its reason in ``errors``. Memory in bytes."""

    index: int
    uuid: str | None = None
    name: str | None = None
    capability: str | None = None
    memory: int | None = None
    mig: Mig | None = None
    errors: tuple[CallError, ...] = ()

    def reason(self, call: str) -> str:
        """Why a query gave nothing."""
        calls = (call, "nvmlDeviceGetHandleByIndex")
        return next((str(error) for error in self.errors if error.call in calls), f"{call} gave nothing")


class NvmlAnswer(msgspec.Struct, frozen=True):
    """What NVML said, or ``failure``. ``hung``: no answer within the time limit. Versions are as NVML writes them."""

    driver: str | None = None
    library: str | None = None
    library_path: str | None = None
    cuda: int | None = None
    devices: tuple[Device, ...] = ()
    errors: tuple[CallError, ...] = ()
    failure: CallError | None = None
    hung: bool = False

    @property
    def userland(self) -> str | None:
        """The driver version of the library: of ``12.535.104.05`` the part after the CUDA major."""
        return userland_version(self.library) or _version_in(self.library_path)

    @property
    def cuda_version(self) -> str | None:
        """``13000`` is ``13.0``."""
        return f"{self.cuda // 1000}.{self.cuda % 1000 // 10}" if self.cuda and 0 < self.cuda < 10**6 else None


def userland_version(nvml: str | None) -> str | None:
    """The driver version in NVML's version, which older ones prefix with the CUDA major (``12.535.104.05``)."""
    if not nvml or not nvml[0].isdigit():
        return None
    first, _, rest = nvml.partition(".")
    return rest if len(first) <= 2 and "." in rest else nvml


def ask_nvml(
    environ: Mapping[str, str], sysroot: Sysroot, runner: Runner, limit: float = LIMIT, system: str = sys.platform
) -> NvmlAnswer:
    """NVML's answer within ``limit`` seconds; never raises for what the driver does."""
    command = probe_command(environ, sysroot, "bnbenv.facts.nvml_probe", (), limit, system)
    if isinstance(command, str):
        return _failed(command, LIBRARY_NOT_FOUND)
    try:
        finished = runner.run(command)
    except OSError as error:
        return _failed(f"the NVML probe could not be started ({os.strerror(error.errno or 0)})")
    return read_answer(finished)


def probe_command(
    environ: Mapping[str, str],
    sysroot: Sysroot,
    module: str,
    words: tuple[str, ...],
    limit: float = LIMIT,
    system: str = sys.platform,
) -> Command | str:
    """The command that has a module of this package ask NVML, or why there is nothing to ask."""
    if system == "darwin":
        return "NVIDIA makes no driver for macOS"
    search = environ.get("LD_LIBRARY_PATH")
    if system == "win32":
        if kernel.windows_nvml(environ) is None:
            return "no nvml.dll in the folders of the driver"
    else:
        library = kernel.nvml_library(environ, sysroot)
        foreign = sysroot.prefix != Path("/")
        if foreign and library is None:  # below another root, this system's own library would answer for it
            return f"no {kernel.NVML_LIBRARY} below {sysroot.prefix}"
        folder = str(Path(library.path).parent) if library else ""
        if library and (foreign or folder == str(sysroot.path(kernel.WSL_LIBRARIES))):
            search = f"{search}:{folder}" if search else folder
    return Command(
        (sys.executable, "-m", module, *words),
        timeout=limit,
        env={**environ, "LD_LIBRARY_PATH": search},
        cwd=str(Path(__file__).resolve().parents[2]),  # where -m finds this package, and no file of the user's
    )


def read_answer(finished: Finished) -> NvmlAnswer:
    """The child's output as a value; a crash, a hang and nonsense are failures and never exceptions."""
    if finished.timed_out:
        seconds = f"{finished.command.timeout:g}"
        return _failed(f"NVML did not answer within {seconds} s", hung=True)
    line = next((line for line in reversed(finished.stdout.splitlines()) if line.startswith("{")), "")
    if not finished.ok or not line:
        how = finished.signal_name or f"exit code {finished.returncode}"
        return _failed(f"the NVML probe ended with {how} and no answer")
    try:
        answer = msgspec.json.decode(line, type=NvmlAnswer)
    except (msgspec.MsgspecError, RecursionError) as error:
        return _failed(f"NVML's answer cannot be read ({error})")
    return answer if _sound(answer) else _failed("NVML's answer makes no sense")


def _sound(answer: NvmlAnswer) -> bool:
    """Whether versions and numbers can be what they are called."""
    indices = [device.index for device in answer.devices]
    versions = [text for text in (answer.driver, answer.userland) if text is not None]
    capabilities = [device.capability for device in answer.devices if device.capability is not None]
    return (
        len(set(indices)) == len(indices)
        and all(re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6}){1,3}", text) for text in versions)
        and all(re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", text) for text in capabilities)
        and min([*indices, *(device.memory or 0 for device in answer.devices)], default=0) >= 0
    )


def _failed(text: str, code: int | None = None, hung: bool = False) -> NvmlAnswer:
    return NvmlAnswer(failure=CallError("", code, text), hung=hung)


def _version_in(path: str | None) -> str | None:
    _, _, suffix = (path or "").partition("libnvidia-ml.so.")
    return suffix if suffix[:1].isdigit() and "." in suffix else None
