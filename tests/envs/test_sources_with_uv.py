"""The real uv, given our sources, against a real index: it finds what it should, and no credential is left anywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.sources import PackageSources, read_sources
from bnbenv.envs.wishes import SourcesWish
from bnbenv.paths import Sysroot
from bnbenv.process import Finished
from bnbenv.redact import strip_credentials

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOGIN, SECRET, TOKEN = "reader:pa55-w0rd", "pa55-w0rd", "t0ken-in-a-link"
Sources = Callable[..., PackageSources]


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """Sources for a bare host with a pip.conf and an environment of its own."""
    (tmp_path / "home/.config/pip").mkdir(parents=True)

    def read(pip_conf: str = "", wish: SourcesWish | None = None, **environ: str) -> PackageSources:
        (tmp_path / "home/.config/pip/pip.conf").write_text(pip_conf)
        environ = {"UV_DEFAULT_INDEX": "", **environ}
        return read_sources(
            environ,
            Sysroot(tmp_path / "root"),
            wish or SourcesWish(),
            tmp_path / "home",
            tmp_path,
            "http://localhost:1",
            [],
        )

    return read


@pytest.fixture
def lock(tmp_path: Path, real_uv: Any) -> Callable[..., Finished]:
    """``lock(sources, "alpha")``: has uv write a PEP 751 lock to its output."""

    def compile_(given: PackageSources, *requirements: str) -> Finished:
        (tmp_path / "requirements.in").write_text("\n".join(requirements))
        words = ("pip", "compile", "requirements.in", "--format", "pylock.toml", "--no-header", "--no-python-downloads")
        changes = given.uv_environment()
        finished = real_uv(*words, "--python", sys.executable, *given.uv_arguments(), changes=changes)
        assert not any(SECRET in word for word in finished.command.argv)
        return finished  # type: ignore[no-any-return]

    return compile_


@pytest.fixture
def install(tmp_path: Path, real_uv: Any) -> Callable[..., Finished]:
    """``install(sources, lock_text)``: into a new environment ``made``, from an empty cache."""

    def run(given: PackageSources, text: str) -> Finished:
        (tmp_path / "pylock.toml").write_text(text)
        changes = given.uv_environment()
        made = real_uv("venv", "made", "--clear", "--python", sys.executable, changes={})
        assert made.ok, made.stderr
        words = ("pip", "install", "--python", "made", "-r", "pylock.toml", "--no-cache", *given.uv_arguments())
        return real_uv(*words, changes=changes)  # type: ignore[no-any-return]

    return run


def versions(locked: Finished) -> dict[str, str]:
    """What a lock pins; empty where uv found nothing."""
    assert SECRET not in locked.stdout + locked.stderr
    packages = tomllib.loads(locked.stdout).get("packages", [])
    return {package["name"]: package["version"] for package in packages}


def installed(folder: Path) -> set[str]:
    return {path.name for path in (folder / "made").rglob("*.dist-info")}


def test_a_login_from_pips_configuration_works_and_is_left_nowhere(
    index: Any, sources: Sources, lock: Any, install: Any, tmp_path: Path
) -> None:
    index.add("alpha", "1.0", ("beta",))
    index.add("beta", "2.0")
    given = sources(f"[global]\nindex-url = {index.url('auth', LOGIN)}\n")
    locked = lock(given, "alpha")
    assert locked.ok, locked.stderr
    assert SECRET not in locked.stdout + locked.stderr
    # The lock says where the files are, without a login; the login comes back from the environment.
    text = strip_credentials(locked.stdout)
    assert f"http://localhost:{index.port}/private/alpha-1.0-py3-none-any.whl" in text
    done = install(given, text)
    assert done.ok and SECRET not in done.stdout + done.stderr, done.stderr
    assert installed(tmp_path) == {"alpha-1.0.dist-info", "beta-2.0.dist-info"}
    # Without it the files are refused, so it did come from there.
    refused = install(sources(f"[global]\nindex-url = {index.url('auth')}\n"), text)
    assert not refused.ok and "401" in refused.stderr


def test_what_uv_writes_into_a_lock_from_an_indexs_links_is_stripped(
    index: Any, sources: Sources, lock: Any, install: Any, tmp_path: Path
) -> None:
    index.add("alpha", "1.0")
    given = sources(PIP_INDEX_URL=index.url("login-in-links", LOGIN))
    locked = lock(given, "alpha")
    assert locked.ok, locked.stderr
    text = strip_credentials(locked.stdout)
    assert SECRET not in text and TOKEN not in text
    assert SECRET not in given.redact(locked.stdout + locked.stderr)
    done = install(given, text)
    assert done.ok, done.stderr
    assert installed(tmp_path) == {"alpha-1.0.dist-info"}


def test_a_login_for_a_page_of_links_serves_the_files_behind_it(
    index: Any, sources: Sources, lock: Any, install: Any
) -> None:
    index.add("alpha", "1.0")
    text = lock(sources(PIP_INDEX_URL=index.url("auth", LOGIN)), "alpha").stdout
    assert install(sources(PIP_FIND_LINKS=index.url("links", LOGIN)), text).ok


def test_what_uv_prints_of_a_broken_address_is_redacted(index: Any, sources: Sources, lock: Any) -> None:
    given = sources(UV_INDEX=f"http://reader:{SECRET}/x@localhost:{index.port}/simple")
    failed = lock(given, "alpha")
    assert not failed.ok and SECRET in failed.stderr  # uv repeats it
    assert SECRET not in given.redact(failed.stderr)


def test_a_wrong_hash_is_refused(index: Any, sources: Sources, lock: Any, install: Any, tmp_path: Path) -> None:
    index.add("alpha", "1.0")
    given = sources(PIP_INDEX_URL=index.url("simple"))
    text = lock(given, "alpha").stdout
    assert 'sha256 = "' in text
    digest = text.partition('sha256 = "')[2][:64]
    wrong = install(given, text.replace(digest, digest[::-1]))
    assert not wrong.ok and "Hash mismatch" in wrong.stderr
    assert installed(tmp_path) == set()


@pytest.mark.parametrize("arbitrary", [True, False])
def test_arbitrary_equality_leaves_local_versions_out(index: Any, sources: Sources, lock: Any, arbitrary: bool) -> None:
    index.add("alpha", "1.0")
    index.add("alpha", "1.0+cpu")
    given = sources(PIP_INDEX_URL=index.url("simple"))
    found = versions(lock(given, "alpha===1.0" if arbitrary else "alpha==1.0"))
    assert found == {"alpha": "1.0" if arbitrary else "1.0+cpu"}


def test_pips_extra_indexes_are_looked_at_alike(index: Any, sources: Sources, lock: Any, tmp_path: Path) -> None:
    """uv by itself would stop at the first index that has the project, however old its version."""
    index.add("alpha", "1.0")
    folder = tmp_path / "an index/simple/alpha"
    folder.mkdir(parents=True)
    old = index.add("alpha", "0.9").rename(tmp_path / "alpha-0.9-py3-none-any.whl")
    (folder / "index.html").write_text(f'<a href="../../../{old.name}">{old.name}</a>')
    url = (tmp_path / "an index/simple").as_uri()
    found = lock(sources(PIP_INDEX_URL=index.url("simple"), PIP_EXTRA_INDEX_URL=url), "alpha")
    assert versions(found) == {"alpha": "1.0"}
    first = lock(sources(PIP_INDEX_URL=index.url("simple"), UV_INDEX=url), "alpha")
    assert versions(first) == {"alpha": "0.9"}


def test_folders_with_spaces_and_commas_and_ones_that_lack_the_project(
    sources: Sources, lock: Any, install: Any, tmp_path: Path, wheel_maker: Callable[..., Path]
) -> None:
    wheel_maker(tmp_path / "my wheels, old", "alpha", "1.0")
    wheel_maker(tmp_path / "wheels", "beta", "1.0")
    (tmp_path / "empty index").mkdir()
    wish = SourcesWish(indexes=("empty index",), find_links=("my wheels, old", "gone", "wheels"))
    # A closed network: the default index does not answer and is taken out.
    closed = sources(wish=wish, PIP_INDEX_URL="http://localhost:1/simple")
    assert closed.default
    closed = closed.without([closed.default])
    text = lock(closed, "alpha", "beta").stdout
    assert "my%20wheels" in text
    done = install(closed, text)
    assert done.ok, done.stderr
    assert installed(tmp_path) == {"alpha-1.0.dist-info", "beta-1.0.dist-info"}


def test_no_index_and_offline_reach_uv(
    index: Any, sources: Sources, lock: Any, tmp_path: Path, wheel_maker: Callable[..., Path]
) -> None:
    index.add("alpha", "2.0")
    wheel_maker(tmp_path / "wheels", "alpha", "1.0")
    folder = {"PIP_FIND_LINKS": str(tmp_path / "wheels"), "PIP_INDEX_URL": index.url("simple")}
    assert versions(lock(sources(**folder), "alpha")) == {"alpha": "2.0"}
    assert versions(lock(sources(**folder, PIP_NO_INDEX="yes"), "alpha")) == {"alpha": "1.0"}
    asked = len(index.requests)
    lock(sources(**folder, BNBENV_OFFLINE="1"), "beta")
    assert len(index.requests) == asked


def test_pips_cert_and_trusted_host_reach_uv(tls_index: tuple[Any, Path], sources: Sources, lock: Any) -> None:
    served, cert = tls_index
    served.add("alpha", "1.0")
    url = served.url("simple")
    trusting = sources(f"[global]\nindex-url = {url}\ncert = {cert}\n")
    assert versions(lock(trusting, "alpha")) == {"alpha": "1.0"}
    import certifi

    doubting = sources(f"[global]\nindex-url = {url}\ncert = {certifi.where()}\n")
    assert "certificate" in lock(doubting, "alpha").stderr
    insecure = sources(f"[global]\nindex-url = {url}\ntrusted-host = localhost\ncert = {certifi.where()}\n")
    assert versions(lock(insecure, "alpha")) == {"alpha": "1.0"}


def test_pips_proxy_reaches_uv(index: Any, sources: Sources, lock: Any) -> None:
    index.add("alpha", "1.0")
    proxied = sources(PIP_INDEX_URL="http://index.invalid/simple", PIP_PROXY=index.url("").rstrip("/"))
    assert versions(lock(proxied, "alpha")) == {"alpha": "1.0"}


def test_uvs_own_files_are_used_by_uv_itself(index: Any, sources: Sources, lock: Any, tmp_path: Path) -> None:
    index.add("alpha", "1.0")
    (tmp_path / "uv.toml").write_text(f'[[index]]\nname = "own"\nurl = "{index.url("auth")}"\ndefault = true\n')
    given = sources(PIP_INDEX_URL="http://localhost:1/simple")
    changes = {"UV_INDEX_OWN_USERNAME": "reader", "UV_INDEX_OWN_PASSWORD": SECRET}
    assert given.default and given.default.origin == "uv.toml"

    class WithLogin:
        """The sources, in an environment that holds the login for the named index."""

        uv_arguments = given.uv_arguments

        @staticmethod
        def uv_environment() -> dict[str, str | None]:
            return given.uv_environment() | changes

    assert versions(lock(WithLogin(), "alpha")) == {"alpha": "1.0"}
