"""bnbenv.toml: what it means, what changes a digest, and edits that keep what people wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbenv.envs.project import Project
from bnbenv.envs.wishes import TEMPLATE, EnvWish, Policy, SourcesWish, Wishes, decode_wishes, edited, load_wishes
from bnbenv.errors import InputError


def read(text: str) -> Wishes:
    return decode_wishes(text.encode(), "bnbenv.toml")


def project(folder: Path) -> Project:
    return Project(folder, folder / "bnbenv.toml")


DEFAULTS = Wishes(envs={"bnb": EnvWish()})


def test_without_a_file_or_with_an_empty_one_the_defaults_hold(tmp_path: Path) -> None:
    assert load_wishes(project(tmp_path)) == read("") == read("[envs.bnb]\n") == DEFAULTS


def test_the_template_means_the_defaults_and_its_comments_show_them() -> None:
    assert read(TEMPLATE) == DEFAULTS
    spoken = re.sub(r"^# ([a-z-]+ = )", r"\1", TEMPLATE, flags=re.M)
    assert spoken.count("\n# ") < TEMPLATE.count("\n# ")
    assert read(spoken) == DEFAULTS
    keys = set(re.findall(r"^([a-z-]+) = ", spoken, re.M))
    assert keys >= {"python", "torch", "bitsandbytes", "requirements", "gpus", "backend", "prefer", "indexes"}
    assert max(map(len, TEMPLATE.splitlines())) <= 110


def test_everything_that_can_be_wished() -> None:
    wishes = read(
        """
        [envs.train]
        python = "3.12"
        torch = "2.9"
        bitsandbytes = ">=0.48,<0.50"
        requirements = ["transformers>=4.50", "peft[extra]; python_version >= '3.10'"]
        gpus = [0, "GPU-6f2c"]
        backend = "cuda"
        [envs.eval-2]
        gpus = "0, 1"
        [policy]
        prefer = "minimal-change"
        build = "never"
        mix = true
        [sources]
        indexes = ["https://index.example/simple"]
        find-links = ["wheels", "~/more"]
        """
    )
    assert list(wishes.envs) == ["train", "eval-2"]
    request = wishes.request("train")
    assert (request.python, request.torch, request.bitsandbytes) == ("==3.12.*", "==2.9.*", "<0.50,>=0.48")
    assert (request.gpus, request.backend) == (("0", "GPU-6f2c"), "cuda")
    assert (request.prefer, request.build) == ("minimal-change", "never")
    assert wishes.request("eval-2").gpus == ("0", "1")
    assert wishes.policy == Policy("minimal-change", "never", True)
    assert wishes.sources == SourcesWish(("https://index.example/simple",), ("wheels", "~/more"))


def test_only_what_matters_to_an_environment_changes_its_digest() -> None:
    base = read('[envs.a]\ntorch = "2.9"\n[envs.b]\n').digest("a")
    for same in (
        '# a word\n[envs.b]\n[envs.a]\ntorch = "2.9" # why\n',
        '[envs.a]\ntorch = "2.9"\n[envs.b]\ntorch = "2.8"\n',
        '[envs.a]\ntorch = "2.9"\n',
        '[envs.a]\ntorch = "2.9"\npython = ">=3.10"\n[policy]\nprefer = "newest"\n',
    ):
        assert read(same).digest("a") == base, same
    for other in (
        '[envs.a]\ntorch = "2.8"\n',
        '[envs.a]\ntorch = "2.9"\nrequirements = ["peft"]\n',
        '[envs.a]\ntorch = "2.9"\ngpus = [0]\n',
        '[envs.a]\ntorch = "2.9"\n[policy]\nprefer = "minimal-change"\n',
        '[envs.a]\ntorch = "2.9"\n[sources]\nfind-links = ["wheels"]\n',
    ):
        assert read(other).digest("a") != base, other


EDITS = [
    ("", '[envs.bnb]\ntorch = "2.9"\ngpus = [0, "GPU-1"]\n'),
    (
        '[envs.bnb]\ntorch = "1" # since the talk\n# the end\n\n[policy] # ours\n',
        '[envs.bnb]\ntorch = "2.9" # since the talk\n# the end\ngpus = [0, "GPU-1"]\n\n[policy] # ours\n',
    ),
    (
        '[envs]\nbnb = {torch="1"} # short\n',
        '[envs]\nbnb = {torch="2.9",gpus = [0, "GPU-1"]} # short\n',
    ),
    (
        'envs.bnb.torch = "1" # shorter\n',
        'envs.bnb.torch = "2.9" # shorter\nenvs.bnb.gpus = [0, "GPU-1"]\n',
    ),
    (
        '[policy]\n[envs.other]\ngpus = "all"\n',
        '[policy]\n[envs.other]\ngpus = "all"\n\n[envs.bnb]\ntorch = "2.9"\ngpus = [0, "GPU-1"]\n',
    ),
    ('[envs.bnb]\r\ntorch = "1" # Windows\r\n', '[envs.bnb]\r\ntorch = "2.9" # Windows\r\ngpus = [0, "GPU-1"]\n'),
]


@pytest.mark.parametrize(("before", "after"), EDITS)
def test_an_edit_keeps_what_people_wrote(before: str, after: str, tmp_path: Path) -> None:
    (tmp_path / "bnbenv.toml").write_bytes(before.encode())
    text = edited(project(tmp_path), "bnb", {"torch": "2.9", "gpus": [0, "GPU-1"]})
    assert text == after
    assert (read(text).envs["bnb"].torch, read(text).envs["bnb"].gpus) == ("2.9", [0, "GPU-1"])
    assert (tmp_path / "bnbenv.toml").read_bytes() == before.encode()


def test_an_edit_without_a_file_begins_with_the_template(tmp_path: Path) -> None:
    text = edited(project(tmp_path), "bnb", {"torch": "2.9"})
    assert read(text).envs["bnb"] == EnvWish(torch="2.9")
    for line in TEMPLATE.splitlines():
        assert line in text


# Not quite TOML, and TOML that is not quite bnbenv's.
PIECES = [
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    ",",
    ".",
    '"',
    "'",
    '"""',
    "#",
    "\n",
    " ",
    "\\",
    "\\u0000",
    "\x00",
    "é",
    "²",
]
PIECES += [
    "envs",
    "bnb",
    "policy",
    "sources",
    "torch",
    "gpus",
    "requirements",
    "prefer",
    "all",
    "GPU-",
    "1",
    "-1",
    "2.9",
]
PIECES += [
    "[envs.bnb]\n",
    "torch = ",
    '">=2"',
    "gpus = [0]",
    "true",
    "1e400",
    "nan",
    "2001-01-01",
    "0x",
    ">>1",
    "peft @ ",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join).map(str.encode) | st.binary(max_size=40))
