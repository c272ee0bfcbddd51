"""A lock whose bitsandbytes was compiled: what it says of the wheel is consistent; older locks are as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.envs.lockfile import CompiledWheel, Decision, agrees, compose, locked_build, read_lock
from bnbenv.envs.project import Project
from bnbenv.envs.wishes import decode_wishes, edited
from bnbenv.errors import InputError
from bnbenv.matrix.model import Evidence, TorchBuild
from bnbenv.solve.model import BitsandbytesChoice, Choice, Solution, TorchChoice

FILE = "pylock.bnb.toml"
VERSION = "0.50.2+bnbenv.cu130.sm87"
NAME = f"bitsandbytes-{VERSION}-py3-none-manylinux_2_17_x86_64.whl"
EVIDENCE = Evidence("measured", "the wheel", "2026-11-21")

UV = f"""\
lock-version = "1.0"

[[packages]]
name = "bitsandbytes"
version = "{VERSION}"
wheels = [{{ url = "file:///home/me/builds/wheels/ab/{NAME}", hashes = {{ sha256 = "{"a" * 64}" }} }}]

[[packages]]
name = "torch"
version = "2.13.0+cu130"
wheels = [{{ url = "file:///wheels/torch-2.13.0+cu130-cp311.whl", hashes = {{ sha256 = "{"d" * 64}" }} }}]
"""


def decision(**wheel: Any) -> Decision:
    made = BitsandbytesChoice(VERSION, "build", "libbitsandbytes_cuda130.so", "a" * 64, NAME)
    torch = TorchChoice(version="2.13.0+cu130", cuda="13.0", source="local")
    where: dict[str, Any] = {"os": "linux", "machine": "x86_64", "requires_dist": (), "evidence": EVIDENCE}
    row = CompiledWheel(
        version=VERSION,
        filename=NAME,
        sha256="a" * 64,
        size=1,
        libc_tag="2.17",
        requires_python=None,
        libraries=(),
        **where,
    )
    build = TorchBuild(
        version="2.13.0+cu130", source="local", cuda="13.0", arch_list=("sm_87",), pythons=("cp311",), **where
    )
    solution = Solution("cuda", Choice("3.11", torch, {}, made), (), (), ())
    return Decision("bnb", "e" * 64, solution, build, wheel=msgspec.structs.replace(row, **wheel))


def test_it_says_where_the_wheel_is_and_what_it_holds() -> None:
    locked = agrees(read_lock(compose(UV, decision()), FILE), FILE)
    assert locked_build(locked) == Path("/home/me/builds/wheels/ab") / NAME
    assert locked.decision == decision()


@pytest.mark.parametrize(
    ("uv", "made", "where"),
    [
        (UV, msgspec.structs.replace(decision(), wheel=None), "tool.bnbenv.wheel"),
        (UV, decision(sha256="b" * 64), "tool.bnbenv.wheel"),
        (UV, decision(version="0.50.2"), "tool.bnbenv.wheel"),
        (UV, decision(filename="bitsandbytes-0.50.2-py3-none-any.whl"), "tool.bnbenv.wheel"),
        (UV.replace("file:///home/me", "https://files.example"), decision(), "packages"),
        (UV.replace(f"ab/{NAME}", "ab/bitsandbytes-0.50.2-py3-none-any.whl"), decision(), "packages"),
    ],
)
def test_what_contradicts_itself_is_refused(uv: str, made: Decision, where: str) -> None:
    with pytest.raises(InputError) as raised:
        agrees(read_lock(compose(uv, made), FILE), FILE)
    assert raised.value.where == where


def test_what_is_compiled_belongs_to_the_wishes() -> None:
    """Wishes that do not name it have the digest that they had before it could be named."""
    without, upstream = decode_wishes(b"", FILE), decode_wishes(b'[sources]\nbitsandbytes-source = "upstream"\n', FILE)
    other = decode_wishes(b'[sources]\nbitsandbytes-source = "../bitsandbytes"\n', FILE)
    before = "4a1aa150308f0425"
    assert without.digest("bnb") == upstream.digest("bnb") != other.digest("bnb")
    assert without.digest("bnb").startswith(before)
    for text in ("", "-x", "a\x1bb"):
        with pytest.raises(InputError, match="bitsandbytes-source: expected"):
            decode_wishes(f"[sources]\nbitsandbytes-source = {msgspec.json.encode(text).decode()}\n".encode(), FILE)


def test_the_policy_is_written_beside_what_people_wrote(tmp_path: Path) -> None:
    project = Project(tmp_path, tmp_path / "bnbenv.toml")
    project.config.write_text('[envs.a]\n[envs.b]\n[policy]  # ours\nprefer = "newest"\n')
    text = edited(project, "a", {}, {"build": "always"})
    assert text == '[envs.a]\n[envs.b]\n[policy]  # ours\nprefer = "newest"\nbuild = "always"\n'
