"""Getting the source: each way in gives the same tree and digest, and what is no source is refused by name."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.build.model import Tree
from bnbenv.build.ports import Ports
from bnbenv.build.source import as_it_is, fetch, offered
from bnbenv.errors import BnbenvError

NOWHERE = "https://upstream.invalid/bitsandbytes"


@pytest.fixture
def repository(tmp_path: Path, source_tree: Callable[..., Path], git: Callable[..., str]) -> Path:
    """A repository with the tags 0.49.2, v0.50.0 (annotated) and 0.51.0rc1, a branch, and work on top."""
    root = source_tree(tmp_path / "repository", "0.49.2")
    git(root, "init", "-q")
    for version, tag in (("0.49.2", "0.49.2"), ("0.50.0", "v0.50.0"), ("0.51.0rc1", "0.51.0rc1")):
        source_tree(root, version)
        git(root, "add", "-A")
        git(root, "commit", "-qm", version)
        git(root, "tag", *(("-am", version) if tag.startswith("v") else ()), tag)
    git(root, "branch", "0.49.x", "0.49.2")
    source_tree(root, "0.51.0.dev0")
    git(root, "commit", "-qam", "on")
    return root


@pytest.fixture
def get(bare_ports: Callable[..., Ports]) -> Callable[..., Tree]:
    """``get(source, ref, upstream=...)``: the tree of a source."""
    ports = bare_ports()
    return lambda source, ref=None, upstream=NOWHERE: fetch(str(source) if source else None, ref, ports, upstream)


def _refused(get: Callable[..., Tree], *asked: Any, **more: Any) -> tuple[str, str]:
    """The code, and all that is said."""
    with pytest.raises(BnbenvError) as caught:
        get(*asked, **more)
    return caught.value.code, f"{caught.value.message}. {caught.value.next_step}"


def test_every_way_in_gives_the_same_tree(
    tmp_path: Path, repository: Path, git: Callable[..., str], get: Callable[..., Tree]
) -> None:
    commit = git(repository, "rev-parse", "v0.50.0^{commit}").strip()
    git(
        repository,
        "clone",
        "-q",
        "--bare",
        "--depth=1",
        "-b",
        "v0.50.0",
        repository.as_uri(),
        str(tmp_path / "bare.git"),
    )
    git(repository, "archive", "--prefix=bitsandbytes-0.50.0/", "-o", str(tmp_path / "a.tar.gz"), "v0.50.0")
    git(repository, "archive", "-o", str(tmp_path / "a.zip"), "v0.50.0")
    git(repository, "bundle", "create", "-q", str(tmp_path / "a.bundle"), "--all")
    git(repository, "worktree", "add", "-q", str(tmp_path / "work"), "v0.50.0")
    trees = [
        get(None, "0.50.0", upstream=str(repository)),
        get(None, None, upstream=str(repository)),  # the newest release; a release candidate is none
        get(repository, commit),
        get(repository, commit[:9]),
        get(tmp_path / "bare.git"),
        get(tmp_path / "bare.git", "v0.50.0"),
        get((tmp_path / "bare.git").as_uri(), "0.50.0"),
        get(tmp_path / "a.bundle", "0.50.0"),
        get(tmp_path / "work"),
        get(tmp_path / "a.tar.gz"),
        get(tmp_path / "a.zip"),
    ]
    assert {(tree.version, tree.origin.digest, tree.cuda_min, tree.cuda_end) for tree in trees} == {
        ("0.50.0", trees[0].origin.digest, "11.8", "14.0")
    }
    assert [tree.origin.commit for tree in trees] == [commit] * 9 + [None, None]
    assert len({tree.folder for tree in trees}) == len(trees)
    assert trees[0].origin.ref == "v0.50.0"
    assert get(repository).version == "0.51.0.dev0", "without a ref a folder is taken as it is"
    assert get(repository, "0.49.x").version == "0.49.2"


def test_what_builds_leave_in_a_folder_changes_nothing(
    tmp_path: Path, repository: Path, git: Callable[..., str], get: Callable[..., Tree]
) -> None:
    clean = get(repository)
    (repository / "build" / "CMakeFiles").mkdir(parents=True)
    for name in ("build/x.o", "bitsandbytes/libbitsandbytes_cuda130.so", "CMakeCache.txt", "Makefile", "build.ninja"):
        (repository / name).write_text("made")
    (repository / ".venv").symlink_to(tmp_path)
    index = (repository / ".git" / "index").read_bytes()
    built = get(repository)
    assert built.origin == clean.origin
    assert clean.origin.commit == git(repository, "rev-parse", "HEAD").strip()
    assert sorted(os.listdir(built.folder)) == ["CMakeLists.txt", "bitsandbytes", "csrc", "pyproject.toml"]
    assert (repository / ".git" / "index").read_bytes() == index
    (repository / "csrc" / "new.cu").write_text("//")
    added = get(repository)
    assert added.origin.commit is None, "with a file that no commit has, it is no commit"
    assert added.origin.digest != clean.origin.digest
    (repository / "csrc" / "new.cu").unlink()
    (repository / "csrc" / "kernels.cu").chmod(0o755)
    assert get(repository).origin.digest != clean.origin.digest


def test_a_commit_is_whole_whatever_its_attributes_leave_out_of_archives_or_fill_in(
    repository: Path, git: Callable[..., str], get: Callable[..., Tree]
) -> None:
    (repository / ".gitattributes").write_text("csrc/kernels.cu export-ignore\n*.py export-subst\n")
    (repository / "bitsandbytes" / "id.py").write_text('COMMIT = "$Format:%H$"\n')
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "attributes")
    assert get(repository, "HEAD").origin.digest == get(repository).origin.digest


def test_a_tree_is_private(repository: Path, get: Callable[..., Tree]) -> None:
    tree = get(repository)
    (Path(tree.folder) / "csrc" / "kernels.cu").write_text("changed")
    assert "changed" not in (repository / "csrc" / "kernels.cu").read_text()
    assert get(repository).origin == tree.origin


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("0.50.1", "Its newest release is v0.50.0"),
        ("0.49.3", "near are 0.49.2"),
        ("mian", "near are main"),
        ("--upload-pack=touch x", "cannot be the name"),
        ("HEAD~1", "cannot be the name"),
        ("deadbeef", "has no commit deadbeef"),
        ("0" * 40, "has no commit 000"),
        ("", "cannot be the name"),
    ],
)
def test_a_ref_that_does_not_exist(repository: Path, get: Callable[..., Tree], ref: str, said: str) -> None:
    code, text = _refused(get, repository, ref)
    assert code == "no-such-ref"
    assert said in text


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("/nowhere/at/all", "no-such-source", "there is nothing at"),
        ("/", "not-bitsandbytes", "no CMakeLists.txt"),
        ("/dev/null", "bad-source", "neither a folder nor a file"),
        ("  ", "bad-source", "an empty text"),
        ("file://host.example/x", "bad-source", "names no file of this machine"),
        ("file://]/x", "bad-source", "names no file of this machine"),
        ("ext::sh -c id", "bad-source", "a program of its own"),
        ("git://host.example/x", "bad-source", 'not by "git"'),
        ("ssh://-oProxyCommand=id/x", "bad-source", "names no host"),
        ("https://host.example/a b", "bad-source", "no address"),
        ("-x@host.example:x", "bad-source", "no address"),
        ("https://host.example/a.tar.gz", "sha256-needed", "Append #sha256="),
        ("https://host.example/a.tar.gz#sha256=12", "bad-source", "is no sha256"),
    ],
)
def test_a_source_that_is_none(get: Callable[..., Tree], source: str, code: str, said: str) -> None:
    found, text = _refused(get, source)
    assert found == code
    assert said in text


@pytest.mark.parametrize(
    ("changes", "gone", "code", "said"),
    [
        ({"CMakeLists.txt": "project(faiss)\nset(COMPUTE_BACKEND)\n"}, (), "not-bitsandbytes", "is of faiss"),
        ({"CMakeLists.txt": "# project(bitsandbytes)\n"}, (), "not-bitsandbytes", "names no project"),
        ({"CMakeLists.txt": "project(bitsandbytes)\n"}, (), "not-bitsandbytes", "COMPUTE_BACKEND"),
        ({"bitsandbytes/__init__.py": ""}, (), "not-bitsandbytes", "its version cannot be read"),
        ({"bitsandbytes/__init__.py": "__version__ = 'of today'"}, (), "not-bitsandbytes", '"of today" is none'),
        ({}, ("csrc/kernels.cu", "csrc"), "not-bitsandbytes", "no folder csrc"),
        ({}, ("pyproject.toml",), "not-bitsandbytes", "no wheel can be made"),
        ({"Makefile": "all:\n"}, ("CMakeLists.txt",), "source-too-old", "is bitsandbytes 0.50.1, which is built by"),
        ({"x.dist-info/RECORD": ""}, ("CMakeLists.txt",), "not-bitsandbytes", "no source"),
    ],
)
def test_a_folder_that_is_not_bitsandbytes(
    tmp_path: Path,
    source_tree: Callable[..., Path],
    get: Callable[..., Tree],
    changes: dict[str, str],
    gone: tuple[str, ...],
    code: str,
    said: str,
) -> None:
    root = source_tree(tmp_path / "tree", **changes)
    for name in gone:
        path = root / name
        path.rmdir() if path.is_dir() else path.unlink()
    found, text = _refused(get, root)
    assert found == code
    assert said in text


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ({"pyproject.toml": '[project]\nversion = "1.2"\n'}, "1.2"),
        ({"pyproject.toml": '[tool.setuptools.dynamic]\nversion = {attr = "bitsandbytes._v.V"}\n',
          "bitsandbytes/_v.py": 'V: str = "1.3+cu"\n'}, "1.3+cu"),
        ({"pyproject.toml": '[tool.setuptools.dynamic]\nversion = {file = ["VERSION"]}\n', "VERSION": "1.4\n"}, "1.4"),
        ({"pyproject.toml": "", "bitsandbytes/__init__.py": "", "setup.py": 'setup(version="1.5")'}, "1.5"),
        ({"pyproject.toml": "no toml"}, "0.50.1"),
    ],
)  # fmt: skip
def test_the_version_is_read_without_running_anything(
    tmp_path: Path, source_tree: Callable[..., Path], get: Callable[..., Tree], changes: dict[str, str], version: str
) -> None:
    broken = {"bitsandbytes/__init__.py": '__version__ = "{version}"\nraise SystemExit("was run")\n', **changes}
    assert get(source_tree(tmp_path / "tree", **broken)).version == version


def test_links(tmp_path: Path, source_tree: Callable[..., Path], get: Callable[..., Tree]) -> None:
    root = source_tree(tmp_path / "tree")
    plain = get(root).origin.digest
    (root / "csrc" / "same.cu").symlink_to("kernels.cu")
    os.mkfifo(root / "csrc" / "pipe")
    tree = get(root)
    assert (Path(tree.folder) / "csrc" / "same.cu").readlink() == Path("kernels.cu")
    assert tree.origin.digest != plain
    (root / "data").symlink_to("/etc")
    code, text = _refused(get, root)
    assert code == "unsafe-source"
    assert "data is a link that leads out" in text


def test_a_folder_that_has_no_end(tmp_path: Path, source_tree: Callable[..., Path], get: Callable[..., Tree]) -> None:
    root = source_tree(tmp_path / "tree")
    with (root / "model.safetensors").open("wb") as file:
        file.truncate(1 << 33)
    code, text = _refused(get, root)
    assert code == "source-too-large"
    assert "128 MB" in text
    (root / "model.safetensors").unlink()
    root.joinpath(*["deeper"] * 60).mkdir(parents=True)
    assert _refused(get, root)[0] == "source-too-large"


def test_refs_are_for_repositories(tmp_path: Path, source_tree: Callable[..., Path], get: Callable[..., Tree]) -> None:
    root = source_tree(tmp_path / "tree")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(root, "bitsandbytes")
    assert _refused(get, root, "0.50.1")[0] == "no-such-ref"
    assert _refused(get, tmp_path / "a.tar", "0.50.1")[0] == "no-such-ref"
    (tmp_path / "empty").mkdir()
    assert _refused(get, tmp_path / "empty")[0] == "not-bitsandbytes"
    (tmp_path / "HEAD").mkdir()


def test_what_a_source_offers(
    tmp_path: Path,
    repository: Path,
    git: Callable[..., str],
    source_tree: Callable[..., Path],
    bare_ports: Callable[..., Ports],
) -> None:
    ports = bare_ports()
    commits = {name: git(repository, "rev-parse", f"{name}^{{commit}}").strip() for name in ("0.49.2", "v0.50.0")}
    listed = offered(None, ports, str(repository))
    assert list(listed) == ["0.49.2", "0.50.0", "0.51.0rc1"]
    assert (listed["0.49.2"], listed["0.50.0"]) == (commits["0.49.2"], commits["v0.50.0"])
    assert not (ports.home / "sources").exists(), "nothing was fetched for it"
    folder = source_tree(tmp_path / "tree", "0.48.1")
    assert offered(str(folder), ports, NOWHERE) == {"0.48.1": fetch(str(folder), None, ports, NOWHERE).origin.digest}
    assert [as_it_is(one) for one in (None, str(repository), str(tmp_path / "tree"), NOWHERE)] == [
        False,
        True,
        True,
        False,
    ]
