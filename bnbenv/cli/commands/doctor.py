"""``bnbenv doctor``: what is broken, why, and what to do; with ``--fix`` it is done."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import contextmanager, nullcontext
from io import BufferedReader, BytesIO
from typing import TYPE_CHECKING, cast

from bnbenv.cli.command import Context, Outcome
from bnbenv.errors import Exit, InputError, UsageError
from bnbenv.paths import expand

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from io import RawIOBase

    from bnbenv.doctor.conclude import Conclusion, Judged
    from bnbenv.doctor.fixes import Hands, Mended
    from bnbenv.doctor.model import TextDiagnosis
    from bnbenv.doctor.rules import Case
    from bnbenv.envs.project import Project
    from bnbenv.matrix.model import Matrix
    from bnbenv.solve.model import Backend, FamilyName

SUMMARY = """\
Say what is broken: one cause, the evidence for it, and what to do. Looked at
are the driver and the GPUs, and an environment: this project's, or any other
(venv, conda, the system's) by its folder or its Python; nothing of it is
imported. With --log the error text decides: a traceback, a training log, the
output of python -m bitsandbytes or of a build, of any version.

--fix carries out what it can: for an environment of bnbenv's own in a new
generation, for anything else only with --yes, and after recording what is
there; --undo puts that back. An environment that mixes the families of
quantization packages stays as it is: each gets one of its own in this project."""
EXAMPLE = "bnbenv doctor ~/venvs/train --log train.log"
EXITS = (
    "0 nothing was found, 1 the fix failed, 2 no such environment, or a text that cannot be read, 3 something was "
    "found, 4 nothing known to be good fits, 5 after the fix the kernels fail; what was there was put back, 6 "
    "reboot required, 7 a package source cannot be reached, 8 another bnbenv is at work"
)

# What no package mends: neither the solver nor the package sources are asked about these, which takes seconds.
BY_PEOPLE = frozenset({"driver_library_mismatch", "no_gpu_visible", "windows_msvc_runtime_missing", "hf_access"})
SET_IN_FILES = frozenset({"gpus-hidden"})  # but a variable is taken out of its file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("path", metavar="PATH", nargs="?", help="an environment's folder, or its Python")
    parser.add_argument("--env", metavar="NAME", help="the environment of this project (default: the one in use)")
    parser.add_argument("--log", metavar="FILE", help="the error text; - for standard input")
    parser.add_argument("--deep", action="store_true", help="run the kernels too, as verify does")
    parser.add_argument("--fix", action="store_true", help="carry out what can be done by a command")
    parser.add_argument("--yes", action="store_true", help="with --fix: also where bnbenv did not make the environment")
    parser.add_argument(
        "--undo", metavar="RECORD", nargs="?", const="", help="put back what a fix has changed (default: the last one)"
    )
    parser.add_argument("--facts", metavar="FILE", help="recorded facts instead of this host")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    """The findings as a document; exit 0, 3 or 6.

    Raises UsageError (no such environment, options that do not go together), InputError (a text or facts that cannot be
    read), and what carrying out a fix raises.
    """
    _check_words(args)
    from bnbenv.doctor.document import document

    project = _project(args, ctx)
    if args.undo is not None:
        return _undo(args.undo, project, ctx)
    text = _diagnosed(args.log, ctx) if args.log is not None else None
    case, hands = _examined(args, project, ctx)
    conclusion = _concluded(args, case, text, hands, ctx)
    mended = None
    if args.fix and conclusion.findings:
        from bnbenv.doctor.fixes import carry_out

        # A text of another machine says nothing of what is to be changed on this one.
        mine = [one for one in conclusion.findings if one.source == "machine" or not conclusion.contradictions]
        mended = carry_out(mine, case.examination, case.matrix, hands, yes=args.yes)
    body = document(conclusion, case.examination, text, _interrupted(hands), mended)
    return Outcome(_exit(conclusion, mended), body, {"call": _call(args, conclusion)})


def _call(args: argparse.Namespace, conclusion: Conclusion) -> str:
    """The command line that looks at the same again; with the text only where that decided. A pipe's is given anew."""
    import shlex

    words = ["--env", args.env] if args.env else [args.path] if args.path else []
    for name in ("log", "facts", "project"):
        value = getattr(args, name)
        if name == "log" and value is not None:
            of_text = any(one.source == "text" for one in conclusion.findings)
            value = None if not of_text else "FILE" if value == "-" else value
        words += [f"--{name}", value] if value else []
    return shlex.join(["bnbenv", "doctor", *words])


def _exit(conclusion: Conclusion, mended: Mended | None) -> Exit:
    if not conclusion.findings or (mended is not None and mended.state == "done"):
        return Exit.DONE
    primary = conclusion.findings[0]
    return Exit.REBOOT if primary.primary and primary.cause == "driver_library_mismatch" else Exit.PENDING


def _check_words(args: argparse.Namespace) -> None:
    """Options that do not go together. Raises UsageError."""
    step = "See: bnbenv doctor --help"
    if args.path is not None and args.env is not None:
        raise UsageError("usage", "an environment is named twice, by its path and by --env", step)
    if args.yes and not args.fix:
        raise UsageError("usage", "--yes goes with --fix", step)
    if args.undo is not None and (args.path or args.log or args.fix or args.deep):
        raise UsageError("usage", "--undo goes with none of PATH, --log, --deep and --fix", step)
    if args.log == "-" and args.facts == "-":
        raise UsageError("usage", "--log and --facts cannot both be standard input", step)


def _project(args: argparse.Namespace, ctx: Context) -> Project | None:
    """The project; none where it may not be trusted and another environment is meant anyway."""
    from bnbenv.cli.common import project_of

    try:
        return project_of(args, ctx)
    except UsageError:
        if args.path is None or args.project is not None:
            raise
        return None


# ---- the text --------------------------------------------------------------------------------------------------

_NO_TEXT = (
    b"\x7fELF",
    b"\x89PNG",
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"%PDF",
    b"\xff\xd8\xff",
    b"BZh",
    b"\xfd7zXZ",
    b"\x28\xb5",
)
_MARKS = (b"\xff\xfe", b"\xfe\xff")
_CONTROL = bytes(code for code in range(1, 32) if code not in (7, 8, 9, 10, 12, 13, 27))


def _diagnosed(name: str, ctx: Context) -> TextDiagnosis:
    """What a text says. Raises InputError where it is none."""
    from bnbenv.doctor.text import diagnose
    from bnbenv.progress import during

    with _opened(name, ctx) as stream, during(ctx.progress, f"reading {_called(name)}"), _readable(name):
        head = stream.peek(1)[:8192]
        if not head:
            raise InputError(_called(name), "", "it is empty", "Give the text of the error, as it was printed.")
        if _is_binary(head):
            step = "Give the text of the error, as it was printed."
            raise InputError(_called(name), "", "this is not text", step)
        return diagnose(stream)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """A disk or a device that fails while it is read. Raises InputError."""
    try:
        yield
    except OSError as error:
        reason = f"it cannot be read ({error.strerror or error})"
        raise InputError(_called(name), "", reason, "Give the text of the error, as it was printed.") from None


def _called(name: str) -> str:
    return "standard input" if name == "-" else name


def _opened(name: str, ctx: Context) -> AbstractContextManager[BufferedReader]:
    if name == "-":
        if sys.stdin is None:
            raise InputError(_called(name), "", "there is none", "Name a file: --log FILE")
        if sys.stdin.isatty():
            # Read here: no progress is drawn over what is pasted, and one Ctrl-D is enough.
            ctx.progress.say("paste the error text, then press Ctrl-D")
            return BufferedReader(cast("RawIOBase", BytesIO(sys.stdin.buffer.read())))
        return nullcontext(cast("BufferedReader", sys.stdin.buffer))
    path = ctx.cwd / expand(name)
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:
        reason = (
            "it is a folder" if path.is_dir() else f"it cannot be read ({getattr(error, 'strerror', None) or error})"
        )
        raise InputError(
            name, "", reason, "Name the file that holds the error text, or - for standard input."
        ) from None


def _is_binary(head: bytes) -> bool:
    """Logs hold colours, progress bars and odd encodings; files of other kinds hold signs that no program prints."""
    if head.startswith(_MARKS):
        return False
    control = len(head) - len(head.translate(None, _CONTROL))
    return head.startswith(_NO_TEXT) or control > len(head) * 0.05


# ---- the machine -----------------------------------------------------------------------------------------------


def _examined(args: argparse.Namespace, project: Project | None, ctx: Context) -> tuple[Case, Hands]:
    """What rules judge, and what carries fixes out."""
    from bnbenv.cli.common import facts_of
    from bnbenv.doctor.examine import Ports, Where, examine
    from bnbenv.doctor.fixes import Hands
    from bnbenv.doctor.rules import Case
    from bnbenv.paths import Sysroot, user_home
    from bnbenv.progress import during
    from bnbenv.solve.inspecting import situation_of

    facts = facts_of(ctx, args.facts)
    sysroot, home = Sysroot.from_environment(ctx.environ), user_home()
    with during(ctx.progress, "looking at the environment"):
        path = os.path.normpath(ctx.cwd / expand(args.path)) if args.path else args.path
        where = Where(ctx.cwd, project, args.env, path)
        matrix = _matrix(ctx.environ)
        try:
            examination = examine(where, facts, Ports(ctx.environ, ctx.runner, sysroot, home), matrix)
        except PermissionError as error:
            because = f"this user may not look into {error.filename or 'a folder of this environment'}"
            raise UsageError("not-permitted", because, "Run it as the user who owns that folder.") from None
    recorded = args.facts is not None or bool(ctx.environ.get("BNBENV_FACTS"))
    hands = Hands(ctx.environ, ctx.runner, sysroot, home, ctx.cwd, project, ctx.progress, recorded)
    made_for, family = _made_for(project, examination.target.env, matrix)
    return Case(examination, situation_of(facts, matrix), matrix, made_for, family), hands


def _matrix(environ: Mapping[str, str]) -> Matrix:
    """The shipped rows, and the user's own over them where there are any: what reads those is slow to import."""
    from bnbenv.envs.overlay import overlay
    from bnbenv.matrix.load import load_matrix

    folder = overlay(environ)
    if folder is None or not folder.is_dir():
        return load_matrix()
    from bnbenv.envs.resolve import user_matrix

    return user_matrix(environ)


def _made_for(project: Project | None, env: str | None, matrix: Matrix) -> tuple[Backend | None, FamilyName | None]:
    """What an environment of bnbenv's own was made for: ``cuda`` or ``cpu``, and which family."""
    if project is None or env is None:
        return None, None
    from bnbenv.envs.check import in_use
    from bnbenv.verify.families import family_decided

    record = in_use(project, env).record
    if record is None:
        return None, None
    found = record.decision.get("backend")
    family = family_decided(record.decision.get("choice"), matrix.families)
    return found if found in ("cuda", "cpu") else None, family


def _concluded(
    args: argparse.Namespace, case: Case, text: TextDiagnosis | None, hands: Hands, ctx: Context
) -> Conclusion:
    from bnbenv.doctor.conclude import conclude, judge, wanted
    from bnbenv.doctor.fixes import choose, prescribe

    examination, said = case.examination, text.said if text else None
    judged = judge(case)
    if args.deep:
        judged += _deep(case, hands)
    needs = [(code, cause) for code, cause in wanted(judged, text) if cause not in BY_PEOPLE or code in SET_IN_FILES]
    chosen = choose(needs, examination, said, case.matrix, hands) if needs else None
    return conclude(judged, examination, text, lambda code, cause: prescribe(code, cause, examination, said, chosen))


def _deep(case: Case, hands: Hands) -> tuple[Judged, ...]:
    """What running the kernels adds."""
    from bnbenv.doctor.deep import verdicts

    return verdicts(case, hands.environ, hands.runner, hands.progress, hands.recorded)


# ---- fixes -----------------------------------------------------------------------------------------------------


def _interrupted(hands: Hands) -> tuple[str, ...]:
    from bnbenv.doctor.fixes import in_progress

    return in_progress(hands)


def _undo(record: str, project: Project | None, ctx: Context) -> Outcome:
    from bnbenv.doctor.document import undone_document
    from bnbenv.doctor.fixes import Hands, undo
    from bnbenv.paths import Sysroot, user_home

    hands = Hands(
        ctx.environ, ctx.runner, Sysroot.from_environment(ctx.environ), user_home(), ctx.cwd, project, ctx.progress
    )
    return Outcome(Exit.DONE, undone_document(undo(record or None, hands)))
