"""Which file of a package a machine takes, by its facts; and bnbenv's own wheel."""

from __future__ import annotations

import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.tags import sys_tags

from bnbenv.bundle.itself import pinned, requirements, write_wheel
from bnbenv.bundle.target import best, runs_anywhere, tags_for
from bnbenv.envs.elsewhere import uv_platform
from bnbenv.envs.lockfile import LockedFile
from bnbenv.facts.model import Libc, Platform

HERE = Platform("linux", "x86_64", Libc("glibc", "2.31"))
ARM = Platform("linux", "aarch64", Libc("glibc", "2.39"))
WINDOWS = Platform("windows", "x86_64")
MAC = Platform("macos", "aarch64")
NAMES = (
    "numpy-2.0-cp312-cp312-manylinux_2_34_x86_64.whl",
    "numpy-2.0-cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    "numpy-2.0-cp312-cp312-manylinux_2_28_aarch64.whl",
    "numpy-2.0-cp312-cp312-win_amd64.whl",
    "numpy-2.0-cp312-cp312-macosx_14_0_arm64.whl",
    "numpy-2.0-cp313-cp313-manylinux_2_17_x86_64.whl",
    "numpy-2.0.tar.gz",
)
FILES = [LockedFile("sdist" if name.endswith("gz") else "wheels", f"https://index/{name}", "0" * 64) for name in NAMES]


@pytest.mark.parametrize(
    ("platform", "python", "position"),
    [(HERE, "3.12", 1), (ARM, "3.12", 2), (WINDOWS, "3.12", 3), (MAC, "3.12", 4), (HERE, "3.13", 5), (ARM, "3.13", 6)],
)
def test_the_best_file_for_a_machine(platform: Platform, python: str, position: int) -> None:
    assert best(FILES, tags_for(platform, python)) == FILES[position]


def test_without_source_there_may_be_none() -> None:
    assert best(FILES[:1], tags_for(HERE, "3.12")) is None


@pytest.mark.skipif(sys.platform != "linux", reason="this compares with the running Linux")
def test_tags_are_those_of_the_running_python() -> None:
    import platform

    name, number = platform.libc_ver()
    if name != "glibc":
        pytest.skip("this Linux has no glibc")
    plain = f"-linux_{platform.machine()}"
    here = Platform("linux", platform.machine(), Libc(name, number))
    found = tags_for(here, f"{sys.version_info.major}.{sys.version_info.minor}")
    expected = [tag for tag in sys_tags() if tag.interpreter.startswith(("cp", "py"))]
    assert set(found) == set(expected)
    # Where the plain one comes differs among versions of packaging; uv has it last.
    assert [tag for tag in found if plain not in str(tag)] == [tag for tag in expected if plain not in str(tag)]


def test_platforms_as_uv_calls_them() -> None:
    names = [uv_platform(one) for one in (HERE, ARM, WINDOWS, MAC, Platform("linux", "x86_64", Libc("musl", "1.2.4")))]
    assert names == [
        *("x86_64-manylinux_2_31", "aarch64-manylinux_2_39", "x86_64-pc-windows-msvc", "aarch64-apple-darwin"),
        "x86_64-unknown-linux-musl",
    ]
    assert uv_platform(Platform("linux", "x86_64", Libc("glibc", "2.30"))) == "x86_64-manylinux_2_28"
    assert uv_platform(Platform("linux", "x86_64", Libc("glibc", "2.99"))) == "x86_64-manylinux_2_40"


def test_its_own_wheel_holds_code_and_data_and_is_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    wheel, other = write_wheel(tmp_path), write_wheel(tmp_path / "more")
    assert wheel.read_bytes() == other.read_bytes()
    assert runs_anywhere(wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        record = archive.read(f"bnbenv-{version('bnbenv')}.dist-info/RECORD").decode()
    assert {"bnbenv/__main__.py", "bnbenv/matrices/torch.json", "bnbenv/schemas/bundle.json"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert sorted(line.split(",")[0] for line in record.splitlines()) == sorted(names)


def test_it_asks_for_the_uv_that_is_here() -> None:
    wanted = requirements()
    assert f"uv=={version('uv')}" in wanted
    assert not [text for text in wanted if "extra ==" in text]
    assert pinned({"b": "1", "a": "2"}, {"b": "00", "a": "11"}) == "a==2 --hash=sha256:11\nb==1 --hash=sha256:00\n"
