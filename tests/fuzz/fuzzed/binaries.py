"""Decoders of wheels, of the native libraries in them, and of the tables that are made of those."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

from bnbenv.errors import Failed, InputError
from bnbenv.matrix.binary import Window
from bnbenv.matrix.fatbin import targets
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.measure import arch_list, measure_bitsandbytes, measure_torch, version_field, wheel_name
from bnbenv.matrix.native import read_library
from bnbenv.matrix.store import Store
from bnbenv.matrix.wheel import Wheel
from bnbenv.solve.model import Availability, Request
from bnbenv.solve.solver import solve

from .oracle import Fault, Target
from .places import H200, REPO, matrix, put, recorded, scratch, shipped_table

CUDA_LIBRARY = "libbitsandbytes_cuda130.so"
TORCH = "torch-2.13.0+cu130-cp311-cp311-manylinux_2_28_x86_64.whl"
BITSANDBYTES = "bitsandbytes-0.50.2-py3-none-manylinux_2_24_x86_64.whl"
_TABLES = (
    *("loaders.toml", "drivers.toml", "gpus.toml", "advisories.toml", "sources.toml", "families.toml"),
    *("toolkits.json", "source-releases.json", "packages.json", "package-advisories.toml"),
)


def _fatbin(data: bytes) -> None:
    found = targets([Window.over(data, "section")])
    if not all(name.startswith(("sm_", "compute_")) for name in (*found.sass, *found.ptx)):
        raise Fault(f"no targets: {found}")


def _native(data: bytes) -> None:
    library = read_library(data, CUDA_LIBRARY)
    row = library.row
    if row.backend != "cuda":
        raise Fault(f"another backend: {row}")
    json.dumps([row.needed, row.sass, row.ptx, row.glibc, row.glibcxx, library.cuda, library.ptx_cuda]).encode()


def _texts(data: bytes) -> None:
    version_field(data.decode("utf-8", "replace"), "cuda")
    if not arch_list(data, "torch/lib/libtorch_python.so"):
        raise Fault("an empty list")


def _name(data: bytes) -> None:
    found = wheel_name(data.decode("utf-8", "surrogateescape"))
    if not (found.os and found.machine and found.pythons):
        raise Fault(f"something is missing: {found}")


def _wheel(data: bytes) -> None:
    """What a folder of wheels holds is measured, and judged by."""
    try:
        row = measure_torch(Wheel(io.BytesIO(data), TORCH, "a" * 64, len(data)), "local")
    finally:
        measured = measure_bitsandbytes(Wheel(io.BytesIO(data), BITSANDBYTES, "a" * 64, len(data)))
    facts = recorded(H200)
    own = Availability(local=(row,))
    solve(facts, matrix(), Request(torch=f"==={row.version}"), own)
    only = {**vars_of(matrix()), "bitsandbytes": (measured,)}
    solve(facts, type(matrix())(**only), Request(), own)


def vars_of(value: object) -> dict[str, object]:
    """The fields of a struct."""
    return {name: getattr(value, name) for name in value.__struct_fields__}  # type: ignore[attr-defined]


def _overlay(data: bytes) -> None:
    """Rows of the user's own, laid over the shipped ones; the solver takes what the loader has let through."""
    folder = put("overlay/bitsandbytes.json", data).parent
    put("overlay/torch.json", data)
    document = data[:400]
    (folder / ("torch.json" if b"matrix.bitsandbytes/" in document else "bitsandbytes.json")).unlink()
    found = load_matrix(folder, _data())
    for name in (H200, "linux-x86_64__absent__nogpu__glibc2.36"):
        solve(recorded(name), found, Request())


def _kept(data: bytes) -> None:
    """Rows that a user has kept: one more is added to them, or they are refused, and then are as they were."""
    name = "torch.json" if b"matrix.torch/" in data[:400] else "bitsandbytes.json"
    kept = put(f"kept/{name}", data)
    row = matrix().torch[0] if name == "torch.json" else matrix().bitsandbytes[0]
    try:
        Store(kept.parent).add(row)
    except InputError:
        if kept.read_bytes() != data:
            raise Fault("rows that cannot be read were written over") from None
        raise
    again = Store(kept.parent)
    if row not in (again.builds() if name == "torch.json" else again.wheels()):
        raise Fault("the row that was added is not among them")


def _data() -> Path:
    """The shipped tables with a few rows of the two large ones."""
    folder = scratch() / "tables"
    if not folder.exists():
        for name in _TABLES:
            put(f"tables/{name}", (REPO / "matrices" / name).read_bytes())
        for name in ("bitsandbytes.json", "torch.json", "torch-declared.json"):
            put(f"tables/{name}", json.dumps(shipped_table(name, 6)).encode())
    return folder


def _own_table(data: bytes) -> None:
    """A shipped table of any content in the place of one of them."""
    data, _, place = data.rpartition(b"#")
    name = _TABLES[place[0] % len(_TABLES)] if place else _TABLES[0]
    folder = _data().parent / "changed"
    if not folder.exists():
        for path in _data().iterdir():
            put(f"changed/{path.name}", path.read_bytes())
    put(f"changed/{name}", data)
    try:
        load_matrix(None, folder)
    finally:
        put(f"changed/{name}", (_data() / name).read_bytes())


# -- valid binaries, from the descriptions of the formats


def _entry(kind: int, arch: int, flags: int = 0) -> bytes:
    return struct.pack("<HHIQIIHHIIIQ", kind, 0x101, 64, 8, 8, 0, 7, 1, arch, 0, 0, 0x11 | flags).ljust(
        64, b"\0"
    ) + bytes(8)


