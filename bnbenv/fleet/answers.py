"""Reads what hosts say, strictly: a wrong or odd document is an error of that host alone. Pure.

A report is kept as one line of JSON (``bnbenv fleet facts --out``), which ``bnbenv fleet plan --facts`` reads.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from bnbenv.decode import convert, shown
from bnbenv.errors import InputError
from bnbenv.facts.model import checked
from bnbenv.fleet.model import APPLY_SCHEMA, HOST_SCHEMA, Applied, HostAnswer, HostEnv, HostReport

LONGEST = 8192  # characters of one text in a document; a sentence has a few hundred
MOST_ENVS = 1000


def decode_answer(document: object, file: str) -> HostAnswer:
    """What ``bnbenv fleet host`` printed. ``file`` is how errors call it.

    Signs that a terminal obeys are escapes afterwards. Raises InputError with the path of what is missing or wrong.
    """
    answer = convert(_checked(document, HOST_SCHEMA, file), HostAnswer, file)
    try:
        facts = checked(answer.facts, file)
    except InputError as error:
        raise InputError(file, f"facts.{error.where}".rstrip("."), error.expected) from None
    _check_envs(answer.environments, file)
    return msgspec.structs.replace(answer, facts=facts)


def decode_applied(document: object, file: str) -> Applied:
    """What ``bnbenv fleet apply`` printed. Raises InputError with the path of what is missing or wrong."""
    applied = convert(_checked(document, APPLY_SCHEMA, file), Applied, file)
    _check_envs(applied.before, file, "before")
    _check_envs(applied.environments, file)
    return applied


def decode_report(document: object, file: str) -> HostReport:
    """One line of what ``bnbenv fleet facts --out`` wrote. Raises InputError."""
    report = convert(harmless(document), HostReport, file)
    if report.answer is None:
        if report.state == "ok":
            raise InputError(file, "answer", "missing required field")
        return report
    assert isinstance(document, dict)
    return msgspec.structs.replace(report, answer=decode_answer(document["answer"], file))


def encode_report(report: HostReport) -> str:
    """A report as one line of JSON."""
    return msgspec.json.encode(report).decode()


def harmless(value: Any) -> Any:
    """A document in which every text is one that can be shown: printable, one line, not without end."""
    if isinstance(value, str):
        text = value if len(value) <= LONGEST else f"{value[:LONGEST]}..."
        if text.isprintable():
            return text
        return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    if isinstance(value, dict):
        return {harmless(key): harmless(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [harmless(inner) for inner in value]
    return value


def _checked(document: object, schema: str, file: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise InputError(file, "", f"expected a document {schema}, found none")
    try:
        clean: dict[str, Any] = harmless(document)
    except RecursionError:
        raise InputError(file, "", "nested too deeply") from None
    if clean.get("schema") != schema:
        raise InputError(file, "schema", f'expected "{schema}", found "{shown(clean.get("schema"))}"')
    return clean


def _check_envs(environments: tuple[HostEnv, ...], file: str, called: str = "environments") -> None:
    if len(environments) > MOST_ENVS:
        raise InputError(file, called, f"expected at most {MOST_ENVS}")
    for number, one in enumerate(environments):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", one.env):
            raise InputError(file, f"{called}[{number}].env", f'no name of an environment: "{shown(one.env)}"')
        if one.lock is not None and not re.fullmatch("[0-9a-f]{64}", one.lock):
            raise InputError(file, f"{called}[{number}].lock", f'expected a sha256, found "{shown(one.lock)}"')
