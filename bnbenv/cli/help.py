"""The texts of ``--help``, and how a command line is read. All of it fits 80 columns."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import NoReturn

from bnbenv.errors import UsageError

WIDTH = 79

_OVERVIEW = """\
usage: bnbenv <command> [options]

bitsandbytes environments that fit the driver and the GPU,
proved by running kernels.

commands:
{commands}

examples:
  bnbenv init && bnbenv sync       a verified .venv-bnb in this folder
  bnbenv check                     after a driver or torch upgrade: still good?
  bnbenv <command> --help          what a command does, with an example

exit codes: 0 done or in sync, 1 failed, 2 wrong usage or unreadable input,
  3 changes are pending, 4 no known-good combination, 5 verification failed,
  6 reboot required, 7 a package source cannot be reached, 8 another bnbenv
  is at work, 130 interrupted; "run" has those of its command, 126 cannot be
  executed, 127 not found"""


def overview(commands: Mapping[str, str]) -> str:
    """What ``bnbenv --help`` says."""
    width = max(map(len, commands))
    return _OVERVIEW.format(commands="\n".join(f"  {name:<{width}}  {text}" for name, text in commands.items()))


def group_overview(name: str, summary: str, commands: Mapping[str, str]) -> str:
    """What ``bnbenv matrix --help`` says."""
    width = max(map(len, commands))
    lines = "\n".join(f"  {command:<{width}}  {text}" for command, text in commands.items())
    what = f"{summary[:1].upper()}{summary[1:]}."
    return f"usage: bnbenv {name} <command> [options]\n\n{what}\n\ncommands:\n{lines}"


def unknown_command(name: str, commands: Mapping[str, str], program: str = "bnbenv") -> UsageError:
    """The error for a word that is no command of ``program``."""
    if name.startswith("-"):
        return UsageError("usage", f"the command comes first, then {name}", f"See: {program} --help")
    import difflib

    near = difflib.get_close_matches(name, commands, 1)
    hint = f"Did you mean: {program} {near[0]}" if near else f"See: {program} --help"
    return UsageError("unknown-command", f'there is no command "{f"{program} {name}".removeprefix("bnbenv ")}"', hint)


class _Formatter(argparse.HelpFormatter):
    """Paragraphs stay paragraphs; lines that begin with a space stay as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=25, width=WIDTH)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap

        return "\n\n".join(
            part if "\n " in part else textwrap.fill(part, width, subsequent_indent=_hanging(part))
            for part in text.split("\n\n")
        )


def _hanging(part: str) -> str:
    return "  " if part.startswith("exit codes:") else ""


class Parser(argparse.ArgumentParser):
    """The options of one command. What cannot be read is a UsageError."""

    def __init__(self, name: str, summary: str, example: str, exits: str) -> None:
        examples = "\n".join(f"  {line}" for line in example.splitlines())
        super().__init__(
            prog=f"bnbenv {name}",
            description=summary,
            epilog=f"example:\n{examples}\n\nexit codes: {exits}",
            formatter_class=_Formatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        hint = f"See: {self.prog} --help"
        _, found, words = message.partition("unrecognized arguments: ")
        if found:
            import difflib

            options = [option for option in self._option_string_actions if option.startswith("--")]
            near = difflib.get_close_matches(words.strip().partition(" ")[0].partition("=")[0], options, 1, 0.75)
            hint = f"Did you mean: {near[0]}" if near else hint
        raise UsageError("usage", message.removeprefix("argument "), hint)


def whole_number(text: str) -> int:
    """An option's value: 0, 1, 2 ..."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f'expected a whole number, found "{text}"')
    return int(text)


def positive_number(text: str) -> int:
    """An option's value: 1, 2, 3 ..."""
    number = whole_number(text)
    if not number:
        raise argparse.ArgumentTypeError(f'expected a number of at least 1, found "{text}"')
    return number


def module_names(text: str) -> tuple[str, ...]:
    """An option's value: names of modules, separated by commas."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(names):
        raise argparse.ArgumentTypeError(f'expected names such as q_proj,v_proj, found "{text[:60]}"')
    return names


def seconds(text: str) -> float:
    """An option's value: seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86400:  # a day; not-a-number is not in it either
        raise argparse.ArgumentTypeError(f'expected seconds, such as 5, found "{text}"')
    return value
