"""The parameters of a model as transformers builds it, told from its checkpoint's headers or from config.json alone.

What a release of transformers makes of a model class is a row of ``architectures.json``. With headers the shapes are
those of the tensors and the row says what each becomes; without them the row's formulas give the shapes. A class that
has no row is judged by the names and shapes of its tensors. Parameters stand in the order in which they are loaded:
transformers 5 sorts a checkpoint's names by their parts, numbers as numbers (``dot_natural_key`` in
core_model_loading.py, 5.23.0); 4 takes file after file, in each the names as text (modeling_utils.py, 4.57.6). Buffers
that no checkpoint holds stand at the end. Every layer stands for itself (``count`` 1). A tied output is one with the
embedding and is not listed: ``model.parameters()`` gives it once.

``dtype`` F32 holds for quantized loading in bfloat16, and where a class says so for float16 too. What transformers 5
keeps in float32 for float16 alone (T5's ``wo``) has the loading type here; transformers 4 keeps it in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bnbenv.decode import shown
from bnbenv.matrix.architectures import Architecture, Pattern, release, row_for
from bnbenv.models.formulas import Unresolved
from bnbenv.models.guess import LONGEST, guessed, in_order, natural
from bnbenv.models.model import Checkpoint, CheckpointError, Config, Parameter, Skeleton, Tensor
from bnbenv.models.structure import NUMBER, Fields, Place, Skips, Structure, filled

NEWEST = "5.23.0"  # without a row and without a release: whose rules for names are taken
_OLD_BUFFERS = ("rotary_emb.inv_freq", "attn.masked_bias", "attention.masked_bias")  # in old checkpoints, not loaded


def skeleton(checkpoint: Checkpoint, transformers: str | None, skip: Sequence[str] = ()) -> Skeleton:
    """What ``from_pretrained`` of that release makes of the checkpoint; None is the newest one that was measured.

    ``skip`` are the user's ``llm_int8_skip_modules``; none leaves those that transformers chooses itself.
    Raises CheckpointError where config.json alone does not tell (``unknown-architecture``, ``headers-needed``),
    InputError where the table is damaged.
    """
    config = checkpoint.config
    row = _row(config, transformers)
    if row is None:
        if checkpoint.tensors is None:
            raise _unknown(config)
        return guessed(checkpoint.tensors, config, transformers or NEWEST, skip)
    version = transformers or max(row.transformers, key=release)
    if release(version)[0] not in {release(one)[0] for one in row.transformers} and _experts(row):
        # Experts are what the majors differ in: linear layers in 4, in 5 one parameter of all of them.
        if checkpoint.tensors is None:
            raise _needs_headers(row, f"its experts were measured with transformers {row.transformers[-1]} alone")
        return guessed(checkpoint.tensors, config, version, skip)
    fields = Fields(row, config.fields)
    if checkpoint.tensors is None:
        return _from_config(row, fields, version, skip, config)
    return _from_headers(row, fields, checkpoint.tensors, version, skip, config)


def _row(config: Config, transformers: str | None) -> Architecture | None:
    """The row of the class; of a class that transformers has no causal model of, that of its model_type."""
    found = row_for(config.architecture, config.model_type, transformers) if config.architecture else None
    if found is None and not (config.remote_code and config.architecture):
        found = row_for(None, config.model_type, transformers)
    return found


def _experts(row: Architecture) -> bool:
    return any(pattern.kind == "expert" or ".experts." in pattern.name for pattern in row.parameters)


def _unknown(config: Config) -> CheckpointError:
    name = config.architecture or config.model_type
    why = f"names {name}, which is not in bnbenv's table" if name else "names no class of models"
    return CheckpointError(
        "unknown-architecture",
        f"config.json {why}, so it alone does not tell the parameters",
        "Give a checkpoint whose safetensors files are there, or build it in the environment: --exact",
    )


def _basis(row: Architecture, version: str, source: str) -> str:
    measured = max(row.transformers, key=release) if version not in row.transformers else version
    said = f"{row.architecture} as transformers {measured} builds it, from {source}"
    return said if measured == version else f"{said} (transformers {version} itself was not measured)"


def _from_config(row: Architecture, fields: Fields, version: str, skip: Sequence[str], config: Config) -> Skeleton:
    """Raises CheckpointError."""
    if row.formulas is None:
        for name, kind in row.types.items():
            if _given(fields, name) not in (None, kind):
                raise _needs_headers(row, f"its {name} is another than {kind}")
    else:
        raise _needs_headers(row, "its layers do not follow from config.json by a formula")
    try:
        places = list(Structure(row, fields).places())
    except Unresolved as error:
        raise _needs_headers(row, f"config.json has no usable {error}") from None
    judge = _Judge(row, fields, version, skip)
    size = 4 if config.dtype == "F32" else 2
    parameters = [
        judge.parameter(place, size * _product(place.shape) if place.pattern.saved else 0, _parts(place))
        for place in places
    ]
    if release(version)[0] >= 5:
        order = sorted(range(len(places)), key=lambda at: natural(places[at].stored_name))
    else:  # as in one file; of several, the last one holds the output and the last layers
        order = sorted(range(len(places)), key=lambda at: places[at].stored_name)
    loaded = [parameters[at] for at in order if places[at].pattern.saved]
    buffers = [one for one, place in zip(parameters, places, strict=True) if not place.pattern.saved]
    return Skeleton((*loaded, *buffers), version, _basis(row, version, "config.json alone"))


def _parts(place: Place) -> int:
    """Of how many tensors of a checkpoint it is put together: where each expert has its own, of as many."""
    stars = place.pattern.name.count("*")
    return sum(place.shape[0] if name.count("*") > stars else 1 for name in place.pattern.stored) or 1


def _given(fields: Fields, name: str) -> object:
    try:
        return fields(name)
    except Unresolved:
        return None


def _needs_headers(row: Architecture, why: str) -> CheckpointError:
    return CheckpointError(
        "headers-needed",
        f"config.json alone does not tell the parameters of {row.architecture}: {why}",
        "Give a checkpoint whose safetensors files are there, or build it in the environment: --exact",
    )


class _Judge:
    """What becomes of each parameter when the model is loaded with a BitsAndBytesConfig."""

    def __init__(self, row: Architecture | None, fields: Fields | None, version: str, skip: Sequence[str]) -> None:
        self._row, self._major = row, release(version)[0]
        self._skips = Skips(row, fields, version, skip) if row is not None and fields is not None else None
        self._given = tuple(skip)
        self._float32 = (*row.strict, *(row.fp32 if self._major < 5 else ())) if row is not None else ()

    def parameter(self, place: Place, stored: int, parts: int = 1) -> Parameter:
        pattern, name = place.pattern, place.name
        kept = self._kept(pattern, name)
        return Parameter(
            name=name,
            shape=place.shape,
            kind=pattern.kind,
            converted=pattern.module in ("linear", "conv1d", "linear-like") and kept is None,
            kept=kept,
            dtype="F32" if self._in_float32(name) else pattern.dtype,
            stored=stored,
            parts=parts,
            turned=pattern.module == "conv1d",
        )

    def _kept(self, pattern: Pattern, name: str) -> str | None:
        if pattern.kind == "expert":
            return "experts in one 3-D parameter: bitsandbytes converts linear layers alone"
        if pattern.module not in ("linear", "conv1d", "linear-like") or self._skips is None:
            return None
        because = self._skips.why(name.rpartition(".")[0])
        if because is None:
            return None
        if because in self._given:
            return "named in llm_int8_skip_modules"
        if because in self._skips.fp32:
            return "kept in float32 by transformers"
        return "the output layer" if pattern.kind == "output" else "left as it is by transformers"

    def _in_float32(self, name: str) -> bool:
        if not self._float32:
            return False
        if self._major >= 5:
            return any(one in name for one in self._float32)
        return any(f".{one}." in f".{name}." for one in self._float32)


class _Found(NamedTuple):
    pattern: Pattern
    numbers: tuple[int, ...]
    tensors: list[Tensor]


def _from_headers(
    row: Architecture, fields: Fields, tensors: Sequence[Tensor], version: str, skip: Sequence[str], config: Config
) -> Skeleton:
    names = _Names(row)
    structure = Structure(row, fields)
    found: dict[str, _Found] = {}
    extra: list[Tensor] = []
    for tensor in in_order(tensors, version):
        patterns, numbers = names.find(tensor.name)
        if not patterns:
            extra.append(tensor)
        for pattern in patterns:
            own = numbers[: pattern.name.count("*")]
            name = filled(pattern.name, own)
            if name not in found:
                found[name] = _Found(pattern, own, [])
            found[name].tensors.append(tensor)
    judge = _Judge(row, fields, version, skip)
    parameters: list[Parameter] = []
    for one in found.values():
        if _absent(structure, one):
            continue
        if structure.beyond(one.pattern, one.numbers):
            extra += one.tensors
            continue
        shape = _shape(structure, one)
        stored = sum(tensor.bytes for tensor in one.tensors) // one.pattern.split
        parameters.append(judge.parameter(Place(one.pattern, one.numbers, shape), stored, len(one.tensors)))
    buffers, note = _missing(structure, found, judge, trusted=row.formulas is None)
    unknown = [one for one in extra if not one.name.endswith(_OLD_BUFFERS)]
    said = _basis(row, version, "the headers of the checkpoint")
    if unknown:
        said += f"; {len(unknown)} tensors of the checkpoint are not in that model and are left out ({unknown[0].name})"
    if note:
        said += f"; {note}"
    return Skeleton((*parameters, *buffers), version, said)


class _Names:
    """The pattern of a checkpoint's tensor: by the name that is stored, by the model's own, with or without prefix."""

    def __init__(self, row: Architecture) -> None:
        self._prefix = f"{row.prefix}." if row.prefix else ""
        self._by_name: dict[str, list[Pattern]] = {}
        for pattern in row.parameters:
            if pattern.saved:
                for name in pattern.stored:
                    self._by_name.setdefault(name, []).append(pattern)
        stored = set(self._by_name)
        for pattern in row.parameters:
            if pattern.saved and pattern.name not in stored:
                self._by_name[pattern.name] = [pattern]

    def find(self, name: str) -> tuple[list[Pattern], tuple[int, ...]]:
        found = NUMBER.findall(name)
        if any(len(one) >= LONGEST for one in found):
            return [], ()
        return self._of(NUMBER.sub("*", name)), tuple(int(one) for one in found)

    def _of(self, pattern: str) -> list[Pattern]:
        for one in (pattern, self._prefix + pattern, pattern.removeprefix(self._prefix)):
            if one in self._by_name:
                return self._by_name[one]
        return []


def _absent(structure: Structure, found: _Found) -> bool:
    """Whether the model has no such parameter of its own: an output that is tied, a bias that it ignores."""
    try:
        return structure.shape(found.pattern, found.numbers[0] if found.numbers else None) is None
    except Unresolved:
        return False


def _shape(structure: Structure, found: _Found) -> tuple[int, ...]:
    """That of the tensor; of one put together from several, that of the formula, or theirs put one on another."""
    first = found.tensors[0].shape
    if len(first) < 2 and found.pattern.module in ("linear", "conv1d", "embedding"):
        message = f"{shown(found.tensors[0].name)} has the shape {list(first)}, and is a matrix in that model"
        raise CheckpointError("wrong-shape", message, "config.json and the weights are not of the same model.")
    if found.pattern.module == "conv1d":
        first = first[::-1]
    if len(found.tensors) == 1 and found.pattern.split == 1:
        return first
    first = first or (1,)
    elements = sum(_product(tensor.shape) for tensor in found.tensors) // found.pattern.split
    try:
        shape = structure.shape(found.pattern, found.numbers[0] if found.numbers else None)
    except Unresolved:
        shape = None
    if shape is not None and _product(shape) == elements:
        return shape
    if not all(first):
        return (elements,)
    if found.pattern.kind == "expert" and all(one.shape == first for one in found.tensors):
        count = len(found.tensors) // max(1, len(found.pattern.stored))
        return (count, elements // (count * first[-1]), first[-1]) if count else (elements,)
    return (elements // first[-1], first[-1]) if elements % first[-1] == 0 else (elements,)


def _missing(
    structure: Structure, found: dict[str, _Found], judge: _Judge, trusted: bool
) -> tuple[list[Parameter], str | None]:
    """What the model has and the checkpoint does not hold: buffers that are computed, parameters that are lost.

    Only of ``trusted`` formulas: others tell parameters that no model has.
    """
    there: list[Parameter] = []
    lost: list[str] = []
    for place in structure.told():
        if place.name in found or (place.pattern.saved and not trusted):
            continue
        there.append(judge.parameter(place, 0))
        if place.pattern.saved:
            lost.append(place.name)
    return there, f"{len(lost)} parameters are not in the checkpoint ({lost[0]})" if lost else None


def _product(shape: Sequence[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product
