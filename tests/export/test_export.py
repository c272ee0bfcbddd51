"""``bnbenv export``: what it prints installs just the packages of the lock, by the programs that it is for."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.real


def uv(project: Any, *words: str) -> str:
    from uv import find_uv_bin

    done = subprocess.run(
        [find_uv_bin(), *words], env=project.changed(), cwd=project.root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def installed(project: Any, python: Path) -> dict[str, str]:
    """What is in an environment, by name."""
    lines = uv(project, "pip", "list", "--format", "freeze", "--python", str(python)).splitlines()
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def locked(project: Any) -> dict[str, str]:
    packages = tomllib.loads((project.root / "pylock.bnb.toml").read_text())["packages"]
    return {one["name"]: one["version"] for one in packages}


def fresh_venv(project: Any, place: Path) -> Path:
    uv(project, "venv", "--quiet", "--python", "3.11", str(place))
    return place / "bin" / "python"


def without(text: str, *names: str) -> str:
    """Requirements without some packages: torch alone takes pip a minute."""
    return re.sub(rf"^({'|'.join(names)})==.*\\\n(?:    --hash.*\n)+", "", text, flags=re.M)


@pytest.fixture
def exported(synced: Any, empty: Any) -> Any:
    """The project that all tests share: nothing is changed in it."""
    return dataclasses.replace(empty, root=synced.root)


def test_requirements_install_what_the_lock_names_and_nothing_else(exported: Any, tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(exported("export", "requirements").stdout)
    python = fresh_venv(exported, tmp_path / "venv")
    uv(exported, "pip", "install", "--quiet", "--require-hashes", "--python", str(python), "-r", str(file))
    assert installed(exported, python) == locked(exported)
    # One wrong digit, and it is refused.
    broken = re.sub(r"(torch==\S+ \\\n    --hash=sha256:)[0-9a-f]", lambda match: f"{match[1]}x", file.read_text())
    assert broken != file.read_text()
    file.write_text(broken.replace("sha256:x", "sha256:0"))
    with pytest.raises(AssertionError, match=r"(?i)hash"):
        uv(
            exported,
            *("pip", "install", "--reinstall", "--no-cache", "--require-hashes"),
            *("--python", str(python), "-r", str(file)),
        )


def test_pip_reads_the_requirements_too(exported: Any, tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(without(exported("export", "requirements").stdout, "torch"))
    words = ["install", "--dry-run", "--quiet", "--ignore-installed", "--no-deps", "--require-hashes", "--report", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, "-r", file], env=exported.changed(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    report = yaml.safe_load(done.stdout)  # JSON is YAML
    found = {canonicalize_name(one["metadata"]["name"]): one["metadata"]["version"] for one in report["install"]}
    assert found == {name: version for name, version in locked(exported).items() if name != "torch"}


def test_a_pylock_without_bnbenvs_table_installs_the_same(exported: Any, tmp_path: Path) -> None:
    from packaging.pylock import Pylock

    text = exported("export", "pylock").stdout
    document = tomllib.loads(text)
    assert "tool" not in document
    assert {one.name: str(one.version) for one in Pylock.from_dict(document).packages} == locked(exported)
    file = tmp_path / "pylock.bnb.toml"
    file.write_text(text)
    python = fresh_venv(exported, tmp_path / "venv")
    uv(exported, "pip", "install", "--quiet", "--python", str(python), "-r", str(file))
    assert installed(exported, python) == locked(exported)


def test_conda_gets_python_and_the_rest_by_pip(exported: Any) -> None:
    document = yaml.safe_load(exported("export", "conda").stdout)
    assert document["name"] == "bnb"
    python, pip, rest = document["dependencies"]
    assert (python, pip) == ("python=3.11", "pip")
    pins = [line for line in rest["pip"] if not line.startswith("--")]
    assert dict(line.split(" ")[0].split("==") for line in pins) == locked(exported)
    assert all(" --hash=sha256:" in line for line in pins)


def run_dockerfile(text: str, root: Path, project: Any, wheels: dict[str, Path]) -> None:
    """Carry out COPY and RUN as Docker would, below ``root``: absolute folders of the image are in there."""
    inside = {"/opt/bnbenv": str(root / "opt"), "/wheels": str(root / "wheels")}

    def moved(line: str) -> str:
        for folder, place in inside.items():
            line = line.replace(folder, place)
        return line

    (root / "wheels").mkdir(parents=True)
    (root / "opt").mkdir()
    heredoc = re.search(r"^COPY <<'(\w+)' (\S+)\n(.*?)^\1$", text, re.M | re.S)
    assert heredoc is not None
    Path(moved(heredoc[2])).write_text(moved(heredoc[3]))
    if "COPY wheels/ /wheels/" in text:
        for name, path in wheels.items():
            (root / "wheels" / name).symlink_to(path)
    (command,) = re.findall(r"^RUN (.*?[^\\])$", text, re.M | re.S)
    done = subprocess.run(
        ["sh", "-ec", moved(command)], env=project.changed(PIP_FIND_LINKS=None), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_dockerfile_makes_the_environment(exported: Any, tmp_path: Path) -> None:
    document = exported.done("export", "dockerfile")
    text, notes = document["text"], document["notes"]
    assert "\nFROM python:3.11-slim\n" in text
    copies = [note.partition(": ")[2].split(", ") for note in notes if note.startswith("copy into a folder wheels")]
    wheels = {Path(path).name: Path(path) for group in copies for path in group}
    large = ("torch", "bitsandbytes", "sympy", "numpy")
    text = without(text, *large)
    for name in ("networkx", "packaging"):  # torch and bitsandbytes ask for what was left out
        assert f"\n{name}==" in text
    run_dockerfile(text.replace("--require-hashes", "--require-hashes --no-deps"), tmp_path / "image", exported, wheels)
    found = installed(exported, tmp_path / "image" / "opt" / "bnb" / "bin" / "python")
    assert {name for name in locked(exported) if name not in large} <= set(found)
    assert "\nFROM nvcr.io/some/image:1\n" in exported("export", "dockerfile", "--base", "nvcr.io/some/image:1").stdout


def test_a_file_is_written_and_without_a_lock_it_is_said(exported: Any, empty: Any, tmp_path: Path) -> None:
    ended = exported("export", "requirements", "-o", str(tmp_path / "out.txt"))
    assert (tmp_path / "out.txt").read_text() == exported("export", "requirements").stdout
    assert f"wrote{tmp_path}/out.txt(" in "".join(ended.stdout.split())
    assert exported("export", "requirements", "-o", str(tmp_path / "out.txt" / "below")).code == 1
    os.mkfifo(tmp_path / "pipe")
    assert "is a device, a pipe" in exported("export", "requirements", "-o", str(tmp_path / "pipe")).stderr
    ended = empty("export", "conda")
    assert ended.code == 2
    assert "there is no lock to export" in ended.stderr
    assert "bnbenv lock" in ended.stderr
