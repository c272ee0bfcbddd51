"""Wheels that were built here, by what they were made of.

``wheels/<key>/`` holds a wheel and ``build.json``, which says what it was made of and what was read back of it. A
folder gets its name in one rename, so there is never half of one. What does not agree with its record counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bnbenv.build.model import Built, Order, Origin, Toolchain, Tree
from bnbenv.facts.kernel import glibc
from bnbenv.paths import exists

FORMAT = 1  # of the record, and of everything that makes a wheel: another number makes all anew
RECORD = "build.json"
RECORD_LIMIT = 1 << 20  # bytes


class Inputs(msgspec.Struct, frozen=True):
    """What a wheel is made of. ``flags`` are what CMake is told beside the architectures.

    ``system`` is the machine that compiles and its C library (``x86_64 glibc 2.36``): what is linked against a newer
    one does not run with an older, and several machines may share a home folder.
    """

    system: str
    source: str
    cuda: str
    archs: tuple[str, ...]
    flags: tuple[str, ...]
    nvcc: str
    origin: str
    host: str
    format: int = FORMAT

    def same_order(self, other: Inputs) -> bool:
        """Whether the same was asked of the same source, whichever compilers made it."""
        return self._order() == other._order()

    def _order(self) -> tuple[object, ...]:
        return self.system, self.source, self.cuda, self.archs, self.flags, self.format

    def key(self) -> str:
        return _digest(self)

    def order_key(self) -> str:
        """Of what is asked: known before there is a toolchain."""
        return _digest(self._order())


class _Record(msgspec.Struct, frozen=True):
    inputs: Inputs
    built: Built


def inputs_of(order: Order, tree: Tree, flags: tuple[str, ...], toolchain: Toolchain | None) -> Inputs:
    """What a wheel would be made of; without a toolchain the compilers are left empty."""
    host = f"{toolchain.host.kind} {toolchain.host.version}" if toolchain else ""
    nvcc, origin = (toolchain.nvcc, toolchain.origin) if toolchain else ("", "")
    system = f"{platform.machine()} {glibc()}"
    return Inputs(system, tree.origin.digest, order.cuda, order.archs, flags, nvcc, origin, host)


def find(home: Path, wanted: Inputs, origin: Origin | None = None) -> Built | None:
    """The wheel that was made of this, whole; where no compiler is named, by whichever, the newest first.

    A wheel whose sha256 is another than its record says is none. ``home`` is the folder of builds, ``origin`` what the
    same source is called now.
    """
    folders = [home / "wheels" / wanted.key()] if wanted.nvcc else sorted(_folders(home), key=_age)
    for folder in folders:
        record = _read(folder)
        if record is None or not (record.inputs == wanted if wanted.nvcc else record.inputs.same_order(wanted)):
            continue
        if sound(record.built):
            return record.built if origin is None else msgspec.structs.replace(record.built, source=origin)
    return None


def entries(home: Path) -> tuple[Built, ...]:
    """All wheels that were built here, the newest first, as their records say; ``sound`` looks at the bytes."""
    records = (_read(folder) for folder in sorted(_folders(home), key=_age))
    return tuple(record.built for record in records if record is not None)


def sound(built: Built) -> bool:
    """Whether the wheel has the bytes that it had when it was read back."""
    digest = hashlib.sha256()
    try:
        with Path(built.wheel).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError:
        return False
    return digest.hexdigest() == built.sha256


def store(home: Path, inputs: Inputs, built: Built, source: Path) -> Built:
    """Take a wheel into the cache, in one rename of the folder ``source`` in which it lies alone. Raises OSError.

    ``built`` names the wheel without its folder, which must be on the same file system.
    """
    target = home / "wheels" / inputs.key()
    target.parent.mkdir(parents=True, exist_ok=True)
    record = source / RECORD
    record.write_bytes(msgspec.json.encode(_Record(inputs, built)))
    for path in (source / built.wheel, record):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())  # a rename can outlive a power cut that the bytes do not
    if os.path.lexists(target):  # it did not agree with its record
        damaged = target.with_name(f".damaged-{target.name}-{os.getpid()}")
        target.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    source.rename(target)
    return msgspec.structs.replace(_located(built, target), cached=False)


def _folders(home: Path) -> Iterator[Path]:
    try:
        found = list((home / "wheels").iterdir())
    except OSError:
        return
    yield from (folder for folder in found if not folder.name.startswith("."))


def _age(folder: Path) -> float:
    try:
        return -(folder / RECORD).stat().st_mtime
    except OSError:
        return 0.0


def _read(folder: Path) -> _Record | None:
    """What a folder's record says; None where it is damaged, of another bnbenv, or the wheel is not there."""
    try:
        with (folder / RECORD).open("rb") as stream:
            text = stream.read(RECORD_LIMIT)
        record = msgspec.json.decode(text, type=_Record)
    except (OSError, ValueError, RecursionError):
        return None
    name = record.built.wheel
    if record.inputs.format != FORMAT or Path(name).name != name or record.inputs.key() != folder.name:
        return None
    wheel = folder / name
    if not wheel.is_file():
        return None
    return msgspec.structs.replace(record, built=_located(record.built, folder))


def _located(built: Built, folder: Path) -> Built:
    log = built.log if built.log and exists(Path(built.log)) else None  # old ones are deleted
    return msgspec.structs.replace(built, wheel=str(folder / built.wheel), cached=True, log=log)


def _digest(value: object) -> str:
    text = json.dumps(msgspec.to_builtins(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
