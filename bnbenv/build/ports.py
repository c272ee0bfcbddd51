"""What a build is handed in: programs, packages, folders. The layers above have them; tests hand in small objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bnbenv.paths import Sysroot
from bnbenv.process import Runner
from bnbenv.progress import Progress, Quiet


class Packages(Protocol):
    """Python packages from the configured sources, by uv."""

    def environment(self, folder: Path, requirements: tuple[str, ...]) -> None:
        """Make an environment with these packages at a folder, in place of what is there.

        Raises SourceUnreachable, NoCombination (no source offers them), Failed.
        """

    def missing(self, requirements: tuple[str, ...]) -> str:
        """Why these packages cannot be had, asked without downloading them; empty where they can."""

    def wheel(self, tree: Path, out: Path, environ: Mapping[str, str | None]) -> Path:
        """The wheel that a tree's own build backend makes, in an isolated environment, in the folder ``out``.

        What was said meanwhile lies there as ``wheel.log``. ``environ`` changes the environment it runs in. Raises
        SourceUnreachable, Failed.
        """


@dataclass(frozen=True)
class Ports:
    """``home`` is the folder of builds, sources and toolchains (``builds`` in the user's data)."""

    environ: Mapping[str, str]
    runner: Runner
    sysroot: Sysroot
    packages: Packages
    home: Path
    progress: Progress = field(default_factory=Quiet)
    offline: str | None = None  # what switched the network off (``BNBENV_OFFLINE``)
