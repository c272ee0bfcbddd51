"""Readers of wheels where they lie: in a file, on a server that may say anything, installed; and of single files."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import shutil
import zipfile
from pathlib import Path

import msgspec
import requests
from requests.adapters import BaseAdapter

from bnbenv.errors import BnbenvError, Failed, InputError, SourceUnreachable
from bnbenv.matrix.contents import FoundPackage, read_file, read_folder
from bnbenv.matrix.measure import measure_bitsandbytes, measure_torch
from bnbenv.matrix.model import BitsandbytesWheel, TorchBuild
from bnbenv.matrix.toolkits import compile_targets, host_compilers, tool_version
from bnbenv.matrix.wheel import Wheel, remote_wheel
from bnbenv.solve.inspecting import judge_library, judge_package, situation_of

from .binaries import BITSANDBYTES, TORCH, elf, fatbins, pe, wheels
from .edits import SECRET
from .oracle import Fault, Target, check_error
from .places import MIXED, NO_GPU, matrix, put, recorded, scratch

SMALL = 1 << 20  # bytes of a member that are asked for
PLAN = 16  # bytes at the beginning of an input that say how the server answers its requests
HONEST = bytes(PLAN)
FILES = {"torch/version.py", "torch/lib/libtorch_python.so", "bitsandbytes/__init__.py"}


def _members(data: bytes) -> None:
    """Every member of any zip file: as large as was allowed, or an error."""
    wheel = Wheel(io.BytesIO(data), TORCH, "a" * 64, len(data))
    trouble: Failed | None = None
    for name in wheel.names()[:100]:
        try:
            if len(wheel.read(name, SMALL)) > SMALL:
                raise Fault(f"{name} is larger than was allowed")
        except Failed as error:
            trouble = error
    if trouble is not None:
        raise trouble


# -- over HTTP


class _Parts(BaseAdapter):
    """A server of one file, which for each request does what a byte says: up to 127 it is honest."""

    def __init__(self, plan: bytes, body: bytes) -> None:
        super().__init__()
        self._plan, self._body, self._count = plan, body, 0

    def send(self, request: requests.PreparedRequest, **_: object) -> requests.Response:  # type: ignore[override]
        what = self._plan[self._count % len(self._plan)]
        self._count += 1
        if self._count > 10_000:
            raise Fault("it asks without end")
        return self._answer(request, what % 18 if what > 127 else 99)

    def _answer(self, request: requests.PreparedRequest, what: int) -> requests.Response:
        size = len(self._body)
        first, last = _span(request.headers["Range"], size)
        part = self._body[first : last + 1]
        if what == 0:
            raise requests.ConnectionError("dropped")
        status = {1: 404, 2: 416, 3: 503, 4: 200, 5: 501, 6: 302}.get(what, 206 if part else 416)
        span = {
            7: f"bytes {first + 1}-{last}/{size}",
            8: f"bytes {first}-{last}/{size + 1}",
            9: f"bytes {first}-{last}/{10**17}",
            10: "bytes */" + "9" * 5000,
        }.get(what, f"bytes {first}-{last}/{size}")
        content = {4: self._body, 11: b"", 12: part[: len(part) // 2], 13: part + b"more", 14: bytes(len(part))}
        answer = requests.Response()
        answer.status_code, answer.url, answer.request = status, str(request.url), request
        answer.headers.update({"Content-Range": span, "ETag": '"2"' if what == 15 else '"1"'})
        if what == 16:
            answer.headers["Content-Encoding"] = "gzip"
        if what == 17:
            answer.headers["Content-Length"] = str(10**17)
        if status == 302:
            answer.headers["Location"] = f"https://me:{SECRET}@host/again"
        answer.raw = io.BytesIO(content.get(what, part))
        return answer

    def close(self) -> None: ...


def _span(text: str, size: int) -> tuple[int, int]:
    first, _, last = text.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last) if last else size, size - 1)


def _in_parts(data: bytes) -> None:
    """Whatever a server does, a row is what it would be of the file on this disk, or there is none."""
    _read(data[:PLAN].ljust(PLAN, b"\0"), data[PLAN:])


def _from_servers(data: bytes) -> None:
    """A sound wheel on a server that does anything; it is large enough for several requests."""
    _read(data[:100] or HONEST, _large())


def _read(plan: bytes, body: bytes) -> None:
    trouble: BnbenvError | None = None
    for filename in (TORCH, BITSANDBYTES):
        try:
            row = _row(filename, _Parts(plan, body), hashlib.sha256(body).hexdigest())
        except (Failed, SourceUnreachable) as error:
            trouble = error
            continue
        here = _measured(Wheel(io.BytesIO(body), filename, "0" * 64, len(body)))
        if _bare(row) != _bare(here):
            raise Fault(f"another row than on this disk: {row} {here}")
    if trouble is not None:
        raise trouble


def _row(filename: str, server: _Parts, sha256: str) -> BitsandbytesWheel | TorchBuild:
    session = requests.Session()
    session.trust_env = False
    session.mount("https://", server)
    with remote_wheel(session, f"https://me:{SECRET}@host/{filename}", filename, sha256) as wheel:
        return _measured(wheel)


def _measured(wheel: Wheel) -> BitsandbytesWheel | TorchBuild:
    return measure_torch(wheel, "local") if wheel.filename == TORCH else measure_bitsandbytes(wheel)


def _bare(row: BitsandbytesWheel | TorchBuild) -> object:
    """A row but for how it was had."""
    return {**msgspec.structs.asdict(row), "evidence": None, "sha256": None, "size": None}


# -- files and folders that people name


def _judged(packages: tuple[FoundPackage, ...]) -> None:
    """As ``matrix inspect`` judges what it read."""
    json.loads(msgspec.json.encode(packages))
    for host in (MIXED, NO_GPU):
        situation = situation_of(recorded(host), matrix())
        for package in packages:
            judge_package(package, situation)
            for library in package.libraries:
                judge_library(library, situation)


def _file(data: bytes) -> None:
    """Any file, under a name of a library, of torch, and of another project."""
    names, trouble = ("libx.so", TORCH, "x-1.0-py3-none-any.whl"), []
    for name in names:
        try:
            _judged((read_file(put(f"given/{name}", data), _nobody),))
        except (Failed, InputError) as error:
            check_error(error, _GIVEN if isinstance(error, InputError) else "")
            trouble.append(error)
    if len(trouble) == len(names):
        raise trouble[0]


def _installed(data: bytes) -> None:
    """A folder of packages whose files hold anything: the members of a zip file that have a place there."""
    site = scratch() / "inspected" / "lib" / "python3.11" / "site-packages"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = {name: archive.read(name)[:SMALL] for name in archive.namelist()[:50]}
    except Exception:  # no zip file, of which other targets take care
        found = {"torch/version.py": data}
    for name, content in found.items():
        if name in FILES or name.endswith("/METADATA") or name.startswith("bitsandbytes/libbitsandbytes_"):
            _place(site, name, content)
    _judged(read_folder(site, _nobody))


def _place(site: Path, name: str, content: bytes) -> None:
    parts = name.split("/")
    if len(parts) > 3 or any(part in ("", ".", "..") or "\0" in part or len(part) > 100 for part in parts):
        return
    try:
        put(str((site / name).relative_to(scratch())), content)
    except (OSError, UnicodeEncodeError):  # a file where a folder would have to be, or no name for one
        return


def _nobody(said: str) -> None:
    """Nothing is shown."""
    if not said:
        raise Fault("nothing is told")


def _toolkit(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    trouble: Failed | None = None
    for read in (host_compilers, compile_targets, tool_version):
        try:
            read(text)
        except Failed as error:
            trouble = error
    if trouble is not None:
        raise trouble


_HEADER = b"""\
#if __GNUC__ > 14
#error -- unsupported GNU version! gcc versions later than 14 are not supported!
#endif
#if (__clang_major__ >= 20) || (__clang_major__ < 7)
#error -- unsupported clang version! clang version must be less than 20 and greater than 6.
#endif
#if _MSC_VER < 1910 || _MSC_VER >= 1950
#error -- unsupported Microsoft Visual Studio version! Only 2017 to 2022 are supported!
#endif
--gpu-name <gpu name>  Allowed values for this option:  'sm_75','sm_90','sm_90a','sm_120f','compute_75','compute_120'
Cuda compilation tools, release 12.8, V12.8.93
"""


def _served() -> tuple[bytes, ...]:
    """Honest servers, and some whose second answer is wrong in one way."""
    faults = [bytes([0, what + 128]) + bytes(PLAN - 2) + wheels()[what % 2] for what in (0, 7, 8, 12, 14)]
    return (*(HONEST + wheel for wheel in wheels() * 3), *faults)


@functools.cache
def _large() -> bytes:
    """A wheel in which much lies between the members that are read."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(wheels()[0])) as archive, zipfile.ZipFile(stream, "w") as wheel:
        for number, name in enumerate(archive.namelist()):
            wheel.writestr(zipfile.ZipInfo(name), archive.read(name))
            wheel.writestr(zipfile.ZipInfo(f"torch/other{number}"), bytes(50_000))
    return stream.getvalue()


