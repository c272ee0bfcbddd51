"""What fuzzing has found, each kept as it was found and mended; and the fuzzer itself, which has to find things."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bnbenv.errors import Failed, InputError
from bnbenv.redact import redact

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz.py"
NINES = b"9" * 5000

READ, REFUSED = True, False
FOUND: list[tuple[str, str, bytes, bool]] = [
    # (what happened, target, input, whether it is read or refused)
    (
        "two rows of one index",
        "nvidia-smi",
        b"0, GPU-1, T4, 7.5, 1, 535.183.01\n0, GPU-2, T4, 7.5, 1, 535.183.01\n",
        READ,
    ),
    ("a CUDA version of twenty digits", "nvml-answer", b'{"cuda": 18446744073709551616}', READ),
    ("a compute capability that is none", "nvml-answer", b'{"devices": [{"index": 0, "capability": "~=1"}]}', READ),
    ("a C library of thirty digits", "system-texts", b"glibc 2." + b"6" * 30, READ),
    (
        "a Python of 5000 digits",
        "pythons",
        b'[{"version": "' + NINES + b'", "path": "/p", "implementation": "cpython"}]',
        READ,
    ),
    ("Pythons nested too deeply", "pythons", b"[" * 40_000, READ),
    ("a toolkit's JSON nested too deeply", "toolkits", b'{"a":' * 40_000, READ),
    ("an index of 5000 digits", "devices", NINES, REFUSED),
    ("a key of ten thousand parts: minutes and gigabytes", "wishes", b"a." * 20_000 + b"a=1", REFUSED),
    ("a table of ten thousand parts", "wishes", b"[" + b"a." * 20_000 + b"a]", REFUSED),
    ("a name of 5000 letters", "wishes", b"[envs." + b"a" * 5000 + b"]", REFUSED),
    ("arrays nested too deeply", "uv-config", b"find-links = " + b"[" * 20_000, REFUSED),
    ("a number of 5000 digits", "uv-config", b"x = " + NINES, REFUSED),
    ("an index whose name is a number", "uv-config", b'index = [{name = 1, url = "https://host/simple"}]', REFUSED),
    ("a folder's name that is too long", "uv-config", b'find-links = ["' + b"a" * 5000 + b'"]', READ),
    ("a time limit without end", "pip-config", b"[global]\ntimeout = inf\n", REFUSED),
    ("a login in bytes that are no text", "source-settings", b"UV_INDEX=mine\nUV_INDEX_MINE_PASSWORD=\xff\xfe", READ),
    ("a specifier with a number of 5000 digits", "specifiers", b"~=2." + NINES, REFUSED),
    ("a specifier of nothing but a comma", "specifiers", b",", READ),
    ("a platform tag of 5000 digits", "wheel-names", b"a-1-py3-none-manylinux_" + NINES + b"_1_x86_64.whl", READ),
    ("a version of 5000 digits in a name", "wheel-names", b"a-1." + NINES + b"-py3-none-any.whl", REFUSED),
    (
        "a version of 5000 digits on a page",
        "index-pages",
        b'<a href="torch-1.' + NINES + b'-py3-none-any.whl">x</a>',
        READ,
    ),
    ("a Python tag of 5000 digits", "wheel-names", b"a-1-py" + NINES + b"-none-any.whl", READ),
    ("a step without a name", "verification-events", b'{"event": "end", "ok": true}', READ),
    ("a failure without numbers", "verification-events", b'{"event": "end", "name": "nf4", "ok": false}', READ),
    ("an end before any step", "verification-events", b'{"event": "done"}', READ),
    ("a memory that is text", "verification-events", b'{"event": "environment", "memory_total": "x"}', READ),
    ("events nested too deeply", "verification-events", b'{"a":' * 40_000, READ),
    ("facts without end", "command-lines", b"solve\n--facts\n/dev/zero", READ),
    ("a file whose name is none", "package-records", b"pkg/\0,sha256=AA,1\n", READ),
    ("a size with two points", "uv-progress", b"Downloading torch (1.2.3MiB)\n", READ),
    ("an empty word", "command-lines", b"check\n", READ),
    ("a long token in an address", "redaction", b"word\n1", READ),
    (
        "a compiler's version of 5000 digits",
        "toolkit-texts",
        b"#if __GNUC__ > " + NINES + b"\n#error -- unsupported GNU",
        REFUSED,
    ),
    ("an architecture of 5000 digits", "toolkit-texts", b"'sm_" + NINES + b"','compute_75'", REFUSED),
    ("a tag of 5000 digits", "git-refs", b"a" * 40 + b"\trefs/tags/0." + NINES, READ),
    ("the address of a file on no host", "source-names", b"file://]/x", REFUSED),
    ("lines without end before a project", "source-trees", b"\n" * 200_000, READ),
]


@pytest.mark.parametrize(("name", "data", "read"), [found[1:] for found in FOUND], ids=[found[0] for found in FOUND])
def test_what_was_found_is_mended(name: str, data: bytes, read: bool, fuzzed: ModuleType) -> None:
    error = fuzzed.check(fuzzed.TARGETS[name], data)
    assert (error is None) == read, error


def changed(seed: bytes, old: str, new: str) -> bytes:
    text = seed.decode()
    assert old in text
    return text.replace(old, new, 1).encode()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("lock", 'version = "0.50.2"\nwheels', 'version = "0.50.x"\nwheels'),
        ("lock", 'python = "3.11"', 'python = ".."'),
        ("lock", 'requires_python = ">=3.10"', 'requires_python = "=="'),
        ("lock", "https://host/bitsandbytes", "https://[/bitsandbytes"),
        ("matrix-overlay", '"requires_python": "', '"requires_python": "=='),
        ("matrix-overlay", '"version": "', '"version": "x'),
        ("matrix-kept", '"version": "', '"version": "x'),
    ],
)
def test_versions_that_are_none_are_refused_where_they_stand(name: str, old: str, new: str, fuzzed: ModuleType) -> None:
    """They were read, and broke the solver."""
    target = fuzzed.TARGETS[name]
    seeds = [seed for seed in target.seeds if old in seed.decode()]
    assert isinstance(fuzzed.check(target, changed(seeds[0], old, new)), InputError)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("projects", {'"backend": "cpu"': '"backend": "\\ud800"'}),  # half a character, in a record
        ("facts-used", {'"cuda": "13.0"': '"cuda": "1e999"', '"version": "580.65.06"': '"version": null'}),
    ],
)
def test_odd_values_are_used_or_passed_over(name: str, changes: dict[str, str], fuzzed: ModuleType) -> None:
    target = fuzzed.TARGETS[name]
    data = next(seed for seed in target.seeds if all(old in seed.decode() for old in changes))
    for old, new in changes.items():
        data = changed(data, old, new)
    assert fuzzed.check(target, data) is None


def test_half_a_character_in_bytes_makes_no_record(fuzzed: ModuleType) -> None:
    target = fuzzed.TARGETS["record"]
    assert fuzzed.check(target, target.seeds[0].replace(b'"cpu"', b'"\xed\xa0\x80"')) is None


def test_a_member_before_the_beginning_of_a_file(fuzzed: ModuleType, tmp_path: Path) -> None:
    """The directory said so, and files on a disk cannot be read there; those in memory can."""
    from bnbenv.matrix.wheel import local_wheel

    seed = fuzzed.TARGETS["zip-members"].seeds[1]
    # The directory begins later than it says: then all members seem to lie before what was put in front of the file.
    end = seed.rindex(b"PK\5\6")
    start = int.from_bytes(seed[end + 16 : end + 20], "little")
    path = tmp_path / "torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    path.write_bytes(seed[: end + 16] + (start + 1000).to_bytes(4, "little") + seed[end + 20 :])
    with local_wheel(path) as wheel, pytest.raises(Failed) as caught:
        wheel.read("torch/version.py")
    assert caught.value.code == "bad-wheel"


def test_requirements_that_are_none_are_passed_over_in_a_wheel(fuzzed: ModuleType) -> None:
    import io
    import zipfile

    target = fuzzed.TARGETS["wheels"]
    with zipfile.ZipFile(io.BytesIO(target.seeds[0])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"triton==3.7.1", b"triton==").replace(b">=3.10", b">=x"))
    assert fuzzed.check(target, stream.getvalue()) is None


def test_a_login_behind_three_slashes_is_blanked() -> None:
    assert redact("https:///me:pw@host/simple") == "https://****@host/simple"


# -- the oracle


def target_that(fuzzed: ModuleType, run: Any) -> Any:
    return fuzzed.Target("own", "text", run, lambda: (b"x",), (InputError, Failed), "file")


def raising(error: BaseException) -> Any:
    def run(data: bytes) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (InputError("other", "", "expected a word"), "does not begin with file"),
        (Failed("", "something"), "without words"),
        (Failed("code", " "), "without words"),
        (Failed("code", "https://me:hunter2planted@host/"), None),  # blanked where it is shown
        (Failed("code", "me:hunter2planted"), None),  # no address
        (InputError("file", "", "one\ntwo"), None),  # escaped where it is shown
    ],
)
def test_an_error_is_one_sentence(error: Exception, fault: str | None, fuzzed: ModuleType) -> None:
    if fault is None:
        assert fuzzed.check(target_that(fuzzed, raising(error)), b"") is error
        return
    with pytest.raises(fuzzed.Fault, match=fault):
        fuzzed.check(target_that(fuzzed, raising(error)), b"")


def test_another_exception_is_a_failure(fuzzed: ModuleType) -> None:
    with pytest.raises(KeyError):
        fuzzed.check(target_that(fuzzed, raising(KeyError("x"))), b"")


def test_what_does_not_end_is_a_failure(fuzzed: ModuleType) -> None:
    def spin(data: bytes) -> None:
        begun = time.process_time()
        while time.process_time() - begun < 20:
            pass

    with pytest.raises(fuzzed.Fault):
        fuzzed.check(target_that(fuzzed, spin), b"", limit=0.05)


def test_what_takes_too_much_memory_is_a_failure(fuzzed: ModuleType) -> None:
    target = fuzzed.Target("own", "text", lambda data: bytes(2 << 20), lambda: (b"x",), memory=1 << 20)
    with pytest.raises(fuzzed.Fault, match="it took 2 MiB"):
        fuzzed.check(target, b"")


# -- the script

BROKEN = """
from dataclasses import dataclass
@dataclass
class Target:
    name: str
    kind: str = "text"
    seeds: tuple = (b"abc",)
    slow: bool = False
