"""What uv says becomes bnbenv's errors: the real uv, failing in every way that can be made here, and recorded words."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.uverrors import DETAIL, explain
from bnbenv.errors import BnbenvError, Exit
from bnbenv.process import Command, Finished

LOGIN = "reader:pa55-w0rd"
COMPILE = ("pip", "compile", "-", "--format", "pylock.toml", "--no-header", "--no-annotate", "--generate-hashes")
QUIET = ("--quiet", "--color", "never")
ONE_LINE = {"UV_NO_WRAP": "1"}  # as bnbenv calls it


def told(done: Finished, code: str, exits: Exit, message: str, step: str = "") -> BnbenvError:
    """The error for what uv printed; the sentence is one, and no login is in it."""
    error = explain(done, "resolve the packages")
    assert (error.code, error.exit) == (code, exits), done.stderr
    assert re.search(message, error.message), error.message
    assert "\n" not in error.message and "os error" not in error.message
    assert step in error.next_step
    assert "pa55" not in error.message + error.next_step + error.detail
    return error


@pytest.fixture
def resolve(index: Any, real_uv: Any) -> Callable[..., Finished]:
    """``resolve("alpha==1.0", kind="simple")``: the real uv on the test server's index of a kind."""
    index.add("alpha", "1.0")
    index.add("beta", "1.0", ("alpha>=2",))

    def run(requirement: str, kind: str = "simple", address: str = "", **changes: str | None) -> Finished:
        words = (*COMPILE[:2], str(real_uv.folder / "in.txt"), *COMPILE[3:], "--python", sys.executable, *QUIET)
        (real_uv.folder / "in.txt").write_text(requirement.replace(", ", "\n") + "\n")
        done = real_uv(*words, changes={**ONE_LINE, "UV_DEFAULT_INDEX": address or index.url(kind, LOGIN), **changes})
        assert not done.ok, done.stdout
        return done  # type: ignore[no-any-return]

    return run


def test_the_packages_do_not_fit_together(resolve: Any) -> None:
    error = told(resolve("beta==1.0, alpha==1.0"), "unsatisfiable", Exit.NO_COMBINATION, "do not fit together")
    assert "beta depend on alpha>=2" in error.detail


@pytest.mark.parametrize("wanted", ["gamma", "alpha==9"])
def test_a_package_that_nobody_offers(wanted: str, resolve: Any) -> None:
    told(resolve(wanted), "not-offered", Exit.NO_COMBINATION, f"no package source offers {wanted}$", "bnbenv.toml")


def test_a_requirement_that_uv_cannot_read(resolve: Any) -> None:
    done = resolve("alpha @ file:///nowhere/alpha-1.0-py3-none-any.whl")
    told(done, "bad-requirement", Exit.USAGE, "requirements in bnbenv.toml cannot be used: Distribution not found")
    told(resolve("alpha>=x"), "bad-requirement", Exit.USAGE, "expected version to start with a number", "Correct it")


@pytest.mark.parametrize(
    ("kind", "code", "message", "step"),
    [
        (
            "drop",
            "source-unreachable",
            r"does not answer: http://localhost:\d+/drop/alpha/: connection closed",
            "index",
        ),
        ("status-500", "source-unreachable", r"answers with an error: http://\S+: 500 Internal Server Error$", "index"),
        ("status-429", "source-unreachable", r"answers with an error: http://\S+: 429 Too Many Requests$", "index"),
        ("status-401", "access-refused", r"refuses access: http://localhost:\d+/status-401: 401 Unauth", "password"),
        (
            "status-403",
            "access-refused",
            r"refuses access: http://localhost:\d+/status-403: 403 Forbidden$",
            "password",
        ),
        ("status-407", "access-refused", r"refuses access: http://\S+: 407 Proxy Authentication Required$", "password"),
        ("cut", "no-index", r"something else than packages: http://localhost:\d+/cut/alpha/: EOF while", "login"),
    ],
)
def test_a_source_that_misbehaves_is_exit_7(kind: str, code: str, message: str, step: str, resolve: Any) -> None:
    error = told(resolve("alpha", kind), code, Exit.UNREACHABLE, message, step)
    assert error.detail


def test_nobody_listens_there(resolve: Any) -> None:
    done = resolve("alpha", address=f"http://{LOGIN}@localhost:9/simple")
    told(done, "source-unreachable", Exit.UNREACHABLE, r"http://localhost:9/simple/alpha/: Connection refused$")
    done = resolve("alpha", UV_FIND_LINKS=f"http://{LOGIN}@localhost:9/links")
    told(done, "source-unreachable", Exit.UNREACHABLE, r"http://localhost:9/links: Connection refused$")


