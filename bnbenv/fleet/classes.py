"""Hosts that the solver cannot tell apart are one class. Pure.

The key of a class is what the solver reads of a host, reduced to what can change its answer: platform, libc and driver
by the bounds of the matrix, the set of compute capabilities, the Pythons that the wishes admit. Number, names, memory
and UUIDs of GPUs stand in it only where a wish selects GPUs by index or UUID. Nothing of other hosts stands in it, so
a host is of the same class at any time, whoever else is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from bnbenv.errors import InputError
from bnbenv.facts.model import HostFacts, checked
from bnbenv.fleet.model import HOST_SCHEMA, HostClass, HostReport, LeftOut
from bnbenv.fleet.titles import title_of
from bnbenv.matrix.drivers import at_least, number
from bnbenv.matrix.model import Matrix
from bnbenv.matrix.native import library_cuda
from bnbenv.solve.grid_parts import driver_bounds, libc_bounds
from bnbenv.solve.model import Availability, Request
from bnbenv.solve.situation import on_windows_driver, situate
from bnbenv.solve.versions import admits

# Of one host. The largest machines have 16 or 32 GPUs of one kind; what lies keeps nobody waiting.
MOST_GPUS, MOST_KINDS, MOST_PYTHONS = 256, 16, 200
_ID = 12  # hex digits

Key = list[object]


class _Unknown(Exception):
    """A host that cannot be judged, and why."""


def classify(
    reports: Sequence[HostReport], matrix: Matrix, requests: Mapping[str, Request]
) -> tuple[tuple[HostClass, ...], tuple[LeftOut, ...]]:
    """The classes, each at the place of its first host, and the hosts that are in none, each with the reason.

    Every report is in one or the other, whatever it holds.
    """
    sight = Sight(matrix, requests)
    members: dict[str, list[tuple[str, HostFacts]]] = {}
    left: list[LeftOut] = []
    for report in reports:
        out = _left_out(report)
        if out is None:
            assert report.answer is not None
            try:
                facts = _believed(report.answer.facts, report.name)
                members.setdefault(sight.id_of(facts), []).append((report.name, facts))
            except InputError as error:
                step = "See what is wrong there: bnbenv facts"
                out = LeftOut(report.name, "bad-answer", f"{error.where}: {error.expected}".lstrip(": "), step)
            except _Unknown as error:
                out = LeftOut(report.name, "unknown-facts", str(error), "Mend it there: bnbenv doctor")
        if out is not None:
            left.append(out)
    return tuple(_class(id_, found, sight) for id_, found in members.items()), tuple(left)


def _class(id_: str, members: Sequence[tuple[str, HostFacts]], sight: Sight) -> HostClass:
    title = title_of([facts for _, facts in members], sight.minors(members[0][1]))
    return HostClass(id_, title, representative(members), tuple(name for name, _ in members))


def remarks(reports: Sequence[HostReport]) -> tuple[tuple[str, str], ...]:
    """Hosts of a class of which something is unknown that the solver passes over, and what: a GPU that the driver does
    not answer for, or one without a driver, which counts as none."""
    found = []
    for report in reports:
        facts = report.answer.facts if report.answer is not None and report.state == "ok" else None
        why = next((item.reason for item in facts.unknown if item.fact == "gpus"), "") if facts else ""
        if facts and facts.gpus and why:
            found.append((report.name, f"not judged: {why}"))
        elif facts and facts.driver.state == "absent" and why and facts.platform.os != "macos" and why[:3] != "no ":
            found.append((report.name, f"judged for the CPU: {why}"))
    return tuple(found)


def _left_out(report: HostReport) -> LeftOut | None:
    """A host without an answer that can be judged."""
    if report.state != "ok":
        return LeftOut(report.name, report.state, report.because, report.next_step)
    answer = report.answer
    if answer is None or answer.schema != HOST_SCHEMA:
        found = f'schema "{answer.schema[:60]}"' if answer else "nothing"
        step = "Have the same bnbenv on the host as here."
        return LeftOut(report.name, "bad-answer", f'expected an answer of schema "{HOST_SCHEMA}", found {found}', step)
    if answer.facts.driver.state == "mismatch" or answer.reboot:
        because = answer.reboot or "the NVIDIA kernel module and the driver library differ"
        return LeftOut(report.name, "reboot-required", because, "Reboot it, then run this again.")
    return None


def _believed(facts: HostFacts, host: str) -> HostFacts:
    """Facts whose values can be calculated with. Raises InputError."""
    kinds = {gpu.compute_capability for gpu in facts.gpus}
    for where, found, most, what in (
        ("gpus", len(facts.gpus), MOST_GPUS, "GPUs"),
        ("gpus", len(kinds), MOST_KINDS, "compute capabilities"),
        ("pythons", len(facts.pythons), MOST_PYTHONS, "Pythons"),
    ):
        if found > most:
            raise InputError(host, where, f"expected {most} {what} at most, found {found}")
    return checked(facts, host)


class Sight:
    """What the solver can tell apart, by the rows of a matrix and by wishes (environment -> request)."""

    def __init__(self, matrix: Matrix, requests: Mapping[str, Request]) -> None:
        self.matrix = matrix
        self.requests = dict(sorted(requests.items()))
        self._libcs = libc_bounds(matrix)
        self._drivers = {windows: driver_bounds(matrix, windows) for windows in (False, True)}
        specs = {row.requires_python for row in matrix.torch} | {row.requires_python for row in matrix.bitsandbytes}
        specs |= {row.requires_python for row in matrix.packages}
        self._pythons = tuple(sorted(spec for spec in specs if spec))
        self._cudas = _without_driver(matrix)
        self._ids: dict[str, str] = {}

    def id_of(self, facts: HostFacts) -> str:
        """The id of a host's class: 12 hex digits of the SHA-256 of its key. Raises _Unknown, InputError."""
        text = json.dumps(self.key(facts), separators=(",", ":"))
        if text not in self._ids:
            self._ids[text] = hashlib.sha256(text.encode()).hexdigest()[:_ID]
        return self._ids[text]

    def key(self, facts: HostFacts) -> Key:
        """What the solver reads of a host. Raises _Unknown."""
        platform = facts.platform
        libc = platform.libc and [platform.libc.name, _bound(platform.libc.version, self._libcs)]
        parts = {
            env: [self._devices(facts, request), self._interpreters(facts, request)]
            for env, request in self.requests.items()
        }
        return [platform.os, platform.machine, platform.wsl, platform.jetson, libc, parts]

    def _devices(self, facts: HostFacts, request: Request) -> Key:
        """Driver and GPUs, where the wish looks at them."""
        wants_cuda = request.backend == "cuda"
        if request.backend == "cpu" or (facts.platform.os == "macos" and not wants_cuda):
            return ["cpu"]
        driver = facts.driver
        reason = _reason(facts, "driver", "gpus")
        if driver.state == "error":
            raise _Unknown(f"the NVIDIA driver does not work: {reason or 'it answers with an error'}")
        if not facts.gpus:
            reason = _reason(facts, "gpus")
            if driver.state == "ok" and reason:
                raise _Unknown(f"the driver is there and its GPUs are unknown: {reason}")
            if request.gpus == ("all",):
                return ["no GPU" if wants_cuda else "cpu"]
        # The driver of a Jetson is part of L4T and has no version of its own, and published wheels do not run there.
        if (driver.state, driver.version, driver.cuda, facts.platform.jetson) == ("ok", None, None, None):
            raise _Unknown(f"the driver's version is unknown: {reason or 'it was not told'}")
        return ["cuda", self._driver(facts), *self._gpus(facts, request)]

    def _driver(self, facts: HostFacts) -> Key:
        driver = facts.driver
        if driver.state != "ok" or driver.version is None:
            return [driver.state, driver.cuda]
        bound = _bound(driver.version, self._drivers[on_windows_driver(facts)])
        return [bound, _bound(driver.cuda, self._cudas) if driver.cuda else None] if self._cudas else [bound]

    def _gpus(self, facts: HostFacts, request: Request) -> Key:
        if request.gpus == ("all",):
            return [sorted({gpu.compute_capability for gpu in facts.gpus})]
        seen = situate(facts, self.matrix, request, Availability(), managed=False)
        problem = seen.fails.get("gpu")
        capabilities = sorted({gpu.compute_capability for gpu in seen.gpus})
        return [capabilities, seen.visible, problem.because if problem else None]

    def _interpreters(self, facts: HostFacts, request: Request) -> Key:
        """Of each minor that is admitted, the newest; and the requirements of wheels that this one does not meet."""
        found = _admitted(tuple(python.version for python in facts.pythons), request.python)
        return [[minor, *_unmet(version, self._pythons)] for minor, version in found]

    def minors(self, facts: HostFacts) -> tuple[str, ...]:
        """The minors of the Pythons of a host that any of the wishes admits, the oldest first."""
        versions = tuple(python.version for python in facts.pythons)
        found = {minor for request in self.requests.values() for minor, _ in _admitted(versions, request.python)}
        return tuple(sorted(found, key=number))


