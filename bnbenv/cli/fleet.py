"""The options that ``bnbenv fleet`` passes on to Ansible, and the engine that they give."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bnbenv.cli.command import Context
from bnbenv.cli.help import positive_number

if TYPE_CHECKING:
    from bnbenv.fleet.engine import AnsibleEngine
    from bnbenv.fleet.model import Engine, HostReport

# Passed on as they are: the options, the name of the value (None: there is none), and what they do.
_CONNECTION: tuple[tuple[tuple[str, ...], str | None, str], ...] = (
    (("-u", "--user"), "NAME", "connect as this user"),
    (("--private-key",), "FILE", "the ssh key"),
    (("-c", "--connection"), "TYPE", "how to connect: ssh, local, ..."),
    (("-T", "--timeout"), "SECONDS", "how long to wait for a connection"),
    (("--ssh-common-args",), "ARGS", "more words for ssh, scp and sftp, such as -o ProxyJump=..."),
    (("--ssh-extra-args",), "ARGS", "more words for ssh alone"),
    (("--scp-extra-args",), "ARGS", "more words for scp alone"),
    (("--sftp-extra-args",), "ARGS", "more words for sftp alone"),
    (("-b", "--become"), None, "work there as another user (root unless named)"),
    (("--become-user",), "NAME", "as which one"),
    (("--become-method",), "METHOD", "by which program: sudo, su, doas, ..."),
    (("-e", "--extra-vars"), "VARS", "variables: key=value, JSON, or @FILE"),
)


# Of each password: the option that asks for it, the one for a file with it, and what it is for.
_PASSWORDS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("-k", "--ask-pass"), "--connection-password-file", "for ssh"),
    (("-K", "--ask-become-pass"), "--become-password-file", "for --become"),
    (("-J", "--ask-vault-pass"), "--vault-password-file", "of the vault"),
)


def add_ansible(parser: argparse.ArgumentParser) -> None:
    """Ansible's own options, by their own names, and ``--at`` and ``--host-timeout``."""
    group = parser.add_argument_group("hosts, as in ansible-playbook")
    where = "inventory: a file, a folder, a script, or host1,host2, (may be repeated; default: ansible.cfg's)"
    group.add_argument("-i", "--inventory", metavar="INVENTORY", action="append", default=[], help=where)
    group.add_argument("-l", "--limit", metavar="PATTERN", help="only these hosts or groups of it")
    forks = "hosts at a time (default: ansible.cfg's, else 25)"
    group.add_argument("-f", "--forks", metavar="N", type=positive_number, help=forks)
    for names, value, what in _CONNECTION:
        if value is None:
            group.add_argument(*names, action="store_true", help=what)
        else:
            group.add_argument(*names, metavar=value, action="append", default=[], help=what)
    for names, file, what in _PASSWORDS:
        either = group.add_mutually_exclusive_group()
        either.add_argument(*names, action="store_true", help=f"ask for the password {what}, once")
        either.add_argument(file, metavar="FILE", action="append", default=[], help=f"a file with the password {what}")
    group.add_argument("--vault-id", metavar="ID", action="append", default=[], help="such as prod@FILE or prod@prompt")
    at = "the project's folder on the hosts (default: ~/bnbenv; bnbenv_project in the inventory wins)"
    group.add_argument("--at", metavar="DIR", default="~/bnbenv", help=at)
    limit = "time limit of a host in seconds (default: 120 to answer, 3600 a step to change it)"
    group.add_argument("--host-timeout", metavar="N", type=positive_number, help=limit)


# Those that belong to the next command as well. Extra variables may hold passwords, and are left to people.
_KEPT = (
    *("inventory", "limit", "forks", "user", "private_key", "connection", "timeout", "ssh_common_args"),
    *("ssh_extra_args", "scp_extra_args", "sftp_extra_args", "become", "become_user", "become_method", "ask_pass"),
    *("ask_become_pass", "ask_vault_pass", "vault_id", "vault_password_file", "connection_password_file"),
    *("become_password_file", "at", "host_timeout", "project"),
)


def next_command(
    command: str,
    args: argparse.Namespace,
    more: Sequence[str] = (),
    add: Callable[[argparse.ArgumentParser], None] = add_ansible,
) -> str:
    """``bnbenv fleet COMMAND`` for the same hosts, reached in the same way; ``more`` are other options of this one that
    belong to it, and ``add`` adds all of them, with their defaults."""
    import shlex

    parser = argparse.ArgumentParser()
    add(parser)
    words = ["bnbenv", "fleet", command]
    for name in (*_KEPT, *more):
        value, option = getattr(args, name, None), "-i" if name == "inventory" else f"--{name.replace('_', '-')}"
        if value in (None, False, []) or value == parser.get_default(name):
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [option] if one is True else [option, str(one)]
    text = shlex.join(words)
    return f"{text} -e ..." if getattr(args, "extra_vars", None) else text


def engine_of(args: argparse.Namespace, ctx: Context) -> AnsibleEngine:
    """The engine for the options of ``add_ansible``. Nothing is run or asked before it is used."""
    from bnbenv.fleet.engine import AnsibleEngine
    from bnbenv.fleet.options import PASSWORDS, Options

    words: list[str] = []
    for names, value, _ in _CONNECTION:
        given = getattr(args, names[-1].removeprefix("--").replace("-", "_"))
        if value is None:
            words += [names[-1]] if given else []
        else:
            words += [f"{names[-1]}={one}" for one in given]
    for _, file, _ in _PASSWORDS:
        words += [f"{file}={one}" for one in getattr(args, file[2:].replace("-", "_"))]
    asked = {kind for kind, (option, *_) in PASSWORDS.items() if getattr(args, option[2:].replace("-", "_"))}
    options = Options(
        tuple(args.inventory),
        args.limit,
        args.forks,
        tuple(words),
        tuple(args.vault_id),
        frozenset(asked),
        args.at,
        args.host_timeout,
    )
    return AnsibleEngine(options, ctx.environ, ctx.cwd, ctx.runner, _ask_password)


def ask_all(engine: Engine, ctx: Context) -> tuple[HostReport, ...]:
    """Every host of the inventory asked, in its order. Raises what the engine raises."""
    from bnbenv.progress import during

    with during(ctx.progress, "reading the inventory"):
        hosts = engine.hosts()
    answered = 0

    def told(host: str, line: str) -> None:
        nonlocal answered
        answered += 1
        ctx.progress.detail(f"{host}: {line}")
        ctx.progress.at(f"asking the hosts: {answered} of {len(hosts)}")

    with during(ctx.progress, f"asking {len(hosts)} hosts"):
        found = engine.ask(hosts, told)
    return tuple(found[host] for host in hosts)


def _ask_password(prompt: str) -> str:
    """Raises UsageError where there is no terminal to ask at."""
    import getpass

    from bnbenv.errors import UsageError

    if not sys.stdin.isatty():
        message = f'a password is asked for ("{prompt.strip().rstrip(":")}"), and there is no terminal'
        files = "--connection-password-file, --become-password-file, --vault-password-file or --vault-id NAME@FILE"
        raise UsageError("no-terminal", message, f"Give it by a file: {files}.")
    return getpass.getpass(prompt)
