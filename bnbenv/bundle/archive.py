"""The file of a bundle: a plain tar in an order and with dates that depend on its content alone.

It is written beside its place and renamed when it is whole. Reading believes nothing of it: members are plain files
whose names stand in the manifest, and each is compared with its sha256 before anybody uses it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from bnbenv.bundle.manifest import AGAIN, LARGEST, MANIFEST, File, Manifest, decode_manifest, safe
from bnbenv.errors import InputError

BLOCK = 1 << 20
_EPOCH = 315532800  # 1980-01-01: what zip files can hold as well
_EXECUTABLE = (".sh",)

Told = Callable[[int], None]  # told of bytes, as they pass


class Writer:
    """A new bundle. Its members come in the order of the manifest."""

    def __init__(self, stream: IO[bytes], manifest: Manifest) -> None:
        self._tar = tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        data = manifest.encode()
        self._tar.addfile(_info(MANIFEST, len(data)), io.BytesIO(data))

    def add(self, file: File, source: IO[bytes]) -> None:
        """One member; ``source`` has to bring ``file.size`` bytes. Raises OSError."""
        self._tar.addfile(_info(file.path, file.size), source)

    def close(self) -> None:
        self._tar.close()


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, _EPOCH
    info.mode = 0o755 if name.endswith(_EXECUTABLE) else 0o644
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


def tar_size(files: Iterable[File], manifest: int) -> int:
    """About how many bytes the archive will have; ``manifest`` are those of bundle.json."""
    sizes = [manifest, *(file.size for file in files)]
    return sum(512 + -(-size // 512) * 512 for size in sizes) + 10240


@contextlib.contextmanager
def written_beside(out: Path, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A new file beside ``out``, which takes its place when the body ends well. The umask takes from ``mode``."""
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "w+b") as stream:  # noqa: PTH123 - a descriptor
            yield stream
            stream.flush()
            os.fsync(descriptor)
        partial.replace(out)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sweep(out: Path) -> None:
    """Delete what bundles of this name left that were killed; not that of one which is being written."""
    ours = re.compile(rf"\.{re.escape(out.name)}\.([0-9]{{1,9}})\.(part|work)")
    for entry in list(os.scandir(out.parent)):
        found = ours.fullmatch(entry.name)
        if found and not _alive(int(found[1])):
            if found[2] == "work":
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)


def _alive(number: int) -> bool:
    """Whether a process has that number; on Windows nobody is asked, since asking ends it."""
    if os.name == "nt":
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def file_sha256(stream: IO[bytes], told: Told = lambda size: None, head: io.BytesIO | None = None) -> str:
    """The SHA-256 of all bytes of a stream from its beginning. ``head`` gets the first of them, with the manifest."""
    stream.seek(0)
    digest = hashlib.sha256()
    while block := stream.read(BLOCK):
        digest.update(block)
        if head is not None and head.tell() <= LARGEST + BLOCK:
            head.write(block)
        told(len(block))
    return digest.hexdigest()


class Reader:
    """An existing bundle. ``name`` is how errors call it.

    Opening it reads the manifest and the names of all members; with ``sha256`` all of it is compared first, and the
    manifest is the one that was compared, even if somebody writes into the file meanwhile. Raises InputError: no
    bundle, cut off, or with members that do not belong; OSError.
    """

    def __init__(self, path: Path, name: str, sha256: str | None = None, told: Told = lambda size: None) -> None:
        self.name = name
        self._stream = path.open("rb")
        try:
            head = self._stream if sha256 is None else self._compare(sha256, told)
            self.manifest = decode_manifest(self._manifest(head), name)
            self._stream.seek(0)
            self._tar = tarfile.open(fileobj=self._stream, mode="r:")  # noqa: SIM115
            self._tar.next()
            self._members = self._look()
        except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError, MemoryError) as error:
            self._stream.close()
            raise InputError(
                name, "", f"no bundle of bnbenv, or cut off ({error or type(error).__name__})", AGAIN
            ) from None
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *ended: object) -> None:
        self._stream.close()

    def _compare(self, sha256: str, told: Told) -> IO[bytes]:
        """The beginning of what was compared."""
        head = io.BytesIO()
        found = file_sha256(self._stream, told, head)
        if found != sha256:
            expected = f"damaged or changed: its sha256 is {found[:12]}... and should be {sha256[:12]}..."
            raise InputError(self.name, "", expected, "Copy it again.")
        head.seek(0)
        return head

    def _manifest(self, stream: IO[bytes]) -> bytes:
        tar = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115
        info = tar.next()
        if info is None or info.name != MANIFEST or not info.isreg():
            raise InputError(self.name, "", "no bundle of bnbenv", "Make one with: bnbenv bundle OUT.tar")
        if info.size > LARGEST:
            raise InputError(self.name, MANIFEST, f"larger than {LARGEST >> 20} MB", AGAIN)
        member = tar.extractfile(info)
        assert member is not None, "a plain file"
        data = member.read()
        if len(data) != info.size:
            raise InputError(self.name, "", "cut off", AGAIN)
        return data

    def _look(self) -> dict[str, tarfile.TarInfo]:
        """The members, all of them plain files of the manifest, and all of the manifest's."""
        known, found = self.manifest.by_path, {}
        while True:
            try:
                info = self._tar.next()
            except tarfile.ReadError:
                raise InputError(self.name, "", "cut off", AGAIN) from None
            if info is None:
                break
            file = known.get(info.name)
            if file is None or not safe(info.name) or not info.isreg() or info.issparse() or info.name in found:
                expected = f"it holds {info.name[:100]!r}, which does not belong into a bundle"
                raise InputError(self.name, "", expected, AGAIN)
            if info.size != file.size:
                raise InputError(self.name, info.name, "has another size than in the manifest", AGAIN)
            found[info.name] = info
        missing = sorted(set(known) - set(found))
        if missing:
            raise InputError(self.name, missing[0], "is missing: it was cut off", AGAIN)
        return found

    def read(self, path: str) -> bytes:
        """A small member, compared with its sha256. Raises InputError."""
        file = self.manifest.by_path[path]
        if file.size > LARGEST:
            raise InputError(self.name, path, f"larger than {LARGEST >> 20} MB", AGAIN)
        out = io.BytesIO()
        self._copy(file, out, lambda size: None)
        return out.getvalue()

    def text(self, path: str) -> str:
        """A small member as text. Raises InputError."""
        try:
            return self.read(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(self.name, f"{path}: byte {error.start}", "expected UTF-8 text", AGAIN) from None

    def extract(self, paths: Iterable[str], folder: Path, told: Told = lambda size: None) -> None:
        """Write members below a folder. Each is there only if its sha256 is right. Raises InputError, OSError."""
        for path in paths:
            target = folder / path
            if target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name[:200]}.part")
            with partial.open("xb") as out:
                self._copy(self.manifest.by_path[path], out, told)
            partial.replace(target)

    def _copy(self, file: File, out: IO[bytes], told: Told) -> None:
        digest = hashlib.sha256()
        try:
            stream = self._tar.extractfile(self._members[file.path])
            assert stream is not None, "a plain file"
            with stream:
                while block := stream.read(BLOCK):
                    digest.update(block)
                    out.write(block)
                    told(len(block))
        except tarfile.TarError:
            raise InputError(self.name, file.path, "cut off", AGAIN) from None
        if digest.hexdigest() != file.sha256:
            raise InputError(self.name, file.path, "damaged or changed: its sha256 is another", AGAIN)
