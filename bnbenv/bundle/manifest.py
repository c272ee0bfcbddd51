"""What is in a bundle and for whom: ``bundle.json``, its first member. Typed, and read strictly."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import msgspec

from bnbenv.decode import convert
from bnbenv.envs.project import check_env_name
from bnbenv.envs.record import is_newer
from bnbenv.errors import InputError

SCHEMA = "bnbenv.bundle/1"
MANIFEST = "bundle.json"
LARGEST = 16 << 20  # bytes of a manifest
_MOST = 1 << 50  # bytes of what is in a wheel
CONFIG = "bnbenv.toml"
MATRIX = "matrix"  # the folder of rows
FILES = "files"  # the folder of wheels: one flat folder, as --find-links wants it

SYSTEMS = {"linux": "Linux", "windows": "Windows", "macos": "macOS"}
AGAIN = "Copy it again, and compare its sha256 with the one that bnbenv bundle printed."

_PART = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9._+!-]{0,249}")


class File(msgspec.Struct, frozen=True):
    """One member of the archive. ``size`` is in bytes, ``unpacked`` that of what is in a wheel (0: no wheel).

    ``built_from`` is the sha256 of the sdist that a wheel was made of.
    """

    path: str
    size: int
    sha256: str
    unpacked: int = 0
    built_from: str | None = None


class Environment(msgspec.Struct, frozen=True):
    """One environment of a class: ``lock`` is the member that is the lock, ``installable`` one that installs from the
    unpacked bundle, ``packages`` the member of each package."""

    env: str
    family: str
    title: str
    python: str
    torch: str
    lock: str
    installable: str
    packages: dict[str, str]


class Machine(msgspec.Struct, frozen=True):
    """One machine that the bundle was made for. ``facts`` is how its file was called; empty: the one it was made on."""

    facts: str
    os: str
    machine: str
    driver: str | None
    gpus: tuple[str, ...]
    pythons: tuple[str, ...]

    @property
    def title(self) -> str:
        """``v100.json: Linux x86_64, 2 x Tesla V100, driver 570.133.20``."""
        return f"{self.facts or 'the machine it was made on'}: {self.kind}"

    @property
    def kind(self) -> str:
        """``Linux x86_64, 2 x Tesla V100, driver 570.133.20``."""
        counted = {name: self.gpus.count(name) for name in self.gpus}
        cards = [f"{number} x {name}" if number > 1 else name for name, number in counted.items()]
        words = [f"{SYSTEMS.get(self.os, self.os)} {self.machine}", *(cards or ["no GPU"])]
        words += [f"driver {self.driver}"] if self.driver else []
        return ", ".join(words)


class Class(msgspec.Struct, frozen=True):
    """Machines that share locks. ``python_archive`` is the member with an interpreter for those that have none."""

    number: int
    machines: tuple[Machine, ...]
    environments: tuple[Environment, ...]
    tool: tuple[str, ...]
    python_archive: str | None = None


class Manifest(msgspec.Struct, frozen=True):
    """The document. ``config``: whether bnbenv.toml is in it; without, the defaults were asked for.

    ``path``, ``size`` and ``sha256`` are of the whole bundle, which only the command that wrote it can tell: in the
    bundle itself they are null. So are ``notes`` for the one who made it.
    """

    bnbenv: str
    uv: str
    config: bool
    classes: tuple[Class, ...]
    files: tuple[File, ...]
    path: str | None = None
    size: int | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = ()
    schema: str = SCHEMA

    @property
    def by_path(self) -> dict[str, File]:
        return {file.path: file for file in self.files}

    def document(self) -> dict[str, Any]:
        """As it stands in the bundle, ``schema`` first."""
        body = msgspec.to_builtins(self)
        return {"schema": body.pop("schema"), **body}

    def encode(self) -> bytes:
        """Its bytes: the same for the same content."""
        return msgspec.json.format(msgspec.json.encode(self.document()), indent=1) + b"\n"


def decode_manifest(data: bytes, file: str) -> Manifest:
    """Read a manifest strictly; ``file`` is how errors call the bundle.

    Raises InputError: no manifest, a newer one, or one that names what cannot be in it.
    """
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(file, MANIFEST, f"no JSON document ({error})", AGAIN) from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if is_newer(schema, SCHEMA):
        expected = f'made by a newer bnbenv ("{schema}", this one knows "{SCHEMA}")'
        step = "Install the bnbenv that is in it: unpack it (tar -xf), then run its install.sh"
        raise InputError(file, f"{MANIFEST}: schema", expected, step)
    if schema != SCHEMA:
        raise InputError(file, f"{MANIFEST}: schema", f'expected "{SCHEMA}"', "Make one with: bnbenv bundle OUT.tar")
    manifest = convert(document, Manifest, file, MANIFEST, AGAIN)
    _check(manifest, file)
    return manifest


def _check(manifest: Manifest, file: str) -> None:
    """Names stay inside, each is there once, and what is spoken of is there. Raises InputError."""
    seen: set[str] = set()
    for position, one in enumerate(manifest.files):
        where = f"{MANIFEST}: files[{position}]"
        if not safe(one.path) or one.path.lower() in seen or one.path == MANIFEST:
            raise InputError(file, where, "expected a name inside the bundle, once", AGAIN)
        if one.size < 0 or not 0 <= one.unpacked < _MOST or not re.fullmatch(r"[0-9a-f]{64}", one.sha256):
            raise InputError(file, where, "expected a size and a sha256", AGAIN)
        seen.add(one.path.lower())
    known = manifest.by_path
    if manifest.config and CONFIG not in known:
        raise InputError(file, f"{MANIFEST}: config", f"expected {CONFIG} in the bundle", AGAIN)
    for number, group in enumerate(manifest.classes):
        where = f"{MANIFEST}: classes[{number}]"
        wanted = [*group.tool, *([group.python_archive] if group.python_archive else [])]
        names = [one.env for one in group.environments]
        for env in group.environments:
            check_env_name(env.env, file, where)
            wanted += [env.lock, env.installable, *env.packages.values()]
        if len(set(names)) < len(names) or any(path not in known for path in wanted):
            raise InputError(file, where, "expected names of files that are in the bundle", AGAIN)


def safe(name: str) -> bool:
    """Whether a member's name leads nowhere but into the folder that it is unpacked in. Pure."""
    parts = name.split("/")
    return (
        len(name) < 1000
        and len(parts) <= 6
        and all(_PART.fullmatch(part) and part not in (".", "..") and not part.endswith(".") for part in parts)
        and not PurePosixPath(name).is_absolute()
    )
