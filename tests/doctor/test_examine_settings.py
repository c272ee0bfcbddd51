"""Where variables are set: the process, shell files, conda, systemd, bnbenv's own .pth; with file and line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bnbenv.doctor.examine import Ports, Where, examine
from bnbenv.doctor.examine.assignments import assignments
from bnbenv.doctor.model import Examination
from bnbenv.facts.model import HostFacts, decode_facts
from bnbenv.paths import Sysroot
from bnbenv.process import Command, Finished

HOSTS = Path(__file__).parents[1] / "hosts"


def facts(name: str = "linux-x86_64__535.183.01__t4-sm75") -> HostFacts:
    return decode_facts((HOSTS / name / "facts.json").read_bytes(), "facts")


class Registry:
    """Answers what ``reg query`` would; nothing else can be started."""

    def __init__(self, text: str = "") -> None:
        self.text = text

    def run(self, command: Command) -> Finished:
        if command.argv[:2] != ("reg", "query") or not self.text:
            raise FileNotFoundError(command.argv[0])
        return Finished(command, 0, self.text if "HKCU" in command.argv[2] else "", "", False, 0.0)


def conda(root: Path) -> Path:
    """A conda environment: a Python's name, a record of it, and folders for its variables."""
    prefix = root / "conda"
    for folder in ("bin", "conda-meta", "etc/conda/activate.d", "lib/python3.11/site-packages"):
        (prefix / folder).mkdir(parents=True)
    (prefix / "bin" / "python3.11").write_text("")
    (prefix / "bin" / "python").symlink_to("python3.11")
    (prefix / "conda-meta" / "python-3.11.9-h955ad1f_0.json").write_text("{}")
    return prefix


def look(root: Path, environ: dict[str, str], path: Path | None = None, registry: str = "", **more: str) -> Examination:
    for name in ("home", "here", "sys"):
        (root / name).mkdir(exist_ok=True)
    ports = Ports(environ, Registry(registry), Sysroot(root / "sys"), root / "home")
    return examine(Where(root / "here", path=str(path) if path else None), facts(**more), ports)


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_each_place_is_told_with_its_line(tmp_path: Path) -> None:
    prefix, home, system = conda(tmp_path), tmp_path / "home", tmp_path / "sys"
    state = {"env_vars": {"BNB_CUDA_VERSION": "2", "SOMETHING": "else", "CUDA_HOME": "***unset***"}}
    places = {
        write(prefix / "lib/python3.11/site-packages/sitecustomize.py", 'os.environ["BNB_CUDA_VERSION"] = "1"\n'): 1,
        write(prefix / "conda-meta" / "state", json.dumps(state, indent=1)): 3,
        write(prefix / "etc/conda/activate.d/env_vars.sh", "#!/bin/sh\n\nexport BNB_CUDA_VERSION=3\n"): 3,
        write(
            prefix / "share/jupyter/kernels/python3/kernel.json", '{"argv": [],\n"env": {"BNB_CUDA_VERSION": "4"}}'
        ): 2,
        write(tmp_path / "here" / ".env", "A=1\nBNB_CUDA_VERSION=5\n"): 2,
        write(home / ".bashrc", "# export BNB_CUDA_VERSION=0\nexport A=1; export BNB_CUDA_VERSION='6'\n"): 2,
        write(home / ".config/fish/config.fish", "set -gx BNB_CUDA_VERSION 7\n"): 1,
        write(home / ".config/fish/fish_variables", "# fish\nSETUVAR --export BNB_CUDA_VERSION:8\n"): 2,
        write(home / ".config/environment.d/cuda.conf", "BNB_CUDA_VERSION=9\n"): 1,
    }
    write(system / "etc/environment", 'PATH="/usr/bin"\nBNB_CUDA_VERSION="10"\n')
    write(system / "etc/profile.d/cuda.sh", "if true; then export BNB_CUDA_VERSION=11; fi\n")
    expected = {**places, "/etc/environment": 2, "/etc/profile.d/cuda.sh": 1}

    found = look(tmp_path, {"BNB_CUDA_VERSION": "", "HOME": str(home)}, prefix)

    assert (found.settings[0].value, found.settings[0].file) == ("", None)
    assert {one.file: one.line for one in found.settings[1:]} == expected
    assert [one.value for one in found.settings[1:]] == [str(number) for number in range(1, 12)]


def test_what_an_environment_sets_for_itself_decides_unless_the_shell_does(tmp_path: Path) -> None:
    prefix = conda(tmp_path)
    site = prefix / "lib/python3.11/site-packages"
    write(site / "bitsandbytes" / "__init__.py", '__version__ = "0.50.2"\n')
    write(site / "torch" / "__init__.py", "")
    write(site / "torch" / "version.py", "__version__ = '2.9.1+cu128'\ncuda = '12.8'\n")
    write(site / "torch" / "_C.cpython-311-x86_64-linux-gnu.so", "")
    line = "import os; [os.environ.setdefault(k, v) for k, v in {'BNB_CUDA_VERSION': '999'}.items()]\n"
    file = write(site / "bnbenv-environment.pth", line)

    found = look(tmp_path, {}, prefix)
    assert [(one.name, one.value, one.file, one.line) for one in found.settings] == [
        ("BNB_CUDA_VERSION", "999", file, 1)
    ]
    assert found.loads is not None and found.loads.override == "999"
    found = look(tmp_path, {"BNB_CUDA_VERSION": "888"}, prefix)
    assert found.loads is not None and found.loads.override == "888"


