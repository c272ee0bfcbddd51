"""Archives: what would lie outside, never ends, or is cut off is refused, and nothing of it stays."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from bnbenv.build.ports import Ports
from bnbenv.build.source import fetch
from bnbenv.errors import BnbenvError

TOP = "bitsandbytes-0.50.1"


@pytest.fixture
def refused(bare_ports: Callable[..., Ports]) -> Callable[[Path], tuple[str, str]]:
    """``refused(file)``: the code and message; nothing but what was there before is left anywhere."""
    ports = bare_ports()

    def ask(file: Path, mark: str = "") -> tuple[str, str]:
        with pytest.raises(BnbenvError) as caught:
            fetch(f"{file}{mark}", None, ports, "https://upstream.invalid/")
        left = list((ports.home / "work").iterdir()) if (ports.home / "work").exists() else []
        assert left == []
        return caught.value.code, caught.value.message

    return ask


def _entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, size
    return found


def _tar(file: Path, tree: Path, *entries: tarfile.TarInfo) -> Path:
    with tarfile.open(file, "w:gz") as tar:
        tar.add(tree, TOP)
        for entry in entries:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size))
    return file


@pytest.mark.parametrize(
    "entries",
    [
        (_entry("../evil", size=1),),
        (_entry("/tmp/evil", size=1),),
        (_entry(f"{TOP}/a/../../../evil", size=1),),
        (_entry(f"{TOP}/a\\..\\evil", size=1),),
        (_entry("C:/evil", size=1),),
        (_entry(f"{TOP}/etc", tarfile.SYMTYPE, "/etc"),),
        (_entry(f"{TOP}/up", tarfile.SYMTYPE, "../../.."),),
        (_entry(f"{TOP}/out", tarfile.SYMTYPE, "../../.."), _entry(f"{TOP}/out/evil", size=1)),
        (_entry(f"{TOP}/out", tarfile.SYMTYPE, "."), _entry(f"{TOP}/out/evil", tarfile.SYMTYPE, "x")),
        # each looks as if it stayed inside
        (_entry(f"{TOP}/csrc/up", tarfile.SYMTYPE, ".."), _entry(f"{TOP}/x", tarfile.SYMTYPE, "csrc/up/../../..")),
        (_entry(f"{TOP}/nothing", tarfile.SYMTYPE, ""),),
        (_entry(f"{TOP}/long", tarfile.SYMTYPE, "csrc/" * 300),),
        (_entry(f"{TOP}/hard", tarfile.LNKTYPE, "/etc/hostname"),),
        (_entry(f"{TOP}/hard", tarfile.LNKTYPE, f"{TOP}/nothing"),),
        (_entry(f"{TOP}/device", tarfile.CHRTYPE),),
        (_entry(f"{TOP}/pipe", tarfile.FIFOTYPE),),
        (_entry(f"{TOP}/csrc/kernels.cu", size=3),),  # a second one
        (_entry(f"{TOP}/csrc/kernels.cu/x", size=3),),
        (_entry("/".join([TOP, *["d"] * 60, "x"]), size=1),),
        (_entry(f"{TOP}/{'n' * 300}", size=1),),
    ],
    ids=lambda entries: entries[-1].name[-20:],
)
def test_entries_that_no_source_has(
    tmp_path: Path,
    source_tree: Callable[..., Path],
    refused: Callable[..., tuple[str, str]],
    entries: tuple[tarfile.TarInfo, ...],
) -> None:
    code, said = refused(_tar(tmp_path / "a.tar.gz", source_tree(tmp_path / "tree"), *entries))
    assert code == "unsafe-source", said
    assert not list(tmp_path.rglob("evil"))


def test_links_and_hard_links_that_stay_inside(
    tmp_path: Path, source_tree: Callable[..., Path], bare_ports: Callable[..., Ports]
) -> None:
    entries = (
        _entry(f"{TOP}/csrc/same.cu", tarfile.SYMTYPE, "../csrc/kernels.cu"),
        _entry(f"{TOP}/csrc/hard.cu", tarfile.LNKTYPE, f"{TOP}/csrc/kernels.cu"),
    )
    file = _tar(tmp_path / "a.tar.gz", source_tree(tmp_path / "tree"), *entries)
    tree = fetch(str(file), None, bare_ports(), "https://upstream.invalid/")
    texts = {(Path(tree.folder) / "csrc" / name).read_text() for name in ("kernels.cu", "same.cu", "hard.cu")}
    assert texts == {"// 0.50.1\n"}
    assert tree.origin.asked == f"{file}#sha256={hashlib.sha256(file.read_bytes()).hexdigest()}"


def _zeros(file: Path, entry: tarfile.TarInfo) -> Path:
    """A tar file of an entry of 160 MB of zeros, which packs to less than one."""
    entry.size = 1 << 33
    with gzip.open(file, "wb", 1) as stream:
        stream.write(entry.tobuf(tarfile.GNU_FORMAT))
        for _ in range(160):
            stream.write(bytes(1 << 20))
    return file


def test_what_never_ends(tmp_path: Path, refused: Callable[..., tuple[str, str]]) -> None:
    assert refused(_zeros(tmp_path / "file.tar.gz", _entry("zeros")))[0] == "source-too-large"
    # The header of a long name, of which tarfile reads as much as it says.
    code, said = refused(_zeros(tmp_path / "name.tar.gz", _entry("x", tarfile.GNUTYPE_LONGNAME)))
    assert (code, "larger than 128 MB" in said) == ("unreadable-source", True), said
    large, *linked = [_entry(f"{n}", tarfile.LNKTYPE if n else tarfile.REGTYPE, "0" if n else "") for n in range(70)]
    large.size = 2 << 20
    with tarfile.open(tmp_path / "linked.tar.gz", "w:gz") as tar:
        for entry in (large, *linked):
            tar.addfile(entry, io.BytesIO(bytes(entry.size)))
    assert refused(tmp_path / "linked.tar.gz")[0] == "source-too-large"
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(20_002):
            archive.writestr(zipfile.ZipInfo(f"{number}"), b"")
    assert refused(tmp_path / "many.zip")[0] == "source-too-large"


def test_entries_that_cannot_be_read(
    tmp_path: Path, source_tree: Callable[..., Path], refused: Callable[..., tuple[str, str]]
) -> None:
    sparse = _tar(
        tmp_path / "sparse.tar.gz", source_tree(tmp_path / "tree"), _entry(f"{TOP}/s", tarfile.GNUTYPE_SPARSE)
    )
    assert refused(sparse)[0] in ("unsafe-source", "unreadable-source")
    with zipfile.ZipFile(tmp_path / "device.zip", "w") as archive:
        device = zipfile.ZipInfo("device")
        device.external_attr = 0o020666 << 16
        archive.writestr(device, b"")
    assert refused(tmp_path / "device.zip")[0] == "unsafe-source"
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        link = zipfile.ZipInfo("up")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "../..")
    assert refused(tmp_path / "link.zip")[0] == "unsafe-source"


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.xz", "a.tar.bz2", "a.tar", "a.zip"])
def test_every_kind_of_archive_and_its_beginning(
    tmp_path: Path,
    source_tree: Callable[..., Path],
    bare_ports: Callable[..., Ports],
    refused: Callable[..., tuple[str, str]],
    name: str,
) -> None:
    root, file = (
        source_tree(tmp_path / "tree", **{"README.md": "".join(f"{n * n}\n" for n in range(3000))}),
        tmp_path / name,
    )
    if name.endswith(".zip"):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(root.rglob("*")):
                archive.write(path, f"{TOP}/{path.relative_to(root)}")
    else:
        with tarfile.open(file, f"w:{name.partition('.tar')[2].lstrip('.')}") as tar:
            tar.add(root, TOP)
    ports = bare_ports()
    tree = fetch(str(file), None, ports, "https://upstream.invalid/")
    assert tree.origin.digest == fetch(str(root), None, ports, "https://upstream.invalid/").origin.digest
    for path in (ports.home / "work").iterdir():
        path.rename(tmp_path / path.name)
    data = file.read_bytes()
    (tmp_path / "half").write_bytes(data[: len(data) // 2])
    assert refused(tmp_path / "half")[0] == "unreadable-source"


def test_files_that_are_no_archives(tmp_path: Path, refused: Callable[..., tuple[str, str]]) -> None:
    for content in (b"", b"word", b"\x1f\x8b\x08junk", b"PK\x03\x04junk", b"BZhjunk", b"\xfd7zXZ\x00junk", bytes(2048)):
        (tmp_path / "x.tar.gz").write_bytes(content)
        assert refused(tmp_path / "x.tar.gz")[0] in ("unreadable-source", "not-bitsandbytes"), content


def test_a_sha256_that_differs(
    tmp_path: Path, source_tree: Callable[..., Path], refused: Callable[..., tuple[str, str]]
) -> None:
    file = _tar(tmp_path / "a.tar.gz", source_tree(tmp_path / "tree"), _entry("../evil", size=1))
    code, said = refused(file, f"#sha256={'0' * 64}")
    assert code == "source-changed", "it is looked at before anything is unpacked"
    assert hashlib.sha256(file.read_bytes()).hexdigest() in said


def test_xz_that_wants_gigabytes_of_memory(tmp_path: Path, refused: Callable[..., tuple[str, str]]) -> None:
    # 512 MB of dictionary, written into the header of a file that was packed with little.
    data = bytearray(lzma.compress(bytes(1 << 16), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}]))
    place = data.index(b"\x21\x01", 12) + 2
    data[place] = 34
    header = 12
    size = (data[header] + 1) * 4
    data[header + size - 4 : header + size] = zlib.crc32(data[header : header + size - 4]).to_bytes(4, "little")
    (tmp_path / "x.tar.xz").write_bytes(data)
    code, said = refused(tmp_path / "x.tar.xz")
    assert (code, "emory" in said) == ("unreadable-source", True), said
