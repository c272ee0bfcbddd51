"""Hosts with a Python and nothing else: bnbenv comes to them over ssh, and they have no other network."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("fleet-real")]


def test_a_bare_host_is_named_and_then_bootstrapped_and_synced(bare_desk: Any, generation: Any) -> None:
    words = ("sync", "--limit", "bare1")
    without = bare_desk(*words)
    assert without.code == 1, without.out + without.err
    (host,) = without.document["hosts"]
    assert host["state"] == "no-bnbenv" and "--bootstrap" in host["next_step"]
    assert list(bare_desk.hosts["bare1"].home.glob("bnbenv*")) == []

    ended = bare_desk(*words, "--bootstrap")
    assert ended.code == 0, ended.out + ended.err
    assert ended.document["bootstrapped"] == ["bare1"]
    assert [one["state"] for one in ended.document["hosts"]] == ["changed"]
    assert generation(bare_desk.hosts["bare1"]) == 1
    assert "bnbenv" in bare_desk.hosts["bare1"]("bnbenv", "--version")

    again = bare_desk(*words, "--bootstrap")
    assert again.code == 0 and again.document["bootstrapped"] == []
    assert [one["state"] for one in again.document["hosts"]] == ["in-sync"]


def has_bnbenv(bundle: Path) -> bool:
    with tarfile.open(bundle) as archive:
        return "install.sh" in archive.getnames()


def test_the_role_does_the_same_in_a_playbook_and_the_second_time_nothing(
    bare_desk: Any, collections: dict[str, str]
) -> None:
    kept = (bare_desk.root / ".bnbenv/fleet/bundles").glob("*.tar")
    (bundle,) = [path for path in kept if has_bnbenv(path)]
    play = "- hosts: bare2\n  gather_facts: false\n  roles:\n    - role: bnbenv.fleet.bootstrap\n"
    (bare_desk.root / "bare.yml").write_text(play)
    for changed in (True, False):
        words = ("ansible-playbook", "bare.yml", "-e", f"bootstrap_bundle={bundle}")
        ended = bare_desk.ansible(*words, **collections)
        assert ended.code == 0, ended.out + ended.err
        assert ("changed=0" not in ended.out) == changed, ended.out
    assert "bnbenv" in bare_desk.hosts["bare2"]("bnbenv", "--version")
