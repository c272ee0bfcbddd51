"""The first real error in a log, and what is known about it. Lines as the compilers of real builds printed them."""

from __future__ import annotations

import time

import pytest

from bnbenv.build.failed import first_failure, out_of_memory

NINJA = (
    "[3/9] Building CUDA object a.o\nFAILED: [code=1] CMakeFiles/bitsandbytes.dir/csrc/ops.cu.o \n/x/nvcc -o x -c y\n"
)

KNOWN = {
    "nvcc": (
        NINJA + '/t/ops.cu(12): warning #177-D: variable "error" was declared but never referenced\n'
        '/t/ops.cu(14): error: identifier "foo" is undefined\n      foo(1);\n      ^\n\n'
        '1 error detected in the compilation of "/t/ops.cu".\nninja: build stopped: subcommand failed.\n',
        '/t/ops.cu(14): error: identifier "foo" is undefined',
        "",
    ),
    "end of a file": (
        NINJA + 'At end of source: error: expected a "}"\n\n1 error detected in the compilation of "ops.cu".\n',
        'At end of source: error: expected a "}"',
        "",
    ),
    "gcc": (
        "In file included from a.h:3,\n                 from b.cpp:1:\n"
        "a.h:7:5: warning: unused variable [-Wunused-variable]\n"
        "\x1b[01m\x1b[Kb.cpp:9:1:\x1b[m\x1b[K \x1b[01;31m\x1b[Kerror: \x1b[m\x1b[K'x' was not declared in this scope\n",
        "b.cpp:9:1: error: 'x' was not declared in this scope",
        "",
    ),
    "header": (
        "b.cpp:1:10: fatal error: foo/bar.h: No such file or directory\n    1 | #include <foo/bar.h>\n",
        "b.cpp:1:10: fatal error: foo/bar.h: No such file or directory",
        "missing-header",
    ),
    "header of the system": (
        "/t/cuda_runtime.h:12:10: fatal error: stdlib.h: No such file or directory\ncompilation terminated.\n",
        "/t/cuda_runtime.h:12:10: fatal error: stdlib.h: No such file or directory",
        "missing-header",
    ),
    "header of the toolkit": (
        NINJA + "/t/ops.cuh:18:10: fatal error: cublas_v2.h: No such file or directory\n",
        "/t/ops.cuh:18:10: fatal error: cublas_v2.h: No such file or directory",
        "toolkit-incomplete",
    ),
    "too new": (
        "In file included from /u/cuda_runtime.h:82,\n                 from <command-line>:\n"
        "/u/crt/host_config.h:143:2: error: #error -- unsupported GNU version! gcc versions later than 12 are not"
        " supported! The nvcc flag '-allow-unsupported-compiler' can be used\n",
        "/u/crt/host_config.h:143:2: error: #error -- unsupported GNU version! gcc versions later than 12 are not"
        " supported! The nvcc flag '-allow-unsupported-compiler' can be used",
        "host-compiler-too-new",
    ),
    "C library too new": (
        "/usr/include/bits/mathcalls.h(79): error: exception specification is incompatible with that of previous"
        ' function "cospi" (declared at line 2601 of /u/crt/math_functions.h)\n',
        "/usr/include/bits/mathcalls.h(79): error: exception specification is incompatible with that of previous"
        ' function "cospi" (declared at line 2601 of /u/crt/math_functions.h)',
        "c-library-too-new",
    ),
    "C library too new, in lines of 80 columns": (
        "/usr/include/bits/mathcalls.h(206): error: exception\n  specification is incompatible with that of previous"
        ' function "rsqrt(double)"\n  (declared at line 629 of /u/crt/math_functions.h)\n',
        "/usr/include/bits/mathcalls.h(206): error: exception",
        "c-library-too-new",
    ),
    "clang too new": (
        "/u/crt/host_config.h:151:2: error: #error -- unsupported clang version! clang version must be less than 16\n",
        "/u/crt/host_config.h:151:2: error: #error -- unsupported clang version! clang version must be less than 16",
        "host-compiler-too-new",
    ),
    "a source older than this CUDA": (
        NINJA + '/t/kernels.cu(46): error: namespace "cub" has no member "Sum"\n',
        '/t/kernels.cu(46): error: namespace "cub" has no member "Sum"',
        "cuda-version",
    ),
    "too old": (
        "g++: error: unrecognized command line option '-std=gnu++17'\n",
        "g++: error: unrecognized command line option '-std=gnu++17'",
        "host-compiler-too-old",
    ),
    "architecture": (
        "nvcc fatal   : Unsupported gpu architecture 'compute_52'\n",
        "nvcc fatal   : Unsupported gpu architecture 'compute_52'",
        "unsupported-architecture",
    ),
    "killed": (
        NINJA + "nvcc error   : 'cicc' died due to signal 9 (Kill signal)\n",
        "nvcc error   : 'cicc' died due to signal 9 (Kill signal)",
        "out-of-memory",
    ),
    "killed host compiler": (
        "c++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.\n",
        "c++: fatal error: Killed signal terminated program cc1plus",
        "out-of-memory",
    ),
    "full": (
        "{standard input}: Assembler messages:\n{standard input}: Fatal error: can't write 14 bytes to section .text of"
        " x.o: 'No space left on device'\n",
        "{standard input}: Fatal error: can't write 14 bytes to section .text of x.o: 'No space left on device'",
        "no-space",
    ),
    "library": (
        "/usr/bin/ld: cannot find -lcublas: No such file or directory\ncollect2: error: ld returned 1 exit status\n",
        "/usr/bin/ld: cannot find -lcublas: No such file or directory",
        "toolkit-incomplete",
    ),
    "undefined": (
        "/usr/bin/ld: a.o: in function `run':\na.cpp:(.text+0x5): undefined reference to `nowhere'\n"
        "collect2: error: ld returned 1 exit status\n",
        "a.cpp:(.text+0x5): undefined reference to `nowhere'",
        "undefined-symbol",
    ),
    "assembler": (
        "ptxas /tmp/a.ptx, line 36; error   : Feature '.bf16' requires .target sm_80 or higher\n"
        "ptxas fatal   : Ptx assembly aborted due to errors\n",
        "ptxas /tmp/a.ptx, line 36; error   : Feature '.bf16' requires .target sm_80 or higher",
        "",
    ),
    "CMake": (
        "-- Configuring bitsandbytes\nCMake Error at CMakeLists.txt:156 (message):\n"
        "  CUDA Version > 13 is not supported\n\n\n-- Configuring incomplete, errors occurred!\n",
        "CUDA Version > 13 is not supported (CMakeLists.txt:156)",
        "cuda-version",
    ),
    "old CMake": (
        "CMake Error at CMakeLists.txt:20 (cmake_minimum_required):\n"
        "  CMake 3.22.1 or higher is required.  You are running version 3.16.3\n\n",
        "CMake 3.22.1 or higher is required. (CMakeLists.txt:20)",
        "cmake-too-old",
    ),
    "a compiler that CMake quotes": (
        "CMake Error at /c/CMakeDetermineCompilerId.cmake:909 (message):\n"
        '  Compiling the CUDA compiler identification source file\n  "CMakeCUDACompilerId.cu" failed.\n\n'
        "  In file included from /u/cuda_runtime.h:82,\n\n"
        "  /u/crt/host_config.h:143:2: error: #error -- unsupported GNU version! gcc versions later than 12 are not"
        " supported!\n\nCall Stack (most recent call first):\n  /c/Other.cmake:8 (x)\n",
        "/u/crt/host_config.h:143:2: error: #error -- unsupported GNU version! gcc versions later than 12 are not"
        " supported!",
        "host-compiler-too-new",
    ),
    "a line that CMake breaks": (
        "CMake Error at /c/CMakeDetermineCompilerId.cmake:966 (message):\n"
        '  Compiling the CUDA compiler identification source file\n  "CMakeCUDACompilerId.cu" failed.\n\n'
        "  <built-in>: fatal error: when writing output to\n  tmp/CMakeCUDACompilerId.cpp4.ii: No space left on"
        " device\n\n  compilation terminated.\n\n\n-- Configuring incomplete, errors occurred!\n",
        "<built-in>: fatal error: when writing output to tmp/CMakeCUDACompilerId.cpp4.ii: No space left on device",
        "no-space",
    ),
    "Ninja": (
        "ninja: error: '/t/csrc/gone.cu', needed by 'gone.o', missing and no known rule to make it\n",
        "ninja: error: '/t/csrc/gone.cu', needed by 'gone.o', missing and no known rule to make it",
        "",
    ),
}


