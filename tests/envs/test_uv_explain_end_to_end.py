"""``bnbenv lock`` and ``sync`` with an index that misbehaves, and with logins: what is told, kept, never written."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

USER, PASSWORD, TOKEN = "reader", "pa55-w0rd", "t0ken-in-a-link"
LOGIN = f"{USER}:{PASSWORD}"


@pytest.fixture
def wishing(project: Any, index: Any) -> Callable[..., Any]:
    """``wishing("bnbenvtiny", kind="drop")``: the project asks for a package from an index of that kind."""

    def wish(requirement: str, kind: str = "simple", login: str = "") -> Any:
        text = f'[envs.bnb]\nrequirements = ["{requirement}"]\n[sources]\nindexes = ["{index.url(kind, login)}"]\n'
        (project.root / "bnbenv.toml").write_text(text)
        return type(project)(project.root, {**project.environ, "UV_HTTP_RETRIES": "0"})

    return wish


@pytest.mark.parametrize(
    ("requirement", "kind", "exits", "code", "message"),
    [
        ("bnbenvtiny", "drop", 7, "source-unreachable", "a package source does not answer: http://localhost:"),
        (
            "bnbenvtiny",
            "status-500",
            7,
            "source-unreachable",
            "a package source answers with an error: http://localhost:",
        ),
        ("bnbenvtiny==9", "simple", 4, "not-offered", "no package source offers bnbenvtiny==9"),
        ("bnbenvtiny==2.0", "simple", 4, "unsatisfiable", "the packages asked for do not fit together"),
    ],
)
def test_a_source_that_fails_and_the_environment_that_is_kept(
    requirement: str, kind: str, exits: int, code: str, message: str, wishing: Any, index: Any
) -> None:
    index.add("bnbenvtiny", "1.0")
    index.add("bnbenvtiny", "2.0", ("torch<2",))
    project = wishing(requirement, kind)
    lock = (project.root / "pylock.bnb.toml").read_bytes()
    ended = project("lock", "--json")
    assert ended.code == exits, ended.stderr
    error = ended.document["error"]
    assert error["code"] == code
    assert error["message"].startswith(message)
    assert error["next_step"]
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [f"error: {error['message']}"]
    assert (project.root / "pylock.bnb.toml").read_bytes() == lock
    assert project.generation() == 1
    assert project.leftovers() == []


def test_an_index_that_wants_a_login_is_named_whatever_uv_makes_of_it(wishing: Any, index: Any) -> None:
    """uv ends there, or passes over it where the machine's configuration lets it look at all indexes alike."""
    index.add("bnbenvtiny", "1.0")
    ended = wishing("bnbenvtiny", "auth")("lock")
    assert ended.code in (4, 7)
    assert f"bnb: {index.url('auth')}: HTTP 401: user and password are wanted or wrong" in ended.stderr.splitlines()


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path], None]]:
    """Mounts a disk of 20 MB on a folder, for as long as the test runs."""
    mounted = []

    def put(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=20m,mode=755", "tmpfs", str(folder)]
        if (
            not shutil.which("mount")
            or subprocess.run(command, capture_output=True, timeout=60, check=False).returncode
        ):
            pytest.skip("the right to mount a small file system is missing")
        mounted.append(folder)

    yield put
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True, timeout=60)


def test_a_full_disk_keeps_the_environment(project: Any, small_disk: Any) -> None:
    # The environment in use lies on the old disk; what is made next would be on the new one.
    generations = project.root / ".bnbenv" / "generations"
    generations.joinpath("bnb").rename(generations.parent / "kept")
    small_disk(generations)
    generations.joinpath("bnb").mkdir()
    for one in generations.parent.joinpath("kept").iterdir():
        generations.joinpath("bnb", one.name).symlink_to(one)
    ended = project("sync", "--fresh", "--no-verify", "--json")
    assert ended.code == 1, ended
    error = ended.document["error"]
    assert error["code"] == "no-space"
    assert error["message"].startswith("no space left on the device to install the packages at /")
    assert "bnbenv gc" in error["next_step"]
    assert sorted(path.name for path in generations.joinpath("bnb").iterdir()) == ["1", "1.json", "1.lock.toml"]
    assert project.generation() == 1
    assert project.quantizes()


