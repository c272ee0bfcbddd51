"""``bnbenv matrix update`` against indexes on this machine: what is new, known, broken, or interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass

import pytest

from bnbenv.errors import InputError
from bnbenv.matrix.load import load_matrix

LINUX = "manylinux_2_28_x86_64"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def document(self):
        return json.loads(self.out)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "user"


@pytest.fixture
def start(local_index, tool_environ, tmp_path, home):
    """Starts the command as a user of the local index does, whose PyTorch index is there too."""
    (tmp_path / "empty").mkdir()
    base = {name: value for name, value in tool_environ.items() if not name.startswith(("UV_", "PIP_", "BNBENV_OFF"))}
    own = {
        "BNBENV_HOME": str(home),
        "HOME": str(tmp_path / "nobody"),
        "XDG_CONFIG_HOME": str(tmp_path / "nothing"),
        "UV_DEFAULT_INDEX": local_index.endpoint,
        "BNBENV_PYTORCH_INDEX": f"{local_index.base}/whl",
        "NO_PROXY": "*",
    }

    def start(*words, **changes):
        command = [sys.executable, "-m", "bnbenv", "matrix", "update", "--all-platforms", *words]
        environ = {**base, **own, **changes}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=tmp_path / "empty", env=environ, **pipes)

    return start


@pytest.fixture
def update(start):
    def update(*words, **changes):
        process = start(*words, **changes)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in err and "fault of bnbenv" not in err, err
        return Ran(process.returncode, out, err)

    return update


@pytest.fixture
def publish(local_index, make_zip, make_members, binaries):
    """``publish.bitsandbytes(version)``, ``publish.torch(version, tags)``, ``publish.pytorch(variant, ...)``."""

    class Publish:
        def bitsandbytes(self, version, library=None, tag="manylinux_2_24_x86_64", **more):
            b = binaries
            library = library or b.elf({".nv_fatbin": b.container(b.entry(b.CUBIN, 90))})
            members = {
                **make_members("bitsandbytes", version),
                "bitsandbytes/libbitsandbytes_cuda130.so": library,
                "bitsandbytes/made.txt": version.encode(),
            }
            name = f"bitsandbytes-{version}-py3-none-{tag}.whl"
            local_index.add("bitsandbytes", {name: make_zip(members)}, **more)
            return name

        def torch_wheels(self, version, tags, cuda="'13.0'"):
            members = {
                **make_members("torch", version),
                "torch/version.py": f"cuda: Optional[str] = {cuda}\n".encode(),
                "torch/lib/libtorch_python.so": b"sm_80 sm_90\0",
            }
            return {f"torch-{version}-{tag}.whl": make_zip(members) for tag in tags}

        def torch(self, version, *tags):
            local_index.add("torch", self.torch_wheels(version, tags))

        def pytorch(self, variant, version, *tags, cuda, hashed=True):
            """A page as PyTorch's own index has it: absolute paths, quoted names, hashes for most files."""
            files = self.torch_wheels(version, tags, cuda)
            local_index.files.update(files)
            links = []
            for name in files:
                fragment = f"#sha256={local_index.sha256(name)}" if hashed else ""
                links.append(f'<a href="/files/{name.replace("+", "%2B")}{fragment}">{name}</a>')
            before = local_index.pages.get(f"{variant}/torch", ("", b"<!DOCTYPE html>"))[1]
            local_index.pages[f"{variant}/torch"] = ("text/html", before + "<br/>".join(links).encode())

    local_index.add("bitsandbytes", {})
    local_index.pages["torch"] = ("text/html", b'<meta name="pypi:repository-version" content="1.0">')
    return Publish()


def versions(rows):
    return [(row["project"], row["version"], row["index"], row["because"]) for row in rows]


def test_what_is_new_is_measured_once_and_laid_over_what_came_with_bnbenv(update, publish, local_index, home):
    publish.bitsandbytes("0.99.0")
    publish.bitsandbytes("0.99.0rc1")  # a pre-release, a withdrawn one, and no hash: left alone
    publish.bitsandbytes("0.99.1", yanked=("bitsandbytes-0.99.1-py3-none-manylinux_2_24_x86_64.whl",))
    publish.torch("99.0.0", f"cp311-cp311-{LINUX}", f"cp312-cp312-{LINUX}")
    publish.pytorch("cu126", "2.14.1+cu126", f"cp311-cp311-{LINUX}", cuda="'12.6'")
    publish.pytorch("cu126", "2.14.0+cu126", f"cp311-cp311-{LINUX}", cuda="'12.6'", hashed=False)
    publish.pytorch("cu126", "2.14.1+cu126.with.pypi.cudnn", f"cp311-cp311-{LINUX}", cuda="'12.6'")
    looked = update("--check", "--json")
    assert looked.code == 3, looked
    assert not home.exists()
    done = update("--json")
    assert (done.code, done.document["failed"]) == (0, [])
    added = [("bitsandbytes", "0.99.0", None, None), ("torch", "99.0.0", None, None)]
    for document in (looked.document, done.document):
        assert sorted(versions(document["added"])) == added
        assert versions(document["changed"]) == [("torch", "2.14.1+cu126", "cu126", "it was declared")]
    assert done.document["left_out"] == [
        {"filename": f"torch-2.14.0+cu126-cp311-cp311-{LINUX}.whl", "because": "the index names no sha256 of it"}
    ]
    assert done.document["unreachable"] == done.document["failed"] == []  # the other variants do not exist there
    matrix = load_matrix(home / "matrix")
    where = ("2.14.1+cu126", "linux", "x86_64")
    (build,) = (row for row in matrix.torch if (row.version, row.os, row.machine) == where)
    assert (build.evidence.level, build.source, build.index, build.cuda) == (
        "measured",
        "pytorch-index",
        "cu126",
        "12.6",
    )
    assert {row.version for row in matrix.bitsandbytes} - {row.version for row in load_matrix().bitsandbytes} == {
        "0.99.0"
    }
    before = local_index.sent
    again = update("--json")
    assert (again.code, again.document["added"], again.document["changed"]) == (0, [], [])
    assert again.document["unchanged"] == 3
    assert local_index.sent - before < 5_000  # pages alone


