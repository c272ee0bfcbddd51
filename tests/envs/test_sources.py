"""Where packages come from: whose configuration counts, and what a uv child is given."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from bnbenv.envs.sources import PackageSources, read_sources
from bnbenv.envs.wishes import SourcesWish
from bnbenv.errors import InputError
from bnbenv.paths import Sysroot

PYTORCH = "https://pytorch.example/whl"
Read = Callable[..., PackageSources]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Sources for a host whose files lie under tmp_path: root/, home/, project/, prefix/."""
    for name in ("root", "home", "project", "prefix"):
        (tmp_path / name).mkdir()

    def reader(indexes: tuple[str, ...] = (), find_links: tuple[str, ...] = (), **environ: str) -> PackageSources:
        return read_sources(
            environ,
            Sysroot(tmp_path / "root"),
            SourcesWish(indexes=indexes, find_links=find_links),
            tmp_path / "home",
            tmp_path / "project",
            PYTORCH,
            [tmp_path / "prefix"],
        )

    return reader


def places(sources: PackageSources) -> list[tuple[str, str, str]]:
    every = [*([sources.default] if sources.default else []), *sources.indexes, *sources.find_links]
    return [(one.kind, one.origin, one.url) for one in every]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_nothing_configured_leaves_uv_alone(read: Read) -> None:
    sources = read()
    assert places(sources) == [("default-index", "built-in", PYPI_SIMPLE_ENDPOINT)]
    assert {name: value for name, value in sources.uv_environment().items() if value is not None} == {}
    assert sources.uv_arguments() == ()


def test_pips_configuration_counts_where_uv_has_none(read: Read) -> None:
    sources = read(
        PIP_INDEX_URL="https://pip.example/simple",
        PIP_EXTRA_INDEX_URL="https://one.example/s https://two.example/s",
        PIP_FIND_LINKS="https://links.example/page.html",
        PIP_CERT="/etc/company.pem",
        PIP_CLIENT_CERT="/etc/client.pem",
        PIP_TRUSTED_HOST="one.example two.example:8443",
        PIP_PROXY="http://proxy.example:3128",
        PIP_TIMEOUT="7.5",
    )
    assert sources.uv_environment() == {
        "UV_DEFAULT_INDEX": "https://pip.example/simple",
        "UV_INDEX_URL": None,
        "UV_INDEX": "https://one.example/s https://two.example/s",
        "UV_EXTRA_INDEX_URL": None,
        "UV_FIND_LINKS": "https://links.example/page.html",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "SSL_CERT_FILE": "/etc/company.pem",
        "SSL_CLIENT_CERT": "/etc/client.pem",
        "UV_INSECURE_HOST": "one.example two.example:8443",
        "HTTP_PROXY": "http://proxy.example:3128",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "UV_HTTP_TIMEOUT": "8",
    }


def test_uvs_own_configuration_wins_setting_by_setting(read: Read) -> None:
    pip = {
        "PIP_INDEX_URL": "https://pip.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://pip.example/extra",
        "PIP_FIND_LINKS": "https://pip.example/links",
        "PIP_CERT": "/pip.pem",
        "PIP_TRUSTED_HOST": "pip.example",
        "PIP_PROXY": "http://pip.example",
        "PIP_TIMEOUT": "5",
    }
    uv = {
        "UV_DEFAULT_INDEX": "https://uv.example/simple",
        "UV_EXTRA_INDEX_URL": "https://uv.example/extra",
        "UV_FIND_LINKS": "https://uv.example/links",
        "SSL_CERT_FILE": "/uv.pem",
        "UV_INSECURE_HOST": "uv.example",
        "https_proxy": "http://uv.example",
        "UV_HTTP_TIMEOUT": "9",
    }
    sources = read(**pip, **uv)
    assert [origin for _, origin, _ in places(sources)] == ["uv", "uv", "uv"]
    changes = sources.uv_environment()
    assert not any(value and "pip" in value for value in changes.values())
    assert "UV_INDEX_STRATEGY" not in changes and "UV_HTTP_TIMEOUT" not in changes
    # With only one of them set, pip's others still count.
    mixed = read(**pip, UV_INDEX="https://uv.example/own")
    assert [url for _, _, url in places(mixed)] == [
        "https://pip.example/simple",
        "https://uv.example/own",
        "https://pip.example/links",
    ]


