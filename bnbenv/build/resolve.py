"""Which commit of a repository is meant: asked of the repository, or known from before where it cannot be asked."""

from __future__ import annotations

from dataclasses import dataclass

from bnbenv.build.git import Git
from bnbenv.build.place import Repository
from bnbenv.build.ports import Ports
from bnbenv.build.refs import TAGS, Refs, find, is_commit, may_be_commit, newest_release, proposals, speakable
from bnbenv.build.store import Store
from bnbenv.errors import BnbenvError, Failed, SourceUnreachable, UsageError

BRIEFLY = 8.0  # seconds for the list of tags, where others wait for the answer


@dataclass(frozen=True)
class Wanted:
    """``name`` is the full name (``refs/tags/0.50.1``), None where a commit id was named; ``shown`` what was.

    ``commit`` is known where the name is; ``fresh``: the repository said so just now.
    """

    name: str | None
    commit: str | None
    shown: str
    fresh: bool


def resolve(place: Repository, ref: str | None, git: Git, store: Store, ports: Ports) -> Wanted:
    """The commit that is meant. Raises UsageError ``no-such-ref``, SourceUnreachable, Failed ``no-git``."""
    ref = place.default if ref is None else ref
    if ref is not None and not speakable(ref):
        step = "Name a tag, a branch, or a commit id."
        raise UsageError("no-such-ref", f'"{ref[:80]}" cannot be the name of a tag, branch or commit', step)
    if ref is not None and is_commit(ref) and store.commit(place.address, ref):
        return Wanted(None, ref, ref, False)
    if place.remote and ports.offline:
        return _known(place, ref, store, ports, f"the network is off ({ports.offline})", None)
    try:
        refs = git.refs()
    except (SourceUnreachable, Failed) as error:
        if error.code not in ("source-unreachable", "access-refused", "no-git"):
            raise
        return _known(place, ref, store, ports, error.message, error)
    return _among(refs, ref, place, store)


def what_is_there(place: Repository, git: Git, store: Store, offline: str | None) -> Refs:
    """The tags and branches that can be had: all, or those that were fetched before. Raises as ``resolve`` does."""
    if place.remote and offline:
        refs = store.refs(place.address)
        if not refs.commits:
            raise not_here(place.asked, offline)
        return refs
    try:
        return git.refs(BRIEFLY)
    except (SourceUnreachable, Failed):
        refs = store.refs(place.address)
        if not refs.tags():
            raise
        return refs


def _among(refs: Refs, ref: str | None, place: Repository, store: Store) -> Wanted:
    if ref is None:
        tag = newest_release(refs)
        if tag is None:
            raise UsageError(
                "no-such-ref", f"{place.asked} has no tag of a release", "Name a branch or commit with --ref."
            )
        return Wanted(TAGS + tag, refs.commits[TAGS + tag], tag, True)
    if ref == "HEAD":
        if refs.head is None:
            raise UsageError("no-such-ref", f"{place.asked} has no commit that its HEAD leads to", _name(refs, ""))
        return Wanted("HEAD", refs.head, "HEAD", True)
    name = find(refs, ref)
    if name is not None:
        return Wanted(name, refs.commits[name], ref, True)
    if is_commit(ref):
        return Wanted(None, ref, ref, False)
    if may_be_commit(ref):
        return Wanted(None, store.commit(place.address, ref), ref, False)
    raise UsageError("no-such-ref", f"{place.asked} has no tag, branch or commit {ref}", _name(refs, ref))


def _known(
    place: Repository, ref: str | None, store: Store, ports: Ports, why: str, error: BnbenvError | None
) -> Wanted:
    """What was fetched before; of a repository that does not answer only what does not move, a tag or a commit."""
    refs = store.refs(place.address)
    name = TAGS + (newest_release(refs) or "") if ref is None else "HEAD" if ref == "HEAD" else find(refs, ref)
    commit = refs.head if name == "HEAD" else refs.commits.get(name or "")
    if commit is None and ref is not None and may_be_commit(ref):
        name, commit = None, store.commit(place.address, ref)
    stands = name is None or name.startswith(TAGS)
    if commit is None or (error is not None and (not stands or ref is None)):
        if error is not None:
            raise error
        raise not_here(f"{ref or 'a release'} of {place.asked}", ports.offline or "")
    shown = (name or commit).rpartition("/")[2]
    ports.progress.say(f"the source: {shown} (commit {commit[:9]}) as it was fetched before, since {why}")
    return Wanted(name, commit, ref or shown, False)


def not_here(what: str, switch: str) -> SourceUnreachable:
    """What was never fetched, while ``switch`` keeps the network off."""
    step = f"Unset {switch}, or name a folder or tarball with --source."
    return SourceUnreachable("offline", f"{what} was not fetched before, and the network is off ({switch})", step)


def _name(refs: Refs, ref: str) -> str:
    newest, *near = proposals(refs, ref) or ("",)
    if not newest:
        return "It has no tag of a release: name a branch or a commit."
    return f"Its newest release is {newest}{'; near are ' + ', '.join(near) if near else ''}."
