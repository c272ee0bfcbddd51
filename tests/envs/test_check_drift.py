"""What ``check`` notices and names in a project, and that ``sync`` mends it: packages, links, Python, lock, wishes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

SITE = ".venv-bnb/lib/python3*/site-packages"
LOCK, WISHES, RECORD = "pylock.bnb.toml", "bnbenv.toml", ".bnbenv/generations/bnb/1.json"
Wheels = Callable[..., Path]


@dataclass(frozen=True)
class Hands:
    """What people do behind bnbenv's back."""

    project: Any
    wheels: Path
    make_wheel: Wheels

    def install(self, name: str, version: str) -> None:
        """Another distribution under this name, from a local folder."""
        self.make_wheel(self.wheels, name, version)
        local = ("--no-index", "--no-cache", "--no-deps", "--find-links", str(self.wheels))
        self.project.uv("install", "--reinstall", *local, f"{name}=={version}")

    def uninstall(self, name: str) -> None:
        self.project.uv("uninstall", name)

    def patch(self, name: str) -> None:
        """Change the last byte of an installed file."""
        self.project.replace(f"{SITE}/{name}", lambda data: data[:-1] + bytes([data[-1] ^ 1]))

    def relink(self, target: str) -> None:
        link = self.project.root / ".venv-bnb"
        link.unlink()
        link.symlink_to(target)

    def edit(self, name: str, old: str, new: str) -> None:
        def change(data: bytes) -> bytes:
            assert old in data.decode()
            return data.decode().replace(old, new, 1).encode()

        self.project.replace(name, change)

    def version(self, name: str) -> str:
        (info,) = self.project.root.glob(f"{SITE}/{name}-*.dist-info")
        return str(info.name.removesuffix(".dist-info").partition("-")[2])


@pytest.fixture
def hands(project: Any, tmp_path: Path, wheel_maker: Wheels) -> Hands:
    return Hands(project, tmp_path / "wheels", wheel_maker)


def delete_generation(hands: Hands) -> None:
    shutil.rmtree(hands.project.root / ".bnbenv" / "generations" / "bnb" / "1")


def remove_base_python(hands: Hands) -> None:
    (interpreter,) = hands.project.root.glob(".bnbenv/generations/bnb/1/bin/python")
    interpreter.unlink()
    interpreter.symlink_to("/removed/bin/python3")


def unlink(name: str) -> Callable[[Hands], None]:
    return lambda hands: (hands.project.root / name).unlink()


