"""The examination: all that can be found out about a machine and one environment without importing torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bnbenv.doctor.examine.cudart import libcudarts
from bnbenv.doctor.examine.host import conditions
from bnbenv.doctor.examine.installed_torch import read_torch
from bnbenv.doctor.examine.leftovers import leftovers
from bnbenv.doctor.examine.libraries import read_bitsandbytes
from bnbenv.doctor.examine.linker import Process, Resolved, resolve
from bnbenv.doctor.examine.loads import which_library
from bnbenv.doctor.examine.packages import Known, effective_of, known_in, packages
from bnbenv.doctor.examine.ports import Ports, Where
from bnbenv.doctor.examine.settings import in_process, read_settings
from bnbenv.doctor.examine.surroundings import surroundings
from bnbenv.doctor.examine.target import Found, find_target
from bnbenv.doctor.model import Bitsandbytes, Examination, Loads, Torch, Windows
from bnbenv.facts.model import HostFacts, Platform
from bnbenv.matrix.load import load_matrix

if TYPE_CHECKING:
    from bnbenv.matrix.model import Matrix

__all__ = ["Ports", "Where", "examine"]


def examine(where: Where, facts: HostFacts, ports: Ports, matrix: Matrix | None = None) -> Examination:
    """What there is. Nothing is changed, nothing of the environment is run unless its layout is unknown.

    ``matrix`` is the one that tells which library a version loads, by default the shipped one. What cannot be read is
    in ``unknown`` with the reason. Raises UsageError where ``where`` names no environment, InputError for a matrix that
    is damaged.
    """
    found = find_target(where, ports)
    settings, gaps = read_settings(found.layout, found.search, where, ports, facts.platform.os == "windows")
    environ = in_process(settings, ports.environ, found.layout)
    known = known_in(found.search)
    effective = effective_of(known, found.search)
    place = found.search.module("torch")
    torch = read_torch(place, found.layout) if place else None
    bitsandbytes = _bitsandbytes(found, effective, facts.platform)
    loads = None
    if bitsandbytes is not None:
        cudarts = libcudarts(environ, ports.sysroot)
        override = environ.get("BNB_CUDA_VERSION")
        loads = which_library(bitsandbytes, torch, override, facts, matrix or load_matrix(), cudarts)
    resolved = _resolved(found, facts, environ, ports, torch, bitsandbytes, loads)
    return _printable(
        Examination(
            facts=facts,
            target=found.target,
            packages=packages(known, found.search),
            torch=torch,
            bitsandbytes=bitsandbytes,
            loads=loads,
            linked=resolved.linked,
            runtimes=resolved.runtimes,
            settings=settings,
            leftovers=leftovers(known, found.search, found.layout.prefix if found.layout else None),
            cxx=resolved.cxx,
            windows=_windows(found, place, facts, environ, ports),
            conditions={**conditions(facts, environ, ports), **surroundings(found, where, ports)},
            unknown=(
                *(() if facts.driver.state == "absent" else facts.unknown),
                *found.unknown,
                *gaps,
                *resolved.unknown,
            ),
        )
    )


def _windows(
    found: Found, torch: Path | None, facts: HostFacts, environ: dict[str, str], ports: Ports
) -> Windows | None:
    if facts.platform.os != "windows":
        return None
    from bnbenv.doctor.examine.windows import read_windows

    return read_windows(found.layout, torch, environ, ports.sysroot)


def _bitsandbytes(found: Found, effective: dict[str, Known], platform: Platform) -> Bitsandbytes | None:
    """The package that an import takes, with the version of its own metadata, or of a fork's that put it there.

    Metadata in another folder, of a copy that is not imported, says nothing about it.
    """
    place = found.search.module("bitsandbytes")
    if place is None:
        return None
    names = sorted((name for name in effective if name.startswith("bitsandbytes")), key=len)
    beside = (effective[name] for name in names)
    version = next((one.version for one in beside if one.editable or one.folder.path == place.parent), None)
    return read_bitsandbytes(place, version, platform)


def _resolved(
    found: Found,
    facts: HostFacts,
    environ: dict[str, str],
    ports: Ports,
    torch: Torch | None,
    bitsandbytes: Bitsandbytes | None,
    loads: Loads | None,
) -> Resolved:
    """What the dynamic linker would find for the library that is loaded."""
    process = Process(
        facts=facts,
        environ=environ,
        sysroot=ports.sysroot,
        python=found.target.python,
        prefix=found.target.prefix,
        search=tuple(folder.path for folder in found.target.search),
        torch=torch,
    )
    libraries = bitsandbytes.libraries if bitsandbytes else ()
    wanted = loads.library if loads else None
    library = next((Path(one.path) for one in libraries if wanted and wanted in (one.name, one.path)), None)
    return resolve(library, process)


def _printable(examination: Examination) -> Examination:
    """The same with every text as one that can be written: names of files and variables may be no UTF-8."""
    try:
        msgspec.json.encode(examination)
    except UnicodeEncodeError:
        return msgspec.convert(_replaced(msgspec.to_builtins(examination)), Examination)
    return examination


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_replaced(key): _replaced(one) for key, one in value.items()}
    return [_replaced(one) for one in value] if isinstance(value, (list, tuple)) else value
