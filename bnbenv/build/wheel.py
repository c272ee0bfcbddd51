"""The wheel: the tree's own, made by its own build backend, with the libraries that were compiled put in.

Its version gets a local part that says what was compiled (``0.50.1+bnbenv.cu130.sm87``), its tag the C library that the
libraries really need. The same parts give the same bytes.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import msgspec

from bnbenv.decode import convert, load_toml
from bnbenv.errors import Failed
from bnbenv.matrix.drivers import number
from bnbenv.matrix.model import NativeLibrary
from bnbenv.matrix.wheel import DAMAGE

PACKAGE = "bitsandbytes"
OLDEST_GLIBC = (2, 17)  # older ones have tags of another kind, and no Python that is supported
GENERATOR = "bnbenv"
_WHEN = (1980, 1, 1, 0, 0, 0)
_LIBRARY = re.compile(rf"{PACKAGE}/libbitsandbytes[^/]*\.(?:so|dll|dylib)")
_SIGNED = re.compile(r"RECORD(?:\.jws|\.p7s)?$")  # of the wheel as it was


def local_version(version: str, cuda: str, archs: Iterable[str]) -> str:
    """The version of a build: ``0.50.1``, ``13.0``, ``sm_80 sm_90`` -> ``0.50.1+bnbenv.cu130.sm80.sm90``.

    A local part of the tree's own (``0.51.0.dev0+g1234``) gives way: a version has one.
    """
    parts = [f"cu{cuda.replace('.', '')}", *(arch.replace("_", "") for arch in archs)]
    return f"{version.partition('+')[0]}+bnbenv.{'.'.join(parts)}"


def platform_tag(libraries: Iterable[NativeLibrary], machine: str, here: str | None = None) -> str:
    """``manylinux_2_34_x86_64``: for systems with the C and C++ libraries that all these libraries run with.

    ``here`` is the glibc of this machine: what was linked on it runs on it, with a newer libstdc++ than others have.
    """
    found = list(libraries)
    needs = [number(library.glibc)[:2] for library in found if library.glibc]
    needs += [_with_libstdcxx(library.glibcxx) for library in found if library.glibcxx]
    if here is not None:
        needs = [min(need, number(here)[:2]) for need in needs]
    major, minor = max([OLDEST_GLIBC, *(need for need in needs if len(need) == 2)])
    return f"manylinux_{major}_{minor}_{machine}"


class _Libstdcxx(msgspec.Struct, frozen=True):
    """``newest`` maps a glibc to the GLIBCXX that every system has whose wheel tag names it."""

    source: str
    date: str
    newest: dict[str, str]


@lru_cache(maxsize=1)
def _libstdcxx() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    path = Path(__file__).with_name("libstdcxx.toml")
    table = convert(load_toml(path.read_text(encoding="utf-8")), _Libstdcxx, path.name)
    return sorted((number(glibc), number(glibcxx)) for glibc, glibcxx in table.newest.items())


def _with_libstdcxx(glibcxx: str) -> tuple[int, ...]:
    """The oldest glibc whose systems have a GLIBCXX; where none has, the newest."""
    rows = _libstdcxx()
    return next((glibc for glibc, newest in rows if newest >= number(glibcxx)), rows[-1][0])


def assemble(base: Path, version: str, libraries: Mapping[str, bytes], platform: str, out: Path) -> Path:
    """The wheel in the folder ``out``, made of ``base``; ``libraries`` are file names with their bytes.

    Libraries that ``base`` has are left out. Raises Failed ``bad-wheel`` where ``base`` is no wheel of bitsandbytes,
    OSError.
    """
    members = _members(base)
    info = _info(members, base)
    tag = f"py3-none-{platform}"
    fresh = f"{PACKAGE}-{version}.dist-info"
    kept: dict[str, bytes] = {}
    for name, data in members.items():
        if name.endswith("/") or _LIBRARY.fullmatch(name):
            continue
        folder, _, rest = name.partition("/")
        if folder != info:
            kept[name] = data
        elif not _SIGNED.match(rest):
            kept[f"{fresh}/{rest}"] = data
    kept[f"{fresh}/METADATA"] = _with_fields(kept[f"{fresh}/METADATA"], {"Version": version})
    kept[f"{fresh}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: {GENERATOR}\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    )
    kept.update({f"{PACKAGE}/{name}": data for name, data in libraries.items()})
    kept[f"{fresh}/RECORD"] = _record(kept, f"{fresh}/RECORD")
    path = out / f"{PACKAGE}-{version}-{tag}.whl"
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        # What names the rest comes last, as the format advises.
        for name in sorted(kept, key=lambda one: (one.startswith(f"{fresh}/"), one.endswith("/RECORD"), one)):
            member = zipfile.ZipInfo(name, _WHEN)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o100644 << 16
            member.create_system = 3  # Unix, wherever it is made
            archive.writestr(member, kept[name])
    return path


def _members(base: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(base) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except DAMAGE as error:
        raise _unfit(base, str(error)) from None


def _info(members: Mapping[str, bytes], base: Path) -> str:
    """The name of its dist-info folder."""
    found = {name.partition("/")[0] for name in members if re.fullmatch(r"[^/]+\.dist-info/(?:METADATA|WHEEL)", name)}
    if len(found) != 1:
        raise _unfit(base, f"it has {len(found)} folders with its metadata")
    (info,) = found
    metadata = members.get(f"{info}/METADATA", b"").decode("utf-8", "replace")
    name = re.search(r"^Name:\s*([\w.-]{1,100})\s*$", metadata, re.MULTILINE | re.IGNORECASE)
    if name is None or name[1].lower() != PACKAGE:
        raise _unfit(base, f"its project is {name[1]}" if name else "it has no METADATA")
    purelib = re.search(rb"^Root-Is-Purelib:\s*(\w+)", members.get(f"{info}/WHEEL", b""), re.MULTILINE)
    if any(name.partition("/")[0].endswith(".data") for name in members) or purelib is None:
        raise _unfit(base, "it is laid out as wheels of bitsandbytes are not")
    return info


def _with_fields(metadata: bytes, fields: Mapping[str, str]) -> bytes:
    """METADATA with other values in some of its fields; the text below them stays as it is."""
    head, end, text = metadata.replace(b"\r\n", b"\n").partition(b"\n\n")
    lines = head.decode("utf-8").split("\n")
    for name, value in fields.items():
        lines = [f"{name}: {value}" if line.lower().startswith(f"{name.lower()}:") else line for line in lines]
    return "\n".join(lines).encode() + end + text


def _record(members: Mapping[str, bytes], own: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name in sorted(members):
        digest = base64.urlsafe_b64encode(hashlib.sha256(members[name]).digest()).rstrip(b"=").decode()
        writer.writerow((name, f"sha256={digest}", len(members[name])))
    writer.writerow((own, "", ""))
    return text.getvalue().encode()


def _unfit(base: Path, because: str) -> Failed:
    return Failed("bad-wheel", f"the wheel that the tree's own build made, {base.name}, is unfit: {because}")
