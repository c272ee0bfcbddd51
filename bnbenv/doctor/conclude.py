"""From what rules and a text say to findings: one primary cause, its consequences, and side notes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from bnbenv.doctor.causes import About, about, rule_codes
from bnbenv.doctor.contradictions import contradictions
from bnbenv.doctor.model import Cause, Examination, Finding, Fix, Seen, TextDiagnosis, Verdict
from bnbenv.doctor.rules import RULES, Case
from bnbenv.facts.model import Unknown

LONGEST = 300  # characters of a line of a text that is shown as evidence

Judged = tuple[str, Verdict]


class Conclusion(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong, and what else is to be said. ``findings`` is empty where nothing is; of others the first is it."""

    findings: tuple[Finding, ...] = ()
    contradictions: tuple[str, ...] = ()
    unknown: tuple[Unknown, ...] = ()
    harmless: tuple[str, ...] = ()


def judge(case: Case) -> tuple[Judged, ...]:
    """What every rule says of a case."""
    return tuple((rule.code, rule.judge(case)) for rule in RULES)


def wanted(judged: Iterable[Judged], text: TextDiagnosis | None) -> tuple[tuple[str, Cause], ...]:
    """Code and cause of everything that is a finding, for those who look for fixes; the primary one first."""
    return tuple((one.code, one.cause) for one in _findings(tuple(judged), text, lambda code, cause: Fix(summary="")))


def conclude(
    judged: Sequence[Judged],
    examination: Examination,
    text: TextDiagnosis | None,
    fix: Callable[[str, Cause], Fix],
) -> Conclusion:
    """One primary cause where anything is wrong; a text with a cause in it decides which, else the machine does.

    ``fix`` gives what to do about a code and its cause.
    """
    said = contradictions(text.said, examination) if text is not None and text.seen else ()
    findings = _findings(tuple(judged), text, fix)
    return Conclusion(
        findings=tuple(_by_hand(one) for one in findings) if said else findings,
        contradictions=said,
        unknown=_unknown(judged, examination),
        harmless=(*(text.harmless if text else ()), *_harmless(judged)),
    )


def _by_hand(finding: Finding) -> Finding:
    """What a text of another machine asks for is not carried out on this one."""
    if finding.source == "machine":
        return finding
    return msgspec.structs.replace(finding, fix=msgspec.structs.replace(finding.fix, automatic=False))


def _findings(
    judged: tuple[Judged, ...], text: TextDiagnosis | None, fix: Callable[[str, Cause], Fix]
) -> tuple[Finding, ...]:
    verdicts = {code: verdict for code, verdict in judged if verdict.answer == "yes"}
    order = {code: place for place, code in enumerate(rule_codes())}
    codes = sorted((code for code in verdicts if about(code).role != "harmless"), key=lambda code: order.get(code, -1))
    seen = text.seen if text is not None else ()
    told = next((one for one in seen if one.role == "primary"), None)
    first = about(told.code) if told else _primary(codes)
    findings = [_of_text(one, fix) for one in seen]
    for code in codes:
        known = about(code)
        role = "primary" if told is None and known is first else "note"
        if role == "note" and first is not None and known.code in _follows(first, codes):
            role = "consequence"
        findings.append(_finding(known, role, "machine", verdicts[code].evidence, fix))
    return tuple(sorted(findings, key=lambda one: ("primary", "consequence", "note").index(one.role)))


def _primary(codes: Sequence[str]) -> About | None:
    """Of several causes one that no other explains; of several such ones the first in the order of ``causes.toml``."""
    known = [about(code) for code in codes]
    open_ = [one for one in known if not any(_explains(other, one) and not _explains(one, other) for other in known)]
    roots = [one for one in open_ if one.role == "root"] or open_ or known
    # What hardly comes alone gives way to any other; a side note to what hardly comes alone.
    ranked = sorted(roots, key=lambda one: ("root", "consequence", "note", "harmless").index(one.role))
    return ranked[0] if ranked else None


def _explains(one: About, other: About) -> bool:
    return one is not other and (other.code in one.explains or other.cause in one.explains)


def _follows(first: About, codes: Sequence[str]) -> set[str]:
    """What follows from a cause, directly or by what follows from it."""
    found: set[str] = set()
    open_ = [first]
    while open_:
        one = open_.pop()
        new = [code for code in codes if code not in found and code != first.code and _explains(one, about(code))]
        found.update(new)
        open_ += [about(code) for code in new]
    if first.role != "consequence":
        found.update(code for code in codes if about(code).role == "consequence" and code != first.code)
    return found


def _finding(
    known: About, role: str, source: str, evidence: tuple[str, ...], fix: Callable[[str, Cause], Fix]
) -> Finding:
    return msgspec.convert(
        {
            "cause": known.cause,
            "code": known.code,
            "primary": role == "primary",
            "role": role,
            "source": source,
            "title": known.title,
            "evidence": evidence,
            "explanation": known.explanation,
            "fix": fix(known.code, known.cause),
            "reference": known.reference,
        },
        Finding,
    )


def _of_text(seen: Seen, fix: Callable[[str, Cause], Fix]) -> Finding:
    known = msgspec.structs.replace(about(seen.code), cause=seen.cause)
    evidence = tuple(f"line {number}: {_short(line)}" for number, line in seen.lines)
    return _finding(known, seen.role, "text", evidence, fix)


def _short(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def _unknown(judged: Iterable[Judged], examination: Examination) -> tuple[Unknown, ...]:
    """What could not be told, each reason once."""
    none = examination.target.kind == "none"
    host = {one.reason for one in examination.facts.unknown}  # bnbenv facts says these; rules say what they mean
    own = [one for one in examination.unknown if one.reason not in host and not (none and "linked" in one.fact)]
    found = [*own, *(Unknown(code, one.because) for code, one in judged if one.answer == "unknown")]
    return tuple({one.reason: one for one in reversed(found)}.values())[::-1]


def _harmless(judged: Iterable[Judged]) -> tuple[str, ...]:
    notes = [(about(code), one) for code, one in judged if one.answer == "yes"]
    return tuple(
        f"{known.title}: {'; '.join(one.evidence)}" if one.evidence else known.title
        for known, one in notes
        if known.role == "harmless"
    )
