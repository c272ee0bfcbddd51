"""How ``bnbenv fit`` looks: the answer, a picture of what fills the device, a table of all settings, what matters."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from bnbenv.cli.render.fitpicture import picture
from bnbenv.cli.render.text import listed, wrap
from bnbenv.progress import shown_size

_COLUMNS = "{:<11} {:>9} {:>9} {:>9} {:>9}  {:<12} {}"


def render(
    document: dict[str, Any], picture: bool = True, blocks: bool = False, called: Mapping[str, str] | None = None
) -> str:
    """``picture``: with the bar; ``blocks``: the terminal has signs to draw it with.

    ``called`` are the options that were given, with their values, for the next step.
    """
    lines = wrap(_first(document))
    lines += _model(document)
    lines += _how(document)
    if document["settings"]:
        if picture:
            lines += _picture(document, blocks)
        lines += _table(document)
    for option in document["options"]:
        lines += wrap(f"it would fit with {option['change']}", "  ")
    for note in document["notes"]:
        lines += wrap(f"note: {note}", "  ")
    return "\n".join([*lines, f"next: {_next(document, called or {})}"])


def _first(document: dict[str, Any]) -> str:
    asked, use = document["asked"], document["use"]
    if document["answer"] == "quantized-already":
        return f"quantized already: {document['model']['quantized']}, which bitsandbytes cannot convert"
    for_what = f"{asked['quantization']}, {_purpose(asked)}"
    if document["answer"] == "does-not-fit":
        gpus = len(document["gpus"])
        what = "into main memory" if not gpus else "on the GPU" if gpus == 1 else "on one GPU or on several"
        lack = f"{shown_size(document['missing_bytes'])} too much"
        return f"does not fit {what}: {for_what}; {lack}{' for one' if gpus > 1 else ''}"
    where = listed([_title(document, one["torch"]) for one in use["devices"]])
    if document["answer"] == "fits-when-prequantized":
        return f"fits on {where} when pre-quantized, and not otherwise: {for_what}"
    if document["answer"] == "fits-with-device-map":
        return f"fits on {where} together, with a device_map: {for_what}"
    return f"fits on {where}: {for_what}"


def _purpose(asked: dict[str, Any]) -> str:
    tokens = f"{asked['context']} tokens" if asked["batch"] == 1 else f"{asked['batch']} x {asked['context']} tokens"
    return f"training adapters of rank {asked['rank']} on {tokens}" if asked["train"] else f"for {tokens}"


def _title(document: dict[str, Any], at: int | None) -> str:
    if at is None:
        return "the CPU"
    gpu = document["gpus"][at]
    alone = [one["index"] for one in document["gpus"]].count(gpu["index"]) == 1
    return f"GPU {gpu['index']}" if alone else f"the slice {gpu['uuid']} of GPU {gpu['index']}"


def _model(document: dict[str, Any]) -> list[str]:
    model, basis = document["model"], document["basis"]
    count = model["parameters"]
    size = (
        "" if count is None else f", {count / 1e9:.1f} billion parameters" if count >= 1e8 else f", {count} parameters"
    )
    kind = model["architecture"] or model["model_type"] or "unknown architecture"
    lines = wrap(f"model: {model['source']} ({kind}{size})", "  ")
    if basis["transformers"] and document["settings"]:
        lines += wrap(
            f"as transformers {basis['transformers']} ({basis['of']}) loads it, in {document['asked']['dtype']}", "  "
        )
    return lines


def _how(document: dict[str, Any]) -> list[str]:
    use = document["use"]
    if use is None or use["device_map"] is None:
        return []
    lines = []
    for one in use["devices"]:
        names = [name for name, on in use["device_map"].items() if on == one["torch"]]
        lines += wrap(f"GPU {one['index']}: {_ranges(names)}, {shown_size(one['weight_bytes'])}", "  ")
    limits = ", ".join(f"{at}: {_mebibytes(size)}" for at, size in use["max_memory"].items())
    return [*lines, *wrap(f"as one line: max_memory={{{limits}}} (the device_map: --json)", "  ")]


def _mebibytes(size: int) -> str:
    return f'"{size >> 20}MiB"'


def _ranges(names: list[str]) -> str:
    """``model.embed_tokens, model.layers.0 to 39``."""
    words: list[str] = []
    runs: dict[str, list[int]] = {}
    for name in names:
        stem, _, number = name.rpartition(".")
        if not number.isdigit():
            words.append(name)
            continue
        if stem not in runs:
            runs[stem] = []
            words.append(stem)
        runs[stem].append(int(number))
    return ", ".join(
        word
        if word not in runs
        else f"{word}.{min(runs[word])}"
        if len(runs[word]) == 1
        else f"{word}.{min(runs[word])} to {max(runs[word])}"
        for word in words
    )


def _picture(document: dict[str, Any], blocks: bool) -> list[str]:
    asked, use = document["asked"], document["use"]
    setting = next(one for one in document["settings"] if one["quantization"] == asked["quantization"])
    lines = []
    for one in use["devices"]:
        device = document["cpu"] if one["torch"] is None else document["gpus"][one["torch"]]
        lines += picture(setting, one, device, use, asked["train"], blocks)
    return lines


def _table(document: dict[str, Any]) -> list[str]:
    head = _COLUMNS.format("", "weights", "loading", "KV cache", "training", "use", "train")
    rows = [
        _COLUMNS.format(
            one["quantization"],
            shown_size(one["weight_bytes"]),
            shown_size(one["load_peak_bytes"]),
            shown_size(one["kv_cache_bytes"]),
            shown_size(one["training_bytes"]),
            _way(one["how"]),
            _way(one["how_training"]),
        )
        for one in document["settings"]
    ]
    return [f"  {line.rstrip()}" for line in (head, *rows)]


def _way(how: dict[str, Any]) -> str:
    several = f"{len(how['gpus'])} GPUs" if len(how["gpus"]) > 1 else ""
    return {
        "fits": "yes",
        "fits-with-device-map": several,
        "fits-when-prequantized": "pre-quantized",
        "does-not-fit": "no",
    }[how["answer"]]


def _next(document: dict[str, Any], called: Mapping[str, str]) -> str:
    model, answer = document["model"]["source"], document["answer"]
    where = {name: text for name, text in called.items() if name in ("--python", "--env", "--revision")}
    if answer == "quantized-already":
        family = document["model"]["quantized"]
        return f"bnbenv add {family}" if family in ("gptq", "awq") else "take a checkpoint of full precision"
    if answer == "fits-when-prequantized":
        quant = document["asked"]["quantization"]
        kind = quant.removesuffix("-double")
        plain = {} if quant != kind or kind == "int8" else {"--no-double-quant": ""}
        dtype = {"--dtype": called["--dtype"]} if "--dtype" in called else {}
        return _command("prequantize", [model, "OUT"], {"--quant": kind, **plain, **dtype, **where})
    if answer == "does-not-fit":
        if not document["options"]:
            other = {name: text for name, text in called.items() if name not in ("--facts", "--free")}
            return f"{_command('fit', [model], {**other, '--facts': 'FILE'})} (for the GPUs of another machine)"
        return _command("fit", [model], _with(called, document["options"][0]["arguments"]))
    for_config = ("--quant", "--train", "--context", "--facts")
    return _command("config", [model], {**where, **{name: called[name] for name in for_config if name in called}})


def _with(called: Mapping[str, str], words: list[str]) -> dict[str, str]:
    """The options that were given, with those of ``words`` in their place."""
    changed = dict(called)
    for at, word in enumerate(words):
        if word == "--checkpointing":
            changed.pop("--no-checkpointing", None)
        elif word.startswith("--"):
            changed[word] = words[at + 1]
    return changed


def _command(name: str, words: list[str], options: Mapping[str, str]) -> str:
    """A command to copy; an option without a value has an empty one."""
    more = [word for option, text in options.items() for word in ((option, text) if text else (option,))]
    return shlex.join(["bnbenv", name, *words, *more])
