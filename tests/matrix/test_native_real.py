"""The readers on real wheels of the package index, against NVIDIA's cuobjdump and the rows in matrices/."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
import uv

from bnbenv.errors import BnbenvError
from bnbenv.matrix.index import index_endpoint, index_session, project_files
from bnbenv.matrix.measure import measure_torch
from bnbenv.matrix.model import BitsandbytesWheel, TorchBuild
from bnbenv.matrix.native import read_native
from bnbenv.matrix.wheel import remote_wheel

MATRICES = Path(__file__).parents[2] / "matrices"
LINUX, WINDOWS = (f"bitsandbytes-0.50.2-py3-none-{tag}.whl" for tag in ("manylinux_2_24_x86_64", "win_amd64"))

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def open_wheel():
    """Opens a wheel of the index by its file name; only the parts that are read are fetched."""
    with index_session() as session:

        def opened(filename):
            try:
                files = project_files(session, index_endpoint(os.environ), filename.partition("-")[0])
            except BnbenvError as error:
                pytest.skip(f"needs a package index: {error}")
            file = next((file for file in files if file.filename == filename), None)
            if file is None:
                pytest.skip(f"needs a package index with {filename}")
            return remote_wheel(session, file.url, filename, file.sha256)

        yield opened


@pytest.fixture(scope="module")
def cuobjdump(tmp_path_factory):
    """BNBENV_TEST_CUOBJDUMP, the one on PATH, or the one of the package nvidia-cuda-cuobjdump."""
    found = os.environ.get("BNBENV_TEST_CUOBJDUMP") or shutil.which("cuobjdump")
    if not found:
        folder = tmp_path_factory.mktemp("cuobjdump")
        command = [uv.find_uv_bin(), "pip", "install", "-q", "--target", folder, "nvidia-cuda-cuobjdump>=13.2"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        found = next((path for path in folder.glob("nvidia/*/bin/cuobjdump*")), None)
        if found is None:
            pytest.skip(f"needs cuobjdump, on PATH or from the package index: {done.stderr[-200:]}")
    return found


def committed(name, kind):
    document = msgspec.json.decode((MATRICES / name).read_bytes(), type=dict[str, msgspec.Raw])
    return msgspec.json.decode(document["rows"], type=list[kind])


# cuobjdump 13 stops half-way in the libraries for CUDA 12.0 to 12.2, so those are not asked for here.
@pytest.mark.parametrize("library", ["libbitsandbytes_cuda130.so", "libbitsandbytes_cuda118.so"])
def test_cuobjdump_lists_the_same_targets(open_wheel, cuobjdump, tmp_path, library):
    with open_wheel(LINUX) as wheel:
        data = wheel.read(f"bitsandbytes/{library}")
    (tmp_path / library).write_bytes(data)
    command = [cuobjdump, "-lelf", "-lptx", "-all", tmp_path / library]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row = read_native(data, library)
    assert set(row.sass) == set(re.findall(r"\.(sm_\w+)\.cubin$", said, re.MULTILINE))
    assert {target.replace("compute_", "sm_") for target in row.ptx} == set(
        re.findall(r"\.(sm_\w+)\.ptx$", said, re.MULTILINE)
    )


@pytest.mark.parametrize(
    ("filename", "library"), [(WINDOWS, "libbitsandbytes_cuda132.dll"), (LINUX, "libbitsandbytes_cpu.so")]
)
def test_the_matrix_says_what_the_wheel_holds(open_wheel, filename, library):
    with open_wheel(filename) as wheel:
        read = read_native(wheel.read(f"bitsandbytes/{library}"), library)
        (row,) = (row for row in committed("bitsandbytes.json", BitsandbytesWheel) if row.filename == filename)
        assert (row.sha256, row.size) == (wheel.sha256, wheel.size)
    assert [known for known in row.libraries if known.name == library] == [read]


def test_the_matrix_says_what_a_torch_wheel_holds(open_wheel):
    """2.8.0, whose list of architectures follows no NUL."""
    with open_wheel("torch-2.8.0-cp39-cp39-manylinux_2_28_x86_64.whl") as wheel:
        read = measure_torch(wheel, "default-index")
    name = read.evidence.source.partition(" ")[0]
    (row,) = (row for row in committed("torch.json", TorchBuild) if row.evidence.source.startswith(name))
    assert msgspec.structs.replace(row, pythons=read.pythons, evidence=read.evidence) == read
    assert (row.cuda, row.arch_list[0], row.arch_list[-1]) == ("12.8", "sm_70", "sm_120")
