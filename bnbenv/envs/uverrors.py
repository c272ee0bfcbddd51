"""What uv says when it fails, as bnbenv's errors: the right exit code, one sentence, the next step.

The texts are those of uv 0.13, each produced by a real failure. uv gives a headline and a chain of ``cause:`` lines,
sometimes a ``hint:``, and below ``[stdout]`` or ``[stderr]`` what a build printed, in which anything may stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bnbenv.errors import BnbenvError, Failed, NoCombination, SourceUnreachable, UsageError
from bnbenv.process import Finished
from bnbenv.redact import redact

DETAIL = 40  # lines of uv's text that are shown

_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|There is not enough space on the disk", re.I)
_OFFLINE = re.compile(r"network was disabled|Network connectivity is disabled", re.I)
_REFUSED = re.compile(
    r"\((401 [^)]*)\)|returned a (403 [^.\n]*) error|HTTP status client error \(((?:401|403|407) [^)]*)"
)
_STATUS = re.compile(r"HTTP status (?:client|server) error \(([^)]*)\)")
_NETWORK = re.compile(
    r"error sending request|Failed to fetch: |HTTP status (?:client|server) error|error decoding response body|"
    r"unable to access '|tcp connect error|dns error|due to network timeout"
)
_NO_INDEX_PAGE = re.compile(r"Received some unexpected (?:JSON|HTML)|(?:Missing|Unsupported) `Content-Type`")
_NO_PERMISSION = re.compile(r"Permission denied|Read-only file system|Operation not permitted", re.I)
_HASH = re.compile(r"Hash mismatch for `([^`]+)`|Hash mismatch", re.I)
_DAMAGED = re.compile(r"Failed to extract archive|Invalid zip file", re.I)
_NOT_OFFERED = re.compile(
    r"(\S+) was not found in the (?:package registry|provided package locations)|there (?:is|are) no versions? of (\S+)"
)
_UNSOLVABLE = re.compile(r"No solution found when resolving|requirements are unsatisfiable", re.I)
_BUILD = re.compile(r"Failed to (?:download and )?build `([^`]+)`|The build backend returned an error")
_OLD_PYTHON = re.compile(r"resolved to (Python [\d.]+), which is incompatible with .* requirement: `([^`]+)`")
_NO_PYTHON = re.compile(
    r"No interpreter found|No download found|Invalid version request|Failed to (?:inspect|query) Python|"
    r"Python downloads are not allowed",
    re.I,
)
_REQUIREMENT = re.compile(r"Couldn't parse requirement|Distribution not found at: ")
_LOCK = re.compile(r"Not a valid `pylock\.toml` file|does not match package (?:version|name) `")
_SETTINGS = re.compile(r"Failed to parse: (\S+)|invalid value '.*' for '--\S+")

_ADDRESS = re.compile(
    r"for url \((\S+?)\)|Failed to fetch: (\S+)|An index(?: URL)? \((\S+?)\)|unexpected (?:JSON|HTML) from `(\S+?)`|"
    r"`Content-Type` header for `(\S+?)`|unable to access '(\S+?)'"
)
# It is bnbenv that uses the option, with a uv that it was tried with.
_EXPERIMENTAL = re.compile(r"^warning: The `--pylock` option is experimental.*\n?", re.M)
_OS_ERROR = re.compile(r"\s*\(os error \d+\)")


def explain(done: Finished, task: str, secrets: Iterable[str] = ()) -> BnbenvError:
    """What uv said, as an error. ``task`` is what it had to do ("resolve the packages"). Pure.

    ``secrets`` are credentials that are blanked wherever they stand, beside those of addresses.
    """
    text = redact(_EXPERIMENTAL.sub("", done.stderr).strip() or done.stdout.strip(), secrets)
    if done.timed_out:
        message = f"uv did not {task} within {done.command.timeout:.0f} s; nothing in use was changed"
        return SourceUnreachable("uv-timeout", message, "Run it again: what was downloaded is kept.", shorten(text))
    if done.signal_name:
        message = f"uv was ended by {done.signal_name} while it had to {task}"
        return Failed("uv-died", message, "Run it again; if memory is short, close other programs.", shorten(text))
    chain = own_words(text)
    error = (
        _about_disk(text, chain, task)
        or _about_sources(chain)
        or _about_input(chain, task)
        or _about_python(chain)
        or _about_packages(chain)
    )
    if error is None:
        step = "The text above is uv's own." if len(text.splitlines()) > 1 else ""
        error = Failed("uv-failed", f"uv could not {task}: {headline(chain)}", step)
    if headline(text) not in error.message or len(text.splitlines()) > 1:
        error.detail = shorten(text)
    return error


def _about_disk(text: str, chain: str, task: str) -> BnbenvError | None:
    """A full disk ends builds too, so all of the text is looked at."""
    if not _NO_SPACE.search(text):
        return None
    file = re.search(r"(?:`([^`\n]+)`| to ((?:(?! to )[^`\n])+)): (?:No space|Disk quota|There is not)", chain, re.I)
    place = f" at {file[1] or file[2]}" if file else ""
    message = f"no space left on the device to {task}{place}; nothing in use was changed"
    return Failed(
        "no-space",
        message,
        "Free some space, then run it again; uv cache prune and bnbenv gc delete what is not needed.",
    )


def _about_sources(chain: str) -> BnbenvError | None:
    if _OFFLINE.search(chain):
        message = "a file is needed that is not in uv's cache, and the network is switched off"
        return SourceUnreachable("offline", message, "Unset BNBENV_OFFLINE and UV_OFFLINE, then run it again.")
    where = f"{address(chain)}: " if address(chain) else ""
    refused = _REFUSED.search(chain)
    if refused:
        status = next(group for group in refused.groups() if group)
        step = "Check that index's user and password: in its address, in UV_INDEX_<NAME>_PASSWORD, or in ~/.netrc"
        return SourceUnreachable("access-refused", f"a package source refuses access: {where}{status}", step)
    if _NETWORK.search(chain):
        status = _STATUS.search(chain)
        what = f"answers with an error: {where}{status[1]}" if status else f"does not answer: {where}{cause(chain)}"
        step = "Check the network and the index in bnbenv.toml, uv.toml or pip.conf, then run it again."
        return SourceUnreachable("source-unreachable", f"a package source {what}", step)
    if _NO_INDEX_PAGE.search(chain):
        message = f"a package source answers with something else than packages: {where}{cause(chain)}"
        step = "Check the address of that index, and whether it wants a login first."
        return SourceUnreachable("no-index", message, step)
    return None


def _about_input(chain: str, task: str) -> BnbenvError | None:
    if _NO_PERMISSION.search(chain):
        message = f"uv could not {task}, for lack of permission: {cause(chain)}"
        return Failed("no-permission", message, "Run it as the user who owns that folder.")
    mismatch = _HASH.search(chain)
    if mismatch:
        name = mismatch[1] or "a package"
        message = f"the file of {name} is not the one that was locked (its hash differs); nothing in use was changed"
        step = "If the source is right and the file was replaced there, choose again with: bnbenv lock"
        return Failed("hash-mismatch", message, step)
    if _DAMAGED.search(chain):
        message = f"a package's file is damaged: {headline(chain)}: {cause(chain)}"
        return Failed("damaged-file", message, "Run it again; if it stays, look at what the source serves.")
    if _LOCK.search(chain):
        message = f"uv does not accept the lock, which somebody may have edited: {_with_cause(chain)}"
        return UsageError("lock-not-accepted", message, "Choose again with: bnbenv lock")
    if _REQUIREMENT.search(chain):
        message = f"one of the requirements in bnbenv.toml cannot be used: {_with_cause(chain)}"
        return UsageError("bad-requirement", message, "Correct it there, then run it again.")
    settings = _SETTINGS.search(chain)
    if settings:
        message = f"uv does not accept its settings: {headline(chain)}"
        return UsageError("uv-settings", message, "Correct uv.toml or the UV_ variable, then run it again.")
    return None


def _about_python(chain: str) -> BnbenvError | None:
    old = _OLD_PYTHON.search(chain)
    if old:
        message = f"the lock does not fit this machine: it asks for Python {old[2]}, and here is {old[1]}"
        return NoCombination("lock-does-not-fit", message, "Choose again with: bnbenv lock")
    if _NO_PYTHON.search(chain):
        message = f"no Python that can be used was found: {headline(chain)}"
        return Failed("no-python", message, "Install a Python that bnbenv.toml allows, then run it again.")
    return None


def _about_packages(chain: str) -> BnbenvError | None:
    build = _BUILD.search(chain)
    if build:
        message = f"{build[1] or 'a package'} has no wheel for this machine, and building it failed: {cause(chain)}"
        step = "Ask for another version of it in bnbenv.toml, or install what its build needs."
        return Failed("build-failed", message, step)
    if not _UNSOLVABLE.search(chain):
        return None
    missing = _NOT_OFFERED.search(chain)
    if missing:
        name = (missing[1] or missing[2]).rstrip(",")
        step = "Check the spelling in bnbenv.toml, or name the index that has it: indexes = [...] in [sources]"
        return NoCombination("not-offered", f"no package source offers {name}", step)
    step = "The text above says which; change requirements in bnbenv.toml."
    return NoCombination("unsatisfiable", "the packages asked for do not fit together", step)


def own_words(text: str) -> str:
    """uv's own sentences, without what a build printed."""
    return re.split(r"^[ \t]*\[(?:stdout|stderr)\][ \t]*$", text, maxsplit=1, flags=re.M)[0]