@pytest.mark.parametrize(
    "place", ["project/uv.toml", "project/pyproject.toml", "home/.config/uv/uv.toml", "root/etc/uv/uv.toml"]
)
@pytest.mark.skipif(os.name == "nt", reason="the places are those of Linux")
def test_indexes_in_uvs_files_keep_pips_out_and_are_not_given_twice(read: Read, tmp_path: Path, place: str) -> None:
    section = "tool.uv." if place.endswith("pyproject.toml") else ""
    write(
        tmp_path / place,
        f'[[{section}index]]\nname = "own"\nurl = "https://uv.example/own"\n'
        f'[[{section}index]]\nurl = "https://uv.example/first"\ndefault = true\n'
        f'[[{section}index]]\nname = "apart"\nurl = "https://uv.example/apart"\nexplicit = true\n'
        f'[{section}pip]\nfind-links = ["https://uv.example/links"]\n',
    )
    sources = read(
        PIP_INDEX_URL="https://pip.example/s",
        PIP_EXTRA_INDEX_URL="https://pip.example/e",
        PIP_FIND_LINKS="/pip",
        UV_INDEX_OWN_USERNAME="me",
        UV_INDEX_OWN_PASSWORD="0pen sesame",
    )
    assert places(sources) == [
        ("default-index", "uv.toml", "https://uv.example/first"),
        ("index", "uv.toml", "https://me:0pen%20sesame@uv.example/own"),
        ("find-links", "uv.toml", "https://uv.example/links"),
    ]
    changes = sources.uv_environment()
    assert [changes.get(name) for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS")] == [None, None, None]
    assert "0pen" not in sources.redact(f"{sources} {sources.indexes[0].shown} 0pen sesame 0pen%20sesame")


def test_bnbenv_toml_stands_beside_both(read: Read, tmp_path: Path) -> None:
    (tmp_path / "project/my wheels, old").mkdir()
    (tmp_path / "home/wheels").mkdir()
    links = ("my wheels, old", "~/wheels", "gone")
    sources = read(("https://mine.example/s", "local index"), links, PIP_EXTRA_INDEX_URL="https://pip.example/e")
    base = tmp_path.as_uri()
    changes = sources.uv_environment()
    assert changes["UV_INDEX"] == f"https://mine.example/s {base}/project/local%20index https://pip.example/e"
    # A folder that is missing would end uv; it shows as unreachable instead.
    assert changes["UV_FIND_LINKS"] == f"{base}/project/my%20wheels%2C%20old,{base}/home/wheels"
    assert [one.folder for one in sources.find_links] == [
        tmp_path / "project/my wheels, old",
        tmp_path / "home/wheels",
        tmp_path / "project/gone",
    ]


def test_entries_of_uvs_environment_keep_their_names(read: Read) -> None:
    sources = read(
        ("https://mine.example/s",),
        UV_INDEX="corp=https://uv.example/corp https://uv.example/?a=b",
        UV_INDEX_CORP_USERNAME="me",
        UV_INDEX_CORP_PASSWORD="secret-1",
        UV_DEFAULT_INDEX="first=https://uv.example/first",
    )
    changes = sources.uv_environment()
    assert changes["UV_DEFAULT_INDEX"] == "first=https://uv.example/first"
    assert changes["UV_INDEX"] == "corp=https://uv.example/corp https://uv.example/?a=b https://mine.example/s"
    assert sources.indexes[0].url == "https://me:secret-1@uv.example/corp"
    assert sources.redact("secret-1") == "****"


def test_pytorchs_index_is_asked_first_and_hides_nothing(read: Read) -> None:
    sources = read(UV_INDEX="https://uv.example/own").with_pytorch("cu126")
    changes = sources.uv_environment()
    assert changes["UV_INDEX"] == f"{PYTORCH}/cu126 https://uv.example/own"
    assert changes["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    chosen = read(UV_INDEX_STRATEGY="first-index").with_pytorch("cpu").uv_environment()
    assert chosen["UV_INDEX_STRATEGY"] == "first-index"
    mirror = read(BNBENV_PYTORCH_INDEX="https://me:mirr0r@mirror.example/whl/").pytorch_source("cpu")
    assert (mirror.url, mirror.shown) == (
        "https://me:mirr0r@mirror.example/whl/cpu",
        "https://****@mirror.example/whl/cpu",
    )


def test_no_index_leaves_find_links_alone(read: Read) -> None:
    sources = read(PIP_NO_INDEX="1", PIP_FIND_LINKS="https://links.example/", PIP_INDEX_URL="https://pip.example/s")
    assert places(sources) == [("find-links", "pip", "https://links.example/")]
    assert sources.uv_arguments() == ("--no-index",)
    assert read(PIP_NO_INDEX="1", UV_DEFAULT_INDEX="https://uv.example/s").uv_arguments() == ()


def test_what_was_taken_out_is_not_given_to_uv(read: Read) -> None:
    sources = read(
        PIP_EXTRA_INDEX_URL="https://one.example/s https://two.example/s", PIP_FIND_LINKS="https://x.example/"
    )
    assert sources.default
    left = sources.without([sources.default, sources.indexes[0], *sources.find_links]).uv_environment()
    # uv always has a default index: what is left takes its place.
    assert left["UV_DEFAULT_INDEX"] == "https://two.example/s"
    assert left["UV_INDEX"] is None and left["UV_FIND_LINKS"] is None
    nothing = sources.without([sources.default, *sources.indexes])
    assert nothing.uv_arguments() == ("--no-index",)
    assert nothing.with_pytorch("cpu").uv_environment()["UV_DEFAULT_INDEX"] == f"{PYTORCH}/cpu"
    assert nothing.with_pytorch("cpu").uv_arguments() == ()


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_offline_is_named(read: Read, value: str) -> None:
    assert read(BNBENV_OFFLINE=value).offline == "BNBENV_OFFLINE"
    assert read(BNBENV_OFFLINE=value).uv_environment()["UV_OFFLINE"] == "1"
    assert read(UV_OFFLINE=value).offline == "UV_OFFLINE"
    assert read(BNBENV_OFFLINE="0").offline is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('index-url = "https://me:hunter22@host', "end of document: expected valid TOML"),
        ("index-url = https://me:hunter22@host\n", "line 1, column 13: expected valid TOML"),
        ('[[index]]\nname = "x"', r"index\[0\].url: expected an address"),
        ('find-links = "wheels"', "find-links: expected a list of strings"),
    ],
)
def test_a_broken_uv_toml_is_named_without_its_text(read: Read, tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "project/uv.toml", text)
    with pytest.raises(InputError, match=message) as caught:
        read()
    assert "uv.toml" in caught.value.message and "hunter22" not in caught.value.message


def test_no_secret_stands_in_any_text_of_the_value(read: Read) -> None:
    login = "me:hunter22@"
    sources = read(
        (f"https://{login}mine.example/s",),
        PIP_INDEX_URL=f"https://{login}pip.example/s",
        PIP_PROXY=f"http://{login}proxy.example",
        BNBENV_PYTORCH_INDEX=f"https://{login}mirror.example",
    ).with_pytorch("cpu")
    assert "hunter22" not in repr(sources) + str(sources)
    assert "hunter22" not in sources.redact("\n".join(str(value) for value in sources.uv_environment().values()))
