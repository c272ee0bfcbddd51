"""The texts of ``bnbenv export``. Pure.

Formats: pip's requirements file format with hashes (pip.pypa.io/en/stable/reference/requirements-file-format and
topics/secure-installs), conda's environment.yml (docs.conda.io, "Creating an environment file manually"), the
Dockerfile reference (docs.docker.com/reference/dockerfile, "Here-Documents"), PEP 751.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePath

from bnbenv.export.model import Exported, Package

WHEELS = "wheels"  # the folder beside a Dockerfile that holds what has no address
PREFIX = "/opt/bnbenv"
_TOOL = f"{PREFIX}/.tool"  # no environment is called so
_END = "BNBENV_REQUIREMENTS"


def requirements(given: Exported) -> str:
    """A requirements file with a hash for every file; ``pip install --require-hashes -r`` and uv take it."""
    return "\n".join(_requirements(given, given.folders)) + "\n"


def _requirements(given: Exported, folders: tuple[str, ...]) -> list[str]:
    lines = [f"# {given.title}, Python {given.python}", "# install with: pip install --require-hashes -r this-file"]
    lines += [f"# needs in the environment: {name}={value}" for name, value in given.environment.items()]
    if given.kept:
        lines.append(f"# for a Python that has torch {given.kept} already: it is not in this list")
    lines += _options(given, folders)
    for package in given.packages:
        hashes = (f"    --hash=sha256:{sha256}" for sha256 in package.hashes)
        lines += " \\\n".join([_pin(package), *hashes]).splitlines()
    return lines


def conda(given: Exported) -> str:
    """An environment.yml: Python from conda, all else by pip, with its hashes. Strings are quoted as JSON's are."""
    pip = _options(given, given.folders)
    pip += [" ".join([_pin(one), *(f"--hash=sha256:{sha256}" for sha256 in one.hashes)]) for one in given.packages]
    lines = [
        f"# {given.title}",
        f"name: {json.dumps(given.env)}",
        "channels:",
        "  - conda-forge",
        "dependencies:",
        f"  - python={given.python}",
        "  - pip",
        "  - pip:",
        *(f"      - {json.dumps(line)}" for line in pip),
    ]
    if given.environment:
        lines += ["variables:", *(f"  {name}: {json.dumps(value)}" for name, value in given.environment.items())]
    return "\n".join(lines) + "\n"


def dockerfile(given: Exported, base: str, bnbenv: str = "") -> str:
    """A Dockerfile that makes the environment on the image ``base``, which holds the very Python.

    It is one file, with the requirements in it, as long as all packages have an address; the others are taken from a
    folder ``wheels`` beside it. ``bnbenv``: that release of bnbenv is installed too, beside the environment.
    """
    local = [one for one in given.packages if one.folder]
    system = " --system-site-packages" if given.kept else ""
    lines = ["# syntax=docker/dockerfile:1", f"# {given.title}, Python {given.python}"]
    if given.cuda:
        need = f", {given.driver} or newer" if given.driver else ""
        lines.append(f"# The NVIDIA driver is the host's{need}: docker run --gpus all (NVIDIA Container Toolkit).")
    lines += [f"FROM {base}", f"COPY <<'{_END}' {PREFIX}/requirements.txt"]
    lines += [*_requirements(given, (f"/{WHEELS}",) if local else ()), _END]
    if local:
        lines.append(f"COPY {WHEELS}/ /{WHEELS}/")
    lines += [
        f"RUN python3 -m venv{system} {PREFIX}/{given.env} && \\",
        f"    {PREFIX}/{given.env}/bin/python -m pip install --no-cache-dir --require-hashes"
        f" -r {PREFIX}/requirements.txt",
        f"ENV VIRTUAL_ENV={PREFIX}/{given.env} PATH={PREFIX}/{given.env}/bin:$PATH",
        *(f"ENV {name}={value}" for name, value in given.environment.items()),
    ]
    if bnbenv:
        lines += [
            f"RUN python3 -m venv {_TOOL} && \\",
            f"    {_TOOL}/bin/python -m pip install --no-cache-dir bnbenv=={bnbenv} && \\",
            f"    ln -s {_TOOL}/bin/bnbenv /usr/local/bin/bnbenv",
        ]
    return "\n".join(lines) + "\n"


def to_copy(given: Exported) -> list[str]:
    """The files that belong into the folder beside a Dockerfile."""
    return [f"{one.folder}/{name}" for one in given.packages if one.folder for name in one.files]


def pylock(text: str) -> str:
    """A lock without bnbenv's own table, which names folders of this machine: PEP 751 leaves ``[tool]`` to its tool."""
    import tomlkit

    document = tomlkit.parse(text)
    tool = document.get("tool")
    if tool is not None:
        tool.pop("bnbenv", None)
        if not tool:
            document.pop("tool")
    return tomlkit.dumps(document).rstrip("\n") + "\n"


def _options(given: Exported, folders: tuple[str, ...]) -> list[str]:
    index = [f"--extra-index-url {given.index}"] if given.index else []
    return [*index, *(f"--find-links {_place(folder)}" for folder in folders)]


def _place(folder: str) -> str:
    """A folder as pip and uv read it in a file of options: with spaces and the like it has to be an address."""
    return folder if re.fullmatch(r"[\w./:\\+-]+", folder) else PurePath(folder).as_uri()


def _pin(package: Package) -> str:
    return f"{package.name}=={package.version}"
