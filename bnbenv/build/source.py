"""The source of bitsandbytes: a git tag, a repository, a folder or a tarball, as a private copy that may be built in."""

from __future__ import annotations

from bnbenv.build.model import Tree
from bnbenv.build.ports import Ports


def fetch(order_source: str | None, ref: str | None, ports: Ports, upstream: str) -> Tree:
    """The tree that is asked for, in a folder of its own below ``ports.home / "work"``.

    ``order_source`` is None for upstream's repository, whose address is ``upstream``; then ``ref`` None means its
    newest release. Whoever calls it owns ``Tree.folder`` and removes it (or moves it) when done.
    """
    raise NotImplementedError


def offered(source: str | None, ports: Ports, upstream: str) -> dict[str, str]:
    """The versions that a source has, with the commit (or the digest) of each. Quick: nothing is fetched of git."""
    raise NotImplementedError


def as_it_is(source: str | None) -> bool:
    """Whether a source is one tree and no repository to choose a tag of: a folder with files in it, or a tarball."""
    raise NotImplementedError
