#!/usr/bin/env python3
"""Read out of transformers' wheels what they take to load a model with bitsandbytes; write matrices/huggingface.json.

    python scripts/derive_huggingface.py

The newest release of each minor one from 4.30 on. Of a wheel the few files that tell are fetched by range requests and
read as Python; nothing in them is executed. Rows that are known are told by their sha256 and kept (--anew reads them
again). Exits 1 where a file could not be read; the others are written all the same.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
from deriving import ended
from packaging.requirements import Requirement
from packaging.version import Version

from bnbenv.errors import BnbenvError, Failed
from bnbenv.matrix.index import IndexFile, index_endpoint, index_session, list_project
from bnbenv.matrix.load import HUGGINGFACE, HuggingfaceTable
from bnbenv.matrix.measure import requirements_of, wheel_name
from bnbenv.matrix.model import Evidence, TransformersApi
from bnbenv.matrix.update import in_parallel
from bnbenv.matrix.wheel import Wheel, remote_wheel
from bnbenv.paths import write_atomically

MATRICES = Path(__file__).resolve().parent.parent / "matrices"
FIRST = Version("4.30")  # the first with 4-bit weights (bitsandbytes 0.39)
MODELING = "transformers/modeling_utils.py"
CONFIG = "transformers/utils/quantization_config.py"
QUANTIZER = "transformers/quantizers/quantizer_bnb_4bit.py"  # from 4.38 on; before, it is part of MODELING
IMPORTS = "transformers/utils/import_utils.py"
ALWAYS = "return True"
INTEGRATION = "transformers/integrations/bitsandbytes.py"  # from 4.33 on
FILES = (MODELING, CONFIG, QUANTIZER, IMPORTS, INTEGRATION)
NEEDS_IPEX = "available_devices.discard('cpu')"  # from 4.45 on to 4.50 a CPU counts with Intel's extension only


def derive(given: argparse.Namespace) -> int:
    """Raises BnbenvError, OSError."""
    path = given.out / HUGGINGFACE
    known = {} if given.anew else {sha256(row): row for row in read_rows(path)}
    with index_session() as session:
        files = newest(list_project(session, index_endpoint(os.environ, given.index), "transformers").files)
    rows = [known[file.sha256] for file in files if file.sha256 in known]
    wanted = [file for file in files if file.sha256 not in known]
    failed = 0
    for number, result in in_parallel([partial(read, file) for file in wanted], given.jobs):
        if isinstance(result, BaseException):
            failed += 1
            said = result.message if isinstance(result, BnbenvError) else repr(result)
            print(f"failed {wanted[number].filename}: {said}", file=sys.stderr)
            continue
        rows.append(result)
        print(f"{result.version}: {result.dtype_argument}={result.default_dtype}, cpu {result.cpu}", flush=True)
    rows.sort(key=lambda row: Version(row.version))
    lines = ",\n".join(msgspec.json.encode(row).decode() for row in rows)
    write_atomically(path, f'{{"schema": "bnbenv.matrix.huggingface/1", "rows": [\n{lines}\n]}}\n')
    return 1 if failed else 0


def newest(files: tuple[IndexFile, ...]) -> list[IndexFile]:
    """The newest final release of each minor one."""
    found: dict[tuple[int, int], tuple[Version, IndexFile]] = {}
    for file in files:
        version = Version(wheel_name(file.filename).version)
        key = (version.major, version.minor)
        if file.yanked or version.is_prerelease or version < FIRST:
            continue
        if key not in found or found[key][0] < version:
            found[key] = (version, file)
    return [file for _, file in found.values()]


def read(file: IndexFile) -> TransformersApi:
    """One row. Raises BnbenvError; ``not-found`` where the source says something else than it did so far."""
    with (
        index_session() as session,
        remote_wheel(session, file.url, file.filename, file.sha256, file.metadata_sha256) as wheel,
    ):
        names = [name for name in wheel.names() if name in FILES]
        wheel.fetch([*names, *(name for name in wheel.names() if name.endswith(".dist-info/METADATA"))])
        trees = {name: ast.parse(wheel.read(name)) for name in names}
        how = "" if wheel.checked else " (the index's word; read in parts)"
        evidence = Evidence(
            "measured", f"{file.filename} sha256:{file.sha256}{how}", datetime.now(timezone.utc).date().isoformat()
        )
        return row_of(wheel_name(file.filename).version, trees, accelerate_of(wheel), evidence)


def row_of(version: str, trees: dict[str, ast.Module], accelerate: str | None, evidence: Evidence) -> TransformersApi:
    """Raises Failed (``not-found``)."""
    loader = function(trees[MODELING], "PreTrainedModel", "from_pretrained")
    quantizer = trees.get(QUANTIZER, trees[MODELING])
    taken = popped(loader)
    least = constant(trees[IMPORTS], "BITSANDBYTES_MIN_VERSION") or least_bitsandbytes(quantizer)
    checkpointing = function(trees[MODELING], "PreTrainedModel", "gradient_checkpointing_enable")
    return TransformersApi(
        version=version,
        dtype_argument="dtype" if "dtype" in taken else "torch_dtype",
        default_dtype=default_dtype(loader, quantizer),
        parameters=parameters(function(trees[CONFIG], "BitsAndBytesConfig", "__init__")),
        loose_arguments="load_in_4bit" in taken,
        saves_4bit=saves_4bit(quantizer, least),
        bitsandbytes=least,
        accelerate=accelerate,
        cpu="No GPU found." not in " ".join(texts(quantizer)) and NEEDS_IPEX not in calls(trees.get(INTEGRATION)),
        checkpointing_kwargs="gradient_checkpointing_kwargs" in [one.arg for one in checkpointing.args.args],
        evidence=evidence,
    )


def function(tree: ast.Module, owner: str, name: str) -> ast.FunctionDef:
    """A method; of a class without it that of the first class in the file that has it (a mixin). Raises Failed."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for one in sorted(classes, key=lambda node: node.name != owner):
        for node in one.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return node
    raise Failed("not-found", f"there is no {owner}.{name} any more")


