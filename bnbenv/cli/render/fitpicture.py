"""A picture of what fills a device: a bar of 72 columns, and below it what each of its signs is."""

from __future__ import annotations

from typing import Any, NamedTuple

from bnbenv.cli.render.text import WIDTH
from bnbenv.progress import shown_size

COLUMNS = 72
BLOCKS = "░▒█▓▚▞▄▂"  # a sign for each part, so that the bar needs no colour


class Part(NamedTuple):
    """``sign`` in plain text, ``block`` where the terminal has such signs."""

    what: str
    bytes: int
    sign: str
    block: str


def picture(
    setting: dict[str, Any], on: dict[str, Any], device: dict[str, Any], use: dict[str, Any], train: bool, blocks: bool
) -> list[str]:
    """The bar, what it shows, and where the peak of loading is."""
    parts = _parts(setting, on, device, use, train)
    total = max(device["total"], sum(part.bytes for part in parts), 1)
    bar = _bar(parts, total, blocks)
    peak = setting["prequantized_peak_bytes"] if use["prequantized"] else setting["load_peak_bytes"]
    others = parts[0].bytes if parts and parts[0].what == "in use by others" else 0
    title = "main memory" if on["index"] is None else f"GPU {on['index']} ({device['name']})"
    free = "free now unknown" if device["free"] is None else f"{shown_size(device['free'])} free now"
    lines = [f"  {title}, {shown_size(device['total'])}, {free}", f"  [{bar}]"]
    if use["device_map"] is None:
        at = min(COLUMNS, round((others + on["overhead_bytes"] + peak) * COLUMNS / total))
        words, before = f"at the peak of loading {shown_size(peak)}", max(0, at - 1)
        right = f"   {' ' * before}^ {words}"
        lines.append(right if len(right) <= WIDTH else f"   {words + ' ':>{before}}^")
    shown = [f"{part.block if blocks else part.sign} {part.what} {shown_size(part.bytes)}" for part in parts]
    lack = sum(part.bytes for part in parts) - device["total"]
    return lines + _packed([*shown, f"{shown_size(lack)} more than there is"] if lack > 0 else shown)


def _packed(items: list[str]) -> list[str]:
    """As many in a line as it has room for, each whole."""
    lines = ["  "]
    for number, item in enumerate(items):
        item += "" if number == len(items) - 1 else ","
        if len(lines[-1]) + 1 + len(item) > WIDTH and lines[-1].strip():
            lines.append("  ")
        lines[-1] += item if not lines[-1].strip() else f" {item}"
    return lines


def _parts(
    setting: dict[str, Any], on: dict[str, Any], device: dict[str, Any], use: dict[str, Any], train: bool
) -> list[Part]:
    sizes = setting["parts"]
    share = on["weight_bytes"] / max(1, setting["weight_bytes"])
    converted, statistics = (round(share * sizes.get(name, 0)) for name in ("converted", "statistics"))
    experts = round(share * sizes.get("experts", 0))
    rest = max(0, on["weight_bytes"] - converted - statistics - experts)
    taken = 0 if device["free"] is None else device["total"] - device["free"]
    beside = (
        [Part("training", on["beside_bytes"], "t", "▄")]
        if train
        else [
            Part("KV cache", max(0, on["beside_bytes"] - setting["forward_bytes"]), "k", "▄"),
            Part("computing", setting["forward_bytes"], "c", "▂"),
        ]
    )
    parts = [
        Part("in use by others", taken, "o", "░"),
        Part("CUDA" if on["index"] is not None else "Python", on["overhead_bytes"], "p", "▒"),
        Part("quantized weights", converted, "W", "█"),
        Part("their statistics", statistics, "s", "▓"),
        Part("experts not quantized" if converted else "experts", experts, "e", "▚"),
        Part("kept as they are" if converted else "weights", rest, "x", "▞"),
        *beside,
    ]
    return [part for part in parts if part.bytes > 0]


def _bar(parts: list[Part], total: int, blocks: bool) -> str:
    """Every part has a column at least; what is left is free."""
    text, before = "", 0
    for part in parts:
        before += part.bytes
        end = max(len(text) + 1, round(before * COLUMNS / total))
        text += (part.block if blocks else part.sign) * (min(COLUMNS, end) - len(text))
    return text + (" " if blocks else ".") * (COLUMNS - len(text))