def _site() -> tuple[bytes, ...]:
    """Wheels whose libraries are all of one platform, as installed ones are."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(wheels()[0])) as archive, zipfile.ZipFile(stream, "w") as site:
        for name in archive.namelist():
            if name.endswith("METADATA") or name.endswith("_cuda130.so"):
                site.writestr(name, archive.read(name))
        site.writestr("torch/lib/libtorch_python.so", elf() + b"\0sm_80 sm_90\0")
        site.writestr("bitsandbytes/__init__.py", b'__version__ = "0.50.2"\n')
        site.writestr("torch/version.py", b"__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip = None\n")
    return (stream.getvalue(),)


_GIVEN = str(scratch() / "given")
_BOUND = 96 << 20

TARGETS = (
    Target("zip-members", "binary", _members, wheels, (Failed,), memory=_BOUND),
    Target("wheel-in-parts", "binary", _in_parts, _served, (Failed, SourceUnreachable), slow=True, memory=_BOUND),
    Target(
        "wheel-servers",
        "binary",
        _from_servers,
        lambda: tuple(HONEST + bytes([n]) for n in range(4)),
        (Failed, SourceUnreachable),
        slow=True,
    ),
    Target(
        "inspect-file",
        "binary",
        _file,
        lambda: (elf(), pe(), *wheels(), *fatbins(), b"\xcf\xfa\xed\xfe\x0c\0\0\1"),
        (Failed, InputError),
        _GIVEN,
        slow=True,
        memory=_BOUND,
    ),
    Target("inspect-wheel", "zip", _file, wheels, (Failed, InputError), _GIVEN, slow=True),
    Target("inspect-folder", "zip", _installed, _site, (Failed, InputError), str(scratch() / "inspected"), slow=True),
    Target("toolkit-texts", "text", _toolkit, lambda: (_HEADER,), (Failed,)),
)
