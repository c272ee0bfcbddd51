#!/usr/bin/env python3
"""What reading one bitsandbytes wheel costs; prints JSON. Run by bench.py.

usage: bench_wheel.py SITE_PACKAGES ROUNDS

The wheel is made of an installed bitsandbytes, not compressed, and lies on a server of this machine that serves parts
of files. ``fetched`` is what is read of it, ``members`` what the members hold that a row is made of, both in bytes;
``parse`` is the median time of reading the libraries themselves, in seconds of a processor.
"""

from __future__ import annotations

import hashlib
import io
import json
import statistics
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distributions
from pathlib import Path
from threading import Thread
from typing import Any

import requests

from bnbenv.matrix.measure import measure_bitsandbytes
from bnbenv.matrix.native import read_native
from bnbenv.matrix.wheel import remote_wheel

LIBRARY = "bitsandbytes/libbitsandbytes_"


def packed(site: Path) -> tuple[str, bytes]:
    """The name and the bytes of a wheel that holds what is installed."""
    found = next(iter(distributions(name="bitsandbytes", path=[str(site)])))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(found.files or (), key=str):
            path = Path(str(found.locate_file(file)))
            if path.is_file() and ".." not in file.parts and file.suffix != ".pyc":
                archive.write(path, str(file))
    return f"bitsandbytes-{found.version}-py3-none-manylinux_2_24_x86_64.whl", stream.getvalue()


@contextmanager
def served(data: bytes) -> Iterator[str]:
    """The address of some bytes on a server that serves parts of them."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            start = int(first) if first else max(0, len(data) - int(last))
            end = min(int(last) + 1 if first and last else len(data), len(data))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            self.wfile.write(memoryview(data)[start:end])

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def main() -> None:
    site, rounds = Path(sys.argv[1]), int(sys.argv[2])
    name, data = packed(site)
    fetched = 0

    def count(answer: requests.Response, **_: object) -> None:
        nonlocal fetched
        fetched += int(answer.headers["Content-Length"])

    with served(data) as address, requests.Session() as session:
        session.trust_env = False
        session.hooks["response"].append(count)
        with remote_wheel(session, address + name, name, hashlib.sha256(data).hexdigest()) as wheel:
            row = measure_bitsandbytes(wheel)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        wanted = [one for one in archive.namelist() if one.startswith(LIBRARY) or one.endswith("dist-info/METADATA")]
        members = sum(archive.getinfo(one).compress_size for one in wanted)
        libraries = {one: archive.read(one) for one in wanted if one.startswith(LIBRARY)}
    assert len(libraries) == len(row.libraries)
    taken = []
    for _ in range(rounds):
        started = time.process_time()
        for one, content in libraries.items():
            read_native(content, one.rpartition("/")[2])
        taken.append(time.process_time() - started)
    figures = {"version": row.version, "fetched": fetched, "members": members, "libraries": len(libraries)}
    print(json.dumps({**figures, "parse": statistics.median(taken)}))


if __name__ == "__main__":
    main()
