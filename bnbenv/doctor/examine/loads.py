"""Which native library a bitsandbytes will load on a host. Pure."""

from __future__ import annotations

from bnbenv.doctor.model import Bitsandbytes, Loads, Torch
from bnbenv.facts.model import HostFacts
from bnbenv.matrix.model import Matrix


def which_library(
    bitsandbytes: Bitsandbytes,
    torch: Torch | None,
    override: str | None,
    facts: HostFacts,
    matrix: Matrix,
    libcudarts: tuple[str, ...] | None = None,
) -> Loads:
    """The library that this version loads beside that torch, by the rule that the matrix has for the version.

    ``override`` is the value of ``BNB_CUDA_VERSION`` in its process, empty where it is set to nothing, null where it is
    not set. ``libcudarts`` are the copies of libcudart on the search paths that versions through 0.40 look at
    (``linker.libcudarts``), null where they were not looked for.
    """
    return Loads(answer="unknown", because="it was not looked at")
