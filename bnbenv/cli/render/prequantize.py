"""How ``bnbenv prequantize`` looks: what was written, of what, what it saves, how to load it."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import wrap
from bnbenv.progress import shown_size


def render(document: dict[str, Any]) -> str:
    """The text for people."""
    after, before = (shown_size(document[f"bytes_{when}"]) for when in ("after", "before"))
    if document["status"] == "there":
        lines = wrap(f"{document['out']} is there already, made of these files with these options")
    else:
        lines = wrap(f"wrote {document['out']}: {document['quantization']}, {after} instead of {before}")
    packages = document["packages"]
    with_ = f"transformers {packages['transformers']}, bitsandbytes {packages['bitsandbytes']}"
    computed = "" if document["quantization"] == "int8" else f" and computed in {document['compute_dtype']}"
    kept = f"{document['kept']} stay in {document['dtype']}"
    lines += wrap(f"{document['converted']} tensors are quantized{computed}, {kept}", "  ")
    if document["status"] == "made":
        resumed = f", {_files(document['resumed'])} of them before" if document["resumed"] else ""
        how = f"{_files(len(document['files']))}{resumed}, on {document['device']} in {document['seconds']:.0f} s"
        lines += wrap(f"{how}, with {with_}", "  ")
    if document["load_peak_after"] is not None:
        peak = f"loading it takes {shown_size(document['load_peak_after'])} at its peak"
        lines += wrap(f"{peak}; quantizing while loading takes {shown_size(document['load_peak_before'])}", "  ")
    lines += [line for text in document["warnings"] for line in wrap(f"warning: {text}", "  ")]
    lines += [line for text in document["notes"] for line in wrap(f"note: {text}", "  ")]
    return "\n".join([*lines, f"use it: {_class(document['architecture'])}.from_pretrained({document['out']!r})"])


def _class(architecture: str | None) -> str:
    if architecture is None or architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "AutoModelForCausalLM"
    return architecture


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"
