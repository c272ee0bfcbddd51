"""uv, as bnbenv uses it: make an environment, resolve a lock, install it. Its failures become bnbenv's errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bnbenv.envs.redact import redact
from bnbenv.errors import BnbenvError, Failed, NoCombination, SourceUnreachable
from bnbenv.process import Command, Finished, Runner

VENV_LIMIT = 900.0  # seconds; a managed Python may have to be downloaded
COMPILE_LIMIT = 1200.0
INSTALL_LIMIT = 7200.0  # several GB over a slow line

_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|os error (28|122)\b", re.I)
_NO_PERMISSION = re.compile(r"Permission denied|Read-only file system|os error (13|30)\b", re.I)
_HASH = re.compile(r"hash mismatch", re.I)
_NETWORK = re.compile(
    r"error sending request|failed to fetch|failed to download|dns error|connection (refused|reset|closed)|timed out|"
    r"network (connectivity )?(is )?(disabled|unreachable)|tls|certificate|HTTP status|\b(401|403|404|407|5\d\d) ",
    re.I,
)
_UNSOLVABLE = re.compile(
    r"No solution found|requirements are unsatisfiable|was not found in the package registry", re.I
)
_NO_PYTHON = re.compile(r"No interpreter found|No download found|No Python", re.I)


@dataclass(frozen=True)
class Uv:
    """The uv program with the environment that makes it use the right sources. Credentials are only in there."""

    runner: Runner
    environment: Mapping[str, str | None]
    cwd: Path
    binary: str
    arguments: tuple[str, ...] = ()

    @classmethod
    def find(
        cls, runner: Runner, environment: Mapping[str, str | None], cwd: Path, arguments: tuple[str, ...] = ()
    ) -> Uv:
        """The uv that was installed with bnbenv. Raises Failed if there is none."""
        from uv import find_uv_bin

        try:
            binary = find_uv_bin()
        except FileNotFoundError:
            message = "the program uv is missing beside bnbenv"
            raise Failed("no-uv", message, "Install it: python -m pip install uv") from None
        return cls(runner, environment, cwd, str(binary), arguments)

    def venv(self, prefix: Path, python: str) -> None:
        """Make an empty environment with an interpreter (a path, or a version that uv finds or downloads)."""
        words = ("venv", str(prefix), "--python", python, "--prompt", prefix.parent.name, "--no-project")
        self._run(words, VENV_LIMIT, "make the environment")

    def compile(self, requirements: str, python: str) -> str:
        """Resolve requirements for an interpreter into a PEP 751 document with hashes."""
        form = ("--format", "pylock.toml", "--no-header", "--no-annotate", "--generate-hashes", *self.arguments)
        words = ("pip", "compile", "-", "--python", python, *form)
        return self._run(words, COMPILE_LIMIT, "resolve the packages", requirements).stdout

    def install(self, lock: Path, python: Path) -> None:
        """Install a lock into an environment; uv checks every file's hash against it."""
        form = ("-r", str(lock), "--no-deps", "--require-hashes", *self.arguments)
        self._run(("pip", "install", "--python", str(python), *form), INSTALL_LIMIT, f"install {lock.name}")

    def download_python(self, minor: str) -> str:
        """The path of an interpreter that uv manages; downloaded if need be."""
        self._run(("python", "install", minor, "--no-bin"), VENV_LIMIT, f"download Python {minor}")
        words = ("python", "find", minor, "--managed-python", "--no-project")
        return self._run(words, VENV_LIMIT, f"find Python {minor}").stdout.strip()

    def _run(self, words: tuple[str, ...], limit: float, task: str, stdin: str | None = None) -> Finished:
        command = Command(
            (self.binary, *words, "--quiet", "--color", "never"),
            limit,
            {"VIRTUAL_ENV": None, "CONDA_PREFIX": None, **self.environment},
            str(self.cwd),
            stdin,
        )
        done = self.runner.run(command)
        if not done.ok:
            raise explain(done, task)
        return done


def explain(done: Finished, task: str) -> BnbenvError:
    """What uv said, as an error with the right exit code. Pure."""
    text = redact(done.stderr.strip() or done.stdout.strip())
    first = _first_line(text)
    if done.timed_out:
        message = f"uv did not {task} within {done.command.timeout:.0f} s; the environment in use was kept"
        return SourceUnreachable("uv-timeout", message, "Run it again: what was downloaded is kept.", text)
    if done.signal_name:
        return Failed("uv-died", f"uv was ended by {done.signal_name} while it had to {task}", "Run it again.", text)
    if _NO_SPACE.search(text):
        message = f"no space left on the device to {task}; the environment in use was kept"
        return Failed("no-space", message, "Free some space (bnbenv gc, uv cache prune), then run it again.", text)
    if _NO_PERMISSION.search(text):
        message = f"uv may not write where it has to, to {task}: {first}"
        return Failed("no-permission", message, "Run it as the user who owns that folder.", text)
    if _HASH.search(text):
        message = f"a file is not the one that was locked: {first}"
        step = "If the source is right and the file was replaced there, choose again with: bnbenv lock"
        return Failed("hash-mismatch", message, step, text)
    if _UNSOLVABLE.search(text) and not _offline(text):
        message = "the packages asked for do not fit together"
        return NoCombination("unsatisfiable", message, "Loosen the requirements in bnbenv.toml.", text)
    if _NO_PYTHON.search(text):
        message = f"no Python that fits could be found or downloaded: {first}"
        return Failed("no-python", message, "Install one of the Pythons asked for, then run it again.", text)
    if _NETWORK.search(text):
        message = f"a package source cannot be reached: {first}"
        step = "Check the network or the index in bnbenv.toml, uv.toml or pip.conf, then run it again."
        return SourceUnreachable("source-unreachable", message, step, text)
    return Failed("uv-failed", f"uv could not {task}: {first}", "The text above is uv's own.", text)


def _offline(text: str) -> bool:
    return "network was disabled" in text or "because the network" in text.lower()


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = next((line for line in lines if not line.lower().startswith("warning")), "it did not say why")
    return line.removeprefix("error:").removeprefix("×").strip()
