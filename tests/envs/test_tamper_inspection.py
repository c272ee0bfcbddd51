"""RECORDs that were edited in uv's cache: they are held against an earlier generation's, and against the wheels."""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.generations import Generation
from bnbenv.envs.inspection import Inspection
from bnbenv.envs.lockfile import Decision, compose, read_lock
from bnbenv.envs.project import CONFIG, Project
from bnbenv.envs.record import Record
from bnbenv.matrix.model import Evidence, TorchBuild
from bnbenv.progress import Quiet
from bnbenv.solve.model import BitsandbytesChoice, Choice, Solution, TorchChoice

ENV = "bnb"
PACKAGES = ("pack", "torch", "bitsandbytes")


def decision(sha256: str) -> Decision:
    torch = TorchChoice(version="1.0", cuda=None, source="default-index")
    bitsandbytes = BitsandbytesChoice("1.0", "wheel", "libbitsandbytes_cpu.so", sha256, "bitsandbytes.whl")
    solution = Solution("cpu", Choice(python="3.11", torch=torch, environment={}, wheel=bitsandbytes), (), (), ())
    build = TorchBuild(
        version="1.0",
        source="default-index",
        os="linux",
        machine="x86_64",
        arch_list=(),
        pythons=("cp311",),
        requires_dist=(),
        evidence=Evidence("measured", "the wheel", "2026-11-21"),
    )
    return Decision(env=ENV, wishes="e" * 64, solution=solution, torch=build)


def lock_text(places: Mapping[str, tuple[str, str]]) -> str:
    """A lock of the packages, each one wheel at an address, with its sha256."""
    text = 'lock-version = "1.0"\n'
    for name, (place, sha256) in places.items():
        wheel = f'{{ {place}, hashes = {{ sha256 = "{sha256}" }} }}'
        text += f'[[packages]]\nname = "{name}"\nversion = "1.0"\nwheels = [{wheel}]\n'
    return compose(text, decision(places["bitsandbytes"][1]))


def from_index(sha256: str = "1" * 64) -> dict[str, tuple[str, str]]:
    return {name: (f'url = "https://files.example/{name}-1.0-py3-none-any.whl"', sha256) for name in PACKAGES}


@dataclass
class Told(Quiet):
    lines: list[str] = field(default_factory=list)

    def at(self, text: str) -> None:
        self.lines.append(text)


@dataclass(frozen=True)
class Box:
    """A project whose generations are made by hand: no Python runs in them."""

    project: Project
    told: Told = field(default_factory=Told)

    def generation(self, number: int, lock: str, module: bytes = b"x = 1\n", finished: bool = True) -> Inspection:
        """A generation of the packages, with RECORDs that fit, in which pack has a module of some content."""
        generation = Generation(number, self.project.generations(ENV), None)
        site = generation.prefix / "lib/python3.11/site-packages"
        (generation.prefix / "bin").mkdir(parents=True)
        (generation.prefix / "bin/python").touch()
        for name in PACKAGES:
            info = f"{name}-1.0.dist-info"
            files = {f"{name}.py": module if name == "pack" else b"", f"{info}/METADATA": f"Name: {name}\n".encode()}
            (site / info).mkdir(parents=True)
            for file, data in files.items():
                (site / file).write_bytes(data)
            (site / info / "RECORD").write_text("".join(map(row, files, files.values())) + f"{info}/RECORD,,\n")
        generation.lock_file.write_text(lock)
        if finished:
            empty: dict[str, Any] = {name: {} for name in ("host", "facts", "packages", "files", "decision")}
            said: dict[str, Any] = {
                "created": "",
                "python": "3.11",
                "wishes": "",
                "config": None,
                "environments": [],
                "lock": "",
            }
            record = Record(number, **said, **empty, verified=True, verification={})
            record.write(generation.record_file)
        return Inspection(self.project, ENV, generation, read_lock(lock, "lock"), ("pack",), self.told, True)


def row(name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}\n"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(Project(tmp_path, tmp_path / CONFIG))


def test_a_record_of_an_index_package_that_was_edited_with_its_file(box: Box) -> None:
    """No wheel lies here, and file and RECORD agree: the earlier generation is who knows better."""
    lock = lock_text(from_index())
    box.generation(1, lock)
    new = box.generation(2, lock, b"evil()\n", finished=False)
    assert [(one.package, str(one)) for one in new.new()] == [
        ("pack", "pack-1.0.dist-info/RECORD is another than in generation 1")
    ]
    assert new.new(loaded_again=True) == ()


def test_the_same_record_as_before_is_right(box: Box) -> None:
    lock = lock_text(from_index())
    box.generation(1, lock)
    assert box.generation(2, lock, finished=False).new() == ()


def test_another_file_in_the_lock_has_another_record(box: Box) -> None:
    """The same version, built anew: what an earlier generation had says nothing of it."""
    box.generation(1, lock_text(from_index("1" * 64)))
    assert box.generation(2, lock_text(from_index("2" * 64)), b"rebuilt\n", finished=False).new() == ()


def test_an_unfinished_generation_is_nobody_to_ask(box: Box) -> None:
    """It may be half of an installation, and what it was of nobody looked at."""
    lock = lock_text(from_index())
    box.generation(1, lock)
    box.generation(2, lock, b"evil()\n", finished=False)
    assert box.generation(3, lock, finished=False).new() == ()


def test_wheels_on_this_machine_are_read_and_that_is_told(box: Box, wheel_maker: Callable[..., Path]) -> None:
    """One whose modules the wheel has under <name>.data is installed like any other."""
    places = {}
    for name in PACKAGES:
        spread = {"pack-1.0.data/purelib/pure.py": "p = 1\n", "pack-1.0.data/platlib/plat.py": "q = 1\n"}
        wheel = wheel_maker(box.project.root / "wheels", name, "1.0", more=spread if name == "pack" else {})
        places[name] = (f'path = "{wheel}"', hashlib.sha256(wheel.read_bytes()).hexdigest())
    new = box.generation(1, lock_text(places), finished=False)
    for wheel in (box.project.root / "wheels").iterdir():
        zipfile.ZipFile(wheel).extractall(new.site)
    for name, folder in {"pure.py": "purelib", "plat.py": "platlib"}.items():
        (new.site / "pack-1.0.data" / folder / name).rename(new.site / name)
    record = new.site / "pack-1.0.dist-info/RECORD"
    record.write_text(re.sub(r"(?m)^pack-1.0.data/\w+/", "", record.read_text()))
    assert new.new() == ()
    assert "bnb: reading the wheels, 0.0 of 0.0 GB" in box.told.lines
    assert box.told.lines[-1] == ""

    edited = [new.site / "pure.py", new.site / "torch.py"]
    for path in edited:
        path.write_bytes(b"evil()\n")
    for record in new.site.glob("*/RECORD"):
        text = re.sub(
            r"(?m)^(?:pure|torch)\.py,.*\n",
            lambda found: row(found[0].partition(",")[0], b"evil()\n"),
            record.read_text(),
        )
        record.write_text(text)
    assert [(one.package, str(one)) for one in new.new()] == [
        ("pack", "pure.py is not the file of its wheel"),
        ("torch", "torch.py is not the file of its wheel"),
    ]
