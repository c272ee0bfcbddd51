"""``bnbenv completion``: the script with which a shell completes bnbenv's commands, options and values.

It is made of the commands' own parsers by shtab. The names of environments and the numbers of generations are asked
for while somebody types: ``bnbenv completion envs`` and ``generations``, which only the scripts call.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.errors import BnbenvError, Exit

SUMMARY = """\
Print a script that makes a shell complete commands, options and their values,
such as the names of environments. Write it where the shell looks for such
scripts, again after an upgrade of bnbenv; a new shell then knows it."""
EXAMPLE = """\
bnbenv completion bash > ~/.local/share/bash-completion/completions/bnbenv
bnbenv completion fish > ~/.config/fish/completions/bnbenv.fish
bnbenv completion zsh > ~/.zfunc/_bnbenv
(zsh looks there with this in ~/.zshrc, before compinit: fpath+=~/.zfunc)"""
EXITS = "0 printed, 2 there is no script for such a shell"

SHELLS = ("bash", "zsh", "fish")
_VALUES = ("envs", "generations")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", type=_shell, metavar="SHELL", help="bash, zsh or fish")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _shell(text: str) -> str:
    if text not in (*SHELLS, *_VALUES):
        raise argparse.ArgumentTypeError(f'expected bash, zsh or fish, found "{text}"')
    return text


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    if args.shell in _VALUES:
        document: dict[str, Any] = {"shell": None, "script": "\n".join(_values(args.shell, args.words, ctx))}
    else:
        document = {"shell": args.shell, "script": _script(args.shell)}
    return Outcome(Exit.DONE, {"schema": "bnbenv.completion/1", **document})


def _values(what: str, words: list[str], ctx: Context) -> list[str]:
    """The names or numbers that could stand next on a command line; what cannot be read has none."""
    from bnbenv.envs import status
    from bnbenv.envs.generations import generations
    from bnbenv.envs.project import DEFAULT_ENV, find_project

    try:
        project = find_project(ctx.cwd, ctx.environ, _option("--project", words))
        if what == "envs":
            return list(dict.fromkeys((*status.names(project, None)[0], *project.envs_made())))
        env = _option("--env", words) or DEFAULT_ENV
        return [str(one.number) for one in generations(project, env) if one.usable]
    except BnbenvError:
        return []


def _option(name: str, words: list[str]) -> str | None:
    """The value of an option on a line that is being typed; bash gives ``--env=x`` as three words."""
    spread = [part for word in words for part in word.partition("=") if part not in ("", "=")]
    places = [place for place, word in enumerate(spread[:-1]) if word == name]
    return spread[places[-1] + 1] if places else None


def _script(shell: str) -> str:
    import shtab

    return str(shtab.complete(_all_parsers(), shell)).rstrip()


def _all_parsers() -> argparse.ArgumentParser:
    from bnbenv.cli import COMMANDS, GROUPS, parser_of

    root = argparse.ArgumentParser(prog="bnbenv")
    root.add_argument("-V", "--version", action="version", version="", help="print the version")
    commands = root.add_subparsers()
    for name, summary in COMMANDS.items():
        if name in GROUPS:
            group = commands.add_parser(name, description=summary, help=summary).add_subparsers()
            for word, what in GROUPS[name].items():
                _add(group, word, what, parser_of(f"{name} {word}"))
        else:
            _add(commands, name, summary, parser_of(name))
    return root


def _add(commands: Any, name: str, summary: str, own: argparse.ArgumentParser) -> None:
    """A command with its options and what completes their values."""
    for action in own._actions:
        completer = _completer(action)
        if completer is not None:
            action.complete = completer  # type: ignore[attr-defined]  # shtab's way to be told
    commands.add_parser(name, parents=[own], add_help=False, description=summary, help=summary)


def _completer(action: argparse.Action) -> dict[str, Any] | None:
    """What can stand after an option, by what its help calls it."""
    import shtab

    if action.metavar == "DIR":
        return dict(shtab.DIRECTORY)
    if action.metavar in ("FILE", "PATH", "CMD"):
        return dict(shtab.FILE)
    if action.metavar == "NAME":
        return _asking("envs")
    if action.metavar == "N" and not action.option_strings:
        return _asking("generations")
    if action.metavar == "KIND":
        from bnbenv.hooks.kinds import KINDS

        return _words(*KINDS)
    if action.metavar == "SHELL":
        return _words(*SHELLS)
    if action.metavar == "WHICH":
        return _words("all" if "--gpus" in action.option_strings else "cpu")
    return None


def _words(*words: str) -> dict[str, Any]:
    line, name = " ".join(words), f"_bnbenv_{'_'.join(words)}"
    bash = f'{name}() {{ compgen -W "{line}" -- "$1"; }}'
    return {"bash": name, "zsh": f"({line})", "fish": line, "preamble": {"bash": bash}}


def _asking(what: str) -> dict[str, Any]:
    """Values that bnbenv itself is asked for, with the line as it stands."""
    name, asked = f"_bnbenv_{what}", f"{shlex.quote(_program())} completion {what}"
    preamble = {
        "bash": f'{name}() {{ compgen -W "$({asked} -- "${{COMP_WORDS[@]:1}}" 2>/dev/null)" -- "$1"; }}',
        "zsh": f'{name}() {{ compadd -- ${{(f)"$({asked} -- ${{words[2,-1]}} 2>/dev/null)"}} }}',
        "fish": f"function {name}; set -l line (commandline -opc); {asked} -- $line[2..-1] 2>/dev/null; end",
    }
    return {"bash": name, "zsh": name, "fish": f"({name})", "preamble": preamble}


def _program() -> str:
    """How the scripts call bnbenv: by its path, which need not be on PATH."""
    called = Path(sys.argv[0])
    own = called.name.startswith("bnbenv") and os.access(called, os.X_OK)
    return str(called.absolute()) if own else "bnbenv"
