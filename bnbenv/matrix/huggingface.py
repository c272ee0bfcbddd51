"""What each release of transformers takes where a model is loaded with bitsandbytes, read out of its own source.

``scripts/derive_huggingface.py`` writes the table: the newest release of each minor one. It is read alone, not with the
matrix that the solver judges on.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from bnbenv.decode import shown
from bnbenv.errors import InputError
from bnbenv.matrix.load import find_data, load_huggingface
from bnbenv.matrix.model import TransformersApi

_RELEASE = re.compile(r"v?(\d{1,6})(?:\.(\d{1,6}))?(?![0-9])", re.ASCII)


def api_for(transformers: str | None, data: Path | None = None) -> TransformersApi:
    """What a release of transformers takes; None, and one newer than all that are known, is the newest known.

    Of a release between two known ones the row of its own minor release or the one before holds; a release older
    than all that are known is taken for the oldest. ``version`` of the row says which one it is.
    Raises InputError for a damaged table, or what is no version.
    """
    rows = _rows(data or find_data())
    if transformers is None:
        return rows[-1]
    asked = minor(transformers)
    return next((row for row in reversed(rows) if minor(row.version) <= asked), rows[0])


def minor(version: str) -> tuple[int, int]:
    """Major and minor number of a release: ``4.57.6`` and ``4.57.0.dev0`` are both (4, 57). Raises InputError."""
    found = _RELEASE.match(version)
    if not found:
        raise InputError("transformers", "", f'expected a version, found "{shown(version)}"')
    return int(found[1]), int(found[2] or 0)


@functools.lru_cache(maxsize=4)
def _rows(folder: Path) -> tuple[TransformersApi, ...]:
    return load_huggingface(folder)
