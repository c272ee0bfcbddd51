"""Real environments with one thing broken: found, named as the real program's own words are, and mended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

REPO = Path(__file__).parent.parent.parent
H200 = REPO / "tests/hosts/linux-x86_64__580.65.06__h200-sm90/facts.json"
LIBRARY = "bitsandbytes/libbitsandbytes_cpu.so"

# What a user's program does, and it has to end well.
QUANTIZE = """\
import bitsandbytes.functional as F, torch
from bitsandbytes.cextension import lib
rows = torch.randn(64, 64)
packed, state = F.quantize_4bit(rows, quant_type="nf4")
error = (F.dequantize_4bit(packed, state) - rows).abs().mean().item()
assert 0 < error < 0.1, error
lib.cquantize_blockwise_cpu_fp32  # the native library is there, which bitsandbytes can do without on a CPU
print("quantized")
"""
# There is no GPU here, so what bitsandbytes asks torch is answered as on a machine with an H200. All that is printed
# is bitsandbytes' own, of its real libraries.
AS_ON_A_GPU = """\
import torch
torch.version.cuda = "13.0"
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.get_device_capability = lambda device=None: (9, 0)
torch._C._cuda_getCurrentRawStream = lambda index: 0
import bitsandbytes
"""
LOAD = "import torch, ctypes, bitsandbytes; ctypes.CDLL(bitsandbytes.__path__[0] + '/libbitsandbytes_cpu.so')"
IMPORT = "import bitsandbytes"


@dataclass(frozen=True)
class Env:
    """An environment that bnbenv did not make: a copy of which the packages are hard links, and a home of its own."""

    prefix: Path
    home: Path
    environ: Mapping[str, str]

    @property
    def site(self) -> Path:
        return next(self.prefix.glob("lib/python*/site-packages"))

    @property
    def python(self) -> Path:
        return self.prefix / "bin" / "python"

    def put(self, name: str, data: bytes) -> None:
        """A file in the place of one that is a link into uv's cache."""
        (self.site / name).unlink(missing_ok=True)
        (self.site / name).write_bytes(data)

    def change(self, name: str, old: str, new: str) -> None:
        text = (self.site / name).read_text()
        assert old in text
        self.put(name, text.replace(old, new).encode())

    def says(self, code: str, changes: Mapping[str, str] = {}) -> tuple[int, str]:
        """How the real program ends, and what it prints."""
        done = subprocess.run(
            [self.python, "-c", code],
            env={**self.environ, **changes},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def doctor(self, *words: str, stdin: str = "", changes: Mapping[str, str] = {}) -> tuple[int, dict[str, Any]]:
        """The exit code, and the document."""
        done = subprocess.run(
            [sys.executable, "-m", "bnbenv", "doctor", "--json", *words, str(self.prefix)],
            env={**self.environ, **changes},
            cwd=self.home,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert "Traceback" not in done.stderr and "fault of bnbenv" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest.fixture
def env(synced: Any, tool_environ: dict[str, str], tmp_path: Path) -> Iterator[Env]:
    source, prefix, home = (synced.root / ".venv-bnb").resolve(), tmp_path / "env", tmp_path / "home"

    def copy(one: str, other: str) -> None:
        os.link(one, other) if f"{os.sep}lib{os.sep}" in one else shutil.copy2(one, other)

    shutil.copytree(source, prefix, symlinks=True, copy_function=copy)
    (prefix / "pylock.toml").unlink()
    home.mkdir()
    yield Env(
        prefix, home, {**tool_environ, "HOME": str(home), "BNBENV_HOME": str(home / "bnbenv"), "SHELL": "/bin/bash"}
    )
    shutil.rmtree(prefix, ignore_errors=True)


def primary(document: Mapping[str, Any]) -> dict[str, Any]:
    """The one primary finding."""
    (found,) = (one for one in document["findings"] if one["primary"])
    return dict(found)


Break = Callable[[Env, Any], None]


@dataclass(frozen=True)
class Case:
    """``run`` is the program whose words are read as well; None: it says nothing, or nothing of the cause.

    ``mended``: ``--fix --yes`` does it.
    """

    breaks: Break
    cause: str
    code: str
    run: str | None = None
    mended: bool = True


def _own(env: Env) -> bytes:
    return (env.site / LIBRARY).read_bytes()


def _missing(env: Env, _: Any) -> None:
    (env.site / LIBRARY).unlink()


def _zeros(env: Env, _: Any) -> None:
    env.put(LIBRARY, bytes(len(_own(env))))


def _cut(env: Env, _: Any) -> None:
    env.put(LIBRARY, _own(env)[:5000])


def _aarch64(env: Env, _: Any) -> None:
    env.put(LIBRARY, _own(env)[:18] + b"\xb7\x00" + _own(env)[20:])


def _glibc(env: Env, raised_glibc: Any) -> None:
    raised_glibc(env.site / LIBRARY, env.site / LIBRARY)


def _emptied(env: Env, _: Any) -> None:
    """As a full disk leaves it. It can be imported, and has nothing in it."""
    env.put("bitsandbytes/__init__.py", b"")


def _broken_torch(env: Env, _: Any) -> None:
    (env.site / "torch/lib/libtorch_cpu.so").unlink()


def _older_torch(env: Env, _: Any) -> None:
    """An older CPU build of torch is 200 MB from an index that may not answer: what it says of itself is enough."""
    (info,) = env.site.glob("torch-*.dist-info")
    version = info.name.removesuffix(".dist-info").partition("-")[2]
    env.change("torch/version.py", version, "2.1.2+cpu")
    env.change(f"{info.name}/METADATA", f"Version: {version}", "Version: 2.1.2+cpu")
    info.rename(info.with_name("torch-2.1.2+cpu.dist-info"))


def _two_versions(env: Env, _: Any) -> None:
    (info,) = env.site.glob("bitsandbytes-*.dist-info")
    old = env.site / "bitsandbytes-0.44.1.dist-info"
    old.mkdir()
    for name in ("METADATA", "RECORD"):
        (old / name).write_text((info / name).read_text().replace("\nVersion: ", "\nVersion: 0.44.1\nWas: "))


def _interrupted_pip(env: Env, _: Any) -> None:
    """A pip that was killed between moving the old package away and writing the new one."""
    (info,) = env.site.glob("bitsandbytes-*.dist-info")
    info.rename(env.site / f"~{info.name[1:]}")
    (env.site / "bitsandbytes").rename(env.site / "~itsandbytes")


CASES = {
    "no native library": Case(_missing, "lib_cuda_version_missing", "cpu-library-missing", LOAD),
    "a library of zeros": Case(_zeros, "cpu_only_bnb", "native-library-damaged", LOAD, mended=False),
    "a library that was cut off": Case(_cut, "cpu_only_bnb", "native-library-damaged"),
    "a library for aarch64": Case(_aarch64, "cpu_only_bnb", "native-library-damaged", mended=False),
    "a library for a newer glibc": Case(_glibc, "glibc_too_old", "glibc-too-old", LOAD),
    "a module that was emptied": Case(_emptied, "other", "package-incomplete", mended=False),
    "two versions": Case(_two_versions, "other", "leftovers", mended=False),
    "an interrupted pip": Case(_interrupted_pip, "other", "leftovers", IMPORT),
    "a broken torch": Case(_broken_torch, "other", "torch-damaged", IMPORT),
    "an older torch": Case(_older_torch, "other", "torch-requirement", mended=False),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_broken_is_found_and_mended(name: str, env: Env, raised_glibc: Any) -> None:
    case = CASES[name]
    case.breaks(env, raised_glibc)
    code, document = env.doctor()
    found = primary(document)
    assert (code, found["cause"], found["code"]) == (3, case.cause, case.code)
    if case.run is not None:
        ended, text = env.says(case.run)
        assert ended != 0
        code, document = env.doctor("--log", "-", stdin=text)
        assert (code, primary(document)["cause"], primary(document)["source"]) == (3, case.cause, "text")
    if case.mended:
        assert found["fix"]["automatic"]
        code, document = env.doctor("--fix", "--yes")
        assert code == 0, document
        works(env, run=case.run == LOAD)


def works(env: Env, run: bool = True) -> None:
    """There is nothing more to be found, and the user's program runs. A fix runs the kernels by itself."""
    if run:
        ended, text = env.says(QUANTIZE)
        assert ended == 0 and "quantized\n" in text, text
    code, document = env.doctor()
    assert (code, document["findings"]) == (0, [])


def test_of_a_sound_environment_nothing_is_said(env: Env) -> None:
    works(env)


OVERRIDES = {"128": "override-other-major", "999": "override-library-missing", "": "override-empty"}


@pytest.mark.parametrize("value", OVERRIDES)
def test_a_wrong_override(value: str, env: Env) -> None:
    """torch is a build for CUDA 13.0 by what it says of itself, and the machine one with an H200 by its facts."""
    env.change("torch/version.py", "cuda: Optional[str] = None", 'cuda: Optional[str] = "13.0"')
    for name in ("libtorch_cuda.so", "libc10_cuda.so"):
        os.link(env.site / "torch/lib/libc10.so", env.site / "torch/lib" / name)
    override = {"BNB_CUDA_VERSION": value}
    code, document = env.doctor("--facts", str(H200), changes=override)
    found = primary(document)
    assert (code, found["cause"], found["code"]) == (3, "bnb_override_env_stale", OVERRIDES[value])
    assert not found["fix"]["automatic"]  # what a shell has in its environment, no other program can change
    _, text = env.says(AS_ON_A_GPU, override)
    code, document = env.doctor("--facts", str(H200), "--log", "-", stdin=text)
    assert (code, primary(document)["cause"], primary(document)["source"]) == (3, "bnb_override_env_stale", "text"), (
        text
    )