def headline(text: str) -> str:
    """The first line that is no warning and does not tell which Python is used, without ``error:``."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = ("warning", "using python ")
    line = next((line for line in lines if not line.lower().startswith(told)), "it did not say why")
    return _OS_ERROR.sub("", line.removeprefix("error:").strip())


def _with_cause(chain: str) -> str:
    return headline(chain) if cause(chain) == headline(chain) else f"{headline(chain)}: {cause(chain)}"


def cause(chain: str) -> str:
    """The last cause, where things went wrong; the headline where there is none."""
    git = re.search(r"unable to access '[^']*': (.+)", chain)
    if git:
        return git[1].strip()
    causes = re.findall(r"^[ \t]*cause: (.+)$", chain, re.M)
    said = [one for one in causes if not re.match(r"client error \(|error sending request", one)] or causes
    return _OS_ERROR.sub("", said[-1]).strip() if said else headline(chain)


def address(chain: str) -> str:
    """The address that was asked, if one is named."""
    found = _ADDRESS.search(chain)
    return next((group for group in found.groups() if group), "") if found else ""


def shorten(text: str) -> str:
    """The beginning and the end of a long text: the reason stands in one of them."""
    lines = text.splitlines()
    if len(lines) <= DETAIL:
        return text
    left = len(lines) - DETAIL
    return "\n".join([*lines[: DETAIL // 2], f"... {left} more lines ...", *lines[-(DETAIL // 2) :]])
