"""What upstream's trees need for their own build backend to make a wheel without running CMake.

Their kernels are compiled by bnbenv, for which that run of CMake knows neither the toolkit nor the architectures.
"""

from __future__ import annotations

import re
from pathlib import Path

from bnbenv.paths import write_atomically

# From 0.49.0 on setup.py asks for it.
_SWITCH = "BNB_SKIP_CMAKE"
# 0.46.1 to 0.48.2: without scikit-build-core setup.py says that CMake is not run, and packages what lies in the folder.
_REQUIRES = re.compile(r"([\"'])scikit-build-core\b[^\"']*\1\s*,?\s*")
_BACKEND = re.compile(r"^(\s*build-backend\s*=\s*)([\"'])scikit_build_core\.setuptools\.build_meta\2", re.MULTILINE)


def prepare_for_packaging(folder: Path) -> dict[str, str | None]:
    """Make the private copy of a tree ready for ``Packages.wheel``; the changes to its environment are returned.

    Through 0.46.0 nothing is needed. 0.46.1 to 0.48.2 always run CMake where scikit-build-core is there: plain
    setuptools is made their build backend, one line of pyproject.toml, which their setup.py provides for. From 0.49.0
    on a variable does. Raises OSError.
    """
    setup = _text(folder / "setup.py")
    if _SWITCH in setup:
        return {_SWITCH: "1"}
    pyproject = folder / "pyproject.toml"
    text = _text(pyproject)
    changed, count = _BACKEND.subn(r"\1\2setuptools.build_meta\2", text)
    if count:
        write_atomically(pyproject, _REQUIRES.sub("", changed, count=1))
    return {_SWITCH: "1"}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