# What happens -> the code that check names, words in its sentence, and the generation that sync then ends with.
CHANGES: dict[str, tuple[Callable[[Hands], None], str, str, int]] = {
    "a locked package uninstalled": (lambda h: h.uninstall("fsspec"), "packages-changed", "fsspec", 2),
    "a locked package downgraded": (lambda h: h.install("jinja2", "1.0"), "packages-changed", "is now 1.0", 2),
    "bitsandbytes of another version": (
        lambda h: h.install("bitsandbytes", "0.37.0"),
        "packages-changed",
        "is now 0.37.0",
        2,
    ),
    "bitsandbytes installed anew": (
        lambda h: h.install("bitsandbytes", h.version("bitsandbytes")),
        "packages-changed",
        "was installed anew",
        2,
    ),
    "a native library touched": (
        lambda h: h.patch("bitsandbytes/libbitsandbytes_cpu.so"),
        "files-changed",
        "bitsandbytes/libbitsandbytes_cpu.so",
        2,
    ),
    "torch edited": (lambda h: h.patch("torch/__init__.py"), "files-changed", "torch/__init__.py", 2),
    "link deleted": (unlink(".venv-bnb"), "no-environment", "no .venv-bnb yet", 1),
    "generation deleted": (delete_generation, "link-broken", "leads nowhere", 1),
    "link led elsewhere": (lambda h: h.relink(str(h.wheels.parent)), "link-foreign", "no generation of bnbenv", 1),
    "base Python removed": (remove_base_python, "python-gone", "/removed/bin/python3", 2),
    "lock deleted": (unlink(LOCK), "lock-missing", "pylock.bnb.toml is gone", 1),
    "wish changed": (
        lambda h: h.edit(WISHES, '# bitsandbytes = "*"', 'bitsandbytes = ">=0.45"'),
        "wishes-changed",
        "bnbenv.toml asks for something else",
        1,
    ),
    "record deleted": (unlink(RECORD), "record-missing", "is missing or damaged", 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_named_and_mended(hands: Hands, change: str) -> None:
    happens, code, words, generation = CHANGES[change]
    happens(hands)
    found = hands.project.drift()
    assert list(found) == [code]
    assert words in found[code]
    done = hands.project.done("sync", "--no-verify")
    assert [reason["code"] for reason in done["reasons"]] == [code]
    assert done["generations"][0]["generation"] == hands.project.generation() == generation
    assert set(hands.project.drift()) <= {"unverified"}
    hands.project.done("sync", "--no-verify")
    assert hands.project.leftovers() == []


def test_installing_more_is_no_drift_and_a_new_generation_says_what_it_lacks(hands: Hands) -> None:
    hands.install("tinypackage", "1.0")
    assert hands.project.drift() == {}
    done = hands.project.done("sync", "--fresh", "--no-verify")
    assert any("tinypackage" in note for note in done["generations"][0]["notes"])


def test_what_the_link_led_to_is_kept(hands: Hands, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes").write_text("mine")
    hands.relink(str(other))
    hands.project.done("sync", "--no-verify")
    assert (other / "notes").read_text() == "mine"


def test_a_finished_generation_is_switched_to_without_running_its_kernels_again(hands: Hands) -> None:
    (hands.project.root / ".venv-bnb").unlink()
    done = hands.project.done("sync")
    assert [action["action"] for action in done["actions"]] == ["switch"]
    assert hands.project.drift() == {}


def test_a_folder_in_the_links_place_is_refused_and_nothing_is_touched(project: Any) -> None:
    link = project.root / ".venv-bnb"
    link.unlink()
    link.mkdir()
    (link / "notes").write_text("mine")
    assert list(project.drift()) == ["link-replaced"]
    before = project.listing()
    for words in (("sync", "--fresh", "--no-verify"), ("rollback", "1")):
        ended = project(*words, "--json")
        assert ended.code == 1
        assert ended.document["error"]["code"] == "link-replaced"
        assert "mv .venv-bnb" in ended.document["error"]["next_step"]
    assert project.listing() == before
    link.rename(project.root / "moved-away")
    project.done("sync", "--no-verify")
    assert project.drift() == {}


def test_comments_in_the_wishes_and_wishes_of_others_change_nothing(hands: Hands) -> None:
    hands.edit(WISHES, "[envs.bnb]", "# a remark\n[envs.bnb]")
    assert hands.project.drift() == {}
    assert hands.project.done("sync")["actions"] == []


def test_an_environment_more_is_named(hands: Hands) -> None:
    hands.edit(WISHES, "[policy]", "[envs.second]\n[policy]")
    document = hands.project("check", "--json").document
    assert document["environments"] == ["bnb", "second"]
    assert [(reason["env"], reason["code"]) for reason in document["reasons"]] == [("second", "no-environment")]


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", "cut", "null", "names"])
def test_a_damaged_record_is_a_missing_one(project: Any, damage: str) -> None:
    def change(data: bytes) -> bytes:
        record = json.loads(data)
        damaged = {
            "cut": data[: len(data) // 2],
            "null": json.dumps(dict.fromkeys(record) | {"schema": record["schema"]}).encode(),
            "names": json.dumps(record | {"environments": [1], "host": {"libc": None}}).encode(),
        }
        return damaged.get(damage, damage.encode())

    project.replace(RECORD, change)
    assert list(project.drift()) == ["record-missing"]
    (row,) = project.done("list")["generations"]
    assert (row["in_use"], row["finished"], row["verified"]) == (True, False, False)
    assert project("plan").code == 3


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("this is = = no TOML\n", "line 1"),
        ('lock-version = "1.0"\n[[packages]\n', "line 2"),
        ('lock-version = "2.0"\n', "lock-version"),
        ('lock-version = "1.0"\npackages = []\n', "tool.bnbenv"),
        ("[" * 5000, "pylock.bnb.toml"),
        ("", "lock-version"),
    ],
)
def test_a_lock_that_cannot_be_read_is_exit_2_with_the_place_in_it(project: Any, text: str, where: str) -> None:
    project.replace(LOCK, lambda _: text.encode())
    assert where in project.drift()["lock-unreadable"]
    before = project.listing()
    for command in ("check", "status"):
        assert project(command).stdout.splitlines()[-1].startswith("next: bnbenv lock"), command
    for words in (("plan",), ("sync",), ("sync", "--locked")):
        ended = project(*words, "--json")
        assert ended.code == 2, ended.stderr
        error = ended.document["error"]
        assert "pylock.bnb.toml" in error["message"]
        assert where in error["message"]
        assert "bnbenv lock" in error["next_step"]
    assert project.listing() == before


def test_a_wrong_value_in_the_decision_is_named_by_its_path(hands: Hands) -> None:
    hands.edit(LOCK, 'backend = "cpu"', 'backend = "abacus"')
    ended = hands.project("plan", "--json")
    assert ended.code == 2
    assert "tool.bnbenv.solution.backend" in ended.document["error"]["message"]


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("[policy]", "[policy", "line"),
        ('# torch = "*"', "torch = 2", "envs.bnb.torch"),
        ('# torch = "*"', 'torch = "newest please"', "envs.bnb.torch"),
        ('# torch = "*"', 'tourch = "*"', "tourch"),
        ('# gpus = "all"', 'gpus = "none"', "envs.bnb.gpus"),
    ],
)
def test_wishes_that_cannot_be_read_are_exit_2_with_the_place_in_them(
    hands: Hands, old: str, new: str, where: str
) -> None:
    hands.edit(WISHES, old, new)
    before = hands.project.listing()
    for command in ("check", "plan", "sync"):
        ended = hands.project(command, "--json")
        assert ended.code == 2, ended.stderr
        assert "bnbenv.toml" in ended.document["error"]["message"]
        assert where in ended.document["error"]["message"]
    assert hands.project.listing() == before


def test_an_edited_lock_is_installed(hands: Hands) -> None:
    hands.project.replace(LOCK, lambda data: data + b"\n# reviewed\n")
    assert list(hands.project.drift()) == ["lock-changed"]
    hands.project.done("sync", "--locked", "--no-verify")
    assert (hands.project.root / LOCK).read_text().endswith("# reviewed\n")
    assert set(hands.project.drift()) == {"unverified"}


def test_several_changes_are_all_named(hands: Hands) -> None:
    (hands.project.root / LOCK).unlink()
    hands.uninstall("fsspec")
    hands.edit(WISHES, '# prefer = "newest"', 'prefer = "minimal-change"')
    assert set(hands.project.drift()) == {"packages-changed", "wishes-changed", "lock-missing"}
    shown = hands.project("check").stdout
    assert shown.count("\n  bnb: ") == 3
    assert shown.endswith("next: bnbenv sync (bnbenv plan shows what it would do)\n")


def test_check_writes_nothing(project: Any) -> None:
    (project.root / ".venv-bnb").unlink()
    before = project.listing()
    project.drift()
    project("plan")
    project("list")
    assert project.listing() == before
