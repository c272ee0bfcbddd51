"""Hosts with a Python and nothing else: bnbenv comes to them over ssh, and they have no other network."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("fleet-real")]


WORDS = ("sync", "--limit", "bare1")


@pytest.fixture(scope="module")
def without(bare_desk: Any) -> Any:
    """How a sync ends where bnbenv is missing."""
    return bare_desk(*WORDS)


@pytest.fixture(scope="module")
def bootstrapped(bare_desk: Any, without: Any) -> Any:
    """How it ends with --bootstrap."""
    return bare_desk(*WORDS, "--bootstrap")


def test_a_bare_host_is_named(without: Any) -> None:
    assert without.code == 1, without.out + without.err
    (host,) = without.document["hosts"]
    assert host["state"] == "no-bnbenv" and "--bootstrap" in host["next_step"]


def test_it_is_bootstrapped_synced_and_the_second_time_left_alone(
    bare_desk: Any, bootstrapped: Any, generation: Any
) -> None:
    assert bootstrapped.code == 0, bootstrapped.out + bootstrapped.err
    assert bootstrapped.document["bootstrapped"] == ["bare1"]
    assert [one["state"] for one in bootstrapped.document["hosts"]] == ["changed"]
    assert generation(bare_desk.hosts["bare1"]) == 1
    assert "bnbenv" in bare_desk.hosts["bare1"]("bnbenv", "--version")

    again = bare_desk(*WORDS, "--bootstrap")
    assert again.code == 0 and again.document["bootstrapped"] == []
    assert [one["state"] for one in again.document["hosts"]] == ["in-sync"]


def has_bnbenv(bundle: Path) -> bool:
    with tarfile.open(bundle) as archive:
        return "install.sh" in archive.getnames()


def test_the_role_does_the_same_in_a_playbook_and_the_second_time_nothing(
    bare_desk: Any, bootstrapped: Any, collections: dict[str, str]
) -> None:
    assert bootstrapped.code == 0, bootstrapped.err
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
