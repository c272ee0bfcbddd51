"""The command line: finds the command, runs it, prints its result; the only place that prints or exits.

A command is imported only when it is called: ``check`` has to answer in milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bnbenv.cli.interrupt import interruptible
from bnbenv.cli.log import RunLog
from bnbenv.errors import BnbenvError, Exit

if TYPE_CHECKING:
    from types import ModuleType

    from bnbenv.cli.command import Context, Outcome
    from bnbenv.cli.progress import Teller

# Command -> one line for --help. The order is the order of the pipeline.
COMMANDS: dict[str, str] = {
    "init": "write a commented bnbenv.toml into this folder",
    "adopt": "take in an environment that others made, as it is",
    "add": "add an environment of another family: gptq, awq, or none",
    "facts": "say what this host is: driver, GPUs, libc, Pythons, toolkits",
    "solve": "say which torch and bitsandbytes fit, or why none do",
    "why-not": "say what stands against versions that you name",
    "matrix": "look at, extend or draw the measured table that it judges by",
    "plan": "show what sync would change and why",
    "lock": "choose again and rewrite pylock.<env>.toml",
    "sync": "make the environment fit: stage, verify, then switch",
    "check": "say in milliseconds whether the environment is in sync",
    "status": "show everything at one glance; with --why what it rests on",
    "guard": "have an environment say itself that it was changed",
    "verify": "run real kernels and compare them with references",
    "run": "run a command in the environment; diagnose it if it fails",
    "doctor": "name what is broken, and with --fix mend it",
    "build": "compile bitsandbytes into a wheel, for exactly these GPUs",
    "bundle": "write one file with everything, for closed networks",
    "fit": "say whether a model fits into memory, and if not, what would",
    "list": "list the generations of the environment",
    "rollback": "switch back to an earlier generation",
    "gc": "delete generations that are not needed",
    "path": "print the path of the environment in use",
    "export": "print the environment for pip, conda, Docker or other installers",
    "jupyter": "install a Jupyter kernel that follows the environment",
    "config": "print the code that loads a model here, with its reasons",
    "prequantize": "write a checkpoint that needs no conversion",
    "hook": "have the environments follow a change of the driver",
    "fleet": "many machines, on Ansible: plan by kind, roll out, look",
    "completion": "print what makes bash, zsh or fish complete commands",
}

# Commands of two words.
GROUPS: dict[str, dict[str, str]] = {
    "matrix": {
        "show": "say what is known: all of it, a version, or a GPU",
        "update": "measure releases that are not known yet",
        "inspect": "say what is in a binary, and whether it would run here",
        "html": "write one page to look at, which needs no server",
    },
    "hook": {
        "install": "have package managers, systemd and shells call bnbenv",
        "uninstall": "take that away without a trace",
        "status": "say what is installed, noted and pending",
        "run": "what they call: note a change, and have projects follow",
    },
    "fleet": {
        "facts": "record what every host of an inventory is",
        "plan": "show the kinds of hosts, and what each would get",
        "sync": "roll it out: a canary of each kind, then batches",
        "check": "say of every host whether it is in sync",
        "collection": "say where the Ansible collection is, or put it elsewhere",
        "host": "what a host answers: facts, environments, GPU processes",
        "apply": "what a host does: take a bundle, verify, switch, or stay",
    },
}


def command_names() -> list[str]:
    """All commands as they are called: ``check``, ``matrix show``."""
    return [f"{name} {word}".strip() for name in COMMANDS for word in GROUPS.get(name, {"": ""})]


# Commands that are asked for what they print: -q keeps it.
ANSWERS = frozenset(
    {
        *("facts", "solve", "why-not", "matrix show", "matrix inspect", "status", "doctor", "build", "list", "path"),
        *("export", "config", "completion", "hook status", "fit", "fleet facts", "fleet collection"),
    }
)

# Standard output belongs to the command that they run: what bnbenv says of it goes to standard error.
ASIDE = frozenset({"run"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code, negative for a signal that bnbenv is to end by.

    Errors are shown as a sentence and a next step.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _prepare_streams()
    # Where everybody may write what is made (containers often say so), bnbenv itself would not believe it afterwards.
    os.umask(os.umask(0o022) | 0o002)
    log = RunLog(arguments)
    code: int = Exit.FAILED
    try:
        code = _main(arguments, os.environ, log)
    except BnbenvError as error:
        code = _show_error(error, arguments, os.environ, log)
    except (Exception, KeyboardInterrupt) as error:
        from bnbenv.cli.errors import from_exception

        code = _show_error(from_exception(error, "".join(arguments[:1])), arguments, os.environ, log)
    finally:
        log.end(code)
    return code


def _main(arguments: list[str], environ: Mapping[str, str], log: RunLog) -> int:
    if arguments[:1] == ["help"] and arguments[1:]:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        from bnbenv.cli.help import overview

        _put(overview(COMMANDS))
        return Exit.DONE if arguments else Exit.USAGE
    if arguments[0] in ("-V", "--version"):
        from bnbenv import __version__

        _put(f"bnbenv {__version__}")
        return Exit.DONE
    name, *words = arguments
    if name not in COMMANDS:
        from bnbenv.cli.help import unknown_command

        raise unknown_command(name, COMMANDS)
    if name in GROUPS:
        if not words or words[0] in ("-h", "--help"):
            from bnbenv.cli.help import group_overview

            _put(group_overview(name, COMMANDS[name], GROUPS[name]))
            return Exit.DONE if words else Exit.USAGE
        if words[0] not in GROUPS[name]:
            from bnbenv.cli.help import unknown_command

            raise unknown_command(words[0], GROUPS[name], f"bnbenv {name}")
        name, words = f"{name} {words[0]}", words[1:]
    module = _load(name)
    options = _parser(name, module).parse_args(words)
    teller = _teller(options, environ, log)
    try:
        with interruptible():
            outcome = module.run(options, _context(environ, teller, log))
    finally:
        teller.close()
    _print(name, outcome, options, environ, log)
    return int(outcome.exit)


def _load(name: str) -> ModuleType:
    import importlib

    return importlib.import_module(f"bnbenv.cli.commands.{_module(name)}")


def _module(name: str) -> str:
    """``matrix show`` is in ``matrix/show.py``, ``why-not`` in ``why_not.py``."""
    return name.replace(" ", ".").replace("-", "_")


def parser_of(name: str) -> Any:
    """The parser of a command, with the options that all of them take."""
    return _parser(name, _load(name))


def _parser(name: str, module: ModuleType) -> Any:
    from bnbenv.cli.help import Parser

    parser = Parser(name, module.SUMMARY, module.EXAMPLE, module.EXITS)
    module.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    where = "the project's folder (default: where bnbenv.toml is found)"
    if getattr(module, "PROJECTS", False):
        where = "a project's folder; may be given several times (default: where bnbenv.toml is found)"
    action = "append" if getattr(module, "PROJECTS", False) else "store"
    parser.add_argument("--project", metavar="DIR", action=action, help=where)
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("-v", "--verbose", action="store_true", help="tell what is run, how it ended and how long")
    silent = "no progress" if name in ANSWERS else "say nothing but errors; the exit code tells the rest"
    how_much.add_argument("-q", "--quiet", action="store_true", help=silent)
    return parser


def _teller(options: Any, environ: Mapping[str, str], log: RunLog) -> Teller:
    from bnbenv.cli.progress import Teller, can_overwrite, draw

    level = -1 if options.quiet else int(options.verbose)
    return Teller(_warn, log, level, draw if can_overwrite(sys.stderr, environ) else None)


def _context(environ: Mapping[str, str], teller: Teller, log: RunLog) -> Context:
    from bnbenv.cli.command import Context
    from bnbenv.cli.progress import TellingRunner

    try:
        cwd = Path.cwd()
    except FileNotFoundError:
        from bnbenv.errors import UsageError

        message = "the current folder does not exist any more"
        raise UsageError("no-folder", message, "Change into another one, then run it again.") from None
    return Context(environ, cwd, TellingRunner(None, teller), teller, log.open)


def _print(name: str, outcome: Outcome, options: Any, environ: Mapping[str, str], log: RunLog) -> None:
    import importlib

    if options.json:
        return _put(_json(outcome.document))
    from bnbenv.cli.render import style
    from bnbenv.cli.render.text import harmless

    text = importlib.import_module(f"bnbenv.cli.render.{_module(name)}").render(outcome.document, **outcome.view)
    if name not in style.PLAIN:
        text = harmless(text, keep="\n")
    log.add(text)
    if text and (not options.quiet or name in ANSWERS):
        put, stream = (_warn, sys.stderr) if name in ASIDE else (_put, sys.stdout)
        put(_painted(text, stream, environ, name))


def _painted(text: str, stream: TextIO | None, environ: Mapping[str, str], command: str = "") -> str:
    """In colour, where that is wanted."""
    from bnbenv.cli.render import style

    return style.paint(text) if command not in style.PLAIN and style.wanted(stream, environ) else text


def _json(document: dict[str, Any]) -> str:
    import json

    return json.dumps(document, indent=2, ensure_ascii=False)


def _prepare_streams() -> None:
    """Names of files may hold what the terminal's encoding has not: shown in another way, never a failure."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _put(text: str) -> None:
    """Write to standard output. A reader that went away (head, less) is no failure. Raises Failed if it is full."""
    try:
        print(text, flush=True)
    except OSError as error:
        _silence(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            from bnbenv.errors import Failed

            reason = (error.strerror or type(error).__name__).lower()
            message = f"the command was carried out, but standard output cannot be written ({reason})"
            raise Failed("no-output", message) from None


def _warn(line: str) -> None:
    """Write to standard error, if there is one: no output is lost that a program reads."""
    if sys.stderr is not None:
        try:
            print(line, file=sys.stderr, flush=True)
        except OSError:
            _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """What could not be written is tried again at Python's end, which then fails with a code of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _show_error(error: BnbenvError, arguments: list[str], environ: Mapping[str, str], log: RunLog) -> int:
    from bnbenv.cli.errors import document, render

    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--json" in own and error.code != "no-output":
        name = _document_of(arguments)
        with contextlib.suppress(BnbenvError):
            _put(_json(document(error, name, environ)))
    log.add(render(error, environ))
    more = error.exit in (Exit.FAILED, Exit.VERIFY_FAILED, Exit.UNREACHABLE)
    _warn(_painted(render(error, environ, log.path if more else None), sys.stderr, environ))
    return int(error.exit)


def _document_of(arguments: list[str]) -> str:
    """The name in the schema of what was called: ``check``, ``matrix-update``; ``matrix show`` prints the matrix."""
    name, *words = arguments
    if name not in COMMANDS:
        return "error"
    second = words[0] if words and words[0] in GROUPS.get(name, {}) and words[0] != "show" else ""
    return f"{name}-{second}".removesuffix("-")
