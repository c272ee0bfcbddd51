"""Credentials appear in no output, log or lock: blank them in a text, or take them out of a lock's addresses.

Pure functions over text. Each pattern starts at a literal and looks ahead a bounded way, so that garbage of any
length is read in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

BLANK = "****"

# Shorter strings are not blanked wherever they stand: they are part of ordinary words. In addresses they are.
SHORTEST = 4

# user:password@ as every tool reads it: up to the last @ before the path.
_USERINFO = re.compile(r":/{2,8}([^\s/?#\"'<>\\`]{1,16384})@")
# A password with a raw slash makes an address that no tool can use, and every tool then prints it in its error.
_BROKEN_USERINFO = re.compile(
    r":/{2,8}(?![\[])([^\s/?#@:\"'<>\\`]{0,256}:(?!\d{1,5}(?:[/?#\s\"'<>)`]|$))(?:[^\s\"'<>`:]|:(?!//)){0,16384})@"
)
_QUERY = re.compile(r"\?([^\s#?\"'<>`]{1,8192})")
_PARAMETER = re.compile(r"([^=&;]{1,64})=([^&;]+)")
_SECRET_PARAMETER = re.compile(
    r"token|secret|passw|pwd|signature|credential|authori[sz]|api[._-]?key|access[._-]?key|^(?:sig|key|auth)$",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(authorization\"?[ \t]{0,4}[:=][ \t]{0,4}\"?(?:basic|bearer|token)[ \t]{1,4})[^\s\"']{1,16384}", re.IGNORECASE
)
_VARIABLE = re.compile(
    r"(UV_INDEX_[A-Z0-9_]{1,128}_(?:PASSWORD|USERNAME)[\"']?\s{0,2}[:=]\s{0,2}[\"']?)[^\s\"',}]{1,16384}"
)
# Tokens that say themselves what they are: of Hugging Face, GitHub, GitLab, PyPI, OpenAI.
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(hf_|gh[pousr]_|github_pat_|glpat-|pypi-Ag|sk-(?:proj-|ant-)?)[A-Za-z0-9]{20,1024}"
)
_CREDENTIAL_VARIABLE = re.compile(r"UV_INDEX_.+_PASSWORD|UV_PUBLISH_(?:PASSWORD|TOKEN)")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with ``****`` for the credentials of every address in it; hosts and paths stay.

    Blanked are user and password before a host, query parameters that are named like a token, authorization headers,
    the values of ``UV_INDEX_*_PASSWORD``, tokens of the usual forms (``hf_...``), and each of ``secrets`` (of four
    characters or more) wherever it stands.
    """
    text = _USERINFO.sub(f"://{BLANK}@", text)
    text = _BROKEN_USERINFO.sub(f"://{BLANK}@", text)
    text = _QUERY.sub(_blank_query, text)
    text = _HEADER.sub(rf"\g<1>{BLANK}", text)
    text = _VARIABLE.sub(rf"\g<1>{BLANK}", text)
    text = _TOKEN.sub(rf"\g<1>{BLANK}", text)
    for secret in sorted({one for one in secrets if len(one) >= SHORTEST}, key=lambda one: (-len(one), one)):
        text = text.replace(secret, BLANK)
    return text


def redact_variables(words: Iterable[str]) -> list[str]:
    """The words of an Ansible command with ``****`` for variables that are given in them: they may hold passwords."""
    found: list[str] = []
    before = ""
    for word in words:
        option, value = ("", word) if before in ("-e", "--extra-vars") else _split_variables(word)
        before = word
        found.append(f"{option}{BLANK}" if value and not value.startswith("@") else word)
    return found


def _split_variables(word: str) -> tuple[str, str]:
    for option in ("--extra-vars=", "-e"):
        if word.startswith(option):
            return option, word.removeprefix(option)
    return "", ""


def _blank_query(match: re.Match[str]) -> str:
    def blank(parameter: re.Match[str]) -> str:
        return f"{parameter[1]}={BLANK}" if _SECRET_PARAMETER.search(parameter[1]) else parameter[0]

    return "?" + _PARAMETER.sub(blank, match[1])


def strip_credentials(text: str) -> str:
    """The text of a lock without the credentials of its addresses: ``https://host/file.whl`` stays usable.

    User and password are left out, and so are query parameters that are named like a token.
    """
    return _QUERY.sub(_strip_query, _USERINFO.sub("://", text))


def _strip_query(match: re.Match[str]) -> str:
    parameters = re.split("[&;]", match[1])
    kept = [one for one in parameters if not _SECRET_PARAMETER.search(one.partition("=")[0][:64])]
    if len(kept) == len(parameters):
        return match[0]
    return "?" + "&".join(kept) if kept else ""


def secrets_of(urls: Iterable[str], environ: Mapping[str, str] | None = None) -> frozenset[str]:
    """The credentials that stand in addresses and in the environment, as written and percent-decoded.

    A user name is one only where no password follows it (a token), since ``user`` is also an ordinary word.
    """
    found: set[str] = set()
    for url in urls:
        for userinfo in _USERINFO.findall(url) + _BROKEN_USERINFO.findall(url):
            user, _, password = userinfo.partition(":")
            found |= {password or user, unquote(password or user)}
        for query in _QUERY.findall(url):
            found |= {value for name, value in _PARAMETER.findall(query) if _SECRET_PARAMETER.search(name)}
    for name, value in (environ or {}).items():
        if _CREDENTIAL_VARIABLE.fullmatch(name):
            found.add(value)
    return frozenset(one for one in found if one)


def without_userinfo(url: str) -> str:
    """An address without user and password."""
    return _USERINFO.sub("://", url, count=1)
