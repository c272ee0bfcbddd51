"""The files of an environment are held against the RECORDs of its packages."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bnbenv.envs.integrity import BATCH, BadRecord, Damage, examine, parse_record, same_files

FILES = {"pack/__init__.py": b"x = 1\n", "pack/data.bin": b"\0" * 5000, "pack-1.0.dist-info/METADATA": b"Name: pack\n"}
INFO = "pack-1.0.dist-info"


def row(name: str, data: bytes, algorithm: str = "sha256") -> str:
    digest = base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest()).rstrip(b"=").decode()
    return f"{name},{algorithm}={digest},{len(data)}\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An environment with one package that was unpacked a day ago."""
    site = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    for name, data in FILES.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(data)
    script = tmp_path / "env" / "bin" / "pack"
    script.parent.mkdir()
    script.write_bytes(b"#!python\n")
    write_record(
        site, "".join(row(name, data) for name, data in FILES.items()) + row("../../../bin/pack", b"#!python\n")
    )
    day = 86400 * 10**9
    for name in FILES:
        stat = (site / name).stat()
        os.utime(site / name, ns=(stat.st_atime_ns, stat.st_mtime_ns - day))
    return site


def write_record(site: Path, text: str) -> None:
    (site / INFO / "RECORD").write_text(text + f"{INFO}/RECORD,,\n")


def found(site: Path, every_byte: bool = True, added: bool = False) -> list[str]:
    prefix = site.parent.parent.parent
    return [str(one) for one in examine(site, prefix, every_byte=every_byte, added=added)]


def keep_times(path: Path, change: Callable[[], object]) -> None:
    stat = path.stat()
    change()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("every_byte", [True, False])
def test_what_is_as_it_was_is_passed(site: Path, every_byte: bool) -> None:
    assert found(site, every_byte) == []


def test_another_size_is_seen_at_once(site: Path) -> None:
    path = site / "pack/__init__.py"
    keep_times(path, lambda: path.write_bytes(b"x = 10\n"))
    assert found(site, False) == ["pack/__init__.py has 7 bytes and not the 6 that its package brought"]


def test_another_content_of_the_same_size_is_seen_by_its_date_or_by_reading_all(site: Path) -> None:
    path = site / "pack/data.bin"
    other = b"\0" * 4999 + b"\1"
    keep_times(path, lambda: path.write_bytes(other))
    assert found(site, False) == []
    assert found(site) == ["pack/data.bin has another content than its package brought"]
    path.write_bytes(other)  # as an editor does: with a new date
    assert found(site, False) == ["pack/data.bin has another content than its package brought"]


@pytest.mark.parametrize(
    "name", ["evil.pth", "sitecustomize.py", "pack/__pycache__/__init__.cpython-311.pyc", "x/y.so"]
)
def test_what_no_record_names_is_refused_unless_people_may_have_added_it(site: Path, name: str) -> None:
    (site / name).parent.mkdir(exist_ok=True)
    (site / name).write_bytes(b"import os\n")
    assert found(site, False) == [f"{name} is named by no package's RECORD"]
    assert found(site, added=True) == []


def test_a_file_that_is_gone_or_no_file(site: Path, tmp_path: Path) -> None:
    (site / "pack/data.bin").unlink()
    assert found(site) == ["pack/data.bin is missing"]
    os.mkfifo(site / "pack/data.bin")
    assert found(site) == ["pack/data.bin is no regular file"]
    (site / "pack/data.bin").unlink()
    (site / "pack/data.bin").symlink_to(tmp_path / "nowhere")
    assert found(site) == ["pack/data.bin is missing"]


def test_a_link_is_what_it_leads_to(site: Path, tmp_path: Path) -> None:
    """So it is with UV_LINK_MODE=symlink."""
    (site / "pack/data.bin").rename(tmp_path / "data.bin")
    (site / "pack/data.bin").symlink_to(tmp_path / "data.bin")
    assert found(site) == []
    (tmp_path / "data.bin").write_bytes(b"\1" * 5000)
    assert found(site) == ["pack/data.bin has another content than its package brought"]


