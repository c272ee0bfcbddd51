"""What belongs to Ansible stays Ansible's, over real ssh: users' own playbooks, become, vaults, forks, ansible.cfg."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("fleet-real")]

FACTS = "/home/desk/facts.json"
PLAY = """\
- hosts: gpu1,gpu2
  gather_facts: false
  vars:
    place: ~/bundles
  tasks:
    - name: Look
      bnbenv.fleet.facts:
        project: ~/by-hand
      register: looked

    - name: Only where the driver is new enough
      ansible.builtin.assert:
        that: looked.answer.facts.driver.version is version('580', '>=')

    - name: Bring the bundle
      ansible.builtin.copy:
        src: "{{ bundle }}"
        dest: "{{ place }}/"
        mode: "0644"
        directory_mode: "0755"

    - name: Sync
      bnbenv.fleet.sync:
        project: ~/by-hand
        bundle: "{{ place }}/{{ bundle | basename }}"
        bundle_sha256: "{{ bundle | basename | splitext | first }}"
      register: synced

    - name: Check
      bnbenv.fleet.check:
        project: ~/by-hand
      when: synced is not skipped
"""


def recap(text: str) -> dict[str, dict[str, int]]:
    """By host the numbers of Ansible's last lines."""
    rows = re.findall(r"^(\w+)\s+: (ok=.*)$", text, re.MULTILINE)
    return {name: {key: int(number) for key, number in re.findall(r"(\w+)=(\d+)", rest)} for name, rest in rows}


@pytest.fixture(scope="module")
def bundle(desk: Any) -> Path:
    """The bundle of the two hosts' kind, at the desk."""
    ended = desk("sync", "--limit", "gpu1", "--at", "~/for-its-bundle")
    assert ended.code == 0, ended.out + ended.err
    (kind,) = ended.document["classes"]
    found: Path = desk.root / ".bnbenv" / "fleet" / "bundles" / f"{kind['content']['sha256']}.tar"
    return found


def test_a_playbook_of_ones_own(desk: Any, bundle: Path, collections: dict[str, str], generation: Any) -> None:
    (desk.root / "own.yml").write_text(PLAY)
    words = ("ansible-playbook", "own.yml", "-e", f"bundle={bundle}")
    foretold = desk.ansible(*words, "--check", "--diff", **collections)
    assert foretold.code == 0, foretold.out + foretold.err
    assert generation(desk.hosts["gpu1"], "by-hand") is None, "check mode changes nothing"
    for changed, number in ((2, 1), (0, 1)):  # the second time nothing is left to do
        ended = desk.ansible(*words, **collections)
        assert ended.code == 0, ended.out + ended.err
        numbers = recap(ended.out)
        assert {name: numbers[name]["changed"] for name in ("gpu1", "gpu2")} == {"gpu1": changed, "gpu2": changed}
        assert generation(desk.hosts["gpu1"], "by-hand") == number


def test_playbooks_of_the_collection(desk: Any, collections: dict[str, str]) -> None:
    words = ("ansible-playbook", "--limit", "gpu1,dead", "-e", "bnbenv_project=~/for-its-bundle")
    for playbook in ("bnbenv.fleet.facts", "bnbenv.fleet.check"):
        ended = desk.ansible(*words, playbook, **collections)
        assert ended.code == 4, ended.out + ended.err  # Ansible's own, for hosts that cannot be reached
        assert recap(ended.out)["gpu1"]["changed"] == 0 and recap(ended.out)["dead"]["unreachable"] == 1


def test_a_vault_holds_what_logs_in_and_users_configuration_is_honoured(desk: Any, tmp_path: Path) -> None:
    """The key's place is in an encrypted variable; the number of forks in an ansible.cfg."""
    (tmp_path / "password").write_text("open\n")
    vault = (str(Path(sys.executable).parent / "ansible-vault"), "encrypt_string", "--vault-password-file")
    secret = subprocess.run(
        [*vault, str(tmp_path / "password"), str(desk.fleet.folder / "key"), "--name", "ansible_ssh_private_key_file"],
        capture_output=True,
        text=True,
        env={**desk.environ},
        timeout=60,
        check=True,
    ).stdout
    lines = [line for line in desk.fleet.inventory.read_text().splitlines() if "private_key" not in line]
    inventory = tmp_path / "inventory"
    (inventory / "group_vars").mkdir(parents=True)
    (inventory / "hosts.ini").write_text("\n".join([*lines, ""]))
    (inventory / "group_vars" / "machines.yml").write_text(secret)
    (tmp_path / "ansible.cfg").write_text("[defaults]\nforks = 1\n")
    words = ("facts", "--limit", "gpu1,gpu2")
    configured = {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}
    locked = desk(*words, inventory=inventory, **configured)
    assert locked.code in (1, 2), "no password, no answer"
    assert "vault" in (locked.out + locked.err).lower()
    opened = desk(*words, "--vault-password-file", str(tmp_path / "password"), inventory=inventory, **configured)
    assert opened.code == 0, opened.out + opened.err
    assert opened.document["kinds"][0]["hosts"] == ["gpu1", "gpu2"]


def test_become_is_another_user_with_a_home_of_their_own(desk: Any) -> None:
    if shutil.which("sudo") is None:
        pytest.skip("sudo is missing (apt install sudo)")
    host = desk.hosts["gpu1"]
    host("useradd", "--create-home", "trainer")
    folders = {str(one) for file in (FACTS, sys.executable, sys.base_prefix) for one in Path(file).parents}
    host("chmod", "a+x", *sorted(folders))  # on that host alone: a Python may lie in root's own home
    out = desk.root / "trainer.jsonl"
    ended = desk("facts", "--limit", "gpu1", "--become", "--become-user", "trainer", "--out", str(out))
    assert ended.code == 0, ended.out + ended.err
    report = json.loads(out.read_text())
    assert report["answer"]["project"] == "/home/trainer/bnbenv"


def test_an_inventory_that_cannot_be_read_is_said_in_one_sentence(desk: Any, tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all: [this is no inventory\n")
    for command in ("facts", "check", "sync"):
        ended = desk(command, inventory=tmp_path / "hosts.yml")
        assert ended.code == 2, ended.out + ended.err
        assert ended.err.startswith("error: ") and "hosts.yml" in ended.err.splitlines()[0]
