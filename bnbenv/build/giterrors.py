"""What git says when it fails, as bnbenv's errors. Pure. The texts are those of git 2.39 to 2.51 with LC_ALL=C."""

from __future__ import annotations

import re

from bnbenv.errors import BnbenvError, Failed, SourceUnreachable, UsageError
from bnbenv.process import Finished
from bnbenv.redact import redact

DETAIL = 20  # lines of git's text that are shown

_AGAIN = "Check the address and the network, then run it again; or name a folder or tarball with --source."
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded")
_OWNER = re.compile(r"detected dubious ownership in repository at '([^'\n]{1,300})'")
_HOST_KEY = re.compile(r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED")
_LOGIN = re.compile(
    r"Authentication failed|could not read (?:Username|Password)|terminal prompts disabled|Permission denied \("
    r"|returned error: (?:401|403|407)|HTTP Basic: Access denied|Invalid username or"
)
_NO_REPOSITORY = re.compile(
    r"does not appear to be a git repository|not a git repository|[Rr]epository not found|does not exist"
    r"|repository '[^'\n]*' not found|returned error: (?:404|410)|not valid: is this a git repository"
)
_CAUSES = tuple(
    (re.compile(pattern), phrase)
    for pattern, phrase in (
        (r"Could not resolve (?:host|proxy)|Name or service not known", "the host name is unknown"),
        (r"SSL certificate problem|certificate verif", "its TLS certificate is not trusted"),
        (r"Connection refused|Couldn't connect to server", "connection refused"),
        (r"[Tt]imed out|[Tt]imeout was reached|transfer closed|Operation too slow", "no answer in time"),
        (r"Network is unreachable|No route to host", "there is no way to it in the network"),
        (r"returned error: (5\d\d|429)", r"it answers with HTTP \1"),
        (r"[Pp]roxy", "the proxy does not let it through"),
        (r"early EOF|RPC failed|hung up unexpectedly|unexpected disconnect", "the connection was dropped"),
        (r"Connection (?:reset|closed)|Failed to connect|ould not read from remote", "the connection was dropped"),
        (r"unable to access", "it does not speak as a git server does"),
    )
)
_PROGRESS = re.compile(r":\s{1,4}\d{1,3}% \(|^remote: (?:Enumerating|Counting|Compressing|Total) ")
_COULD_NOT = re.compile(
    r"couldn't find remote ref|not our ref|no such remote ref|does not allow request for unadvertised"
)
_SHALLOW = re.compile(
    r"dumb http transport does not support shallow|shallow (?:capabilities|update)|does not support --?depth"
)


def explain(done: Finished, asked: str, secrets: frozenset[str]) -> BnbenvError:
    """The error that a failed git means; ``asked`` is the source as the user knows it, without credentials."""
    text = redact(done.stderr.strip() or done.stdout.strip(), secrets)
    detail = "\n".join(_lines(text)[-DETAIL:])
    if _NO_SPACE.search(text):
        step = "Free some space there (bnbenv gc), then run it again."
        return Failed("no-space", f"no space left on the device for the source {asked}", step, detail)
    if done.timed_out:
        message = f"{asked} did not answer in {done.command.timeout:.0f} s"
        return SourceUnreachable("source-unreachable", message, _AGAIN, detail)
    owner = _OWNER.search(text)
    if owner:
        message = f"git does not touch {asked}: the repository belongs to another user"
        return Failed(
            "git-failed", message, f"Trust it with: git config --global --add safe.directory {owner[1]}", detail
        )
    if _HOST_KEY.search(text):
        step = "Connect to it once with ssh by hand, which asks whether its key is to be trusted."
        return SourceUnreachable("source-unreachable", f"ssh does not know the host of {asked}", step, detail)
    if _LOGIN.search(text):
        message = f"{asked} is not there, or wants a login that git does not have"
        step = "Check the address; a login goes into git's credential helper, ~/.netrc or an ssh agent."
        return SourceUnreachable("access-refused", message, step, detail)
    if _NO_REPOSITORY.search(text):
        step = "Name a repository of bitsandbytes, a folder with its tree, or a tarball."
        return UsageError("not-a-repository", f"there is no git repository at {asked}", step, detail)
    for pattern, phrase in _CAUSES:
        match = pattern.search(text)
        if match:
            return SourceUnreachable(
                "source-unreachable", f"{asked} cannot be reached: {match.expand(phrase)}", _AGAIN, detail
            )
    first = next(
        (line for line in _lines(text) if line.startswith(("fatal:", "error:"))), f"exit code {done.returncode}"
    )
    return Failed("git-failed", f"git cannot get the source {asked}: {first[:200]}", "", detail)


def is_missing(done: Finished) -> bool:
    """Whether the far end has not, or does not give, what was asked for."""
    return _COULD_NOT.search(done.stderr) is not None


def is_no_shallow(done: Finished) -> bool:
    """Whether the far end can only give the whole history (files behind a plain web server, a bundle)."""
    return _SHALLOW.search(done.stderr) is not None


def _lines(text: str) -> list[str]:
    """The lines without the states of progress."""
    return [line.rstrip() for line in text.splitlines() if line.strip() and not _PROGRESS.search(line)]
