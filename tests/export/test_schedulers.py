"""What is printed for schedulers, run as they run it: by name, as root, with next to no environment."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.real

MISMATCH = Path(__file__).parent.parent / "hosts" / "linux-x86_64__mismatch__nogpu" / "facts.json"

# Stand-ins for Slurm's own programs: what sinfo says is in a file, what scontrol is told is written down.
SINFO = '#!/bin/sh\n[ "$1 $2 $3 $4" = "-h -N -n node7" ] && cat {folder}/state\n'
SCONTROL = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word"; done >>{folder}/told
case $* in *State=RESUME*) echo 'idle|none' ;; *) printf 'drained|%s\\n' "${{4#Reason=}}" ;; esac >{folder}/state
"""


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of a cluster, with Slurm's stand-ins. Its project is the one that all tests share: it is in sync.

    ``program`` is what is printed, and ``without`` the same for a project of that name that has no environment yet.
    """

    folder: Path
    project: Any

    def program(self, format: str) -> Path:
        path = self.folder / format
        document = self.project.done("export", format, "-o", str(path))
        assert document["env"] is None and document["packages"] is None
        return path

    def without(self, format: str) -> Path:
        empty = self.folder / "empty" / self.project.root.name
        empty.mkdir(parents=True)
        (empty / "bnbenv.toml").write_text("[envs.bnb]\n")
        return self.changed(self.program(format), str(self.project.root), str(empty))

    def changed(self, path: Path, old: str, new: str) -> Path:
        """The program with something else in it."""
        assert old in path.read_text()
        other = path.with_name(f"other-{path.name}")
        other.write_text(path.read_text().replace(old, new))
        other.chmod(0o755)
        return other

    def run(self, path: Path) -> subprocess.CompletedProcess[str]:
        """As slurmd starts it. Slurm sets no path, but these stand-ins need one; a job's variables are there in a
        Prolog, and must not count."""
        environ = {"PATH": str(self.folder / "bin"), "SLURMD_NODENAME": "node7", "CUDA_VISIBLE_DEVICES": "3"}
        return subprocess.run([path], env=environ, cwd="/", capture_output=True, text=True, timeout=60, check=False)

    def state(self, text: str | None = None) -> str:
        if text is not None:
            (self.folder / "state").write_text(f"{text}\n")
        return (self.folder / "state").read_text().strip()

    def told(self) -> list[str]:
        """What scontrol was told since the last time."""
        path = self.folder / "told"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found


@pytest.fixture
def node(synced: Any, empty: Any, tmp_path: Path) -> Node:
    folder = tmp_path / "node"
    (folder / "bin").mkdir(parents=True)
    for name, text in {"sinfo": SINFO, "scontrol": SCONTROL}.items():
        (folder / "bin" / name).write_text(text.format(folder=shlex.quote(str(folder))))
        (folder / "bin" / name).chmod(0o755)
    one = Node(folder, dataclasses.replace(empty, root=synced.root))
    one.state("idle|none")
    return one


def drain(reason: str) -> list[str]:
    return ["update", "NodeName=node7", "State=DRAIN", f"Reason={reason}"]


REASON = "bnbenv: synced: bnb: there is no .venv-bnb yet"


def test_a_prolog_lets_jobs_start_where_all_is_in_sync_and_drains_the_node_where_not(node: Node) -> None:
    prolog = node.program("slurm-prolog")
    assert (node.run(prolog).returncode, node.told()) == (0, [])
    prolog = node.without("slurm-prolog")
    ended = node.run(prolog)
    assert (ended.returncode, ended.stderr, node.told()) == (1, f"{REASON}\n", drain(REASON))
    # A second job's changes nothing; neither does it where an administrator drained the node.
    assert (node.run(prolog).returncode, node.told()) == (1, [])
    node.state("draining|fan broken")
    assert (node.run(prolog).returncode, node.told()) == (1, [])


def test_the_health_check_resumes_what_it_drained_and_nothing_else(node: Node) -> None:
    assert (node.run(node.without("slurm-health")).returncode, node.told()) == (1, drain(REASON))
    health = node.program("slurm-health")
    assert (node.run(health).returncode, node.told()) == (0, ["update", "NodeName=node7", "State=RESUME"])
    assert node.state() == "idle|none"
    for others in (
        *("idle|none", "drained|fan broken", "drained|bnbenv: other: bnb: gone"),
        *(f"drained@|{REASON}", f"down*|{REASON}"),
    ):
        node.state(others)
        assert (node.run(health).returncode, node.told(), node.state()) == (0, [], others)


def test_a_reboot_that_is_due_and_a_project_that_cannot_be_read_are_reasons(node: Node) -> None:
    reboot = node.changed(node.program("slurm-health"), " LANG=", f" BNBENV_FACTS={shlex.quote(str(MISMATCH))} LANG=")
    assert node.run(reboot).returncode == 1
    assert node.told()[3].startswith("Reason=bnbenv: synced: reboot required")
    broken = node.without("slurm-health")
    (node.folder / "empty" / "synced" / "bnbenv.toml").write_text("[envs.bnb\n")
    assert node.run(broken).returncode == 1
    reason = node.told()[3]
    assert reason.startswith("Reason=bnbenv: synced: ") and len(reason) <= len("Reason=") + 120


def test_without_bnbenv_a_node_fails_and_when_bnbenv_fails_it_does_not(node: Node) -> None:
    text = node.program("slurm-health")
    own = next(line for line in text.read_text().splitlines() if "env -i" in line)
    gone = node.changed(text, own, '    set -- /nowhere/python "$@"')
    assert (node.run(gone).returncode, node.told()) == (1, drain("bnbenv: synced: bnbenv cannot be run on this node"))
    node.state("idle|none")
    busy = node.changed(text, own, """    set -- sh -c '[ "$1" = --version ] || exit 8' sh "$@\"""")
    assert (node.run(busy).returncode, node.told()) == (0, [])
    late = node.changed(node.changed(text, own, "    set -- sleep 9"), "timeout -k 5 20", "timeout -k 1 0.2")
    said = "bnbenv: synced: bnbenv check did not answer within 20 seconds"
    assert (node.run(late).returncode, node.told()) == (1, drain(said))