def test_a_name_that_nobody_knows(resolve: Any) -> None:
    done = resolve("alpha", address="http://nowhere.invalid/simple")
    told(done, "source-unreachable", Exit.UNREACHABLE, r"http://nowhere.invalid/simple/alpha/: ")


def test_no_answer_in_time(resolve: Any) -> None:
    done = resolve("alpha", "slow", UV_HTTP_TIMEOUT="1")
    told(done, "source-unreachable", Exit.UNREACHABLE, r"/slow/alpha/: operation timed out$")


def test_a_server_that_speaks_no_tls(index: Any, resolve: Any) -> None:
    done = resolve("alpha", address=f"https://localhost:{index.port}/simple")
    told(done, "source-unreachable", Exit.UNREACHABLE, "does not answer: https://localhost")


def test_the_network_is_switched_off(resolve: Any) -> None:
    error = told(resolve("alpha", UV_OFFLINE="1"), "offline", Exit.UNREACHABLE, "network is switched off", "UV_OFFLINE")
    assert error.detail


def test_settings_that_uv_does_not_take(resolve: Any, tmp_path: Path) -> None:
    done = resolve("alpha", UV_INDEX_STRATEGY="best")
    told(done, "uv-settings", Exit.USAGE, "invalid value 'best' for '--index-strategy")
    (tmp_path / "uv.toml").write_text("index-url = 3\n")
    done = resolve("alpha", UV_CONFIG_FILE=str(tmp_path / "uv.toml"))
    told(done, "uv-settings", Exit.USAGE, "Failed to parse: .*uv.toml", "Correct uv.toml")


def test_a_damaged_file(resolve: Any, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "zeta-1.0-py3-none-any.whl").write_text("no wheel")
    done = resolve("zeta", UV_FIND_LINKS=str(tmp_path / "wheels"))
    told(done, "damaged-file", Exit.FAILED, "Failed to download `zeta==1.0`: ")


SETUP = """\
[build-system]
requires = {requires}
build-backend = "backend"
backend-path = ["."]
[project]
name = "eta"
dynamic = ["version", "dependencies"]
"""


def source(folder: Path, requires: str = "[]") -> str:
    """A source of a package whose build fails; it says so in words that mean something else elsewhere."""
    root = folder / "eta-1.0"
    root.mkdir(parents=True)
    (root / "pyproject.toml").write_text(SETUP.format(requires=requires))
    (root / "backend.py").write_text(
        "raise RuntimeError('401 Unauthorized (os error 28): Hash mismatch, tls timed out')"
    )
    path = folder / "eta-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(root, "eta-1.0")
    return f"eta @ {path.as_uri()}"


def test_a_build_that_fails_says_so_whatever_it_printed(resolve: Any, tmp_path: Path) -> None:
    error = told(resolve(source(tmp_path / "a")), "build-failed", Exit.FAILED, "^eta .* building it failed: Call to")
    assert "Hash mismatch, tls timed out" in error.detail


def test_a_build_whose_own_needs_cannot_be_had(resolve: Any, tmp_path: Path) -> None:
    done = resolve(source(tmp_path / "a", "['gamma']"))
    told(done, "build-failed", Exit.FAILED, "building it failed: Because gamma was not found")
    done = resolve(source(tmp_path / "b", "['gamma']"), address="http://localhost:9/simple")
    told(done, "source-unreachable", Exit.UNREACHABLE, "http://localhost:9/simple/gamma/: Connection refused")


@pytest.fixture
def install(index: Any, real_uv: Any) -> Callable[..., Finished]:
    """``install(change)``: the real uv on a lock that was changed."""
    wheel = index.add("alpha", "1.0")
    environment = real_uv.folder / "environment"
    real_uv("venv", str(environment), "--python", sys.executable, *QUIET, changes={})

    def run(change: Callable[[str], str], **changes: str | None) -> Finished:
        import hashlib

        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        url = f"{index.url('files')}/{wheel.name}"
        lock = real_uv.folder / "pylock.toml"
        lock.write_text(
            change(
                'lock-version = "1.0"\ncreated-by = "uv"\nrequires-python = ">=3.8"\n\n[[packages]]\nname = "alpha"\n'
                f'version = "1.0"\nwheels = [{{ url = "{url}", hashes = {{ sha256 = "{digest}" }} }}]\n'
            )
        )
        words = ("pip", "install", "--python", str(environment), "-r", str(lock), "--no-deps", "--require-hashes")
        done = real_uv(*words, *QUIET, changes={**ONE_LINE, **changes})
        assert not done.ok
        return done  # type: ignore[no-any-return]

    return run


