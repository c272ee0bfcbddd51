"""The dynamic linker, simulated, held against the real one."""

from __future__ import annotations

import ctypes.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bnbenv.doctor.examine.disk import Disk
from bnbenv.doctor.examine.ldcache import hwcaps, parse_cache
from bnbenv.doctor.examine.linker import Process, Resolved, resolve
from bnbenv.doctor.examine.linking import Linker, Search
from bnbenv.doctor.model import Torch
from bnbenv.facts.model import Driver, HostFacts, Libc
from bnbenv.facts.model import Platform as HostPlatform
from bnbenv.paths import Sysroot

MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
LOADER = {"x86_64": "/lib64/ld-linux-x86-64.so.2", "aarch64": "/lib/ld-linux-aarch64.so.1"}.get(MACHINE, "")
LISTED = re.compile(r"\s*(\S+) => (.+?)(?: \(0x[0-9a-f]+\))?")
MOST = 250  # real libraries that are compared
# Opens each library that is named, in order, then says what of a folder is in the process.
OPEN = """\
import ctypes, sys
folder, *paths = sys.argv[1:]
try:
    for path in paths:
        ctypes.CDLL(path)
except OSError as error:
    print("OSError", error)
else:
    words = {line.split()[-1] for line in open("/proc/self/maps") if folder in line}
    print("\\n".join(sorted(words)))
"""

pytestmark = pytest.mark.skipif(
    not LOADER or not Path(LOADER).exists() or platform.libc_ver()[0] != "glibc",
    reason="the dynamic linker of glibc is missing: this is no Linux on x86-64 or aarch64 with it",
)


def host() -> HostFacts:
    libc = Libc("glibc", platform.libc_ver()[1])
    return HostFacts(HostPlatform("linux", MACHINE, libc), Driver("absent"), ())


def clean_environment(**changes: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("LD_")} | changes


