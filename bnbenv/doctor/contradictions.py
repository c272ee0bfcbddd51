"""Where a text speaks of another machine or environment than the one that was examined. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from bnbenv.doctor.model import Examination, Said
from bnbenv.matrix.drivers import number


def contradictions(said: Said, examination: Examination) -> tuple[str, ...]:
    """Each in one line. Where either side says nothing, nothing contradicts."""
    return (
        tuple(_platform(said, examination)) + tuple(_packages(said, examination)) + tuple(_library(said, examination))
    )


def _platform(said: Said, examination: Examination) -> Iterator[str]:
    platform, driver = examination.facts.platform, examination.facts.driver
    if said.os and said.os != platform.os:
        yield f"the text is from {_SYSTEMS.get(said.os, said.os)}, this machine has {_SYSTEMS[platform.os]}"
    if said.driver and driver.version and number(said.driver) != number(driver.version):
        yield f"the text speaks of driver {said.driver}, this machine has {driver.version}"
    gpus = examination.facts.gpus
    if said.capability and gpus and said.capability not in {gpu.compute_capability for gpu in gpus}:
        have = ", ".join(dict.fromkeys(gpu.compute_capability for gpu in gpus))
        yield f"the text speaks of a GPU of compute capability {said.capability}, this machine has {have}"


_SYSTEMS = {"linux": "Linux", "windows": "Windows", "macos": "macOS"}


def _packages(said: Said, examination: Examination) -> Iterator[str]:
    torch, wheel, target = examination.torch, examination.bitsandbytes, examination.target
    if said.python and target.version and not _same(said.python, target.version, 2):
        yield f"the text speaks of Python {said.python}, the environment here has {target.version}"
    if said.torch and torch and torch.version and not _same_release(said.torch, torch.version):
        yield f"the text speaks of torch {said.torch}, the environment here has {torch.version}"
    elif said.torch_cuda and torch and torch.version and torch.fault is None and said.torch_cuda != torch.cuda:
        have = f"is for CUDA {torch.cuda}" if torch.cuda else "has no CUDA"
        yield f"the text speaks of a torch for CUDA {said.torch_cuda}, the one here {have}"
    version = wheel and (wheel.version or wheel.own_version)
    if said.bitsandbytes and version and number(said.bitsandbytes) != number(version):
        yield f"the text speaks of bitsandbytes {said.bitsandbytes}, the environment here has {version}"


def _library(said: Said, examination: Examination) -> Iterator[str]:
    wheel = examination.bitsandbytes
    if not said.library or wheel is None:
        return
    there = next((one for one in wheel.libraries if one.name == said.library), None)
    if there is not None and there.fault is None:
        yield f"the text does not find {said.library}, which is there in the environment here"


def _same(said: str, have: str, places: int) -> bool:
    """Whether two versions agree as far as both go, at most in so many places."""
    left, right = number(said)[:places], number(have)[:places]
    width = min(len(left), len(right))
    return left[:width] == right[:width]


def _same_release(said: str, have: str) -> bool:
    """The same release, and the same build where both tell it: ``2.9.1`` is ``2.9.1+cu128``, ``+cpu`` is another."""
    (left, _, build), (right, _, other) = said.partition("+"), have.partition("+")
    return number(left) == number(right) and (not build or not other or build == other)
