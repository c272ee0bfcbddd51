"""What ``check`` and a ``sync`` with nothing to do must not load, and what they need not read again."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.real

# Each of these takes as long to import as much of the rest of a check.
HEAVY = {"dataclasses", "inspect", "subprocess", "threading", "tomllib", "tomli", "tomlkit", "msgspec", "packaging"}
HEAVY |= {"requests", "pypi_simple", "platformdirs", "pynvml", "filelock", "uv", "rich", "shutil", "tempfile", "ctypes"}

LOADED = "import sys; from bnbenv.cli import main; code = main(); print(sorted(sys.modules)); sys.exit(code)"


@pytest.mark.parametrize("words", [("check",), ("sync",)])
def test_nothing_heavy_is_loaded_where_nothing_changed(project: Any, words: tuple[str, ...]) -> None:
    bare = project.start(command=("-c", "import sys; print(sorted(sys.modules))"))
    process = project.start("--quiet", command=("-c", LOADED, *words))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    at_start = set(bare.communicate(timeout=60)[0].replace("'", "").strip("[]\n").split(", "))
    loaded = set(out.replace("'", "").strip("[]\n").split(", "))
    assert "bnbenv.envs.check" in loaded
    assert loaded - at_start & HEAVY == set()


def test_a_record_of_files_that_was_only_written_again_is_no_change_and_another_one_is(project: Any) -> None:
    name = ".bnbenv/generations/bnb/1/lib/python*/site-packages/torch-*.dist-info/RECORD"
    path = project.replace(name, lambda text: text)
    assert project.drift() == {}
    stat = path.stat()
    project.replace(name, lambda text: text.replace(b"torch/__init__.py", b"torch/__Init__.py"))
    assert path.stat().st_size == stat.st_size
    assert "was installed anew" in project.drift()["packages-changed"]


def test_environments_made_before_their_records_held_the_time_of_each_file_stay_in_sync(project: Any) -> None:
    def without_stamps(text: bytes) -> bytes:
        document = json.loads(text)
        assert document.pop("stamps")
        return json.dumps(document).encode()

    project.replace(".bnbenv/generations/bnb/1.json", without_stamps)
    assert project.drift() == {}


TRACE = """\
import os, sys
opened = []
sys.addaudithook(lambda name, args: name == "open" and opened.append(str(args[0])))
from bnbenv.cli import main
code = main()
print(sum(os.path.basename(path) == "bnbenv.toml" for path in opened))
sys.exit(code)
"""


def test_a_comment_costs_one_more_reading_of_bnbenv_toml_until_sync_has_seen_it(project: Any) -> None:
    """However many environments are in it, and whichever of them were made before the others."""

    def openings() -> int:
        process = project.start("check", "--quiet", command=("-c", TRACE))
        out, err = process.communicate(timeout=60)
        assert process.returncode in (0, 3), err
        return int(out)

    project.replace("bnbenv.toml", lambda text: text.replace(b"[policy]", b"[envs.two]\n[envs.three]\n[policy]"))
    project.done("sync", "--no-verify")
    assert openings() == 1
    project.replace("bnbenv.toml", lambda text: text + b"# a comment\n")
    assert openings() == 2
    project.done("sync", "--no-verify")
    assert openings() == 1


def test_what_is_wished_for_while_a_sync_is_under_way_is_seen_by_the_next_check(project: Any) -> None:
    """An editor writes bnbenv.toml after sync has read it: what was made is not what is wished for now."""
    edit = (
        "import sys; from pathlib import Path\n"
        "def edit(name, args):\n"
        "    if name == 'subprocess.Popen' and 'install' in args[1]:\n"
        "        Path('bnbenv.toml').write_text('[envs.bnb]\\ntorch = \"<2.12\"\\n')\n"
        "sys.addaudithook(edit)\n"
        "from bnbenv.cli import main; sys.exit(main())"
    )
    process = project.start("sync", "--fresh", "--no-verify", command=("-c", edit))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "<2.12" in (project.root / "bnbenv.toml").read_text()
    assert set(project.drift()) == {"wishes-changed", "unverified"}
