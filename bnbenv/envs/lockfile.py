"""The lock: uv's PEP 751 document with the decision and its evidence under ``[tool.bnbenv]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from bnbenv.decode import convert, read_toml
from bnbenv.errors import InputError
from bnbenv.matrix.model import TorchBuild
from bnbenv.solve.model import Solution

SCHEMA = "bnbenv.lock/1"
ANEW = "Write it anew with: bnbenv lock"


class Decision(msgspec.Struct, frozen=True):
    """What stands under ``[tool.bnbenv]``: for what the lock was made, and what was chosen on which evidence.

    ``wishes`` is their digest; ``torch`` the chosen build's row, so that a local wheel can be judged again.
    """

    env: str
    wishes: str
    solution: Solution
    torch: TorchBuild
    schema: str = SCHEMA


@dataclass(frozen=True)
class Locked:
    """A lock as it was read: its bytes' text, the decision, and the packages with their versions and hashes."""

    text: str
    decision: Decision
    packages: dict[str, str]
    hashes: dict[str, frozenset[str]]


def compose(uv_text: str, decision: Decision) -> str:
    """uv's lock with bnbenv's decision added."""
    import tomlkit

    table = _without_nulls(msgspec.to_builtins(decision))
    return uv_text.rstrip("\n") + "\n\n" + tomlkit.dumps({"tool": {"bnbenv": table}})


def _without_nulls(value: Any) -> Any:
    """TOML has no null: what is absent is left out."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(item) for item in value]
    return value


def read_lock(text: str, file: str) -> Locked:
    """Read a lock strictly. Raises InputError with the line or path in it and what was expected."""
    document = read_toml(text, file, ANEW)
    version = document.get("lock-version")
    if version != "1.0":
        raise InputError(file, "lock-version", f'expected "1.0", found {version!r}', ANEW)
    tool = document.get("tool")
    table = tool.get("bnbenv") if isinstance(tool, dict) else None
    if table is None:
        raise InputError(file, "tool.bnbenv", "expected bnbenv's decision, and there is none", ANEW)
    decision = convert(table, Decision, file, "tool.bnbenv", ANEW)
    if decision.schema != SCHEMA:
        expected = f'expected "{SCHEMA}", found "{decision.schema}"'
        raise InputError(file, "tool.bnbenv.schema", expected, ANEW)
    packages, hashes = _packages(document, file)
    return Locked(text, decision, packages, hashes)


def agrees(locked: Locked, file: str) -> Locked:
    """The lock, if its packages are those of its decision. Raises InputError: somebody edited one of them."""
    choice = locked.decision.solution.choice
    for name, chosen in (("torch", choice.torch.version), ("bitsandbytes", choice.bitsandbytes.version)):
        if locked.packages.get(name) != chosen:
            found = locked.packages.get(name, "none")
            raise InputError(file, "packages", f"expected {name} {chosen}, as in tool.bnbenv, found {found}", ANEW)
    return locked


def _packages(document: dict[str, Any], file: str) -> tuple[dict[str, str], dict[str, frozenset[str]]]:
    """Names, versions and SHA-256 hashes; every file of every package must have one."""
    entries = document.get("packages")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(file, "packages", "expected a list of tables", ANEW)
    versions: dict[str, str] = {}
    hashes: dict[str, frozenset[str]] = {}
    for position, entry in enumerate(entries):
        name = entry.get("name")
        if not isinstance(name, str):
            raise InputError(file, f"packages[{position}].name", "expected a name", ANEW)
        wheels = entry.get("wheels", [])
        others = [entry[key] for key in ("sdist", "archive") if key in entry]
        found = [_sha256(one) for one in (*(wheels if isinstance(wheels, list) else [wheels]), *others)]
        if not found or None in found:
            raise InputError(file, f"packages[{position}]", f"expected a sha256 for every file of {name}", ANEW)
        versions[name] = str(entry.get("version", ""))
        hashes[name] = frozenset(one for one in found if one)
    return versions, hashes


def _sha256(entry: Any) -> str | None:
    """The hash of one file of a package; None where there is none, or it is none."""
    hashes = entry.get("hashes") if isinstance(entry, dict) else None
    value = hashes.get("sha256") if isinstance(hashes, dict) else None
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else None
