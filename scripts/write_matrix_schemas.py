#!/usr/bin/env python3
"""Write matrices/schemas: a JSON schema for each table, out of the types that the loader decodes it with.

    python scripts/write_matrix_schemas.py            write them
    python scripts/write_matrix_schemas.py --check    only say which differ (exit 1)

Strict: what a table holds beyond its schema is a mistake.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from derive_torch_declared import TORCH_ARCHS, ArchTable

from bnbenv.matrix.architectures import ARCHITECTURES, ArchitectureTable
from bnbenv.matrix.load import TABLES

MATRICES = Path(__file__).resolve().parent.parent / "matrices"


def schemas() -> dict[str, str]:
    """The text of each schema, by file name: ``gpus.schema.json`` for ``gpus.toml``."""
    tables: dict[str, type[msgspec.Struct]] = {**TABLES, TORCH_ARCHS: ArchTable, ARCHITECTURES: ArchitectureTable}
    return {f"{name.rpartition('.')[0]}.schema.json": text(name, kind) for name, kind in tables.items()}


def text(name: str, kind: type[msgspec.Struct]) -> str:
    (referred,), parts = msgspec.json.schema_components((kind,))
    parts = {key: strict(part) for key, part in parts.items()}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:bnbenv:matrices:{name}",
        "title": f"matrices/{name}",
        **parts.pop(referred["$ref"].rpartition("/")[2]),
        "$defs": parts,
    }
    return json.dumps(document, indent=2) + "\n"


def strict(part: dict[str, Any]) -> dict[str, Any]:
    """A schema that allows no other keys, without the names of Python's types."""
    plain = {key: value for key, value in part.items() if key != "title"}
    if "description" in plain:
        plain["description"] = " ".join(str(plain["description"]).replace("``", "").split())
    return {**plain, "additionalProperties": False} if plain.get("type") == "object" else plain


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--out", type=Path, default=MATRICES / "schemas", metavar="DIR")
    given = parser.parse_args()
    wanted = schemas()
    there = {path.name: path.read_text() for path in given.out.glob("*.json")}
    differing = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
    for name in differing:
        print(f"differs  {name}" if given.check else f"written  {name}" if name in wanted else f"removed  {name}")
    if given.check:
        return 1 if differing else 0
    given.out.mkdir(parents=True, exist_ok=True)
    for name in differing:
        if name in wanted:
            (given.out / name).write_text(wanted[name])
        else:
            (given.out / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
