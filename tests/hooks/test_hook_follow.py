"""What the unit of a project's owner does with each answer of a sync: try again, wait for the reboot, or leave it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bnbenv.hooks import tell
from bnbenv.hooks.kinds import systemd_word
from bnbenv.hooks.place import Place, place_of
from bnbenv.hooks.registry import (
    Manifest,
    Registered,
    Result,
    read_results,
    write_manifest,
    write_projects,
    write_results,
)
from bnbenv.hooks.work import BOOT, Port, Ran, run
from bnbenv.process import Command, Finished
from bnbenv.progress import Quiet


@dataclass
class Syncs:
    """A runner that gives ``bnbenv sync`` these exit codes, one after another, and starts nothing."""

    codes: list[int] = field(default_factory=list)
    ran: int = 0
    paused: list[float] = field(default_factory=list)

    def run(self, command: Command) -> Finished:
        assert "sync" in command.argv, command
        self.ran += 1
        code = self.codes.pop(0)
        said = (
            {"generations": [{"env": "bnb", "generation": 1}]} if code == 0 else {"error": {"message": f"exit {code}"}}
        )
        return Finished(command, code, json.dumps(said), "", False, 0.1)


@dataclass
class Owner:
    """``owner(4, 0)`` runs the unit; the syncs that it starts end with these codes."""

    machine: Any
    place: Place

    def __call__(self, *codes: int, **changes: str) -> tuple[Ran, Syncs]:
        syncs = Syncs(list(codes))
        environ = {name: value for name, value in self.machine.environ.items() if name != "BNBENV_OFFLINE"}
        port = Port({**environ, **changes}, syncs, Quiet(), syncs.paused.append)
        return run(self.place, BOOT, port), syncs


@pytest.fixture
def owner(machine: Any) -> Owner:
    place = place_of(machine.environ, user=False)
    box = place.box(os.geteuid())
    box.mkdir(parents=True)
    write_projects(place, [Registered(str(machine.project), os.geteuid()), Registered("/of/somebody/else", 12345)])
    return Owner(machine, place)


def test_a_source_that_is_silent_is_asked_again_and_offline_it_is_not(owner: Owner) -> None:
    done, syncs = owner(7, 8, 0)
    assert done.projects == [(str(owner.machine.project), "synced", "bnb is in generation 1")]
    assert syncs.paused == [30.0, 120.0]
    done, syncs = owner(7, BNBENV_OFFLINE="1")
    assert (done.projects[0][1], syncs.paused) == ("failed", [])


@pytest.mark.parametrize("code", [4, 5])
def test_what_cannot_succeed_is_tried_once_for_the_same_host_and_wishes(owner: Owner, code: int) -> None:
    for ran in (1, 0):
        done, syncs = owner(*[code] * ran)
        assert done.projects == [(str(owner.machine.project), "failed", f"exit {code}")]
        assert syncs.ran == ran
    (owner.machine.project / "bnbenv.toml").write_text('[envs.bnb]\ntorch = "<2.9"\n')
    assert owner(0)[1].ran == 1
    owner.machine.driver("580.65.06", "580.65.06")
    assert owner(0)[1].ran == 1


def test_what_may_pass_is_tried_at_each_start(owner: Owner) -> None:
    assert [owner(1)[1].ran for _ in range(2)] == [1, 1]


def test_before_the_reboot_no_sync_is_started(owner: Owner) -> None:
    owner.machine.driver("570.124.06", "580.65.06")
    done, syncs = owner()
    assert [state for _, state, _ in done.projects] == ["waiting"]
    assert syncs.ran == 0


def test_root_has_the_owners_units_started_where_the_driver_is_whole(machine: Any) -> None:
    (machine.root / "run/systemd/system").mkdir(parents=True)
    place = place_of(machine.environ, user=False)._replace(uid=0)
    write_manifest(place, Manifest("1", "package", ("bnbenv",), {}, {"systemd": {}}))
    write_projects(place, [Registered("/a", 8), Registered("/b", 8), Registered("/c", 7)])
    started: list[tuple[str, ...]] = []

    class Systemd:
        def run(self, command: Command) -> Finished:
            started.append(command.argv)
            return Finished(command, 0, "", "", False, 0.1)

    for module, library, names in (
        ("570.124.06", "570.124.06", []),  # as it was found
        ("570.124.06", "580.65.06", []),  # before the reboot
        ("580.65.06", "580.65.06", []),  # after it, when the units were started by themselves
        ("580.95.05", "580.95.05", ["bnbenv-sync@7.service", "bnbenv-sync@8.service"]),  # the module was loaded anew
    ):
        machine.driver(module, library)
        done = run(place, "apt", Port(machine.environ, Systemd(), Quiet()))
        assert done.started is bool(names)
    assert started == [("systemctl", "start", "--no-block", *names)]


def test_a_message_is_one_line_that_no_terminal_obeys(tmp_path: Path) -> None:
    tell.leave(tmp_path, "../event", "boot", "a \x1b[31mred\nand <b>bold</b> & \x9bmore", "")
    assert tell.waiting(tmp_path, "boot") == ("a  [31mred and (b>bold(/b> +  more", False)
    (message,) = tmp_path.iterdir()
    assert message.read_text().splitlines()[0] == "---event"


def test_what_was_told_is_forgotten_once_something_else_is_to_be_told(tmp_path: Path) -> None:
    tell.leave(tmp_path, "one", "boot", "text", "")
    (tmp_path / "told-one-now").touch()
    tell.leave(tmp_path, "one", "boot", "text", "")
    assert tell.waiting(tmp_path, "boot") == ("text", True)
    tell.leave(tmp_path, "two", "boot", "another", "")
    tell.leave(tmp_path, "one", "boot", "text", "")
    assert tell.waiting(tmp_path, "boot") == ("text", False)
    assert tell.waiting(tmp_path, "the next boot") is None


def test_what_users_put_in_place_of_results_is_not_read(tmp_path: Path) -> None:
    """Root reads them to say how the hooks stand."""
    write_results(tmp_path, [Result("/a", "2026-11-21", 0, "said", "why")])
    assert read_results(tmp_path)["/a"].said == "said"
    file = tmp_path / "results.json"
    file.rename(tmp_path / "other.json")
    file.symlink_to("other.json")
    assert read_results(tmp_path) == {}
    file.unlink()
    os.mkfifo(file)
    writer = os.open(file, os.O_RDWR | os.O_NONBLOCK)
    assert read_results(tmp_path) == {}
    os.close(writer)


def test_words_in_units_are_taken_as_they_stand() -> None:
    """systemd.service(5): ``%`` begins a specifier, ``$`` a variable, and quotes and backslashes are C's."""
    assert systemd_word('/o p/100%i$HOME"\\x') == '"/o p/100%%i$$HOME\\"\\\\x"'
