"""Whether ``torch.cuda.is_available()`` would say yes in an environment, without asking it. Pure."""

from __future__ import annotations

from typing import NamedTuple

from bnbenv.doctor.model import Answer, Torch
from bnbenv.facts.model import Gpu, HostFacts
from bnbenv.matrix.drivers import number
from bnbenv.matrix.model import Matrix
from bnbenv.solve.inspecting import situation_of
from bnbenv.solve.rules import driver_runs
from bnbenv.solve.situation import Fails, slices


class Available(NamedTuple):
    """Whether torch can use a GPU, why, and the GPUs that it sees."""

    answer: Answer
    because: str
    gpus: tuple[Gpu, ...] = ()


def cuda_available(torch: Torch | None, facts: HostFacts, matrix: Matrix) -> Available:
    """For a torch with CUDA: by the driver, the GPUs, CUDA_VISIBLE_DEVICES, and the driver that its CUDA needs."""
    if facts.platform.os == "macos":
        return Available("no", "macOS has no CUDA")
    if torch is None or torch.version is None:
        return Available("unknown", f"which torch is used is unknown: {(torch and torch.fault) or 'there is none'}")
    if torch.cuda is None:
        return Available("no", f"torch {torch.version} is built without CUDA")
    driver = facts.driver
    if driver.state == "absent":
        return Available("no", "there is no NVIDIA driver")
    if driver.state == "mismatch":
        return Available("no", "the driver's kernel module and library differ: a reboot is required")
    gpus = visible(facts.gpus, facts.environment.get("CUDA_VISIBLE_DEVICES"))
    if not facts.gpus or driver.state == "error":
        reason = next((one.reason for one in facts.unknown if one.fact.split("[")[0] in ("gpus", "driver")), None)
        if driver.state == "error" or reason:
            return Available("unknown", f"the GPUs are unknown: {reason or 'the driver answers with an error'}")
        return Available("no", "there is no NVIDIA GPU")
    if not gpus:
        return Available("no", "CUDA_VISIBLE_DEVICES hides all GPUs")
    if driver.version is None and driver.cuda is None:
        return Available("unknown", "the version of the driver is unknown", gpus)
    fails: Fails = {}
    driver_runs(situation_of(facts, matrix), torch.cuda, fails)
    if not fails:
        return Available("yes", "", gpus)
    because = fails["driver-cuda"].because
    # A cuda-compat folder brings a newer library, with which an older kernel module works on some GPUs.
    newer = driver.cuda is not None and number(driver.cuda)[:1] >= number(torch.cuda)[:1]
    compat = newer or "compat" in (facts.environment.get("LD_LIBRARY_PATH") or "")
    unsure = compat or "the matrix does not say" in because
    return Available("unknown" if unsure else "no", because, gpus)


def visible(gpus: tuple[Gpu, ...], value: str | None) -> tuple[Gpu, ...]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` shows; null shows all.

    A word is an index, a UUID (also of a MIG slice) or the beginning of one; CUDA stops at the first that it does not
    know. Source: "CUDA Environment Variables", CUDA C++ Programming Guide.
    """
    if value is None:
        return gpus
    found: list[Gpu] = []
    for word in (word.strip() for word in value.split(",")):
        one = next((gpu for gpu in gpus if _means(word, gpu)), None)
        if one is None:
            break
        found.append(one)
    return tuple(dict.fromkeys(found))


def _means(word: str, gpu: Gpu) -> bool:
    if word.isascii() and word.isdigit():
        return gpu.index == int(word)
    names = (gpu.uuid, *(part.uuid for part in slices(gpu)))
    return bool(word) and any(name.lower().startswith(word.lower()) for name in names if name)
