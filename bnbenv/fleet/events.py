"""What Ansible tells while a playbook runs, and what it means for a host. Pure.

The collection's callback writes one JSON object a line (plugins/callback/desk.py). What stands in it comes from hosts,
and nothing of it is trusted.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bnbenv.errors import InputError
from bnbenv.fleet.answers import decode_answer, decode_applied
from bnbenv.fleet.model import HostReport, HostResult
from bnbenv.fleet.sentences import sentence

ASKED, APPLIED = "Ask", "Apply"  # the names of the tasks whose results count
LARGEST = 4 << 20  # characters of a result


class Event(msgspec.Struct, frozen=True):
    """``event`` is start, began, ok, failed, ignored, skipped, unreachable or end. ``too_large`` is the size in
    characters of a result that was left out; ``hosts`` are the numbers of results by host and kind, at the end."""

    event: str
    host: str = ""
    task: str = ""
    result: dict[str, Any] = {}
    too_large: int = 0
    hosts: dict[str, dict[str, int]] = {}


def read_events(data: bytes) -> tuple[list[Event], bytes]:
    """The events of whole lines, and what is left of a line that is still being written.

    A line that is none is passed over: its host is one without a result.
    """
    *lines, rest = data.split(b"\n")
    events = []
    for line in lines:
        try:
            events.append(_DECODER.decode(line))
        except (msgspec.DecodeError, RecursionError):
            continue
    return events, rest


_DECODER = msgspec.json.Decoder(Event)


def report_of(event: Event) -> HostReport | None:
    """What is known of a host after this; None: nothing yet."""
    name = event.host
    if event.event == "unreachable":
        said = sentence(event.result)
        return HostReport(name, "unreachable", None, *said)
    if event.task != ASKED or event.event not in ("ok", "failed"):
        return None
    if event.too_large:
        return HostReport(name, "bad-answer", None, _too_large(event.too_large), "See what is on that host.")
    if event.event == "failed":
        said = sentence(event.result)
        reason = event.result.get("reason")
        if reason == "no-bnbenv":
            return HostReport(name, "no-bnbenv", None, said.because, _INSTALL)
        return HostReport(name, "bad-answer" if reason == "bad-answer" else "failed", None, *said)
    try:
        return HostReport(name, "ok", decode_answer(event.result.get("answer"), "answer"))
    except InputError as error:
        return HostReport(name, "bad-answer", None, _unread(error), _UPDATE)


_INSTALL = "Install it there: bnbenv fleet sync --bootstrap, or name it: bnbenv_executable in the inventory."
_ANEW = "Run it again: it is asked anew, and gets what fits what it is then."
_UPDATE = "Install the bnbenv of this machine there, by the role bnbenv.fleet.bootstrap."


def result_of(event: Event) -> HostResult | None:
    """What became of a host that was to be changed; None: nothing yet."""
    name = event.host
    if event.event == "unreachable":
        said = sentence(event.result)
        return HostResult(name, "unreachable", said.because, said.next_step)
    if event.event == "failed" and event.task != APPLIED:
        said = sentence(event.result)
        return HostResult(name, "failed", f"the bundle was not brought there: {said.because}", said.next_step)
    if event.task != APPLIED or event.event not in ("ok", "failed"):
        return None
    if event.too_large:
        return HostResult(name, "failed", _too_large(event.too_large))
    document = event.result.get("applied")
    if document is None:
        said = sentence(event.result)
        return HostResult(name, "failed", said.because, said.next_step)
    try:
        applied = decode_applied(document, "answer")
    except InputError as error:
        return HostResult(name, "failed", _unread(error), _UPDATE)
    # What the host tells people who brought a bundle themselves is of no use at a desk, which makes one for each class.
    step = _ANEW if applied.state == "no-combination" else applied.next_step
    return HostResult(name, applied.state, applied.because, step, applied)


def bootstrapped(failed: Event | None, numbers: dict[str, int] | None, host: str) -> HostResult | None:
    """What became of a host that was to get bnbenv: the event of its failure, or its numbers at the end."""
    if failed is not None:
        said = sentence(failed.result)
        state = "unreachable" if failed.event == "unreachable" else "failed"
        return HostResult(host, state, said.because, said.next_step)  # type: ignore[arg-type]
    if numbers is None:
        return None
    return HostResult(host, "changed" if numbers.get("changed") else "in-sync")


def _too_large(size: int) -> str:
    return f"its answer is too large ({size} characters, at most {LARGEST} are read)"


def _unread(error: InputError) -> str:
    place = f"{error.where}: " if error.where else ""
    return f"its answer cannot be used ({place}{error.expected})"
