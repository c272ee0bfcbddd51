"""Why Ansible did not get through to a host, as one sentence and what to do about it. Pure.

Ansible's and ssh's own words are kept. Only what is known to be said in many lines, or to be misunderstood, has words
of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from bnbenv.fleet.answers import harmless

LONGEST = 300  # characters of a sentence
_PYTHON = "Install Python there, or name it: ansible_python_interpreter in the inventory, or by -e."
READ = 8192  # characters of what was said in which is looked: a host may say megabytes that keep an expression busy


class Said(NamedTuple):
    because: str
    next_step: str = ""


# What is found in all that Ansible said of a host. "{0}" is what the first group found.
_KNOWN = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is another one than before: the host was set up anew, or it is not this host",
        "If it was set up anew: ssh-keygen -R <its address>, then connect to it once by ssh.",
    ),
    (
        r"Host key verification failed|host key is not known|authenticity of host .* can't be established",
        "its host key is not known to this machine",
        "Connect to it once by ssh, or put its key into known_hosts.",
    ),
    (
        r"(Permission denied \([^)]*\))",
        "ssh does not let this user in: {0}",
        "See the user and the key: -u, --private-key, or -k for a password.",
    ),
    (
        r"(?:Invalid/incorrect (?:username/)?password|Authentication failed)[^\n]*",
        "the password for ssh is not right",
        "Give it with -k.",
    ),
    (
        r"Unable to execute ssh .*No such file",
        "there is no ssh on this machine",
        "Install the package openssh-client here.",
    ),
    (
        r"pyenv: (\S*python[\d.]*): command not found",
        "the {0} that Ansible found there is a shim of pyenv without a Python behind it",
        _PYTHON,
    ),
    (
        r"you must install the sshpass program",
        "passwords for ssh need the program sshpass on this machine",
        "Install the package sshpass here, or use keys.",
    ),
    (
        r"(?i)incorrect (\w+) password|Sorry, try again",
        "the password for --become is not right",
        "Give it with -K.",
    ),
    (
        r"(?i)missing (\w+) password|a password is required",
        "--become needs a password there",
        "Give it with -K.",
    ),
    (
        r"(?<!\S)(\S*python[\d.]*): (?:command )?not found"
        r"|interpreter '?(\S*python[\d.]*)'? was not found|(?<!\S)(\S*python[\d.]*): No such file or directory",
        "there is no Python at {0}",
        _PYTHON,
    ),
    (
        r"No python interpreters found|Unable to find any python|interpreter discovery",
        "there is no Python that Ansible finds",
        _PYTHON,
    ),
    (
        r"(?:Timed out after|in the expected time frame \()\s*(\d+)",
        "it did not come to an end in {0} seconds",
        "Look what keeps it, or give it more time with --host-timeout.",
    ),
    (r"(?i)(no space left on device)", "its disk is full ({0})", "Make room there."),
    (
        r"requiretty|you must have a tty to run sudo",
        "its sudo wants a terminal (requiretty), which pipelining has not",
        "Give that up there, or set pipelining = False in ansible.cfg.",
    ),
    # Ansible through 2.18, where ssh is gone before Ansible has sent the module, and its words with it.
    (r"\[Errno 32\] Broken pipe", "ssh ended at once", "See what it says by hand: ssh HOST"),
)
_PREFIXES = re.compile(
    r"^(?:Failed to connect to the host via (?:ssh|scp|sftp): |Data could not be sent to remote host \"[^\"]*\"\. "
    r"|Make sure this host can be reached over ssh: |Task failed: |Module failed: |fatal: |ERROR! |\[ERROR\]: )+"
)


def sentence(result: Mapping[str, Any]) -> Said:
    """Of a result of a task that failed: why, and the next step. Both are one line, and harmless."""
    because = result.get("because")
    if isinstance(because, str) and because.strip():
        return Said(_one_line(because), _one_line(str(result.get("next_step") or "")))
    told = (str(result[key]) for key in ("msg", "module_stderr", "stderr", "module_stdout") if result.get(key))
    parts = [one if len(one) <= READ else f"{one[: READ // 2]}\n{one[-READ // 2 :]}" for one in told]
    text = "\n".join(parts)
    for pattern, said, step in _KNOWN:
        found = re.search(pattern, text)
        if found:
            what = next((group for group in found.groups() if group), "")
            return Said(_one_line(said.format(what)), step)
    if not parts:
        return Said("Ansible gives no reason")
    crash = _crash(text)
    if crash:
        return Said(_one_line(f"a module of Ansible crashed there ({crash})"))
    if re.search("No start of json char found|^MODULE FAILURE", text):
        printed = str(result.get("module_stdout") or result.get("module_stderr") or "nothing").strip().splitlines()[0]
        step = "See that ansible_python_interpreter is a Python, and that logging in prints nothing."
        return Said(_one_line(f'what came back is no answer of a module ("{printed[:80]}")'), step)
    return Said(_one_line(_telling(str(parts[0]))))


_ERROR = r"^(?:ERROR! |\[ERROR\]: |ERROR: |ansible[a-z-]*: error: )(.*(?:\n(?!\[|ERROR|\s*$).*)*)"


def of_ansible(stderr: str) -> str:
    """Ansible's own sentence where a run did not begin or broke off: its last error; "" where it said none."""
    found = re.findall(_ERROR, stderr, re.M)
    errors = [one.partition("\nTraceback")[0] for one in found]
    return _one_line(" ".join(errors[-1].split())) if errors else ""


def warnings_of(stderr: str) -> list[str]:
    """What Ansible warned of, one line each."""
    found = re.findall(r"^\[WARNING\]:\s+(.*(?:\n(?!\[|ERROR).+)*)", stderr, re.M)
    return [_one_line(" ".join(one.split())) for one in found]


def _crash(text: str) -> str:
    if "Traceback (most recent call last)" not in text:
        return ""
    lines = [line for line in text.splitlines() if re.match(r"[\w.]+(?:Error|Exception|Exit|Interrupt)\b", line)]
    return lines[-1] if lines else "a traceback"


def _telling(text: str) -> str:
    """The line of a message that tells: ssh ends with it, others begin with it."""
    text = _PREFIXES.sub("", text.strip())
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ssh = [line for line in lines if re.match(r"(?:ssh|kex_exchange_identification|Connection (?:closed|reset))", line)]
    line = ssh[-1] if ssh else lines[0] if lines else "Ansible gives no reason"
    return _PREFIXES.sub("", line)


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return str(harmless(text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."))