def system_search() -> Search:
    cpu = hwcaps(Path("/proc/cpuinfo").read_text())
    try:
        cache = parse_cache(Path("/etc/ld.so.cache").read_bytes(), MACHINE, cpu)
    except OSError:
        cache = None
    folders = (f"/lib/{MACHINE}-linux-gnu", f"/usr/lib/{MACHINE}-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
    return Search(cache=cache, defaults=folders, levels=cpu)


def real_libraries() -> list[str]:
    """Libraries and programs of this machine that are found whatever is installed on it."""
    libc = ctypes.util.find_library("c")
    assert libc is not None
    modules = sorted(Path(os.__file__).parent.glob("lib-dynload/*.so"))
    folders = [Path(f"/usr/lib/{MACHINE}-linux-gnu"), Path("/usr/lib64"), Path("/usr/bin"), Path("/usr/sbin")]
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    found = []
    for path in [*modules, *files]:
        if not path.is_symlink() and path.is_file() and os.access(path, os.R_OK):
            with path.open("rb") as stream:
                if stream.read(4) == b"\x7fELF":
                    found.append(str(path))
    return found[:: max(1, len(found) // MOST)]


def listed(path: str, environment: dict[str, str]) -> dict[str, str | None]:
    """What the real linker finds for a file, by name; null where it finds nothing."""
    done = subprocess.run(
        [LOADER, "--list", path], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    matches = [LISTED.fullmatch(line) for line in done.stdout.splitlines()]
    return {match[1]: None if match[2] == "not found" else match[2] for match in matches if match}


def test_every_path_is_that_of_the_real_linker_over_a_hundred_libraries() -> None:
    disk, search, environment = Disk(Sysroot(), MACHINE, ()), system_search(), clean_environment()
    libraries, paths = real_libraries(), 0
    if len(libraries) < 100:
        pytest.skip(f"only {len(libraries)} libraries and programs were found on this machine")
    for library in libraries:
        real = listed(library, environment)
        mine = {one.soname: one.path for one in Linker(disk, search).start(library)}
        mine = {name: path for name, path in mine.items() if path != LOADER and not (path or "").endswith(LOADER)}
        assert {name: mine.get(name) for name in real} == real, library
        paths += len(real)
    assert paths > 100


@dataclass(frozen=True)
class Workshop:
    """Compiles tiny libraries: no real one has all these ways at once."""

    compiler: str
    folder: Path

    def make(self, place: str, needs: tuple[str, ...] = (), *options: str, code: str = "") -> Path:
        """A library at a place below the folder; ``needs`` are places of others, linked by their file name."""
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        source = path.with_suffix(".c")
        source.write_text(code or f"int {re.sub('[^a-z0-9]', '_', path.stem.lower())}_is_here;\n")
        needed = [word for need in needs for word in (f"-L{(self.folder / need).parent}", f"-l:{Path(need).name}")]
        link = ["-nostdlib", "-shared", "-fPIC", "-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"]
        words = [self.compiler, *link, f"-Wl,-soname,{path.name}", *options, "-o", str(path), str(source), *needed]
        subprocess.run(words, check=True, timeout=60)
        source.unlink()
        return path

    def opens(self, *libraries: Path, **changes: str) -> set[str] | str:
        """What of the folder is in a real Python process that opened them, or the words of its error."""
        words = [sys.executable, "-c", OPEN, str(self.folder), *map(str, libraries)]
        done = subprocess.run(
            words, env=clean_environment(**changes), capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.strip() if done.stdout.startswith("OSError") else set(done.stdout.split())

    def resolved(self, library: Path, torch: Torch | None = None, **changes: str) -> Resolved:
        search = (str(self.folder / "site"),)
        return resolve(library, Process(host(), changes, Sysroot(), sys.executable, sys.prefix, search, torch))

    def found(self, resolved: Resolved) -> set[str]:
        paths = {os.path.realpath(one.path) for one in resolved.linked if one.path}
        return {path for path in paths if path.startswith(f"{self.folder}{os.sep}")}


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler (gcc) is missing")
    return Workshop(compiler, Path(os.path.realpath(tmp_path)))


OLD, NEW = "-Wl,--disable-new-dtags", "-Wl,--enable-new-dtags"


def rpath_serves_what_its_needs_need(w: Workshop) -> Path:
    w.make("lib/liblast.so")
    w.make("lib/libmiddle.so", ("lib/liblast.so",))
    return w.make("top/libtop.so", ("lib/libmiddle.so",), OLD, "-Wl,-rpath,$ORIGIN/../lib")


def runpath_serves_its_own_needs_alone(w: Workshop) -> Path:
    w.make("lib/liblast.so")
    w.make("lib/libmiddle.so", ("lib/liblast.so",))
    return w.make("top/libtop.so", ("lib/libmiddle.so",), NEW, "-Wl,-rpath,$ORIGIN/../lib")


def a_runpath_in_between_ends_the_rpath(w: Workshop) -> Path:
    w.make("lib/liblast.so")
    w.make("lib/libmiddle.so", ("lib/liblast.so",), NEW, "-Wl,-rpath,$ORIGIN/nowhere")
    return w.make("top/libtop.so", ("lib/libmiddle.so",), OLD, "-Wl,-rpath,$ORIGIN/../lib")


def rpath_comes_before_the_variable(w: Workshop) -> Path:
    w.make("variable/liblast.so")
    w.make("lib/liblast.so")
    return w.make("top/libtop.so", ("lib/liblast.so",), OLD, "-Wl,-rpath,${ORIGIN}/../lib")


def the_variable_comes_before_runpath(w: Workshop) -> Path:
    w.make("variable/liblast.so")
    w.make("lib/liblast.so")
    return w.make("top/libtop.so", ("lib/liblast.so",), NEW, "-Wl,-rpath,$ORIGIN/../lib")


def another_machines_library_is_passed_over(w: Workshop) -> Path:
    wrong = w.make("variable/liblast.so")
    data = bytearray(wrong.read_bytes())
    data[18] = 40  # 32-bit ARM
    wrong.write_bytes(data)
    w.make("lib/liblast.so")
    return w.make("top/libtop.so", ("lib/liblast.so",), NEW, "-Wl,-rpath,$ORIGIN/../lib")


def a_better_cpu_has_its_own_folder(w: Workshop) -> Path:
    for level in ("x86-64-v2/", "x86-64-v3/", "x86-64-v4/", "x86-64-v9/"):
        w.make(f"lib/glibc-hwcaps/{level}liblast.so")
    w.make("lib/liblast.so")
    return w.make("top/libtop.so", ("lib/liblast.so",), NEW, "-Wl,-rpath,$ORIGIN/../lib")


def one_file_with_two_names_is_loaded_once(w: Workshop) -> Path:
    w.make("lib/libone.so.1", (), "-Wl,-soname,libone.so.1")
    (w.folder / "lib/libone.so").symlink_to("libone.so.1")
    w.make("lib/libother.so", ("lib/libone.so.1",))
    return w.make("top/libtop.so", ("lib/libother.so", "lib/libone.so"), OLD, "-Wl,-rpath,$ORIGIN/../lib")


@pytest.mark.parametrize(
    "build",
    [
        rpath_serves_what_its_needs_need,
        runpath_serves_its_own_needs_alone,
        a_runpath_in_between_ends_the_rpath,
        rpath_comes_before_the_variable,
        the_variable_comes_before_runpath,
        another_machines_library_is_passed_over,
        a_better_cpu_has_its_own_folder,
        one_file_with_two_names_is_loaded_once,
    ],
)
def test_the_ways_of_the_linker(workshop: Workshop, build: Callable[[Workshop], Path]) -> None:
    library = build(workshop)
    variable = str(workshop.folder / "variable")
    real = workshop.opens(library, LD_LIBRARY_PATH=variable)
    resolved = workshop.resolved(library, torch=no_torch(workshop), LD_LIBRARY_PATH=variable)
    if isinstance(real, str):
        (missing,) = [one for one in resolved.linked if one.answer == "no"]
        assert missing.path is None and real.startswith(f"OSError {missing.soname}: cannot open shared object file")
    else:
        assert [one for one in resolved.linked if one.answer != "yes"] == []
        assert workshop.found(resolved) == real - {str(library)}


# A program as conda builds its Python: what it opens finds its libraries by the program's own RPATH.
PROGRAM = """\
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **words) {
    if (!dlopen(words[1], RTLD_NOW)) { printf("OSError %s\\n", dlerror()); return 0; }
    char line[4096];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps)) fputs(line, stdout);
    return 0;
}
"""


@pytest.mark.parametrize("tags", [OLD, NEW])
def test_a_programs_rpath_serves_all_that_it_opens_and_its_runpath_does_not(workshop: Workshop, tags: str) -> None:
    workshop.make("lib/liblast.so")
    middle = workshop.make("packages/libmiddle.so", ("lib/liblast.so",))
    library = workshop.make("packages/libtop.so", ("packages/libmiddle.so",), NEW, "-Wl,-rpath,$ORIGIN")
    program, source = workshop.folder / "bin" / "program", workshop.folder / "program.c"
    program.parent.mkdir()
    source.write_text(PROGRAM)
    words = [workshop.compiler, "-o", program, source, tags, "-Wl,-rpath,$ORIGIN/../lib", "-ldl"]
    subprocess.run(words, check=True, timeout=60)
    run = [program, library]
    said = subprocess.run(run, env=clean_environment(), capture_output=True, text=True, timeout=60, check=True).stdout
    linker = Linker(Disk(Sysroot(), MACHINE, ()), system_search())
    assert [one for one in linker.start(str(program)) if one.answer != "yes"] == []
    needs = {one.soname: one for one in linker.load(str(library), linker.objects[0])}
    assert needs["libmiddle.so"].path == str(middle)
    if tags == OLD:
        assert needs["liblast.so"].via == "rpath" and os.path.realpath(needs["liblast.so"].path or "") in said
    else:
        assert needs["liblast.so"].answer == "no" and said.startswith("OSError liblast.so: cannot open")


def test_a_program_with_a_glibc_of_its_own_does_not_get_the_systems_libraries(workshop: Workshop) -> None:
    """As Nix has it. The same library gets them in a program of the system."""
    source, program = workshop.folder / "program.c", workshop.folder / "python3"
    source.write_text("int main(void) { return 0; }\n")
    own = "-Wl,--dynamic-linker=/nix/store/none-glibc-2.40/lib/ld-linux-x86-64.so.2"
    subprocess.run([workshop.compiler, "-o", program, source, own], check=True, timeout=60)
    library = workshop.make("lib/libtop.so", (), "-l:libm.so.6")
    facts, torch = host(), no_torch(workshop)
    for python, expected in ((str(program), "no"), (sys.executable, "yes")):
        linked = resolve(library, Process(facts, {}, Sysroot(), python, torch=torch)).linked
        assert {one.soname: one.answer for one in linked}["libm.so.6"] == expected


def no_torch(workshop: Workshop) -> Torch:
    """A torch that loads nothing, so that what is not found is known not to be there."""
    folder = workshop.folder / "nothing" / "torch"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text("")
    return Torch(path=str(folder), version="2.13.0")


@pytest.mark.parametrize(("content", "words"), [(b"", "empty"), (b"no library\n" * 20, "no ELF file")])
def test_a_file_that_is_no_library_stops_the_linker(workshop: Workshop, content: bytes, words: str) -> None:
    library = the_variable_comes_before_runpath(workshop)
    (workshop.folder / "variable/liblast.so").write_bytes(content)
    variable = str(workshop.folder / "variable")
    real = workshop.opens(library, LD_LIBRARY_PATH=variable)
    assert isinstance(real, str) and "liblast.so: " in real
    (one,) = workshop.resolved(library, LD_LIBRARY_PATH=variable).linked
    assert (one.answer, one.path) == ("no", None) and words in one.because and variable in one.because


def test_what_is_preloaded_counts_as_loaded(workshop: Workshop) -> None:
    library = the_variable_comes_before_runpath(workshop)
    other = str(workshop.folder / "variable/liblast.so")
    assert workshop.opens(library, LD_PRELOAD=other) == {str(library), other}
    (one,) = workshop.resolved(library, LD_PRELOAD=f"/nowhere/libx.so {other}").linked
    assert (one.path, one.via) == (other, "loaded")


def test_without_a_torch_that_can_be_read_a_missing_library_is_unknown(workshop: Workshop) -> None:
    library = runpath_serves_its_own_needs_alone(workshop)
    resolved = workshop.resolved(library, torch=Torch(path="/nowhere/torch", fault="its version.py is missing"))
    assert {one.soname: one.answer for one in resolved.linked} == {"libmiddle.so": "yes", "liblast.so": "unknown"}
    assert [one.fact for one in resolved.unknown] == ["linked.torch"]
    assert "version.py is missing" in resolved.unknown[0].reason


def test_a_tree_without_the_systems_libraries_says_nothing_is_missing(workshop: Workshop, tmp_path: Path) -> None:
    library = runpath_serves_its_own_needs_alone(workshop)
    (tmp_path / "root").mkdir()
    process = Process(host(), {}, Sysroot(tmp_path / "root"), sys.executable, torch=no_torch(workshop))
    assert {one.answer for one in resolve(library, process).linked} == {"yes", "unknown"}


@pytest.mark.parametrize(("system", "libc"), [("macos", None), ("linux", Libc("musl", "1.2.4"))])
def test_other_linkers_are_unknown(system: str, libc: Libc | None, tmp_path: Path) -> None:
    facts = HostFacts(HostPlatform(system, MACHINE, libc), Driver("absent"), ())
    resolved = resolve(tmp_path / "library.so", Process(facts, {}, Sysroot()))
    assert resolved.linked == () and len(resolved.unknown) == 1


# ---- versions and symbols --------------------------------------------------------------------------------------


def test_a_library_that_needs_a_newer_glibc_is_refused_as_the_real_loader_does(
    workshop: Workshop, raised_glibc: Any
) -> None:
    libraries = [Path(path) for path in real_libraries() if ".so" in Path(path).name]
    fits = (path for path in libraries if re.search(rb"\0GLIBC_2\.[0-9.]{2,}\0", path.read_bytes()))
    source = next(fits, None)
    assert source is not None
    library = raised_glibc(source, workshop.folder / "libraised.so")
    real = workshop.opens(library)
    assert isinstance(real, str) and "version `GLIBC_2.99' not found (required by" in real
    lacking = [one for one in workshop.resolved(library).linked if one.lacks]
    assert lacking and {one.lacks for one in lacking} == {("GLIBC_2.99",)}
    assert any(f"{one.path}: version" in real for one in lacking)


JIT = "libnvJitLink.so.12"


def jit_link(w: Workshop, place: str, release: str, *options: str) -> Path:
    """A stand-in for NVIDIA's library: its symbols carry a release, and their version does not."""
    script = w.folder / "versions"
    script.write_text(f"{JIT} {{ global: *; }};\n")
    code = f"int __nvJitLinkComplete_{release}(void) {{ return 0; }}\n"
    return w.make(f"{place}/{JIT}", (), f"-Wl,--version-script={script}", *options, code=code)


def cusparse(w: Workshop) -> Path:
    """One that needs the release 12.4, which lies beside it as in the packages of CUDA 12."""
    jit_link(w, "site/nvidia/nvjitlink/lib", "12_4")
    code = "int __nvJitLinkComplete_12_4(void);\nint sparse(void) { return __nvJitLinkComplete_12_4(); }\n"
    runpath = (NEW, "-Wl,-rpath,$ORIGIN:$ORIGIN/../../nvjitlink/lib")
    needs = (f"site/nvidia/nvjitlink/lib/{JIT}",)
    return w.make("site/nvidia/cusparse/lib/libcusparse.so.12", needs, *runpath, code=code)


@pytest.mark.parametrize("table", ["gnu", "sysv"])
def test_an_older_copy_on_the_variable_lacks_a_symbol_of_the_packages(workshop: Workshop, table: str) -> None:
    library, variable = cusparse(workshop), str(workshop.folder / "cuda-12.1/lib64")
    for package in ("nvjitlink_cu12-12.4.127", "nvjitlink-13.0.88", "nvjitlink_cu11-11.8.1", "nccl_cu12-12.0"):
        (workshop.folder / f"site/nvidia_{package}.dist-info").mkdir()
    assert isinstance(workshop.opens(library), set)
    jit_link(workshop, "cuda-12.1/lib64", "12_1", f"-Wl,--hash-style={table}")
    real = workshop.opens(library, LD_LIBRARY_PATH=variable)
    assert isinstance(real, str) and "undefined symbol: __nvJitLinkComplete_12_4" in real
    resolved = workshop.resolved(library, LD_LIBRARY_PATH=variable)
    (need,) = [one for one in resolved.linked if one.soname == JIT]
    assert (need.answer, need.via, need.lacks) == ("no", "LD_LIBRARY_PATH", ("__nvJitLinkComplete_12_4",))
    copies = {
        (one.via, one.version)
        for one in resolved.runtimes
        if one.soname == JIT and one.path.startswith(str(workshop.folder))
    }
    assert copies == {("LD_LIBRARY_PATH", None), ("package", "12.4.127")}
    assert [one for one in workshop.resolved(library).linked if one.lacks] == []


# ---- after import torch ----------------------------------------------------------------------------------------

# Does what torch's own file does, for the few libraries of a test; 99 is a CUDA that no machine has.
TORCH = """import ctypes, glob, os, sys
here = os.path.dirname(os.path.abspath(__file__))
cuda_libs = [
    ("cuda_runtime", "libcudart.so.*[0-9]"),
    ("nvjitlink", "libnvJitLink.so.*[0-9]"),
    ("cusparse", "libcusparse.so.*[0-9]"),
]

def _preload_cuda_deps(err=None):
    if err is not None and not any(name.split(".")[0] in str(err) for _, name in cuda_libs):
        raise err
    for folder, name in cuda_libs:
        places = (("nvidia", folder), ("nvidia", f"cu{99}"), (folder,))
        patterns = [os.path.join(path, *place, "lib", name) for path in sys.path for place in places]
        found = [one for pattern in patterns for one in glob.glob(pattern)]
        if not found:
            raise ValueError(name)
        ctypes.CDLL(found[0])

try:
    ctypes.CDLL(here + "/lib/libtorch_global_deps.so", mode=ctypes.RTLD_GLOBAL)
    try:
        with open("/proc/self/maps") as f:
            _maps = f.read()
        if "libcudart.so" not in _maps:
            raise LookupError
        _preload_cuda_deps()
    except Exception:
        pass
except OSError as err:
    _preload_cuda_deps(err)
    ctypes.CDLL(here + "/lib/libtorch_global_deps.so", mode=ctypes.RTLD_GLOBAL)
"""
IMPORT = "import sys; sys.path.insert(0, sys.argv[1] + '/site'); import torch\n" + OPEN


def torch_that_needs(w: Workshop, *needs: str, runpath: str = "") -> Torch:
    folder = w.folder / "site" / "torch"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text(TORCH)
    w.make("site/torch/lib/libtorch_global_deps.so", needs, NEW, *([f"-Wl,-rpath,{runpath}"] if runpath else []))
    return Torch(path=str(folder), version="2.13.0", cuda="99.0")


def after_import(w: Workshop, library: Path, **changes: str) -> set[str] | str:
    words = [sys.executable, "-c", IMPORT, str(w.folder), str(library)]
    done = subprocess.run(
        words, env=clean_environment(**changes), capture_output=True, text=True, timeout=60, check=False
    )
    return done.stderr if done.returncode else done.stdout if done.stdout[:7] == "OSError" else set(done.stdout.split())


def test_what_torch_has_loaded_serves_by_its_name_wherever_it_lies(workshop: Workshop) -> None:
    cudart = workshop.make("site/nvidia/cuda_runtime/lib/libcudart.so.99")
    torch = torch_that_needs(
        workshop, "site/nvidia/cuda_runtime/lib/libcudart.so.99", runpath="$ORIGIN/../../nvidia/cuda_runtime/lib"
    )
    library = workshop.make(
        "site/bitsandbytes/libbitsandbytes_cuda990.so", ("site/nvidia/cuda_runtime/lib/libcudart.so.99",)
    )
    real = after_import(workshop, library)
    assert isinstance(real, set) and {str(cudart), str(library)} <= real
    resolved = workshop.resolved(library, torch)
    (need,) = [one for one in resolved.linked if one.soname == "libcudart.so.99"]
    assert (need.answer, need.via, os.path.realpath(need.path or "")) == ("yes", "loaded", str(cudart))
    (copy,) = [one for one in resolved.runtimes if one.used]
    assert (copy.soname, copy.via) == ("libcudart.so.99", "runpath")
    # The same library with no torch before it finds nothing.
    (alone,) = [one for one in workshop.resolved(library, no_torch(workshop)).linked if one.soname == need.soname]
    assert alone.answer == "no" and "cannot open shared object" in str(workshop.opens(library))


def test_what_torch_preloads_by_itself_is_in_the_process(workshop: Workshop) -> None:
    """Its own libraries have no way to libcudart: it opens what the packages have, in nvidia/cu99 too."""
    cudart = workshop.make("site/nvidia/cu99/lib/libcudart.so.99")
    for place in ("libnvJitLink.so.99", "libcusparse.so.99"):
        workshop.make(f"site/nvidia/cu99/lib/{place}")
    torch = torch_that_needs(workshop, "site/nvidia/cu99/lib/libcudart.so.99")
    library = workshop.make(
        "site/bitsandbytes/libbitsandbytes_cuda990.so",
        ("site/nvidia/cu99/lib/libcudart.so.99", "site/nvidia/cu99/lib/libnvJitLink.so.99"),
    )
    real = after_import(workshop, library)
    assert isinstance(real, set) and str(cudart) in real
    resolved = workshop.resolved(library, torch)
    assert {(one.soname, one.answer, one.via) for one in resolved.linked} == {
        ("libcudart.so.99", "yes", "loaded"), ("libnvJitLink.so.99", "yes", "loaded")
    }  # fmt: skip
    (workshop.folder / "site/nvidia/cu99/lib/libcusparse.so.99").unlink()
    assert "ValueError: libcusparse" in str(after_import(workshop, library))
    first, *others = workshop.resolved(library, torch).linked
    assert (first.answer, first.soname) == ("no", "libcusparse.so")
    assert {one.answer for one in others} <= {"yes", "unknown"}  # it does not come to that


def test_torch_opens_its_own_copy_before_the_one_on_the_variable_is_asked_for(workshop: Workshop) -> None:
    library, variable = cusparse(workshop), str(workshop.folder / "cuda-12.1/lib64")
    jit_link(workshop, "cuda-12.1/lib64", "12_1")
    cudart = "site/nvidia/cuda_runtime/lib/libcudart.so.12"
    workshop.make(cudart)
    torch = torch_that_needs(workshop, cudart, runpath="$ORIGIN/../../nvidia/cuda_runtime/lib")
    real = after_import(workshop, library, LD_LIBRARY_PATH=variable)
    assert isinstance(real, set) and not any(path.startswith(variable) for path in real)
    resolved = workshop.resolved(library, torch, LD_LIBRARY_PATH=variable)
    assert [one for one in resolved.linked if one.lacks or one.answer != "yes"] == []
    used = {one.path for one in resolved.runtimes if one.used}
    assert {os.path.realpath(path) for path in used} == {path for path in real if "/nvidia/" in path}


def test_the_libstdcxx_is_the_one_of_the_process(workshop: Workshop) -> None:
    found = workshop.resolved(workshop.make("lib/libtop.so")).cxx
    if found is None:
        pytest.skip("no libstdc++ is on this machine")
    text = Path(found.path or "").read_bytes()
    numbers = [tuple(map(int, one.split(b"."))) for one in re.findall(rb"\0GLIBCXX_([0-9.]+)(?=\0)", text)]
    assert found.glibcxx == ".".join(map(str, max(numbers)))


@pytest.mark.real
def test_a_real_environment_has_in_its_process_what_is_said(synced: Any) -> None:
    python = synced.root / ".venv-bnb/bin/python"
    (site_packages,) = synced.root.glob(".venv-bnb/lib/python3*/site-packages")
    torch, bitsandbytes = site_packages / "torch", site_packages / "bitsandbytes"
    library = bitsandbytes / "libbitsandbytes_cpu.so"
    code = "import torch, ctypes, sys; ctypes.CDLL(sys.argv[1])\n"
    code += "print(*{line.split()[-1] for line in open('/proc/self/maps')})"
    words = [python, "-c", code, library]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True, env=clean_environment())
    real = set(done.stdout.split())
    site = (str(torch.parent),)
    process = Process(
        host(), {}, Sysroot(), str(python), str(python.parent.parent), site, Torch(path=str(torch), version="2")
    )
    resolved = resolve(library, process)
    assert {one.answer for one in resolved.linked} == {"yes"} and resolved.unknown == ()
    assert {os.path.realpath(one.path or "") for one in resolved.linked} <= real
    assert resolved.cxx is not None and os.path.realpath(resolved.cxx.path or "") in real
    # The libraries of the CUDA backends need what a CPU environment does not have.
    cuda = resolve(bitsandbytes / "libbitsandbytes_cuda126.so", process)
    assert {one.soname for one in cuda.linked if one.answer == "no"} >= {"libcublas.so.12", "libcublasLt.so.12"}


def test_a_damaged_library_is_never_more_than_a_reason(workshop: Workshop) -> None:
    """Bytes that were changed or cut off by a seeded chance: every one gives an answer for each need."""
    library, random = cusparse(workshop), Random(5)
    jit = workshop.folder / f"site/nvidia/nvjitlink/lib/{JIT}"
    whole, answers = jit.read_bytes(), set[str]()
    # Headers, tables of symbols and versions, and the dynamic section.
    places = [*range(0, 0x800), *range(whole.index(b"libnvJitLink"), len(whole) // 2, 3)]
    for _ in range(150):
        data = bytearray(whole)
        for place in random.sample(places, random.randint(1, 4)):
            data[place] = random.choice((0, 1, 0x7F, 0xFF, random.randrange(256)))
        jit.unlink()
        jit.write_bytes(data[: random.choice((len(data), random.randrange(len(data))))])
        (need,) = [one for one in workshop.resolved(library).linked if one.soname == JIT]
        answers.add(need.answer)
        assert need.answer == "yes" or need.because
    assert answers >= {"yes", "no"}
    jit.write_bytes(whole[: len(whole) // 2])
    (cut,) = [one for one in workshop.resolved(library).linked if one.soname == JIT]
    assert (cut.answer, cut.path) == ("no", None) and "is damaged" in cut.because  # the real loader dies by SIGBUS
