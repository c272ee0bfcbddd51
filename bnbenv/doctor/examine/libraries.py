"""The native libraries of an installed bitsandbytes, each as it is; one that cannot be read says why."""

from __future__ import annotations

from pathlib import Path

from bnbenv.doctor.model import Bitsandbytes


def read_bitsandbytes(folder: Path, version: str | None = None) -> Bitsandbytes:
    """The package in a folder ``bitsandbytes``; ``version`` is what its metadata says.

    Nothing is raised: ``fault`` of the package or of one of its libraries says what cannot be read.
    """
    return Bitsandbytes(path=str(folder), version=version)
