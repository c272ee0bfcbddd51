"""What is left of other versions: two sets of metadata, a pip that was interrupted, files that no RECORD knows.

Also the reverse: metadata without its package, files that RECORD names and that are not there or are cut off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bnbenv.doctor.examine.files import head, names, text
from bnbenv.doctor.examine.packages import Known, effective_of, module_of, normalized, of_interest
from bnbenv.doctor.examine.search import Search
from bnbenv.doctor.model import Leftover

LARGEST = 8 << 20  # bytes of a RECORD; torch's has 2 million
HEAD = 1 << 16  # bytes of a module in which its version is looked for
SHOWN = 4

_NATIVE = re.compile(
    rb"^\"?([^\",\n]{1,300}\.(?:so|dll|pyd|dylib)(?:\.[0-9.]{1,20})?)\"?,([^,\n]{0,200}),(\d{0,15})\r?$", re.MULTILINE
)
# Of bitsandbytes the modules too: there are few. People edit some, so only an empty one is one that was cut off.
_MODULE = re.compile(rb"^(bitsandbytes/[^\",\n]{1,300}\.py),([^,\n]{0,200}),(\d{1,15})\r?$", re.MULTILINE)
_VERSION = re.compile(r"^(?:__version__|version)\s*(?::[^=\n]*)?=\s*['\"](\d[^'\"\n]{0,100})['\"]", re.MULTILINE)
_CONDA = re.compile(r"(pytorch|bitsandbytes|numpy|transformers|triton)-(\d[^-]*)-[^-]+\.json")
# Packages whose files are held against their metadata; of others the metadata is believed.
_CHECKED = ("torch", "bitsandbytes", "triton", "numpy", "transformers", "accelerate", "peft")


def leftovers(known: tuple[Known, ...], search: Search, prefix: Path | None = None) -> tuple[Leftover, ...]:
    """All that is found, in the folders of the search path. ``prefix`` is a conda environment's. Nothing is raised."""
    effective = effective_of(known, search)
    return (
        *_twice(known),
        *_interrupted(search),
        *(found for name in _CHECKED if name in effective for found in _files(effective[name], search)),
        *_without_metadata(effective, search),
        *(_conda(prefix, effective) if prefix else ()),
    )


def own_version(module: Path) -> str | None:
    """The version that a module's own code names, without running it; null where it names none as a plain string."""
    for name in ("version.py", "__init__.py", "_version.py"):
        match = _VERSION.search(text(module / name, HEAD) or "")
        if match:
            return match[1]
    return None


def _twice(known: tuple[Known, ...]) -> Iterator[Leftover]:
    """Several .dist-info of one package in one folder: an installer was ended, or two of them took turns."""
    places: dict[tuple[str, Path], list[Known]] = {}
    for one in known:
        places.setdefault((one.name, one.folder.path), []).append(one)
    for (name, _), several in places.items():
        if len(several) > 1:
            versions = ", ".join(one.version or "one without a version" for one in several)
            because = f"{len(several)} sets of metadata lie side by side: {versions}"
            yield Leftover(name, because, tuple(str(one.path) for one in several), "twice")
        elif not several[0].readable:
            because = "its metadata names no version: its installer was ended"
            yield Leftover(name, because, (str(several[0].path),), "twice")


def _interrupted(search: Search) -> Iterator[Leftover]:
    """``~itsandbytes``: pip renames what it replaces so, and deletes it at the end, unless it is ended before."""
    for folder in search.folders:
        for entry in folder.names:
            if entry[:1] not in ("~", "-") or len(entry) < 3:
                continue
            stem = re.split(r"-\d", entry[1:])[0]
            name = _guess(normalized(stem))
            yield Leftover(
                name,
                "pip was ended while it replaced this, and left the former one behind",
                (str(folder.path / entry),),
                "interrupted",
            )


def _guess(rest: str) -> str:
    """The distribution whose name's first letter pip replaced; the rest itself where none of those listed fits."""
    fits = (f"{letter}{rest}" for letter in "abcdefghijklmnopqrstuvwxyz")
    return next((name for name in fits if of_interest(name)), rest)


