"""A generation's completion record, and what is observed of an environment to compare with it.

The record lies beside the generation and is written last, so a generation without one is unfinished. It holds the
fingerprint that ``check`` compares: wishes, lock, host, packages. Standard library only: the fast path imports this.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bnbenv.paths import write_atomically

SCHEMA = "bnbenv.generation/1"

# The packages whose files are watched, as dist-info folders name them, and how the paths of those files begin: a change
# in them changes the kernels that run. What is in no folder is a native module at the top.
PLACES = {
    "torch": ("torch/lib/", "torch/"),
    "bitsandbytes": ("bitsandbytes/",),
    "gptqmodel": ("gptqmodel/",),
    "auto_gptq": ("auto_gptq/", "autogptq_", "exllama_kernels", "exllamav2_kernels", "cQIGen"),
    "autoawq": ("awq/", "awq_inference_engine", "ft_inference_engine"),
    "autoawq_kernels": ("awq_ext", "awq_ft_ext", "awq_v2_ext", "exl_ext", "exlv2_ext"),
}
WATCHED = tuple(PLACES)
_ENTRIES = ("__init__.py", "version.py")
_AT_TOP = tuple(start for starts in PLACES.values() for start in starts if not start.endswith("/"))
PTH = "bnbenv-environment.pth"
BASE_PTH = "zzz-bnbenv-base.pth"  # shows what lies below; the last one, so that all else of the environment wins


class Record(NamedTuple):
    """What a generation was made of and for.

    ``wishes`` is the digest of the wishes, ``config`` that of bnbenv.toml's bytes (None: no file), ``environments`` the
    names in it, ``lock`` the digest of the lock's bytes; ``host`` the quick fingerprint of the host, ``facts`` the
    platform, driver and GPUs it was solved for; ``packages`` maps ``<name>-<version>`` of every installed distribution
    to the digest of its RECORD (watched packages only, else empty); ``files`` maps watched files to [size, mtime in
    ns], ``stamps`` likewise the distributions whose RECORD was digested: one as it was is not read again;
    ``decision`` is the solver's answer; ``verified`` tells whether kernels ran and agreed, ``verified_at`` when.
    ``adopted`` is the path of an environment that others made and that was taken in as generation zero, else None;
    ``base`` what was seen of the packages below an environment that lies on top of a torch that is there, else None:
    ``keep.observe.observe_base`` says how.
    """

    generation: int
    created: str
    python: str
    wishes: str
    config: str | None
    environments: list[str]
    lock: str
    host: dict[str, str]
    facts: dict[str, Any]
    packages: dict[str, str]
    files: dict[str, list[int]]
    decision: dict[str, Any]
    verified: bool
    verification: dict[str, Any]
    verified_at: str | None = None
    stamps: dict[str, list[int]] | None = None
    adopted: str | None = None
    base: dict[str, Any] | None = None

    def text(self) -> str:
        """The record as it stands in its file."""
        return json.dumps({"schema": SCHEMA, **self._asdict()}, indent=1, sort_keys=True) + "\n"

    def write(self, path: Path) -> None:
        """Write it in one step. Raises OSError."""
        write_atomically(path, self.text())


def read_record(path: Path) -> Record | None:
    """A generation's record; None where there is none or it cannot be used (damaged, or see ``made_by_newer``)."""
    try:
        text = path.read_bytes().decode()  # json itself lets half characters pass
        data = json.loads(text)
        if data.pop("schema") != SCHEMA:
            return None
        if "\\u" in text:
            json.dumps(data, ensure_ascii=False).encode()  # half a character, which nobody could write or show
        record = Record(**{name: value for name, value in data.items() if name in Record._fields})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return record if _sound(record) else None


def made_by_newer(path: Path) -> bool:
    """Whether a record was written by a newer bnbenv: it is whole, and this one cannot read it."""
    try:
        return is_newer(json.loads(path.read_bytes())["schema"], SCHEMA)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def versions_in(decision: Mapping[str, Any]) -> dict[str, str]:
    """The packages that a recorded decision is about besides torch, with their versions: bitsandbytes, or a family's.

    What is damaged is left out.
    """
    choice = decision.get("choice", {})
    wheel, packages = choice.get("bitsandbytes"), choice.get("packages")
    found = {"bitsandbytes": wheel.get("version")} if isinstance(wheel, dict) else {}
    for one in packages if isinstance(packages, list) else []:
        if isinstance(one, dict) and isinstance(one.get("name"), str):
            found[one["name"]] = one.get("version")
    return {name: version for name, version in found.items() if isinstance(version, str)}


def notes(record: Record) -> list[str]:
    """What is unusual about a generation: families that are mixed in it."""
    names = [stem.partition("-")[0] for stem in record.packages]
    quantizers = [name.replace("_", "-") for name in names if name in WATCHED and name != "torch"]
    if len(quantizers) < 2:
        return []
    from bnbenv.envs.families import family_of, mix_note
    from bnbenv.matrix.load import load_families

    families, about = load_families(), next(iter(versions_in(record.decision)), "")
    own = family_of(about, families) if about else None
    note = mix_note(own.name if own is not None else "none", quantizers, families)
    if note and record.adopted is not None:
        note = f"it holds packages of several families ({', '.join(quantizers)}): see bnbenv doctor {record.adopted}"
    return [note] if note else []


