"""scripts/derive_matrix.py against an index on this machine: new rows, known rows, and what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "derive_matrix.py"


@pytest.fixture
def derive(local_index, tmp_path):
    def run(*arguments):
        command = [sys.executable, SCRIPT, "--index", local_index.endpoint, "--out", tmp_path, *arguments]
        return subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=60, env={**os.environ, "NO_PROXY": "*"}
        )

    return run


@pytest.fixture
def rows(tmp_path):
    def read(name):
        text = (tmp_path / name).read_text()
        document = json.loads(text)
        assert document["schema"] == f"bnbenv.matrix.{name.partition('.')[0]}/1"
        assert len(text.splitlines()) == len(document["rows"]) + 2  # one row a line
        return document["rows"]

    return read


@pytest.fixture
def publish(local_index, make_zip, make_members):
    def torch(version, *tags, cuda="'13.0'", library=b"sm_80 sm_90\0"):
        members = {
            **make_members("torch", version),
            "torch/version.py": f"cuda: Optional[str] = {cuda}\n".encode(),
            "torch/lib/libtorch_python.so": library,
        }
        local_index.add("torch", {f"torch-{version}-{tag}.whl": make_zip(members) for tag in tags})

    def bitsandbytes(version, tag, library):
        members = {
            **make_members("bitsandbytes", version),
            "bitsandbytes/libbitsandbytes_cuda130.so": library,
        }
        local_index.add("bitsandbytes", {f"bitsandbytes-{version}-py3-none-{tag}.whl": make_zip(members)})

    class Publish:
        pass

    publish = Publish()
    publish.torch, publish.bitsandbytes = torch, bitsandbytes
    return publish


def test_new_wheels_are_measured_and_known_ones_kept(derive, rows, publish, local_index, binaries):
    b = binaries
    publish.torch("2.15.0", "cp311-cp311-manylinux_2_28_x86_64", "cp313-cp313t-manylinux_2_28_x86_64")
    publish.torch("2.15.0", "cp311-cp311-win_amd64", cuda="None")
    publish.torch("1.13.0", "cp310-cp310-manylinux1_x86_64")
    publish.bitsandbytes("0.50.2", "manylinux_2_24_x86_64", b.elf({".nv_fatbin": b.container(b.entry(b.CUBIN, 90))}))
    first = derive()
    assert first.returncode == 0, first.stderr
    linux, windows = rows("torch.json")
    assert (linux["cuda"], linux["arch_list"], linux["pythons"]) == ("13.0", ["sm_80", "sm_90"], ["cp311", "cp313t"])
    assert (windows["os"], windows["cuda"]) == ("windows", None)
    (library,) = rows("bitsandbytes.json")[0]["libraries"]
    assert library["sass"] == ["sm_90"]

    publish.torch("2.15.0", "cp315-cp315-manylinux_2_28_x86_64")
    publish.torch("2.16.0", "cp312-cp312-manylinux_2_28_x86_64", library=b"sm_90 sm_100\0")
    before = local_index.sent
    second = derive()
    assert second.returncode == 0, second.stderr
    assert local_index.sent - before < 10_000
    assert [line.split(":")[0] for line in second.stdout.splitlines()] == [
        "changed torch 2.15.0 linux x86_64",
        "added torch 2.16.0 linux x86_64",
    ]
    newest, linux_again, windows_again = rows("torch.json")
    assert (newest["version"], newest["arch_list"]) == ("2.16.0", ["sm_90", "sm_100"])
    assert linux_again == {**linux, "pythons": ["cp311", "cp313t", "cp315"]}
    assert windows_again == windows


def test_a_wheel_that_cannot_be_measured_is_named_and_the_others_written(derive, rows, publish, binaries):
    b = binaries
    publish.bitsandbytes("0.50.2", "manylinux_2_24_x86_64", b.elf({".nv_fatbin": b.container(b.entry(b.CUBIN, 90))}))
    publish.bitsandbytes("0.50.1", "manylinux_2_24_x86_64", b"\x7fELF and nothing more")
    done = derive("--torch", "none")
    assert done.returncode == 1
    assert "libbitsandbytes_cuda130.so is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert [row["version"] for row in rows("bitsandbytes.json")] == ["0.50.2"]


def test_a_version_range_and_a_withdrawn_wheel(derive, rows, publish, local_index):
    publish.torch("2.14.0", "cp311-cp311-manylinux_2_28_x86_64")
    publish.torch("2.15.0", "cp311-cp311-manylinux_2_28_x86_64")
    assert derive("--bitsandbytes", "none", "--torch", "<2.15").returncode == 0
    assert [row["version"] for row in rows("torch.json")] == ["2.14.0"]
    name = "torch-2.14.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    del local_index.files[name]
    local_index.add("torch", {})
    done = derive("--bitsandbytes", "none")
    assert f"gone {name}: it is no longer on the index" in done.stdout
    assert [row["version"] for row in rows("torch.json")] == ["2.15.0", "2.14.0"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--torch", "two"), 2, "no version range"),
        (("--torch", ">=2"), 1, "knows no project torch"),
        (("--index", "http://user:secret@127.0.0.1:9/simple"), 7, "does not answer"),
    ],
)
def test_what_goes_wrong_is_said_in_one_sentence(derive, arguments, code, words):
    done = derive(*arguments)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_a_damaged_document_is_left_alone(derive, tmp_path, publish):
    publish.torch("2.14.0", "cp311-cp311-manylinux_2_28_x86_64")
    (tmp_path / "torch.json").write_text('{"rows": [{}]}')
    done = derive("--bitsandbytes", "none")
    assert done.returncode == 2
    assert "torch.json" in done.stderr
    assert (tmp_path / "torch.json").read_text() == '{"rows": [{}]}'


def test_what_is_measured_on_pytorchs_own_index_is_declared_no_more(derive, rows, publish, local_index, tmp_path):
    """The one row of 2.14.1+cu126 for Linux on x86-64; those for other platforms stay declared."""
    shutil.copy(SCRIPT.parents[1] / "matrices" / "torch-declared.json", tmp_path)
    before = rows_of(tmp_path / "torch-declared.json")
    publish.torch("2.14.1+cu126", "cp310-cp310-manylinux_2_28_x86_64", cuda="'12.6'")
    kind, page = local_index.pages.pop("torch")
    local_index.pages["cu126/torch"] = (kind, page.replace(b"../../files", b"/files"))
    local_index.pages["torch"] = (kind, b'<meta name="pypi:repository-version" content="1.0">')  # with no file
    done = derive("--bitsandbytes", "none", "--pytorch-index", f"{local_index.base}/whl")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("changed torch 2.14.1+cu126 (pytorch-index/cu126) linux x86_64: CUDA 12.6")
    (row,) = rows("torch.json")
    assert (row["index"], row["evidence"]["level"], row["arch_list"]) == ("cu126", "measured", ["sm_80", "sm_90"])
    after = rows_of(tmp_path / "torch-declared.json")
    (dropped,) = [one for one in before if one not in after]
    assert (dropped["version"], dropped["machine"]) == ("2.14.1+cu126", "x86_64")


def rows_of(path):
    return json.loads(path.read_text())["rows"]
