"""The Python that loads a model, as text that runs as it is, with its reasons as comments. Pure.

Names and words from other people's files stand in it: as literals in ASCII, and in comments on one line each.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from bnbenv.models.advice import Advice, Line

WIDTH = 80


def code(model: str, advice: Advice, head: Iterable[str]) -> str:
    """A file of Python. ``model`` is what from_pretrained is given, ``head`` the sentences at its beginning."""
    # Of the first two lines a comment could choose the file's encoding: no name stands in these.
    lines = ["# Written by bnbenv config.", "#"]
    for sentence in head:
        lines += comment(sentence)
    lines += ["", *_imports(advice), "", f"model_id = {model!a}"]
    if advice.quantization:
        lines += ["", "quantization_config = BitsAndBytesConfig(", *_arguments(advice.quantization), ")"]
    lines += ["", f"model = {advice.loader}.from_pretrained(", "    model_id,"]
    if advice.quantization:
        lines.append("    quantization_config=quantization_config,")
    lines += [*_arguments(advice.loading), ")"]
    for statement in advice.training:
        lines += ["", *comment(statement.because), statement.line]
    if advice.arguments:
        lines += ["", *comment("for TrainingArguments(output_dir=..., **training_arguments)")]
        lines += ["training_arguments = {", *_arguments(advice.arguments), "}"]
    return "\n".join(lines) + "\n"


def comment(sentence: str, indent: str = "") -> list[str]:
    """A sentence as comments that end with their line, whatever is in it."""
    plain = "".join(sign if sign.isprintable() else " " for sign in sentence)
    mark = f"{indent}# "
    return textwrap.wrap(
        " ".join(plain.split()),
        WIDTH,
        initial_indent=mark,
        subsequent_indent=mark,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _imports(advice: Advice) -> Iterator[str]:
    text = "\n".join(one.line for one in advice.lines())
    if "os.environ" in text:
        yield from ("import os", "")
    yield "import torch"
    peft = [name for name in ("LoraConfig", "get_peft_model", "prepare_model_for_kbit_training") if f"{name}(" in text]
    if peft:
        yield f"from peft import {', '.join(peft)}"
    names = sorted({advice.loader, *(["BitsAndBytesConfig"] if advice.quantization else [])})
    yield f"from transformers import {', '.join(names)}"


def _arguments(lines: Iterable[Line]) -> Iterator[str]:
    for line in lines:
        yield from comment(line.because, "    ")
        yield f"    {line.line},"