def test_what_is_printed_is_shell_that_shellcheck_has_nothing_to_say_of(node: Node) -> None:
    scripts = [node.program(name) for name in ("slurm-prolog", "slurm-health")]
    for shell in filter(shutil.which, ("dash", "bash")):
        for path in scripts:
            assert subprocess.run([shell, "-n", path], capture_output=True, check=True).stderr == b""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is missing (apt install shellcheck)")
    subprocess.run(["shellcheck", "-s", "sh", *scripts], check=True, timeout=60)


@pytest.mark.parametrize("more", [[], ["--sync"]])
def test_the_timers_units_are_ones_that_systemd_takes_and_do_what_they_say(more: list[str], node: Node) -> None:
    document = node.project.done("export", "systemd-timer", *more, "-o", str(node.folder))
    service, timer = (node.folder / one["name"] for one in document["files"])
    assert service.suffix == ".service" and timer == service.with_suffix(".timer")
    (line,) = [line for line in service.read_text().splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(line.removeprefix("ExecStart=").replace("%%", "%").replace("$$", "$"))
    root = str(node.project.root)
    assert words[words.index("bnbenv") + 1 :] == [*(["sync"] if more else ["check", "--reason"]), "--project", root]
    if not more:
        node.without("slurm-health")
        folders = {root: (0, ""), str(node.folder / "empty" / "synced"): (3, f"{REASON}\n")}
        for folder, expected in folders.items():
            command = [folder if word == root else word for word in words]
            environ = node.project.changed(PATH="/usr/bin:/bin")
            ended = subprocess.run(command, env=environ, cwd="/", capture_output=True, text=True, check=False)
            assert (ended.returncode, ended.stdout) == expected
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing (apt install systemd)")
    verify = ["systemd-analyze", "verify", "--man=no", str(service), str(timer)]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(node.folder)}
    done = subprocess.run(verify, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_first_container_of_a_pod_verifies_the_environment(synced: Any, empty: Any) -> None:
    project = dataclasses.replace(empty, root=synced.root)
    document = project.done("export", "kubernetes", "--image", "registry.example/me/qlora:1")
    pod, job = yaml.safe_load_all(document["text"])
    assert (pod["apiVersion"], pod["kind"], job["apiVersion"], job["kind"]) == ("v1", "Pod", "batch/v1", "Job")
    assert job["spec"]["template"]["spec"] == pod["spec"]
    (verify,), (main,) = pod["spec"]["initContainers"], pod["spec"]["containers"]
    assert verify["image"] == main["image"] == "registry.example/me/qlora:1"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert verify["terminationMessagePolicy"] == "FallbackToLogsOnError"
    # Its very command, with the image's folder in the place where it is here.
    assert verify["command"][0] == "bnbenv" and main["command"][0] == "/opt/bnbenv/bnb/bin/python"
    here = str(synced.root / ".venv-bnb")
    words = [here if word == "/opt/bnbenv/bnb" else word for word in verify["command"][1:]]
    assert here in words
    ended = project(*words)
    assert ended.code == 0 and "verified on cpu" in ended.stdout
    ended = project(*[os.path.devnull if word == here else word for word in words])
    assert ended.code == 2 and ended.stderr.startswith("error: ")
