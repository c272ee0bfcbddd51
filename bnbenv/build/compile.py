"""CMake and Ninja on a source tree: the CUDA library and the CPU library, with progress, and a log of all of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bnbenv.build.failed import Failure, first_failure, out_of_memory
from bnbenv.build.model import Toolchain
from bnbenv.build.parallel import CUDA_JOB, Resources, resources
from bnbenv.build.ports import Ports
from bnbenv.errors import Failed
from bnbenv.process import Command, Finished
from bnbenv.redact import redact

CONFIGURE_LIMIT = 900.0  # seconds
COMPILE_LIMIT = 4 * 3600.0

# Part of what a wheel is made of. Libraries are found through torch's, never where they lay on the machine that
# compiled; what nothing defines is found here and not at somebody's import.
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_SKIP_RPATH=ON",
    "-DCMAKE_SHARED_LINKER_FLAGS=-Wl,--no-undefined",
    "-DCMAKE_MODULE_LINKER_FLAGS=",
)
CONFIGURED = "configured"  # a file that says that CMake came to its end

# Variables of a user's shell that change what is compiled, or with what. They are removed: what a wheel holds depends
# on what its name and its record say alone.
_FOREIGN = frozenset(
    {"CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "ASFLAGS", "ARFLAGS", "CUDACXX", "CUDAFLAGS"}
    | {"CUDAARCHS", "CUDAHOSTCXX", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"}
    | {"CUDAToolkit_ROOT", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "LD_RUN_PATH"}
    | {"COMPILER_PATH", "GCC_EXEC_PREFIX", "CCC_OVERRIDE_OPTIONS", "DESTDIR", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    | {"VERBOSE", "DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES"}
)
_FOREIGN_BEGIN = ("CMAKE_", "NVCC_", "NINJA", "SKBUILD_", "BNB_", "PYTHON")
_OUTPUT = re.compile(r"\[(\d+)/(\d+)\] ")
_LINK = re.compile(r"^build [^\n:]+: \w*_LINKER__", re.MULTILINE)


@dataclass(frozen=True)
class Log:
    """The log of one build, in a file, without credentials. It grows while programs run, so that a kill leaves it."""

    path: Path

    def add(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8", errors="replace") as stream:
            stream.write(redact(text))


@dataclass(frozen=True)
class Work:
    """One compilation. ``tree`` is written into; ``folder`` holds everything else that comes of it.

    ``what`` names it to people (``bitsandbytes 0.50.1``).
    """

    what: str
    tree: Path
    folder: Path
    toolchain: Toolchain
    archs: tuple[str, ...]
    ports: Ports
    log: Log

    @property
    def cuda_library(self) -> str:
        """The file's name, of which CMake makes the number out of the compiler's version."""
        return f"libbitsandbytes_cuda{self.toolchain.cuda.replace('.', '')}.so"

    def environment(self) -> dict[str, str | None]:
        """Changes to the environment of everything that is run."""
        foreign = {name for name in self.ports.environ if name.startswith(_FOREIGN_BEGIN)}
        removed: dict[str, str | None] = dict.fromkeys(sorted(_FOREIGN | foreign))
        own = {
            "TMPDIR": str(self.folder / "tmp"),
            "LC_ALL": "C.UTF-8",  # what compilers say is read here
            "SOURCE_DATE_EPOCH": "315532800",
            "NINJA_STATUS": "[%f/%t] ",
        }
        return {**removed, **own}


def compile_cpu(work: Work) -> Path:
    """The library for the CPU, which published wheels have as well. Raises as ``compile_cuda``."""
    return _library(work, "libbitsandbytes_cpu.so", "cpu", ("-DCOMPUTE_BACKEND=cpu",))


def compile_cuda(work: Work) -> Path:
    """The library with the kernels.

    Raises Failed: ``compile-failed``, with the first real error and the name of the log, ``compile-timeout``,
    ``build-out-of-memory``, ``no-space``, ``not-as-asked`` where no library came of it; OSError.
    """
    root, toolchain = Path(work.toolchain.root), work.toolchain
    capabilities = ";".join(arch.removeprefix("sm_") for arch in work.archs)
    options = (
        "-DCOMPUTE_BACKEND=cuda",
        f"-DCOMPUTE_CAPABILITY={capabilities}",
        f"-DCUDAToolkit_ROOT={root}",
        f"-DCMAKE_CUDA_COMPILER={root / 'bin' / 'nvcc'}",
        f"-DCMAKE_CUDA_HOST_COMPILER={toolchain.host.path}",
        *_spaced(root),
    )
    return _library(work, work.cuda_library, "cuda", options)


def _spaced(root: Path) -> tuple[str, ...]:
    """CMake reads no folders with spaces out of what nvcc says of its own, so that the linker has to be told."""
    given = next(flag for flag in FLAGS if flag.startswith("-DCMAKE_SHARED_LINKER_FLAGS="))
    return (f'{given} "-L{root}/lib64"',) if re.search(r"\s", str(root)) else ()


def _nameless(work: Work) -> tuple[str, ...]:
    """What keeps the folder that it was compiled in, and with it somebody's name, out of messages in the libraries."""
    host, tree = work.toolchain.host, str(work.tree)
    since = {"gcc": 8, "clang": 10}[host.kind]
    if int(host.version.partition(".")[0]) < since or not re.fullmatch(r"[\w./+@-]+", tree):
        return ()
    option = f"-ffile-prefix-map={tree}=."
    return (f"-DCMAKE_CXX_FLAGS={option}", f"-DCMAKE_CUDA_FLAGS=-Xcompiler={option}")


