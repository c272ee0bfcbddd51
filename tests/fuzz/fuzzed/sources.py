"""What somebody names as a source, what git answers, and the trees and archives that come of it."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile

from bnbenv.build import archive, files
from bnbenv.build.giterrors import explain
from bnbenv.build.place import Repository, locate
from bnbenv.build.recognise import recognise
from bnbenv.build.refs import find, parse_refs, proposals, releases, speakable
from bnbenv.errors import BnbenvError, UsageError

from .edits import SECRET
from .oracle import LOGIN, Fault, Target
from .places import finished, scratch, text_of

_CMAKE = b"""\
project(bitsandbytes LANGUAGES CXX)  # a comment
#[[ another ]]
set(COMPUTE_BACKEND "cpu" CACHE STRING "cuda")
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS "11.8")
    message(FATAL_ERROR "CUDA Version < 11.8 is not supported, nor COMPUTE_CAPABILITY")
"""
_FILES = {
    "CMakeLists.txt": _CMAKE,
    "pyproject.toml": b'[tool.setuptools.dynamic]\nversion = {attr = "bitsandbytes._v.V", file = ["VERSION"]}\n',
    "setup.py": b'setup(name="bitsandbytes", version="0.50.1")\n',
    "bitsandbytes/__init__.py": b'__version__ = "0.50.1"\n',
    "bitsandbytes/_v.py": b'V: str = "0.50.1"\n',
}
_TOP = frozenset({"csrc", "bitsandbytes", "pyproject.toml"})
_REFS = b"".join(
    b"%040x\trefs/%s\n" % (n, name)
    for n, name in enumerate((b"tags/0.50.1", b"tags/v0.50.0", b"tags/v0.50.0^{}", b"heads/main", b"tags/0.51.0rc1"))
)
_SOURCES = (
    f"https://me:{SECRET}@host.example/x.tar.gz#sha256={'a' * 64}".encode(),
    f"https://me:{SECRET}@host.example/bitsandbytes.git".encode(),
    b"git@host.example:group/bitsandbytes.git",
    b"ssh://git@host.example:22/x",
)
_GIT = (
    f"fatal: unable to access 'https://me:{SECRET}@host/x/': The requested URL returned error: 503".encode(),
    b"Receiving objects:  10% (1/9)\nfatal: detected dubious ownership in repository at '/srv/x'",
    b"ERROR: Repository not found.\nfatal: Could not read from remote repository.",
)


def _source(data: bytes) -> object:
    place = locate(text_of(data), None, "https://upstream.invalid/")
    if LOGIN.search(place.asked + repr(place)):
        raise Fault(f"{place!r} shows a login")
    return isinstance(place, Repository)


def _refs(data: bytes) -> None:
    text = text_of(data)
    refs, word = parse_refs(text), text[:80]
    if speakable(word) and word.startswith("-"):
        raise Fault(f"{word!r} is an option")
    for version in releases(refs):
        if find(refs, version) is None:
            raise Fault(f"{version} is there, and is not found")
    proposals(refs, word)


def _said(data: bytes) -> None:
    error = explain(finished(stderr=text_of(data), returncode=128), "https://host/x", frozenset())
    if not isinstance(error, BnbenvError) or LOGIN.search(error.message + error.detail):
        raise Fault(f"{error!r} shows a login")


def _tree(data: bytes) -> None:
    """The same bytes stand for each file in turn, beside the others."""
    for name in _FILES:
        texts = {**_FILES, name: data}
        if name == "setup.py":  # it is asked last
            texts = {"CMakeLists.txt": _CMAKE, name: data}

        def read(one: str, texts: dict[str, bytes] = texts) -> str | None:
            return text_of(texts[one]) if one in texts else None

        try:
            recognise(read, _TOP, "it")
        except UsageError as error:
            if error.code != "not-bitsandbytes":
                raise Fault(f"{error.code}: {error.message}") from None


def _archive(data: bytes) -> None:
    into = scratch() / "unpacked"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    root = archive.unpack(io.BytesIO(data), into, "it")
    files.prune(root)
    files.check_links(root, "it")
    files.digest(root)
    outside = scratch() / "evil"
    if outside.exists():
        raise Fault("something was written outside")


def _archives() -> tuple[bytes, ...]:
    found = []
    for mode, kind in (("w", tarfile.PAX_FORMAT), ("w", tarfile.GNU_FORMAT), ("w:gz", tarfile.PAX_FORMAT)):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=mode, format=kind) as tar:  # type: ignore[call-overload]
            for name, content in {**_FILES, "n" * 120: b"long"}.items():
                entry = tarfile.TarInfo(f"top/{name}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            for kind_of, name, link in ((tarfile.SYMTYPE, "l", "setup.py"), (tarfile.LNKTYPE, "h", "top/setup.py")):
                entry = tarfile.TarInfo(f"top/{name}")
                entry.type, entry.linkname = kind_of, link
                tar.addfile(entry)
        found.append(stream.getvalue())
    return tuple(found)


def _zips() -> tuple[bytes, ...]:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in _FILES.items():
            zipped.writestr(zipfile.ZipInfo(f"top/{name}"), content)
    return (stream.getvalue(),)


TARGETS = (
    Target("source-names", "text", _source, lambda: _SOURCES, (UsageError,)),
    Target("git-refs", "text", _refs, lambda: (_REFS,)),
    Target("git-errors", "text", _said, lambda: _GIT, slow=True),
    Target("source-trees", "text", _tree, lambda: tuple(_FILES.values()), slow=True),
    Target("source-tarballs", "binary", _archive, _archives, (UsageError,), slow=True),
    Target("source-zips", "zip", _archive, _zips, (UsageError,), slow=True),
)
