"""Reading a wheel over the network in parts: what it costs, and servers that break off, lie or change their minds."""

from __future__ import annotations

import hashlib
import re
import struct
import zipfile

import pytest

from bnbenv.errors import BnbenvError, Failed, SourceUnreachable
from bnbenv.matrix.index import index_session
from bnbenv.matrix.measure import measure_bitsandbytes
from bnbenv.matrix.remote import TAIL, WHOLE_LIMIT, RemoteFile
from bnbenv.matrix.wheel import remote_wheel

NAME = "bitsandbytes-0.50.2-py3-none-manylinux_2_24_x86_64.whl"
NOISE = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(40_000))  # 1.3 MB, incompressible


@pytest.fixture
def session():
    with index_session(retries=0) as session:
        yield session


@pytest.fixture
def opened(local_index, session):
    """Opens the wheel of the local index as ``members`` make it."""

    def opened(members=None, make=None, **more):
        if members is not None:
            local_index.files[NAME] = make(members, zipfile.ZIP_STORED)
        local_index.asked.clear()
        local_index.sent = 0
        return remote_wheel(session, local_index.url(NAME), NAME, local_index.sha256(NAME), **more)

    return opened


@pytest.fixture
def wheel_of(binaries, make_members):
    """The members of a bitsandbytes wheel: two libraries of this many bytes of code, and other files of as many."""

    def wheel_of(code, other):
        b = binaries
        library = b.elf({".nv_fatbin": b.container(b.entry(b.CUBIN, 90, payload=NOISE[:code]))})
        return {
            "bitsandbytes/before.py": NOISE[:other],
            "bitsandbytes/libbitsandbytes_cuda128.so": library,
            "bitsandbytes/libbitsandbytes_cuda130.so": library,
            "bitsandbytes/after.py": NOISE[:other],
            **make_members("bitsandbytes", "0.50.2"),
        }

    return wheel_of


def spans(local_index):
    return [span for path, span in local_index.asked]


@pytest.mark.parametrize(("code", "other", "whole"), [(400_000, 1_000_000, False), (1_000_000, 20_000, True)])
def test_little_more_is_fetched_than_is_read(opened, make_zip, wheel_of, local_index, code, other, whole):
    """The two libraries lie side by side: the directory, them, the METADATA."""
    with opened(wheel_of(code, other), make_zip) as wheel:
        row = measure_bitsandbytes(wheel)
    assert local_index.sent < 1.3 * (2 * code)
    assert len(spans(local_index)) <= 3
    assert wheel.checked is whole
    # Of a wheel that is hardly larger than what is read the hash was checked; else it is the index's word.
    assert row.evidence.source.endswith(row.sha256 if whole else "(the index's word; read in parts)")
    assert [library.sass for library in row.libraries] == [("sm_90",)] * 2


