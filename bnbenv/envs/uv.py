"""uv, as bnbenv uses it: make an environment, resolve a lock, install it. Its failures become bnbenv's errors."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bnbenv.envs.retry import persistently
from bnbenv.envs.uverrors import explain
from bnbenv.envs.uvprogress import Follower, bytes_written, without_progress
from bnbenv.errors import Failed
from bnbenv.process import Command, Finished, Runner
from bnbenv.progress import Progress, Quiet

VENV_LIMIT = 900.0  # seconds; a managed Python may have to be downloaded
COMPILE_LIMIT = 1200.0
BUILD_LIMIT = 1800.0
INSTALL_LIMIT = 7200.0  # several GB over a slow line


@dataclass(frozen=True)
class Uv:
    """The uv program with the environment that makes it use the right sources. Credentials are only in there.

    ``progress`` is told what it is doing, a few times a second.
    """

    runner: Runner
    environment: Mapping[str, str | None]
    cwd: Path
    binary: str
    arguments: tuple[str, ...] = ()
    progress: Progress = field(default_factory=Quiet)

    @classmethod
    def find(
        cls,
        runner: Runner,
        environment: Mapping[str, str | None],
        cwd: Path,
        arguments: tuple[str, ...] = (),
        progress: Progress | None = None,
    ) -> Uv:
        """The uv that was installed with bnbenv. Raises Failed if there is none."""
        from uv import find_uv_bin

        try:
            binary = find_uv_bin()
        except FileNotFoundError:
            message = "the program uv is missing beside bnbenv"
            raise Failed("no-uv", message, "Install it: python -m pip install uv") from None
        return cls(runner, environment, cwd, str(binary), arguments, progress or Quiet())

    def venv(self, prefix: Path, python: str, system: bool = False) -> None:
        """Make an empty environment with an interpreter (a path, or a version that uv finds or downloads).

        ``system``: what is installed beside that interpreter shows in it.
        """
        words = ("venv", str(prefix), "--python", python, "--prompt", prefix.parent.name, "--no-project")
        self._run((*words, "--system-site-packages") if system else words, VENV_LIMIT, "make the environment")

    def compile(
        self, requirements: str, python: str, keep: Mapping[str, str] | None = None, target: tuple[str, ...] = ()
    ) -> str:
        """Resolve requirements for an interpreter into a PEP 751 document with hashes.

        ``keep`` maps packages to the versions to stay with as long as they fit; ``target`` are options that name
        another Python or platform than the interpreter's.
        """
        form = ("--format", "pylock.toml", "--no-header", "--no-annotate", "--generate-hashes", *self.arguments)
        words = ("pip", "compile", "-", "--python", python, *target, *form)
        if not keep:
            return self._run(words, COMPILE_LIMIT, "resolve the packages", requirements).stdout
        with tempfile.TemporaryDirectory(prefix="bnbenv-") as folder:
            output = Path(folder) / "pylock.toml"  # uv prefers the versions that stand in its output file already
            packages = (f'[[packages]]\nname = "{name}"\nversion = "{version}"\n' for name, version in keep.items())
            output.write_text('lock-version = "1.0"\ncreated-by = "bnbenv"\n' + "".join(packages))
            self._run((*words, "-o", str(output)), COMPILE_LIMIT, "resolve the packages", requirements)
            return output.read_text(encoding="utf-8")

    def install(self, lock: Path, python: Path) -> None:
        """Install a lock into an environment; uv checks every file's hash against it.

        First from the cache alone: an index whose answers do not say how long they hold makes uv load a file again that
        it has, and two copies of it are two copies on the disk. The lock's hashes say that the cached file is the one.
        """
        # A uv.toml may ask for compiling, which runs the environment's own Python before anybody looked at its files.
        form = ("-r", str(lock), "--no-deps", "--require-hashes", "--no-compile-bytecode", *self.arguments)
        words = ("pip", "install", "--python", str(python), *form)
        if not self._call((*words, "--offline"), INSTALL_LIMIT, "install the packages from its cache").ok:
            self._run(words, INSTALL_LIMIT, "install the packages")

    def has_cached(self, lock: Path, python: str) -> bool:
        """Whether all files that a lock names are in the cache. The lock's folder gets links to them.

        A dry run does not say so: it calls what was installed by a lock something to be downloaded.
        """
        form = ("-r", str(lock), "--no-deps", "--offline", "--link-mode", "hardlink", "--target", str(lock.parent))
        words = ("pip", "install", "--python", python, "--no-compile-bytecode", *form, *self.arguments)
        return self._call(words, COMPILE_LIMIT, "look into its cache").ok

    def add(self, requirements: str, python: Path, options: tuple[str, ...] = (), limit: float = INSTALL_LIMIT) -> str:
        """Install requirements into an environment that is there; with ``--dry-run`` only resolve them.

        Returns uv's account of it: a line ``- name==version`` for each package that goes, ``+`` for each that comes.
        """
        form = ("-r", "-", "--no-compile-bytecode", *options, *self.arguments)
        words = ("pip", "install", "--python", str(python), *form)
        return self._run(words, limit, "install the packages", requirements, account=True).stderr

    def build_wheel(self, tree: Path, out: Path, python: str, keep: Callable[[str], None]) -> None:
        """Have a tree's own build backend make its wheel in a folder, in an isolated environment.

        ``keep`` is given all that was said, however it ended. A uv.toml of the tree is not read.
        """
        # The folder that uv runs in says which uv.toml holds, and the tree's own pyproject.toml what its build needs.
        form = ("--wheel", "--out-dir", str(out), "--no-create-gitignore", "--python", python, *self.arguments)
        task = "make the wheel"
        environ = {**os.environ, **self.environment}
        words = ("build", str(tree), *form)
        done = persistently(lambda: self._call(words, BUILD_LIMIT, task), self.progress.say, environ)
        keep(f"{done.stdout}{done.stderr}")
        if not done.ok:
            raise explain(done, task)

    def download_python(self, minor: str) -> str:
        """The path of an interpreter that uv manages; downloaded if need be."""
        self._run(("python", "install", minor, "--no-bin"), VENV_LIMIT, f"download Python {minor}")
        words = ("python", "find", minor, "--managed-python", "--no-project")
        return self._run(words, VENV_LIMIT, f"find Python {minor}").stdout.strip()

    def _run(
        self, words: tuple[str, ...], limit: float, task: str, stdin: str | None = None, account: bool = False
    ) -> Finished:
        environ = {**os.environ, **self.environment}
        done = persistently(lambda: self._call(words, limit, task, stdin, account), self.progress.say, environ)
        if not done.ok:
            raise explain(done, task)
        return done

    def _call(
        self, words: tuple[str, ...], limit: float, task: str, stdin: str | None = None, account: bool = False
    ) -> Finished:
        """How uv ended. ``account``: with its lines on each package, where it succeeds."""
        command = Command(
            (self.binary, *words, "--color", "never"),
            limit,
            # Each sentence on a line of its own: it is read here.
            {"VIRTUAL_ENV": None, "CONDA_PREFIX": None, "UV_NO_WRAP": "1", **self.environment},
            str(self.cwd),
            stdin,
            Follower(self.progress.at, f"waiting for uv to {task}", bytes_written),
        )
        try:
            done = self.runner.run(command)
        finally:
            self.progress.at("")
        return done if account and done.ok else replace(done, stderr=without_progress(done.stderr))
