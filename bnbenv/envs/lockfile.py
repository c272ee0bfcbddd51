"""The lock: uv's PEP 751 document with the decision and its evidence under ``[tool.bnbenv]``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import msgspec

from bnbenv.errors import InputError
from bnbenv.matrix.model import TorchBuild
from bnbenv.solve.model import Solution

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEMA = "bnbenv.lock/1"


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
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(file, "", f"this is not TOML: {error}", "Write it anew with: bnbenv lock") from None
    except RecursionError:
        raise InputError(file, "", "nested too deeply", "Write it anew with: bnbenv lock") from None
    version = document.get("lock-version")
    if version != "1.0":
        raise InputError(file, "lock-version", f'expected "1.0", found {version!r}', "Write it anew with: bnbenv lock")
    table = document.get("tool", {}).get("bnbenv") if isinstance(document.get("tool", {}), dict) else None
    if table is None:
        raise InputError(file, "tool.bnbenv", "expected bnbenv's decision", "Write it anew with: bnbenv lock")
    try:
        decision = msgspec.convert(table, Decision)
    except msgspec.ValidationError as error:
        expected, _, path = str(error).partition(" - at `")
        where = "tool.bnbenv" + path.rstrip("`").removeprefix("$")
        raise InputError(file, where, expected[:1].lower() + expected[1:], "Write it anew with: bnbenv lock") from None
    if decision.schema != SCHEMA:
        expected = f'expected "{SCHEMA}", found "{decision.schema}"'
        raise InputError(file, "tool.bnbenv.schema", expected, "Write it anew with: bnbenv lock")
    packages, hashes = _packages(document, file)
    return Locked(text, decision, packages, hashes)


def _packages(document: dict[str, Any], file: str) -> tuple[dict[str, str], dict[str, frozenset[str]]]:
    """Names, versions and SHA-256 hashes; every file of every package must have one."""
    entries = document.get("packages")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(file, "packages", "expected a list of tables", "Write it anew with: bnbenv lock")
    versions: dict[str, str] = {}
    hashes: dict[str, frozenset[str]] = {}
    for position, entry in enumerate(entries):
        name = entry.get("name")
        if not isinstance(name, str):
            raise InputError(file, f"packages[{position}].name", "expected a name", "Write it anew with: bnbenv lock")
        files = [*entry.get("wheels", []), *(entry[key] for key in ("sdist", "archive") if key in entry)]
        found = [one.get("hashes", {}).get("sha256") for one in files if isinstance(one, dict)]
        if not found or not all(isinstance(one, str) and len(one) == 64 for one in found):
            where = f"packages[{position}].wheels"
            expected = f"expected a sha256 for every file of {name}"
            raise InputError(file, where, expected, "Write it anew with: bnbenv lock")
        versions[name] = str(entry.get("version", ""))
        hashes[name] = frozenset(found)
    return versions, hashes
