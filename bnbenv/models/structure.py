"""A row of ``architectures.json`` laid over a config.json: its fields with their defaults, conditions, and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from bnbenv.matrix.architectures import Architecture, Case, Pattern, release
from bnbenv.models.formulas import Unresolved, evaluate, holds

NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
MOST = 1 << 20  # parameters of a model; more are a mistake in its config.json
_ABSENT = object()


class Fields:
    """The fields of a config.json as the config class has them: by either name, with defaults that depend on others."""

    def __init__(self, row: Architecture, document: Mapping[str, Any]) -> None:
        self._row, self._document = row, document
        self._known: dict[str, Any] = {}
        self._names: dict[str, list[str]] = {}
        for alias, name in row.aliases.items():
            self._names.setdefault(name, []).append(alias)

    def __call__(self, name: str) -> Any:
        """Raises Unresolved with the name of a field that has no value."""
        if name not in self._known:
            self._known[name] = _ABSENT  # for a default that asks for itself
            self._known[name] = self._find(name)
        found = self._known[name]
        if found is _ABSENT:
            raise Unresolved(name)
        return found

    def _find(self, name: str) -> Any:
        given = next((one for one in self._given(name) if one is not _ABSENT), _ABSENT)
        default = self._row.defaults.get(name)
        if given is not _ABSENT and given is not None:
            return given
        if default is None:
            return given
        # What is computed where it is left out, is computed because it is None then: null says the same.
        cases = default.missing if given is _ABSENT else default.null or default.missing
        if cases:
            case = first_case(cases, self, None)
            return evaluate(case.gives[0], self) if case is not None else None
        return default.value if given is _ABSENT else None

    def _given(self, name: str) -> Iterator[Any]:
        path, _, last = name.rpartition(".")
        at: Any = self._document
        for step in path.split(".") if path else ():
            at = at.get(step) if isinstance(at, Mapping) else None
        if isinstance(at, Mapping):
            for one in (last, *self._names.get(last, ())):
                yield at.get(one, _ABSENT)


def first_case(cases: Sequence[Case], fields: Fields, layer: int | None) -> Case | None:
    """The first case that holds. Raises Unresolved."""
    for case in cases:
        if all(holds(condition, fields, layer) for condition in case.when):
            return case
    return None


class Place(NamedTuple):
    """One parameter of a model: the pattern it is of, the numbers in its name, and its shape."""

    pattern: Pattern
    numbers: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return filled(self.pattern.name, self.numbers)

    @property
    def stored_name(self) -> str:
        """Of the tensor in a checkpoint that it is read from, of several the first."""
        stored = self.pattern.stored
        return filled(stored[0], self.numbers) if stored else self.name


def filled(pattern: str, numbers: Sequence[int]) -> str:
    """The name with these numbers for its stars; where there are more stars, these are 0."""
    first, *rest = pattern.split("*")
    if not rest:
        return first
    return first + "".join(f"{number}{part}" for number, part in zip((*numbers, *[0] * len(rest)), rest, strict=False))


class Structure:
    """All parameters that the config gives. Raises Unresolved where a formula lacks something."""

    def __init__(self, row: Architecture, fields: Fields) -> None:
        self._row, self._fields = row, fields
        self._shapes: dict[tuple[str, ...], tuple[int, ...]] = {}
        self._counts: dict[str, int] = {}

    def places(self) -> Iterator[Place]:
        """In the order of the model. Raises Unresolved."""
        yield from self._of(self._row.parameters)

    def told(self) -> Iterator[Place]:
        """Those that a formula tells, the others left out."""
        for pattern in self._row.parameters:
            with suppress(Unresolved):
                yield from self._of((pattern,))

    def _of(self, patterns: Sequence[Pattern]) -> Iterator[Place]:
        block: list[Pattern] = []
        for pattern in (*patterns, None):
            if block and (pattern is None or _layers(pattern) is None or _layers(pattern) != _layers(block[0])):
                yield from self._block(block)
                block = []
            if pattern is None:
                break
            if _layers(pattern) is not None:
                block.append(pattern)
            else:
                shape = self.shape(pattern, None)
                if shape is not None:
                    yield Place(pattern, (), shape)

    def _block(self, block: Sequence[Pattern]) -> Iterator[Place]:
        """Patterns of the same layers, layer by layer."""
        for layer in range(self._range(block[0], 0)):
            for pattern in block:
                shape = self.shape(pattern, layer)
                if shape is None:
                    continue
                if pattern.name.count("*") == 1:
                    yield Place(pattern, (layer,), shape)
                    continue
                for inner in self._inner(pattern, 1):
                    yield Place(pattern, (layer, *inner), shape)

    def _inner(self, pattern: Pattern, star: int) -> Iterator[tuple[int, ...]]:
        for number in range(self._range(pattern, star)):
            if pattern.name.count("*") == star + 1:
                yield (number,)
            else:
                yield from ((number, *rest) for rest in self._inner(pattern, star + 1))

    def _range(self, pattern: Pattern, star: int) -> int:
        if star >= len(pattern.ranges):
            raise Unresolved(pattern.name)
        formula = pattern.ranges[star]
        if formula not in self._counts:
            self._counts[formula] = evaluate(formula, self._fields)
        if not 0 <= self._counts[formula] <= MOST:
            raise Unresolved(formula)
        return self._counts[formula]

    def beyond(self, pattern: Pattern, numbers: Sequence[int]) -> bool:
        """Whether a number in the name is that of a layer which the model does not have.

        Checkpoints hold layers that predict further tokens and that transformers leaves out (DeepSeek-V3's 61st). A
        number of layers that is no field of the config says nothing.
        """
        with suppress(Unresolved):
            for star, formula in enumerate(pattern.ranges[: len(numbers)]):
                if not formula.isdigit() and numbers[star] >= self._range(pattern, star):
                    return True
        return False

    def shape(self, pattern: Pattern, layer: int | None) -> tuple[int, ...] | None:
        """None where the model has no such parameter in that layer. Raises Unresolved."""
        if pattern.cases is None:
            raise Unresolved(pattern.name)
        case = first_case(pattern.cases, self._fields, layer)
        if case is None:
            return None
        if case.gives not in self._shapes:
            self._shapes[case.gives] = tuple(evaluate(formula, self._fields) for formula in case.gives)
        return self._shapes[case.gives]


def _layers(pattern: Pattern) -> str | None:
    """What the names of the same layers begin with."""
    prefix, star, _ = pattern.name.partition("*")
    return prefix if star else None


class Skips:
    """The modules that bitsandbytes does not get, as that release of transformers tells by their names.

    Mirrors ``should_convert_module`` (quantizers_utils.py, transformers 5.23.0) and ``_replace_with_bnb_linear``
    (integrations/bitsandbytes.py, 4.57.6). Names that a user gives take the place of the model's own: that holds in
    both, but for what is kept in float32.
    """

    def __init__(self, row: Architecture, fields: Fields, transformers: str, given: Sequence[str]) -> None:
        own = first_case(row.skips, fields, None)
        self.fp32 = (*row.fp32,)
        names = tuple(given) if given else (own.gives if own is not None else ())
        self.own = tuple(one for one in (self._last(name, row, fields) for name in names) if one)
        self._major = release(transformers)[0]
        self._known: dict[str, str | None] = {}
        self._patterns = [re.compile(rf"(?:{name}){_BOUNDARY}") for name in self.own] if self._major >= 5 else []

    @staticmethod
    def _last(name: str, row: Architecture, fields: Fields) -> str | None:
        """The name with the number of the last layer for ``$``; None where the layers cannot be counted."""
        prefix, dollar, rest = name.partition("$")
        if not dollar:
            return name
        pattern = next((one for one in row.parameters if one.name.startswith(f"{prefix}*") and one.ranges), None)
        try:
            return f"{prefix}{evaluate(pattern.ranges[0], fields) - 1}{rest}" if pattern is not None else None
        except Unresolved:
            return None

    def why(self, module: str) -> str | None:
        """The name that keeps a module from being converted; None for one that is."""
        if module not in self._known:
            self._known[module] = next((name for name in (*self.own, *self.fp32) if self._matches(name, module)), None)
        return self._known[module]

    def _matches(self, name: str, module: str) -> bool:
        if self._major < 5:
            return module.rpartition(".")[2] == name or f"{name}." in module or name == module
        return bool(re.match(rf"(?:{name}){_BOUNDARY}", module)) or module.endswith(name)


_BOUNDARY = r"(?:(?<=\.)|(?=\.|$))"
