"""What a source names: a repository, a folder or a tarball. Nothing is fetched for that; folders are looked at."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bnbenv.build.git import check_address, looks_remote
from bnbenv.errors import UsageError
from bnbenv.paths import exists, expand
from bnbenv.redact import strip_credentials

_ENDS = (".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tbz", ".tar", ".zip")
_MARK = re.compile(r"#(?:.*&)?sha256[=:]([^&]*)(?:&.*)?$")
_NAMES = (
    "Name a folder, a tarball, or the address of a git repository: --source, or bitsandbytes-source in bnbenv.toml."
)


@dataclass(frozen=True)
class Repository:
    """``address`` is what git is given, ``asked`` the source without credentials; ``remote``: in the network.

    ``default`` is None for the newest release, else the ref that is meant where none is named.
    """

    address: str = field(repr=False)
    asked: str
    remote: bool
    default: str | None


@dataclass(frozen=True)
class Folder:
    path: Path
    asked: str


@dataclass(frozen=True)
class Tarball:
    """A file here, or an address; ``sha256`` is what it must be, always known for an address."""

    asked: str
    path: Path | None = None
    url: str | None = field(default=None, repr=False)
    sha256: str | None = None


Place = Repository | Folder | Tarball


def locate(source: str | None, ref: str | None, upstream: str) -> Place:
    """What a source means; with a ``ref`` a folder means the repository in it.

    Raises UsageError: ``bad-source``, ``no-such-source``, ``sha256-needed``, ``no-such-ref`` (of what has none).
    """
    if source is None:
        return _repository(upstream, None)
    if not source.strip() or "\0" in source:
        raise UsageError("bad-source", "an empty text is no source", _NAMES)
    here = expand(source)
    if not exists(here):
        plain, sha256 = _split_sha256(source)
        if looks_remote(plain) and not plain.lower().startswith("file:"):
            return _remote(plain, sha256, source, ref)
        here = _local(plain)
    else:
        plain, sha256 = source, None
    shown = strip_credentials(plain)
    if not exists(here):
        raise UsageError("no-such-source", f"there is nothing at {shown}", _NAMES)
    if here.is_dir():
        if sha256 is not None:
            raise UsageError("bad-source", f"{shown} is a folder, which has no sha256", "Leave #sha256=... out.")
        return _folder(here, shown, ref)
    if not here.is_file():
        raise UsageError("bad-source", f"{shown} is neither a folder nor a file", _NAMES)
    if _is_bundle(here):
        return Repository(str(here.absolute()), shown, False, "HEAD")
    _no_ref(ref, shown)
    return Tarball(shown, path=here, sha256=sha256)


def _remote(plain: str, sha256: str | None, source: str, ref: str | None) -> Place:
    scheme = plain.partition("://")[0].lower()
    tarball = scheme in ("http", "https") and (sha256 is not None or _path_of(plain).lower().endswith(_ENDS))
    if not tarball:
        check_address(plain)
        return _repository(plain.removeprefix("git+"), "HEAD")
    shown = strip_credentials(plain)
    _no_ref(ref, shown)
    if sha256 is None:
        step = "Append #sha256=... to the address, of a file that you trust (sha256sum FILE says it)."
        raise UsageError(
            "sha256-needed", f"what {shown} is must be named, since anybody may change what lies there", step
        )
    return Tarball(shown, url=plain, sha256=sha256)


def _repository(address: str, default: str | None) -> Repository:
    check_address(address)
    remote = not address.lower().startswith("file:") and looks_remote(address)
    return Repository(address, strip_credentials(address), remote, default)


def _folder(here: Path, shown: str, ref: str | None) -> Place:
    bare = all(exists(here / name) for name in ("HEAD", "objects", "refs")) and not exists(here / "CMakeLists.txt")
    if bare or ref is not None:
        if not bare and not exists(here / ".git"):
            message = f"{shown} is no git repository, so {ref} cannot be taken of it"
            raise UsageError("no-such-ref", message, "Leave --ref out to take the folder as it is.")
        return Repository(str(here.absolute()), shown, False, "HEAD")
    return Folder(here, shown)


def _no_ref(ref: str | None, shown: str) -> None:
    if ref is not None:
        message = f"{shown} is a single tree: there is no {ref} to take of it"
        raise UsageError("no-such-ref", message, "Leave --ref out.")


def _split_sha256(source: str) -> tuple[str, str | None]:
    match = _MARK.search(source)
    if match is None:
        return source, None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", match[1]):
        step = "A sha256 has 64 characters of 0-9 and a-f: sha256sum FILE says it."
        raise UsageError("bad-source", f'"{match[1][:80]}" is no sha256', step)
    return source[: match.start()], match[1].lower()


def _local(plain: str) -> Path:
    if not plain.lower().startswith("file:"):
        return expand(plain)
    match = re.fullmatch(r"file:(?://(?:localhost)?)?(/(?!/)[^?#]*)", plain, re.IGNORECASE)
    if match is None:
        message = f'"{strip_credentials(plain)[:200]}" names no file of this machine'
        raise UsageError("bad-source", message, "Such an address begins with file:///.")
    return Path(unquote(match[1]))


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def _is_bundle(path: Path) -> bool:
    """A repository in one file, for machines without a network (``git bundle``)."""
    try:
        with path.open("rb") as stream:
            return re.match(rb"# v\d git bundle\n", stream.read(20)) is not None
    except OSError:
        return False
