"""The command line: finds the command, runs it, prints its result; the only place that prints or exits.

A command is imported only when it is called: ``check`` has to answer in milliseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnbenv.errors import BnbenvError, Exit

if TYPE_CHECKING:
    from types import ModuleType

    from bnbenv.cli.command import Context, Outcome

# Command -> one line for --help. The order is the order of the pipeline.
COMMANDS: dict[str, str] = {
    "init": "write a commented bnbenv.toml into this folder",
    "facts": "say what this host is: driver, GPUs, libc, Pythons, toolkits",
    "solve": "say which torch and bitsandbytes fit, or why none do",
    "plan": "show what sync would change and why",
    "lock": "choose again and rewrite pylock.<env>.toml",
    "sync": "make the environment fit: stage, verify, then switch",
    "check": "say in milliseconds whether the environment is in sync",
    "verify": "run real kernels and compare them with references",
    "list": "list the generations of the environment",
    "rollback": "switch back to an earlier generation",
    "gc": "delete generations that are not needed",
    "path": "print the path of the environment in use",
}

EPILOG = """\
examples:
  bnbenv init && bnbenv sync       a verified .venv-bnb in this folder
  bnbenv check                     after a driver or torch upgrade: still good?
  bnbenv <command> --help          what a command does, with an example

exit codes: 0 done or in sync, 1 failed, 2 wrong usage or unreadable input,
  3 changes are pending, 4 no known-good combination, 5 verification failed,
  6 reboot required, 7 a package source cannot be reached, 8 another bnbenv
  is at work, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code. Errors are shown as a sentence and a next step."""
    import os

    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    name = next((word for word in arguments if word in COMMANDS), "bnbenv")
    try:
        return _main(arguments, os.environ)
    except BnbenvError as error:
        return _show_error(error, as_json, name, os.environ)
    except KeyboardInterrupt:
        _warn("interrupted: the environment in use is as it was")
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) went away
        sys.stderr.close()
        return Exit.DONE
    except MemoryError:
        _warn("error: out of memory")
        return Exit.FAILED
    except OSError as error:
        from bnbenv.cli.errors import from_os_error

        return _show_error(from_os_error(error), as_json, name, os.environ)


def _main(arguments: list[str], environ: Mapping[str, str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return Exit.DONE if arguments else Exit.USAGE
    if arguments[0] in ("-V", "--version"):
        from bnbenv import __version__

        print(f"bnbenv {__version__}")
        return Exit.DONE
    name = arguments[0]
    if name not in COMMANDS:
        import difflib

        from bnbenv.errors import UsageError

        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"Did you mean: bnbenv {near[0]}" if near else "See: bnbenv --help"
        raise UsageError("unknown-command", f'there is no command "{name}"', hint)
    module = _load(name)
    options = _parser(name, module).parse_args(arguments[1:])
    outcome = module.run(options, _context(options, environ))
    _print(name, outcome, options.json)
    return int(outcome.exit)


def _load(name: str) -> ModuleType:
    import importlib

    return importlib.import_module(f"bnbenv.cli.commands.{name}")


def _parser(name: str, module: ModuleType) -> Any:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            from bnbenv.errors import UsageError

            raise UsageError("usage", message, f"See: bnbenv {name} --help")

    parser = Parser(
        prog=f"bnbenv {name}",
        description=module.SUMMARY,
        epilog=f"example:\n  {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    parser.add_argument("--project", metavar="DIR", help="the project's folder (default: where bnbenv.toml is found)")
    return parser


def _context(options: Any, environ: Mapping[str, str]) -> Context:
    from bnbenv.cli.command import Context
    from bnbenv.process import SystemRunner

    return Context(environ=environ, cwd=Path.cwd(), runner=SystemRunner(), say=_warn)


def _print(name: str, outcome: Outcome, as_json: bool) -> None:
    if as_json:
        import json

        text = json.dumps(outcome.document, indent=2, ensure_ascii=False)
    else:
        import importlib

        text = importlib.import_module(f"bnbenv.cli.render.{name}").render(outcome.document)
    if text:
        print(text, flush=True)


def _warn(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        return


def _show_error(error: BnbenvError, as_json: bool, name: str, environ: Mapping[str, str]) -> int:
    from bnbenv.cli.errors import document, render

    if as_json:
        import json

        print(json.dumps(document(error, name, environ), indent=2, ensure_ascii=False), flush=True)
    _warn(render(error, environ))
    return int(error.exit)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: bnbenv <command> [options]",
            "",
            "bitsandbytes environments that fit the driver and the GPU,",
            "proved by running kernels.",
            "",
            "commands:",
            *lines,
            "",
            EPILOG.rstrip(),
        ]
    )
