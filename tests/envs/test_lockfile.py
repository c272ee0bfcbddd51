"""The lock: what is written is read again, and whatever else stands in such a file is refused with its place."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbenv.envs.lockfile import Decision, agrees, compose, read_lock
from bnbenv.errors import InputError
from bnbenv.matrix.model import Evidence, TorchBuild
from bnbenv.solve.model import BitsandbytesChoice, Choice, Cover, EvidenceLine, Solution, TorchChoice

FILE = "pylock.bnb.toml"

# As uv writes it: a wheel from an index, one from a folder, and a package that there is as source only.
UV = f"""\
lock-version = "1.0"
created-by = "uv"
requires-python = ">=3.11.2"

[[packages]]
name = "bitsandbytes"
version = "0.50.2"
wheels = [
    {{ url = "https://files.example/bitsandbytes-0.50.2-py3-none-any.whl", hashes = {{ sha256 = "{"a" * 64}" }} }},
    {{ url = "https://files.example/bitsandbytes-0.50.2-py3-none-win.whl", hashes = {{ sha256 = "{"b" * 64}" }} }},
]

[[packages]]
name = "gptqmodel"
version = "7.6.0"
sdist = {{ url = "https://files.example/gptqmodel-7.6.0.tar.gz", hashes = {{ sha256 = "{"c" * 64}" }} }}

