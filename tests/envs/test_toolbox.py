"""Packages for a build by the real uv, from an index that runs here: environments, questions, and a tree's wheel."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bnbenv.build.ports import Ports
from bnbenv.envs.project import Project
from bnbenv.envs.resolve import sources_for
from bnbenv.envs.toolbox import build_ports
from bnbenv.envs.wishes import SourcesWish
from bnbenv.errors import Failed, NoCombination, SourceUnreachable, UsageError
from bnbenv.matrix.load import load_matrix
from bnbenv.process import Command, Finished, SystemRunner

# A build backend in the tree itself, so that nothing has to be fetched for it.
BACKEND = """\
import os, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    if os.environ.get("TREE_FAILS"):
        print("looking around", os.environ["TREE_FAILS"])
        raise RuntimeError("this tree does not like it here")
    with zipfile.ZipFile(os.path.join(folder, "tree-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("tree.txt", os.environ.get("TREE_SAYS", "") + str(os.environ.get("TREE_GONE")))
        wheel.writestr("tree-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tree\\nVersion: 1\\n")
        wheel.writestr("tree-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("tree-1.dist-info/RECORD", "")
    return "tree-1-py3-none-any.whl"
"""


@dataclass(frozen=True)
class Within:
    """Runs everything for real, in this environment."""

    environ: dict[str, str]

    def run(self, command: Command) -> Finished:
        gone = dict.fromkeys(name for name in os.environ if name not in self.environ)
        return SystemRunner().run(replace(command, env={**gone, **self.environ, **command.env}))


@pytest.fixture
def ports_of(tmp_path: Path) -> Callable[..., Ports]:
    """``ports_of(index_url, **variables)``: ports of a user with that index and an empty cache."""

    def make(url: str, **variables: str) -> Ports:
        environ = {name: text for name, text in os.environ.items() if not name.startswith(("UV_", "PIP_", "BNB"))}
        own = {"UV_CACHE_DIR": str(tmp_path / "cache"), "XDG_CONFIG_HOME": str(tmp_path), "UV_DEFAULT_INDEX": url}
        environ |= {**own, "PIP_CONFIG_FILE": os.devnull, "UV_NO_PROGRESS": "1", "BNBENV_HOME": str(tmp_path / "home")}
        environ |= variables
        project = tmp_path / "project"
        project.mkdir(exist_ok=True)
        sources = sources_for(Project(project, project), SourcesWish(), load_matrix(), environ)
        return build_ports(environ, Within(environ), sources, project)

    return make


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "backend.py").write_text(BACKEND)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tree"\nversion = "1"\n'
    )
    (folder / "uv.toml").write_text("no settings at all\n")  # a tree's own is not read
    return folder


def test_an_environment_is_made_in_place_of_what_was_there(ports_of: Callable[..., Ports], index: Any) -> None:
    index.add("smallthing", "1.0", ("otherthing",))
    index.add("otherthing", "2.0")
    ports = ports_of(index.url("simple"), UV_LINK_MODE="symlink", UV_REQUIRE_HASHES="1", UV_COMPILE_BYTECODE="1")
    folder = ports.home / "toolchains" / "x"
    folder.mkdir(parents=True)
    (folder / "left").write_text("")
    ports.packages.environment(folder, ("smallthing",))
    assert not (folder / "left").exists()
    (module,) = folder.glob("lib/python3*/site-packages/otherthing.py")
    assert not module.is_symlink() and 'name = "otherthing"' in (folder / "pylock.toml").read_text()
    with pytest.raises(NoCombination):
        ports.packages.environment(folder, ("nosuchthing",))
    assert module.is_file()  # what cannot be replaced is not deleted


def test_what_was_changed_in_uvs_cache_is_loaded_again(
    ports_of: Callable[..., Ports], index: Any, tmp_path: Path
) -> None:
    index.add("smallthing", "1.0")
    ports = ports_of(index.url("simple"))
    ports.packages.environment(ports.home / "x", ("smallthing",))
    (cached,) = (tmp_path / "cache").glob("archive-v0/*/smallthing.py")
    cached.write_text("")
    ports.packages.environment(ports.home / "y", ("smallthing",))
    (module,) = (ports.home / "y").glob("lib/python3*/site-packages/smallthing.py")
    assert module.read_text() == "VERSION = '1.0'\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps rights otherwise")
@pytest.mark.parametrize("name", [".", "wheels", "toolchains"])
def test_a_folder_of_builds_that_everybody_may_write_into_is_not_used(
    ports_of: Callable[..., Ports], tmp_path: Path, name: str
) -> None:
    url = "https://localhost:1/simple"
    folder = ports_of(url).home / name
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(UsageError) as caught:
        ports_of(url)
    assert caught.value.code == "open-to-all" and str(folder) in caught.value.message
    assert ports_of(url, BNBENV_TRUSTED=str(tmp_path)).home.exists()


@dataclass(frozen=True)
class Cutting:
    """Runs everything for real, and then empties a file that was installed, as a failing disk does."""

    real: Any
    folder: Path

    def run(self, command: Command) -> Finished:
        done: Finished = self.real.run(command)
        for path in self.folder.glob("lib/python3*/site-packages/smallthing.py"):
            path.unlink()  # it is a link into uv's cache
            path.write_text("")
        return done


def test_what_is_not_as_its_packages_brought_it_is_not_taken(ports_of: Callable[..., Ports], index: Any) -> None:
    index.add("smallthing", "1.0")
    ports = ports_of(index.url("simple"))
    packages = replace(ports.packages, runner=Cutting(ports.packages.runner, ports.home / "x"))
    with pytest.raises(Failed) as caught:
        packages.environment(ports.home / "x", ("smallthing",))
    assert caught.value.code == "damaged-files" and "smallthing.py" in caught.value.message
    assert caught.value.next_step == "Load it again: uv cache clean smallthing"


def test_a_login_gets_in_and_into_no_file(ports_of: Callable[..., Ports], index: Any, tree: Path) -> None:
    login = "reader:pa55-w0rd"
    index.add("smallthing", "1.0")
    ports = ports_of(index.url("auth", login))
    folder, out = ports.home / "x", tree.parent / "out"
    ports.packages.environment(folder, ("smallthing",))
    assert 'name = "smallthing"' in (folder / "pylock.toml").read_text()
    with pytest.raises(Failed):
        ports.packages.wheel(tree, out, {"TREE_FAILS": index.url("auth", login)})
    for path in (folder / "pylock.toml", out / "wheel.log"):
        assert "pa55-w0rd" not in path.read_text()


def test_why_packages_cannot_be_had(ports_of: Callable[..., Ports], index: Any) -> None:
    index.add("smallthing", "1.0")
    packages = ports_of(index.url("simple")).packages
    assert packages.missing(("smallthing==1.*",)) == ""
    assert packages.missing(("nosuchthing",)) == "no package source offers nosuchthing"
    assert packages.missing(("smallthing==2.*",)) == "of its packages, only smallthing==1.0 is available"
    gone = ports_of(index.url("status-403")).packages
    assert "403" in gone.missing(("smallthing",))


def test_without_a_network_only_what_was_downloaded_is_there(ports_of: Callable[..., Ports], index: Any) -> None:
    index.add("smallthing", "1.0")
    there = ports_of(index.url("simple"))
    away = ports_of(index.url("simple"), BNBENV_OFFLINE="1")
    assert there.packages.missing(("smallthing",)) == ""
    assert "the network is switched off (BNBENV_OFFLINE)" in away.packages.missing(("smallthing",))
    there.packages.environment(there.home / "x", ("smallthing",))
    assert away.packages.missing(("smallthing",)) == ""
    away.packages.environment(away.home / "y", ("smallthing",))
    with pytest.raises((SourceUnreachable, NoCombination)):
        away.packages.environment(away.home / "z", ("otherthing",))


def test_a_trees_own_backend_makes_its_wheel(ports_of: Callable[..., Ports], index: Any, tree: Path) -> None:
    ports = ports_of(index.url("simple"), TREE_GONE="1")
    out = tree.parent / "out"
    made = ports.packages.wheel(tree, out, {"TREE_SAYS": "hello ", "TREE_GONE": None})
    assert made == out / "tree-1-py3-none-any.whl"
    assert zipfile.ZipFile(made).read("tree.txt") == b"hello None"
    assert (out / "wheel.log").is_file() and not (out / ".gitignore").exists()


def test_a_backend_that_fails_is_told_with_its_own_error(
    ports_of: Callable[..., Ports], index: Any, tree: Path
) -> None:
    packages, out = ports_of(index.url("simple")).packages, tree.parent / "out"
    with pytest.raises(Failed) as caught:
        packages.wheel(tree, out, {"TREE_FAILS": "1"})
    assert caught.value.message == ("the source's own packaging failed: RuntimeError: this tree does not like it here")
    assert "looking around" in (out / "wheel.log").read_text()
    text = (tree / "pyproject.toml").read_text()
    (tree / "pyproject.toml").write_text(text.replace("requires = []", 'requires = ["nosuchthing"]'))
    with pytest.raises(Failed, match=r"what the source's own packaging needs cannot be had: .*nosuchthing"):
        packages.wheel(tree, out, {})
