"""Host compilers: stand-ins that say what real ones say, and the real one of this machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bnbenv.build.hostcompiler import Limits, find_host_compiler
from bnbenv.build.model import HostCompiler
from bnbenv.build.ports import Ports
from bnbenv.errors import Failed
from bnbenv.matrix.toolkits import glibc_end
from bnbenv.paths import Sysroot

CUDA_12_3 = Limits(gcc_max=12, clang_min=3, clang_max=16)
NAMES, SPECIFIERS = ("cospi", "rsqrt"), ("__NV_IEC_60559_FUNCS_EXCEPTION_SPECIFIER", "_NV_RSQRT_SPECIFIER")
DISTRIBUTIONS = {
    'ID=ubuntu\nID_LIKE="debian"\n': ("sudo apt-get install g++", "sudo apt-get install g++-12"),
    'ID="rocky"\nID_LIKE="rhel centos fedora"\n': ("sudo dnf install gcc-c++", "NVCC_CCBIN=/path/to/g++-12"),
    "ID=arch\n": ("sudo pacman -S gcc", "NVCC_CCBIN=/path/to/g++-12"),
    'ID="opensuse-leap"\nID_LIKE="suse opensuse"\n': ("sudo zypper install gcc-c++", "sudo zypper install gcc12-c++"),
    "ID=alpine\n": ("sudo apk add g++", "NVCC_CCBIN=/path/to/g++-12"),
    "": ("g++ (its package is often called gcc-c++)", "NVCC_CCBIN=/path/to/g++-12"),
}


class Machine:
    """A machine with nothing but the compilers that are put on it."""

    def __init__(self, folder: Path, bare_ports: Callable[..., Ports]) -> None:
        self.folder, self.bin, self._ports = folder, folder / "bin", bare_ports
        self.bin.mkdir()
        self.limits = CUDA_12_3

    def compiler(self, name: str, version: str, more: str = "", machine: str = "x86_64", fails: bool = False) -> Path:
        """One that predefines what gcc or clang of that version does; ``fails``: it does not know C++17."""
        major, minor, patch = version.split(".")
        macros = {"__GNUC__": major, "__GNUC_MINOR__": minor, "__GNUC_PATCHLEVEL__": patch}
        if "clang" in name:
            clang = {"__clang_major__": major, "__clang_minor__": minor, "__clang_patchlevel__": patch}
            macros = {"__GNUC__": "4", "__GNUC_MINOR__": "2", "__GNUC_PATCHLEVEL__": "1", **clang}
        lines = [f"#define {macro} {value}" for macro, value in macros.items()]
        refuse = 'case "$1" in -std=*) exit 1;; esac\n' if fails else ""
        path = self.bin / name
        printed = "\n".join([*lines, f"#define __{machine}__ 1", more])
        path.write_text(f"#!/bin/sh\n{refuse}while read -r line; do :; done\necho '{printed}'\n")
        path.chmod(0o755)
        return path

    def find(self, os_release: str = "ID=debian\n", **environ: str | None) -> tuple[HostCompiler, str]:
        (self.folder / "etc").mkdir(exist_ok=True)
        (self.folder / "etc" / "os-release").write_text(os_release)
        ports = self._ports({"PATH": str(self.bin), **environ}, sysroot=Sysroot(self.folder))
        return find_host_compiler(ports, self.limits, "12.3", "x86_64")

    def refusal(self, os_release: str = "ID=debian\n", **environ: str | None) -> Failed:
        with pytest.raises(Failed) as caught:
            self.find(os_release, **environ)
        return caught.value


@pytest.fixture
def machine(tmp_path: Path, bare_ports: Callable[..., Ports]) -> Machine:
    (tmp_path / "machine").mkdir()
    return Machine(tmp_path / "machine", bare_ports)


def test_the_usual_compiler_is_taken_if_it_is_fit(machine: Machine) -> None:
    usual = machine.compiler("c++", "11.4.0")
    machine.compiler("g++-12", "12.3.0")
    assert machine.find() == (HostCompiler(str(usual), "gcc", "11.4.0"), "")


def test_of_a_machine_whose_compiler_is_too_new_the_newest_that_is_fit_is_taken_and_said(machine: Machine) -> None:
    usual = machine.compiler("c++", "14.2.0")
    machine.compiler("g++-14", "14.2.0")
    machine.compiler("g++-9", "9.5.0")
    machine.compiler("clang++-16", "16.0.6")
    machine.compiler("aarch64-linux-gnu-g++-12", "12.3.0", machine="aarch64")  # it compiles for another machine
    machine.compiler("x86_64-linux-gnu-g++-12", "12.3.0", more="#define __INTEL_COMPILER 2021")
    machine.compiler("g++-config", "12.3.0")  # no compiler by its name
    best = machine.compiler("g++-11", "11.4.0")
    found, note = machine.find()
    assert found == HostCompiler(str(best), "gcc", "11.4.0")
    assert note == f"{best} compiles in place of {usual}: CUDA 12.3 takes gcc up to 12, and this is 14.2.0"


def test_clang_is_taken_where_no_gcc_is_fit(machine: Machine) -> None:
    machine.compiler("c++", "14.2.0")
    machine.compiler("clang++-17", "17.0.1")
    best = machine.compiler("clang++-16", "16.0.6")
    assert machine.find()[0] == HostCompiler(str(best), "clang", "16.0.6")


@pytest.mark.parametrize("release", DISTRIBUTIONS)
def test_the_command_of_the_distribution_is_named(release: str, machine: Machine) -> None:
    none, older = DISTRIBUTIONS[release]
    error = machine.refusal(release)
    assert (error.code, error.next_step) == ("no-host-compiler", f"Install it: {none}")
    machine.compiler("g++", "14.2.0")
    error = machine.refusal(release)
    assert error.code == "host-compiler-unfit" and error.next_step.endswith(older)
    assert error.message.endswith("g++: CUDA 12.3 takes gcc up to 12, and this is 14.2.0")


def test_one_that_is_too_old_or_broken_is_not_taken(machine: Machine) -> None:
    machine.compiler("g++", "4.8.5", fails=True)
    assert "gcc 7 or newer is needed for C++17, and this is 4.8.5" in machine.refusal().message
    machine.compiler("g++", "11.4.0", fails=True)
    assert "does not find the headers of C++" in machine.refusal().message
    (machine.bin / "g++").write_text("#!/nowhere/sh\n")
    assert "cannot be started" in machine.refusal().message


@pytest.mark.parametrize("variable", ["NVCC_CCBIN", "CUDAHOSTCXX", "CXX"])
def test_one_that_is_named_is_taken_or_refused_by_that_name(variable: str, machine: Machine) -> None:
    machine.compiler("c++", "11.4.0")
    named, wrong = machine.compiler("g++-9", "9.5.0"), machine.compiler("g++-14", "14.2.0")
    machine.compiler("ccache", "1.0.0")
    for value in ("g++-9", str(named), f"ccache {named}", f"{named} -m64", str(machine.bin / "gcc-9")):
        assert machine.find(**{variable: value})[0] == HostCompiler(str(named), "gcc", "9.5.0")
    error = machine.refusal(**{variable: str(wrong)})
    assert error.code == "host-compiler-unfit"
    assert error.message.startswith(f"the compiler that {variable} names cannot be used: {wrong}: CUDA 12.3 takes gcc")
    assert error.next_step == f"Unset {variable}, or let it name another compiler."
    assert machine.refusal(**{variable: "g++-77"}).message == f"{variable} names a compiler that is not there: g++-77"


def test_headers_of_a_c_library_that_contradict_those_of_the_toolkit(machine: Machine) -> None:
    """glibc 2.42 and CUDA 13.0; a compiler with a C library of its own, such as conda's, does for it."""
    newest = "#define __GLIBC__ 2\n#define __GLIBC_MINOR__ 42"
    usual = machine.compiler("g++", "12.4.0", more=newest)
    machine.compiler("g++-11", "11.4.0", more=newest)
    assert machine.find()[0].path == str(usual)  # no limit is known
    machine.limits = CUDA_12_3._replace(glibc_end=(2, 42))
    error = machine.refusal()
    assert error.code == "host-compiler-unfit"
    assert error.message.endswith("g++: the headers of CUDA 12.3 contradict those of its C library, glibc 2.42")
    assert error.next_step.startswith("Take CUDA 13.2 or newer")
    other = machine.compiler("x86_64-conda-linux-gnu-g++", "11.4.0", more=newest.replace("42", "17"))
    found, note = machine.find()
    assert found.path == str(other)
    assert note.startswith(f"{other} compiles in place of {usual}: the headers of CUDA 12.3 contradict")


