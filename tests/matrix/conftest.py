"""What the matrix tests share: binaries and wheels made to order, and an index on this machine."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

import pytest


class Binaries:
    """Builds the formats from their description, independently of the readers."""

    PTX, CUBIN = 1, 2
    ARCH_SPECIFIC, FAMILY_SPECIFIC = 0x100000, 0x200000

    def entry(self, kind: int, arch: int, flags: int = 0, payload: bytes = bytes(8), header: int = 64) -> bytes:
        fields = struct.pack(
            "<HHIQIIHHIIIQ", kind, 0x101, header, len(payload), len(payload), 0, 7, 1, arch, 0, 0, 0x11 | flags
        )
        return fields.ljust(header, b"\0") + payload

    def container(self, *entries: bytes) -> bytes:
        body = b"".join(entries)
        return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body

    def elf(
        self,
        sections: Mapping[str, bytes] = {},
        needed: tuple[str, ...] = (),
        versions: tuple[tuple[str, int], ...] = (),
        version_records: bytes = b"",
    ) -> bytes:
        """A shared library with these sections, DT_NEEDED names, and needed (version, flags) of one library.

        ``version_records`` are raw records of 16 bytes instead.
        """
        strings = bytearray(b"\0")

        def text(value: str) -> int:
            strings.extend(value.encode() + b"\0")
            return len(strings) - len(value) - 1

        dynamic = b"".join(struct.pack("<qQ", 1, text(name)) for name in needed) + bytes(16)
        following = [16 * (number + 1 < len(versions)) for number in range(len(versions))]
        verneed = struct.pack("<HHIII", 1, len(versions), text("libc.so.6"), 16, 0) if versions else b""
        for (name, flags), after in zip(versions, following, strict=True):
            verneed += struct.pack("<IHHII", 0, flags, 2, text(name), after)
        # name, type, link, number of records, content
        table: list[tuple[str, int, int, int, bytes]] = [
            ("", 0, 0, 0, b""),
            (".dynstr", 3, 0, 0, bytes(strings)),
            (".dynamic", 6, 1, 0, dynamic),
        ]
        if versions or version_records:
            records = version_records or verneed
            table.append((".gnu.version_r", 0x6FFFFFFE, 1, len(version_records) // 16 or 1, records))
        table += [(name, 1, 0, 0, content) for name, content in sections.items()]
        names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in table[1:]) + b".shstrtab\0"
        table.append((".shstrtab", 3, 0, 0, names))
        body, headers = bytearray(64), b""
        for name, kind, link, count, content in table:
            place = names.index(b"\0" + name.encode() + b"\0") + 1 if name else 0
            headers += struct.pack("<IIQQQQIIQQ", place, kind, 0, 0, len(body), len(content), link, count, 8, 0)
            body += content
        ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        head = struct.pack(
            "<16sHHIQQQIHHHHHH", ident, 3, 62, 1, 0, 0, len(body), 0, 64, 0, 0, 64, len(table), len(table) - 1
        )
        body[:64] = head
        return bytes(body) + headers

    def pe(self, sections: Mapping[str, bytes] = {}, imports: tuple[str, ...] = ()) -> bytes:
        """A DLL for x86-64 with these sections, and an import table in ``.rdata``."""
        start, align = 0x40, 0x200
        address, names = 0x1000, bytearray()
        descriptors = bytearray()
        for name in imports:
            at = address + 20 * (len(imports) + 1) + len(names)
            descriptors += struct.pack("<IIIII", 1, 0, 0, at, 1)
            names += name.encode() + b"\0"
        contents = {".rdata": bytes(descriptors) + bytes(20) + bytes(names), **sections}
        optional = struct.pack("<H", 0x20B).ljust(112, b"\0") + bytes(8)
        optional += struct.pack("<II", address if imports else 0, len(descriptors) + 20)
        coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(contents), 0, 0, 0, len(optional), 0x2022)
        head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", start) + coff + optional
        table, body = b"", b""
        offset = len(head) + 40 * len(contents)
        for name, content in contents.items():
            padded = content.ljust(-(-len(content) // align) * align, b"\0")
            table += struct.pack(
                "<8sIIIIIIHHI", name.encode()[:8], len(content), address, len(padded), offset + len(body), 0, 0, 0, 0, 0
            )
            body += padded
            address += 0x100000
        return head + table + body


@pytest.fixture(scope="session")
def binaries() -> Binaries:
    return Binaries()


def zipped(members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def wheel_members(project: str, version: str, metadata: str = "") -> dict[str, bytes]:
    text = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n{metadata}"
    return {f"{project}-{version}.dist-info/METADATA": text.encode()}


@pytest.fixture
def make_zip() -> Callable[..., bytes]:
    return zipped


@pytest.fixture
def make_members() -> Callable[..., dict[str, bytes]]:
    """The METADATA of a wheel, as members to add others to."""
    return wheel_members


Answer = tuple[int, dict[str, str], bytes]


class LocalIndex:
    """A simple index on a port of this machine, with range requests, and ways to misbehave."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.ranges = True
        self.cut = 0  # bytes that are missing at the end of each part
        self.sent = 0
        self.base = ""
        self.asked: list[tuple[str, str | None]] = []  # path and Range of each request
        # What becomes of an answer: ``twist(path, span, (status, headers, data))``. A Content-Length of more than is
        # sent is a connection that breaks off.
        self.twist: Callable[[str, str | None, Answer], Answer] = lambda path, span, answer: answer

    def add(self, project: str, files: Mapping[str, bytes], yanked: tuple[str, ...] = ()) -> None:
        """Publish files, and a page in HTML that lists all of the project's."""
        self.files.update(files)
        listed = [name for name in self.files if name.startswith(f"{project}-")]
        links = [
            f'<a href="../../files/{name}#sha256={self.sha256(name)}"{" data-yanked" * (name in yanked)}>{name}</a>'
            for name in listed
        ]
        self.pages[project] = ("text/html", f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode())

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()

    def url(self, name: str) -> str:
        return f"{self.base}/files/{name}"

    @property
    def endpoint(self) -> str:
        return f"{self.base}/simple/"

    def answer(self, path: str, span: str | None) -> Answer:
        kind, _, name = unquote(path).strip("/").partition("/")
        if kind in ("simple", "whl") and name in self.pages:
            content_type, data = self.pages[name]
            return 200, {"Content-Type": content_type}, data
        if kind != "files" or name not in self.files:
            return 404, {}, b"no such thing"
        data = self.files[name]
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", span or "")
        if not match or not self.ranges:
            return 200, {}, data
        if not data:
            return 416, {}, b""
        first = int(match[1]) if match[1] else max(0, len(data) - int(match[2]))
        last = min(int(match[2]), len(data) - 1) if match[1] else len(data) - 1
        part = data[first : last + 1]
        return 206, {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, part[: len(part) - self.cut]


@pytest.fixture
def local_index() -> Iterator[LocalIndex]:
    index = LocalIndex()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            span = self.headers.get("Range")
            index.asked.append((self.path, span))
            status, headers, data = index.twist(self.path, span, index.answer(self.path, span))
            index.sent += len(data)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = int(headers.get("Content-Length", 0)) > len(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *words: object) -> None:
            pass  # clients that give up are the point of some tests

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    index.base = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield index
    server.shutdown()
    server.server_close()


@pytest.fixture
def write_wheel(tmp_path: Path) -> Callable[[str, Mapping[str, bytes]], Path]:
    def write(filename: str, members: Mapping[str, bytes]) -> Path:
        path = tmp_path / filename
        path.write_bytes(zipped(members))
        return path

    return write