[[packages]]
name = "torch"
version = "2.13.0+cpu"
archive = {{ path = "/wheels/torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl", hashes = {{ sha256 = "{"d" * 64}" }} }}
"""


def decision(**changes: Any) -> Decision:
    choice = Choice(
        python="3.11",
        torch=TorchChoice(version="2.13.0+cpu", cuda=None, source="local"),
        wheel=BitsandbytesChoice("0.50.2", "wheel", "libbitsandbytes_cpu.so", "a" * 64, "bitsandbytes.whl"),
        environment={"BNB_CUDA_VERSION": "130"},
    )
    solution = Solution(
        backend="cpu",
        choice=choice,
        covers=(Cover(0, "sm_90", "sass sm_90", "ptx compute_90"),),
        evidence=(EvidenceLine('torch "quoted" \\ é', "measured", "a wheel"),),
        rejected=(),
        visible_devices=("GPU-1",),
        torch_sha256="d" * 64,
    )
    build = TorchBuild(
        version="2.13.0+cpu",
        source="local",
        os="linux",
        machine="x86_64",
        arch_list=(),
        pythons=("cp311",),
        requires_dist=("filelock",),
        evidence=Evidence("measured", "the wheel", "2026-11-21"),
    )
    return Decision(**{"env": "bnb", "wishes": "e" * 64, "solution": solution, "torch": build, **changes})


TEXT = compose(UV, decision())


def test_what_is_written_is_read_again() -> None:
    locked = read_lock(TEXT, FILE)
    assert locked.text == TEXT
    assert locked.decision == decision()
    assert locked.packages == {"bitsandbytes": "0.50.2", "gptqmodel": "7.6.0", "torch": "2.13.0+cpu"}
    assert locked.hashes["bitsandbytes"] == {"a" * 64, "b" * 64}
    assert (locked.hashes["gptqmodel"], locked.hashes["torch"]) == ({"c" * 64}, {"d" * 64})


def test_it_stays_the_document_that_uv_wrote() -> None:
    """PEP 751: other installers read it, and pass over [tool]."""
    from packaging.pylock import Pylock

    assert TEXT.startswith(UV)
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    document = tomllib.loads(TEXT)
    assert list(document["tool"]) == ["bnbenv"]
    pylock = Pylock.from_dict(document)
    assert [str(package.name) for package in pylock.packages] == ["bitsandbytes", "gptqmodel", "torch"]


def without(pattern: str, by: str = "") -> str:
    text, count = re.subn(pattern, by, TEXT, count=1, flags=re.S | re.M)
    assert count == 1, pattern
    return text


WRONG = [
    ("[[packages]\n", "line 1, column 11: this is not TOML: "),
    ("a = " + "[" * 100000, "this is not TOML that can be read: nested too deeply"),
    ("", 'lock-version: expected "1.0", found None'),
    (without(r'"1\.0"', '"2.0"'), "lock-version: expected \"1.0\", found '2.0'"),
    (UV, "tool.bnbenv: expected bnbenv's decision, and there is none"),
    (UV + "tool = 1\n", "tool.bnbenv: expected bnbenv's decision, and there is none"),
    (UV + "[tool]\nbnbenv = 1\n", "tool.bnbenv: expected a table, found a whole number"),
    (UV + "[tool.bnbenv]\n", "tool.bnbenv.env: missing required field"),
    (
        without(r'^schema = "[^"]*"', 'schema = "bnbenv.lock/0"'),
        'tool.bnbenv.schema: expected "bnbenv.lock/1", found "',
    ),
    (
        without(r'^backend = "cpu"', 'backend = "rocm"'),
        'tool.bnbenv.solution.backend: expected "cuda" or "cpu", found "',
    ),
    (
        without(r'^source = "local"', "source = 1"),
        'tool.bnbenv.solution.choice.torch.source: expected "default-index", ',
    ),
    (without(r"^wishes = .*?$"), "tool.bnbenv.wishes: missing required field"),
    (without(r"\[\[packages\]\].*?(?=\[tool)"), "packages: expected a list of tables"),
    (without(r'^name = "gptqmodel"$'), "packages[1].name: expected a name"),
    (without(r", hashes = \{ sha256 = \"b+\" \}"), "packages[0]: expected a sha256 for every file of bitsandbytes"),
    (without(r'sha256 = "c+"', 'md5 = "00"'), "packages[1]: expected a sha256 for every file of gptqmodel"),
    (without(r'sha256 = "d+"', 'sha256 = "x"'), "packages[2]: expected a sha256 for every file of torch"),
    (
        without(r"hashes = \{ sha256 = \"d+\" \}", 'hashes = "none"'),
        "packages[2]: expected a sha256 for every file of t",
    ),
    (without(r"wheels = \[.*?^\]", "wheels = []"), "packages[0]: expected a sha256 for every file of bitsandbytes"),
    (without(r"wheels = \[.*?^\]", "wheels = 3"), "packages[0]: expected a sha256 for every file of bitsandbytes"),
    (without(r"wheels = \[.*?^\]", 'wheels = ["a"]'), "packages[0]: expected a sha256 for every file of bitsandbytes"),
    (
        without(r"^sdist = .*?$", 'directory = { path = "." }'),
        "packages[1].directory: expected files of gptqmodel with a ",
    ),
    (
        without(r"^sdist = ", 'vcs = { type = "git", url = "." }\nsdist = '),
        "packages[1].vcs: expected files of gptqmodel with a sha256",
    ),
    (without(r'"gptqmodel"', '"bitsandbytes"'), "packages[1]: expected bitsandbytes once: which of them is meant?"),
    (without(r'"gptqmodel"', '"Gptq_Model"'), "packages[1].name: expected a name, in small letters"),
    (
        without(r"/gptqmodel-7", "/evil-7"),
        "packages[1].sdist: expected a file of gptqmodel, found evil-7.6.0.tar.gz",
    ),
    (
        without(r'url = "[^"]*/gptqmodel', 'name = "gptqmodel-7.6.0.tar.gz", url = "https://files.example/evil'),
        "packages[1].sdist: expected a file of gptqmodel, found evil-7.6.0.tar.gz",
    ),
    (
        without(
            r'url = "[^"]*/gptqmodel-7', 'name = "gptqmodel-7.6.0.tar.gz", url = "https://files.example/gptqmodel-6'
        ),
        "packages[1].sdist: expected a file of gptqmodel, found gptqmodel-6.6.0.tar.gz",
    ),
    (
        without(r"archive = \{ path", 'archive = { url = "https://files.example/torch-2.13.0.whl", path'),
        "packages[2].archive: expected one address or path for a file of torch",
    ),
]


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=[expected[:50] for _, expected in WRONG])
def test_a_wrong_lock_is_refused_with_its_place(text: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        read_lock(text, FILE)
    assert caught.value.message.startswith(f"{FILE}: {expected}")
    assert caught.value.next_step == "Write it anew with: bnbenv lock"


@pytest.mark.parametrize(
    ("pattern", "by", "expected"),
    [
        (r'"2\.13\.0\+cpu"\narchive', '"2.9.0"\narchive', "expected torch 2.13.0+cpu, as in tool.bnbenv, found 2.9.0"),
        (
            r'^name = "bitsandbytes".*?^\]$',
            'name = "other"\nsdist = { path = "/wheels/other-1.tar.gz", hashes = { sha256 = "' + "0" * 64 + '" } }',
            "expected bitsandbytes 0.50.2, as in tool.bnbenv, found none",
        ),
        (r"d{64}", "0" * 64, "expected the torch of tool.bnbenv, by its sha256"),
        (r"/a{64}|a{64}", "0" * 64, "expected the bitsandbytes of tool.bnbenv, by its sha256"),
        (r'path = "/wheels', 'url = "https://files.example', "expected a torch on this machine, as in tool.bnbenv"),
    ],
)
def test_packages_that_are_not_those_of_the_decision(pattern: str, by: str, expected: str) -> None:
    assert agrees(read_lock(TEXT, FILE), FILE).text == TEXT
    with pytest.raises(InputError, match=re.escape(f"{FILE}: packages: {expected}")):
        agrees(read_lock(without(pattern, by), FILE), FILE)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_lock_is_read_or_refused_and_never_half(data: st.DataObject) -> None:
    """A piece is taken out, or something is put in: what is still read has a hash for each package."""
    start = data.draw(st.integers(0, len(TEXT)))
    length = data.draw(st.integers(0, 80))
    piece = data.draw(st.sampled_from(["", "\n", '"', "]", "x = 1\n", "[a]\n", "{}", "\x00", "0"]))
    try:
        locked = read_lock(TEXT[:start] + piece + TEXT[start + length :], FILE)
    except InputError as error:
        assert error.message.startswith(FILE)
    else:
        assert set(locked.packages) == set(locked.hashes)
        assert all(len(one) == 64 for hashes in locked.hashes.values() for one in hashes)
        assert all(locked.hashes.values())


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        read_lock(text, FILE)
