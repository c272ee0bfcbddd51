"""pip's configuration is read the way pip reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bnbenv.envs.pipconfig import PipConfig, combine_pip, parse_pip_file, pip_config_files, read_pip_config
from bnbenv.errors import InputError
from bnbenv.paths import Sysroot


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """Every file pip reads on Linux, weakest first, each naming an index after itself."""
    files = {
        "xdg": tmp_path / "root/etc/xdg/pip/pip.conf",
        "etc": tmp_path / "root/etc/pip.conf",
        "legacy": tmp_path / "home/.pip/pip.conf",
        "user": tmp_path / "home/.config/pip/pip.conf",
        "site": tmp_path / "prefix/pip.conf",
    }
    for name, path in files.items():
        write(path, f"[global]\nindex-url = https://{name}.example/simple\n")
    return files


def read(tmp_path: Path, **environ: str) -> PipConfig:
    return read_pip_config(environ, Sysroot(tmp_path / "root"), tmp_path / "home", [tmp_path / "prefix"])


@pytest.mark.skipif(os.name == "nt", reason="the places are those of Linux")
def test_the_strongest_file_wins_and_the_environment_over_all(tmp_path: Path, places: dict[str, Path]) -> None:
    for name in ("site", "user", "legacy", "etc", "xdg"):
        assert read(tmp_path).index_url == f"https://{name}.example/simple"
        assert read(tmp_path, PIP_INDEX_URL="https://env.example/").index_url == "https://env.example/"
        places[name].unlink()
    assert read(tmp_path) == PipConfig()


def test_pip_config_file_replaces_the_users_and_overrides_the_sites(tmp_path: Path, places: dict[str, Path]) -> None:
    named = write(tmp_path / "named.conf", "[global]\nindex-url = https://named.example/simple\n")
    write(places["user"], "[global]\nfind-links = /from/user\n")
    assert read(tmp_path, PIP_CONFIG_FILE=str(named)) == PipConfig(index_url="https://named.example/simple")
    # One that does not exist leaves the user's in place.
    assert read(tmp_path, PIP_CONFIG_FILE=str(tmp_path / "none")).find_links == ("/from/user",)
    assert read(tmp_path, PIP_CONFIG_FILE=os.devnull, PIP_CERT="/ca.pem") == PipConfig(cert="/ca.pem")


def test_a_commands_section_wins_over_global_whatever_the_file() -> None:
    weak = parse_pip_file("[install]\nindex-url = https://install.example\n[list]\ntimeout = 1\n", "weak")
    strong = parse_pip_file("[global]\nindex-url = https://global.example\ntimeout = 60\n", "strong")
    assert combine_pip([weak, strong], {}) == PipConfig(index_url="https://install.example", timeout=60.0)


def test_names_lists_and_empty_values_are_read_as_pip_does() -> None:
    text = """
[global]
Extra_Index_URL = https://one.example/simple
    https://two.example/simple
find-links = ~/wheels ./more
no_index = yes
trusted-host = one.example two.example:8443
default-timeout = 2.5
proxy =
client-cert = /client.pem
"""
    assert combine_pip([parse_pip_file(text, "pip.conf")], {"PIP_FIND_LINKS": ""}) == PipConfig(
        extra_index_urls=("https://one.example/simple", "https://two.example/simple"),
        find_links=("~/wheels", "./more"),
        no_index=True,
        trusted_hosts=("one.example", "two.example:8443"),
        timeout=2.5,
        client_cert="/client.pem",
    )
    assert combine_pip([], {"PIP_DEFAULT_TIMEOUT": "60", "PIP_NO_INDEX": "off"}) == PipConfig(timeout=60.0)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("index-url = https://me:hunter22@host/\n", "line 1"),
        ("[global]\nhttps-me-hunter22\n", "line 2"),
        ("[global]\ncert = a\ncert = hunter22\n", "line 3"),
    ],
)
def test_a_broken_file_names_the_line_but_not_what_stands_in_it(text: str, place: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_pip_file(text, "/etc/pip.conf")
    assert caught.value.message.startswith(f"/etc/pip.conf: {place}: expected") or place == "line 3"
    assert place in caught.value.message
    assert "hunter22" not in caught.value.message


@pytest.mark.parametrize(("variable", "value"), [("PIP_NO_INDEX", "perhaps"), ("PIP_TIMEOUT", "soon")])
def test_a_value_that_pip_refuses_is_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{variable}: expected .*{value}"):
        combine_pip([], {variable: value})


def test_other_systems_have_other_places(tmp_path: Path) -> None:
    home = tmp_path / "home"
    windows = pip_config_files({"APPDATA": "C:/Roaming"}, Sysroot(), home, [Path("C:/Python")], "win32")
    assert [path.name for path in windows] == ["pip.ini"] * 4
    assert windows[1:] == (home / "pip/pip.ini", Path("C:/Roaming/pip/pip.ini"), Path("C:/Python/pip.ini"))

    def mac() -> tuple[Path, ...]:
        return pip_config_files({}, Sysroot(), home, [], "darwin")

    support = home / "Library/Application Support/pip"
    assert mac() == (
        Path("/Library/Application Support/pip/pip.conf"),
        home / ".pip/pip.conf",
        home / ".config/pip/pip.conf",
    )
    support.mkdir(parents=True)
    assert mac()[-1] == support / "pip.conf"
