"""A real bundle on a machine that has nothing and reaches nothing: a network namespace, an empty home, no cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ALONE = ("unshare", "-n") if os.name != "nt" and os.geteuid() == 0 else ("unshare", "-rn")
SCRIPT = """\
set -eu
tar -xf lab.tar -C unpacked
uv=$(ls unpacked/files/uv-*.whl)
mv "$uv" aside
cat aside > "$uv"; echo >> "$uv"
if sh unpacked/install.sh tool 2> said; then echo "installed with another uv"; exit 9; fi
grep -q "the uv of this bundle is missing or was changed" said
mv aside "$uv"
sh unpacked/install.sh tool
cd place
../tool/bin/bnbenv sync --offline --bundle ../lab.tar --json > ../sync.json
../tool/bin/bnbenv check
../tool/bin/bnbenv sync
../tool/bin/bnbenv doctor .venv-bnb --json > ../doctor.json
"""


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_bnbenv_and_its_environment_out_of_a_bundle_without_network(project: Any, tmp_path: Path) -> None:
    tried = (
        subprocess.run([*ALONE, "true"], capture_output=True, text=True, check=False)
        if shutil.which("unshare")
        else None
    )
    if tried is None or tried.returncode != 0:
        pytest.skip(f"no network namespace can be made here: {tried.stderr.strip() if tried else 'unshare is missing'}")
    facts = project.done("facts")
    minor = f"{sys.version_info.major}.{sys.version_info.minor}."
    facts["pythons"] = [one for one in facts["pythons"] if one["version"].startswith(minor)][:1]
    (tmp_path / "a.json").write_text(json.dumps(facts))
    bundle = tmp_path / "lab.tar"
    done = project.done("bundle", str(bundle), "--for", str(tmp_path / "a.json"))
    assert done["size"] == bundle.stat().st_size > 100 << 20

    for name in ("unpacked", "place", "home"):
        (tmp_path / name).mkdir()
    interpreter = Path(facts["pythons"][0]["path"]).parent
    environ = {"HOME": str(tmp_path / "home"), "PATH": f"{interpreter}:/usr/bin:/bin"}
    environ["BNBENV_SYSROOT"] = project.environ["BNBENV_SYSROOT"]
    ended = subprocess.run(
        [*ALONE, "sh", "-c", SCRIPT],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    shutil.rmtree(tmp_path / "unpacked")
    bundle.unlink()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "in sync: bnb" in ended.stdout and "in sync, nothing to do: bnb (generation 1)" in ended.stdout
    (row,) = json.loads((tmp_path / "sync.json").read_text())["generations"]
    assert row["verified"] and row["verification"]["ok"]
    # The lock that the other machine has, to the byte.
    locks = [(root / "pylock.bnb.toml").read_bytes() for root in (project.root, tmp_path / "place")]
    assert locks[0] == locks[1]
    assert json.loads((tmp_path / "doctor.json").read_text())["schema"] == "bnbenv.doctor/1"
    shutil.rmtree(tmp_path / "place")
    shutil.rmtree(tmp_path / "home")
