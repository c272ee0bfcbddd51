"""A Jupyter kernel for an environment: its ``kernel.json`` starts Python through the link, so it follows every switch.

Where kernelspecs lie and what stands in them: jupyter-client.readthedocs.io/en/stable/kernels.html#kernel-specs;
``JUPYTER_DATA_DIR`` and the folders of each system: docs.jupyter.org, "Common Directories and File Locations".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MARK = "bnbenv"  # the key of kernel.json's metadata that says whose it is


def data_folder(environ: Mapping[str, str], home: Path, platform: str) -> Path:
    """The user's Jupyter data folder. ``platform`` is ``sys.platform``. Pure."""
    if environ.get("JUPYTER_DATA_DIR"):
        return Path(environ["JUPYTER_DATA_DIR"])
    if platform == "darwin":
        return home / "Library" / "Jupyter"
    if platform == "win32":
        return Path(environ["APPDATA"]) / "jupyter" if environ.get("APPDATA") else home / ".jupyter" / "data"
    base = environ.get("XDG_DATA_HOME")
    return (Path(base) if base else home / ".local" / "share") / "jupyter"


def kernel_name(project: str, env: str) -> str:
    """The kernel's name, as Jupyter allows it: small letters, digits, ``.``, ``_`` and ``-``. Pure."""
    return re.sub(r"[^a-z0-9._-]+", "-", f"bnbenv-{project}-{env}".lower()).strip("-")


def kernel_json(python: str, project: str, root: str, env: str) -> str:
    """The text of ``kernel.json``; ``root`` is the project's folder and ``project`` what it is called. Pure."""
    spec = {
        "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": f"{env} ({project})",
        "language": "python",
        "metadata": {"debugger": True, MARK: {"project": root, "env": env}},
    }
    return json.dumps(spec, indent=1) + "\n"  # names of files may be no UTF-8


def owner(text: str) -> tuple[str, str] | None:
    """The project and the environment that a ``kernel.json`` was made for; None: it is none of bnbenv's. Pure."""
    try:
        mark: Any = json.loads(text)["metadata"][MARK]
        found = (mark["project"], mark["env"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return found if all(isinstance(one, str) for one in found) else None