def popped(loader: ast.FunctionDef) -> set[str]:
    """The names that a function takes out of its ``kwargs``."""
    calls = (node for node in ast.walk(loader) if isinstance(node, ast.Call) and node.args)
    return {
        node.args[0].value
        for node in calls
        if ast.unparse(node.func) == "kwargs.pop"
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


def parameters(init: ast.FunctionDef) -> dict[str, bool | float | str | None]:
    names = [one.arg for one in init.args.args][1:]
    return dict(zip(names, (ast.literal_eval(one) for one in init.args.defaults), strict=True))


def assignments(tree: ast.AST, condition: str) -> Iterator[str]:
    """What is assigned under ``if condition:``, as ``name = value``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == condition:
            yield from (ast.unparse(one) for one in node.body if isinstance(one, ast.Assign))


def default_dtype(loader: ast.FunctionDef, quantizer: ast.Module) -> Literal["auto", "float16"]:
    """The type that a model with a BitsAndBytesConfig is loaded in, where none is named. Raises Failed."""
    if "dtype = 'auto'" in assignments(loader, "dtype is None"):
        return "auto"
    for name in ("dtype", "torch_dtype"):
        if f"{name} = torch.float16" in assignments(quantizer, f"{name} is None"):
            return "float16"
    raise Failed("not-found", "it does not say in which type it loads")


def comparisons(tree: ast.AST) -> Iterator[tuple[ast.Compare, str]]:
    """Comparisons of bitsandbytes' installed version, with what it is compared with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and "version('bitsandbytes')" in ast.unparse(node.left):
            found = [one.value for one in ast.walk(node.comparators[0]) if isinstance(one, ast.Constant)]
            if found and isinstance(found[0], str):
                yield node, found[0]


def least_bitsandbytes(quantizer: ast.Module) -> str | None:
    """The bitsandbytes below which 4-bit weights are refused."""
    for node in ast.walk(quantizer):
        if isinstance(node, ast.If) and all(isinstance(one, ast.Raise) for one in node.body):
            for compare, version in comparisons(node.test):
                if isinstance(compare.ops[0], ast.Lt):
                    return version
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "supports_4bit":
            for _, version in comparisons(node.value):
                return version
    return None


def saves_4bit(quantizer: ast.Module, least: str | None) -> str | None:
    for node in ast.walk(quantizer):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("is_4bit_serializable"):
            for _, version in comparisons(node.value):
                return version
        if isinstance(node, ast.FunctionDef) and node.name == "is_serializable" and ast.unparse(node.body[0]) == ALWAYS:
            return least
    return None


def constant(tree: ast.Module, name: str) -> str | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return str(ast.literal_eval(node.value))
    return None


def calls(tree: ast.Module | None) -> set[str]:
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)} if tree else set()


def texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def accelerate_of(wheel: Wheel) -> str | None:
    """The lower bound that the metadata sets for the extra ``accelerate``."""
    for text in requirements_of(wheel)[1]:
        requirement = Requirement(text)
        if requirement.name == "accelerate" and str(requirement.marker) == 'extra == "accelerate"':
            return next((one.version for one in requirement.specifier if one.operator == ">="), None)
    return None


def sha256(row: TransformersApi) -> str:
    return row.evidence.source.partition("sha256:")[2][:64]


def read_rows(path: Path) -> tuple[TransformersApi, ...]:
    return msgspec.json.decode(path.read_bytes(), type=HuggingfaceTable).rows if path.is_file() else ()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=MATRICES, metavar="DIR")
    parser.add_argument("--index", metavar="URL", help="a simple index (default: as uv or pip is configured)")
    parser.add_argument("--anew", action="store_true", help="read all of them again")
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="files at a time (%(default)s)")
    given = parser.parse_args()
    return ended(lambda: derive(given))


if __name__ == "__main__":
    sys.exit(main())