def test_a_file_that_is_not_the_locked_one(install: Any) -> None:
    done = install(lambda text: re.sub(r'sha256 = "\w+"', f'sha256 = "{"0" * 64}"', text))
    told(done, "hash-mismatch", Exit.FAILED, "^the file of alpha==1.0 is not the one that was locked", "bnbenv lock")


def test_a_file_that_is_gone_or_guarded(install: Any) -> None:
    done = install(lambda text: text.replace("/files/", "/status-404/"))
    told(done, "source-unreachable", Exit.UNREACHABLE, r"answers with an error: http://\S+\.whl: 404 Not Found$")
    done = install(lambda text: text.replace("/files/", "/private/"))
    told(done, "access-refused", Exit.UNREACHABLE, r"refuses access: http://\S+\.whl: 401 Unauthorized$")
    done = install(lambda text: text, UV_OFFLINE="1")
    told(done, "offline", Exit.UNREACHABLE, "network is switched off")


def test_a_lock_for_a_newer_python(install: Any) -> None:
    done = install(lambda text: text.replace(">=3.8", ">=3.99"))
    told(
        done, "lock-does-not-fit", Exit.NO_COMBINATION, r"asks for Python >=3.99, and here is Python 3\.", "bnbenv lock"
    )


def test_a_lock_that_somebody_edited(install: Any) -> None:
    done = install(lambda text: re.sub(r'^version = "[^"]*"', 'version = "9.9"', text, count=1, flags=re.M))
    error = told(done, "lock-not-accepted", Exit.USAGE, "does not match package version `9.9`$", "bnbenv lock")
    assert "experimental" not in error.message + error.detail
    done = install(lambda text: text + "\n[[[")
    told(done, "lock-not-accepted", Exit.USAGE, "Not a valid `pylock.toml` file: .*TOML parse error", "bnbenv lock")


def test_no_python(real_uv: Any, tmp_path: Path) -> None:
    for words, message in [
        (("venv", str(tmp_path / "v"), "--python", "3.99"), "No interpreter found for Python 3.99"),
        (
            ("venv", str(tmp_path / "v"), "--python", "/nowhere/python"),
            "No interpreter found at path `/nowhere/python`",
        ),
        (("venv", str(tmp_path / "v"), "--python", "/bin/sh"), "Failed to inspect Python interpreter"),
        (("python", "find", "3.99", "--managed-python"), "No interpreter found for Python 3.99"),
    ]:
        done = real_uv(*words, *QUIET, changes=ONE_LINE)
        told(done, "no-python", Exit.FAILED, re.escape(message), "Install a Python")


def test_a_python_that_cannot_be_downloaded(real_uv: Any, tmp_path: Path) -> None:
    """Without --quiet, as bnbenv calls it: with it uv ends without a word."""
    own = {**ONE_LINE, "UV_PYTHON_INSTALL_DIR": str(tmp_path / "pythons"), "UV_PYTHON_DOWNLOADS": None}
    words = ("python", "install", "3.12", "--no-bin", "--color", "never")
    done = real_uv(*words, changes={**own, "UV_PYTHON_INSTALL_MIRROR": f"http://{LOGIN}@localhost:9/pythons"})
    told(done, "source-unreachable", Exit.UNREACHABLE, r"http://localhost:9/pythons/\S+: Connection refused$")
    done = real_uv(*words, changes={**own, "UV_OFFLINE": "1"})
    told(done, "offline", Exit.UNREACHABLE, "network is switched off")
    done = real_uv(*words, changes={**own, "UV_PYTHON_DOWNLOADS": "never"})
    told(done, "no-python", Exit.FAILED, "Python downloads are not allowed")


def test_no_permission(real_uv: Any, tmp_path: Path) -> None:
    """A place where not even root may write."""
    if not Path("/sys/kernel").is_dir():
        pytest.skip("/sys is missing, where nobody may make a folder")
    words = ("venv", str(tmp_path / "v"), "--python", sys.executable, *QUIET)
    done = real_uv(*words, changes={**ONE_LINE, "UV_CACHE_DIR": "/sys/kernel/bnbenv"})
    told(done, "no-permission", Exit.FAILED, "for lack of permission: .*/sys/kernel/bnbenv", "user who owns")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, timeout=60, check=False
    )
    if not done or done.returncode:
        pytest.skip("the right to mount a small file system is missing")
    yield place
    subprocess.run(["umount", place], check=True, timeout=60)


