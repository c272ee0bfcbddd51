"""The variables that a shell file, an environment file or a line of Python sets, as text. Pure; nothing is run."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Callable, Iterator
from typing import NamedTuple

LONGEST = 4096  # characters of a value, and of a line that is read
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")

_LISTED = """
BNB_CUDA_VERSION BNB_ROCM_VERSION BITSANDBYTES_NOWELCOME
LD_LIBRARY_PATH LD_PRELOAD DYLD_LIBRARY_PATH CUDA_HOME CUDA_PATH CUDA_ROOT ROCM_HOME ROCM_PATH TRITON_PTXAS_PATH
CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER CUDA_LAUNCH_BLOCKING CUDA_MODULE_LOADING CUDA_FORCE_PTX_JIT CUDA_DISABLE_PTX_JIT
HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES HSA_OVERRIDE_GFX_VERSION
NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES NVIDIA_DISABLE_REQUIRE
PYTHONPATH PYTHONHOME PYTHONNOUSERSITE PYTHONUSERBASE PYTHONSTARTUP
PYTORCH_CUDA_ALLOC_CONF PYTORCH_ALLOC_CONF PYTORCH_NVML_BASED_CUDA_CHECK TORCH_CUDA_ARCH_LIST
NCCL_P2P_DISABLE NCCL_IB_DISABLE NCCL_SOCKET_IFNAME
HF_HOME HF_ENDPOINT HF_HUB_OFFLINE TRANSFORMERS_OFFLINE HF_HUB_CACHE TRANSFORMERS_CACHE
"""
NAMES = (*_LISTED.split(), *SECRETS)

_ANY = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(NAMES)})(?![A-Za-z0-9_])")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=(.*)", re.DOTALL)
_EXPORTS = frozenset({"export", "declare", "typeset", "readonly", "setx"})
_LEADING = frozenset({"then", "do", "else", "{", "}", "builtin", "command", "if"})
_POWERSHELL = re.compile(r"\s*\$env:(\w+)\s*=\s*(.*?)\s*;?\s*", re.IGNORECASE)
_POWERSHELL_GONE = re.compile(r"\s*Remove-Item\s+(?:-Path\s+)?[\"']?Env:[\\/]?(\w+).*", re.IGNORECASE)
_BATCH = re.compile(r'\s*@?set\s+"?(\w+)=([^"]*)"?\s*', re.IGNORECASE)
_PYTHON = re.compile(r"(?:os\.)?environ(?:\[|\.setdefault\()\s*['\"](\w+)['\"]\s*(?:\]\s*=|,)\s*['\"]([^'\"]*)['\"]")
_PTH = re.compile(r"for k, v in (\{[^\n]*\})\.items\(\)")
_FISH_VARIABLE = re.compile(r"SETUVAR (?:--\w+ )*(\w+):(.*)")
_REGISTRY = re.compile(r"\s+(\w+)\s+REG_(?:EXPAND_)?SZ\s+(.*?)\s*")


class Assignment(NamedTuple):
    """``line`` counts from 1; ``value`` null: the variable is unset there."""

    line: int
    name: str
    value: str | None


Dialect = Callable[[str], Iterator[tuple[str, str | None]]]


def assignments(text: str, dialect: str) -> list[Assignment]:
    """What a file sets, of the variables that matter here; what it unsets again afterwards is left out.

    ``dialect``: ``sh`` (bash, zsh, csh, ``.env``, /etc/environment, environment.d), ``fish``, ``powershell``,
    ``batch``, ``python``, ``pth`` (bnbenv's own), ``json`` (conda's state, a Jupyter kernel) or ``registry``.
    """
    if not _ANY.search(text):
        return []
    if dialect == "json":
        return _json(text)
    read = _DIALECTS[dialect]
    found: list[Assignment] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not _ANY.search(line) or len(line) > LONGEST:
            continue
        for name, value in read(line):
            if name not in NAMES or (value or "").startswith("$_OLD_"):  # what activate scripts put back
                continue
            if value is not None:
                found.append(Assignment(number, name, shown(name, value)))
            elif not line[:1].isspace():  # an indented one is in a function or under a condition
                found = [one for one in found if one.name != name]
    return found


def shown(name: str, value: str) -> str:
    """A value as it may be told: those of secrets are not."""
    return "(set)" if name in SECRETS and value else value[:LONGEST]


def _sh(line: str) -> Iterator[tuple[str, str | None]]:
    """``export A=1 B=2; C=3``, ``setenv A 1``, ``unset A``. ``A=1 command`` is for that command alone."""
    for words in _statements(line):
        first, rest = words[0], words[1:]
        if first == "unset":
            yield from ((word, None) for word in rest)
        elif first == "setenv" and rest:
            yield rest[0], " ".join(rest[1:])
        elif first in _EXPORTS:
            yield from _pairs(word for word in rest if not word.startswith("-"))
        elif all(_ASSIGNMENT.fullmatch(word) for word in words):
            yield from _pairs(words)


def _pairs(words: Iterator[str] | list[str]) -> Iterator[tuple[str, str | None]]:
    for word in words:
        match = _ASSIGNMENT.fullmatch(word)
        if match:
            yield match[1], f"${match[1]}{match[3]}" if match[2] else match[3]


def _fish(line: str) -> Iterator[tuple[str, str | None]]:
    """``set -gx A 1``, ``set -e A``, and in fish_variables ``SETUVAR --export A:1``."""
    match = _FISH_VARIABLE.fullmatch(line)
    if match:
        yield match[1], match[2].replace("\\x1e", ":").replace("\\x2d", "-").replace("\\x2f", "/").replace("\\x2e", ".")
        return
    for words in _statements(line):
        if words[0] == "export":
            yield from _pairs(words[1:])
        if words[0] != "set":
            continue
        flags = [word for word in words[1:] if word.startswith("-")]
        rest = [word for word in words[1:] if not word.startswith("-")]
        if rest and any(flag == "--erase" or (flag[:2] != "--" and "e" in flag) for flag in flags):
            yield rest[0], None
        elif rest and any(flag == "--export" or (flag[:2] != "--" and "x" in flag) for flag in flags):
            yield rest[0], ":".join(rest[1:])


def _statements(line: str) -> list[list[str]]:
    """The words of each command of a line; none where quotes are not closed in it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[list[str]] = [[]]
    try:
        for word in lexer:
            if word and not word.strip(";&|()"):
                found.append([])
            elif found[-1] or word not in _LEADING:
                found[-1].append(word)
    except ValueError:
        return []
    return [words for words in found if words]