def test_any_bytes_are_wishes_or_an_error_that_names_the_file(data: bytes) -> None:
    try:
        wishes = decode_wishes(data, "some.toml")
    except InputError as error:
        assert error.message.startswith("some.toml")
        return
    for env in wishes.envs:
        assert wishes.request(env).gpus
        assert len(wishes.digest(env)) == 64


WORDS = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.booleans() | st.integers() | st.floats() | WORDS | st.lists(WORDS)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*EnvWish.__struct_fields__, "other"]), VALUES)
def test_any_value_of_a_wish_is_taken_or_refused_with_its_path(key: str, value: object) -> None:
    import tomlkit

    text = tomlkit.dumps({"envs": {"train": {key: value}}})
    try:
        wishes = read(text)
    except InputError as error:
        assert error.where.startswith(f"envs.train.{key}") or "TOML" in error.expected, (text, error.message)
    else:
        assert key in EnvWish.__struct_fields__
        assert list(wishes.envs) == ["train"]


@pytest.mark.parametrize("place", ["ftp:x", "ftp://host/simple", "git+https://host/x", "", " "])
@pytest.mark.parametrize("key", ["indexes", "find-links"])
def test_a_source_that_cannot_be_asked_is_named_by_its_place(key: str, place: str) -> None:
    with pytest.raises(InputError, match=rf"^bnbenv.toml: sources.{key}\[1\]: expected a folder or an address"):
        read(f'[sources]\n{key} = ["C:/wheels", "{place}"]\n')


def test_addresses_and_folders_are_sources() -> None:
    places = (
        "HTTPS://host:8080/simple",
        "http://me:pw@host/x",
        "file:///wheels",
        "file:/w",
        "~/w",
        "../w",
        "./a:b",
        "C:\\\\w",
    )
    text = ", ".join(f'"{place}"' for place in places)
    assert len(read(f"[sources]\nindexes = [{text}]\nfind-links = [{text}]\n").sources.indexes) == len(places)
