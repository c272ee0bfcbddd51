"""The tags and branches of a git repository: as git lists them, and the one that a word means. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

TAGS, HEADS = "refs/tags/", "refs/heads/"

_LINE = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\t(\S+)")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_ABBREVIATED = re.compile(r"[0-9a-f]{7,39}")
# What git check-ref-format forbids, and what has a meaning of its own in a revision (HEAD~2, main@{1}, a..b).
_NO_NAME = re.compile(r"^[-/.]|[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|[/.]$|\.lock$|^@$")
_VERSION = re.compile(r"[vV]?([0-9]{1,9}(?:\.[0-9]{1,9}){1,3}(?:(?:a|b|rc|\.post|\.dev)[0-9]{1,9})?)")
_NEAR = 3  # tags that are proposed in place of one that does not exist


@dataclass(frozen=True)
class Refs:
    """What a repository has: full names (``refs/tags/0.50.1``) with the commits that they lead to, and its HEAD."""

    commits: dict[str, str]
    head: str | None = None

    def tags(self) -> dict[str, str]:
        return _below(self.commits, TAGS)

    def branches(self) -> dict[str, str]:
        return _below(self.commits, HEADS)


def parse_refs(text: str) -> Refs:
    """The output of ``git ls-remote``: of an annotated tag, the commit (``refs/tags/1.0^{}``) and not the tag."""
    commits: dict[str, str] = {}
    head, peeled = None, {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        commit, name = match[1], match[2]
        if name == "HEAD":
            head = commit
        elif name.endswith("^{}"):
            peeled[name[:-3]] = commit
        elif name.startswith((TAGS, HEADS)):
            commits[name] = commit
    return Refs({**commits, **peeled}, head)


def speakable(ref: str) -> bool:
    """Whether a word can name a tag, branch or commit; ``-x``, ``HEAD~1`` and ``a b`` cannot."""
    return 0 < len(ref) <= 250 and not _NO_NAME.search(ref)


def find(refs: Refs, ref: str) -> str | None:
    """The full name that a word means: a tag before a branch, and ``0.50.1`` is also ``v0.50.1``."""
    if ref in refs.commits:
        return ref
    versions = {version: tag for tag, version in _by_version(refs.tags())}
    for name in (TAGS + ref, HEADS + ref):
        if name in refs.commits:
            return name
    match = _VERSION.fullmatch(ref)
    if match and match[1] in versions:
        return TAGS + versions[match[1]]
    return None


def is_commit(ref: str) -> bool:
    """Whether a word is a whole commit id."""
    return _COMMIT.fullmatch(ref) is not None


def may_be_commit(ref: str) -> bool:
    """Whether a word can be the beginning of a commit id."""
    return _ABBREVIATED.fullmatch(ref) is not None


def releases(refs: Refs) -> dict[str, str]:
    """The versions that are tagged, with their commits, the newest last; tags that are no version are left out."""
    tags = refs.tags()
    return {version: tags[tag] for tag, version in sorted(_by_version(tags), key=lambda one: _order(one[1]))}


def newest_release(refs: Refs) -> str | None:
    """The tag of the newest version that is no pre-release."""
    final = [(version, tag) for tag, version in _by_version(refs.tags()) if re.fullmatch(r"[0-9.]+", version)]
    return max(final, key=lambda one: _order(one[0]))[1] if final else None


def proposals(refs: Refs, ref: str) -> tuple[str, ...]:
    """Names to propose for a word that names nothing: the releases next to a version, else what looks like the word.

    The newest release comes first; where nothing is near, the newest three.
    """
    from difflib import get_close_matches

    tags = [tag for tag, _ in sorted(_by_version(refs.tags()), key=lambda one: _order(one[1]))]
    newest = [tag] if (tag := newest_release(refs)) else tags[-1:]
    version = _version_of(ref)
    if version is not None:
        older = [tag for tag in tags if _order(_version_of(tag) or "") < _order(version)]
        near = [*older[-1:], *tags[len(older) : len(older) + 1]]
    else:
        near = get_close_matches(ref, [*refs.branches(), *refs.tags()][-5000:], _NEAR, 0.6)
    return tuple(dict.fromkeys([*newest, *near])) if near else tuple(reversed(tags[-_NEAR:]))


def _below(commits: dict[str, str], prefix: str) -> dict[str, str]:
    return {name[len(prefix) :]: commit for name, commit in commits.items() if name.startswith(prefix)}


def _by_version(tags: dict[str, str]) -> list[tuple[str, str]]:
    """Tag and version; where ``1.0`` and ``v1.0`` are both there, the plain one counts (it comes last)."""
    found = [(tag, version) for tag in tags if (version := _version_of(tag))]
    return sorted(found, key=lambda one: (one[0] == one[1], one[0]))


def _version_of(tag: str) -> str | None:
    match = _VERSION.fullmatch(tag)
    return match[1] if match else None


def _order(version: str) -> tuple[tuple[int, ...], int, int]:
    """A key for sorting: dev before a, b, rc before the release before post."""
    match = re.fullmatch(r"([0-9.]+?)(?:(\.dev|a|b|rc|\.post)([0-9]+))?", version)
    if match is None:
        return ((), 0, 0)
    rank = {".dev": 0, "a": 1, "b": 2, "rc": 3, None: 4, ".post": 5}[match[2]]
    return tuple(int(part) for part in match[1].split(".")), rank, int(match[3] or 0)
