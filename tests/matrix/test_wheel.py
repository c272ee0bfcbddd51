"""Wheels on the disk and behind range requests, and those that are damaged or lie."""

from __future__ import annotations

import struct
import zipfile

import pytest

from bnbenv.errors import BnbenvError, Failed
from bnbenv.matrix.index import index_session
from bnbenv.matrix.wheel import local_wheel, remote_wheel

NAME = "demo-1.0-py3-none-any.whl"


@pytest.fixture
def remote(local_index):
    """Opens the demo wheel of the local index."""

    def opened(url=None):
        return remote_wheel(index_session(retries=0), url or local_index.url(NAME), NAME, local_index.sha256(NAME))

    return opened


def test_a_local_wheel_is_hashed_and_read(write_wheel, local_index):
    path = write_wheel(NAME, {"demo/a.txt": b"text"})
    local_index.files[NAME] = path.read_bytes()
    with local_wheel(path) as wheel:
        assert (wheel.names(), wheel.read("demo/a.txt")) == (["demo/a.txt"], b"text")
        assert (wheel.filename, wheel.size) == (NAME, path.stat().st_size)
        assert wheel.sha256 == local_index.sha256(NAME)


def test_of_a_remote_wheel_only_what_is_read_is_sent(remote, local_index, make_zip):
    big = bytes(range(256)) * (1 << 16)
    members = {"demo/big": big, "demo/small": b"x" * 100, "demo/after": big}
    local_index.files[NAME] = make_zip(members, zipfile.ZIP_STORED)
    with remote() as wheel:
        assert wheel.size == len(local_index.files[NAME])
        assert set(wheel.names()) == set(members)
        assert wheel.read("demo/small") == b"x" * 100
        assert local_index.sent < wheel.size / 5
        assert wheel.read("demo/after") == big


def test_a_remote_wheel_smaller_than_the_first_request(remote, local_index, make_zip):
    local_index.files[NAME] = make_zip({"demo/a": b"a"})
    with remote() as wheel:
        assert wheel.read("demo/a") == b"a"


def damaged(make_zip):
    """Names and contents of wheels whose member demo/a cannot be read."""
    text = b"some text that deflate makes shorter, shorter, shorter, shorter"
    good = make_zip({"demo/a": text, "demo/b": b"b"})
    directory = good.index(b"PK\x01\x02")
    bomb = make_zip({"demo/a": bytes(10 << 20)})
    understated = bytearray(bomb)
    struct.pack_into("<I", understated, bomb.index(b"PK\x01\x02") + 24, 50)
    overstated = bytearray(good)
    struct.pack_into("<I", overstated, directory + 24, 0x7FFFFFF0)
    longer = bytearray(good)
    struct.pack_into("<I", longer, directory + 24, len(text) + 20)
    far = bytearray(good)
    struct.pack_into("<I", far, directory + 42, 0x7FFFFFF0)
    return {
        "cut": good[:-30],
        "empty": b"",
        "text": b"<html>not found</html>",
        "flipped": good[:45] + bytes([good[45] ^ 0xFF]) + good[46:],
        "a bomb that understates itself": bytes(understated),
        "a size above the limit": bytes(overstated),
        "a size above the content": bytes(longer),
        "a place outside the file": bytes(far),
        "an unknown compression": good.replace(b"\x08\x00", b"\x63\x00"),
        # Of these zipfile unpacks whatever there is, and cuts it afterwards.
        "packed by bzip2": make_zip({"demo/a": text}, zipfile.ZIP_BZIP2),
        "packed by lzma": make_zip({"demo/a": text}, zipfile.ZIP_LZMA),
    }


def test_damaged_wheels_are_refused_in_one_sentence(tmp_path, make_zip):
    path = tmp_path / NAME
    for what, data in damaged(make_zip).items():
        path.write_bytes(data)
        with pytest.raises(Failed) as caught, local_wheel(path) as wheel:
            wheel.read("demo/a")
        assert caught.value.code == "bad-wheel", what
        assert caught.value.message.startswith(NAME), what


def test_absent_members_and_limits(write_wheel):
    with local_wheel(write_wheel(NAME, {"demo/a": bytes(2000)})) as wheel:
        assert len(wheel.read("demo/a", limit=2000)) == 2000
        with pytest.raises(Failed, match="the limit is 1999"):
            wheel.read("demo/a", limit=1999)
        with pytest.raises(BnbenvError, match="holds no demo/b"):
            wheel.read("demo/b")


def test_all_that_is_read_of_a_wheel_has_a_limit_too(tmp_path, make_zip):
    """A wheel of many libraries, each of which claims half a gigabyte."""
    lying = bytearray(make_zip({f"demo/{name}": b"x" * 100 for name in "abc"}))
    for name in (b"demo/a", b"demo/b", b"demo/c"):
        struct.pack_into("<I", lying, lying.rindex(name) - 46 + 24, 500 << 20)
    (tmp_path / NAME).write_bytes(lying)
    with local_wheel(tmp_path / NAME) as wheel:
        for name in ("demo/a", "demo/b"):
            with pytest.raises(Failed, match="ends after 100 of"):
                wheel.read(name)
        with pytest.raises(Failed, match="what is read of it would unpack to more than"):
            wheel.read("demo/c")
