"""bnbenv doctor as people and programs call it: exit codes, texts that are none, options, documents."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HOSTS = Path(__file__).parent.parent / "hosts"
H200 = str(HOSTS / "linux-x86_64__580.65.06__h200-sm90" / "facts.json")
MISMATCH = str(HOSTS / "linux-x86_64__mismatch__nogpu" / "facts.json")
NO_GPU = str(HOSTS / "linux-x86_64__absent__nogpu__glibc2.36" / "facts.json")
# pytest's own machine is not to be found: no Python with torch on PATH, no environment in use.
ALONE = {"PATH": "/nowhere", "VIRTUAL_ENV": None, "CONDA_PREFIX": None, "BNB_CUDA_VERSION": None}

Faults = Callable[[Any], list[str]]


def test_a_machine_without_anything_has_nothing_wrong(bnbenv: Any, faults: Faults) -> None:
    ran = bnbenv("doctor", "--json", "--facts", NO_GPU, **ALONE)
    assert (ran.code, faults(ran.document), ran.document["findings"]) == (0, [], [])
    shown = bnbenv("doctor", "--facts", NO_GPU, **ALONE)
    assert shown.out.startswith("nothing is wrong")


def test_a_reboot_that_is_due_is_exit_6(bnbenv: Any, faults: Faults) -> None:
    ran = bnbenv("doctor", "--json", BNBENV_FACTS=MISMATCH, **ALONE)
    assert (ran.code, faults(ran.document)) == (6, [])
    (found,) = ran.document["findings"]
    assert (found["cause"], found["primary"], found["source"]) == ("driver_library_mismatch", True, "machine")


def test_no_login_or_token_of_a_text_is_told(bnbenv: Any) -> None:
    token = "hf_" + "aBcDeFgHiJ" * 3
    text = f"OSError: 401 Client Error: Unauthorized for url: https://me:mysecret@huggingface.co/meta-llama {token}\n"
    ran = bnbenv("doctor", "--json", "--log", "-", "--facts", NO_GPU, stdin=text.encode(), **ALONE)
    evidence = " ".join(ran.document["findings"][0]["evidence"])
    assert "https://****@huggingface.co" in evidence
    assert "mysecret" not in ran.out and token not in ran.out


def test_a_text_that_tells_of_a_reboot_is_exit_6_too(bnbenv: Any) -> None:
    text = b"Failed to initialize NVML: Driver/library version mismatch\n"
    ran = bnbenv("doctor", "--json", "--log", "-", "--facts", H200, stdin=text, **ALONE)
    assert ran.code == 6
    assert (ran.document["findings"][0]["source"], ran.document["findings"][0]["primary"]) == ("text", True)


def test_a_text_goes_before_the_machine(bnbenv: Any, faults: Faults, tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("Traceback:\nRuntimeError: CUDA error: no kernel image is available for execution on the device\n")
    ran = bnbenv("doctor", "--json", "--log", str(log), BNBENV_FACTS=MISMATCH, **ALONE)
    assert (ran.code, faults(ran.document)) == (3, [])
    first, *others = ran.document["findings"]
    assert (first["cause"], first["primary"], first["source"]) == ("no_kernel_image", True, "text")
    assert [(one["cause"], one["primary"]) for one in others] == [("driver_library_mismatch", False)]
    assert ran.document["examined"]["text_bytes"] == log.stat().st_size


def test_a_failure_that_nobody_knows_is_called_unknown(bnbenv: Any) -> None:
    text = b'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\nKeyError: 3\n'
    ran = bnbenv("doctor", "--json", "--log", "-", "--facts", NO_GPU, stdin=text, **ALONE)
    assert (ran.code, [one["cause"] for one in ran.document["findings"]]) == (3, ["unknown"])


def test_a_text_without_a_failure_is_exit_0(bnbenv: Any) -> None:
    ran = bnbenv("doctor", "--json", "--log", "-", "--facts", NO_GPU, stdin=b"loss 0.31\nloss 0.30\n", **ALONE)
    assert (ran.code, ran.document["findings"]) == (0, [])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        (b"", "it is empty"),
        (b"\x7fELF\x02\x01\x01" + bytes(64), "this is not text"),
        (bytes(range(256)) * 16, "this is not text"),
    ],
    ids=["absent", "empty", "a library", "noise"],
)
def test_a_text_that_is_none_is_refused(
    content: bytes | None, sentence: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "some.log"
    if content is not None:
        file.write_bytes(content)
    assert sentence in refused("doctor", "--log", str(file), "--facts", NO_GPU)


def test_a_folder_is_no_text(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "it is a folder" in refused("doctor", "--log", str(tmp_path), "--facts", NO_GPU, step="Name the file")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here that opens and cannot be read")
def test_a_file_that_opens_and_cannot_be_read(refused: Callable[..., str]) -> None:
    assert "it cannot be read" in refused("doctor", "--log", "/proc/self/mem", "--facts", NO_GPU)


@pytest.mark.skipif(os.name != "posix", reason="no POSIX terminal")
def test_a_text_is_pasted_at_a_terminal_and_ended_once(tool_environ: dict[str, str], tmp_path: Path) -> None:
    """Nothing is drawn over what is typed, and one Ctrl-D ends it."""
    import pty

    own, theirs = pty.openpty()
    words = [sys.executable, "-m", "bnbenv", "doctor", "--log", "-", "--facts", NO_GPU]
    environ = {**tool_environ, **{name: value or "" for name, value in ALONE.items()}, "BNBENV_HOME": str(tmp_path)}
    with subprocess.Popen(
        words, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, cwd=tmp_path, env=environ
    ) as doctor:
        os.close(theirs)
        os.write(own, b"torch.OutOfMemoryError: CUDA out of memory.\n\x04")
        out, _ = doctor.communicate(timeout=60)
    os.close(own)
    assert doctor.returncode == 3 and b"cause: out_of_memory" in out


def test_a_sentence_is_broken_and_a_command_stays_whole(bnbenv: Any) -> None:
    host = str(HOSTS / "linux-x86_64__error__nogpu__docker-without-gpus" / "facts.json")
    text = b"RuntimeError: Found no NVIDIA driver on your system."
    ran = bnbenv("doctor", "--log", "-", "--facts", host, stdin=text, **ALONE)
    assert "\n    Podman: --device nvidia.com/gpu=all. Kubernetes:" in ran.out
    assert all(line.startswith("    ") for line in ran.out.splitlines() if "nvidia-ctk" in line)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "cp1252"])
def test_a_text_may_be_in_other_encodings(encoding: str, bnbenv: Any) -> None:
    """Windows PowerShell redirects in UTF-16."""
    text = "RuntimeError: CUDA error: no kernel image is available for execution on the device\r\n".encode(encoding)
    ran = bnbenv("doctor", "--json", "--log", "-", "--facts", NO_GPU, stdin=text, **ALONE)
    assert [one["cause"] for one in ran.document["findings"] if one["primary"]] == ["no_kernel_image"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("/some/env", "--env", "bnb"), "named twice"),
        (("--yes",), "--yes goes with --fix"),
        (("--undo", "--deep"), "--undo goes with none"),
        (("--log", "-", "--facts", "-"), "cannot both be standard input"),
    ],
)
def test_options_that_do_not_go_together(words: tuple[str, ...], sentence: str, refused: Callable[..., str]) -> None:
    assert sentence in refused("doctor", *words)


def test_an_environment_that_is_not_there(refused: Callable[..., str], tmp_path: Path) -> None:
    assert refused("doctor", str(tmp_path / "nothing"), "--facts", NO_GPU)
    assert "nope" in refused("doctor", "--env", "nope", "--facts", NO_GPU)


def test_a_next_step_means_the_same_environment_and_text(bnbenv: Any, tmp_path: Path) -> None:
    """A bitsandbytes without torch, in a venv made by hand."""
    site = tmp_path / "my env" / "lib" / "python3.11" / "site-packages"
    (site / "bitsandbytes").mkdir(parents=True)
    (site / "bitsandbytes" / "__init__.py").write_text('__version__ = "0.50.2"\n')
    info = site / "bitsandbytes-0.50.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bitsandbytes\nVersion: 0.50.2\n")
    (tmp_path / "my env" / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.7\n")
    (tmp_path / "my env" / "bin").mkdir()
    (tmp_path / "my env" / "bin" / "python").symlink_to("/bin/sh")
    ran = bnbenv("doctor", str(tmp_path / "my env"), "--facts", NO_GPU, **ALONE)
    assert ran.code == 3
    assert "found: bitsandbytes is here and torch is not" in ran.out
    *_, last = ran.out.splitlines()
    assert last.startswith("next: ") and (f"bnbenv doctor '{tmp_path}/my env' --fix" in last or "--fix" not in last)


def test_where_bnbenv_itself_is_installed_is_not_what_is_meant(bnbenv: Any) -> None:
    """Its folder is on PATH for its own sake, and holds neither torch nor bitsandbytes."""
    beside = {**ALONE, "PATH": str(Path(sys.executable).parent)}
    assert bnbenv("doctor", "--json", "--facts", NO_GPU, **beside).document["examined"]["kind"] == "none"
    activated = {**beside, "VIRTUAL_ENV": sys.prefix}
    assert bnbenv("doctor", "--json", "--facts", NO_GPU, **activated).document["examined"]["kind"] == "venv"


@pytest.mark.real
def test_a_real_environment_is_healthy_and_its_kernels_agree(project: Any, faults: Faults) -> None:
    for words in (["doctor"], ["doctor", "--deep"]):
        ended = project(*words, "--json")
        assert (ended.code, ended.document["findings"]) == (0, []), ended
        assert faults(ended.document) == []
    examined = ended.document["examined"]
    assert (examined["kind"], examined["env"], examined["library"]) == ("bnbenv", "bnb", "libbitsandbytes_cpu.so")


def test_what_a_text_says_is_shown_in_its_own_language_and_obeyed_nowhere(bnbenv: Any) -> None:
    text = "OSError: [WinError 126] 指定されたモジュールが見つかりません。\x1b[31m\x07\n"
    ran = bnbenv("doctor", "--log", "-", "--facts", NO_GPU, stdin=text.encode(), PYTHONIOENCODING="utf-8", **ALONE)
    assert "指定されたモジュール" in ran.out
    assert "\x1b" not in ran.out and "\x07" not in ran.out