def test_a_linux_wheel_without_a_libc_in_its_tag_keeps_the_declared_one(update, publish, home):
    shipped = [row for row in load_matrix().torch if row.index == "cu121" and row.os == "linux"]
    old = next(row for row in shipped if row.libc_tag == "2.17")
    publish.pytorch("cu121", old.version, *(f"{tag}-{tag}-linux_x86_64" for tag in old.pythons[:2]), cuda="'12.1'")
    done = update("--bitsandbytes", "none", "--json")
    assert (done.code, done.document["failed"]) == (0, [])
    rows = [row for row in load_matrix(home / "matrix").torch if (row.version, row.os) == (old.version, "linux")]
    assert [(row.evidence.level, row.libc_tag, row.pythons) for row in rows] == [("measured", "2.17", old.pythons[:2])]


def test_what_cannot_be_measured_is_named_and_the_rest_kept(update, publish, local_index, home):
    publish.bitsandbytes("0.99.0")
    broken = publish.bitsandbytes("0.99.1", library=b"\x7fELF and nothing more")
    done = update("--torch", "none")
    assert done.code == 1
    assert done.out.splitlines()[0].startswith("1 row was added and 1 wheel could not be measured")
    assert "libbitsandbytes_cuda130.so is damaged" in " ".join(done.out.split())
    assert "added bitsandbytes 0.99.0 linux x86_64: cuda130" in done.err
    again = update("--torch", "none", "--bitsandbytes", "*", "--json")
    assert [row["filename"] for row in again.document["failed"]] == [broken]
    assert again.document["added"] == []
    known = {row.version for row in load_matrix().bitsandbytes}
    assert {row.version for row in load_matrix(home / "matrix").bitsandbytes} - known == {"0.99.0"}


def test_two_at_once_lose_no_rows(start, publish, home):
    numbers = range(4)
    for number in numbers:
        publish.bitsandbytes(f"0.99.{number}")
    running = [start("--torch", "none", "--bitsandbytes", f"==0.99.{number}") for number in numbers]
    for process in running:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
    rows = json.loads((home / "matrix" / "bitsandbytes.json").read_text())["rows"]
    assert sorted(row["version"] for row in rows) == [f"0.99.{number}" for number in numbers]


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to another process")
def test_ctrl_c_keeps_what_is_finished(start, publish, local_index, home):
    first, second = publish.bitsandbytes("0.99.1"), publish.bitsandbytes("0.99.0")
    ending = threading.Event()

    def hang(path, span, answer):
        if path.endswith(second):
            ending.wait(30)
        return answer

    local_index.twist = hang
    process = start("--torch", "none", "--jobs", "1")
    try:
        assert process.stderr.readline().startswith("added bitsandbytes 0.99.1")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    finally:
        ending.set()
    assert process.returncode == 130, out + err
    assert err.splitlines()[-2:] == [
        "interrupted: the rows that were finished are kept",
        "next: It goes on with: bnbenv matrix update",
    ]
    rows = json.loads((home / "matrix" / "bitsandbytes.json").read_text())["rows"]
    assert [row["filename"] for row in rows] == [first]


def test_no_network_no_index_and_no_such_project_are_told_apart(update, publish, local_index):
    off = update("--json", BNBENV_OFFLINE="1")
    assert (off.code, off.document["error"]["code"]) == (7, "offline")
    assert local_index.asked == []
    closed = update("--index", "http://user:secret@127.0.0.1:9/simple")
    assert closed.code == 7
    assert "does not answer: connection refused" in closed.err and "secret" not in closed.err
    publish.bitsandbytes("0.99.0")
    del local_index.pages["torch"]
    local = update("--json", BNBENV_PYTORCH_INDEX="http://127.0.0.1:9/whl")
    assert local.code == 1
    assert [row["filename"] for row in local.document["failed"]] == ["torch"]
    assert versions(local.document["added"]) == [("bitsandbytes", "0.99.0", None, None)]
    assert {row["index"] for row in local.document["unreachable"]} >= {"cpu", "cu126", "cu130"}


def test_rows_that_cannot_be_read_are_left_alone(update, publish, home):
    publish.bitsandbytes("0.99.0")
    (home / "matrix").mkdir(parents=True)
    (home / "matrix" / "bitsandbytes.json").write_text('{"rows": [{}]}')
    done = update()
    assert (done.code, "bitsandbytes.json" in done.err) == (2, True)
    with pytest.raises(InputError):
        load_matrix(home / "matrix")
    for words in (("--torch", "two"), ("--jobs", "-1")):
        assert update(*words).code == 2
