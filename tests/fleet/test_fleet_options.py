"""What users set for Ansible is kept, and what the desk needs is set besides."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from bnbenv.cli.fleet import add_ansible, next_command
from bnbenv.fleet.options import Config, Options, environment, own_ssh, read_config, to_ask, words_for

DUMP = [
    {"name": "CONFIG_FILE", "origin": "", "value": "/home/ada/ansible.cfg"},
    {"name": "COLLECTIONS_PATHS", "origin": "/home/ada/ansible.cfg", "value": ["/home/ada/c1", "/home/ada/c2"]},
    {"name": "DEFAULT_BECOME_ASK_PASS", "origin": "/home/ada/ansible.cfg", "type": None, "value": True},
    {"name": "DEFAULT_VAULT_IDENTITY_LIST", "origin": "env: X", "value": ["a@prompt", "b@file"]},
    {"name": "INVENTORY_ANY_UNPARSED_IS_FAILED", "origin": "/home/ada/ansible.cfg", "value": False},
    {"GALAXY_SERVERS": {}},
]


def test_users_settings_are_kept_and_extended() -> None:
    config = read_config(DUMP)
    files = {"vault-id a": Path("/private/1")}
    env = environment(config, Path("/package/fleet"), files)
    assert config.file == "/home/ada/ansible.cfg"
    assert env["ANSIBLE_COLLECTIONS_PATH"] == "/package/fleet:/home/ada/c1:/home/ada/c2"
    assert env["ANSIBLE_STDOUT_CALLBACK"] == "bnbenv.fleet.desk"
    assert env["ANSIBLE_VAULT_IDENTITY_LIST"] == "a@/private/1,b@file"
    # An inventory that cannot be read is an error, unless somebody has decided on that.
    assert "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED" not in env
    assert env["ANSIBLE_INVENTORY_UNPARSED_FAILED"] == "1"
    assert environment(Config(), Path("/p"), {})["ANSIBLE_COLLECTIONS_PATH"] == (
        "/p:~/.ansible/collections:/usr/share/ansible/collections"
    )


def test_what_users_say_of_ssh_wins() -> None:
    for text, environ, own in (
        ("[ssh_connection]\npipelining = False\n", {}, {"pipelining"}),
        ("# pipelining = False\n", {}, set()),
        ("", {"ANSIBLE_SSH_ARGS": "-C"}, {"ssh_args"}),
        ("[ssh_connection]\nssh_args=-C\n", {"ANSIBLE_SSH_PIPELINING": "0"}, {"pipelining", "ssh_args"}),
    ):
        found = own_ssh(text, environ)
        assert found == own, text
        env = environment(Config(ssh=found), Path("/p"), {})
        assert {"ANSIBLE_PIPELINING" in env, "pipelining" in own} == {True, False}
        assert {"ANSIBLE_SSH_ARGS" in env, "ssh_args" in own} == {True, False}


def test_each_password_is_asked_for_once_and_given_by_a_file() -> None:
    config = read_config(DUMP)
    options = Options(("hosts.ini",), vault_ids=("prod@prompt", "dev@keys"), asked=frozenset({"connection", "vault"}))
    assert to_ask(options, config) == {
        "connection": "SSH password: ",
        "become": "BECOME password: ",
        "vault": "Vault password: ",
        "vault-id prod": "Vault password (prod): ",
        "vault-id a": "Vault password (a): ",
    }
    files = {kind: Path(f"/private/{number}") for number, kind in enumerate(to_ask(options, config))}
    assert words_for(options, files) == [
        *("--inventory", "hosts.ini", "--vault-id", "prod@/private/3", "--vault-id", "dev@keys"),
        *("--vault-id", "default@/private/2"),
        *("--connection-password-file", "/private/0", "--become-password-file", "/private/1"),
    ]
    # A file that is given is used, whatever an ansible.cfg asks for.
    given = Options(words=("--become-password-file=/run/secret",))
    assert "become" not in to_ask(given, config)


def test_the_options_have_ansibles_names() -> None:
    """So that what stands in people's scripts can be copied."""
    from ansible.cli.playbook import PlaybookCLI

    parser = argparse.ArgumentParser()
    add_ansible(parser)
    cli = PlaybookCLI(["ansible-playbook"])
    cli.init_parser()
    theirs = {name: action for action in cli.parser._actions for name in action.option_strings}
    own = {"--at", "--host-timeout", "-h", "--help"}
    for action in parser._actions:
        for name in set(action.option_strings) - own:
            assert name in theirs, name
            takes = (action.nargs == 0, theirs[name].nargs == 0)
            assert takes in {(True, True), (False, False)}, name


def test_the_next_command_reaches_the_same_hosts_in_the_same_way() -> None:
    parser = argparse.ArgumentParser()
    add_ansible(parser)
    given = ["-i", "a b.ini", "-i", "c,", "-l", "gpu", "-u", "ada", "-b", "-K", "--at", "/srv/x"]
    said = "bnbenv fleet plan -i 'a b.ini' -i c, --limit gpu --user ada --become --ask-become-pass --at /srv/x"
    assert next_command("plan", parser.parse_args(given)) == said
    assert next_command("plan", parser.parse_args(["-e", "token=abc"])) == "bnbenv fleet plan -e ...", "no secret"
    assert next_command("plan", parser.parse_args(given)) == next_command(
        "plan", parser.parse_args(shlex.split(said)[3:])
    ), "it can be run"
