"""From one file of a quantization package to its row: metadata, kernels, and the torch that these can be loaded beside.

A kernel extension is compiled against one torch and takes C++ functions from its libraries by their mangled names. That
torch's libc10 and libc10_cuda (on Windows c10.dll) still export all of them can be read; of the functions in its larger
libraries, and of what the C++ types mean, nothing is read. So ``torch_releases`` says where an extension cannot be
loaded, and beside the others it may be.
"""

from __future__ import annotations

import ast
import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone

from msgspec.structs import replace

from bnbenv.errors import Failed
from bnbenv.matrix import elf, pe
from bnbenv.matrix.drivers import number
from bnbenv.matrix.measure import python_key, requirements_of, wheel_name
from bnbenv.matrix.model import Evidence, NativeLibrary, PackageFile
from bnbenv.matrix.native import read_library
from bnbenv.matrix.wheel import Wheel

KINDS = (".so", ".pyd", ".dll")
CORE_LIBRARIES = ("torch/lib/libc10.so", "torch/lib/libc10_cuda.so", "torch/lib/c10.dll")
RELEVANT = frozenset({"torch", "transformers", "triton", "numpy", "autoawq-kernels", "auto-gptq", "gptqmodel"})
ARCHIVE_LIMIT = 64 << 20  # bytes of a source archive, packed
_UNPACKED_LIMIT = 1 << 30  # bytes of one, unpacked; gptqmodel's take a tenth of it
_TEXT_LIMIT = 4 << 20
_COMPILING = ("BUILD_CUDA_EXT", "BUILD_CUDA_EXT == '1'")  # conditions of what only a setup.py that compiles does

Names = frozenset[str]


def read_wheel(wheel: Wheel) -> tuple[PackageFile, Names]:
    """The row of a wheel, and the names that its kernels look for elsewhere.

    Raises Failed: ``bad-wheel``, ``bad-binary``; SourceUnreachable for a remote wheel.
    """
    from packaging.utils import canonicalize_name

    name = wheel_name(wheel.filename)
    members = [member for member in sorted(set(wheel.names())) if member.endswith(KINDS)]
    wheel.fetch([*(one for one in wheel.names() if one.endswith(".dist-info/METADATA")), *members])
    requires_python, requires_dist = requirements_of(wheel)
    libraries: list[NativeLibrary] = []
    cudas: set[str] = set()
    readers: set[str] = set()
    wanted: set[str] = set()
    for member in members:
        data = wheel.read(member)
        found = read_library(data, member)
        library = replace(found.row, name=member.rpartition("/")[2])
        libraries.append(replace(library, backend="cuda") if library.sass or library.ptx else library)
        readers |= {found.ptx_cuda} if found.ptx_cuda else set()
        cudas |= {found.cuda.partition(".")[0]} if found.cuda else set()
        wanted |= _taken(data, member)
    if len(cudas) > 1:
        raise Failed("bad-wheel", f"the kernels in {wheel.filename} are for CUDA {' and '.join(sorted(cudas))}")
    anywhere = wheel.filename.endswith("-any.whl")
    how = "" if wheel.checked else " (the index's word; read in parts)"
    row = PackageFile(
        name=canonicalize_name(name.project),
        version=name.version,
        filename=wheel.filename,
        sha256=wheel.sha256,
        size=wheel.size,
        kind="wheel",
        pythons=tuple(tag for tag in sorted(name.pythons, key=python_key) if tag.startswith("cp")),
        os=None if anywhere else name.os,
        machine=None if anywhere else name.machine,
        libc_tag=name.libc_tag,
        requires_python=requires_python,
        requires_dist=_relevant(requires_dist),
        libraries=tuple(libraries),
        cuda=next(iter(cudas), None),
        ptx_cuda=max(readers, key=number, default=None),
        evidence=_evidence(f"{wheel.filename} sha256:{wheel.sha256}{how}"),
    )
    return row, frozenset(wanted)


