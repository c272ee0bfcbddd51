"""What is worth trying again, and after which pause: faults of a network that pass by themselves, within a limit."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bnbenv.process import Finished

# Answers of a server that is busy or being restarted.
STATUSES = frozenset({408, 429, 500, 502, 503, 504})

_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})")
# uv 0.13: a body that broke off, a connection that was closed, an answer that did not come.
_BROKEN_OFF = re.compile(
    r"error decoding response body|end of file before message length reached|error reading a body from connection|"
    r"connection closed before message completed|connection reset|broken pipe|network timeout|operation timed out|"
    r"the remote end hung up unexpectedly|early EOF",
    re.I,
)
# What is said beside it and will not pass: it never came to a connection, or the file is another one.
_LASTING = re.compile(r"dns error|tcp connect error|client error \(Connect\)|certificate|hash mismatch", re.I)


@dataclass(frozen=True)
class Backoff:
    """Pauses that double: ``first`` seconds, ``times`` in all. Each is shortened by up to half, at random, so that many
    machines do not come back at one moment."""

    first: float
    times: int

    def pauses(self, chance: Callable[[], float] = random.random) -> Iterator[float]:
        """The pauses in seconds; ``chance`` gives numbers from 0 to 1."""
        for number in range(self.times):
            yield self.first * 2**number * (0.5 + 0.5 * chance())


PAGE = Backoff(0.3, 3)
STEP = Backoff(2.0, 2)  # uv has tried each file several times by then
LIMIT = 300.0  # seconds after its first failure a step of uv is not started again


def may_pass(done: Finished) -> bool:
    """Whether uv failed of something that may be over the next time. Pure.

    Never: what was refused (401, 403), is not there (404), or is another file than was locked.
    """
    if done.ok or done.timed_out or done.signal_name:
        return False
    text = re.split(r"^\s*\[(?:stdout|stderr)\]\s*$", done.stderr, maxsplit=1, flags=re.M)[0]
    statuses = [int(status) for status in _STATUS.findall(text)]
    if statuses:
        return all(status in STATUSES for status in statuses)
    return bool(_BROKEN_OFF.search(text)) and not _LASTING.search(text)


def persistently(
    attempt: Callable[[], Finished],
    say: Callable[[str], None],
    environ: Mapping[str, str | None],
    backoff: Backoff = STEP,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Finished:
    """Run a step of uv, and again after a fault that may pass; returns how the last run ended.

    Files that arrived are in uv's cache and are not loaded again. With ``UV_HTTP_RETRIES=0`` nothing is tried twice.
    """
    done = attempt()
    if environ.get("UV_HTTP_RETRIES") == "0":
        return done
    end = clock() + LIMIT
    for number, pause in enumerate(backoff.pauses(), 2):
        if not may_pass(done) or clock() > end:
            break
        say(f"the connection to a package source broke off: trying again ({number} of {backoff.times + 1})")
        sleep(pause)
        done = attempt()
    return done
