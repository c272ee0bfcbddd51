"""Every error a user can meet: a stable code, one sentence, and the next step.

    BnbenvError                 exit
    ├── Failed                   1   it was tried and did not work
    ├── UsageError               2   the command line cannot be read
    │   └── InputError           2   a file or value cannot be read; names the file and the path or line in it
    ├── NoCombination            4   nothing known to be good fits
    ├── VerificationFailed       5   kernels ran wrongly; the environment in use was kept
    ├── RebootRequired           6   kernel module and library of the driver differ; nothing was changed
    ├── SourceUnreachable        7   a package source does not answer
    ├── Busy                     8   another bnbenv is at work on this project
    ├── NotExecutable          126   ``bnbenv run``: the command cannot be executed, as a shell says it
    └── NotFound               127   ``bnbenv run``: there is no such command, as a shell says it

Exit code 3 (changes are pending) is a result and no error, 130 is Ctrl-C.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class Exit(IntEnum):
    """The exit codes of every command; scripts rely on them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PENDING = 3
    NO_COMBINATION = 4
    VERIFY_FAILED = 5
    REBOOT = 6
    UNREACHABLE = 7
    BUSY = 8
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127
    INTERRUPTED = 130


class BnbenvError(Exception):
    """Base of all errors shown to users.

    ``code`` is a stable kebab-case name, ``message`` one sentence that says what is wrong, ``next_step`` one that
    says what to do (may be empty where the message says it), ``detail`` longer text such as a tool's own output.
    """

    exit: ClassVar[Exit] = Exit.FAILED

    def __init__(self, code: str, message: str, next_step: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.next_step = next_step
        self.detail = detail


class Failed(BnbenvError):
    """It was tried and did not work."""


class UsageError(BnbenvError):
    """The command line cannot be understood."""

    exit = Exit.USAGE


class InputError(UsageError):
    """A file or value cannot be read.

    ``file`` is the file's name as the user knows it, ``where`` the path or line in it (``gpus[0].uuid``, ``line 3``),
    ``expected`` what should stand there.
    """

    def __init__(self, file: str, where: str, expected: str, next_step: str = "") -> None:
        place = f"{file}: {where}" if where else file
        super().__init__("unreadable-input", f"{place}: {expected}", next_step)
        self.file = file
        self.where = where
        self.expected = expected


class NoCombination(BnbenvError):
    """Nothing that is known to be good fits."""

    exit = Exit.NO_COMBINATION


class VerificationFailed(BnbenvError):
    """Kernels ran wrongly or not at all; the environment in use was kept."""

    exit = Exit.VERIFY_FAILED


class RebootRequired(BnbenvError):
    """The driver's kernel module and user-space library differ; nothing was changed."""

    exit = Exit.REBOOT


class SourceUnreachable(BnbenvError):
    """A package source does not answer."""

    exit = Exit.UNREACHABLE


class Busy(BnbenvError):
    """Another bnbenv is at work on this project."""

    exit = Exit.BUSY


class NotExecutable(BnbenvError):
    """The user's command is there and cannot be executed."""

    exit = Exit.NOT_EXECUTABLE


class NotFound(BnbenvError):
    """There is no such command."""

    exit = Exit.NOT_FOUND
