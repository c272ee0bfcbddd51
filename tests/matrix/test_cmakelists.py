"""What a CMakeLists.txt says of what compiles it."""

from __future__ import annotations

import pytest

from bnbenv.matrix.cmakelists import CmakeLists, read_cmakelists

# The lines that count in upstream's file, as it has stood since 0.48.0.
UPSTREAM = """\
#  - COMPUTE_CAPABILITY: Which GPU Arch/Compute codes to provide to NVCC.
cmake_minimum_required(VERSION 3.22.1)
project(bitsandbytes LANGUAGES CXX)
set(COMPUTE_BACKEND "cpu" CACHE STRING "The compute backend to use (cpu, cuda, hip, xpu)")
    # It should match the discovered version
    if(NOT CUDA_VERSION STREQUAL "${CUDA_VERSION_SHORT}")
        message(FATAL_ERROR "You've specified CUDA version ${CUDA_VERSION} however the CUDA compiler found is another.")
    endif()

    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS "11.8")
        message(FATAL_ERROR "CUDA Version < 11.8 is not supported")
    elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL "14.0")
        message(FATAL_ERROR "CUDA Version > 13 is not supported")
    endif()
        if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL "13.0")
            list(APPEND CMAKE_CUDA_ARCHITECTURES_ALL 75 80 86 87 88 89 90 100 103 110 120 121)
        endif()
    set(COMPUTE_CAPABILITY "${POSSIBLE_CAPABILITIES}" CACHE STRING "Compute Capabilities Targeted")
"""


def test_upstreams_file_says_which_cuda_compiles_it() -> None:
    assert read_cmakelists(UPSTREAM) == CmakeLists("bitsandbytes", "3.22.1", "11.8", "14.0", capability=True)


@pytest.mark.parametrize(
    ("old", "new", "field", "value"),
    [
        ("project(bitsandbytes LANGUAGES CXX)", 'PROJECT ( "other" )', "project", "other"),
        ("project(bitsandbytes LANGUAGES CXX)", "", "project", None),
        ("cmake_minimum_required(", "cmake_minimum_required\n  (", "cmake", "3.22.1"),
        ("cmake_minimum_required", "# cmake_minimum_required", "cmake", None),
        ('"14.0"', "14", "cuda_end", "14.0"),
        ('VERSION_LESS "11.8"', 'VERSION_LESS "11.8.0"', "cuda_min", "11.8"),
        ("    if(CMAKE_CUDA_COMPILER_VERSION", "    #[[a note]] if(CMAKE_CUDA_COMPILER_VERSION", "cuda_min", "11.8"),
        ('message(FATAL_ERROR "CUDA Version < 11.8', 'message(WARNING "CUDA Version < 11.8', "cuda_min", None),
        ('message(FATAL_ERROR "CUDA Version > 13', 'message(STATUS "CUDA Version > 13', "cuda_end", None),
        ("set(COMPUTE_CAPABILITY", "set(ARCHITECTURES", "capability", False),
        ("    # It should", '    set(COLOUR "#")  # "', "cuda_min", "11.8"),
    ],
)
def test_only_what_cmake_would_do_counts(old: str, new: str, field: str, value: object) -> None:
    assert old in UPSTREAM
    assert getattr(read_cmakelists(UPSTREAM.replace(old, new)), field) == value


def test_of_another_file_nothing_is_known() -> None:
    assert read_cmakelists("all:\n\tmake -C src\n") == CmakeLists(None, None, None, None, capability=False)