def representative(members: Sequence[tuple[str, HostFacts]]) -> HostFacts:
    """Facts that stand for a class: of the least capable host, with the lowest libc and driver of all, so that what is
    locked for it installs on all. What is about one host alone (its shell, its toolkits) is left out."""
    _, base = min(members, key=_standing)
    every = [facts for _, facts in members]
    libcs = [facts.platform.libc for facts in every if facts.platform.libc]
    libc = min(libcs, key=lambda one: (number(one.version), one.version), default=None)
    drivers = [facts.driver for facts in every if facts.driver.state == base.driver.state]
    driver = min(drivers, key=lambda one: (number(one.version or ""), one.version or ""))
    cudas = [one.cuda for one in drivers if one.cuda]
    return msgspec.structs.replace(
        base,
        platform=msgspec.structs.replace(base.platform, libc=libc, container=None),
        driver=msgspec.structs.replace(driver, cuda=min(cudas, key=number) if len(cudas) == len(drivers) else None),
        toolkits=(),
        environment={},
    )


def _standing(member: tuple[str, HostFacts]) -> tuple[object, ...]:
    """First the hosts whose GPUs are all known, then those without a driver, then the older driver."""
    name, facts = member
    partly = bool(facts.gpus) and any(item.fact == "gpus" for item in facts.unknown)
    return partly, facts.driver.state == "ok", number(facts.driver.version or ""), len(facts.gpus), name