@pytest.mark.parametrize("path", ["../../../../outside", "/etc/hostname"])
def test_a_record_does_not_reach_out_of_the_environment(site: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "outside").write_bytes(b"")
    text = "".join(row(name, data) for name, data in FILES.items())
    write_record(site, text + f"{path},,\n")
    assert f"{path} lies outside the environment" in found(site)


def test_a_script_beside_site_packages_is_looked_at(site: Path) -> None:
    (site / "../../../bin/pack").write_bytes(b"#!evil!!\n")
    assert found(site) == ["../../../bin/pack has another content than its package brought"]


def test_a_package_without_a_record(site: Path) -> None:
    (site / INFO / "RECORD").unlink()
    assert f"{INFO}/RECORD cannot be read" in found(site)


@pytest.mark.parametrize(("algorithm", "refused"), [("sha384", False), ("sha512", False), ("md5", True)])
def test_a_weak_hash_says_nothing(site: Path, algorithm: str, refused: bool) -> None:
    write_record(site, "".join(row(name, data, algorithm) for name, data in FILES.items()) + "../../../bin/pack,,\n")
    assert bool(found(site)) is refused


@pytest.mark.parametrize("text", ["a,b\n", "a,b,c\n", "a,,,\n", '"a'])
def test_a_record_that_is_none(text: str) -> None:
    with pytest.raises(BadRecord):
        parse_record(text)


def test_a_damage_names_its_package(site: Path) -> None:
    (site / "pack/data.bin").write_bytes(b"")
    (damage,) = examine(site, site.parent.parent.parent, every_byte=False)
    assert (damage.package, damage.file) == ("pack", "pack/data.bin")
    assert isinstance(damage, Damage)


def test_two_records_of_one_wheel_agree_whatever_an_installer_added() -> None:
    one = parse_record("pack/a.py,sha256=x,1\npack-1.dist-info/INSTALLER,sha256=u,2\n../../bin/a,sha256=p,3\n")
    same = parse_record("pack/a.py,sha256=x,1\npack-1.dist-info/RECORD,,\npack-1.data/scripts/a,sha256=q,3\n")
    other = parse_record("pack/a.py,sha256=y,1\n")
    more = parse_record("pack/a.py,sha256=x,1\nevil.pth,sha256=z,1\n")
    assert same_files(one, same) is None
    assert same_files(one, other) == "pack/a.py"
    assert same_files(one, more) == "evil.pth"


def test_a_file_of_two_packages_is_that_of_either(site: Path) -> None:
    """pip and uv install both, and what comes last lies there: a tests/__init__.py, a LICENSE."""
    (site / "tests").mkdir()
    (site / "other-2.0.dist-info").mkdir()
    own = "".join(row(name, data) for name, data in FILES.items()) + row("../../../bin/pack", b"#!python\n")
    write_record(site, own + row("tests/__init__.py", b"ours\n") + row("tests/same.py", b"same\n"))
    theirs = row("tests/__init__.py", b"theirs\n") + row("tests/same.py", b"same\n")
    # Unpacked just now: an edit since pack was unpacked is no late one by this, and is read all the same.
    (site / "other-2.0.dist-info/METADATA").write_bytes(b"")
    (site / "other-2.0.dist-info/RECORD").write_text(
        theirs + "other-2.0.dist-info/METADATA,,0\nother-2.0.dist-info/RECORD,,\n"
    )
    (site / "tests/same.py").write_bytes(b"same\n")
    for data in (b"ours\n", b"theirs\n"):
        (site / "tests/__init__.py").write_bytes(data)
        assert found(site) == found(site, every_byte=False) == []
    for data in (b"evil\n", b"theirS\n", b"longer than both\n"):
        (site / "tests/__init__.py").write_bytes(data)
        for every_byte in (True, False):
            damage = examine(site, site.parent.parent.parent, every_byte=every_byte)
            assert {(one.file, one.package) for one in damage} == {
                ("tests/__init__.py", "pack"),
                ("tests/__init__.py", "other"),
            }


