"""A machine of one's own to install hooks on: a folder in place of the root, and a user's home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True)
class Machine:
    """``machine("hook", "install", "apt")`` runs bnbenv with ``root`` in place of /, and returns how it ended."""

    root: Path
    home: Path
    project: Path
    environ: dict[str, str]

    def __call__(self, *words: str, code: int = 0, **changes: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bnbenv", *words]
        environ = {**self.environ, **changes}
        done = subprocess.run(
            command, cwd=self.project, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr and "fault of bnbenv" not in done.stdout, done.stdout + done.stderr
        return done

    def document(self, *words: str, code: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self(*words, "--json", code=code).stdout)
        return found

    def driver(self, module: str | None, library: str | None) -> None:
        """Files as a driver's kernel module and its NVML library leave them."""
        version = self.root / "proc/driver/nvidia/version"
        version.parent.mkdir(parents=True, exist_ok=True)
        version.unlink(missing_ok=True)
        if module:
            version.write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {module}  Sat Aug 19\n")
        folder = self.root / LIBRARIES
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        if library:
            (folder / f"libnvidia-ml.so.{library}").write_text("")
            (folder / "libnvidia-ml.so.1").symlink_to(f"libnvidia-ml.so.{library}")

    def shell(self, script: str, shell: str = "sh", **changes: str) -> str:
        """What an interactive shell says that begins by reading ``script``: all of it, without prompts."""
        code = f". {script}; echo on"
        done = subprocess.run(
            [shell, *(["--norc"] if shell == "bash" else []), "-i", "-c", code],
            env={**self.environ, "PS1": "", **changes},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.stdout.endswith("on\n"), done
        own = ("tty", "job control", "terminal process group")  # what the shell says of its own terminal
        return done.stdout + "".join(
            line for line in done.stderr.splitlines(True) if not any(words in line for words in own)
        )

    def listing(self) -> dict[str, tuple[int, str]]:
        """Every folder, file and link on it, with rights and contents."""
        found = {}
        for base in (self.root, self.home):
            for folder, folders, files in os.walk(base):
                for name in (*folders, *files):
                    path = Path(folder, name)
                    status = path.lstat()
                    link = f"-> {path.readlink()}" if path.is_symlink() else ""
                    text = link or ("" if path.is_dir() else path.read_text())
                    found[str(path)] = (status.st_mode, text)
        return found

    def box(self) -> Path:
        """What this user is told."""
        return self.root / "var/lib/bnbenv/users" / str(os.geteuid())


@pytest.fixture
def machine(tool_environ: dict[str, str], tmp_path: Path) -> Machine:
    """A machine without a driver, with a project that was never synced."""
    if not sys.platform.startswith("linux"):
        pytest.skip("hooks are for Linux")
    root, home, project = tmp_path / "root", tmp_path / "home", tmp_path / "project"
    for folder in (
        root / "etc/apt/apt.conf.d",
        root / "etc/profile.d",
        root / "var/lib",
        home / ".local/share",
        project,
    ):
        folder.mkdir(parents=True)
    (project / "bnbenv.toml").write_text("[envs.bnb]\n")
    (home / ".bashrc").write_text("alias ll='ls -l'")  # no line's end
    own = {"BNBENV_SYSROOT": str(root), "HOME": str(home), "BNBENV_OFFLINE": "1", "TZ": "UTC"}
    environ = {name: value for name, value in tool_environ.items() if not name.startswith(("BNBENV_", "XDG_"))}
    return Machine(root, home, project, {**environ, **own})


@pytest.fixture
def wait() -> Callable[[Callable[[], object]], None]:
    """Wait until something holds that is done in the background."""
    import time

    def until(holds: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.05)

    return until


@pytest.fixture
def faults() -> Callable[[Any], list[str]]:
    """What a document's schema has against it."""
    from importlib.resources import files

    from jsonschema import Draft202012Validator

    def check(document: Any) -> list[str]:
        name = document["schema"].removeprefix("bnbenv.").removesuffix("/1")
        schema = json.loads((files("bnbenv") / "schemas" / f"{name}.json").read_text())
        return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(document)]

    return check
