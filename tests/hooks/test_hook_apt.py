"""The real apt: the hook is installed, then a package, and the hook runs. All its files are in a temporary folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} missing: no Debian or Ubuntu"),
    pytest.mark.skipif(os.geteuid() != 0, reason="dpkg installs as root alone, wherever it does"),
]

CONTROL = (
    "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@example.org>\nDescription: of a test\n"
)
CONFIG = """\
Dir::Etc::main "/dev/null"; Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null"; Dir::Etc::parts "{root}/etc/apt/apt.conf.d";
Dir::State "{own}/state"; Dir::State::status "{own}/dpkg/status"; Dir::Cache "{own}/cache"; Dir::Log "{own}/log";
DPkg::Options {{ "--root={root}"; "--admindir={own}/dpkg"; "--log={own}/dpkg.log"; "--force-script-chrootless"; }};
APT::Sandbox::User "root";
"""


@pytest.fixture
def apt(machine: Any, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``apt("install", "nvidia-x", "580", {"usr/lib/a": "text"})``: apt-get on a package made on the spot."""
    own = tmp_path / "apt"
    for name in ("state/lists/partial", "cache/archives/partial", "log", "dpkg/info", "dpkg/updates", "dpkg/triggers"):
        (own / name).mkdir(parents=True)
    (own / "dpkg/status").write_text("")
    (own / "apt.conf").write_text(CONFIG.format(root=machine.root, own=own))

    def run(verb: str, name: str, version: str, links: dict[str, str]) -> subprocess.CompletedProcess[str]:
        tree = own / f"{name}-{version}"
        for path, text in links.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).symlink_to(text) if text else (tree / path).write_text("")
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(CONTROL.format(name=name, version=version))
        subprocess.run(["dpkg-deb", "--build", tree, f"{tree}.deb"], check=True, capture_output=True)
        what = f"{tree}.deb" if verb == "install" else name
        environ = {**os.environ, "APT_CONFIG": str(own / "apt.conf"), "LC_ALL": "C"}
        return subprocess.run(
            ["apt-get", "-y", "-q", verb, what], env=environ, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_apt_calls_the_hook_and_is_never_disturbed(machine: Any, apt: Any, wait: Any) -> None:
    machine.driver("570.124.06", "570.124.06")
    machine("hook", "install", "apt", "profile")
    script = machine.root / "var/lib/bnbenv/hook.sh"
    calls = machine.root / "calls"
    script.write_text(script.read_text().replace(") &\n", f"    echo called >>{calls}\n) &\n"))
    noted = machine.root / "var/lib/bnbenv/noted.json"

    quiet = apt("install", "hello", "1", {"usr/share/hello": ""})
    assert quiet.returncode == 0 and "bnbenv" not in quiet.stdout + quiet.stderr, quiet
    wait(calls.exists)
    assert json.loads(noted.read_text())["number"] == 1

    library = "usr/lib/x86_64-linux-gnu/libnvidia-ml.so"
    (machine.root / f"{library}.1").unlink()
    new = apt(
        "install",
        "libnvidia-compute",
        "580",
        {f"{library}.580.65.06": "", f"{library}.1": f"{Path(library).name}.580.65.06"},
    )
    assert new.returncode == 0, new
    wait(lambda: json.loads(noted.read_text())["state"] == "mismatch")
    found = json.loads(noted.read_text())
    assert found["event"] == "apt" and found["changes"] == ["driver library 570.124.06 -> 580.65.06"]
    assert "from 570.124.06 to 580.65.06" in machine.shell(machine.root / "etc/profile.d/bnbenv.sh")

    script.write_text("exit 1\n")  # whatever it does
    broken = apt("install", "hello2", "1", {"usr/share/hello2": ""})
    assert broken.returncode == 0 and broken.stderr == "", broken
    shutil.rmtree(script.parent)  # and where it is gone
    gone = apt("install", "hello3", "1", {"usr/share/hello3": ""})
    assert gone.returncode == 0 and gone.stderr == "", gone
