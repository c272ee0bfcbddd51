"""How ``bnbenv doctor`` looks: the primary cause, its evidence, what to do; the rest; what was looked at."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import WIDTH, harmless, wrap

FAMILIES = ("gptqmodel", "auto-gptq", "autoawq")  # beside bitsandbytes
LONGEST = 110  # characters of the evidence of what is not primary


def render(document: dict[str, Any], call: str = "bnbenv doctor") -> str:
    """The findings for people. ``call`` is how the command was called, for a next step that means the same."""
    if document["undone"] is not None:
        return "\n".join(_undone(document["undone"]))
    findings = document["findings"]
    lines = _first(findings[0]) if findings else wrap(_nothing(document["examined"]))
    for finding in findings[1:]:
        lines += _further(finding, findings[0])
    for text in document["contradictions"]:
        lines += wrap(f"contradiction: {text}")
    for one in document["unknown"]:
        lines += wrap(f"not known: {one['reason']}")
    for text in document["harmless"]:
        lines += wrap(f"harmless: {text}")
    for record in document["interrupted"]:
        lines += wrap(f"warning: a fix was cut short; what was there is put back by: bnbenv doctor --undo {record}")
    lines += _looked_at(document["examined"])
    if document["mended"] is not None:
        lines += _mended(document["mended"])
    return "\n".join([*lines, *_next(document, call)])


def _nothing(examined: dict[str, Any]) -> str:
    if examined["text_bytes"] is not None:
        return "nothing is wrong: the text speaks of no failure"
    if examined["bitsandbytes"] is None:
        others = [f"{name} {examined['packages'][name]}" for name in FAMILIES if name in examined["packages"]]
        if others and examined["torch"] is not None:
            return f"nothing is wrong: {', '.join(others)} with {_torch(examined['torch'])}"
        return "nothing is wrong as far as can be seen"
    return f"nothing is wrong: bitsandbytes {examined['bitsandbytes']} with {_torch(examined['torch'])}"


def _first(finding: dict[str, Any]) -> list[str]:
    where = " (by the text)" if finding["source"] == "text" else ""
    lines = wrap(f"found: {finding['title']}{where}")
    for line in finding["evidence"]:
        lines += wrap(harmless(line), "    ", "")
    lines += wrap(f"why: {finding['explanation']}", "  ", "  ")
    lines += wrap(f"what to do: {finding['fix']['summary']}", "  ", "  ")
    lines += [line for step in finding["fix"]["steps"] for line in _step(harmless(step))]
    if finding["fix"]["command"]:
        lines.append(f"    {finding['fix']['command']}")
    return [*lines, f"  see: {finding['reference']}", f"  cause: {finding['cause']} ({finding['code']})"]


def _step(step: str) -> list[str]:
    """A line of code or a command stays whole; a sentence is broken, and a command at its end gets its own line."""
    if len(step) <= WIDTH - 4 or step[:1] in " #" or not step[:1].isupper():
        return [f"    {step}".rstrip()]
    sentence, _, command = step.partition(": ")
    if not command or ": " in command or step.endswith((".", "?")):
        return wrap(step, "    ", "  ")
    return [*wrap(f"{sentence}:", "    ", "  "), " " * max(4, min(6, WIDTH - len(command))) + command]


def _further(finding: dict[str, Any], primary: dict[str, Any]) -> list[str]:
    """One sentence each: what it is, and the evidence that tells most."""
    if finding["role"] == "consequence":
        word = "follows"
    else:
        word = "here too" if finding["source"] != primary["source"] and finding["cause"] == primary["cause"] else "also"
    text = f"{word}: {finding['title']}"
    if finding["evidence"]:
        evidence = harmless(finding["evidence"][0])
        text += f" ({evidence if len(evidence) <= LONGEST else f'{evidence[:LONGEST].rstrip()}...'})"
    return wrap(text)


def _looked_at(examined: dict[str, Any]) -> list[str]:
    if examined["kind"] == "none":
        lines = ["looked at: this machine; no environment (bnbenv doctor PATH names one)"]
    else:
        name = f"environment {examined['env']}" if examined["env"] else _KINDS[examined["kind"]]
        python = f", Python {examined['python_version']}" if examined["python_version"] else ""
        lines = wrap(f"looked at: {name} in {examined['prefix'] or examined['python']}{python}")
        lines += wrap(_packages(examined), "  ", "  ")
        if examined["library"]:
            lines += wrap(f"bitsandbytes loads {examined['library']}", "  ", "  ")
    driver = examined["driver"]
    gpus = ", ".join(f"{gpu['name']} ({gpu['arch']})" for gpu in examined["gpus"]) or "no NVIDIA GPU"
    version = f"driver {driver['version']}, " if driver["version"] else ""
    return [*lines, *wrap(f"{version}{gpus}", "  ", "  ")]


_KINDS = {"bnbenv": "an environment", "venv": "a venv", "conda": "a conda environment", "system": "a Python"}


def _packages(examined: dict[str, Any]) -> str:
    wheel = f"bitsandbytes {examined['bitsandbytes']}" if examined["bitsandbytes"] else "no bitsandbytes"
    more = [f"{name} {version}" for name, version in examined["packages"].items()]
    return ", ".join([wheel, _torch(examined["torch"]), *more])


def _torch(torch: dict[str, Any] | None) -> str:
    if torch is None:
        return "no torch"
    build = f"CUDA {torch['cuda']}" if torch["cuda"] else f"ROCm {torch['hip']}" if torch["hip"] else "CPU"
    return f"torch {torch['version']} ({build})" if torch["version"] else "a torch of unknown version"


def _mended(mended: dict[str, Any]) -> list[str]:
    head = {
        "nothing": "not mended: there is nothing that a command can do here",
        "planned": "not mended yet: this would be done",
        "done": "mended:",
    }[mended["state"]]
    lines = wrap(head)
    for step in mended["plan"]:
        lines += wrap(f"{step['what']} ({step['where']})", "  ", "  ")
        lines += [f"    {step['command']}"] if step["command"] else []
    if mended["generation"] is not None:
        lines += wrap(f"generation {mended['generation']} is in use", "  ")
    if mended["verified"] is not None:
        lines.append("  verified: its kernels ran and agree" if mended["verified"] else "  not verified")
    for note in mended["notes"]:
        lines += wrap(f"note: {note}", "  ")
    return lines


def _next(document: dict[str, Any], call: str) -> list[str]:
    """The one thing to do now."""
    mended, findings = document["mended"], document["findings"]
    if mended is not None and mended["state"] == "done":
        back = f" (back: bnbenv doctor --undo {mended['record']})" if mended["record"] else ""
        return [f"next: start again what failed{back}"]
    if mended is not None and mended["state"] == "planned":
        return [f"next: {call} --fix --yes"]
    if not findings:
        return []
    fix = findings[0]["fix"]
    if document["contradictions"] and findings[0]["source"] == "text":
        return ["next: bnbenv doctor PATH on the machine that the text is from"]
    if fix["automatic"] and mended is None:
        return [f"next: {call} --fix"]
    if fix["command"]:
        return [f"next: {fix['command']}"]
    return ["next: the steps above"] if fix["steps"] else [*wrap(f"next: {fix['summary']}")]


def _undone(undone: dict[str, Any]) -> list[str]:
    where = f" in {undone['prefix']}" if undone["prefix"] else ""
    files = f"{undone['files']} file{'' if undone['files'] == 1 else 's'}"
    lines = wrap(f"put back as it was: {files}{where} (record {undone['record']})")
    for note in undone["notes"]:
        lines += wrap(f"note: {note}", "  ")
    return lines
