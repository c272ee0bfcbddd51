"""Builds for real: the small tree, the compiler of CUDA 13.0 from packages, for two architectures."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.build import cache
from bnbenv.build.model import Built, Order, Toolchain
from bnbenv.build.ports import Ports
from bnbenv.build.readback import read_cuda, read_wheel
from bnbenv.build.run import build
from bnbenv.errors import BnbenvError, Busy, Failed, NoCombination
from bnbenv.matrix.contents import read_file
from bnbenv.matrix.model import Matrix
from bnbenv.paths import Sysroot
from bnbenv.process import Command, Finished, SystemRunner

pytestmark = pytest.mark.real

TREE = Path(__file__).parent / "tree"
CUDA, ARCHS = "13.0", ("sm_80", "sm_90")
ORDER = Order(None, CUDA, ARCHS, str(TREE))
NAME = "bitsandbytes-0.50.9+bnbenv.cu130.sm80.sm90"


@dataclass
class Counting:
    """Runs programs for real and remembers them. ``before`` is called with each, and may answer in its place."""

    before: Callable[[Command], Finished | None] = lambda command: None
    programs: tuple[str, ...] = ()

    def run(self, command: Command) -> Finished:
        self.programs += (" ".join((Path(command.argv[0]).name, *command.argv[1:])),)
        answer = self.before(command)
        return SystemRunner().run(command) if answer is None else answer

    def of(self, word: str) -> list[str]:
        return [one for one in self.programs if one.startswith(word)]


@dataclass(frozen=True)
class Made:
    """What two builds of the same that ran at once gave, and the folder of builds that they share."""

    home: Path
    both: tuple[Built, Built]

    @property
    def wheel(self) -> Path:
        return Path(self.both[0].wheel)


@pytest.fixture(scope="module")
def _home(tmp_path_factory: pytest.TempPathFactory, toolchains: Path) -> Path:
    home = tmp_path_factory.mktemp("builds")
    (home / "toolchains").symlink_to(toolchains / "toolchains")
    return home


@pytest.fixture
def own(ports: Ports, _home: Path) -> Callable[..., Ports]:
    """``own(runner)``: ports with the folder of builds that this module's tests share."""
    return lambda runner=None: replace(ports, home=_home, runner=runner or SystemRunner(), sysroot=Sysroot())


_MADE: dict[Path, Made] = {}


