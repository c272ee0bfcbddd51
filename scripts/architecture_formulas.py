"""From measured samples of a model class to its row: conditions and formulas that give every sample's shapes.

A formula is looked for among all samples but those marked ``check``, which then say whether it is right.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from bnbenv.matrix.architectures import Case
from bnbenv.models.formulas import Unresolved, evaluate, holds

Shape = tuple[int, ...]
DEPTH = 4  # conditions on the way to a shape
ENOUGH = 4  # samples on each side of a condition that divides shapes
MANY = 16  # samples that tell a formula well
TRIED = 14  # conditions that are followed at each step
MISSING = object()


@dataclass(frozen=True)
class Instance:
    """What one sample gives for a pattern in one layer: its shape, None where there is no such parameter."""

    values: dict[str, Any]
    layer: int | None
    gives: Shape | None
    sample: int

    def lookup(self, name: str) -> Any:
        found = self.values.get(name, MISSING)
        if found is MISSING:
            raise Unresolved(name)
        return found


@dataclass
class Search:
    """``fields`` differ between samples, ``known`` are formulas that held elsewhere in the same model."""

    fields: tuple[str, ...]
    known: list[str] = field(default_factory=list)
    seen: dict[Any, str | None] = field(default_factory=dict)
    sums: bool = False  # whether sums of terms are looked for
    until: float = float("inf")  # seconds of process_time() after which nothing more is looked for

    def cases(self, instances: Sequence[Instance]) -> list[Case] | None:
        """Cases that give each instance its shape; None where none are found."""
        plain = alike(instances)
        # Deep conditions last: there are so many that they would fit by chance, and take all the time.
        for self.sums, depth in ((False, 2), (True, 2), (False, DEPTH)):
            found = self._cases(plain, depth)
            if found is not None:
                break
        return found

    def _cases(self, instances: Sequence[Instance], depth: int) -> list[Case] | None:
        there = [one for one in instances if one.gives is not None]
        if not there:
            return []
        if len(there) == len(instances):
            shape = self.shape(there)
            if shape is not None:
                return [Case(shape)]
        if depth == 0:
            return None
        tried = 0
        for condition, yes, no in self.splits(instances) if time.process_time() <= self.until else ():
            if len(there) == len(instances):
                if min(len({one.sample for one in side}) for side in (yes, no)) < ENOUGH:
                    continue  # too few to tell a formula from chance
                if self.shape(yes) is None and self.shape(no) is None:
                    continue  # neither half is any easier
            tried += 1
            if tried > TRIED:
                return None
            left = self._cases(yes, depth - 1)
            right = self._cases(no, depth - 1) if left is not None else None
            if left is not None and right is not None:
                positive = [Case(one.gives, (condition, *one.when)) for one in left]
                negative = [Case(one.gives, (turned(condition), *one.when)) for one in right]
                return [*positive, *negative]
        return None

    def splits(self, instances: Sequence[Instance]) -> list[tuple[str, list[Instance], list[Instance]]]:
        """Conditions that hold for some of them alone, those first that tell best where there is a shape."""
        found: dict[tuple[bool, ...], tuple[float, int, str]] = {}
        for condition in conditions(self.fields, instances):
            answers = tuple(answered(condition, one) for one in instances)
            if all(answers) or not any(answers) or tuple(not one for one in answers) in found or answers in found:
                continue
            sides = [
                [one for one, answer in zip(instances, answers, strict=True) if answer is side]
                for side in (True, False)
            ]
            found[answers] = (sum(impurity(side) for side in sides), len(found), condition)
        ordered = sorted((rank, answers) for answers, rank in found.items())
        return [
            (
                condition,
                [one for one, answer in zip(instances, answers, strict=True) if answer],
                [one for one, answer in zip(instances, answers, strict=True) if not answer],
            )
            for (_, _, condition), answers in ordered
        ]

    def shape(self, instances: Sequence[Instance]) -> tuple[str, ...] | None:
        """A formula for each side of the shape that all of them have; None where there is none."""
        shapes = [one.gives for one in instances]
        if any(one is None or len(one) != len(shapes[0] or ()) for one in shapes):
            return None
        dimensions = []
        for number in range(len(shapes[0] or ())):
            formula = self.formula(instances, tuple(shape[number] for shape in shapes if shape is not None))
            if formula is None:
                return None
            dimensions.append(formula)
        return tuple(dimensions)

    def formula(self, instances: Sequence[Instance], wanted: tuple[int, ...]) -> str | None:
        key = (wanted, tuple((one.sample, one.layer) for one in instances), self.sums)
        if key not in self.seen and time.process_time() > self.until:
            return None
        if key not in self.seen:
            self.seen[key] = self._formula(instances, wanted)
        return self.seen[key]

    def _formula(self, instances: Sequence[Instance], wanted: tuple[int, ...]) -> str | None:
        distinct: dict[int, int] = {}  # the layers of a sample are all the same
        for number, one in enumerate(instances):
            if distinct.setdefault(one.sample, wanted[number]) != wanted[number]:
                return None
        firsts = {one.sample: one for one in reversed(instances)}
        given, wanted = list(firsts.values()), tuple(distinct[sample] for sample in firsts)
        # A number that many samples have in common is none by chance; of a few, another side's formula is likelier.
        if len(set(wanted)) == 1 and (len(wanted) >= MANY or wanted[0] <= MANY):
            return str(wanted[0])
        for formula in self.known:
            if matches(formula, given, wanted):
                return formula
        if len(set(wanted)) == 1:
            return str(wanted[0])
        numeric = [name for name in self.fields if all(usable(one.values.get(name)) for one in given)]
        found = search(self.related(numeric, given, wanted), given, wanted, self.sums)
        if found is not None:
            self.known.append(found)
        return found

    def related(self, numeric: list[str], given: Sequence[Instance], wanted: tuple[int, ...]) -> list[str]:
        """The fields that can play a part: where only one differs between two samples and the value does too."""
        counted: Counter[str] = Counter()
        for one, other in itertools.combinations(range(len(given)), 2):
            if wanted[one] != wanted[other]:
                differing = [name for name in numeric if given[one].values[name] != given[other].values[name]]
                if len(differing) <= 2:  # of two, one can be computed from the other
                    counted.update({name: 100 if len(differing) == 1 else 1 for name in differing})
        likely = [name for name, _ in counted.most_common()]
        rest = [name for name in numeric if name not in counted and len({str(one.values[name]) for one in given}) > 1]
        return [*likely, *rest]


def alike(instances: Sequence[Instance]) -> list[Instance]:
    """One for all layers of a sample, where the layers are alike in every sample."""
    first = {one.sample: one for one in reversed(instances)}
    if any(one.gives != first[one.sample].gives for one in instances):
        return list(instances)
    return [Instance(one.values, None, one.gives, one.sample) for one in first.values()]


def usable(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def turned(condition: str) -> str:
    return condition[1:] if condition.startswith("!") else f"!{condition}"


def answered(condition: str, one: Instance) -> bool:
    try:
        return holds(condition, one.lookup, one.layer)
    except (Unresolved, TypeError):
        return False


def impurity(side: Sequence[Instance]) -> float:
    """0 where all have a shape or none has; with more kinds of shapes more."""
    share = sum(one.gives is not None for one in side) / len(side)
    return len(side) * share * (1 - share)


def conditions(fields: Iterable[str], instances: Sequence[Instance]) -> Iterable[str]:
    """What one could ask about the values that there are, simple questions first."""
    values = {name: [one.values.get(name) for one in instances] for name in fields}
    for name, there in values.items():
        if any(isinstance(one, bool) for one in there):
            yield f"true:{name}"
    for name, there in values.items():
        if any(one is None for one in there):
            yield f"null:{name}"
        if any(one == 0 and not isinstance(one, bool) for one in there):
            yield f"zero:{name}"
    if any(one.layer is not None for one in instances):
        for name, there in values.items():
            if any(isinstance(one, list) and one and isinstance(one[0], str) for one in there):
                kinds = {kind for one in there if isinstance(one, list) for kind in one}
                yield from (f"kind:{name}:{kind}" for kind in sorted(kinds))
            elif any(isinstance(one, list) for one in there):
                yield f"in:{name}"
            elif any(usable(one) for one in there):
                yield from (f"below:{name}", f"step:{name}", f"every:{name}")
    whole = [name for name, there in values.items() if any(usable(one) for one in there)]
    yield from (f"same:{one}:{other}" for one, other in itertools.combinations(whole, 2))


def matches(formula: str, given: Sequence[Instance], wanted: Sequence[int]) -> bool:
    try:
        return all(evaluate(formula, one.lookup) == value for one, value in zip(given, wanted, strict=True))
    except Unresolved:
        return False


Monomial = tuple[tuple[str, ...], tuple[str, ...]]  # what is multiplied, and what it is divided by


def search(fields: list[str], given: Sequence[Instance], wanted: Sequence[int], sums: bool) -> str | None:
    """The simplest formula: one term; with ``sums`` also those of two and of three."""
    fields = fields[:9]
    columns = Columns(given)
    for monomial in (*monomials(fields, 2, 2), *monomials(fields, 3, 0)):
        formula = one_term(monomial, columns, given, wanted)
        if formula is not None:
            return formula
    if not sums:
        return None
    found = several([((), ()), *monomials(fields[:7], 2, 1)], columns, given, wanted, 2)
    return found or several([((), ()), *monomials(fields[:6], 2, 0)], columns, given, wanted, 3)


class Columns:
    """The values of terms in each sample."""

    def __init__(self, given: Sequence[Instance]) -> None:
        self._given = given
        self._known: dict[str, list[float]] = {}

    def of(self, name: str) -> list[float]:
        if name not in self._known:
            self._known[name] = [float(one.values[name]) for one in self._given]
        return self._known[name]

    def term(self, monomial: Monomial) -> list[float] | None:
        values = [1.0] * len(self._given)
        for name in monomial[0]:
            values = [value * one for value, one in zip(values, self.of(name), strict=True)]
        for name in monomial[1]:
            if not all(self.of(name)):
                return None
            values = [value / one for value, one in zip(values, self.of(name), strict=True)]
        return values


def monomials(fields: Sequence[str], most: int, divided: int) -> Iterable[Monomial]:
    """By size, the small ones first."""
    tops = [top for size in range(1, most + 1) for top in itertools.combinations_with_replacement(fields, size)]
    unders = [under for size in range(divided + 1) for under in itertools.combinations_with_replacement(fields, size)]
    pairs = [(top, under) for top in tops for under in unders if not set(top) & set(under)]
    return sorted(pairs, key=lambda pair: (len(pair[0]) + len(pair[1]), len(pair[1])))


def one_term(monomial: Monomial, columns: Columns, given: Sequence[Instance], wanted: Sequence[int]) -> str | None:
    values = columns.term(monomial)
    if values is None or any(value <= 0 for value in values):
        return None
    # A quotient is rounded down: of the ratios the highest is the nearest to the true one.
    least = max(y / value for y, value in zip(wanted, values, strict=True))
    most = min((y + 1) / value for y, value in zip(wanted, values, strict=True))
    if least > most * (1 + 1e-9):
        return None
    ratio = Fraction(least).limit_denominator(16)
    if ratio <= 0 or ratio.numerator > 64:
        return None
    formula = written(monomial, ratio)
    return formula if matches(formula, given, wanted) else None


def written(monomial: Monomial, ratio: Fraction) -> str:
    top = [*([str(ratio.numerator)] if ratio.numerator != 1 or not monomial[0] else []), *monomial[0]]
    under = [*monomial[1], *([str(ratio.denominator)] if ratio.denominator != 1 else [])]
    return "*".join(top) + "".join(f"/{one}" for one in under)


def several(
    choices: list[Monomial], columns: Columns, given: Sequence[Instance], wanted: Sequence[int], terms: int
) -> str | None:
    """A sum of terms with whole coefficients, which as many samples as there are terms give."""
    if len(given) < terms + 3:
        return None
    values = {choice: columns.term(choice) for choice in choices}
    usable_terms = {choice: one for choice, one in values.items() if one is not None}
    picked = spread(wanted, terms)
    for chosen in itertools.combinations(usable_terms, terms):
        solved = None
        for rows in picked:  # two terms can be the same in some samples
            right = [float(wanted[row]) for row in rows]
            solved = solve([[usable_terms[one][row] for one in chosen] for row in rows], right)
            if solved is not None:
                break
        if solved is None or any(abs(one - round(one)) > 1e-6 or not 0 < abs(round(one)) <= 64 for one in solved):
            continue
        formula = "+".join(signed(monomial, round(one)) for monomial, one in zip(chosen, solved, strict=True))
        if matches(formula, given, wanted):
            return formula
    return None


def signed(monomial: Monomial, factor: int) -> str:
    return (
        written(monomial, Fraction(factor))
        if factor > 0
        else f"{factor}" + "".join([*(f"*{one}" for one in monomial[0]), *(f"/{one}" for one in monomial[1])])
    )


def spread(wanted: Sequence[int], terms: int) -> list[list[int]]:
    """A few choices of samples whose values differ."""
    rows = list({value: number for number, value in enumerate(wanted)}.values())
    rows += [number for number in range(len(wanted)) if number not in rows]
    step = max(1, len(rows) // 6)
    return [[*rows[start:], *rows[:start]][:terms] for start in range(0, len(rows), step)]


def solve(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """Gauss, for two or three unknowns."""
    size = len(right)
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda number: abs(rows[number][column]))
        if abs(rows[pivot][column]) < 1e-9:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for number in range(size):
            if number != column:
                factor = rows[number][column] / rows[column][column]
                rows[number] = [one - factor * other for one, other in zip(rows[number], rows[column], strict=True)]
    if not all(rows[number][number] for number in range(size)):
        return None
    return [rows[number][size] / rows[number][number] for number in range(size)]
