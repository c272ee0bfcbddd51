"""scripts/bootstrap.sh by itself: what it installs from where, what it refuses, and what half of it does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
SCRIPT = SCRIPTS / "bootstrap.sh"
TOOLS = ("basename", "bash", "cat", "cksum", "dirname", "find", "flock", "grep", "id", "ln", "ls", "mkdir", "rm", "sed")


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """The script where nothing else of bnbenv is, as after a download."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    shutil.copy(SCRIPT, folder)
    return folder / SCRIPT.name


@pytest.fixture
def environ(tmp_path: Path, tool_environ: Mapping[str, str]) -> dict[str, str]:
    """A user with nothing in the home folder, on a machine whose pip and uv are not set up."""
    foreign = ("PIP_", "UV_", "BNBENV_", "XDG_", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
    kept = {name: value for name, value in tool_environ.items() if not name.startswith(foreign)}
    home = tmp_path / "home"
    home.mkdir()
    return {**kept, "HOME": str(home), "PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1"}


def run(
    script: Path, *words: str, environ: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(script), *words]
    return subprocess.run(command, env=environ, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def served(index: Any, wheel_maker: Callable[..., Path]) -> Any:
    """A private index that has a bnbenv, of which only the command is there."""
    more = {
        "bnbenv_stand_in.py": "def main() -> None:\n    print('bnbenv 9.9')\n",
        "bnbenv-9.9.dist-info/entry_points.txt": "[console_scripts]\nbnbenv = bnbenv_stand_in:main\n",
    }
    wheel_maker(index.wheels, "bnbenv", "9.9", more=more)
    return index


def test_it_installs_through_a_proxy_and_completes_what_a_killed_run_left(
    alone: Path, environ: dict[str, str], served: Any, tmp_path: Path
) -> None:
    prefix = tmp_path / "tool"
    words = ("--tool-only", "--prefix", str(prefix))

    # Killed while pip waits for an index that does not answer.
    slow = {**environ, "PIP_INDEX_URL": served.url("slow"), "PIP_RETRIES": "0"}
    process = subprocess.Popen(["bash", str(alone), *words], env=slow, start_new_session=True, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not served.requests and time.monotonic() < deadline:
        time.sleep(0.05)
    assert served.requests and process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (prefix / "bin/bnbenv").exists()

    # No host of that name is there: only the proxy knows it. The index is uv's, whose settings hold where pip has none.
    served.requests.clear()
    of_uv = {"UV_DEFAULT_INDEX": "http://index.invalid/simple", "UV_INSECURE_HOST": "index.invalid"}
    proxied = {**environ, **of_uv, "http_proxy": served.url("").rstrip("/")}
    # Whoever may write into the folder that it is started in has none of its files run.
    crowded = tmp_path / "crowded"
    crowded.mkdir()
    for name in ("venv", "pip", "ensurepip", "hashlib", "configparser", "subprocess", "random"):
        (crowded / f"{name}.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\n")
    ended = run(alone, *words, environ=proxied, cwd=crowded)
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "was-run").exists()
    assert "/simple/bnbenv/" in [path for path, _ in served.requests]
    asked = subprocess.run([prefix / "bin/bnbenv"], capture_output=True, text=True, check=True, timeout=60)
    assert asked.stdout == "bnbenv 9.9\n"

    # Again: nothing is asked for, nothing is done.
    served.requests.clear()
    before = {path: path.lstat().st_mtime_ns for path in prefix.rglob("*")}
    ended = run(alone, *words[:-1], "tool", environ={**proxied, "CDPATH": str(tmp_path)}, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, f"bootstrap: bnbenv is installed: {prefix}/bin/bnbenv\n")
    assert not served.requests
    assert {path: path.lstat().st_mtime_ns for path in prefix.rglob("*")} == before

    # What cannot be had leaves what is there.
    ended = run(
        alone, *words, environ={**environ, "BNBENV_INSTALL": "bnbenv==8", "PIP_INDEX_URL": served.url("simple")}
    )
    assert ended.returncode == 7
    assert "next: Check the network" in ended.stderr
    assert run(alone, *words, environ=proxied).returncode == 0

    # A password in an address is neither told nor kept.
    private = served.url("files").replace("://", "://me:pass-word@") + "/bnbenv-9.9-py3-none-any.whl"
    ended = run(alone, *words, environ={**environ, "BNBENV_INSTALL": private, "PIP_NO_INDEX": "1"})
    assert ended.returncode == 0 and "pass-word" not in ended.stderr, ended.stderr
    assert not [path for path in prefix.rglob("*") if path.is_file() and b"pass-word" in path.read_bytes()]


def test_what_it_refuses(alone: Path, environ: dict[str, str], tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("years of work")
    cases = [
        (("--prefix", str(taken)), {}, 2, f"{taken} holds something else than bnbenv"),
        (("--prefix",), {}, 2, "--prefix needs a folder"),
        ((), {"BNBENV_INSTALL": "./gone.whl"}, 2, "BNBENV_INSTALL: there is no ./gone.whl"),
        (
            ("--prefix", str(tmp_path / "new")),
            {"BNBENV_PYTHON": "/bin/false"},
            2,
            "BNBENV_PYTHON=/bin/false is no Python",
        ),
    ]
    for words, more, code, said in cases:
        ended = run(alone, *words, environ={**environ, **more})
        assert (ended.returncode, said in ended.stderr) == (code, True), ended.stderr
        assert "\nnext: " in ended.stderr or said.endswith("folder")
    assert [path.name for path in taken.iterdir()] == ["thesis.tex"]


RELEASES = [
    ("ID=debian\nVERSION_ID=12", 1, "As root: apt-get install -y --no-install-recommends python3 python3-venv"),
    ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=24.04", 1, "As root: apt-get install"),
    ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=20.04", 1, "uv python install 3.12"),
    ("ID=rocky\nID_LIKE='rhel centos fedora'\nVERSION_ID=9.5", 1, "As root: dnf install -y python3.12"),
    ("ID=ol\nID_LIKE=fedora\nVERSION_ID=8.10", 1, "As root: dnf install -y python3.12"),
    ("ID=fedora\nVERSION_ID=43", 1, "As root: dnf install -y python3,"),
    ("ID=arch", 1, "As root: pacman -S --needed --noconfirm python,"),
    (
        "ID=opensuse-leap\nID_LIKE='suse opensuse'\nVERSION_ID=15.6",
        1,
        "As root: zypper --non-interactive install python311",
    ),
    ("ID=plan9", 1, "or name one in BNBENV_PYTHON"),
    ("ID=alpine\nVERSION_ID=3.22", 4, "musl: torch and bitsandbytes publish no wheels for it"),
]


@pytest.mark.parametrize(("release", "code", "said"), RELEASES, ids=[one[0].partition("\n")[0] for one in RELEASES])
def test_without_python_it_names_the_package_of_this_distribution(
    alone: Path, environ: dict[str, str], tmp_path: Path, release: str, code: int, said: str
) -> None:
    (tmp_path / "sysroot/etc").mkdir(parents=True)
    (tmp_path / "sysroot/etc/os-release").write_text(release)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in TOOLS:
        place = shutil.which(name)
        if place is not None:
            (tools / name).symlink_to(place)
    bare = {**environ, "PATH": str(tools), "BNBENV_SYSROOT": str(tmp_path / "sysroot")}
    words = ("--tool-only", "--prefix", str(tmp_path / "tool"))
    ended = run(alone, *words, environ=bare)
    assert ended.returncode == code
    assert said in ended.stderr


def test_half_a_download_does_nothing(environ: dict[str, str], tmp_path: Path) -> None:
    """As ``curl ... | bash`` would run it when the connection breaks off."""
    text = SCRIPT.read_bytes()
    bash = shutil.which("bash")
    assert bash is not None
    here = tmp_path / "here"
    here.mkdir()
    home = Path(environ["HOME"])
    ends = [*range(500, len(text), 997), *(len(text) - n for n in range(3, 60, 7))]
    for end in ends:
        words = [bash, "-s", "--", str(here / "made")]
        ended = subprocess.run(
            words, input=text[:end], env=environ, cwd=here, capture_output=True, timeout=60, check=False
        )
        assert b"bootstrap:" not in ended.stdout + ended.stderr
        assert not any(here.iterdir()) and not any(home.iterdir()), f"after {end} of {len(text)} bytes"


def test_the_shell_scripts_are_in_order() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is missing (apt install shellcheck)")
    scripts = [*SCRIPTS.glob("*.sh"), *SCRIPTS.glob("examples/*.sh")]
    assert SCRIPT in scripts
    subprocess.run([shellcheck, "-x", *scripts], check=True, cwd=SCRIPTS.parent, timeout=60)


def test_the_script_for_windows_can_be_parsed() -> None:
    """It was never run: there is no PowerShell here."""
    tree_sitter = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip("tree_sitter_powershell")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    text = (SCRIPTS / "bootstrap.ps1").read_bytes()
    assert not parser.parse(text).root_node.has_error
    assert parser.parse(text[: len(text) // 2]).root_node.has_error, "half a download does not parse"
