"""The source of bitsandbytes (a git tag, a repository, a folder, a tarball) as a private copy that may be built in."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bnbenv.build import archive, files
from bnbenv.build.download import check_sha256, download
from bnbenv.build.git import Git
from bnbenv.build.model import Origin, Tree
from bnbenv.build.place import Folder, Repository, Tarball, locate
from bnbenv.build.ports import Ports
from bnbenv.build.recognise import LARGEST, Known, Read, recognise
from bnbenv.build.refs import HEADS, TAGS, releases
from bnbenv.build.resolve import not_here, resolve, what_is_there
from bnbenv.build.store import Store, clear, part
from bnbenv.progress import during

WORK, SOURCES, TREE = "work", "sources", "tree-"


def fetch(order_source: str | None, ref: str | None, ports: Ports, upstream: str) -> Tree:
    """The tree that is asked for, in a folder ``tree-*`` of its own below ``ports.home / "work"``.

    ``order_source`` None is upstream's repository, whose address is ``upstream``. Without a ``ref`` a folder or tarball
    is taken as it is, upstream's newest release, and of another repository what its HEAD leads to. Whoever calls it
    owns ``Tree.folder``, and removes or moves it.

    Raises UsageError (``bad-source``, ``no-such-source``, ``no-such-ref``, ``not-a-repository``, ``not-bitsandbytes``,
    ``source-too-old``, ``source-too-large``, ``unsafe-source``, ``unreadable-source``, ``sha256-needed``), Failed
    (``source-changed``, ``no-git``, ``no-space``, ``git-failed``), SourceUnreachable (``offline``,
    ``source-unreachable``, ``access-refused``), OSError.
    """
    place = locate(order_source, ref, upstream)
    if isinstance(place, Repository):
        return _of_repository(place, ref, ports)
    if isinstance(place, Tarball):
        return _of_tarball(place, ports)
    return _of_folder(place, ports)


def offered(source: str | None, ports: Ports, upstream: str) -> dict[str, str]:
    """The versions that a source has, with the commit of each (for a folder or tarball that is none: its digest).

    Of a repository only the list of its tags is asked for; offline, or where it does not answer, those that were
    fetched before are known. Raises as ``fetch`` does.
    """
    place = locate(source, None, upstream)
    if isinstance(place, Repository):
        return releases(what_is_there(place, _git(place, ports), _store(ports), ports.offline))
    tree = fetch(source, None, ports, upstream)
    shutil.rmtree(tree.folder, ignore_errors=True)
    return {tree.version: tree.origin.commit or tree.origin.digest}


def as_it_is(source: str | None) -> bool:
    """Whether a source is one tree and no repository to choose a tag of: a folder with files in it, or a tarball.

    Raises UsageError where it can be neither.
    """
    return source is not None and not isinstance(locate(source, None, "https://upstream.invalid/"), Repository)


def _store(ports: Ports) -> Store:
    return Store(ports.home / SOURCES)


def _git(place: Repository | Folder, ports: Ports) -> Git:
    address = place.address if isinstance(place, Repository) else str(place.path)
    return Git(ports.runner, ports.environ, ports.sysroot, address, place.asked)


# ---- the three kinds -------------------------------------------------------------------------------------------


def _of_repository(place: Repository, ref: str | None, ports: Ports) -> Tree:
    git, store = _git(place, ports), _store(ports)
    with during(ports.progress, f"asking {place.asked} what it has"):
        found = resolve(place, ref, git, store, ports)
    commit, tar = found.commit, store.tar(place.address, found.commit) if found.commit else None
    if commit is None or tar is None:
        if place.remote and ports.offline:  # what is there of it is damaged
            raise not_here(f"{found.shown} of {place.asked}", ports.offline)
        if place.address.startswith("http://"):
            ports.progress.say(f"{place.asked} is not encrypted: whoever is on the way can change what is compiled")
        what = f"fetching bitsandbytes {found.shown}"
        with part(ports.home / SOURCES) as scratch, during(ports.progress, what):
            commit, made = git.take(found.name or found.shown, scratch, ports.progress, what)
            tar = store.keep(place.address, place.asked, found.name, commit, made)
    elif found.fresh:
        store.remember(place.address, found.name, commit)
    with tar.open("rb") as stream:
        folder, known, digest = _unpacked(stream, place.asked, ports)
    short = (found.name or found.shown).removeprefix(TAGS).removeprefix(HEADS)
    return _tree(folder, known, Origin("git", place.asked, short, commit, digest))


def _of_tarball(place: Tarball, ports: Ports) -> Tree:
    path = place.path if place.path is not None else _downloaded(place, ports)
    with path.open("rb") as stream:
        found = _sha256(stream)
        if place.sha256 is not None:
            check_sha256(found, place.sha256, place.asked)
        folder, known, digest = _unpacked(stream, place.asked, ports)
    return _tree(folder, known, Origin("tarball", f"{place.asked}#sha256={found}", None, None, digest))


def _of_folder(place: Folder, ports: Ports) -> Tree:
    asked = place.asked
    recognise(_reader(place.path), _names(place.path), asked)  # before anything is copied of a folder such as /
    with _scratch(ports) as scratch:
        root = scratch / "tree"
        root.mkdir()
        with during(ports.progress, f"copying {asked}"):
            files.copy(place.path, root, files.Budget(asked))
        # After the copy: what is changed meanwhile is then no commit.
        commit = _git(place, ports).head_if_clean(place.path, root) if (place.path / ".git").exists() else None
        folder, known, digest = _settled(root, asked, ports)
    return _tree(folder, known, Origin("folder", asked, None, commit, digest))


def _downloaded(place: Tarball, ports: Ports) -> Path:
    store = _store(ports)
    assert place.url is not None and place.sha256 is not None
    known = store.tarball(place.sha256)
    if known is not None:
        return known
    if ports.offline:
        raise not_here(place.asked, ports.offline)
    with part(ports.home / SOURCES) as scratch, during(ports.progress, f"downloading {place.asked}"):
        file = scratch / "tarball"
        download(place.url, place.asked, place.sha256, file, ports.environ, ports.progress)
        return store.keep_tarball(place.sha256, file)


# ---- a tree of one's own ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _scratch(ports: Ports) -> Iterator[Path]:
    clear(ports.home / WORK, TREE)
    with part(ports.home / WORK) as scratch:
        yield scratch


def _unpacked(stream: IO[bytes], asked: str, ports: Ports) -> tuple[Path, Known, str]:
    with _scratch(ports) as scratch, during(ports.progress, f"unpacking {asked}"):
        into = scratch / "tree"
        into.mkdir()
        root = archive.unpack(stream, into, asked)
        files.prune(root)
        return _settled(root, asked, ports)


def _settled(root: Path, asked: str, ports: Ports) -> tuple[Path, Known, str]:
    """A whole tree, looked at, at the place where it stays: it appears there in one rename."""
    files.check_links(root, asked)
    known = recognise(_reader(root), _names(root), asked)
    digest = files.digest(root)
    final = Path(tempfile.mkdtemp(prefix=TREE, dir=ports.home / WORK))
    root.replace(final)  # an empty folder can be replaced by another
    return final, known, digest


def _tree(folder: Path, known: Known, origin: Origin) -> Tree:
    return Tree(str(folder), known.version, origin, known.cuda_min, known.cuda_end)


def _names(folder: Path) -> frozenset[str]:
    return frozenset(os.listdir(folder))


def _reader(folder: Path) -> Read:
    def read(name: str) -> str | None:
        path = folder / name
        try:
            if not path.is_file():  # a pipe would be waited for
                return None
            with path.open("rb") as stream:
                return stream.read(LARGEST).decode("utf-8", "replace")
        except (FileNotFoundError, NotADirectoryError):
            return None

    return read


def _sha256(stream: IO[bytes]) -> str:
    import hashlib

    found = hashlib.sha256()
    while block := stream.read(1 << 20):
        found.update(block)
    stream.seek(0)
    return found.hexdigest()