def test_what_an_activation_would_set_counts_where_another_environment_is_activated(tmp_path: Path) -> None:
    prefix = conda(tmp_path)
    site = prefix / "lib/python3.11/site-packages"
    write(site / "bitsandbytes" / "__init__.py", '__version__ = "0.50.2"\n')
    write(site / "torch" / "__init__.py", "")
    write(site / "torch" / "version.py", "__version__ = '2.9.1+cu128'\ncuda = '12.8'\n")
    write(site / "torch" / "_C.cpython-311-x86_64-linux-gnu.so", "")
    write(prefix / "conda-meta" / "state", '{"env_vars": {"BNB_CUDA_VERSION": "777"}}')
    write(prefix / "etc/conda/activate.d/x.sh", "export CUDA_VISIBLE_DEVICES=${NOTHING:-}-1\n")
    found = look(tmp_path, {"CONDA_PREFIX": "/elsewhere"}, prefix)
    assert found.loads is not None and found.loads.override == "777"
    assert "devices-hidden" in found.conditions
    # Here it is activated, and this shell has them no more.
    found = look(tmp_path, {"CONDA_PREFIX": str(prefix)}, prefix)
    assert found.loads is not None and found.loads.override is None
    assert "devices-hidden" not in found.conditions


@pytest.mark.parametrize(
    "line",
    [
        "export BNB_CUDA_VERSION=118",
        'export A=2 BNB_CUDA_VERSION="118"  # why',
        "[ -d / ] && export BNB_CUDA_VERSION=118 || true",
        "if true; then export BNB_CUDA_VERSION='118'; fi",
        "declare -x BNB_CUDA_VERSION=118",
        "BNB_CUDA_VERSION=118; export BNB_CUDA_VERSION",
        "BNB_CUDA_VERSION=118 printenv A",
        "alias t='A=1 BNB_CUDA_VERSION=118 python'",
        "# export BNB_CUDA_VERSION=118",
        "export BNB_CUDA_VERSION=118; unset BNB_CUDA_VERSION",
        "export BNB_CUDA_VERSION=118\nlater() {\n  unset BNB_CUDA_VERSION\n}",
        "echo export BNB_CUDA_VERSION=118",
        "export BNB_CUDA_VERSION_OLD=118",
    ],
)
def test_a_shells_line_is_read_as_the_shell_does(line: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    done = subprocess.run(
        [bash, "--noprofile", "--norc", "-c", f"{line}\n/usr/bin/env || true"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    real = [text.partition("=")[2] for text in done.stdout.splitlines() if text.startswith("BNB_CUDA_VERSION=")]
    read = [one.value for one in assignments(line + "\n", "sh") if one.name == "BNB_CUDA_VERSION"]
    assert read == real


def test_other_shells_and_windows(tmp_path: Path) -> None:
    def read(text: str, dialect: str) -> list[tuple[int, str, str | None]]:
        return [tuple(one) for one in assignments(text, dialect)]

    assert read("setenv CUDA_HOME /usr/local/cuda\n", "sh") == [(1, "CUDA_HOME", "/usr/local/cuda")]
    fish = "set -x LD_LIBRARY_PATH /a /b\nset CUDA_HOME /c\nset -Ux CUDA_PATH /d\nset -e CUDA_PATH\n"
    assert read(fish, "fish") == [(1, "LD_LIBRARY_PATH", "/a:/b")]
    shell = '$Env:BNB_CUDA_VERSION = "118"\n$env:CUDA_HOME=$null\n'
    assert read(shell, "powershell") == [(1, "BNB_CUDA_VERSION", "118")]
    assert read('@set "CUDA_HOME=C:\\x y"\r\n', "batch") == [(1, "CUDA_HOME", "C:\\x y")]
    assert read('LD_LIBRARY_PATH+=":/x"\n', "sh") == [(1, "LD_LIBRARY_PATH", "$LD_LIBRARY_PATH:/x")]
    assert read('export BNB_CUDA_VERSION="118\n', "sh") == []  # goes on in the next line

    registry = (
        "\r\nHKEY_CURRENT_USER\\Environment\r\n    BNB_CUDA_VERSION    REG_SZ    118\r\n    TEMP    REG_SZ    x\r\n"
    )
    found = look(tmp_path, {}, registry=registry, name="windows-x86_64__581.57__rtx4090-sm89")
    assert [(one.name, one.value, one.file) for one in found.settings] == [
        ("BNB_CUDA_VERSION", "118", r"HKCU\Environment")
    ]


def test_a_token_is_never_told(tmp_path: Path) -> None:
    write(tmp_path / "home" / ".profile", "export HF_TOKEN=hf_abcdef\n")
    found = look(tmp_path, {"HF_TOKEN": "hf_abcdef"})
    assert [one.value for one in found.settings] == ["(set)", "(set)"]
    assert "hf_abcdef" not in repr(found)


def test_what_is_no_usual_file_neither_blocks_nor_fails(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.mkfifo(home / ".bashrc")
    (home / ".zshrc").mkdir()
    (home / ".zshenv").symlink_to(".zshenv")
    (home / ".profile").write_bytes(b"export CUDA_HOME=/x\n" + b"\xff\xfe\0" * (1 << 20))
    found = look(tmp_path, {})
    assert [one.value for one in found.settings] == ["/x"]
    assert [one.fact for one in found.unknown if one.fact.startswith("settings")] == [f"settings {home / '.zshenv'}"]