def test_where_the_connection_breaks_off_the_rest_is_asked_for(opened, make_zip, wheel_of, local_index):
    breaks = iter([True, True])

    def breaking(path, span, answer):
        status, headers, data = answer
        if len(data) > 100_000 and next(breaks, False):
            return status, {**headers, "Content-Length": str(len(data))}, data[: len(data) // 2]
        return answer

    local_index.twist = breaking
    with opened(wheel_of(400_000, 1_000_000), make_zip) as wheel:
        assert len(measure_bitsandbytes(wheel).libraries) == 2
    assert local_index.sent < 1.3 * 800_000


def test_a_server_that_knows_no_tails(opened, make_zip, wheel_of, local_index):
    def no_tails(path, span, answer):
        return (501, {}, b"what?") if span.startswith("bytes=-") else answer

    local_index.twist = no_tails
    with opened(wheel_of(400_000, 1_000_000), make_zip) as wheel:
        assert len(measure_bitsandbytes(wheel).libraries) == 2
    assert local_index.sent < 1.3 * 800_000


def test_a_server_without_parts_is_asked_once_for_all(opened, make_zip, wheel_of, local_index):
    local_index.ranges = False
    with opened(wheel_of(1_000, 100_000), make_zip) as wheel:
        assert measure_bitsandbytes(wheel).evidence.source.endswith(wheel.sha256)
        assert wheel.checked
    assert len(spans(local_index)) == 1


def larger(path, span, answer):
    return 200, {"Content-Length": str(WHOLE_LIMIT + 1)}, b"PK"


def broken_off(path, span, answer):
    return answer[0], {**answer[1], "Content-Length": str(len(answer[2]) + 1)}, answer[2]


def packed(path, span, answer):
    import gzip

    return 200, {"Content-Encoding": "gzip"}, gzip.compress(answer[2])


def test_a_part_that_is_packed_is_none(opened, make_zip, wheel_of, local_index):
    """Places in it are not those in the file."""
    local_index.twist = lambda path, span, answer: (206, {**answer[1], "Content-Encoding": "gzip"}, answer[2])
    with pytest.raises(Failed) as caught, opened(wheel_of(1_000, 10_000), make_zip):
        pass
    assert caught.value.code == "no-ranges"


def test_all_parts_of_a_file_have_a_limit(local_index, session):
    size = 1 << 30
    span = {"Content-Range": f"bytes {size - TAIL}-{size - 1}/{size}"}
    local_index.twist = lambda path, asked, answer: (206, span, bytes(TAIL))
    file = RemoteFile(session, local_index.url(NAME), NAME)
    with pytest.raises(Failed, match="it asks for 268435456 bytes at once"):
        file.hold([(0, WHOLE_LIMIT)])
    assert len(local_index.asked) == 1


@pytest.mark.parametrize(
    ("twist", "code"), [(larger, "no-ranges"), (broken_off, "no-answer"), (packed, "no-ranges"), (None, "bad-hash")]
)
def test_a_whole_file_that_cannot_be_taken(opened, make_zip, wheel_of, local_index, twist, code):
    local_index.ranges = False
    local_index.files[NAME] = make_zip(wheel_of(1_000, 10_000))
    wheel = opened()
    if twist:
        local_index.twist = twist
    else:
        local_index.files[NAME] = make_zip(wheel_of(1_001, 10_000))
    with pytest.raises(BnbenvError) as caught, wheel:
        pass
    assert caught.value.code == code
    assert NAME in caught.value.message


def other_part(status, headers, data):
    moved = re.sub(r"bytes (\d+)-", lambda match: f"bytes {int(match[1]) + 1}-", headers["Content-Range"])
    return status, {**headers, "Content-Range": moved}, data


def other_size(status, headers, data):
    return status, {**headers, "Content-Range": headers["Content-Range"] + "0"}, data


def other_tag(status, headers, data):
    return status, {**headers, "ETag": '"new"'}, data


def no_span(status, headers, data):
    return status, {}, data


def all_of_it(status, headers, data):
    return 200, {}, data * 3


def too_much(status, headers, data):
    return status, headers, data + b"more"


def nothing(status, headers, data):
    return status, headers, b""


def gone(status, headers, data):
    return 404, {}, b"no such thing"


def past_the_end(status, headers, data):
    return 416, {}, b""


@pytest.mark.parametrize(
    ("twist", "kind", "code"),
    [
        (other_part, SourceUnreachable, "other-part"),
        (other_size, Failed, "changed"),
        (other_tag, Failed, "changed"),
        (all_of_it, Failed, "changed"),
        (past_the_end, Failed, "changed"),
        (no_span, Failed, "no-ranges"),
        (too_much, SourceUnreachable, "long-answer"),
        (nothing, SourceUnreachable, "short-answer"),
        (gone, SourceUnreachable, "no-file"),
    ],
)
def test_a_server_that_answers_otherwise_later(opened, make_zip, wheel_of, local_index, twist, kind, code):
    """The tail came as it should; the libraries do not."""
    with opened(wheel_of(100_000, 1_000_000), make_zip) as wheel:
        local_index.twist = lambda path, span, answer: twist(*answer)
        with pytest.raises(kind) as caught:
            measure_bitsandbytes(wheel)
    assert caught.value.code == code
    assert NAME in caught.value.message and "127.0.0.1" not in caught.value.message


@pytest.mark.parametrize(
    ("status", "step"),
    [
        (404, "Check the address."),
        (403, "Check the address, and whether the server wants a login."),
        (400, "Try again later."),
    ],
)
def test_what_to_do_where_the_server_refuses(opened, make_zip, wheel_of, local_index, status, step):
    with opened(wheel_of(100_000, 1_000_000), make_zip) as wheel:
        local_index.twist = lambda path, span, answer: (status, {}, b"")
        with pytest.raises(SourceUnreachable) as caught:
            measure_bitsandbytes(wheel)
    assert caught.value.next_step == step


def test_bytes_that_changed_without_a_sign_are_found_by_their_checksums(opened, make_zip, wheel_of, local_index):
    with opened(wheel_of(100_000, 1_000_000), make_zip) as wheel:
        data = local_index.files[NAME]
        at = data.index(NOISE[:100], 1_000_500)  # in the first library
        local_index.files[NAME] = data[: at + 9] + b"other" + data[at + 14 :]
        with pytest.raises(Failed, match="Bad CRC-32"):
            measure_bitsandbytes(wheel)


def test_the_hash_of_the_metadata_is_checked(opened, make_zip, wheel_of, make_members):
    (text,) = make_members("bitsandbytes", "0.50.2").values()
    right = hashlib.sha256(text).hexdigest()
    with opened(wheel_of(1_000, 100_000), make_zip, metadata_sha256=right) as wheel:
        assert measure_bitsandbytes(wheel).version == "0.50.2"
    with opened(metadata_sha256="ab" * 32) as wheel, pytest.raises(Failed, match="METADATA") as caught:
        measure_bitsandbytes(wheel)
    assert caught.value.code == "bad-hash"


def lying(make_zip, wheel_of):
    """Wheels whose directory is nonsense, or asks for more than there can be."""
    good = make_zip(wheel_of(1_000, 20_000), zipfile.ZIP_STORED)
    end = good.rindex(b"PK\x05\x06")
    huge = bytearray(b"\0" * (40 << 20) + good)  # a directory of 40 MB
    struct.pack_into("<II", huge, len(huge) - 22 + 12, 40 << 20, len(huge) - 22 - (40 << 20))
    far = bytearray(good)
    struct.pack_into("<I", far, end + 16, 0x7FFFFFF0)
    bomb = bytearray(good)
    struct.pack_into("<I", bomb, bomb.index(b"libbitsandbytes_cuda128", good.index(b"PK\x01\x02")) - 35, 600 << 20)
    return {
        "empty": b"",
        "no zip": b"<html>not found</html>" * 1000,
        "cut": good[:-30],
        "only its end": good[end:],
        "a directory far away": bytes(far),
        "a directory of 40 MB": bytes(huge),
        "a bomb": bytes(bomb),
        "no METADATA": make_zip({"bitsandbytes/libbitsandbytes_cpu.so": b"x"}),
        "no libraries": make_zip({"bitsandbytes-0.50.2.dist-info/METADATA": b"Name: bitsandbytes\n"}),
    }


def test_wheels_that_lie_are_refused_in_one_sentence_and_little_is_read(opened, make_zip, wheel_of, local_index):
    for what, data in lying(make_zip, wheel_of).items():
        local_index.files[NAME] = data
        with pytest.raises(Failed) as caught, opened() as wheel:
            measure_bitsandbytes(wheel)
        assert caught.value.code in ("bad-wheel", "bad-binary"), what
        assert caught.value.message.startswith((NAME, "libbitsandbytes")), what
        assert "\n" not in caught.value.message
        assert local_index.sent < 2_000_000, what


def test_a_library_without_code_that_can_be_read_is_not_taken_for_an_empty_one(opened, make_zip, wheel_of, binaries):
    members = wheel_of(1_000, 1_000) | {"bitsandbytes/libbitsandbytes_cuda140.so": binaries.elf()}
    with opened(members, make_zip) as wheel, pytest.raises(Failed, match=r"cuda140\.so in .* holds no GPU code"):
        measure_bitsandbytes(wheel)