def test_a_package_that_is_there_twice_is_not_two_owners(site: Path) -> None:
    """What an earlier version left behind does not speak for the file of the one that is installed."""
    (site / "pack-0.9.dist-info").mkdir()
    evil = b"evil()"
    rows = row("pack/__init__.py", evil)
    (site / "pack-0.9.dist-info/RECORD").write_text(rows + "pack-0.9.dist-info/RECORD,,\n")
    (site / "pack/__init__.py").write_bytes(evil)
    assert found(site) == ["pack/__init__.py has another content than its package brought"]


def test_a_record_that_is_vouched_for_by_another_package_still_has_to_be_read(site: Path) -> None:
    (site / "other-2.0.dist-info").mkdir()
    (site / "other-2.0.dist-info/RECORD").write_bytes(b"\xff")
    own = "".join(row(name, data) for name, data in FILES.items()) + row("../../../bin/pack", b"#!python\n")
    write_record(site, own + "other-2.0.dist-info/RECORD,,\n")
    assert found(site) == ["other-2.0.dist-info/RECORD cannot be read"]


def test_paths_with_detours_are_those_of_the_files(site: Path) -> None:
    detours = {name: name.replace("pack/", "./pack//x/../") for name in FILES}
    rows = "".join(row(detours[name], data) for name, data in FILES.items())
    write_record(site, rows + row("../../../lib/../bin/pack", b"#!python\n"))
    assert found(site) == []
    (site / "pack/data.bin").write_bytes(b"\1" * 5000)
    assert found(site) == ["pack/data.bin has another content than its package brought"]


def test_detours_do_not_lead_out_of_the_environment(site: Path) -> None:
    assert [one.path for one in parse_record("a/../../../../../out,,\n./../b,,\n/a/../c,,\n")] == [
        "../../../../out",
        "../b",
        "/c",
    ]
    with pytest.raises(BadRecord):
        parse_record("pack/__init__.py\0,,\n")


def test_every_one_of_many_files_is_read(site: Path) -> None:
    """They are read in batches, the large ones first: neither the last of many nor a large one is passed over."""
    many = {f"pack/m{number}.py": b"x = %03d\n" % number for number in range(2 * BATCH + 5)}
    many["pack/large.bin"] = b"\0" * (2 << 20)
    for name, data in many.items():
        (site / name).write_bytes(data)
    own = "".join(row(name, data) for name, data in {**FILES, **many}.items())
    write_record(site, own + row("../../../bin/pack", b"#!python\n"))
    told: list[tuple[int, int]] = []
    prefix = site.parent.parent.parent
    assert examine(site, prefix, every_byte=True, told=lambda *both: told.append(both)) == ()
    total = sum(map(len, [*FILES.values(), *many.values(), b"#!python\n"]))
    assert told[-1] == (total, total)
    assert sorted(done for done, _ in told) == [done for done, _ in told]
    for name in many:
        (site / name).write_bytes(many[name][:-1] + b"#")
    assert [one.file for one in examine(site, prefix, every_byte=True)] == sorted(many)


def test_what_a_wheel_spreads_is_what_is_installed() -> None:
    """<name>.data/purelib and the like hold files of site-packages; scripts and headers go elsewhere."""
    wheel = (
        "w-1.data/purelib/w/a.py,sha256=a,1\nw-1.data/platlib/w/b.so,sha256=b,1\nw-1.data/headers/h.h,sha256=h,1\n"
        "w-1.data/data/lib/python3.11/site-packages/c.py,sha256=c,1\nw-1.data/data/share/q,sha256=q,1\n"
    )
    installed = "w/a.py,sha256=a,1\nw/b.so,sha256=b,1\nc.py,sha256=c,1\n../../../share/q,sha256=q,1\n"
    assert same_files(parse_record(installed), parse_record(wheel)) is None
    for name, path in {"a": "w/a.py", "b": "w/b.so", "c": "c.py"}.items():
        other = installed.replace(f"sha256={name},", "sha256=evil,")
        assert same_files(parse_record(other), parse_record(wheel)) == path
