"""What is tried again: faults that pass by themselves, with growing pauses and within a limit; nothing else."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from bnbenv.envs.http import FetchError, Page, get_with_retry
from bnbenv.envs.retry import LIMIT, STEP, Backoff, may_pass, persistently
from bnbenv.process import Command, Finished

# What uv 0.13 printed when these things happened to it.
CUT = """\
error: Failed to download `tiny @ http://localhost:34707/files/tiny-1.0-py3-none-any.whl`
  cause: Failed to write to the distribution cache
  cause: error decoding response body
  cause: request or response body error
  cause: error reading a body from connection
  cause: end of file before message length reached
"""
STALLED = """\
error: Failed to download `tiny @ http://localhost:34707/files/tiny-1.0-py3-none-any.whl`
  cause: Failed to extract archive: tiny-1.0-py3-none-any.whl
  cause: I/O operation failed during extraction
  cause: Failed to download distribution due to network timeout. Try increasing UV_HTTP_TIMEOUT (current value: 3s).
"""
ANSWERED = """\
error: Failed to download `tiny @ http://localhost:34707/files/tiny-1.0-py3-none-any.whl`
  cause: Request failed after 3 retries in 10.0s
  cause: Failed to fetch: http://localhost:34707/files/tiny-1.0-py3-none-any.whl
  cause: HTTP status server error ({status}) for url (http://localhost:34707/files/tiny-1.0-py3-none-any.whl)
"""
CLOSED = """\
error: Failed to fetch: http://127.0.0.1:1/simple/tiny/
  cause: error sending request for url (http://127.0.0.1:1/simple/tiny/)
  cause: client error (Connect)
  cause: tcp connect error
  cause: Connection refused (os error 111)
"""
REFUSED = """\
error: Failed to fetch: http://localhost:34707/auth/tiny/
  cause: HTTP status client error (401 Unauthorized) for url (http://localhost:34707/auth/tiny/)
"""
OTHER = """\
error: Failed to download `tiny==1.0`
  cause: Hash mismatch for `tiny==1.0`
"""
BUILD = """\
error: Failed to build `tiny==1.0`
  cause: The build backend returned an error
[stderr]
ConnectionResetError: [Errno 104] Connection reset by peer
"""


def finished(stderr: str, code: int = 2, timed_out: bool = False) -> Finished:
    return Finished(Command(("uv",), 1), code, "", stderr, timed_out, 0.1)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        (CUT, True),
        (STALLED, True),
        *(
            (ANSWERED.format(status=status), True)
            for status in ("500 Internal Server Error", "503 Service Unavailable")
        ),
        (ANSWERED.format(status="429 Too Many Requests"), True),
        *((ANSWERED.format(status=status), False) for status in ("404 Not Found", "403 Forbidden", "501 Nothing")),
        (REFUSED, False),
        (CLOSED, False),
        (OTHER, False),
        (BUILD, False),
        # Broken off, but before it ever came to a connection, or beside what will not pass.
        (CLOSED.replace("Connection refused (os error 111)", "Connection reset by peer (os error 104)"), False),
        (CUT + OTHER, False),
        (ANSWERED.format(status="503 Service Unavailable") + REFUSED, False),
        ("", False),
    ],
)
def test_only_what_may_pass_is_tried_again(text: str, passes: bool) -> None:
    assert may_pass(finished(text)) is passes


def test_what_was_ended_or_took_too_long_is_not_tried_again() -> None:
    assert not may_pass(finished(CUT, timed_out=True))
    assert not may_pass(finished(CUT, code=-9))
    assert not may_pass(finished(CUT, code=0))


class Attempts:
    """A step that ends in these ways, one after the other; ``said`` and ``slept`` are what happened between them."""

    def __init__(self, *texts: str) -> None:
        self.left = [finished(text, 2 if text else 0) for text in texts]
        self.said: list[str] = []
        self.slept: list[float] = []
        self.lasts = 0.0  # seconds, each of them
        self.now = 1000.0

    def run(self, **environ: str) -> Finished:
        return persistently(self.once, self.said.append, environ, sleep=self.slept.append, clock=lambda: self.now)

    def once(self) -> Finished:
        self.now += self.lasts
        return self.left.pop(0)


def test_a_step_that_works_the_second_time() -> None:
    attempts = Attempts(CUT, "", "never")
    assert attempts.run().ok
    assert attempts.said == ["the connection to a package source broke off: trying again (2 of 3)"]
    assert len(attempts.slept) == 1


def test_a_step_is_given_up_after_the_third_time() -> None:
    attempts = Attempts(CUT, STALLED, CUT, "never")
    assert attempts.run().stderr == CUT
    assert [line[-8:] for line in attempts.said] == ["(2 of 3)", "(3 of 3)"]
    assert attempts.slept[1] > attempts.slept[0] >= STEP.first / 2


def test_a_step_that_then_fails_of_something_else_ends_there() -> None:
    attempts = Attempts(CUT, OTHER, "never")
    assert attempts.run().stderr == OTHER


@pytest.mark.parametrize(("lasts", "tried"), [(LIMIT / 4, 3), (LIMIT + 1, 2)])
def test_no_step_is_begun_again_after_the_limit(lasts: float, tried: int) -> None:
    attempts = Attempts(CUT, CUT, CUT, "never")
    attempts.lasts = lasts
    attempts.run()
    assert len(attempts.slept) == tried - 1


def test_nothing_is_tried_twice_where_uv_was_told_so() -> None:
    attempts = Attempts(CUT, "never")
    assert not attempts.run(UV_HTTP_RETRIES="0").ok
    assert (attempts.said, attempts.slept) == ([], [])


@pytest.mark.parametrize(("chance", "pauses"), [(1.0, [1.0, 2.0, 4.0]), (0.0, [0.5, 1.0, 2.0])])
def test_pauses_double_and_are_shortened_by_up_to_half(chance: float, pauses: list[float]) -> None:
    assert list(Backoff(1.0, 3).pauses(lambda: chance)) == pauses


class Answers:
    """An HTTP port that gives these answers: a status, or what is the matter."""

    def __init__(self, *answers: int | FetchError) -> None:
        self.answers: Iterator[int | FetchError] = itertools.chain(answers, itertools.repeat(answers[-1]))
        self.asked = 0

    def get(self, url: str, accept: str, deadline: float) -> Page:
        self.asked += 1
        answer = next(self.answers)
        if isinstance(answer, FetchError):
            raise answer
        return Page(answer, "text/html", b"", url)


BRIEFLY = Backoff(0.001, 3)
DROPPED = FetchError("the connection was dropped", transient=True)


@pytest.mark.parametrize(
    ("answers", "asked", "status"),
    [
        ((200,), 1, 200),
        ((404,), 1, 404),
        ((503, 200), 2, 200),
        ((DROPPED, 503, 429, 200), 4, 200),
        ((503,), 4, 503),
    ],
)
def test_a_page_is_asked_for_again(answers: tuple[int | FetchError, ...], asked: int, status: int) -> None:
    http = Answers(*answers)
    assert get_with_retry(http, "u", "a", time.monotonic() + 60, BRIEFLY).status == status
    assert http.asked == asked


@pytest.mark.parametrize(("fault", "asked"), [(DROPPED, 4), (FetchError("the host name is unknown"), 1)])
def test_a_page_that_never_comes(fault: FetchError, asked: int) -> None:
    http = Answers(fault)
    with pytest.raises(FetchError, match=fault.reason):
        get_with_retry(http, "u", "a", time.monotonic() + 60, BRIEFLY)
    assert http.asked == asked


def test_no_pause_goes_beyond_the_time_that_is_left() -> None:
    http = Answers(503)
    begun = time.monotonic()
    assert get_with_retry(http, "u", "a", begun + 5, Backoff(100, 3)).status == 503
    assert http.asked == 1
    assert time.monotonic() - begun < 5
