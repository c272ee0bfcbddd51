"""``matrix show`` and ``matrix inspect`` on real rows and real files."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli import main
from bnbenv.matrix.load import load_matrix

Faults = Callable[[Any], list[str]]


def entry(kind: int, arch: int) -> bytes:
    """PTX 8.7, which CUDA 12.8 brought, or a cubin."""
    return struct.pack("<HHIQIIHHIIIQ", kind, 0x101, 64, 8, 8, 0, 7, 8, arch, 0, 0, 0x11).ljust(64, b"\0") + bytes(8)


def dll(*entries: bytes) -> bytes:
    """A DLL for x86-64 with a fatbin, as small as one can be."""
    body = b"".join(entries)
    fatbin = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body
    optional = struct.pack("<H", 0x20B).ljust(112 + 16, b"\0")
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    head += struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, 1, 0, 0, 0, len(optional), 0x2022) + optional
    section = struct.pack("<8sIIIIIIHHI", b".nv_fatb", len(fatbin), 0x1000, len(fatbin), len(head) + 40, 0, 0, 0, 0, 0)
    return head + section + fatbin


@pytest.fixture
def host(hosts: list[Path]) -> Callable[[str], str]:
    """The facts of the recorded host in whose name a word stands."""
    return lambda word: str(next(path for path in hosts if word in path.parent.name))


def wide(text: str) -> list[str]:
    return [line for line in text.splitlines() if len(line) > 80 and " " in line.strip()]


def test_the_rows_themselves_and_those_that_are_concerned(capsys: pytest.CaptureFixture[str], faults: Faults) -> None:
    every = load_matrix()
    for words, wheels, builds in [
        ((), len(every.bitsandbytes), len(every.torch)),
        (("0.50.2", "--platform", "windows-x86_64"), 1, 0),
        (("torch==2.9.1", "--platform", "macos-aarch64"), 0, None),
        (("--gpu", "GB10"), None, None),
    ]:
        assert main(["matrix", "show", "--json", "--shipped", *words]) == 0
        document = json.loads(capsys.readouterr().out)
        assert faults(document) == [], words
        assert wheels in (None, len(document["bitsandbytes"])), words
        assert builds in (None, len(document["torch"])), words


def test_every_gpu_and_release_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    matrix = load_matrix()
    releases = ["0.37.0", "0.41", "0.45", "0.50.2", "torch==2.0.1", "torch>=2.14"]
    for words in [[], *([one] for one in releases), *(["--gpu", row.arch] for row in matrix.archs)]:
        assert main(["matrix", "show", "--shipped", *words]) == 0
        text = capsys.readouterr().out
        assert wide(text) == [], words
        assert text.splitlines()[-1].startswith("next: "), words


def test_rows_of_ones_own_are_counted(bnbenv: Any, tmp_path: Path) -> None:
    own = tmp_path / "user" / "matrix"
    own.mkdir(parents=True)
    row = json.loads((Path(__file__).parent / "screens" / "matrix-show.json").read_text())["bitsandbytes"][0]
    row |= {"version": "0.99.0", "sha256": "0" * 64, "filename": row["filename"].replace("0.50.2", "0.99.0")}
    (own / "bitsandbytes.json").write_text(json.dumps({"schema": "bnbenv.matrix.bitsandbytes/1", "rows": [row]}))
    text = " ".join(bnbenv("matrix", "show").out.split())
    assert f"your own rows: 1 of bitsandbytes, 0 of torch, the newest of {row['evidence']['date']} (in {own})" in text
    assert "bitsandbytes 0.37.0 to 0.99.0" in text
    assert bnbenv("matrix", "show", "0.99.0").out.startswith("bitsandbytes 0.99.0")
    assert bnbenv("matrix", "show", "0.99.0", "--shipped").code == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes of this kind")
@pytest.mark.parametrize("open_to_all", [".", "bitsandbytes.json", "torch.json"])
def test_rows_that_everybody_may_write_are_not_believed(open_to_all: str, refused: Any, tmp_path: Path) -> None:
    own = tmp_path / "user" / "matrix"
    own.mkdir(parents=True, mode=0o755)
    for name, kind in (("bitsandbytes.json", "bitsandbytes"), ("torch.json", "torch")):
        (own / name).write_text(json.dumps({"schema": f"bnbenv.matrix.{kind}/1", "rows": []}))
        (own / name).chmod(0o644)
    path = own / open_to_all
    path.chmod(path.stat().st_mode | 0o002)
    for words in (("matrix", "show"), ("solve", "--backend", "cpu"), ("matrix", "update", "--check")):
        assert (
            f"everybody on this machine may write into the {'folder' if path.is_dir() else 'file'} {path}"
            in refused(*words, step=f"Close it: chmod o-w {path}")
        )


def test_what_the_matrix_does_not_have(refused: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused("matrix", "show", "0.50.999", step="It has 0.50.") == "the matrix has no bitsandbytes 0.50.999"
    for words, said in [
        (["--gpu", "RTX 509O"], "next: Did you mean: GeForce RTX 5090"),
        (["0.42", "--gpu", "12.0"], "error: the matrix has no bitsandbytes 0.42 with code for sm_120"),
        (
            ["torch==2.0.1", "--gpu", "RTX 5090", "--platform", "linux-x86_64"],
            "error: the matrix has no torch==2.0.1 on linux-x86_64 with code for sm_120",
        ),
        (["--platform", "linux"], "next: It has linux-aarch64, linux-x86_64"),
    ]:
        assert main(["matrix", "show", "--shipped", *words]) == 2
        assert said in capsys.readouterr().err, words


def test_a_wheel_and_a_library_are_inspected_for_recorded_hosts(
    host: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str], faults: Faults
) -> None:
    wheel = tmp_path / "kernels-1.0-cp312-cp312-win_amd64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("kernels-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: kernels\nVersion: 1.0\n")
        archive.writestr("kernels/_C.pyd", dll(entry(2, 86), entry(1, 86)))
    library = tmp_path / "_C.pyd"
    library.write_bytes(dll(entry(2, 120)))
    for path, word, said in [
        (wheel, "windows-x86_64__581.57", "1 of 1 on GPU 0"),
        (wheel, "windows-x86_64__581.80", "GPU 0: runs by PTX compute_86"),
        (wheel, "__h200", "would not run there: it is for Windows x86_64; this machine is Linux x86_64"),
        (library, "windows-x86_64__581.57", "GPU 0: would not run: it has no code for sm_89"),
        (library, "windows-x86_64__581.80", "GPU 0: runs by native code (SASS sm_120)"),
    ]:
        words = ["matrix", "inspect", str(path), "--facts", host(word)]
        assert main(words) == 0
        text = capsys.readouterr().out
        assert said in " ".join(text.split()), (path.name, word, text)
        assert wide(text) == []
        assert main([*words, "--json"]) == 0
        assert faults(json.loads(capsys.readouterr().out)) == []


def test_codes_in_names_that_a_terminal_would_obey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = tmp_path / "kernels-1.0-cp312-cp312-win_amd64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("kernels-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: kernels\nVersion: 1.0\n")
        archive.writestr("kernels/\x1b[2J\x9b1m_C.pyd", dll(entry(2, 86)))
        archive.writestr("kernels/\x1b]0;title\x07.so", b"\x7fELF and no more")
    assert main(["matrix", "inspect", str(wheel)]) == 0
    text = capsys.readouterr().out
    assert all(line.isprintable() for line in text.splitlines())
    assert r"kernels/\x1b[2J\x9b1m_C.pyd" in text


def test_what_cannot_be_inspected(refused: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.so").write_text("#!/bin/sh\n")
    (tmp_path / "cut.pyd").write_bytes(dll(entry(2, 90))[:-9])
    (tmp_path / "kernels-1-py3-none-any.whl").write_bytes(b"PK\3\4 and no more")
    with zipfile.ZipFile(tmp_path / "kernels.whl", "w") as archive:
        archive.writestr("kernels/_C.pyd", dll(entry(2, 90)))
    for name, said in [
        ("nowhere", "there is no such file or folder"),
        ("x" * 5000, "cannot be read (file name too long)"),
        ("empty", "no native library"),
        ("text.so", "it is no wheel, and no library"),
        ("cut.pyd", "cut.pyd is damaged"),
        ("kernels-1-py3-none-any.whl", "kernels-1-py3-none-any.whl cannot be read"),
        ("kernels.whl", "kernels.whl is no name of a wheel"),
    ]:
        assert main(["matrix", "inspect", str(tmp_path / name)]) == 2
        assert said in capsys.readouterr().err, name
    address = "http://me:hunter2@127.0.0.1:9/kernels-1-py3-none-any.whl"
    offline = refused("matrix", "inspect", address, code=7, step="Unset BNBENV_OFFLINE")
    assert "hunter2" not in offline
    closed = refused("matrix", "inspect", address, code=7, BNBENV_OFFLINE=None)
    assert closed == "kernels-1-py3-none-any.whl cannot be read: connection refused"


@pytest.mark.real
def test_a_real_environment_is_inspected_in_a_second(project: Any, faults: Faults) -> None:
    ended = project("matrix", "inspect", ".venv-bnb", "--json")
    assert ended.code == 0 and faults(ended.document) == []
    torch, bitsandbytes = ended.document["packages"]
    assert (torch["name"], torch["arch_list"]) == ("torch", [])
    assert bitsandbytes["loads"] == "libbitsandbytes_cpu.so"
    assert {row["name"] for row in bitsandbytes["libraries"]} > {"libbitsandbytes_cuda128.so"}