@pytest.mark.parametrize("log, error, cause", KNOWN.values(), ids=KNOWN)
def test_the_first_real_error_and_its_cause(log: str, error: str, cause: str) -> None:
    failure = first_failure(log)
    assert failure is not None
    assert (failure.error, failure.cause) == (error, cause)
    assert bool(failure.next_step) == bool(cause)
    assert out_of_memory(log) == (cause == "out-of-memory")


def test_a_next_step_names_the_versions_of_the_log() -> None:
    log, _, _ = KNOWN["too new"]
    failure = first_failure(log)
    assert failure is not None and "g++-12" in failure.next_step
    assert failure.around.startswith("In file included from")
    log, _, _ = KNOWN["old CMake"]
    failure = first_failure(log)
    assert failure is not None and "3.22.1" in failure.next_step and "3.16.3" in failure.next_step


@pytest.mark.parametrize(
    "log",
    [
        "",
        "[1/3] Building CUDA object csrc/error.cu.o\n[2/3] Linking CXX shared library\n",
        "/t/ops.cu(1): warning #20: the word error: in a warning\n-- Performing Test error: - Failed\n",
    ],
)
def test_no_error_where_there_is_none(log: str) -> None:
    assert first_failure(log) is None and not out_of_memory(log)


@pytest.mark.parametrize(
    "line", ["a" * 900, "a:1" * 300, "ptxas " * 150, "a(1)" * 250, "/a.b-" * 180, "sh: " + "x: " * 290]
)
def test_a_hostile_log_takes_no_time(line: str) -> None:
    began = time.process_time()
    first_failure(f"{line}\n" * (32_000_000 // len(line)))
    assert time.process_time() - began < 5