def read_archive(data: bytes, filename: str, sha256: str) -> PackageFile:
    """The row of a source archive (``.tar.gz``), out of its PKG-INFO; nothing in it is executed.

    Raises Failed: ``bad-hash``, ``bad-archive``.
    """
    from packaging.metadata import parse_email
    from packaging.utils import parse_sdist_filename

    if hashlib.sha256(data).hexdigest() != sha256:
        raise Failed("bad-hash", f"{filename} is not the file that the index promises", "Try again.")
    name, version = parse_sdist_filename(filename)
    texts = _members(data, filename, ("PKG-INFO", "setup.py"))
    if "PKG-INFO" not in texts:
        raise Failed("bad-archive", f"{filename} holds no PKG-INFO")
    raw, _ = parse_email(texts["PKG-INFO"])
    return PackageFile(
        name=name,
        version=str(version),
        filename=filename,
        sha256=sha256,
        size=len(data),
        kind="sdist",
        requires_python=raw.get("requires_python"),
        requires_dist=_relevant(raw.get("requires_dist", ())),
        build_needs_torch=looks_for_torch(texts.get("setup.py", b"")),
        evidence=_evidence(f"{filename} sha256:{sha256}"),
    )


def looks_for_torch(script: bytes) -> bool:
    """Whether a setup.py imports torch or asks for its version, even where BUILD_CUDA_EXT=0 forbids it to compile.

    One that cannot be read as Python is taken to.
    """
    try:
        left: list[ast.AST] = [ast.parse(script)]
    except (SyntaxError, ValueError, RecursionError):
        return True
    while left:
        node = left.pop()
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        asked = isinstance(node, ast.Call) and any(
            isinstance(one, ast.Constant) and one.value == "torch" for one in node.args
        )
        if asked or any(name.partition(".")[0] == "torch" for name in names):
            return True
        compiling = isinstance(node, ast.If) and ast.unparse(node.test) in _COMPILING
        left += node.orelse if isinstance(node, ast.If) and compiling else ast.iter_child_nodes(node)
    return False


def _taken(data: bytes, member: str) -> Names:
    """The names that a library looks for elsewhere; of a DLL, whose imports say where, those in c10.dll."""
    if data[:4] == elf.MAGIC:
        return elf.imported(data, member)
    return frozenset(name for library, name in pe.imported(data, member) if library.lower() == "c10.dll")


def core_names(wheel: Wheel) -> Names:
    """What torch's libc10 and libc10_cuda export, on Windows c10.dll. Raises as ``read_wheel``."""
    members = [member for member in CORE_LIBRARIES if member in wheel.names()]
    wheel.fetch(members)
    found: set[str] = set()
    for member in members:
        data = wheel.read(member)
        found |= elf.exported(data, member) if data[:4] == elf.MAGIC else pe.exported(data, member)
    return frozenset(found)


def torch_releases(wanted: Names, exports: Mapping[str, Names]) -> tuple[str, ...]:
    """The releases of torch that still export what an extension takes from libc10 and libc10_cuda, in their order.

    Only names that one of the releases exports count: what the extension takes from other libraries is not known.
    """
    from_core = wanted & frozenset().union(*exports.values())
    return tuple(release for release, names in exports.items() if from_core <= names)


def _members(data: bytes, filename: str, names: tuple[str, ...]) -> dict[str, bytes]:
    """Files that lie directly in an archive's one folder."""
    found: dict[str, bytes] = {}
    left = _UNPACKED_LIMIT
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r|gz") as archive:
            for member in archive:
                left -= member.size
                if left < 0:
                    raise Failed("bad-archive", f"{filename} would unpack to more than {_UNPACKED_LIMIT} bytes")
                base = re.fullmatch(r"[^/]+/([^/]+)", member.name)
                if base and base[1] in names and member.isfile() and member.size <= _TEXT_LIMIT:
                    stream = archive.extractfile(member)
                    found[base[1]] = stream.read(_TEXT_LIMIT) if stream else b""
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise Failed("bad-archive", f"{filename} cannot be read: {error}", "Download the file again.") from None
    return found


def _relevant(requires_dist: Iterable[str]) -> tuple[str, ...]:
    """The requirements on packages that decide about torch; what is none is left out, as installers do."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    kept = []
    for text in requires_dist:
        try:
            known = canonicalize_name(Requirement(text).name) in RELEVANT
        except InvalidRequirement:
            continue
        kept += [text] if known else []
    return tuple(kept)


def _evidence(source: str) -> Evidence:
    return Evidence("measured", source, datetime.now(timezone.utc).date().isoformat())
