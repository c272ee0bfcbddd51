"""Waiting until a GPU has so much memory free."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bnbenv.doctor.running.peak import Watching
from bnbenv.doctor.running.sizes import show_seconds, show_size
from bnbenv.errors import Failed
from bnbenv.facts.memory import Place, Sample, visible
from bnbenv.progress import Progress

FIRST = 10.0  # seconds for an answer of NVML, whatever the limit is; its start takes up to a few
EVERY = 1.0  # seconds between two looks


class Request(NamedTuple):
    """``size`` bytes on one GPU that ``shown`` (CUDA_VISIBLE_DEVICES; None: all) leaves, within ``limit`` seconds."""

    size: int
    limit: float
    shown: str | None


class Free(NamedTuple):
    """Which GPU has it, and the value of CUDA_VISIBLE_DEVICES with which the command sees that one first.

    ``shown`` is None where it does so anyway.
    """

    place: Place
    seconds: float
    shown: str | None


# Begins to ask, every so many seconds; the callable is told each sample.
Ask = Callable[[Callable[[Sample], None]], Watching]


def wait_for_memory(request: Request, ask: Ask, now: Callable[[], float], progress: Progress) -> Free:
    """Ends as soon as one visible GPU has the memory free.

    Raises Failed: there is no GPU, none is large enough, NVML does not answer, or the time is over.
    """
    import queue

    samples: queue.SimpleQueue[Sample] = queue.SimpleQueue()
    begun, last = now(), None
    watching = ask(samples.put)
    try:
        while True:
            left = request.limit - (now() - begun)
            try:
                sample = samples.get(timeout=FIRST if last is None else max(0.01, min(left, FIRST)))
            except queue.Empty:
                sample = last if last and left < FIRST else Sample(failure=f"NVML did not answer within {FIRST:.0f} s")
            places = _places(sample, request)
            free = next((place for place in places if place.free >= request.size), None)
            if free is not None:
                return Free(free, now() - begun, _shown_first(free, places))
            if now() - begun >= request.limit:
                raise _over(places, request)
            last = sample
            progress.at(f"waiting for {show_size(request.size)} of GPU memory: {_state(places)}")
    finally:
        watching.stop()
        progress.at("")


def _places(sample: Sample, request: Request) -> tuple[Place, ...]:
    """The GPUs in question. Raises Failed where it is of no use to wait."""
    step = "Leave --wait-memory out, or see: bnbenv facts"
    if sample.failure is not None:
        raise Failed("no-gpu-memory", f"no GPU memory can be waited for: {sample.failure}", step)
    places = visible(sample.places, request.shown)
    if not places:
        why = "there is no GPU" if not sample.places else f"CUDA_VISIBLE_DEVICES={request.shown} shows no GPU"
        raise Failed("no-gpu-memory", f"no GPU memory can be waited for: {why}", step)
    largest = max(places, key=lambda place: place.total)
    if largest.total < request.size:
        message = (
            f"no GPU here has {show_size(request.size)}: the largest, {largest.title}, has {show_size(largest.total)}"
        )
        raise Failed("gpu-too-small", message, "Ask for less with --wait-memory, or take a larger GPU.")
    return places


def _shown_first(free: Place, places: tuple[Place, ...]) -> str | None:
    """A process uses the first GPU that it sees, unless it is told otherwise; of MIG slices it sees one alone."""
    if places[0] == free:
        return None
    if free.is_slice:
        return free.uuid
    return ",".join([free.uuid, *(place.uuid for place in places if place != free)])


def _state(places: tuple[Place, ...]) -> str:
    best = max(places, key=lambda place: place.free)
    state = f"{best.title} has {show_size(best.free)} of {show_size(best.total)} free"
    holders = sorted(best.holders, key=lambda holder: -(holder.bytes or 0))
    if holders:
        one = holders[0]
        how_much = f" {show_size(one.bytes)}" if one.bytes else " some"
        state += f"; process {one.pid}{f' ({one.program})' if one.program else ''} holds{how_much}"
    return state


def _over(places: tuple[Place, ...], request: Request) -> Failed:
    message = (
        f"{show_size(request.size)} of GPU memory did not come free within {show_seconds(request.limit)}: "
        f"{_state(places)}"
    )
    return Failed("no-memory-in-time", message, "End what holds it, ask for less, or wait longer with --wait-limit.")
