"""``bnbenv run``: a command in the environment, with a diagnosis, retries and a way out if it fails."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_one_env, project_of
from bnbenv.cli.help import seconds, whole_number
from bnbenv.cli.log import FOLDER
from bnbenv.errors import BnbenvError, Failed, NotExecutable, NotFound, UsageError
from bnbenv.paths import Sysroot, exists, expand

if TYPE_CHECKING:
    from bnbenv.doctor.model import Examination
    from bnbenv.doctor.running.job import Job, Ports, Report
    from bnbenv.envs.check import InUse
    from bnbenv.envs.project import Project

SUMMARY = """\
Run a command in the environment: its programs come first on PATH. Output, input,
terminal, signals and exit code are the command's own. If it fails, two lines on
standard error say cause and fix, as far as its last output tells them.

Causes that pass by themselves (a busy device, memory held by another process, a
pending ECC retirement, start-up races of NCCL) are tried again after 5, 10, 20
... seconds, unless the command was interrupted, ran longer than --retry-within,
or reads a pipe. The end of an output that was diagnosed is kept in .bnbenv/log, for all that the
doctor has to say about it.

--json prints the report on standard output, and the command's own output goes
to standard error; --report FILE leaves both streams to the command. Processes
that outlive the command lose their output."""
EXAMPLE = """\
bnbenv run -- python train.py
bnbenv run --wait-memory 20GiB --on-oom cpu -- python train.py --batch 8
bnbenv run --on-oom "python train.py --batch 1" -- python train.py"""
EXITS = (
    "0 the command's own, whatever it is; a signal that ended it ends bnbenv too (a shell sees 128 + its number), "
    "1 there is no environment yet or no free memory in time, 2 wrong usage, 126 the command cannot be executed, "
    "127 there is no such command"
)
WAIT_LIMIT = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_one_env(parser)
    parser.add_argument("--retries", metavar="N", type=whole_number, default=3, help="at most so many (default: 3)")
    parser.add_argument(
        "--retry-within",
        metavar="S",
        type=seconds,
        default=300.0,
        help="what ran longer may have done work, and is not tried again (default: 300)",
    )
    parser.add_argument(
        "--wait-memory", metavar="SIZE", type=_size, help="first wait until a GPU has so much free: 20GiB, 20GB, 512MiB"
    )
    parser.add_argument(
        "--wait-limit", metavar="S", type=seconds, default=WAIT_LIMIT, help="how long for that (default: 3600)"
    )
    parser.add_argument(
        "--on-oom",
        metavar="CMD",
        type=_words,
        help='run this once if memory was the cause; "cpu": the same command without GPUs',
    )
    parser.add_argument("--report", metavar="FILE", help="write the JSON document into this file")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD", help="after --: the command and its words")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    """The report as a document; its exit is the command's return code, negative for a signal.

    Raises Failed (no environment, no memory in time), NotFound, NotExecutable, UsageError.
    """
    argv = tuple(args.command[1:] if args.command[:1] == ["--"] else args.command)
    if not argv:
        raise UsageError("usage", "expected a command after --", "See: bnbenv run --help")
    file = _report_file(args.report, ctx)
    project = project_of(args, ctx)
    use = _environment(project, args.env)
    assert use.prefix is not None
    env = environment_of(use.prefix, ctx.environ)
    if not argv[0]:
        raise _not_started(FileNotFoundError(), argv[0], env)
    from bnbenv.doctor.running.job import run_job

    job = _job(args, argv, env, use)
    try:
        report = run_job(job, _ports(args, project, ctx))
    except OSError as error:
        raise _not_started(error, argv[0], env) from None
    except KeyboardInterrupt:
        from bnbenv.cli.errors import Interrupted

        raise Interrupted("interrupted", "interrupted: the command is not running") from None
    output = _keep_output(report, project.home / FOLDER / f"run-{args.env}.txt")
    document = report.document(argv, args.env, output)
    if file is not None:
        _write_report(file, document, ctx)
    unfinished = bool(report.tail) and not report.tail.endswith(b"\n")
    return Outcome(report.last.returncode, document, {"unwritten": report.unwritten, "unfinished": unfinished})


def environment_of(prefix: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """What the command gets: the generation itself and not the link, so that a later sync changes nothing under it."""
    programs = str(prefix / ("Scripts" if os.name == "nt" else "bin"))
    env = {name: value for name, value in environ.items() if name not in ("PYTHONHOME", "__PYVENV_LAUNCHER__")}
    path = environ.get("PATH")
    return {**env, "PATH": f"{programs}{os.pathsep}{path}" if path else programs, "VIRTUAL_ENV": str(prefix)}


def _environment(project: Project, env: str) -> InUse:
    """The generation in use. Raises Failed where there is none."""
    from bnbenv.envs.check import in_use
    from bnbenv.envs.generations import check_link
    from bnbenv.envs.project import DEFAULT_ENV

    use = in_use(project, env)
    if use.problem is not None:
        check_link(project, env)
        named = "" if env == DEFAULT_ENV else f" --env {env}"
        raise Failed(use.problem.code, use.problem.because, f"Make it with: bnbenv sync{named}")
    return use


def _job(args: argparse.Namespace, argv: tuple[str, ...], env: Mapping[str, str], use: InUse) -> Job:
    from bnbenv.doctor.running.attempts import Limits
    from bnbenv.doctor.running.job import Job

    # What is not set here, the environment's own .pth sets.
    decided = use.record.decision.get("visible_devices") if use.record else None
    shown = env.get("CUDA_VISIBLE_DEVICES", ",".join(decided) if decided else None)
    memory = None
    if args.wait_memory is not None:
        from bnbenv.doctor.running.waiting import Request

        memory = Request(args.wait_memory, args.wait_limit, shown)
    return Job(argv, env, Limits(retries=args.retries, within=args.retry_within), memory, args.on_oom, shown)


def _ports(args: argparse.Namespace, project: Project, ctx: Context) -> Ports:
    from bnbenv.doctor.running.job import Ports
    from bnbenv.facts.memory import may_have_gpus, watch_memory
    from bnbenv.process.passing import SystemPasser
    from bnbenv.process.stdin import Input

    sysroot = Sysroot.from_environment(ctx.environ)

    def judge(tail: bytes) -> Any:
        # How the command ended is kept, whatever its output does to those who read it.
        try:
            from bnbenv.doctor.running.judge import judge

            return judge(tail, lambda: _examined(project, args.env, ctx))
        except Exception as error:
            ctx.progress.detail(f"its output could not be diagnosed ({type(error).__name__}: {error})")
            return None

    def judge_kill() -> Any:
        from bnbenv.doctor.running.judge import judge_kill

        return judge_kill()

    def kills() -> int | None:
        words = (sysroot.read("/proc/vmstat") or "").partition("oom_kill ")[2].split(maxsplit=1)
        return int(words[0]) if words and words[0].isdecimal() else None

    def watch(process: int, take: Any) -> Any:
        # Within its first second no program has torch loaded; what ends by then costs nothing.
        return watch_memory(ctx.environ, sysroot, take, seconds=0.5, process=process, delay=1.0)

    def ask(take: Any) -> Any:
        return watch_memory(ctx.environ, sysroot, take, seconds=1.0)

    watched = watch if may_have_gpus(ctx.environ, sysroot) else None
    passer = SystemPasser((2, 2) if args.json else (1, 2))
    return Ports(passer, SystemClock(), Input().rewind, judge, judge_kill, kills, watched, ask, ctx.progress)


def _examined(project: Project, env: str, ctx: Context) -> Examination | None:
    """The environment that the command ran in; None where that cannot be told."""
    from bnbenv.doctor.examine import Ports, Where, examine
    from bnbenv.facts import read_facts
    from bnbenv.paths import user_home

    sysroot = Sysroot.from_environment(ctx.environ)
    try:
        facts = read_facts(ctx.environ, sysroot, ctx.runner, None)
        return examine(Where(ctx.cwd, project, env), facts, Ports(ctx.environ, ctx.runner, sysroot, user_home()))
    except (BnbenvError, OSError):
        return None


class SystemClock:
    """The real time and chance."""

    def now(self) -> float:
        import time

        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        import time

        time.sleep(seconds)

    def chance(self) -> float:
        import random

        return random.random()


def _not_started(error: OSError, program: str, env: Mapping[str, str]) -> BnbenvError:
    """Why the command is not running, with the exit code that a shell has for it."""
    import shlex
    import shutil

    from bnbenv.decode import shown

    name, searched = shown(program), not {os.sep, os.altsep} & {*program}
    place = shutil.which(program, os.F_OK, env.get("PATH")) if searched else program
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        reason = (error.strerror or type(error).__name__).lower()
        message = f'the command "{name}" cannot be executed: {reason}'
        return NotExecutable("not-executable", message, "Run it by its interpreter, as in: bnbenv run -- python FILE")
    if place is not None and exists(Path(place)):
        message = f'the command "{name}" cannot be executed: the interpreter that its first line names is not there'
        return NotExecutable("not-executable", message, "Correct that line, or run it by its interpreter.")
    where = ", neither in the environment nor on PATH" if searched else ""
    step = f"See what there is: ls {shlex.quote(env['PATH'].partition(os.pathsep)[0])}"
    return NotFound("not-found", f'there is no command "{name}"{where}', step)


def _keep_output(report: Report, path: Path) -> str | None:
    """Keep what was diagnosed, for ``bnbenv doctor --log``, until the next failure; only its owner may read it."""
    if report.last.judged is None:
        return None
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:  # noqa: PTH123
            stream.write(report.tail)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        return None
    return str(path)


def _report_file(name: str | None, ctx: Context) -> Path | None:
    """Where the document goes. Raises UsageError for a place where no file can be, before anything is run."""
    if name is None:
        return None
    path = ctx.cwd / expand(name)
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError("no-report-file", f"--report: no file can be written at {path}", "Name a file in a folder.")
    return path


def _write_report(path: Path, document: dict[str, Any], ctx: Context) -> None:
    """The command has run: that its report cannot be written does not change how it ended."""
    import json

    from bnbenv.paths import write_atomically

    try:
        write_atomically(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        ctx.progress.say(f"warning: the report {path} cannot be written ({(error.strerror or '').lower()})")


def _size(text: str) -> int:
    from bnbenv.doctor.running.sizes import read_size

    try:
        return read_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _words(text: str) -> tuple[str, ...]:
    """A command as a shell divides it."""
    import shlex

    try:
        words = tuple(shlex.split(text, posix=sys.platform != "win32"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"cannot be divided into words: {str(error).lower()}") from None
    if not words:
        raise argparse.ArgumentTypeError('expected a command, or "cpu"')
    return words
