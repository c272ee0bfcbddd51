"""What would fit where what was asked for does not. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from bnbenv.models.model import Quantization, Workload

# The next smaller ones, from each; FP4 takes as many bytes as NF4, whose values fit weights better.
SMALLER: dict[Quantization, tuple[Quantization, ...]] = {
    "none": ("int8", "nf4", "nf4-double"),
    "int8": ("nf4", "nf4-double"),
    "nf4": ("nf4-double",),
    "fp4": ("nf4-double",),
    "nf4-double": (),
    "fp4-double": (),
}
SHORTEST = 512  # tokens of context that are still worth naming

Fits = Callable[[Quantization, Workload], bool]


class Question(msgspec.Struct, frozen=True):
    """What is asked: the quantization, and whether the model is to be trained or used."""

    quantization: Quantization
    train: bool = False


class Option(msgspec.Struct, frozen=True):
    """A change with which it would fit: what it is in words, and the options of ``bnbenv fit`` that ask for it."""

    change: str
    arguments: tuple[str, ...]


class Change(NamedTuple):
    """A smaller use of the model."""

    words: str
    workload: Workload
    arguments: tuple[str, ...]


def options(question: Question, workload: Workload, known: tuple[Quantization, ...], fits: Fits) -> tuple[Option, ...]:
    """The next smaller quantization that fits, and the smaller uses with which what was asked for does.

    Only where neither helps alone: both together. ``known`` are the quantizations that can be had.
    """
    smaller = [name for name in SMALLER[question.quantization] if name in known]
    found = [
        Option(f"{name} instead of {question.quantization}", _quant(name)) for name in smaller if fits(name, workload)
    ]
    alone = _uses(question.quantization, question.train, workload, fits)
    if found or alone or not smaller:
        return (*found[:1], *(Option(one.words, one.arguments) for one in alone))
    both = _uses(smaller[-1], question.train, workload, fits)
    return tuple(Option(f"{smaller[-1]} and {one.words}", (*_quant(smaller[-1]), *one.arguments)) for one in both)


def _quant(name: Quantization) -> tuple[str, ...]:
    return ("--quant", name)


def _uses(name: Quantization, train: bool, workload: Workload, fits: Fits) -> list[Change]:
    """Each change that helps alone, and the longest context that does; else all of them together."""
    changes = list(_changes(train, workload))
    found = [one for one in changes if fits(name, one.workload)]
    shorter = next((one for one in _shorter(Change("", workload, ())) if fits(name, one.workload)), None)
    if shorter is not None:
        found.append(shorter)
    if found or not changes:
        return found
    together = Change("", workload, ())
    for one in changes:
        together = _joined(together, one)
    least = (one for one in (together, *_shorter(together)) if fits(name, one.workload))
    return [one for one in (next(least, None),) if one is not None]


def _changes(train: bool, workload: Workload) -> Iterator[Change]:
    replace = msgspec.structs.replace
    if train and not workload.checkpointing:
        yield Change("gradient checkpointing", replace(workload, checkpointing=True), ("--checkpointing",))
    if train and workload.optimizer != "paged-adamw-8bit":
        smaller = replace(workload, optimizer="paged-adamw-8bit")
        yield Change("the optimizer paged-adamw-8bit", smaller, ("--optimizer", "paged-adamw-8bit"))
    if workload.batch > 1:
        yield Change("a batch of 1", replace(workload, batch=1), ("--batch", "1"))


def _joined(one: Change, other: Change) -> Change:
    """Both. Each change makes something smaller, so what is smaller of two counts."""
    workload = msgspec.structs.replace(
        one.workload,
        batch=min(one.workload.batch, other.workload.batch),
        checkpointing=one.workload.checkpointing or other.workload.checkpointing,
        optimizer=max(one.workload.optimizer, other.workload.optimizer),  # paged-adamw-8bit is the last of them
    )
    words = f"{one.words}, {other.words}" if one.words else other.words
    return Change(words, workload, (*one.arguments, *other.arguments))


def _shorter(base: Change) -> Iterator[Change]:
    """Half the context, a quarter, and so on."""
    context = base.workload.context // 2
    while context >= SHORTEST:
        words = f"a context of {context} tokens"
        yield Change(
            f"{base.words}, {words}" if base.words else words,
            msgspec.structs.replace(base.workload, context=context),
            (*base.arguments, "--context", str(context)),
        )
        context //= 2
