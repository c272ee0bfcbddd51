"""What an environment lies on, as it stands in its lock."""

from __future__ import annotations

import msgspec


class Base(msgspec.Struct, frozen=True):
    """The folders below an environment whose torch is kept.

    ``site`` is the folder that holds torch, ``python`` the path of its interpreter, ``where`` what led to it
    (``PYTHONPATH``). ``folders`` are all folders of packages that show below the environment's own, in the order in
    which an import searches them; ``system`` tells whether the interpreter shows some of them to any venv on it, so
    that this one has to be made with system site packages. ``packages`` maps what the lock counts on below, by
    normalized name, to its version.
    """

    site: str
    python: str
    where: str
    folders: tuple[str, ...]
    system: bool
    packages: dict[str, str] = {}
