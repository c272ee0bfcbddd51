"""bnbenv for a bare host: a clean Debian in a chroot that reaches no network gets it out of one file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bnbenv import __version__
from bnbenv.bundle.archive import Reader
from bnbenv.envs.project import Project
from bnbenv.envs.resolve import Setting, user_matrix
from bnbenv.envs.wishes import load_wishes
from bnbenv.errors import SourceUnreachable
from bnbenv.facts.model import decode_facts
from bnbenv.fleet.toolbundle import tool_bundle
from bnbenv.process import SystemRunner

ROOT = Path(__file__).parent.parent.parent
FACTS = ROOT / "tests/hosts/linux-x86_64__absent__nogpu__glibc2.36/facts.json"
ENTER = 'set -e; mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"; exec chroot "$0" env -i "$@"'
INSIDE = """\
set -e
mkdir /root/unpacked && tar -xf /root/tool.tar -C /root/unpacked
if command -v bnbenv; then exit 9; fi
sh /root/unpacked/install.sh /srv/bnbenv >&2
/srv/bnbenv/bin/bnbenv facts --json
"""

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("debian")]


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_a_bare_host_gets_bnbenv_without_network(tmp_path: Path, tool_environ: dict[str, str]) -> None:
    project = Project(tmp_path, tmp_path / "bnbenv.toml")
    # The interpreter that it would bring has tens of megabytes, which are nowhere.
    environ = {**tool_environ, "UV_PYTHON_INSTALL_MIRROR": (tmp_path / "mirror").as_uri()}
    facts, said = decode_facts(FACTS.read_bytes(), "facts"), list[str]()

    class Progress:
        def say(self, line: str) -> None:
            said.append(line)

        def detail(self, line: str) -> None: ...

        def at(self, text: str) -> None: ...

    setting = Setting(
        project, load_wishes(project), facts, user_matrix(environ), environ, SystemRunner(), progress=Progress()
    )
    try:
        made = tool_bundle(setting, ("x86_64",), ("3.11",))
    except SourceUnreachable as error:
        pytest.skip(f"no package index answers: {error}")
    with Reader(Path(made.path), "it") as reader:
        (group,) = reader.manifest.classes
        assert (group.tool, group.environments, reader.manifest.config) == (("tool/linux-x86_64-3.11.txt",), (), False)
        listed = reader.text("tool/linux-x86_64-3.11.txt").splitlines()
    assert [line for line in listed if line.startswith(f"bnbenv=={__version__} --hash=sha256:")]
    assert any("it brings no Python 3.12" in line for line in said)
    said.clear()
    assert tool_bundle(setting, ("x86_64",), ("3.11",)) == made and said == []

    archive = ROOT / ".test-env/debian.tar"
    if not archive.exists():
        pytest.skip("no clean Debian is here (scripts/test.sh makes one where it is root and has mmdebstrap)")
    alone = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child"]
    if os.uname().machine != "x86_64" or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no network namespace can be made here, or this is no x86-64 machine")
    host = tmp_path / "host"
    host.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", host], check=True, timeout=60)
    shutil.copy(made.path, host / "root/tool.tar")
    shutil.rmtree(tmp_path / ".bnbenv")
    path = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]
    try:
        ended = subprocess.run(
            [*alone, "sh", "-c", ENTER, host, *path, "sh", "-c", INSIDE],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        shutil.rmtree(host, ignore_errors=True)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["platform"]["libc"]["name"] == "glibc"