def test_which_c_library_the_headers_of_a_toolkit_know() -> None:
    """As in CUDA 12.9, in 13.0 and 13.1, and from 13.2 on."""
    lines = [f"extern __DEVICE_FUNCTIONS_DECL__ __device_builtin__ double    {name}(double x)" for name in NAMES]
    known = [f"{line} {macro}" for line, macro in zip(lines, SPECIFIERS, strict=True)]
    for cospi, rsqrt, end in (
        (lines[0], lines[1], (2, 41)),
        (known[0], lines[1], (2, 42)),
        (known[0], known[1], None),
    ):
        assert glibc_end(f"/* cospi(double x); */\n{rsqrt};\n{cospi};\n__func__(double rsqrt(double a));\n") == end


def test_a_folder_may_be_named_as_nvcc_admits(machine: Machine) -> None:
    path = machine.compiler("g++", "9.5.0")
    assert machine.find(NVCC_CCBIN=str(machine.bin))[0].path == str(path)


def test_the_compiler_of_this_machine(bare_ports: Callable[..., Ports]) -> None:
    place = shutil.which("c++") or shutil.which("g++")
    if place is None:
        pytest.skip("a C++ compiler (g++) is missing")
    generous = Limits(99, None, 99)
    found, note = find_host_compiler(bare_ports({"PATH": os.environ["PATH"]}), generous, "13.0", platform.machine())
    said = subprocess.run([place, "-dumpfullversion"], check=True, capture_output=True, text=True, timeout=60).stdout
    assert (found.path, note) == (place, "")
    assert found.kind == "clang" or found.version == said.strip()
