"""How ``bnbenv solve`` looks."""

from __future__ import annotations

from typing import Any


def render(document: dict[str, Any]) -> str:
    return "\n".join(_solved(document) if document["status"] == "solved" else _refused(document))


def _solved(document: dict[str, Any]) -> list[str]:
    choice = document["choice"]
    torch, wheel = choice["torch"], choice["bitsandbytes"]
    cuda = f"CUDA {torch['cuda']}" if torch["cuda"] else "CPU"
    origin = torch["source"] + (f" {torch['index']}" if torch.get("index") else "")
    lines = [
        f"bitsandbytes {wheel['version']} with torch {torch['version']} ({cuda}, {origin}), Python {choice['python']}",
        f"  loads {wheel['library']}",
    ]
    lines += [f"  needs {name}={value} in the environment" for name, value in choice["environment"].items()]
    lines += [
        f"  GPU {cover['gpu']} ({cover['arch']}): torch {cover['torch']}, bitsandbytes {cover['bitsandbytes']}"
        for cover in document["covers"]
    ]
    lines += [f"  note: {note}" for note in document["notes"]]
    lines.append("rests on:")
    lines += [f"  {row['level']}: {row['about']} [{row['source']}]" for row in document["evidence"]]
    if document["rejected"]:
        lines.append("not taken:")
        lines += [f"  {row['candidate']}: {row['because']}" for row in document["rejected"][:6]]
        more = len(document["rejected"]) - 6
        if more > 0:
            lines.append(f"  and {more} more (--json lists them)")
    return lines


def _refused(document: dict[str, Any]) -> list[str]:
    lines = ["nothing known to be good fits:"]
    lines += [f"  {part['because']} [{part['source']}]" for part in document["conflict"]]
    if document["options"]:
        lines.append("what would change that:")
        for option in document["options"][:8]:
            lines.append(f"  {option['change']}: {option['gives']}")
            if option["command"]:
                lines.append(f"    {option['command']}")
    return lines
