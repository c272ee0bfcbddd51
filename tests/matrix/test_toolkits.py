"""What a CUDA toolkit compiles and which host compilers it takes: the readers, and the script against an index here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bnbenv.errors import Failed
from bnbenv.matrix.load import ToolkitTable, load_matrix
from bnbenv.matrix.toolkits import compile_targets, host_compilers, tool_version

SCRIPT = Path(__file__).parents[2] / "scripts" / "derive_toolkits.py"

# Written after the shape of the header in the packages of CUDA 11.8 to 13.5.
HEADER = """\
#if defined(__HORIZON__)
#if (__clang_major__ >= 14) || (__clang_major__ < 3) || ((__clang_major__ == 3) &&  (__clang_minor__ < 3))
#error -- unsupported HOS clang version! The version must be less than 14.
#endif
#endif
#if __GNUC__ > 14

#error -- unsupported GNU version! gcc versions later than 14 are not supported!

#endif
#if (__clang_major__ >= 20) || (__clang_major__ < 3) || ((__clang_major__ == 3) &&  (__clang_minor__ < 3))
#error -- unsupported clang version! clang version must be less than 20 and greater than 3.2 .

#endif
#if _MSC_VER < 1910 || _MSC_VER >= 1950

#error -- unsupported Microsoft Visual Studio version!

#elif _MSC_VER >= 1910 && _MSC_VER < 1910
#endif
"""
HELP = "Allowed values: 'compute_120','compute_90','sm_120','sm_90','sm_90a'. Default value: 'sm_52'."
PTXAS = f"""#!/bin/sh
case $1 in
--version) echo 'Cuda compilation tools, release 12.8, V12.8.93';;
--help) echo "{HELP}";;
esac
"""


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_header_names_the_limits(ending: str) -> None:
    limits = host_compilers(HEADER.replace("\n", ending))
    assert limits == (14, 3, 19, 1910, 1950)


def test_a_limit_that_is_not_named_is_unknown() -> None:
    text = HEADER.replace("__GNUC__ >", "__GNUC__ !=").replace("_MSC_VER <", "_MSC_VER !=")
    limits = host_compilers(text)
    assert (limits.gcc_max, limits.clang_max, limits.msc_end) == (None, 19, None)


def test_another_text_is_no_header() -> None:
    for read in (host_compilers, compile_targets, tool_version):
        with pytest.raises(Failed) as caught:
            read("#include <stdio.h>")
        assert caught.value.code == "bad-toolkit"


def test_targets_are_told_apart_and_in_order() -> None:
    assert compile_targets(HELP) == (("sm_52", "sm_90", "sm_90a", "sm_120"), ("compute_90", "compute_120"))


@pytest.mark.parametrize(
    ("cuda", "oldest", "newest", "gcc"),
    [("11.8", "sm_35", "sm_90", 11), ("12.8", "sm_50", "sm_120a", 14), ("13.0", "sm_75", "sm_121f", 15)],
)
def test_what_the_toolkits_compile(cuda: str, oldest: str, newest: str, gcc: int) -> None:
    (row,) = [row for row in load_matrix().toolkits if row.cuda == cuda]
    assert (row.sass[0], row.sass[-1], row.gcc_max) == (oldest, newest, gcc)


@pytest.fixture
def publish(local_index, make_zip):
    def published(project: str, version: str, members: dict[str, str]) -> None:
        name = project.replace("-", "_")
        wheel = make_zip({f"nvidia/{path}": text.encode() for path, text in members.items()})
        local_index.files[f"{name}-{version}-py3-none-manylinux2014_x86_64.whl"] = wheel
        page = [file for file in local_index.files if file.startswith(f"{name}-")]
        links = "".join(f'<a href="../../files/{file}#sha256={local_index.sha256(file)}">{file}</a>' for file in page)
        local_index.pages[project] = ("text/html", f"<!DOCTYPE html><html><body>{links}</body></html>".encode())

    return published


@pytest.fixture
def derive(local_index, publish, tmp_path):
    for project in ("nvidia-cuda-nvcc-cu11", "nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvcc", "nvidia-cuda-crt"):
        publish(project, "11.0.1", {})  # older than what is measured

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, SCRIPT, "--index", local_index.endpoint, "--out", tmp_path, *arguments]
        return subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=60, env={**os.environ, "NO_PROXY": "*"}
        )

    return run


@pytest.mark.skipif(sys.platform == "win32", reason="needs a system that runs a shell script as a program")
def test_the_newest_package_of_a_release_is_measured(derive, publish, tmp_path) -> None:
    publish("nvidia-cuda-nvcc-cu12", "12.8.61", {"bin/ptxas": "#!/bin/false\n", "include/crt/host_config.h": HEADER})
    publish("nvidia-cuda-nvcc-cu12", "12.8.93", {"bin/ptxas": PTXAS, "include/crt/host_config.h": HEADER})
    done = derive()
    assert (done.returncode, done.stdout) == (0, "added    12.8: sm_52 sm_90 sm_90a sm_120\n"), done.stderr
    (row,) = msgspec.json.decode((tmp_path / "toolkits.json").read_bytes(), type=ToolkitTable).rows
    assert (row.cuda, row.ptxas, row.clang_max, row.evidence.level) == ("12.8", "12.8.93", 19, "measured")
    assert "nvidia_cuda_nvcc_cu12-12.8.93-" in row.evidence.source
    again = derive()
    assert (again.returncode, again.stdout) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a system that runs a shell script as a program")
def test_headers_of_another_version_are_not_taken(derive, publish, tmp_path) -> None:
    publish("nvidia-cuda-nvcc", "13.0.88", {"cu13/bin/ptxas": PTXAS})
    publish("nvidia-cuda-crt", "13.0.48", {"cu13/include/crt/host_config.h": HEADER})
    done = derive()
    assert done.returncode == 1
    assert "there is no nvidia-cuda-crt 13.0.88" in done.stderr
    assert not (tmp_path / "toolkits.json").exists()
    publish("nvidia-cuda-crt", "13.0.88", {"cu13/include/crt/host_config.h": HEADER})
    assert derive().returncode == 0