def test_no_space(full: Path, real_uv: Any, tmp_path: Path) -> None:
    words = ("venv", str(tmp_path / "v"), "--python", sys.executable, *QUIET)
    done = real_uv(*words, changes={**ONE_LINE, "UV_CACHE_DIR": str(full / "cache")})
    message = rf"^no space left on the device to resolve the packages at {full}/\S+; nothing in use was changed$"
    told(done, "no-space", Exit.FAILED, message, "bnbenv gc")


def finished(text: str = "", code: int = 1, timed_out: bool = False) -> Finished:
    return Finished(Command(("uv",), 1200.0), code, "", text, timed_out, 1.0)


@pytest.mark.parametrize(
    ("text", "code", "exits", "message"),
    [
        # Seen where it cannot be made here: a full disk under a build, a proxy, git, certificates, quotas.
        (
            "error: Failed to build `gptqmodel==7.6.0`\n  cause: The build backend returned an error\n"
            "  cause: Call to `setuptools.build_meta` failed (exit status: 1)\n\n         [stderr]\n"
            "         OSError: [Errno 28] No space left on device: '/tmp/x.o'\n",
            "no-space",
            Exit.FAILED,
            "^no space left on the device to resolve the packages; nothing in use was changed$",
        ),
        (
            "error: Failed to download and build `foo @ git+https://localhost:9/x/foo`\n  cause: Git operation failed\n"
            "  cause: failed to clone into: cache/git-v1/db/0a927e756a68a6e3\n"
            "  cause: process didn't exit successfully: `/usr/bin/git fetch` (exit status: 128)\n         --- stderr\n"
            "         fatal: unable to access 'https://localhost:9/x/foo/': Failed to connect to localhost port 9\n",
            "source-unreachable",
            Exit.UNREACHABLE,
            "does not answer: https://localhost:9/x/foo/: Failed to connect to localhost port 9$",
        ),
        (
            "error: Failed to fetch: https://index.example/simple/torch/\n"
            "  cause: error sending request for url (https://index.example/simple/torch/)\n"
            "  cause: client error (Connect)\n  cause: invalid peer certificate: UnknownIssuer\n",
            "source-unreachable",
            Exit.UNREACHABLE,
            "https://index.example/simple/torch/: invalid peer certificate: UnknownIssuer$",
        ),
        (
            "error: Failed to install: torch-2.13.0-cp311-cp311-linux_x86_64.whl (torch==2.13.0)\n"
            "  cause: failed to copy file from `/cache/a` to `/home/me/b`: Disk quota exceeded (os error 122)\n",
            "no-space",
            Exit.FAILED,
            "at /home/me/b; nothing in use was changed$",
        ),
        (
            "warning: old\nerror: something new\n",
            "uv-failed",
            Exit.FAILED,
            "uv could not resolve the packages: something",
        ),
        ("", "uv-failed", Exit.FAILED, "uv could not resolve the packages: it did not say why$"),
    ],
)
def test_words_that_were_recorded(text: str, code: str, exits: Exit, message: str) -> None:
    told(finished(text), code, exits, message)


def test_a_time_limit_and_a_signal() -> None:
    told(
        finished(timed_out=True), "uv-timeout", Exit.UNREACHABLE, "did not resolve the packages within 1200 s", "again"
    )
    told(finished(code=-signal.SIGKILL), "uv-died", Exit.FAILED, "ended by SIGKILL", "memory")


def test_logins_and_other_secrets_are_blanked() -> None:
    text = f"error: it failed at https://{LOGIN}@index.example/simple and with t0ken-of-mine\n  cause: {LOGIN}@\n"
    error = explain(finished(text), "resolve the packages", {"t0ken-of-mine", "pa55-w0rd"})
    assert "pa55" not in error.message + error.detail
    assert "t0ken" not in error.message + error.detail
    assert "index.example/simple" in error.detail


def test_a_long_text_is_shortened_in_its_middle() -> None:
    text = "error: first\n" + "\n".join(f"line {number}" for number in range(1000)) + "\nlast"
    lines = explain(finished(text), "resolve the packages").detail.splitlines()
    assert len(lines) == DETAIL + 1
    assert (lines[0], lines[-1]) == ("error: first", "last")
    assert any("more lines" in line for line in lines)
