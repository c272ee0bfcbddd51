"""Compile bitsandbytes into a wheel, or take the one that was made of the same before."""

from __future__ import annotations

from bnbenv.build.model import Built, Order
from bnbenv.build.ports import Ports
from bnbenv.facts.model import Toolkit
from bnbenv.matrix.model import Matrix

WAIT = 1800.0  # seconds that are waited for another bnbenv that builds the same


def build(order: Order, ports: Ports, matrix: Matrix, toolkits: tuple[Toolkit, ...], wait: float = WAIT) -> Built:
    """A wheel of what was ordered.

    Raises what ``source.fetch`` and ``toolchain.prepare`` raise; NoCombination (``source-cuda``) where the source does
    not compile with this CUDA; Failed: ``compile-failed``, ``build-out-of-memory``, ``no-space``, ``not-as-asked``;
    Busy where another bnbenv builds the same for longer than ``wait`` seconds; OSError.
    """
    raise NotImplementedError