def _container(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def fatbins() -> tuple[bytes, ...]:
    one = _container(_entry(2, 90), _entry(2, 100, 0x100000), _entry(1, 120, 0x200000))
    return one, one + bytes(24) + _container(_entry(2, 75)), _container()


def elf() -> bytes:
    """A library that needs libc.so.6 in two versions, with a fatbin."""
    strings = b"\0libc.so.6\0GLIBC_2.34\0GLIBCXX_3.4.29\0GLIBC_ABI_DT_RELR\0"
    dynamic = struct.pack("<qQ", 1, 1) + bytes(16)
    needs = struct.pack("<HHIII", 1, 3, 1, 16, 0)
    for place, after in ((11, 16), (22, 16), (37, 0)):
        needs += struct.pack("<IHHII", 0, 0, 2, place, after)
    sections = [
        (b"", 0, 0, 0, b""),
        (b".dynstr", 3, 0, 0, strings),
        (b".dynamic", 6, 1, 0, dynamic),
        (b".gnu.version_r", 0x6FFFFFFE, 1, 1, needs),
        (b".nv_fatbin", 1, 0, 0, fatbins()[1]),
        (b"__nv_relfatbin", 1, 0, 0, fatbins()[0]),
    ]
    names = b"\0" + b"".join(section[0] + b"\0" for section in sections[1:]) + b".shstrtab\0"
    sections.append((b".shstrtab", 3, 0, 0, names))
    body, headers = bytearray(64), b""
    for name, kind, link, count, content in sections:
        place = names.index(name + b"\0") if name else 0
        headers += struct.pack("<IIQQQQIIQQ", place, kind, 0, 0, len(body), len(content), link, count, 8, 0)
        body += content
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    numbers = (3, 62, 1, 0, 0, len(body), 0, 64, 0, 0, 64, len(sections), len(sections) - 1)
    body[:64] = struct.pack("<16sHHIQQQIHHHHHH", ident, *numbers)
    return bytes(body) + headers


def pe() -> bytes:
    """A DLL that imports one other, with a fatbin."""
    address = 0x1000
    imports = struct.pack("<IIIII", 1, 0, 0, address + 40, 1) + bytes(20) + b"cudart64_13.dll\0"
    contents = {b".rdata": imports, b".nv_fatb": fatbins()[1], b"__nv_rel": fatbins()[0]}
    optional = struct.pack("<H", 0x20B).ljust(120, b"\0") + struct.pack("<II", address, 40)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(contents), 0, 0, 0, len(optional), 0x2022)
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + coff + optional
    table, body, start = b"", b"", len(head) + 40 * len(contents)
    for name, content in contents.items():
        fields = (len(content), address, len(content), start + len(body), 0, 0, 0, 0, 0)
        table += struct.pack("<8sIIIIIIHHI", name, *fields)
        body += content
        address += 0x100000
    return head + table + body


def wheels() -> tuple[bytes, ...]:
    """A wheel that reads as one of torch and as one of bitsandbytes, as it is and stored."""
    metadata = (
        "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+cu130\nRequires-Python: >=3.10\n"
        "Requires-Dist: triton==3.7.1; platform_system == 'Linux'\nRequires-Dist: torch<3,>=2.4\n"
        "Requires-Dist: filelock\nDescription: none\n\nText\n"
    )
    members = {
        "torch-2.13.0+cu130.dist-info/METADATA": metadata.encode(),
        "torch/version.py": b"cuda: Optional[str] = '13.0'\nhip = None\nxpu = None\n",
        "torch/lib/libtorch_python.so": b"\0sm_75 sm_80 sm_90 sm_120\0",
        f"bitsandbytes/{CUDA_LIBRARY}": elf(),
        "bitsandbytes/libbitsandbytes_cpu.dll": pe(),
    }
    found = []
    for how in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", how) as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name), content)
        found.append(stream.getvalue())
    return tuple(found)


_NAMES = (
    TORCH,
    BITSANDBYTES,
    "torch-2.13.0-1build-cp313-cp313t-macosx_11_0_arm64.whl",
    "bitsandbytes-0.42.0-py3-none-any.whl",
    "torch-2.0-cp39.cp310-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    "bitsandbytes-0.50.2-py3-none-win_amd64.whl",
)


def _rows() -> tuple[bytes, ...]:
    return tuple(json.dumps(shipped_table(name)).encode() for name in ("bitsandbytes.json", "torch.json"))


def _own_tables() -> tuple[bytes, ...]:
    return tuple((_data() / name).read_bytes() + b"#" + bytes([n]) for n, name in enumerate(_TABLES))


TARGETS = (
    Target("fatbin", "binary", _fatbin, fatbins, (Failed,)),
    Target("elf-library", "binary", _native, lambda: (elf(),), (Failed,)),
    Target("pe-library", "binary", _native, lambda: (pe(),), (Failed,)),
    Target("native-library", "binary", _native, lambda: (elf(), pe(), b"\xcf\xfa\xed\xfe\x0c\0\0\1"), (Failed,)),
    Target("torch-texts", "text", _texts, lambda: (b"\0sm_80 sm_90a compute_120\0cuda = '13.0'\n",), (Failed,)),
    Target("wheel-names", "text", _name, lambda: tuple(name.encode() for name in _NAMES), (Failed,)),
    Target("wheels", "zip", _wheel, wheels, (Failed,), slow=True),
    Target("matrix-overlay", "json", _overlay, _rows, (InputError,), str(scratch() / "overlay"), True),
    Target("matrix-kept", "json", _kept, _rows, (InputError,), str(scratch() / "kept"), True),
    Target("matrix-tables", "text", _own_table, _own_tables, (InputError,), str(scratch() / "changed"), True),
)
