"""The host and the wishes as the rules see them: the selected GPUs, the driver to judge by, the Pythons at hand."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import msgspec

from bnbenv.decode import shown
from bnbenv.errors import InputError, RebootRequired
from bnbenv.facts.model import Driver, Gpu, HostFacts, MigSlice
from bnbenv.matrix.drivers import known_releases, newest_of, number, unsupported
from bnbenv.matrix.model import CudaDriver, GpuArch, Matrix
from bnbenv.solve.model import KEEP, Availability, Backend, Request
from bnbenv.solve.versions import admits, apart

DRIVER_RULES_SOURCE = "CUDA Compatibility, NVIDIA"

_CPYTHON = re.compile("cp3[0-9]{1,3}")


class PythonOption(NamedTuple):
    """An interpreter that could be used: its minor (``3.12``), a full version, and whether uv would download it."""

    minor: str
    full: str
    managed: bool


class Reason(NamedTuple):
    """Why something does not fit, and where that is known from."""

    because: str
    source: str


Fails = dict[str, Reason]


@dataclass(frozen=True)
class Situation:
    """Everything the rules look at besides the candidate itself."""

    facts: HostFacts
    request: Request
    availability: Availability
    backend: Backend
    gpus: tuple[Gpu, ...]
    visible: tuple[str, ...]
    driver: Driver
    pythons: tuple[PythonOption, ...]
    drivers: dict[str, CudaDriver]
    archs: dict[str, GpuArch]
    fails: Fails  # what stands against every candidate
    memo: dict[int, tuple[tuple[str | None, ...], Fails]] = field(
        default_factory=dict
    )  # by the identity of a library or a set
    minors: dict[int, frozenset[str]] = field(default_factory=dict)  # of Python, by the identity of a set of packages

    @property
    def windows_driver(self) -> bool:
        return on_windows_driver(self.facts)


def situate(facts: HostFacts, matrix: Matrix, request: Request, availability: Availability, managed: bool) -> Situation:
    """Put the facts, the rows and the wishes together; ``managed`` adds interpreters that uv would download.

    Raises RebootRequired if the driver's module and library differ.
    """
    fails: Fails = {}
    driver = facts.driver
    if request.driver is not None:
        driver = as_installed(request.driver, facts, matrix)
    if driver.state == "mismatch":
        raise reboot_required(driver)
    gpus, visible = _select_gpus(facts, request, fails) if request.backend != "cpu" else ((), ())
    backend = _backend(facts, driver, gpus, request, fails)
    if backend == "cpu":
        gpus, visible = (), ()
    if request.torch == KEEP and availability.existing is None:
        because = f"the torch that is there was to be kept, and none was found: {availability.no_existing}"
        fails["torch-wish"] = Reason(because, "this machine")
    archs = {row.compute_capability: row for row in matrix.archs}
    situation = Situation(
        facts=facts,
        request=request,
        availability=availability,
        backend=backend,
        gpus=gpus,
        visible=visible,
        driver=driver,
        pythons=_pythons(facts, matrix, request, availability, managed),
        drivers={row.cuda: row for row in matrix.drivers},
        archs=archs,
        fails=fails,
    )
    _driver_knows_gpus(situation)
    return situation


def as_installed(version: str, facts: HostFacts, matrix: Matrix) -> Driver:
    """A driver as if it were installed; of a branch such as ``580`` its newest known release."""
    known = known_releases(matrix.drivers, matrix.archs, on_windows_driver(facts))
    return Driver(state="ok", version=newest_of(version, known), source="--driver")


def on_windows_driver(facts: HostFacts) -> bool:
    """WSL2 runs on the Windows driver and reports its version."""
    return facts.platform.os == "windows" or facts.platform.wsl


def reboot_required(driver: Driver) -> RebootRequired:
    """The error for a driver whose kernel module and library differ."""
    return RebootRequired(
        "reboot-required",
        f"the NVIDIA kernel module ({driver.kernel_module or 'version unknown'}) and the driver library "
        f"({driver.userland or 'version unknown'}) differ: nothing was changed",
        "Reboot, then run: bnbenv sync",
    )


def _backend(facts: HostFacts, driver: Driver, gpus: tuple[Gpu, ...], request: Request, fails: Fails) -> Backend:
    if request.backend == "cpu" or facts.platform.os == "macos":
        if request.backend == "cuda":
            fails["gpu"] = Reason("macOS has no CUDA", "the facts")
            return "cuda"
        return "cpu"
    unknown = [item for item in facts.unknown if item.fact.split(".")[0].split("[")[0] in ("gpus", "driver")]
    if driver.state == "error":
        reason = next((item.reason for item in unknown), "it answers with an error")
        fails["driver-state"] = Reason(f"the NVIDIA driver does not work: {reason}", driver.source or "the facts")
        return "cuda"
    if gpus or fails:
        if driver.state == "absent" and gpus:
            fails["driver-state"] = Reason("there is a GPU and no NVIDIA driver", driver.source or "the facts")
        return "cuda"
    gpu_unknown = next((item.reason for item in unknown if item.fact.startswith("gpus")), None)
    if gpu_unknown and facts.driver.state != "absent":
        fails["gpu"] = Reason(f"the driver is there and its GPUs are unknown: {gpu_unknown}", "the facts")
        return "cuda"
    if request.backend == "cuda":
        fails["gpu"] = Reason("CUDA was asked for and there is no NVIDIA GPU", "the facts")
        return "cuda"
    return "cpu"


def _select_gpus(facts: HostFacts, request: Request, fails: Fails) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """The GPUs to solve for, and the UUIDs to make visible where that is not all of them."""
    if request.gpus == ("all",):
        return facts.gpus, ()
    chosen: dict[tuple[int, str], Gpu] = {}
    for word in request.gpus:
        found = _find_gpus(facts, word)
        if len(found) == 1:
            chosen.update(found)
        elif found:
            fails["gpu"] = Reason(f"{word} is the beginning of {len(found)} UUIDs on this host", "the facts")
        else:
            have = ", ".join(f"{gpu.index} {gpu.uuid}" for gpu in facts.gpus) or "none"
            fails["gpu"] = Reason(f"GPU {word} is not on this host (it has: {have})", "the facts")
    gpus = tuple({gpu.index: gpu for gpu in chosen.values()}.values())
    whole = {(gpu.index, gpu.uuid) for gpu in facts.gpus}
    if set(chosen) == whole and not any(item.fact == "gpus" for item in facts.unknown):
        return gpus, ()
    nameless = next((gpu for (_, uuid), gpu in chosen.items() if not uuid), None)
    if nameless is not None:  # only UUIDs say the same to every process
        because = f"the UUID of GPU {nameless.index} is unknown, so the others cannot be hidden"
        fails.setdefault("gpu", Reason(because, "the facts"))
    return gpus, tuple(uuid for _, uuid in chosen)


def _find_gpus(facts: HostFacts, word: str) -> dict[tuple[int, str], Gpu]:
    """The GPUs and MIG slices that an index, a UUID or the beginning of one may mean, by index and UUID."""
    names = {(gpu.index, gpu.uuid): gpu for gpu in facts.gpus}
    parts = {(gpu.index, part.uuid): gpu for gpu in facts.gpus for part in slices(gpu)}
    exact = {key: gpu for key, gpu in names.items() if word == str(gpu.index)}
    exact = exact or {key: gpu for key, gpu in {**names, **parts}.items() if word == key[1]}
    if exact or not word.startswith(("GPU-", "MIG-")):
        return exact
    return {key: gpu for key, gpu in {**names, **parts}.items() if key[1].startswith(word)}


def slices(gpu: Gpu) -> tuple[MigSlice, ...]:
    """The MIG slices of a GPU, if any are known."""
    return () if gpu.mig is None or isinstance(gpu.mig, str | bool) else gpu.mig.devices


def read_gpus(text: str | int | list[str | int], file: str, where: str) -> tuple[str, ...]:
    """A wish about GPUs: ``all``, or indices and UUIDs. Raises InputError."""
    words = [str(word).strip() for word in text] if isinstance(text, list) else str(text).split(",")
    words = [word.strip() for word in words if word.strip()]
    if words == ["all"]:
        return ("all",)
    if not words or not all(_is_index(word) or word.startswith(("GPU-", "MIG-")) for word in words):
        raise InputError(file, where, f'expected "all", indices or UUIDs, found "{shown(",".join(words))}"')
    return tuple(dict.fromkeys(words))


def _is_index(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 5


def _pythons(
    facts: HostFacts, matrix: Matrix, request: Request, availability: Availability, managed: bool
) -> tuple[PythonOption, ...]:
    """Interpreters in the order of preference: those on the host, newest first, then those uv would download.

    With ``minimal-change`` the one in use comes first, then those next to it. Where torch is kept, its own alone.
    """
    if request.torch == KEEP:
        return _its_own(request, availability)
    options: dict[str, PythonOption] = {}
    for python in sorted(facts.pythons, key=lambda found: number(found.version), reverse=True):
        minor = ".".join(python.version.split(".")[:2])
        if _valid(python.version) and admits(request.python, python.version):
            options.setdefault(minor, PythonOption(minor, python.version, managed=False))
    if managed:
        for minor in downloadable(matrix):
            if any(admits(request.python, f"{minor}.{patch}") for patch in (0, 30)):
                options.setdefault(minor, PythonOption(minor, f"{minor}.30", managed=True))
    if request.kept is None:
        return tuple(options.values())
    have = request.kept.python
    return tuple(sorted(options.values(), key=lambda option: apart(have, option.minor)))


def _its_own(request: Request, availability: Availability) -> tuple[PythonOption, ...]:
    """The Python of the torch that is kept."""
    found = availability.existing
    if found is None or not _valid(found.python) or not admits(request.python, found.python):
        return ()
    return (PythonOption(".".join(found.python.split(".")[:2]), found.python, managed=False),)


def downloadable(matrix: Matrix) -> list[str]:
    """The Python minors that torch has wheels for; first, newest first, those that at least half of its builds serve.

    The very newest Python comes last: other packages follow it later than torch does.
    """
    return list(_by_use(tuple(build.pythons for build in matrix.torch)))


@lru_cache(maxsize=16)
def _by_use(tags_of_builds: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    counts: dict[int, int] = {}
    for tags, builds in Counter(tags_of_builds).items():
        for tag in tags:
            if _CPYTHON.fullmatch(tag):
                counts[int(tag[3:])] = counts.get(int(tag[3:]), 0) + builds
    half = len(tags_of_builds) / 2
    ordered = sorted(counts, key=lambda minor: (counts[minor] >= half, minor), reverse=True)
    return tuple(f"3.{minor}" for minor in ordered)


def _valid(text: str) -> bool:
    return all(part.isascii() and part.isdigit() for part in text.split("."))


def _driver_knows_gpus(situation: Situation) -> None:
    """First and last driver of each architecture. Adds to ``fails``."""
    for gpu in situation.gpus:
        row = situation.archs.get(gpu.compute_capability)
        why = unsupported(row, situation.driver.version, situation.windows_driver)
        if row is not None and why is not None:
            because = f"GPU {gpu.index} ({gpu.name}, {gpu.arch}) cannot be used: {why.because}"
            situation.fails[f"driver-arch[{gpu.index}]"] = Reason(because, row.source)


def with_request(request: Request, **changes: object) -> Request:
    """The same wishes with some of them changed."""
    return msgspec.structs.replace(request, **changes)
