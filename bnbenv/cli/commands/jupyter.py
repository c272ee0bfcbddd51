"""``bnbenv jupyter``: a kernel for notebooks that follows the environment."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_one_env, project_of
from bnbenv.envs.check import in_use
from bnbenv.envs.project import env_python, site_packages
from bnbenv.errors import Exit, Failed

if TYPE_CHECKING:
    from bnbenv.envs.project import Project

SUMMARY = """\
Install a Jupyter kernel for the environment, for this user. It starts Python
through the link .venv-<env>, so after every sync and rollback a kernel that is
restarted has the generation in use. The environment needs ipykernel."""
EXAMPLE = """\
bnbenv jupyter --env bnb
bnbenv jupyter --env bnb --uninstall"""
EXITS = "0 done, 1 there is no environment, it has no ipykernel, or it cannot be written, 2 unreadable input"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_one_env(parser)
    parser.add_argument("--uninstall", action="store_true", help="take the kernel away")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.export.kernelspec import data_folder, kernel_name
    from bnbenv.paths import user_home

    project = project_of(args, ctx)
    kernels = data_folder(ctx.environ, user_home(), sys.platform) / "kernels"
    called = "own" if project.user else project.root.name
    folder = _ours(kernels, kernel_name(called, args.env), str(project.root), args.env)
    try:
        changed = _take_away(folder) if args.uninstall else _install(project, args.env, called, folder)
    except OSError as error:
        message = f"{folder} cannot be changed ({(error.strerror or str(error)).lower()})"
        raise Failed("not-written", message, "Mend that, or name another folder in JUPYTER_DATA_DIR.") from None
    document: dict[str, Any] = {
        "schema": "bnbenv.jupyter/1",
        "env": args.env,
        "kernel": folder.name,
        "path": str(folder),
        "installed": not args.uninstall,
        "changed": changed,
        "python": str(env_python(project.link(args.env))),
    }
    return Outcome(Exit.DONE, document)


def _ours(kernels: Path, name: str, root: str, env: str) -> Path:
    """The kernel's folder: that which is this environment's already, else the first name that nobody has taken.

    Raises Failed where all of a hundred names are taken.
    """
    from bnbenv.export.kernelspec import owner

    for number in range(100):
        folder = kernels / (f"{name}-{number + 1}" if number else name)
        try:
            if owner((folder / "kernel.json").read_text(encoding="utf-8")) == (root, env):
                return folder
        except FileNotFoundError:
            if not folder.exists():
                return folder
        except (OSError, UnicodeDecodeError):
            continue
    raise Failed("name-taken", f"{kernels} holds other kernels named {name}", "Delete those that nobody needs.")


def _take_away(folder: Path) -> bool:
    import shutil

    if not folder.exists():
        return False
    spec = folder / "kernel.json"
    others = [entry for entry in folder.iterdir() if entry != spec]
    spec.unlink(missing_ok=True)
    if not others:  # a logo, or what else somebody put there, is not ours
        shutil.rmtree(folder)
    return True


def _install(project: Project, env: str, called: str, folder: Path) -> bool:
    """Raises Failed where there is no environment, or nothing in it that a kernel could be."""
    from bnbenv.export.kernelspec import kernel_json
    from bnbenv.paths import write_atomically

    use = in_use(project, env)
    if use.problem is not None or use.prefix is None:
        because = use.problem.because if use.problem else f"there is no environment {env}"
        raise Failed("no-environment", because, f"Make it with: bnbenv sync --env {env}")
    below = use.record.base["folders"] if use.record and use.record.base else ()  # a container may bring one
    folders = (site_packages(use.prefix), *map(Path, below))
    if not any(folder and (folder / "ipykernel_launcher.py").exists() for folder in folders):
        message = f"the environment {env} has no ipykernel, which every Jupyter kernel of Python needs"
        step = f'Add "ipykernel" to requirements in [envs.{env}] of {project.config}, then run: bnbenv sync --env {env}'
        raise Failed("no-ipykernel", message, step)
    text = kernel_json(str(env_python(project.link(env))), called, str(project.root), env)
    spec = folder / "kernel.json"
    if spec.exists() and spec.read_bytes() == text.encode():
        return False
    write_atomically(spec, text)
    return True
