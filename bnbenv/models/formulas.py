"""The small language of architectures.json: shapes as formulas over the fields of a config.json, and conditions.

A formula is a sum of terms, a term whole numbers and fields, multiplied and divided from left to right, rounded down at
its end: ``num_attention_heads*head_dim+2*num_key_value_heads*head_dim``, ``hidden_size/num_attention_heads``.

A condition speaks of fields, and of the number of the layer ``i``; ``!`` in front turns it around:

    true:F  null:F  zero:F  same:F:G      the field is true, null, 0, equal to another one
    below:F  step:F  every:F              i < F, (i + 1) divided by F leaves 0, i divided by F leaves 0
    in:F  kind:F:X                        i is in the list F, F[i] is the text X
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

Lookup = Callable[[str], Any]


class Unresolved(Exception):
    """A field that a formula needs and that has no value, or none that one can reckon with."""


def evaluate(formula: str, lookup: Lookup) -> int:
    """Raises Unresolved with the name of the field."""
    total = 0
    for term in formula.split("+"):
        if term.lstrip("-").isdigit():
            total += int(term)
            continue
        value: Fraction | int = 1
        for factor in term.replace("/", "*/").split("*"):
            divide = factor.startswith("/")
            name = factor[1:] if divide else factor
            one = int(name) if name.lstrip("-").isdigit() else number(lookup(name), name)
            if divide:
                if not one:
                    raise Unresolved(name)
                value = Fraction(value) / one
            else:
                value = value * one
        total += value if isinstance(value, int) else value.numerator // value.denominator
    return total


def number(value: Any, name: str) -> int | Fraction:
    """A value of a config as a number to reckon with exactly. Raises Unresolved."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) > 1 << 62:
        raise Unresolved(name)
    return value if isinstance(value, int) else Fraction(value).limit_denominator(1 << 16)


def holds(condition: str, lookup: Lookup, layer: int | None) -> bool:
    """Whether a condition holds for a layer. Raises Unresolved."""
    if condition.startswith("!"):
        return not holds(condition[1:], lookup, layer)
    what, _, rest = condition.partition(":")
    name, _, other = rest.partition(":")
    value = lookup(name)
    if what == "true":
        return bool(value)
    if what == "null":
        return value is None
    if what == "zero":
        return bool(value == 0)
    if what == "same":
        return bool(value == lookup(other))
    return _of_layer(what, value, other, name, layer)


def _of_layer(what: str, value: Any, other: str, name: str, layer: int | None) -> bool:
    if layer is None:
        raise Unresolved(name)
    if what in ("in", "kind"):
        if value is None:
            return False
        if not isinstance(value, (list, tuple)):
            raise Unresolved(name)
        return layer in value if what == "in" else layer < len(value) and bool(value[layer] == other)
    if value is None or value == 0:
        return False
    limit = number(value, name)
    if what == "below":
        return layer < limit
    return (layer + 1 if what == "step" else layer) % limit == 0
