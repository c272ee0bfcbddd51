"""Which of the signs in a text is the primary cause.

1. A sign that another one explains (``explains``: codes, or causes of the vocabulary) is its consequence.
2. Of what is left, one that names its cause and ends something beats the end of something whose cause stands
   elsewhere, and that beats what a program prints and goes on.
3. Where Python says that an exception came while another was handled, the earlier one is the cause.
4. Of several that nothing decides between, the last one in the text: the run got there.
5. What a program survived is not the cause of a failure after it that nobody knows, and what can pass (memory, a busy
   device, access) is none where the run went well after it.
6. Where nothing shows that a program ran, several causes are a page about them.
"""

from __future__ import annotations

import re

from bnbenv.doctor.model import Seen
from bnbenv.doctor.text.cleaning import Views
from bnbenv.doctor.text.mentions import ran, spoken_of
from bnbenv.doctor.text.signatures import Hit

_RANK = {"root": 0, "consequence": 1, "note": 2}
_CHAIN = re.compile(
    rb"during handling of the above exception, another exception occurred"
    rb"|the above exception was the direct cause of the following exception"
)
_TRACEBACK = re.compile(rb"traceback \(most recent call last\)")
_NAME = rb"(?:[a-z_][\w.]{0,100}\.)?[a-z_]{0,60}"
# The last line of a traceback, or a line by which a program ends.
_FAILURE = re.compile(
    rb"traceback \(most recent call last\)"
    rb"|^" + _NAME + rb"(?:error|exception|interrupt|failure)(?::|$)"
    rb"|(?:^|\W)(?:fatal )?error(?:\[\w{1,12}\])?: (?![\d.]+(?:\W|$))"
    rb"|\b(?:[a-z_][\w.]{0,100}\.)?[a-z_]{1,60}(?<!_)(?:error|exception): "
    rb"|segmentation fault|core dumped|\baborted\b|\bfatal\b|\bpanic(?:ked)?\b"
    rb"|returned non-zero exit status|exited with (?:exit )?code [1-9]",
    re.MULTILINE,
)
# In a report of a few lines, whose words people chose, these say it too; a log of any length has such words.
_TOLD = re.compile(
    rb"(?<!\bno )(?<!\b0 )(?<!without )(?<!any )\b"
    rb"(?:errors?(?![\w-]|[\"\x27]? ?[:=] ?(?:[\d.-]|null|none|false)| {1,20}\d*\.\d| rate)|fail(?:s|ed|ure|ing)?"
    rb"|crash(?:es|ed|ing)?|mismatch|undefined symbol|no such file|is not supported)\b"
)
TOLD = 8 << 10  # bytes of such a report
# And of a sentence or two these.
_BRIEFLY = re.compile(
    rb"(?<![\w-])(?:not|no(?! (?:errors?|problems?|issues?|oom|running processes)\b)|cannot|can.t|without(?! errors?\b)"
    rb"|missing|unable|conflict)(?![\w-])"
)
BRIEF = 600
_EXCEPTION = re.compile(rb"^" + _NAME + rb"(?:error|exception)(?::|$)", re.MULTILINE)
_FRAME = re.compile(rb'file "[^"\n]{0,300}"')
NEAR = 600  # bytes before an exception in which its last frame stands
# Exceptions that say that something else failed.
_NEUTRAL = re.compile(rb"[\w.]{0,100}(?:calledprocesserror|childfailederror|process(?:raised|exited)exception)")
# What training prints as it goes on, and what programs print when they have gone well.
_PROGRESS = re.compile(rb"\bloss\b[\"\x27]? ?[:=] ?\d")
_WELL = re.compile(
    rb"[\"\x27]train_runtime[\"\x27]:|\btraining (?:completed|finished|done)\b|\bcompleted successfully\b"
    rb"|\bfinished (?:successfully|without errors?)\b|\bapplication startup complete\b"
)
WENT_ON = 3  # lines of progress after which a failure is another one
LONG = 10  # and after which a run goes well
PAGE = 3  # causes
_SHOWN = 3
END = 1 << 18  # characters at the end of a text in which its last failure is looked for


def judge(views: Views, hits: tuple[Hit, ...]) -> tuple[Seen, ...]:
    """What a text says, the primary cause first; nothing where it speaks of no failure."""
    found = [hit for hit in hits if hit.signature.role != "harmless"]
    found = [hit for hit in found if hit.signature.alone or any(_explains(hit, other) for other in found)]
    found = [hit for hit in found if not any(_says_more(other, hit) for other in found)]
    harmless = {at for hit in hits if hit.signature.role == "harmless" for at in hit.lines}
    passed = [hit for hit in found if _passed(hit, views)]
    harmless |= {at for hit in passed for at in hit.lines}
    found = [hit for hit in found if hit not in passed]
    primary = _primary(found, views)
    after = None if primary is None else _unknown_end(views, found)
    survived = primary is not None and after is not None and _is_survived(primary, after, views)
    if primary is None or survived or _is_page(found, views):
        end = after if survived else _last_failure(views, harmless)
        if end is None:
            return ()
        unknown = Seen(cause="unknown", code="unknown", role="primary", lines=(views.shown(end),))
        return (unknown, *(_seen(hit, "note", views) for hit in found))
    rest = [hit for hit in found if hit is not primary]
    followed = _follow(primary, rest)
    return (
        _seen(primary, "primary", views),
        *(_seen(hit, "consequence" if hit in followed else "note", views) for hit in rest),
    )