def is_newer(found: object, known: str) -> bool:
    """Whether a document's schema (``bnbenv.generation/2``) is a later version of the one that is known."""
    name, _, version = known.partition("/")
    kind, _, later = found.partition("/") if isinstance(found, str) else ("", "", "")
    return kind == name and len(later) < 9 and later.isascii() and later.isdecimal() and int(later) > int(version)


_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("created", "python", "wishes", "lock"), str),
    **dict.fromkeys(("host", "facts", "packages", "files", "decision", "verification"), dict),
    "generation": int,
    "environments": list,
    "verified_at": (str, type(None)),
    "stamps": (dict, type(None)),
    "adopted": (str, type(None)),
    "base": (dict, type(None)),
}


_BASE: dict[str, type] = {
    **dict.fromkeys(("site", "python", "where", "torch"), str),
    **{"folders": list, "packages": dict, "files": dict},
}


def _sound(record: Record) -> bool:
    """Whether what is read out of it later has its type. By hand: a decoder would take as long to import as a check."""
    if not all(isinstance(getattr(record, name), kind) for name, kind in _KINDS.items()):
        return False
    choice = record.decision.get("choice", {})
    if not isinstance(choice, dict) or not isinstance(choice.get("torch", {}), dict):
        return False
    base = record.base
    if base is not None and not all(isinstance(base.get(name), kind) for name, kind in _BASE.items()):
        return False
    texts = (*(base["folders"] if base else ()), *record.environments, *record.host.values(), *record.packages.values())
    return all(isinstance(text, str) for text in texts)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str | None:
    """The digest of a file's bytes, or None where it cannot be read."""
    try:
        return digest(path.read_bytes())
    except OSError:
        return None


def observe_packages(site: Path, known: Record | None = None) -> dict[str, str]:
    """The installed distributions as ``<name>-<version>``, watched ones with the digest of their RECORD.

    That of torch has more than a megabyte: where size and time are those of the record ``known``, so is the digest.
    """
    found: dict[str, str] = {}
    before, digests = (known.stamps or {}, known.packages) if known else ({}, {})
    for stem, path in _distributions(site):
        if stem.partition("-")[0] not in WATCHED:
            found[stem] = ""
        elif stem in digests and stem in before and before[stem] == _stamp(path):
            found[stem] = digests[stem]
        else:
            found[stem] = file_digest(path) or ""
    return found


def observe_stamps(site: Path) -> dict[str, list[int]]:
    """Size and time of the RECORDs of the watched distributions."""
    stamps = {stem: _stamp(path) for stem, path in _distributions(site) if stem.partition("-")[0] in WATCHED}
    return {stem: stamp for stem, stamp in stamps.items() if stamp is not None}


def _distributions(site: Path) -> Iterator[tuple[str, Path]]:
    """``<name>-<version>`` and RECORD of each distribution that is installed."""
    with os.scandir(site) as entries:
        for entry in entries:
            if entry.name.endswith(".dist-info"):
                yield entry.name[: -len(".dist-info")], Path(entry.path) / "RECORD"


def observe_files(site: Path) -> dict[str, list[int]]:
    """Size and time of the watched packages' native libraries and Python entry points, and of the .pth files."""
    found: dict[str, list[int]] = {}
    for folder in (start for starts in PLACES.values() for start in starts if start.endswith("/")):
        _observe_folder(site, folder, found)
    if any(name.startswith(("awq/", "auto_gptq/")) for name in found):
        _observe_folder(site, "", found)
    own = {name: _stamp(site / name) for name in (PTH, BASE_PTH)}
    return {**found, **{name: stamp for name, stamp in own.items() if stamp is not None}}


def observe_conda(prefix: Path, files: Iterable[str]) -> dict[str, list[int]]:
    """Size and time of those files that are conda's own notes (``conda-meta/...``) in an environment that it made."""
    notes = (name for name in files if name.startswith("conda-meta/"))
    return {name: stamp for name in notes if (stamp := _stamp(prefix / name)) is not None}


def _observe_folder(site: Path, folder: str, found: dict[str, list[int]]) -> None:
    try:
        with os.scandir(site / folder) as entries:
            for entry in entries:
                native = entry.name.endswith((".so", ".dll", ".dylib", ".pyd"))
                if entry.name.startswith(_AT_TOP) if not folder else native or entry.name in _ENTRIES:
                    stat = entry.stat()
                    found[f"{folder}{entry.name}"] = [stat.st_size, stat.st_mtime_ns]
    except OSError:
        return


def same_stamp(recorded: list[int], now: list[int] | None) -> bool:
    """Whether a file's size and time are as recorded. A layer of a container image holds whole seconds only.

    Source: BuildKit and Moby cut the times that they write into a layer to the second (ModTime.Truncate(time.Second)).
    """
    return now is not None and now in (recorded, [recorded[0], recorded[1] // 10**9 * 10**9])


def _stamp(path: Path) -> list[int] | None:
    """Size and time of a file; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]