def _reason(facts: HostFacts, *about: str) -> str:
    """Why a fact or a part of it is unknown."""
    return next((item.reason for item in facts.unknown if item.fact.split(".")[0].split("[")[0] in about), "")


@lru_cache(maxsize=4096)
def _bound(version: str, bounds: tuple[str, ...]) -> str:
    """The last of the bounds that a version is not below; the first where it is below all."""
    return next((bound for bound in reversed(bounds) if at_least(version, bound)), bounds[0])


@lru_cache(maxsize=4096)
def _admitted(versions: tuple[str, ...], spec: str) -> tuple[tuple[str, str], ...]:
    """By minor the newest of some Pythons that a wish admits, as the solver takes them."""
    minors: dict[str, str] = {}
    for version in sorted(versions, key=number, reverse=True):
        if _plain(version) and admits(spec, version):
            minors.setdefault(".".join(version.split(".")[:2]), version)
    return tuple(sorted(minors.items()))


@lru_cache(maxsize=4096)
def _unmet(python: str, specs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(spec for spec in specs if not admits(spec, python))


def _plain(version: str) -> bool:
    """Whether it is a released version: digits and dots, as the solver takes them."""
    return all(part.isascii() and part.isdigit() for part in version.split("."))


def _without_driver(matrix: Matrix) -> tuple[str, ...]:
    """CUDA versions of which the matrix does not say which driver compiles their PTX: there the driver's own word
    decides. The oldest first, and ``0`` before it; nothing where there is none."""
    known = {row.cuda for row in matrix.drivers}
    found = {build.cuda for build in matrix.torch}
    found |= {library_cuda(one.name) for wheel in matrix.bitsandbytes for one in wheel.libraries if one.ptx}
    found |= {row.ptx_cuda or row.cuda for row in matrix.packages if any(one.ptx for one in row.libraries)}
    unlisted = sorted((text for text in found - known if text), key=number)
    return ("0", *unlisted) if unlisted else ()
