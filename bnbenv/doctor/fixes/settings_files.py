"""Taking a variable out of the file that sets it, and putting it back. Pure: texts in, texts out."""

from __future__ import annotations

import json
import re
from pathlib import PurePath

MARK = "bnbenv"

# Files in which a line is an assignment and no command: "#" begins a comment, and nothing may stand in its place.
_PLAIN = re.compile(r"(^|/)(environment|\.env[^/]*|[^/]*\.conf|[^/]*\.service|[^/]*\.ps1)$")
_WINDOWS = re.compile(r"\.(bat|cmd)$", re.IGNORECASE)
_WORDS = r"(?:export|declare\s+-x|typeset\s+-x|setenv|set\s+-(?:gx|Ux|x|xg|xU|g\s+-x)|set|env\s*:)?"
_VALUE = r"(?:\"[^\"$`\\]*\"|'[^']*'|[^\s;&|<>()\"'`$\\#]*)"


def is_conda_state(path: str) -> bool:
    """conda's own file of an environment's variables, which is JSON."""
    return PurePath(path).parts[-2:] == ("conda-meta", "state")


def without(path: str, data: bytes, name: str, line: int | None, day: str) -> bytes | str:
    """A file's bytes without a variable; or, as text, why it has to be done by hand. ``line`` counts from 1."""
    if is_conda_state(path):
        return _without_key(data, name)
    lines = data.split(b"\n")
    if line is None or not 1 <= line <= len(lines):
        return f"nothing tells which line of {path} sets {name}"
    old = lines[line - 1].rstrip(b"\r")
    text = old.decode("utf-8", "surrogateescape")
    if not alone(text, name):
        return f"line {line} of {path} does more than set {name}: edit it by hand"
    if line > 1 and lines[line - 2].rstrip(b"\r").endswith(b"\\"):
        return f"line {line} of {path} goes on from the line before it: edit it by hand"
    tail = lines[line - 1][len(old) :]
    lines[line - 1] = commented(path, text, day).encode("utf-8", "surrogateescape") + tail
    return b"\n".join(lines)


def alone(line: str, name: str) -> bool:
    """Whether a line does nothing but set a variable to a plain value."""
    pattern = rf"\s*{_WORDS}\s*{re.escape(name)}\s*(?:=|\s)\s*{_VALUE}\s*;?\s*(?:#.*)?"
    quoted = rf"\s*Environment\s*=\s*[\"']?{re.escape(name)}={_VALUE}[\"']?\s*"  # of a systemd unit
    return bool(re.fullmatch(pattern, line) or re.fullmatch(quoted, line))


def commented(path: str, line: str, day: str) -> str:
    """The line as a comment that says who made it one, and when.

    In a shell's file a command that does nothing takes its place: an ``if`` with only a comment in it is an error.
    """
    if _WINDOWS.search(path):
        return f"rem {MARK} {day}: {line}"
    if _PLAIN.search(path.replace("\\", "/")):
        return f"# {MARK} {day}: {line}"
    indent = line[: len(line) - len(line.lstrip())]
    return f"{indent}:  # {MARK} {day}: {line.lstrip()}"


def restored(path: str, now: bytes, before: bytes) -> bytes | None:
    """A file that somebody edited meanwhile, with the line or variable as it was ``before``; None: it is not found."""
    if is_conda_state(path):
        return _restored_key(now, before)
    lines = now.split(b"\n")
    for old in before.split(b"\n"):
        ending = b": " + old.rstrip(b"\r").lstrip()
        for number, line in enumerate(lines):
            text = line.rstrip(b"\r")
            if old.strip() and MARK.encode() in text and text.endswith(ending) and text != old.rstrip(b"\r"):
                lines[number] = old
                return b"\n".join(lines)
    return None


def _without_key(data: bytes, name: str) -> bytes | str:
    try:
        state = json.loads(data)
        del state["env_vars"][name]
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"conda's file of variables does not hold {name} as expected: conda env config vars unset {name}"
    return json.dumps(state, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _restored_key(now: bytes, before: bytes) -> bytes | None:
    try:
        state, was = json.loads(now), json.loads(before)
        missing = {name: value for name, value in was["env_vars"].items() if name not in state.get("env_vars", {})}
        state["env_vars"] = {**state.get("env_vars", {}), **missing}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return json.dumps(state, ensure_ascii=False).encode("utf-8", "surrogatepass") if missing else None