def _files(known: Known, search: Search) -> Iterator[Leftover]:
    """A package's own files against its metadata: gone, of another version, natives that differ from RECORD."""
    module = search.module(module_of(known.name))
    if module is None:
        because = f"metadata of {known.version or known.name} is there, and its package is not"
        yield Leftover(known.name, because, (str(known.path),), "metadata")
        return
    if known.editable or module.parent != known.folder.path:
        return
    own = own_version(module)
    if own is not None and known.version is not None and not _same(own, known.version):
        because = f"its metadata says {known.version}, its own files are those of {own}"
        yield Leftover(known.name, because, (str(known.path), str(module)), "version")
    yield from _natives(known, module)


def _natives(known: Known, module: Path) -> Iterator[Leftover]:
    """Files that RECORD names and that are gone or cut off, and native libraries that it does not name."""
    record = known.path / "RECORD"
    try:
        data = head(record, LARGEST)
    except OSError:
        return
    listed = {match[1].decode("utf-8", "replace"): int(match[3] or -1) for match in _NATIVE.finditer(data)}
    if not listed and not data.strip():
        return
    modules = {match[1].decode("utf-8", "replace"): int(match[3]) for match in _MODULE.finditer(data)}
    gone, cut = [], []
    for name, size in {**listed, **modules}.items():
        path = known.folder.path / name
        try:
            there = path.stat().st_size
        except OSError:
            gone.append(path)
            continue
        if size >= 0 and there != size and (there == 0 or name not in modules):
            cut.append((path, there, size))
    if gone:
        because = f"{_list(gone)} {'is' if len(gone) == 1 else 'are'} in its RECORD and not there"
        yield Leftover(known.name, because, tuple(str(path) for path in gone), "gone")
    for path, there, size in cut[:SHOWN]:
        yield Leftover(known.name, f"{path.name} has {there} bytes, {size} were installed", (str(path),), "cut")
    if known.name == "bitsandbytes":
        natives = [module / name for name in names(module) if re.search(r"\.(so|dll|dylib)$", name)]
        strange = [path for path in natives if f"{module.name}/{path.name}" not in listed]
        if strange:
            because = (
                f"{_list(strange)} {'was' if len(strange) == 1 else 'were'} put there by hand or by another version"
            )
            yield Leftover(known.name, because, tuple(str(path) for path in strange), "strange")


def _without_metadata(effective: dict[str, Known], search: Search) -> Iterator[Leftover]:
    """A package whose metadata is gone, in a folder into which installers put both."""
    providers = {module_of(name) for name in effective}
    for name in ("torch", "bitsandbytes", "transformers"):
        place = search.module(name)
        if place is None or name in providers or place.parent.name not in ("site-packages", "dist-packages"):
            continue
        because = "the package is there and has no metadata: it was removed in part"
        yield Leftover(name, because, (str(place),), "package")


def _conda(prefix: Path, effective: dict[str, Known]) -> Iterator[Leftover]:
    """What conda says it installed, and what lies there since pip was used on it as well."""
    for record in names(prefix / "conda-meta"):
        match = _CONDA.fullmatch(record)
        if not match:
            continue
        name = "torch" if match[1] == "pytorch" else match[1]
        there = effective.get(name)
        if there is not None and there.version and not _same(there.version, match[2]):
            because = f"conda installed {match[2]}, and another installer put {there.version} over it"
            yield Leftover(name, because, (str(prefix / "conda-meta" / record), str(there.path)), "conda")


def _same(one: str, other: str) -> bool:
    """Whether two versions are the same apart from their local part: ``2.13.0`` and ``2.13.0+cu130``."""
    if one.partition("+")[0] == other.partition("+")[0]:
        return True
    from packaging.version import InvalidVersion, Version

    try:
        return Version(one).public == Version(other).public
    except InvalidVersion:
        return False


def _list(paths: list[Path]) -> str:
    some = ", ".join(path.name for path in paths[:SHOWN])
    return some + (f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else "")
