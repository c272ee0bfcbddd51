"""The file of a bundle: the same bytes for the same content, and nothing of a foreign one is believed."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile

import msgspec
import pytest

from bnbenv.bundle.archive import Reader, Writer, sweep, tar_size, written_beside
from bnbenv.bundle.make import check_space
from bnbenv.bundle.manifest import Class, Environment, File, Machine, Manifest, decode_manifest
from bnbenv.errors import Failed, InputError

TEXTS = {"locks/1/pylock.bnb.toml": b"a lock", "files/torch-1.0-py3-none-any.whl": b"PK" * 4000}
LONG = f"files/{'a' * 120}-1.0-py3-none-any.whl"  # longer than a name in an old tar


def manifest(texts: dict[str, bytes] = TEXTS) -> Manifest:
    files = tuple(File(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in texts.items())
    machine = Machine("a.json", "linux", "x86_64", None, (), ("3.11",))
    lock = "locks/1/pylock.bnb.toml"
    env = Environment("bnb", "none", "torch 1.0", "3.11", "1.0", lock, lock, {"torch": list(texts)[1]})
    return Manifest("0.1.0", "0.13.9", False, (Class(1, (machine,), (env,), ()),), files)


def write(path: Path, what: Manifest, texts: dict[str, bytes] = TEXTS) -> Path:
    with written_beside(path) as stream:
        writer = Writer(stream, what)
        for file in what.files:
            writer.add(file, io.BytesIO(texts[file.path]))
        writer.close()
    return path


def test_it_is_read_as_it_was_written_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    texts = {**TEXTS, LONG: b"long"}
    one, other = (write(tmp_path / name, manifest(texts), texts) for name in ("one.tar", "other.tar"))
    assert one.read_bytes() == other.read_bytes()
    assert one.stat().st_size <= tar_size(manifest(texts).files, len(manifest(texts).encode())) + 2048
    with Reader(one, "one.tar") as reader:
        assert reader.manifest == manifest(texts)
        assert reader.read("locks/1/pylock.bnb.toml") == b"a lock"
        reader.extract(texts, tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in texts} == texts
    with tarfile.open(one) as archive:  # what any tar unpacks
        assert {(member.mtime, member.uid, member.gid) for member in archive} == {(315532800, 0, 0)}


def members(path: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """The same archive with other members."""
    with tarfile.open(path) as archive:
        rows = [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    change(rows)
    with tarfile.open(path, "w") as archive:
        for member, data in rows:
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return path


def added(
    name: str, kind: bytes = tarfile.REGTYPE, target: str = ""
) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return lambda rows: rows.append((info, b""))


def as_link(rows: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    rows[2][0].type, rows[2][0].linkname, rows[2][0].size = tarfile.SYMTYPE, "/etc/passwd", 0


def as_sparse(rows: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    rows[2][0].type = tarfile.GNUTYPE_SPARSE


def renamed(rows: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    rows[1][0].name = "../../outside"


def doubled(rows: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    rows.append(rows[2])


def shortened(rows: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    rows[1] = (rows[1][0], b"a")
    rows[1][0].size = 1


def first_is_other(rows: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    rows.pop(0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (added("more.txt"), "'more.txt', which does not belong into a bundle"),
        (added("../../outside"), "does not belong"),
        (added("/etc/cron.d/x"), "does not belong"),
        (added("files/link", tarfile.SYMTYPE, "/etc/passwd"), "does not belong"),
        (added("files/device", tarfile.CHRTYPE), "does not belong"),
        (as_link, "does not belong"),
        (as_sparse, "does not belong"),
        (renamed, "does not belong"),
        (doubled, "does not belong"),
        (shortened, "has another size than in the manifest"),
        (lambda rows: rows.pop(), "is missing"),
        (first_is_other, "no bundle of bnbenv"),
    ],
)
def test_members_that_do_not_belong_are_refused(
    change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None], sentence: str, tmp_path: Path
) -> None:
    path = members(write(tmp_path / "lab.tar", manifest()), change)
    with pytest.raises(InputError, match=sentence), Reader(path, "lab.tar") as reader:
        reader.extract(TEXTS, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path.parent / "outside").exists()


def test_what_is_written_into_it_after_it_was_compared_is_not_believed(tmp_path: Path) -> None:
    """In a shared folder somebody may write into the very file; all lengths stay the same."""
    other = {name: bytes(len(data)) for name, data in TEXTS.items()}
    path, foreign = write(tmp_path / "one.tar", manifest()), write(tmp_path / "other.tar", manifest(other), other)
    assert path.stat().st_size == foreign.stat().st_size
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    with Reader(path, "one.tar", right, lambda size: [copyfile(foreign, path)].clear()) as reader:
        assert path.read_bytes() == foreign.read_bytes() and reader.manifest == manifest()
        with pytest.raises(InputError, match="damaged or changed"):
            reader.read("locks/1/pylock.bnb.toml")


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/x", "a/../../x", "a//x", "con\\x", "files/.", "a/b/c/d/e/f/g", "x\n", ""),
        "Locks/1/pylock.bnb.toml",  # the same file where case counts for nothing
    ],
)
def test_a_manifest_names_nothing_outside(name: str, tmp_path: Path) -> None:
    bad = msgspec.structs.replace(manifest(), files=(*manifest().files, File(name, 1, "0" * 64)))
    with pytest.raises(InputError, match="expected a name inside the bundle"):
        Reader(write(tmp_path / "lab.tar", bad, {**TEXTS, name: b"x"}), "lab.tar")


def test_what_a_manifest_claims_is_there_and_is_text(tmp_path: Path) -> None:
    for bad in (
        msgspec.structs.replace(manifest(), config=True),
        msgspec.structs.replace(manifest(), files=manifest().files[:1]),
        msgspec.structs.replace(manifest(), files=(File("files/x.whl", 1, "0" * 64, unpacked=10**400),)),
    ):
        with pytest.raises(InputError, match=r"bundle\.json: (config|classes|files)"):
            decode_manifest(bad.encode(), "lab.tar")
    texts = {**TEXTS, "locks/1/pylock.bnb.toml": b"\xff"}
    write(tmp_path / "lab.tar", manifest(texts), texts)
    with pytest.raises(InputError, match="byte 0: expected UTF-8"), Reader(tmp_path / "lab.tar", "lab.tar") as reader:
        reader.text("locks/1/pylock.bnb.toml")


def test_each_place_where_it_can_be_cut_off(tmp_path: Path) -> None:
    whole = write(tmp_path / "lab.tar", manifest()).read_bytes()
    end = len(whole.rstrip(b"\0"))
    for length in (0, 1, 511, 512, 700, 1024, 2000, end // 2, end - 4000, end - 1):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(InputError), Reader(tmp_path / "cut.tar", "cut.tar") as reader:
            reader.extract(TEXTS, tmp_path / "out")
    flipped = bytearray(whole)
    flipped[whole.index(b"PKPK") + 9] ^= 1
    (tmp_path / "cut.tar").write_bytes(flipped)
    with pytest.raises(InputError, match="its sha256 is another"), Reader(tmp_path / "cut.tar", "cut.tar") as reader:
        reader.extract(TEXTS, tmp_path / "out")
    assert not (tmp_path / "out" / "files" / "torch-1.0-py3-none-any.whl").exists()


def test_one_of_a_newer_bnbenv_is_told_from_a_foreign_one(tmp_path: Path) -> None:
    for schema, sentence in (
        ("bnbenv.bundle/2", "made by a newer bnbenv"),
        ("other/1", 'expected "bnbenv.bundle/1"'),
    ):
        what = msgspec.structs.replace(manifest(), schema=schema)
        with pytest.raises(InputError, match=sentence):
            Reader(write(tmp_path / "lab.tar", what), "lab.tar")


def test_a_full_disk_is_told_before_and_a_failure_leaves_the_former_file(tmp_path: Path) -> None:
    huge = msgspec.structs.replace(manifest(), files=(File("files/x.whl", 1 << 60, "0" * 64),))
    with pytest.raises(Failed, match="GB are free"):
        check_space(tmp_path / "lab.tar", huge)
    (tmp_path / "lab.tar").write_text("the former one")
    with pytest.raises(OSError, match="unexpected end of data"):
        write(tmp_path / "lab.tar", manifest(), dict.fromkeys(TEXTS, b""))
    assert [path.name for path in tmp_path.iterdir()] == ["lab.tar"]
    assert (tmp_path / "lab.tar").read_text() == "the former one"


def test_what_other_processes_are_writing_stays(tmp_path: Path) -> None:
    for name in (
        ".lab.tar.9999999999.part",  # no number of a process
        f".lab.tar.{os.getppid()}.part",
        ".lab.tar.4194303.part",
        ".lab.tar.x.part",
        ".other.tar.4194303.part",
    ):
        (tmp_path / name).touch()
    (tmp_path / ".lab.tar.4194302.work" / "more").mkdir(parents=True)
    sweep(tmp_path / "lab.tar")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted(
        [".lab.tar.9999999999.part", f".lab.tar.{os.getppid()}.part", ".lab.tar.x.part", ".other.tar.4194303.part"]
    )