Edit = lambda *numbers: numbers
def edited(kind, data, edits, others):
    return data + bytes([edits[0][0] % 256])
def check(target, data):
    if target.name == "broken" and data.endswith(b"7"):
        raise KeyError("seven")
    return ValueError("refused") if data.endswith(b"8") else None
TARGETS = {name: Target(name) for name in ("broken", "sound")}
"""


@pytest.fixture
def script(tmp_path: Path) -> Any:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "table").mkdir(exist_ok=True)
        (tmp_path / "table" / "__init__.py").write_text(BROKEN)
        command = [sys.executable, str(SCRIPT), "--corpus", str(tmp_path / "corpus"), "--random", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    return run


def test_the_script_keeps_what_fails_and_exits_1(script: Any, tmp_path: Path) -> None:
    done = script("--table", str(tmp_path / "table"), "--runs", "3000")
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[1][:2] == ["broken", "3000"] and lines[1][-1] == "1"
    assert lines[2][:2] == ["sound", "3000"] and lines[2][-1] == "0"
    (kept,) = [path for path in (tmp_path / "corpus" / "broken").glob("failed-*") if path.suffix != ".txt"]
    assert kept.read_bytes() == b"abc7"
    assert "KeyError" in kept.with_suffix(".txt").read_text()
    # What failed before is given first the next time.
    again = script("--table", str(tmp_path / "table"), "--runs", "2", "--target", "broken")
    assert again.returncode == 1
    assert json.loads((tmp_path / "corpus" / "broken" / "outcome.json").read_text())["failures"] == [str(kept)]


def test_the_script_runs_a_target_of_the_table(script: Any) -> None:
    done = script("--runs", "500", "--target", "wheel-names", "--target", "environment-names")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:3]] == [
        ["wheel-names", "500"],
        ["environment-names", "500"],
    ]


def test_a_target_that_there_is_not(script: Any) -> None:
    done = script("--target", "nothing")
    assert done.returncode == 2
    assert "there is no target nothing" in done.stderr
