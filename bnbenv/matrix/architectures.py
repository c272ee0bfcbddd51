"""What transformers makes of a model class: one row of ``architectures.json``, found without decoding the others.

The table is of megabytes, and one row is needed: a row is a line, found by the name of its class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from bnbenv.errors import InputError
from bnbenv.matrix.load import find_data
from bnbenv.matrix.model import Evidence

ARCHITECTURES = "architectures.json"
_REINSTALL = "Install bnbenv again: its own data is incomplete or damaged."

Kind = Literal["linear", "expert", "embedding", "output", "norm", "bias", "buffer", "other"]


class Case(msgspec.Struct, frozen=True, omit_defaults=True):
    """What holds where all of ``when`` do: a shape as formulas, or names. The language is bnbenv.models.formulas'."""

    gives: tuple[str, ...]
    when: tuple[str, ...] = ()


class Pattern(msgspec.Struct, frozen=True, omit_defaults=True):
    """Parameters or buffers of a model that differ in numbers alone, which are ``*`` in their name.

    ``cases`` are shapes, the first that holds counts, without one there is no such parameter in that layer; null: no
    formula was found. ``ranges`` is how many there are, for each ``*``. ``module`` is the kind of layer whose weight
    it is (``linear`` and ``conv1d`` are converted; ``linear-like``, a class derived from it, by transformers 4 alone).
    ``dtype`` is the type it has whatever type the model is loaded in. ``stored`` are the tensors of a checkpoint that
    it is read from, where their names differ; of ``split`` more than 1 it gets one of so many parts of the tensor.
    ``saved`` is false for a buffer that no checkpoint holds.
    """

    name: str
    kind: Kind
    cases: tuple[Case, ...] | None = None
    ranges: tuple[str, ...] = ()
    module: Literal["linear", "linear-like", "conv1d", "embedding", ""] = ""
    dtype: str | None = None
    stored: tuple[str, ...] = ()
    split: int = 1
    saved: bool = True


class Default(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a field is that config.json leaves out (``missing``) or that is null there, a formula where ``cases``."""

    value: int | float | bool | str | list[int | str] | None = None
    missing: tuple[Case, ...] = ()
    null: tuple[Case, ...] = ()


class Architecture(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model class in the releases of transformers that make the same of it.

    ``transformers`` are the releases that were measured. ``prefix`` is what a checkpoint of the model without its
    output layer lacks. ``skips`` are the modules that bitsandbytes does not get by default, ``fp32`` those that are
    kept in float32 when the model is loaded in float16 (``strict``: and in bfloat16). ``aliases`` are other names of
    fields, ``types`` what the parts of the model are, where a config.json of other parts makes another model.
    ``formulas`` says why config.json alone is not enough, null where it is.
    """

    architecture: str
    model_type: str
    transformers: tuple[str, ...]
    parameters: tuple[Pattern, ...]
    evidence: Evidence
    prefix: str = ""
    defaults: dict[str, Default] = {}
    aliases: dict[str, str] = {}
    types: dict[str, str] = {}
    skips: tuple[Case, ...] = ()
    fp32: tuple[str, ...] = ()
    strict: tuple[str, ...] = ()
    formulas: str | None = None


class ArchitectureTable(msgspec.Struct, frozen=True):
    """The document ``architectures.json``."""

    schema: Literal["bnbenv.matrix.architectures/1"]
    rows: tuple[Architecture, ...]


def row_for(
    architecture: str | None, model_type: str | None, transformers: str | None, data: Path | None = None
) -> Architecture | None:
    """The row about a class, for a release of transformers (None: the newest measured one); None where there is none.

    The row that was measured with the nearest release which is not newer, of the same major; else with the nearest.
    Its ``transformers`` say which. Without ``architecture`` the class is the one that ``model_type`` has a causal
    language model in. Raises InputError where the table is missing or damaged.
    """
    path = (data or find_data()) / ARCHITECTURES
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(str(path), "", f"cannot be read ({error.strerror})", _REINSTALL) from None
    key, name = ("architecture", architecture) if architecture else ("model_type", model_type)
    if not name:
        return None
    found = list(_lines(content, b'"%s":%s' % (key.encode(), msgspec.json.encode(name))))
    try:
        rows = [msgspec.json.decode(line, type=Architecture) for line in found]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(str(path), "", f"has a row that cannot be read ({error})", _REINSTALL) from None
    rows = [row for row in rows if (row.architecture if architecture else row.model_type) == name]
    if not architecture:
        causal = [row for row in rows if row.architecture.endswith(("CausalLM", "LMHeadModel"))]
        rows = causal or rows
    return nearest(rows, transformers)


def nearest(rows: list[Architecture], transformers: str | None) -> Architecture | None:
    """The row to take for a release of transformers."""
    if not rows:
        return None
    measured = [(release(one), row) for row in rows for one in row.transformers]
    if transformers is None:
        return max(measured, key=lambda pair: pair[0])[1]
    wanted = release(transformers)
    same = [pair for pair in measured if pair[0][0] == wanted[0]]
    older = [pair for pair in same if pair[0] <= wanted]
    if older:
        return max(older, key=lambda pair: pair[0])[1]
    if same:
        return min(same, key=lambda pair: pair[0])[1]
    newer = [pair for pair in measured if pair[0] > wanted]
    return min(newer, key=lambda pair: pair[0])[1] if newer else max(measured, key=lambda pair: pair[0])[1]


def release(version: str) -> tuple[int, int, int]:
    """The numbers of a version: ``4.57.6`` and ``5.0.0rc1`` as (4, 57, 6) and (5, 0, 0)."""
    numbers: list[int] = []
    for part in version.split(".")[:3]:
        digits = part[: next((at for at, one in enumerate(part) if not one.isdigit()), len(part))]
        numbers.append(int(digits or "0"))
    return (*numbers, 0, 0, 0)[:3]  # type: ignore[return-value]


def _lines(content: bytes, key: bytes) -> list[bytes]:
    """The lines that hold a key, without the comma at their end."""
    found: list[bytes] = []
    at = content.find(key)
    while at >= 0:
        begin = content.rfind(b"\n", 0, at) + 1
        end = content.find(b"\n", at)
        found.append(content[begin : end if end >= 0 else len(content)].rstrip(b",\r"))
        at = content.find(key, end) if end >= 0 else -1
    return found
