"""The files that the dynamic linker would open: the environment's as they are, the system's below the system root."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bnbenv.doctor.examine.dynamic import (
    Dynamic,
    NoElf,
    OtherMachine,
    missing_symbols,
    read_dynamic,
    undefined_symbols,
)
from bnbenv.errors import Failed
from bnbenv.matrix.installed import mapped
from bnbenv.paths import Sysroot

T = TypeVar("T")

TRIPLETS = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}


class Stop(Exception):
    """A file at which the dynamic linker gives up; it looks no further."""


class Disk:
    """``own`` are folders that are real whatever the system root is: those of the environment that is examined."""

    def __init__(self, sysroot: Sysroot, machine: str, own: tuple[str, ...]) -> None:
        self.sysroot, self.machine = sysroot, machine
        self._whole = str(sysroot.prefix) == os.sep
        self._own = tuple(f"{one.rstrip('/')}/" for one in (*own, str(sysroot.prefix)) if one.strip("/"))
        self._dynamics: dict[str, Dynamic | Stop | None] = {}
        self._listed: dict[str, tuple[str, ...]] = {}

    def actual(self, path: str) -> str:
        """Where a path of the process lies on this disk."""
        if self._whole or not path.startswith("/") or path.startswith(self._own):
            return path
        return str(self.sysroot.path(path))

    def identity(self, path: str) -> tuple[int, int] | None:
        """The same for every name of one file; None where there is none that can be looked at."""
        try:
            found = os.stat(self.actual(path))  # noqa: PTH116 - thousands of paths
        except (OSError, ValueError):
            return None
        return found.st_dev, found.st_ino

    def dynamic(self, path: str) -> Dynamic | None:
        """What a file says to the linker; None where it passes over it. Raises Stop where it stops at it."""
        if path not in self._dynamics:
            self._dynamics[path] = self._read(path)
        found = self._dynamics[path]
        if isinstance(found, Stop):
            raise found
        return found

    def _read(self, path: str) -> Dynamic | Stop | None:
        try:
            return self._with(path, lambda data: read_dynamic(data, path, self.machine))
        except NoElf as error:
            return Stop(f"{path}: {error}")
        except Failed as error:
            return Stop(error.message)
        except (OtherMachine, OSError, ValueError):
            return None

    def _with(self, path: str, use: Callable[[memoryview], T]) -> T:
        with mapped(Path(self.actual(path))) as data, memoryview(data) as view:
            return use(view)

    def missing_symbols(self, needing: str, found: str, soname: str) -> tuple[str, ...]:
        """The symbols that one file takes from a library and that the found one does not have."""
        try:
            names = self._with(needing, lambda data: undefined_symbols(data, needing, self.machine, soname))
            return self._with(found, lambda data: missing_symbols(data, found, self.machine, names)) if names else ()
        except (NoElf, OtherMachine, Failed, OSError, ValueError):
            return ()

    def listed(self, folder: str) -> tuple[str, ...]:
        """The names in a folder, sorted; none where it cannot be read."""
        if folder not in self._listed:
            try:
                self._listed[folder] = tuple(sorted(os.listdir(self.actual(folder))))
            except (OSError, ValueError):
                self._listed[folder] = ()
        return self._listed[folder]

    def matching(self, folder: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
        """The paths in a folder whose name fits."""
        return tuple(f"{folder}/{name}" for name in self.listed(folder) if pattern.fullmatch(name))

    def levels(self, folder: str, levels: tuple[str, ...]) -> tuple[str, ...]:
        """The folders for better CPUs below one, best first."""
        have = self.listed(f"{folder}/glibc-hwcaps")
        return tuple(f"{folder}/glibc-hwcaps/{level}" for level in levels if level in have)

    def real(self, path: str) -> str:
        """A path with its links followed."""
        return os.path.realpath(self.actual(path))

    def library_folder(self) -> str:
        """What ``$LIB`` stands for: Debian's glibc has its own word."""
        triplet = TRIPLETS.get(self.machine, "")
        return f"lib/{triplet}" if triplet and self.identity(f"/lib/{triplet}") else "lib64"
