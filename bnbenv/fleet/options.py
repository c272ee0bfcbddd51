"""What people may tell Ansible through ``bnbenv fleet``, and the words that its programs are given for it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ASK_TIMEOUT = 120  # seconds for the answer of a host
APPLY_TIMEOUT = 3600  # seconds for each task that changes a host
FORKS = 25  # hosts at a time where nobody says how many; Ansible's own 5 would have a rollout take its time

COLLECTIONS = ("~/.ansible/collections", "/usr/share/ansible/collections")  # Ansible's default

# In place of Ansible's own defaults: one round a task instead of three. And for "-C -o ControlMaster=auto -o
# ControlPersist=60s": a host whose network is gone ends after a minute, not after the hour that its task may take, and
# no processor compresses wheels a second time.
SSH = {
    "pipelining": "1",
    "ssh_args": "-o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=15 -o ServerAliveCountMax=4",
}

# Of each password: the option that asks for it, the option for a file with it, Ansible's setting that asks for it, and
# the word that Ansible's prompt has.
PASSWORDS = {
    "connection": ("--ask-pass", "--connection-password-file", "DEFAULT_ASK_PASS", "SSH password: "),
    "become": ("--ask-become-pass", "--become-password-file", "DEFAULT_BECOME_ASK_PASS", "BECOME password: "),
    "vault": ("--ask-vault-pass", "--vault-password-file", "DEFAULT_ASK_VAULT_PASS", "Vault password: "),
}


@dataclass(frozen=True)
class Options:
    """``words`` are passed on to Ansible unchanged. ``asked`` are the passwords to ask for (keys of ``PASSWORDS``);
    ``vault_ids`` what stands after ``--vault-id``. ``project`` is the folder on hosts whose inventory names none;
    ``timeout`` is in seconds, None: the usual one."""

    inventories: tuple[str, ...] = ()
    limit: str | None = None
    forks: int | None = None
    words: tuple[str, ...] = ()
    vault_ids: tuple[str, ...] = ()
    asked: frozenset[str] = frozenset()
    project: str = "~/bnbenv"
    timeout: int | None = None


@dataclass(frozen=True)
class Config:
    """What an ansible.cfg and the environment set, by Ansible's names of settings; ``file`` is the ansible.cfg.

    ``ssh`` are those of ``SSH`` that users set themselves: settings of connections are not in Ansible's list.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    file: str | None = None
    ssh: frozenset[str] = frozenset()

    def lists(self, name: str) -> tuple[str, ...]:
        value = self.settings.get(name)
        return tuple(str(one) for one in value) if isinstance(value, list) else ()


def read_config(document: object) -> Config:
    """What ``ansible-config dump --only-changed --format json`` printed. What is no setting is passed over."""
    rows = document if isinstance(document, list) else []
    settings = {
        str(row["name"]): row.get("value")
        for row in rows
        if isinstance(row, dict) and "name" in row and row.get("origin") != "default"
    }
    file = settings.pop("CONFIG_FILE", None)
    return Config(settings, file if isinstance(file, str) else None)


def own_ssh(ansible_cfg: str, environ: Mapping[str, str]) -> frozenset[str]:
    """What of ``SSH`` users have decided on themselves, in any section of their ansible.cfg or in the environment."""
    return frozenset(
        name
        for name in SSH
        if {f"ANSIBLE_{name.upper()}", f"ANSIBLE_SSH_{name.upper()}"} & environ.keys()
        or re.search(rf"^\s*{name}\s*[=:]", ansible_cfg, re.MULTILINE)
    )


def to_ask(options: Options, config: Config) -> dict[str, str]:
    """The passwords to ask for, each with its prompt. Those of vault identities are called ``vault-id NAME``."""
    found = {}
    for kind, (_, given, setting, prompt) in PASSWORDS.items():
        by_file = any(word.startswith(f"{given}=") for word in options.words)
        if kind in options.asked or (config.settings.get(setting) is True and not by_file):
            found[kind] = prompt
    for one in (*options.vault_ids, *config.lists("DEFAULT_VAULT_IDENTITY_LIST")):
        name, at, source = one.partition("@")
        if at and source in ("prompt", "prompt_ask_vault_pass"):
            found[f"vault-id {name}"] = f"Vault password ({name}): "
    return found


def words_for(options: Options, files: Mapping[str, Path]) -> list[str]:
    """The words for a run; ``files`` are those with the passwords that were asked for."""
    words = [*inventory_words(options), *vault_words(options, files), *options.words]
    for kind in ("connection", "become"):
        if kind in files:
            words += [PASSWORDS[kind][1], str(files[kind])]
    return words


def inventory_words(options: Options) -> list[str]:
    return [word for one in options.inventories for word in ("--inventory", one)]


def vault_words(options: Options, files: Mapping[str, Path]) -> list[str]:
    """How vaults are opened: a prompt's password comes out of its file."""
    words = []
    for one in options.vault_ids:
        words += ["--vault-id", _without_prompt(one, files)]
    if "vault" in files:
        words += ["--vault-id", f"default@{files['vault']}"]  # --vault-password-file may not stand beside others
    return words


def environment(config: Config, collections: Path, files: Mapping[str, Path]) -> dict[str, str | None]:
    """What is set for Ansible's programs. What the user's own configuration says is kept, but for what would leave
    the desk without answers: another way of printing, results that are hidden, prompts."""
    settings = config.settings
    paths = (str(collections), *(config.lists("COLLECTIONS_PATHS") or COLLECTIONS))
    env: dict[str, str | None] = {
        "ANSIBLE_COLLECTIONS_PATH": ":".join(paths),
        "ANSIBLE_STDOUT_CALLBACK": "bnbenv.fleet.desk",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": None,
        "ANSIBLE_VERBOSITY": "0",
        "ANSIBLE_DEPRECATION_WARNINGS": "0",
        "ANSIBLE_RETRY_FILES_ENABLED": "0",
        "ANSIBLE_ENABLE_TASK_DEBUGGER": "0",
        "ANSIBLE_ASK_PASS": "0",
        "ANSIBLE_BECOME_ASK_PASS": "0",
        "ANSIBLE_ASK_VAULT_PASS": "0",
    }
    for name, variable, value in (
        ("INVENTORY_ANY_UNPARSED_IS_FAILED", "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED", "1"),
        ("INVENTORY_UNPARSED_IS_FAILED", "ANSIBLE_INVENTORY_UNPARSED_FAILED", "1"),
    ):
        if name not in settings:
            env[variable] = value
    env |= {f"ANSIBLE_{name.upper()}": value for name, value in SSH.items() if name not in config.ssh}
    identities = config.lists("DEFAULT_VAULT_IDENTITY_LIST")
    if identities:
        env["ANSIBLE_VAULT_IDENTITY_LIST"] = ",".join(_without_prompt(one, files) for one in identities)
    return env


def _without_prompt(identity: str, files: Mapping[str, Path]) -> str:
    name = identity.partition("@")[0]
    file = files.get(f"vault-id {name}")
    prompts = identity.endswith(("@prompt", "@prompt_ask_vault_pass"))
    return f"{name}@{file}" if prompts and file is not None else identity
