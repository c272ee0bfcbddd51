"""How ``bnbenv solve`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import wrap

_MOST = 6  # of what was not taken; the document has all


def render(document: dict[str, Any]) -> str:
    return "\n".join(_solved(document) if document["status"] == "solved" else _refused(document))


def _solved(document: dict[str, Any]) -> list[str]:
    choice = document["choice"]
    torch, wheel = choice["torch"], choice["bitsandbytes"]
    cuda = f"CUDA {torch['cuda']}" if torch["cuda"] else "CPU"
    origin = torch["source"] + (f" {torch['index']}" if torch.get("index") else "")
    python = f"Python {choice['python']}"
    lines = wrap(f"bitsandbytes {wheel['version']} with torch {torch['version']} ({cuda}, {origin}), {python}")
    lines.append(f"  loads {wheel['library']}")
    for name, value in choice["environment"].items():
        lines += wrap(f"needs {name}={value} in the environment (sync sees to that)", "  ")
    for cover in document["covers"]:
        what = f"torch {cover['torch']}, bitsandbytes {cover['bitsandbytes']}"
        lines += wrap(f"GPU {cover['gpu']} ({cover['arch']}): {what}", "  ")
    for note in document["notes"]:
        lines += wrap(f"note: {note}", "  ")
    lines.append("rests on:")
    for row in document["evidence"]:
        lines += [*wrap(f"{row['level']}: {row['about']}", "  "), *wrap(f"[{row['source']}]", "    ", " ")]
    lines += _not_taken(document["rejected"])
    lines.append("next: bnbenv sync, with the same wishes, makes it")
    return lines


def _not_taken(rejected: list[dict[str, Any]]) -> list[str]:
    lines = ["not taken:"] if rejected else []
    for row in rejected[:_MOST]:
        because = row["because"].removeprefix(row["candidate"]).strip()
        lines += wrap(f"{row['candidate']}: {because}", "  ")
    if len(rejected) > _MOST:
        lines.append(f"  and {len(rejected) - _MOST} more (--json lists them)")
    return lines


def _refused(document: dict[str, Any]) -> list[str]:
    lines = ["nothing known to be good fits:"]
    for part in document["conflict"]:
        lines += [*wrap(part["because"], "  "), *wrap(f"[{part['source']}]", "    ", " ")]
    options = document["options"]
    if options:
        lines.append("what would change that:")
    for option in options[:8]:
        lines += [*wrap(option["change"], "  "), *wrap(f"gives {option['gives']}", "    ")]
        if option["command"]:
            lines.append(f"    {option['command']}")
    lines.append(f"next: {_next_step(options)}")
    return lines


def _next_step(options: list[dict[str, Any]]) -> str:
    if not options:
        return "bnbenv facts shows what this was judged on"
    return str(options[0]["command"] or f"{options[0]['change']}, then run: bnbenv sync")