@pytest.fixture
def made(own: Callable[..., Ports], _home: Path, matrix: Matrix) -> Made:
    """The tree for two architectures, built once for all tests: by two at once, of which one waits."""
    if _home not in _MADE:
        found: list[Built] = []
        threads = [threading.Thread(target=lambda: found.append(build(ORDER, own(), matrix, ()))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 2
        _MADE[_home] = Made(_home, (found[0], found[1]))
    return _MADE[_home]


def changed(tmp_path: Path, name: str, old: str, new: str) -> Order:
    """An order for a copy of the tree in which a text of a file is another."""
    folder = tmp_path / "tree"
    shutil.copytree(TREE, folder)
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    return replace_source(ORDER, folder)


def replace_source(order: Order, folder: Path) -> Order:
    return Order(order.ref, order.cuda, order.archs, str(folder))


def failed(order: Order, ports: Ports, matrix: Matrix) -> BnbenvError:
    with pytest.raises(BnbenvError) as caught:
        build(order, ports, matrix, ())
    return caught.value


def test_the_wheel_holds_what_was_asked(made: Made, told: Any) -> None:
    one, other = made.both
    assert {one.cached, other.cached} == {False, True} and one.wheel == other.wheel  # one built, the other waited
    assert (one.sass, one.ptx, one.library) == (ARCHS, ("compute_90",), "libbitsandbytes_cuda130.so")
    found = read_file(made.wheel, lambda _: None)  # the reader that people call as `matrix inspect`
    assert found.version == one.version == "0.50.9+bnbenv.cu130.sm80.sm90"
    libraries = {library.name: library for library in found.libraries}
    assert set(libraries) == {"libbitsandbytes_cuda130.so", "libbitsandbytes_cpu.so"}
    assert set(libraries["libbitsandbytes_cuda130.so"].sass) == set(ARCHS)
    assert "libcublas.so.13" in libraries["libbitsandbytes_cuda130.so"].needed
    assert one.row.sha256 == one.sha256 == hashlib.sha256(made.wheel.read_bytes()).hexdigest()
    assert os.listdir(made.home / "work") == []  # nothing is left of it


def test_its_library_is_loaded_and_called(made: Made, toolchain: Toolchain, tmp_path: Path) -> None:
    with zipfile.ZipFile(made.wheel) as archive:
        library = archive.extract(f"bitsandbytes/{made.both[0].library}", tmp_path)
    # What needs no GPU in it is called; RTLD_NOW has every name that it uses looked up.
    code = f"import ctypes, os; print(ctypes.CDLL({library!r}, mode=os.RTLD_NOW).ccublaslt_version())"
    environ = {**os.environ, "LD_LIBRARY_PATH": str(Path(toolchain.root) / "lib")}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60, env=environ)
    assert int(done.stdout) >= 130000


def test_the_wheel_is_in_order(made: Made) -> None:
    major, minor = made.both[0].row.libc_tag.split(".") if made.both[0].row.libc_tag else ("", "")
    assert made.wheel.name == f"{NAME}-py3-none-manylinux_{major}_{minor}_{os.uname().machine}.whl"
    with zipfile.ZipFile(made.wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    rows = list(csv.reader(io.StringIO(files[f"{NAME}.dist-info/RECORD"].decode())))
    assert sorted(row[0] for row in rows) == sorted(files)
    for name, digest, size in rows:
        encoded = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
        assert (digest, size) == (
            ("", "") if name.endswith("/RECORD") else (f"sha256={encoded}", str(len(files[name])))
        )
    wheel = files[f"{NAME}.dist-info/WHEEL"].decode().splitlines()
    assert f"Tag: {made.wheel.stem.removeprefix(NAME)[1:]}" in wheel and "Root-Is-Purelib: false" in wheel
    assert {f"{NAME}.dist-info/{name}" for name in ("entry_points.txt", "licenses/LICENSE")} <= set(files)
    for name in ("libbitsandbytes_cuda130.so", "libbitsandbytes_cpu.so"):
        assert str(made.home / "work").encode() not in files[f"bitsandbytes/{name}"]  # messages name files


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_any_installer_takes_it(made: Made, tmp_path: Path, installer: str) -> None:
    from uv import find_uv_bin

    uv, place = find_uv_bin(), tmp_path / "venv"
    seed = ["--seed"] if installer == "pip" else []
    subprocess.run([uv, "venv", "-q", *seed, "--python", sys.executable, place], check=True, timeout=120)
    python = str(place / "bin" / "python")
    tool = [python, "-m", "pip"] if installer == "pip" else [uv, "pip"]
    which = [] if installer == "pip" else ["--python", python]
    environ = {name: text for name, text in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    words = [*tool, "install", "-q", *which, "--no-index", str(made.wheel)]
    subprocess.run(words, check=True, timeout=120, env=environ)
    subprocess.run([*tool, "check", *which], check=True, timeout=120, env=environ)
    code = (
        "import bitsandbytes, importlib.metadata as m; print(bitsandbytes.add(2, 3), m.version('bitsandbytes'));"
        "print([f for f in m.files('bitsandbytes') if not f.locate().is_file()])"
    )
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, timeout=60, env=environ)
    assert done.stdout == "5.0 0.50.9+bnbenv.cu130.sm80.sm90\n[]\n"


def test_the_second_time_nothing_is_compiled(made: Made, own: Callable[..., Ports], matrix: Matrix) -> None:
    runner = Counting()
    again = build(ORDER, own(runner), matrix, ())
    assert again.cached and again.sha256 == made.both[0].sha256
    assert not runner.of("cmake") and not runner.of("ninja") and not runner.of("uv")
    assert [built.sha256 for built in cache.entries(made.home)].count(again.sha256) == 1


def test_a_damaged_wheel_is_none(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.home / "wheels", tmp_path / "wheels")
    (record,) = (tmp_path / "wheels").glob(f"{made.wheel.parent.name}/build.json")
    wheel, text = record.with_name(made.wheel.name), record.read_bytes()
    inputs = msgspec.convert(json.loads(text)["inputs"], cache.Inputs)

    def found() -> bool:
        return cache.find(tmp_path, inputs) is not None

    assert found()
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
    assert not found() and cache.entries(tmp_path)
    shutil.copy(made.wheel, wheel)
    for other in (text[:-20], b"", text.replace(b'"format":1', b'"format":2'), b"[" * 100_000):
        record.write_bytes(other)
        assert not found() and not [one for one in cache.entries(tmp_path) if Path(one.wheel) == wheel]
    record.write_bytes(text)
    assert found()
    wheel.unlink()
    assert not found()


def test_other_than_asked_is_not_taken(made: Made) -> None:
    name = "libbitsandbytes_cuda130.so"
    with zipfile.ZipFile(made.wheel) as archive:
        data = archive.read(f"bitsandbytes/{name}")
    entries = frozenset({"get_context", "cget_managed_ptr"})
    assert read_cuda(data, name, ARCHS, entries).ptx == ("compute_90",)
    others = (
        (("sm_90",), entries),
        ((*ARCHS, "sm_120"), entries),
        (ARCHS[::-1], entries),
        (ARCHS, {*entries, "cnowhere"}),
    )
    for archs, names in others:
        with pytest.raises(Failed) as caught:
            read_cuda(data, name, archs, frozenset(names))
        assert caught.value.code == "not-as-asked"


def test_a_wheel_that_was_not_put_together_well_is_not_taken(made: Made, tmp_path: Path) -> None:
    version, libraries = made.both[0].version, made.both[0].row.libraries
    assert read_wheel(made.wheel, version, libraries) == made.both[0].row
    with zipfile.ZipFile(made.wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}

    def wheel(folder: str, members: dict[str, bytes]) -> Path:
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / made.wheel.name
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return path

    init = "bitsandbytes/__init__.py"
    others = (
        (wheel("other", {**files, init: files[init][:-1] + b" "}), version, libraries),  # not as RECORD says
        (wheel("more", {**files, "bitsandbytes/more.py": b""}), version, libraries),  # not in it
        (made.wheel, "0.50.9", libraries),
        (made.wheel, version, libraries[:1]),
    )
    for path, asked, rows in others:
        with pytest.raises(Failed) as caught:
            read_wheel(path, asked, rows)
        assert caught.value.code == "not-as-asked"


def test_interrupted_it_goes_on_where_it_stopped(
    own: Callable[..., Ports], matrix: Matrix, tmp_path: Path, told: Any
) -> None:
    order = changed(tmp_path, "csrc/kernels.cu", "*= factor", "+= factor")
    busy: list[BnbenvError] = []

    def interrupt(command: Command) -> None:
        if Path(command.argv[0]).name == "ninja" and str(command.cwd).endswith("cuda"):
            with pytest.raises(Busy) as caught:  # a second bnbenv comes meanwhile, and has no time
                build(order, own(), matrix, (), wait=0.1)
            busy.append(caught.value)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(order, own(Counting(interrupt)), matrix, ())
    assert len(busy) == 1 and not [one for one in cache.entries(own().home) if one.source.asked == order.source]

    def starve(command: Command) -> Finished | None:
        if Path(command.argv[0]).name == "ninja" and command.argv[-1] != "-j1":
            return Finished(command, 1, "nvcc error   : 'cicc' died due to signal 9 (Kill signal)\n", "", False, 0.1)
        return None

    runner = Counting(starve)
    built = build(order, own(runner), matrix, ())
    assert built.sass == ARCHS and not built.cached
    # What was done before the interruption is not done again: neither library is configured a second time.
    assert not runner.of("cmake") and not runner.of("uv")
    assert any("going on where" in line for line in told.lines)
    if os.cpu_count() != 1:
        assert any("once more with one at a time" in line for line in told.lines)


def test_killed_while_compiling_and_again(
    _home: Path, own: Callable[..., Ports], matrix: Matrix, tmp_path: Path, build_environ: dict[str, str]
) -> None:
    order = Order(None, CUDA, ("sm_75",), str(TREE))
    place = tmp_path / "user"
    place.mkdir()
    (place / "builds").symlink_to(_home)
    # What a shell sets for compilers does not come through.
    shell = {"CXXFLAGS": "--nonsense", "NVCC_APPEND_FLAGS": "--nonsense", "CMAKE_GENERATOR": "Nonsense"}
    environ = {**build_environ, **shell, "BNBENV_HOME": str(place)}
    words = ["build", "--source", str(TREE), "--cuda", CUDA, "--arch", "sm_75"]
    command = [sys.executable, "-m", "bnbenv", *words]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as started:
        end = time.monotonic() + 120
        while not list(_home.glob("work/*/*/cuda/CMakeFiles/bitsandbytes.dir/**/*.o*")) and time.monotonic() < end:
            assert started.poll() is None, started.communicate()
            time.sleep(0.02)
        started.send_signal(signal.SIGKILL)
    before = [one for one in cache.entries(_home) if one.sass == order.archs]
    assert before == [] and list(_home.glob("work/*/*/state.json"))
    built = build(order, own(), matrix, ())
    assert built.sass == ("sm_75",) and built.ptx == ("compute_75",) and cache.sound(built)


def test_a_kernel_that_does_not_compile(own: Callable[..., Ports], matrix: Matrix, tmp_path: Path) -> None:
    order = changed(tmp_path, "csrc/kernels.cu", "*= factor;", "*= nowhere;")
    error = failed(order, own(), matrix)
    assert error.code == "compile-failed" and error.exit == 1
    assert 'kernels.cu(4): error: identifier "nowhere" is undefined' in error.message
    log = Path(error.next_step.rpartition(": ")[2])
    assert "nowhere" in log.read_text() and "$ " in log.read_text()
    assert not list((own().home / "work").iterdir())


def test_what_nothing_defines_is_found_here(own: Callable[..., Ports], matrix: Matrix, tmp_path: Path) -> None:
    declared = 'extern "C" {\nfloat nowhere(float);\n'
    order = changed(tmp_path, "csrc/interface.cpp", 'extern "C" {\n', declared)
    path = Path(str(order.source)) / "csrc" / "interface.cpp"
    path.write_text(path.read_text().replace("return one + other", "return nowhere(one)"))
    error = failed(order, own(), matrix)
    assert error.code == "compile-failed" and "undefined reference to `nowhere'" in error.message


def test_a_compiler_that_finds_no_memory(own: Callable[..., Ports], matrix: Matrix, tmp_path: Path) -> None:
    order = changed(tmp_path, "LICENSE", "MIT", "The MIT")
    tried = []

    def starve(command: Command) -> Finished | None:
        if Path(command.argv[0]).name != "ninja":
            return None
        tried.append(command.argv[-1])
        text = "FAILED: x.o\nc++: fatal error: Killed signal terminated program cc1plus\n"
        return Finished(command, 1, text, "", False, 0.1)

    error = failed(order, own(Counting(starve)), matrix)
    assert error.code == "build-out-of-memory" and " GB of memory was free" in error.message
    assert tried[-1] == "-j1" and len(tried) <= 2
    left = own().home.glob("work/*/*/tree/LICENSE")
    assert any("The MIT" in path.read_text() for path in left), "the next run goes on there"


def test_a_source_that_takes_another_cuda(own: Callable[..., Ports], matrix: Matrix) -> None:
    with pytest.raises(NoCombination) as caught:
        build(Order(None, "14.0", ("sm_90",), str(TREE)), own(), matrix, ())
    assert caught.value.code == "source-cuda" and "14.0" in caught.value.message


def test_a_disk_that_is_full(ports: Ports, made: Made, matrix: Matrix) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small file system cannot be mounted: that takes root")
    work = ports.home / "work"
    work.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "bnbenv-test", str(work)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        with pytest.raises((Failed, OSError)) as caught:
            build(ORDER, ports, matrix, ())
        error = caught.value
        assert "No space left" in str(error) if isinstance(error, OSError) else error.code == "no-space", vars(error)
        assert not list(work.iterdir()) and not cache.entries(ports.home)
    finally:
        subprocess.run(["umount", "-l", work], check=False)


@pytest.mark.timeout(1800)  # a minute of work on two free cores
def test_upstream(own: Callable[..., Ports], matrix: Matrix) -> None:
    source = os.environ.get("BNBENV_TEST_BNB_SOURCE")
    if not source:
        pytest.skip("BNBENV_TEST_BNB_SOURCE names no repository or tree of bitsandbytes")
    built = build(Order("0.50.1", CUDA, ("sm_90",), source), own(), matrix, ())
    assert (built.sass, built.ptx) == (("sm_90",), ("compute_90",))
    assert built.source.commit == "37d2a9387f7146ccb85517ff45c665d345bfda79"
    assert {"torch<3,>=2.4", "numpy>=1.17"} <= set(built.row.requires_dist)
