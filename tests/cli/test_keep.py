"""``solve --torch keep``: bitsandbytes for the torch that is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

HOSTS = Path(__file__).parent.parent / "hosts"
H200 = str(HOSTS / "linux-x86_64__580.65.06__h200-sm90" / "facts.json")
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00" + bytes(44)  # for x86-64

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the folders are those of Linux")


def lay(prefix: Path, version: str, archs: str, cuda: str = "12.8") -> str:
    """A torch for Python 3.12 in an environment, with what is measured of it."""
    torch = prefix / "lib" / "python3.12" / "site-packages" / "torch"
    (torch / "lib").mkdir(parents=True)
    (torch / "version.py").write_text(f"__version__ = '{version}'\ncuda = '{cuda}'\n")
    (torch / "lib" / "libtorch_python.so").write_bytes(ELF + b"\0" + archs.encode() + b"\0")
    return str(prefix)


@pytest.mark.parametrize(
    ("version", "newest"),
    [
        ("2.6.0a0+ecf3bae40a.nv25.01", "0.50.2"),  # a pre-release of 2.6 is newer than 2.4
        ("2.4.0a0+07cecf4168.nv24.05", "0.49.2"),  # and one of 2.4 is not, so 0.50 does not take it
    ],
)
def test_bitsandbytes_for_a_containers_torch(
    bnbenv: Any, faults: Any, tmp_path: Path, version: str, newest: str
) -> None:
    prefix = lay(tmp_path / "venv", version, "sm_80 sm_86 sm_90 compute_90")
    words = ["solve", "--torch", "keep", "--shipped", "--facts", H200, "--bitsandbytes", "<=0.50.2"]
    ran = bnbenv(*words, "--json", VIRTUAL_ENV=prefix)
    assert ran.code == 0, ran
    assert faults(ran.document) == []
    choice = ran.document["choice"]
    assert (choice["torch"]["version"], choice["torch"]["source"], choice["python"]) == (version, "existing", "3.12")
    assert (choice["bitsandbytes"]["version"], choice["bitsandbytes"]["source"]) == (newest, "wheel")
    assert any(note.endswith(f"{prefix}/lib/python3.12/site-packages/torch") for note in ran.document["notes"])
    shown = bnbenv(*words, VIRTUAL_ENV=prefix).out
    last = shown.splitlines()[-1]
    there = "next: bnbenv sync there, with these wishes, makes it on top of that torch, if its sources offer it"
    assert last == there


def test_a_torch_that_does_not_run_here_stays_refused(bnbenv: Any, faults: Any, tmp_path: Path) -> None:
    """The wish to keep it is one that can be given up; and a requirement can be asked about with it."""
    prefix = lay(tmp_path / "venv", "2.9.1", "sm_75")
    ran = bnbenv("solve", "--torch", "keep", "--shipped", "--facts", H200, "--json", VIRTUAL_ENV=prefix)
    assert ran.code == 4
    assert faults(ran.document) == []
    assert [part["rule"] for part in ran.document["conflict"]] == ["torch-arch[0]"]
    first = ran.document["options"][0]
    assert (first["command"], first["solve_args"]) == ("bnbenv sync --torch '*'", ["--torch", "*"])
    why = bnbenv("why-not", "bitsandbytes", "--torch", "keep", "--shipped", "--facts", H200, VIRTUAL_ENV=prefix)
    assert why.code == 4
    assert "sm_75" in why.out


def test_none_that_could_be_kept(bnbenv: Any, faults: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "lib" / "python3.12" / "site-packages").mkdir(parents=True)
    ran = bnbenv("solve", "--torch", "keep", "--shipped", "--facts", H200, "--json", VIRTUAL_ENV=str(empty))
    assert ran.code == 4
    assert faults(ran.document) == []
    (part,) = ran.document["conflict"]
    assert part["rule"] == "torch-wish"
    assert "none was found: looked in VIRTUAL_ENV" in part["because"]
