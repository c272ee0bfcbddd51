"""Putting a wheel together: its names, what is kept of the tree's own wheel, and what is no such wheel."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from bnbenv.build.model import Toolchain
from bnbenv.build.readback import read_cpu
from bnbenv.build.wheel import assemble, local_version, platform_tag
from bnbenv.errors import Failed
from bnbenv.matrix.model import NativeLibrary

INFO = "bitsandbytes-0.50.1.dist-info"
METADATA = (
    "Metadata-Version: 2.4\nName: bitsandbytes\nVersion: 0.50.1\nRequires-Dist: torch\n\nVersion: 0.50.1 is new\n"
)
FILES = {
    "bitsandbytes/__init__.py": "",
    "bitsandbytes/libbitsandbytes_cuda118.so": "of somebody else",
    f"{INFO}/METADATA": METADATA,
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: false\nTag: cp311-cp311-linux_x86_64\n",
    f"{INFO}/entry_points.txt": "[console_scripts]\n",
    f"{INFO}/licenses/LICENSE": "MIT",
    f"{INFO}/RECORD": "",
    f"{INFO}/RECORD.jws": "of the wheel as it was",
}


def wheel(folder: Path, files: dict[str, str]) -> Path:
    path = folder / "bitsandbytes-0.50.1-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize(
    "version, archs, expected",
    [
        ("0.50.1", ("sm_87",), "0.50.1+bnbenv.cu130.sm87"),
        ("0.50.1", ("sm_80", "sm_90"), "0.50.1+bnbenv.cu130.sm80.sm90"),
        ("0.51.0.dev0+g1234", ("sm_120",), "0.51.0.dev0+bnbenv.cu130.sm120"),
    ],
)
def test_the_version_says_what_was_compiled(version: str, archs: tuple[str, ...], expected: str) -> None:
    assert local_version(version, "13.0", archs) == expected


@pytest.mark.parametrize(
    "needs, expected",
    [
        (("2.2.5", None), "manylinux_2_17_x86_64"),
        (("2.34", "2.4"), "manylinux_2_34_x86_64"),
        (("2.17", "2.38"), "manylinux_2_38_x86_64"),
    ],
)
def test_the_tag_says_which_c_library_runs_it(needs: tuple[str | None, ...], expected: str) -> None:
    libraries = [NativeLibrary(f"lib{number}.so", "cuda", glibc=glibc) for number, glibc in enumerate(needs)]
    assert platform_tag(libraries, "x86_64") == expected


@pytest.mark.parametrize(
    "glibcxx, here, expected",
    [
        ("3.4.19", "2.36", "manylinux_2_17_x86_64"),
        ("3.4.20", "2.36", "manylinux_2_24_x86_64"),  # no system of 2014 has it
        ("3.4.29", None, "manylinux_2_34_x86_64"),
        ("3.4.32", "2.35", "manylinux_2_35_x86_64"),  # a libstdc++ that is newer than that of the system
        ("3.9.99", "2.39", "manylinux_2_39_x86_64"),
    ],
)
def test_the_tag_says_which_cxx_library_runs_it(glibcxx: str, here: str | None, expected: str) -> None:
    libraries = [NativeLibrary("lib.so", "cuda", glibc="2.14", glibcxx=glibcxx)]
    assert platform_tag(libraries, "x86_64", here) == expected


def test_what_is_kept_of_the_trees_own_wheel(tmp_path: Path) -> None:
    version, libraries = "0.50.1+bnbenv.cu130.sm90", {"libbitsandbytes_cuda130.so": b"\x7fELF"}
    base = wheel(tmp_path, FILES)
    made = assemble(base, version, libraries, "manylinux_2_34_x86_64", tmp_path / "one")
    again = assemble(base, version, libraries, "manylinux_2_34_x86_64", tmp_path / "other")
    assert made.read_bytes() == again.read_bytes()
    info = f"bitsandbytes-{version}.dist-info"
    with zipfile.ZipFile(made) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    kept = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    own = {"bitsandbytes/__init__.py", "bitsandbytes/libbitsandbytes_cuda130.so"}
    assert set(files) == own | {f"{info}/{name}" for name in kept}
    # Only the field is another, and not what the text below the fields says.
    assert files[f"{info}/METADATA"].decode() == METADATA.replace("0.50.1\nR", f"{version}\nR")
    assert files[f"{info}/WHEEL"].endswith(b"Tag: py3-none-manylinux_2_34_x86_64\n")


BAD = {
    "another project": {f"{INFO}/METADATA": METADATA.replace("Name: bitsandbytes", "Name: bits")},
    "no metadata": {f"{INFO}/METADATA": None},
    "two of them": {"other-1.dist-info/METADATA": METADATA},
    "another layout": {"bitsandbytes-0.50.1.data/purelib/bitsandbytes/x.py": ""},
    "nothing in it": dict.fromkeys(FILES),
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_what_is_no_wheel_of_bitsandbytes(tmp_path: Path, changes: dict[str, str | None]) -> None:
    files = {name: text for name, text in {**FILES, **changes}.items() if text is not None}
    with pytest.raises(Failed) as caught:
        assemble(wheel(tmp_path, files), "1", {}, "manylinux_2_17_x86_64", tmp_path / "out")
    assert caught.value.code == "bad-wheel"


def test_a_damaged_file_is_no_wheel(tmp_path: Path) -> None:
    path = wheel(tmp_path, FILES)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(Failed) as caught:
        assemble(path, "1", {}, "manylinux_2_17_x86_64", tmp_path / "out")
    assert caught.value.code == "bad-wheel"


@pytest.mark.parametrize("tag", ["--disable-new-dtags", "--enable-new-dtags"])
def test_a_library_that_names_where_it_was_linked_is_not_taken(toolchain: Toolchain, tmp_path: Path, tag: str) -> None:
    path = tmp_path / "libbitsandbytes_cpu.so"
    words = [toolchain.host.path, "-shared", "-x", "c++", "/dev/null", f"-Wl,{tag},-rpath,/home/somebody", "-o", path]
    subprocess.run(words, check=True, timeout=60)
    with pytest.raises(Failed) as caught:
        read_cpu(path.read_bytes(), path.name)
    assert caught.value.code == "not-as-asked" and "/home/somebody" in caught.value.message
