"""A wrong bnbenv.toml or lock: one sentence that names the file and the place in it, exit 2, and no other word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

BRACKETS = "a = " + "[" * (10 << 20)

CONFIG = [
    ("[envs.bnb\n", "line 1, column 10: this is not TOML: expected ']'"),
    ('[envs.bnb]\ntorch = "2\n', "line 2, column 11: this is not TOML: "),
    ('[envs.bnb]\ntorch = "2"\ntorch = "3"\n', "line 3, column "),
    (BRACKETS, "expected a few lines of TOML, found 10 MB"),
    ("a = " + "[" * 5000, "this is not TOML that can be read: nested too deeply"),
    (b"[envs.bnb]\ntorch = '\xff'\n", "byte 20: expected UTF-8 text"),
    ("[envs.bnb]\ntorch = 2.9\n", "envs.bnb.torch: expected text in quotes, found a number"),
    ("[envs.bnb]\nrequirements = 'peft'\n", "envs.bnb.requirements: expected a list [...], found text in quotes"),
    ("[envs.bnb]\nrequirements = ['peft', 3]\n", "envs.bnb.requirements[1]: expected text in quotes, found a whole"),
    ("[envs.a]\n[envs.b]\npython = true\n", "envs.b.python: expected text in quotes, found true or false"),
    ("[envs]\nbnb = 'x'\n", "envs.bnb: expected a table, found text in quotes"),
    ("[[envs]]\nname = 'bnb'\n", "envs: expected a table, found a list [...]"),
    ("[envs.bnb]\ntorsh = '2'\n", 'envs.bnb.torsh: there is no such key; did you mean "torch"?'),
    ("[envs.bnb]\nxyz = '2'\n", "envs.bnb.xyz: there is no such key; known: family, package, python, torch, bits"),
    ("[polcy]\nprefer = 'newest'\n", 'polcy: there is no such key; did you mean "policy"?'),
    ("[sources]\nfind_links = []\n", 'sources.find_links: there is no such key; did you mean "find-links"?'),
    ("[policy]\nprefer = 'oldest'\n", 'policy.prefer: expected "newest" or "minimal-change", found "oldest"'),
    ("[policy]\nmix = 'yes'\n", "policy.mix: expected true or false, found text in quotes"),
    ("[envs.a]\nfamily = 'gptq'\nbitsandbytes = '0.50'\n", 'envs.a.bitsandbytes: expected nothing: "bitsandbytes" is'),
    ("[envs.a]\nfamily = 'awq'\npackage = 'gptqmodel'\n", "envs.a.package: expected a package of the family awq (auto"),
    ("[envs.a]\npackage = 'gptqmodel'\n", "envs.a.package: expected nothing: this is for the families gptq and awq"),
    ("[envs.a]\nfamily = 'gptq'\nrequirements = ['auto-gptq']\n", "envs.a.requirements[0]: expected no auto-gptq: set"),
    ("[envs.bnb]\nfamily = 'x'\n", 'envs.bnb.family: expected "bitsandbytes", "gptq", "awq" or "none", found "x"'),
    ("[envs.bnb]\nbackend = 'rocm'\n", 'envs.bnb.backend: expected "auto", "cuda" or "cpu", found "rocm"'),
    ("[envs.bnb]\ntorch = '>>1'\n", 'envs.bnb.torch: expected a version specifier such as ">=2.4,<3", found ">>1"'),
    ("[envs.bnb]\nbitsandbytes = 'new'\n", 'envs.bnb.bitsandbytes: expected a version specifier such as ">=2.4,<3"'),
    ("[envs.bnb]\npython = '3.x'\n", "envs.bnb.python: expected a version specifier"),
    ("[envs.bnb]\nrequirements = ['a b']\n", 'envs.bnb.requirements[0]: expected a requirement such as "peft>=0.14"'),
    ("[envs.bnb]\nrequirements = ['-r all.txt']\n", "envs.bnb.requirements[0]: expected a requirement such as"),
    ("[envs.bnb]\nrequirements = ['x', 'Torch>2']\n", 'envs.bnb.requirements[1]: expected no Torch: set "torch = ..."'),
    ("[envs.bnb]\nrequirements = ['bitsandbytes']\n", "envs.bnb.requirements[0]: expected no bitsandbytes"),
    ("[envs.'../x']\n", 'envs: expected letters, digits, "-" and "_", found "../x"'),
    ("[envs.'']\n", 'envs: expected letters, digits, "-" and "_", found ""'),
    ("[envs.bnb]\ngpus = 'first'\n", 'envs.bnb.gpus: expected "all", indices or UUIDs, found "first"'),
    ("[envs.bnb]\ngpus = []\n", 'envs.bnb.gpus: expected "all", indices or UUIDs, found ""'),
    ("[envs.bnb]\ngpus = [-1]\n", 'envs.bnb.gpus: expected "all", indices or UUIDs, found "-1"'),
    ("[envs.bnb]\ngpus = [0.5]\n", "envs.bnb.gpus[0]: expected a whole number or text in quotes, found a number"),
    ("[envs.bnb]\ngpus = 0\n", "envs.bnb.gpus: expected text in quotes or a list [...], found a whole number"),
    ('[envs.bnb]\n"x - at `$.y`" = 1\n', "envs.bnb: object contains unknown field `x - at `$.y``"),
    ('"x - at `$.y`" = 1\n', "object contains unknown field `x - at `$.y``"),
    ('"it\'s" = 1\n', "it: there is no such key; known: envs, policy, sources"),
    ("x = " + "9" * 5000, "this is not TOML that can be read: "),
]


@pytest.mark.parametrize(("text", "expected"), CONFIG, ids=[expected[:40] for _, expected in CONFIG])
def test_a_wrong_configuration(text: str | bytes, expected: str, refused: Any, tmp_path: Path) -> None:
    config = tmp_path / "project" / "bnbenv.toml"
    config.parent.mkdir()
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert refused("check").startswith(f"{config}: {expected}")
    assert sorted(path.name for path in config.parent.iterdir()) == ["bnbenv.toml"]


@pytest.mark.parametrize("command", ["plan", "lock", "sync", "list", "gc"])
def test_every_command_reads_it_alike(command: str, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "bnbenv.toml").write_text("[envs.bnb]\ntorch = 2\n")
    assert "envs.bnb.torch: expected text in quotes, found a whole number" in refused(command)


def test_a_configuration_that_is_no_file(refused: Any, tmp_path: Path) -> None:
    config = tmp_path / "project" / "bnbenv.toml"
    config.mkdir(parents=True)
    for command in ("check", "plan", "sync"):
        assert refused(command) == f"{config}: cannot be read (Is a directory)"
    config.rmdir()
    config.symlink_to("nowhere")
    for command in ("check", "plan", "sync"):
        assert refused(command) == f"{config}: this link leads nowhere"


@pytest.mark.parametrize(
    "text", ["", "\n# nothing but words\n", "[envs.bnb]\n", "[policy]\n[sources]\n", "\ufeff[envs.bnb]\n"]
)
def test_an_empty_configuration_is_fine(text: str, bnbenv: Any, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "bnbenv.toml").write_text(text)
    ran = bnbenv("check", "--json")
    assert (ran.code, ran.document["environments"]) == (3, ["bnb"])


LOCKS: list[tuple[bytes, str]] = [
    (b"[[packages]\n", "line 1, column 11: this is not TOML: expected ']]'"),
    (BRACKETS.encode(), "this is not TOML that can be read: nested too deeply"),
    (b'name = "caf\xe9"\n', "byte 11: expected UTF-8 text"),
    (b"", 'lock-version: expected "1.0", found None'),
    (b'lock-version = "2.0"\n', "lock-version: expected \"1.0\", found '2.0'"),
    (b'lock-version = "1.0"\npackages = []\n', "tool.bnbenv: expected bnbenv's decision, and there is none"),
    (
        b'lock-version = "1.0"\n[tool.bnbenv]\nenv = 1\n',
        "tool.bnbenv.env: expected text in quotes, found a whole number",
    ),
]


@pytest.mark.parametrize(("data", "expected"), LOCKS, ids=[expected[:40] for _, expected in LOCKS])
@pytest.mark.parametrize("command", [["sync", "--locked"], ["plan"]])
def test_a_wrong_lock(command: list[str], data: bytes, expected: str, refused: Any, tmp_path: Path) -> None:
    lock = tmp_path / "project" / "pylock.bnb.toml"
    lock.parent.mkdir()
    lock.write_bytes(data)
    assert refused(*command, "--project", ".", step="bnbenv lock").startswith(f"{lock}: {expected}")
    assert lock.read_bytes() == data


def test_a_lock_that_is_no_file(refused: Any, tmp_path: Path) -> None:
    lock = tmp_path / "project" / "pylock.bnb.toml"
    lock.parent.mkdir()
    step = "Make one with: bnbenv lock"
    said = f"{lock}: --locked needs a lock, and there is none"
    assert refused("sync", "--locked", "--project", ".", step=step) == said
    lock.mkdir()
    assert refused("sync", "--locked", "--project", ".") == f"{lock}: cannot be read (Is a directory)"