def everything(project: Any) -> dict[str, bytes]:
    """All that bnbenv wrote: the project without what people wrote, and the user's folder."""
    home = Path(project.environ["BNBENV_HOME"])
    found = {}
    for root in (project.root, home):
        for path in root.rglob("*"):
            packages = "site-packages" in path.parts and not path.parent.name.endswith(".dist-info")
            if (
                path.is_file()
                and not path.is_symlink()
                and not packages
                and path.name not in ("bnbenv.toml", "pip.conf")
            ):
                found[str(path)] = path.read_bytes()
    return found


def place_in_bnbenv_toml(project: Any, url: str) -> dict[str, str]:
    (project.root / "bnbenv.toml").write_text(
        f'[envs.bnb]\nrequirements = ["bnbenvtiny"]\n[sources]\nindexes = ["{url}"]\n'
    )
    return {}


def place_in_pip_conf(project: Any, url: str) -> dict[str, str]:
    (project.root / "bnbenv.toml").write_text('[envs.bnb]\nrequirements = ["bnbenvtiny"]\n')
    (project.root / "pip.conf").write_text(f"[global]\nextra-index-url = {url}\n")
    return {"PIP_CONFIG_FILE": str(project.root / "pip.conf")}


def place_in_the_environment(project: Any, url: str) -> dict[str, str]:
    (project.root / "bnbenv.toml").write_text('[envs.bnb]\nrequirements = ["bnbenvtiny"]\n')
    return {"UV_INDEX": url}


def place_in_variables(project: Any, url: str) -> dict[str, str]:
    (project.root / "bnbenv.toml").write_text('[envs.bnb]\nrequirements = ["bnbenvtiny"]\n')
    login, _, place = url.removeprefix("http://").partition("@")
    password = login.partition(":")[2]
    return {"UV_INDEX": f"corp=http://{place}", "UV_INDEX_CORP_USERNAME": USER, "UV_INDEX_CORP_PASSWORD": password}


PLACES = [place_in_bnbenv_toml, place_in_pip_conf, place_in_the_environment, place_in_variables]


@pytest.mark.parametrize("place", PLACES)
def test_logins_are_in_no_output_and_in_no_file(place: Any, project: Any, index: Any) -> None:
    """The login works: a package that only it can reach is installed."""
    index.add("bnbenvtiny", "1.0")
    changes = place(project, index.url("auth", LOGIN))
    outputs = []
    for words in (["lock"], ["sync", "--no-verify", "--json"], ["check", "--json"]):
        ended = project(*words, **changes)
        assert ended.code in (0, 3), (words, ended)
        outputs.append(ended.stdout + ended.stderr)
    assert project.python("import bnbenvtiny; print(bnbenvtiny.VERSION)") == "1.0"
    assert any(login for _, login in index.requests)
    # What fails tells more: an index that hangs up, and one that refuses the login.
    for kind in ("drop", "auth"):
        changes = place(project, index.url(kind, f"{LOGIN}-old")) | {"UV_HTTP_RETRIES": "0"}
        ended = project("lock", "--json", **changes)
        assert ended.code in (4, 7), ended
        outputs.append(ended.stdout + ended.stderr)
    for text in outputs:
        assert PASSWORD not in text
    for path, content in everything(project).items():
        assert PASSWORD.encode() not in content, path


def test_logins_and_tokens_in_the_links_of_an_index(wishing: Any, index: Any) -> None:
    index.add("bnbenvtiny", "1.0")
    project = wishing("bnbenvtiny", "login-in-links")
    ended = project("lock")
    text = ended.stdout + ended.stderr + (project.root / "pylock.bnb.toml").read_text()
    assert ended.code == 0, ended
    assert "bnbenvtiny-1.0-py3-none-any.whl" in text
    for content in (text.encode(), *everything(project).values()):
        assert PASSWORD.encode() not in content
        assert TOKEN.encode() not in content