def _powershell(line: str) -> Iterator[tuple[str, str | None]]:
    match, gone = _POWERSHELL.fullmatch(line), _POWERSHELL_GONE.fullmatch(line)
    if match:
        value = match[2].strip("\"'")
        yield match[1].upper(), None if value.lower() == "$null" else value
    elif gone:
        yield gone[1].upper(), None


def _batch(line: str) -> Iterator[tuple[str, str | None]]:
    match = _BATCH.fullmatch(line)
    if match:
        yield match[1].upper(), match[2] or None  # ``set A=`` unsets


def _python(line: str) -> Iterator[tuple[str, str | None]]:
    if not line.lstrip().startswith("#"):
        yield from ((match[1], match[2]) for match in _PYTHON.finditer(line))


def _pth(line: str) -> Iterator[tuple[str, str | None]]:
    """bnbenv's own: ``import os; [os.environ.setdefault(k, v) for k, v in {...}.items()]``."""
    match = _PTH.search(line)
    try:
        values = ast.literal_eval(match[1]) if match else {}
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        values = {}
    yield from ((str(name), str(value)) for name, value in values.items())
    if not match:
        yield from _python(line)


def _registry(line: str) -> Iterator[tuple[str, str | None]]:
    """What ``reg query HKCU\\Environment`` prints: ``    BNB_CUDA_VERSION    REG_SZ    118``."""
    match = _REGISTRY.fullmatch(line)
    if match:
        yield match[1].upper(), match[2]


def _json(text: str) -> list[Assignment]:
    """conda-meta/state (``env_vars``) and a Jupyter kernel.json (``env``)."""
    try:
        document = json.loads(text)
        values = document.get("env_vars") or document.get("env") or {}
        pairs = [(str(name), str(value)) for name, value in values.items()]
    except (ValueError, AttributeError, RecursionError):
        return []
    lines = text.splitlines()
    return [
        Assignment(next((at for at, line in enumerate(lines, 1) if f'"{name}"' in line), 1), name, shown(name, value))
        for name, value in pairs
        if name in NAMES and value != "***unset***"  # conda's word for a variable to unset
    ]


_DIALECTS: dict[str, Dialect] = {
    "sh": _sh,
    "fish": _fish,
    "powershell": _powershell,
    "batch": _batch,
    "python": _python,
    "pth": _pth,
    "registry": _registry,
}