def _primary(found: list[Hit], views: Views) -> Hit | None:
    explained = [hit for hit in found if any(_explains(other, hit) for other in found)]
    left = [hit for hit in found if hit not in explained] or found
    if not left:
        return None
    best = min(_RANK[hit.signature.role] for hit in left)
    left = [hit for hit in left if _RANK[hit.signature.role] == best]
    chained = [hit for hit in left if any(other is not hit and _chained(other, hit, views) for other in left)]
    return max([hit for hit in left if hit not in chained] or left, key=lambda hit: (hit.last, hit.first))


def _is_survived(primary: Hit, end: int, views: Views) -> bool:
    """Whether the program went on after it, to a failure at ``end`` that is not of it."""
    if primary.signature.role == "root":
        stretch = views.worded[views.worded_offsets[primary.last] : views.worded_offsets[end]]
        return len(_PROGRESS.findall(stretch)) >= WENT_ON
    return primary.signature.role == "note"


def _passed(hit: Hit, views: Views) -> bool:
    """Whether it is of a kind that can pass, and the run went well after it."""
    one = hit.signature
    if not (one.memory or one.transient or one.cause == "hf_access"):
        return False
    line_end = views.worded.find(b"\n", views.worded_offsets[hit.last])
    rest = views.worded[max(0, line_end) :]
    well = _WELL.search(rest) is not None or len(_PROGRESS.findall(rest)) >= LONG
    return well and _FAILURE.search(rest) is None


def _is_page(found: list[Hit], views: Views) -> bool:
    """Whether so many causes stand in a text of which no program is known to have printed any."""
    roots = [hit for hit in found if hit.signature.role == "root"]
    causes = {hit.signature.cause for hit in roots if not any(_explains(other, hit) for other in roots)}
    return len(causes) >= PAGE and not ran(views)


def _explains(one: Hit, other: Hit) -> bool:
    if one is other:
        return False
    listed, cause = one.signature.explains, other.signature.cause
    return other.signature.code in listed or (cause in listed and cause != one.signature.cause)


def _says_more(one: Hit, other: Hit) -> bool:
    """Whether ``other`` is a coarser reading of the same lines."""
    return _explains(one, other) and {*other.lines, other.last} <= {*one.lines, one.last}


def _follow(primary: Hit, rest: list[Hit]) -> list[Hit]:
    """What follows from the primary cause, by one step or more."""
    followed, causes = [], [primary]
    while causes:
        cause = causes.pop()
        new = [hit for hit in rest if hit not in followed and _explains(cause, hit)]
        followed += new
        causes += new
    return followed + [hit for hit in rest if hit not in followed and hit.signature.role == "consequence"]


def _chained(one: Hit, other: Hit, views: Views) -> bool:
    """Whether ``other`` is of an exception that was raised while that of ``one`` was handled."""
    if one.last >= other.first:
        return False
    stretch = views.worded[views.worded_offsets[one.last] : views.worded_offsets[other.first]]
    chains = len(_CHAIN.findall(stretch))
    return chains > 0 and chains >= len(_TRACEBACK.findall(stretch))


def _unknown_end(views: Views, found: list[Hit]) -> int | None:
    """The line of a last exception that no sign is part of.

    One that bitsandbytes' own code raises follows from what it said before.
    """
    end = None
    for match in _EXCEPTION.finditer(views.worded, max(0, len(views.worded) - END)):
        frames = _FRAME.findall(views.worded, max(0, match.start() - NEAR), match.start())
        own = bool(frames) and b"bitsandbytes" in frames[-1]
        if not own and not _NEUTRAL.match(match[0]):
            end = views.line_at(False, match.start())
    return end if end is not None and all(hit.last < end for hit in found) else None


def _last_failure(views: Views, harmless: set[int]) -> int | None:
    """The line that speaks of a failure last."""
    executed = ran(views)
    expressions = [_FAILURE]
    expressions += [_TOLD] if len(views.worded) <= TOLD else []
    expressions += [_BRIEFLY] if len(views.worded) <= BRIEF else []
    for expression in expressions:
        found = None
        for match in expression.finditer(views.worded, max(0, len(views.worded) - END)):
            at = views.line_at(False, match.start())
            found = found if at in harmless or spoken_of(views, False, match.start(), executed) else at
        if found is not None:
            return found
    first = _FAILURE.search(views.worded)
    at = views.line_at(False, first.start()) if first else -1
    return None if at < 0 or at in harmless else at


def _seen(hit: Hit, role: str, views: Views) -> Seen:
    shown = [views.shown(index) for index in hit.lines if views.lines[index].text.strip()][:_SHOWN]
    if hit.last > hit.lines[-1] and role == "primary":
        shown.append(views.shown(hit.last))
    lines = tuple(dict.fromkeys(shown))
    return Seen(cause=hit.signature.cause, code=hit.signature.code, role=role, lines=lines)  # type: ignore[arg-type]
