"""``bnbenv export``: an environment in a form that other programs read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_one_env, project_of
from bnbenv.errors import Exit, Failed, InputError, UsageError

if TYPE_CHECKING:
    from bnbenv.envs.lockfile import Locked
    from bnbenv.envs.project import Project
    from bnbenv.export.model import Exported

SUMMARY = """\
Print an environment in a form that other programs read, from its lock: the same
versions, each file with its hash. Nothing is installed and nobody is asked."""
EXAMPLE = """\
bnbenv export requirements > requirements.txt
bnbenv export dockerfile -o Dockerfile
bnbenv export conda --env gptq"""
EXITS = "0 printed or written, 1 it cannot be written, 2 wrong usage, or a lock that is missing or cannot be read"

FORMATS = ("requirements", "conda", "dockerfile", "pylock")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "requirements: for pip and uv; conda: environment.yml; dockerfile; pylock: PEP 751"
    parser.add_argument("format", choices=FORMATS, help=what)
    add_one_env(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="write it there (default: print it)")
    parser.add_argument("--base", metavar="IMAGE", help="the image of a Dockerfile (default: python:<version>-slim)")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.export import texts

    project = project_of(args, ctx)
    locked = _locked(project, args.env)
    given = _exported(project, locked, ctx)
    notes = given.notes()
    if args.base is not None and (args.format != "dockerfile" or not args.base.strip() or not args.base.isprintable()):
        raise UsageError("no-image", "--base names the image of a Dockerfile", "Try: bnbenv export dockerfile --help")
    if args.format == "dockerfile":
        text = texts.dockerfile(given, _image(given, args.base))
        copies = texts.to_copy(given)
        if copies:
            notes.append(f"copy into a folder {texts.WHEELS} beside the Dockerfile: {', '.join(copies)}")
    elif args.format == "conda":
        if given.kept:
            message = f"{args.env} lies on top of a torch that is there ({given.kept}): conda cannot make that anew"
            step = f"Print what comes on top: bnbenv export requirements --env {args.env}"
            raise UsageError("kept-torch", message, step)
        text = texts.conda(given)
    elif args.format == "pylock":
        text = texts.pylock(locked.text)
    else:
        text = texts.requirements(given)
    path = _write(ctx.cwd / args.output, text) if args.output else None
    document = {
        "schema": "bnbenv.export/1",
        "env": args.env,
        "format": args.format,
        "path": str(path) if path else None,
        "packages": len(given.packages),
        "text": text,
        "notes": notes,
    }
    if path is None:
        for note in notes:
            ctx.progress.say(f"note: {note}")
    return Outcome(Exit.DONE, document)


def _locked(project: Project, env: str) -> Locked:
    """The lock of an environment. Raises InputError."""
    from bnbenv.envs.lockfile import agrees, read_lock

    path = project.lock(env)
    try:
        return agrees(read_lock(path.read_text(encoding="utf-8"), str(path)), str(path))
    except FileNotFoundError:
        step = f"Make one with: bnbenv lock --env {env}"
        raise InputError(str(path), "", "there is no lock to export", step) from None
    except UnicodeDecodeError as error:
        raise InputError(str(path), f"byte {error.start}", "expected UTF-8 text") from None
    except OSError as error:
        raise InputError(str(path), "", f"cannot be read ({error.strerror})") from None


def _exported(project: Project, locked: Locked, ctx: Context) -> Exported:
    from bnbenv.envs.resolve import sources_for, user_matrix
    from bnbenv.envs.wishes import load_wishes
    from bnbenv.export.model import exported
    from bnbenv.matrix.drivers import family_minimum

    matrix = user_matrix(ctx.environ)
    cuda = locked.decision.solution.choice.torch.cuda
    row = family_minimum(matrix.drivers, cuda) if cuda else None
    sources = sources_for(project, load_wishes(project).sources, matrix, ctx.environ)
    return exported(locked, sources, row.family_min_linux if row else "")


def _image(given: Exported, base: str | None) -> str:
    if base is not None:
        return base.strip()
    if given.kept:
        message = f"{given.env} lies on top of a torch that is there ({given.kept}), so the image has to bring that one"
        raise UsageError("kept-torch", message, "Name the image: bnbenv export dockerfile --base IMAGE")
    return f"python:{given.python}-slim"


def _write(path: Path, text: str) -> Path:
    """Raises UsageError (no file), Failed."""
    from bnbenv.paths import check_output, write_atomically

    check_output(path)
    try:
        write_atomically(path, text)
    except OSError as error:
        message = f"{path} cannot be written ({(error.strerror or str(error)).lower()})"
        raise Failed("not-written", message, "Name another file with -o, or none to print it.") from None
    return path
