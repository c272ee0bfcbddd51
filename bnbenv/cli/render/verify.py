"""How ``bnbenv verify`` looks: the verdict first, then a line a step."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import wrap

# What a failure of a step means to the user. The longest matching beginning of the step's name counts.
MEANINGS = {
    "import": "the packages of this environment cannot be used at all",
    "device": "torch itself cannot compute on this device, so bitsandbytes cannot either",
    "native-library": "bitsandbytes would fail at its first call, or run on the CPU instead of the GPU",
    "blockwise-8bit": "8-bit optimizers and nested quantization would work with wrong numbers",
    "nf4": "models loaded in 4 bits (QLoRA) would have wrong weights",
    "fp4": "models loaded in FP4 would have wrong weights",
    "ragged-rows": "layers whose width is no multiple of the block size would have wrong weights",
    "gemv-4bit": "generating text with a 4-bit model would give wrong results",
    "gemm-4bit": "prompts and training with a 4-bit model would give wrong results",
    "linear8bit": "models loaded in 8 bits (LLM.int8) would give wrong results",
    "adamw8bit": "training with AdamW8bit would go astray",
    "paged-adamw8bit": "training with PagedAdamW8bit would go astray",
    "qlora": "QLoRA training would follow wrong gradients",
    "transformers": "no model could be loaded in this environment",
    "transformers-4bit": "models loaded in 4 bits with transformers would give wrong results, or not load",
    "transformers-8bit": "models loaded in 8 bits with transformers would give wrong results, or not load",
    "generate": "quantized models would generate wrong text",
    "peft": "no LoRA adapters could be trained in this environment",
    "lora-4bit": "training LoRA adapters on a 4-bit model would go astray, or not start",
    "lora-8bit": "training LoRA adapters on an 8-bit model would go astray, or not start",
    "timing": "the kernels ran, but could not be timed",
    "gptq-quantize": "models quantized here with GPTQ would be worse than they have to be, or broken",
    "gptq-pack": "models quantized here with GPTQ would be saved with wrong weights",
    "gptq": "GPTQ models would give wrong results, or not run",
    "awq-quantize": "models quantized here with AWQ would have wrong weights",
    "awq-gemm": "AWQ models would give wrong results, or not run",
    "torch": "torch itself would give wrong results",
}
# The packages that a family is about, by the names in a report.
OWN = {"gptq": ("gptqmodel", "auto-gptq"), "awq": ("autoawq", "autoawq-kernels")}
NEXT = {
    "import": "Install what is missing there, or make an environment: bnbenv sync",
    "device": "See bnbenv facts, then bnbenv solve: which torch fits this driver and GPU",
    "native-library": "bnbenv solve names a combination whose library fits; bnbenv sync makes it",
}
# Where these fail first, all kernels are right: what is wrong are the packages that call them.
NEXT_MODELS = 'Try other versions of {}: "requirements" in bnbenv.toml, then bnbenv sync'
MODELS = {
    **dict.fromkeys(
        ("transformers", "transformers-4bit", "transformers-8bit", "generate"), "transformers and accelerate"
    ),
    **dict.fromkeys(("peft", "lora-4bit", "lora-8bit"), "peft and transformers"),
}
NEXT_KERNELS = "Do not use this combination here; others are named by: bnbenv solve"
NEXT_DIED = "Run it once more (slow machine: --timeout), then see: bnbenv solve"


def render(document: dict[str, Any]) -> str:
    """The report for people."""
    devices = document["devices"]
    failed = [device for device in devices if not device["ok"]]
    family = document["family"]
    lines = wrap(_verdict(devices, failed, family))
    for device in devices:
        lines += ["", _title(device, family), *_packages(device, family)]
        lines += [line for step in device["steps"] for line in _step(step)]
        if device["died"]:
            lines += _death(device["died"])
    for text in document["warnings"]:
        lines += wrap(f"warning: {text}")
    if failed:
        lines.append(f"next: {_next_step(failed[0])}")
    return "\n".join(lines)


def _verdict(devices: list[dict[str, Any]], failed: list[dict[str, Any]], family: str) -> str:
    shown = failed or devices
    names = ", ".join(device["device"] for device in shown)
    first = shown[0]
    if failed:
        bad = [step["name"] for device in failed for step in device["steps"] if step["ok"] is False]
        bad += [_how(device["died"]) for device in failed if device["died"]]
        return f"FAILED on {names}: {', '.join(dict.fromkeys(bad))}"
    own = ", ".join(_own(first, family))
    return f"verified on {names}: {f'{own} with ' if own else ''}torch {first['torch']}"


def _own(device: dict[str, Any], family: str) -> list[str]:
    """What the family is about, with versions."""
    if device["bitsandbytes"]:
        return [f"bitsandbytes {device['bitsandbytes']}"]
    return [f"{name} {device['packages'][name]}" for name in OWN.get(family, ()) if name in device["packages"]]


def _title(device: dict[str, Any], family: str) -> str:
    parts = [device["name"] if device["name"] and device["name"].lower() != device["device"] else None]
    if device["torch"]:
        cuda = f" (CUDA {device['torch_cuda']})" if device["torch_cuda"] else ""
        parts.append(f"torch {device['torch']}{cuda}")
    parts += [*_own(device, family), device["library"]]
    details = ", ".join(part for part in parts if part)
    return f"{device['device']}: {details}" if details else str(device["device"])


def _packages(device: dict[str, Any], family: str) -> list[str]:
    further = {name: version for name, version in device["packages"].items() if name not in OWN.get(family, ())}
    names = ", ".join(f"{name} {version}" for name, version in further.items())
    return wrap(f"with {names}", "  ") if names else []


def _step(step: dict[str, Any]) -> list[str]:
    word = {True: "ok", False: "FAILED", None: "skipped"}[step["ok"]]
    if step["ok"] is False:
        what = step["message"] or f"{step['check']}: error {step['error']:.3g}, allowed {step['threshold']:.3g}"
        meaning = _longest(MEANINGS, step["name"])
        return [*wrap(f"{word:<8}{step['name']:<22} {what}", "  "), *(wrap(meaning, " " * 10, "") if meaning else [])]
    if step["ok"] is None:  # the reason stands below, once for all steps that it holds for
        return [f"  {word:<8}{step['name']}"]
    numbers = "" if step["error"] is None else f"error {step['error']:.2g} of {step['threshold']:.2g} allowed"
    figures = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in step["figures"].items())
    return [f"  {word:<8}{step['name']:<22} {numbers or figures:<34} {step['seconds']:6.2f} s".rstrip()]


def _death(died: dict[str, Any]) -> list[str]:
    lines = [f"  {'DIED':<8}{died['step'] or '-':<22} {_end(died)}"]
    return lines + [f"    | {line}".rstrip() for line in died["stderr"].splitlines()]


def _how(died: dict[str, Any]) -> str:
    return _end(died) + (f" in {died['step']}" if died["step"] else "")


def _end(died: dict[str, Any]) -> str:
    if died["timed_out"]:
        return "no end within the time limit"
    return f"killed by {died['signal']}" if died["signal"] else f"exit code {died['exit_code']}"


def _next_step(device: dict[str, Any]) -> str:
    bad = next((step["name"] for step in device["steps"] if step["ok"] is False), None)
    if bad is None:
        return NEXT_DIED
    if bad in MODELS:
        return NEXT_MODELS.format(MODELS[bad])
    return NEXT.get(bad, NEXT_KERNELS)


def _longest(table: dict[str, str], name: str) -> str:
    return next((table[key] for key in sorted(table, key=len, reverse=True) if name.startswith(key)), "")
