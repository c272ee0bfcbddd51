"""``bnbenv export``: an environment in a form that other programs read."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import project_of
from bnbenv.errors import Exit, Failed, InputError, UsageError

if TYPE_CHECKING:
    from bnbenv.envs.lockfile import Locked
    from bnbenv.envs.project import Project
    from bnbenv.export.model import Exported
    from bnbenv.export.slurm import Caller

SUMMARY = """\
Print an environment in a form that other programs read, from its lock: the same
versions, each file with its hash. Nothing is installed and nobody is asked.

Or what a scheduler needs to look after a project on its machines: a Prolog and
a HealthCheckProgram for Slurm, which drain a node that is not in sync with the
reason; a systemd timer; a Pod and a Job for Kubernetes, which begin with
"verify". Comments in them say where they belong."""
EXAMPLE = """\
bnbenv export requirements > requirements.txt
bnbenv export dockerfile -o Dockerfile
bnbenv export conda --env gptq
bnbenv export slurm-health -o /etc/slurm/bnbenv-health.sh
bnbenv export systemd-timer --sync -o /etc/systemd/system"""
EXITS = "0 printed or written, 1 it cannot be written, 2 wrong usage, or a lock that is missing or cannot be read"

LOCKED = ("requirements", "conda", "dockerfile", "pylock", "kubernetes")  # are made of a lock
WATCHING = ("slurm-prolog", "slurm-health", "systemd-timer")  # of a project as it is
FORMATS = (*LOCKED, *WATCHING)

# Which option is of which format, beside those of all.
_OWN = {"base": "dockerfile", "with_bnbenv": "dockerfile", "image": "kubernetes", "sync": "systemd-timer"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = (
        "requirements: for pip and uv; conda: environment.yml; dockerfile; pylock: PEP 751; kubernetes: a Pod and a "
        "Job; slurm-prolog, slurm-health: programs for its nodes; systemd-timer: a service and a timer"
    )
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT", help=what)
    parser.add_argument("--env", metavar="NAME", help="the environment (default: bnb; of slurm and systemd: all)")
    where = "write it there (default: print it); of systemd-timer a folder"
    parser.add_argument("-o", "--output", metavar="FILE", help=where)
    parser.add_argument("--base", metavar="IMAGE", help="the image of a Dockerfile (default: python:<version>-slim)")
    what = "a Dockerfile in which bnbenv itself is installed as well, as kubernetes needs it"
    parser.add_argument("--with-bnbenv", action="store_true", default=None, help=what)
    parser.add_argument("--image", metavar="IMAGE", help="of kubernetes: the image that was made of the Dockerfile")
    what = "of systemd-timer: bring it in sync as well, instead of only looking"
    parser.add_argument("--sync", action="store_true", default=None, help=what)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    _check_options(args)
    made = _from_lock(args, ctx) if args.format in LOCKED else _watching(args, ctx)
    path = None
    if args.output and made.files:
        path = _write_all(ctx.cwd / args.output, made.files)
    elif args.output:
        path = _write(ctx.cwd / args.output, made.text, args.format.startswith("slurm-"))
    document = {
        "schema": "bnbenv.export/1",
        "env": made.env,
        "format": args.format,
        "path": str(path) if path else None,
        "packages": made.packages,
        "text": made.text,
        "files": [{"name": name, "text": text} for name, text in made.files.items()],
        "notes": made.notes,
    }
    if path is None:
        for note in made.notes:
            ctx.progress.say(f"note: {note}")
    return Outcome(Exit.DONE, document)


class _Made(NamedTuple):
    """What was made. ``files`` are named where they are several; ``text`` then shows all of them."""

    text: str
    notes: list[str]
    env: str | None = None
    packages: int | None = None
    files: Mapping[str, str] = MappingProxyType({})


def _check_options(args: argparse.Namespace) -> None:
    """Raises UsageError for an option of another format, and for what names no image."""
    for name, format in _OWN.items():
        value = getattr(args, name)
        if value is None:
            continue
        option = f"--{name.replace('_', '-')}"
        if format != args.format:
            message = f"{option} is for the format {format}, not for {args.format}"
            raise UsageError("other-format", message, f"Try: bnbenv export {format} --help")
        if isinstance(value, str) and not (value.strip() and value.isprintable()):
            raise UsageError("no-image", f"{option} names an image", f"Try: bnbenv export {format} --help")


def _from_lock(args: argparse.Namespace, ctx: Context) -> _Made:
    from bnbenv import __version__
    from bnbenv.envs.project import DEFAULT_ENV
    from bnbenv.export import texts

    project, env = project_of(args, ctx), args.env or DEFAULT_ENV
    locked = _locked(project, env)
    given = _exported(project, locked, ctx)
    notes = given.notes()
    if args.format == "dockerfile":
        text = texts.dockerfile(given, _image(given, args.base), __version__ if args.with_bnbenv else "")
        copies = texts.to_copy(given)
        if copies:
            notes.append(f"copy into a folder {texts.WHEELS} beside the Dockerfile: {', '.join(copies)}")
    elif args.format == "conda":
        if given.kept:
            message = f"{env} lies on top of a torch that is there ({given.kept}): conda cannot make that anew"
            step = f"Print what comes on top: bnbenv export requirements --env {env}"
            raise UsageError("kept-torch", message, step)
        text = texts.conda(given)
    elif args.format == "pylock":
        text = texts.pylock(locked.text)
    elif args.format == "kubernetes":
        from bnbenv.export.kubernetes import image_name, kubernetes

        text = kubernetes(given, (args.image or image_name(given)).strip(), __version__)
        notes = []  # are about the image
    else:
        text = texts.requirements(given)
    return _Made(text, notes, env, len(given.packages))


def _watching(args: argparse.Namespace, ctx: Context) -> _Made:
    """What looks after a project on the machine that it is on. Raises UsageError, InputError.

    Nothing of the project is read, so root prints it for any user's: what is printed runs as that user.
    """
    from bnbenv.envs.project import check_env_name, find_project
    from bnbenv.export import slurm

    if args.env is not None:
        check_env_name(args.env, "--env", "")
    caller, notes = _caller(args, find_project(ctx.cwd, ctx.environ, args.project), ctx)
    if args.format == "systemd-timer":
        from bnbenv.export.timer import FOLDER, units
        from bnbenv.hooks.kinds import systemd_word

        files = units(caller, bool(args.sync), systemd_word)
        shown = "\n".join(f"# {FOLDER}/{name}\n{text}" for name, text in files.items())
        return _Made(shown, notes, args.env, files=files)
    text = slurm.prolog(caller) if args.format == "slurm-prolog" else slurm.health(caller)
    return _Made(text, notes, args.env)


def _caller(args: argparse.Namespace, project: Project, ctx: Context) -> tuple[Caller, list[str]]:
    """How machines ask about the project, as the user whose it is, and what there is to know of that."""
    from bnbenv.cli.render.check import reason_mark
    from bnbenv.export.slurm import Caller
    from bnbenv.hooks.caller import caller_of, check_safe
    from bnbenv.hooks.place import closed, place_of
    from bnbenv.hooks.registry import owner_name

    place = place_of(ctx.environ, user=False)
    how = caller_of(place, ctx.environ, ctx.runner)
    root = str(project.root)
    if project.user or not project.root.is_dir():
        message = "machines are told of a project by its folder, and there is none here"
        raise UsageError("no-project", message, "Name it: bnbenv export ... --project DIR")
    if not root.isprintable():
        raise UsageError("odd-path", f"the path {root!r} has signs that no scheduler takes", "Give it another name.")
    uid = project.root.stat().st_uid
    notes = [f"bnbenv and {root} have to be at these same paths on every machine where this runs"]
    if uid == 0:
        try:
            check_safe(place._replace(uid=0), how, ())
        except UsageError as error:
            notes.append(f"not safe: {error.message}")
    elif private := closed(Path(how.command[0])):
        notes.append(f"{owner_name(uid)} may not enter {private}, where bnbenv is: install it where all may read it")
    variables = {name: ctx.environ[name] for name in ("BNBENV_HOME", "BNBENV_TRUSTED") if ctx.environ.get(name)}
    owner = owner_name(uid)
    if owner.startswith("user "):
        raise UsageError("no-owner", f"{root} belongs to {owner}, who has no name here", "Give it to a user: chown")
    command = (root, owner, args.env or "", reason_mark(root), how.command, {**how.variables, **variables}, how.version)
    return Caller(*command), notes


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


def _write_all(folder: Path, files: Mapping[str, str]) -> Path:
    """Raises UsageError (no folder), Failed."""
    if not folder.is_dir():
        raise UsageError("no-folder", f"{folder} is no folder, and there are several files", "Name a folder with -o.")
    for name, text in files.items():
        _write(folder / name, text)
    return folder


def _write(path: Path, text: str, program: bool = False) -> Path:
    """Raises UsageError (no file), Failed."""
    from bnbenv.paths import check_output, write_atomically

    check_output(path)
    try:
        write_atomically(path, text)
        if program:
            path.chmod(0o755)
    except OSError as error:
        message = f"{path} cannot be written ({(error.strerror or str(error)).lower()})"
        raise Failed("not-written", message, "Name another file with -o, or none to print it.") from None
    return path