def _library(work: Work, name: str, place: str, options: tuple[str, ...]) -> Path:
    folder = work.folder / place
    (work.folder / "tmp").mkdir(parents=True, exist_ok=True)
    if not (folder / CONFIGURED).is_file():
        _configure(work, name, folder, options)
        (folder / CONFIGURED).touch()
    _compile(work, name, folder)
    library = work.tree / "bitsandbytes" / name
    if not library.is_file():
        made = sorted(path.name for path in library.parent.glob("libbitsandbytes*")) or ["none"]
        message = f"compiling {work.what} made no {name}: {', '.join(made)}"
        raise Failed("not-as-asked", message, f"See the log: {work.log.path}")
    return library


def _configure(work: Work, name: str, folder: Path, options: tuple[str, ...]) -> None:
    tools = (f"-DCMAKE_MAKE_PROGRAM={work.toolchain.ninja}", f"-DCMAKE_CXX_COMPILER={work.toolchain.host.path}")
    given = (*FLAGS, *_nameless(work), *tools, *options)
    words = (work.toolchain.cmake, "-S", str(work.tree), "-B", str(folder), "-G", "Ninja", *given)
    work.ports.progress.at(f"{name}: configuring")
    done = _run(work, words, CONFIGURE_LIMIT, work.folder, None)
    if not done.ok:
        raise _failed(work, done, resources(work.ports.sysroot))


def _compile(work: Work, name: str, folder: Path) -> None:
    """Ninja does what is not done yet. Where a compiler found no memory, once more with one at a time."""
    room = resources(work.ports.sysroot)
    for jobs in dict.fromkeys((room.jobs, 1)):
        work.ports.progress.detail(f"{name}: {jobs} at once (cores: {room.cores:g}, free: {room.gigabytes})")
        follow = _Follower(work, name, folder, _links(folder))
        done = _run(work, (work.toolchain.ninja, f"-j{jobs}"), COMPILE_LIMIT, folder, follow)
        if done.ok:
            return
        if not _short_of_memory(done) or jobs == 1:
            break
        work.ports.progress.say(f"{name}: a compiler found no memory; once more with one at a time")
    raise _failed(work, done, room)


def _short_of_memory(done: Finished) -> bool:
    return not done.timed_out and (done.signal_name == "SIGKILL" or out_of_memory(done.stdout + done.stderr))


class _Follower:
    """Tells which file of how many is compiled, and writes the log. A compiler's list of headers lies beside its object
    from when it starts until Ninja has read it."""

    def __init__(self, work: Work, name: str, folder: Path, links: int) -> None:
        self._work, self._name, self._folder, self._links = work, name, folder, links
        self._written = 0

    def __call__(self, pid: int, out: str, err: str) -> None:
        self.write(out)
        ended = _OUTPUT.findall(out[-1 << 16 :])
        done, total = (int(ended[-1][0]), max(1, int(ended[-1][1]) - self._links)) if ended else (0, 0)
        names = sorted(path.name.removesuffix(".o.d") for path in self._folder.glob("CMakeFiles/*.dir/**/*.o.d"))
        now = ", ".join(names) or ("linking" if total and done >= total else "starting")
        count = f"file {min(done + 1, total)} of {total}: " if total else ""
        self._work.ports.progress.at(f"compiling {self._name}: {count}{now}")

    def write(self, out: str) -> None:
        if len(out) > self._written:
            self._work.log.add(out[self._written :])
            self._written = len(out)


def _links(folder: Path) -> int:
    """How many of Ninja's steps compile nothing."""
    return len(_LINK.findall((folder / "build.ninja").read_text(encoding="utf-8", errors="replace")))


def _run(work: Work, words: tuple[str, ...], limit: float, cwd: Path, follow: _Follower | None) -> Finished:
    environ: Mapping[str, str | None] = work.environment()
    work.log.add(f"\n$ {' '.join(words)}\n")
    try:
        done = work.ports.runner.run(Command(words, limit, environ, str(cwd), watch=follow))
    finally:
        work.ports.progress.at("")
    if follow is None:
        work.log.add(done.stdout)
    else:
        follow.write(done.stdout)
    work.log.add(done.stderr)
    how = "" if done.ok else f"ended with {done.signal_name or done.returncode}, " * (not done.timed_out)
    work.log.add(f"({how}{'time limit, ' * done.timed_out}{done.seconds:.1f} s)\n")
    return done


def _failed(work: Work, done: Finished, room: Resources) -> Failed:
    log = f"The full log: {work.log.path}"
    if done.timed_out:
        message = f"compiling {work.what} was not done after {done.command.timeout / 60:.0f} minutes"
        return Failed("compile-timeout", message, f"Run it again: it goes on where it stopped. {log}")
    failure = first_failure(done.stdout + "\n" + done.stderr) or _unexplained(done)
    if failure.cause == "no-space":
        message = f"no space left while {work.what} was compiled in {work.folder.parent}"
        return Failed("no-space", message, f"{failure.next_step} {log}", failure.around)
    if _short_of_memory(done):
        message = (
            f"compiling {work.what} ran out of memory: one compiler can take {CUDA_JOB >> 30} GB,"
            f" and {room.gigabytes} was free before"
        )
        step = "Close other programs, add swap, or name fewer architectures; it then goes on where it stopped."
        return Failed("build-out-of-memory", message, f"{step} {log}", failure.around)
    step = f"{failure.next_step} {log}".strip()
    return Failed("compile-failed", f"{work.what} does not compile: {failure.error}", step, failure.around)


def _unexplained(done: Finished) -> Failure:
    """The end of what was printed, where no error is found in it."""
    printed = (done.stdout + "\n" + done.stderr).strip()
    name = Path(done.command.argv[0]).name
    ended = f"signal {done.signal_name}" if done.signal_name else f"exit code {done.returncode}"
    return Failure(f"{name} ended with {ended}", "\n".join(printed[-4000:].splitlines()[-20:]))
