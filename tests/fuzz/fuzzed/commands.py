"""What is typed: specifiers, GPUs, and whole command lines; and what a verification prints."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import msgspec

from bnbenv.cli import COMMANDS, GROUPS, main
from bnbenv.cli.render.verify import render as show_report
from bnbenv.errors import Exit, InputError
from bnbenv.solve.model import Request
from bnbenv.solve.situation import read_gpus
from bnbenv.solve.solver import solve
from bnbenv.solve.versions import admits, read_specifier
from bnbenv.verify.devices import Device
from bnbenv.verify.report import Report, explain_failure
from bnbenv.verify.run import read_device

from .documents import LOCK, RECORD, WISHES
from .edits import SECRET
from .oracle import Fault, Target
from .places import H200, HOSTS, MIG, MIXED, NO_GPU, finished, matrix, put, recorded, scratch

# Commands that only look; the others make environments, delete them or start programs.
LOOKING = ("solve", "why-not", "check", "plan", "status", "list", "path", "facts", "matrix", "completion")
LOOKED_AT = ("show", "inspect")  # of the commands of two words


def _specifier(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    spec = read_specifier(text, "--torch", "")
    for version in ("2.13.0", "2.13.0+cu130", "2.14.0rc1", "0.50.2"):
        admits(spec, version)
    if read_specifier(spec, "--torch", "") != spec:
        raise Fault(f"{spec} is read otherwise than it was written")
    solve(recorded(NO_GPU), matrix(), Request(torch=spec, python=spec, bitsandbytes=spec))


def _gpus(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    words = read_gpus(text, "--gpus", "")
    if read_gpus(list(words), "--gpus", "") != words:
        raise Fault(f"{words} are read otherwise than they were written")
    solve(recorded(MIG), matrix(), Request(gpus=words))


def _events(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for ended in (finished(text), finished(text, text, -11), finished(text, text, 1, True)):
        device, warnings = read_device(Device("GPU-1", "NVIDIA H200"), ended)
        report = Report(ok=device.ok, python="/p/bin/python", devices=(device,), warnings=tuple(warnings))
        document = msgspec.to_builtins(report)
        if not device.ok and not explain_failure(report):
            raise Fault("a failure without a reason")
        if msgspec.convert(json.loads(json.dumps(document)), Report) != report:
            raise Fault("the report is no report")
        show_report(document)


def _command_line(data: bytes) -> None:
    words = data.decode("utf-8", "surrogateescape").replace("\0", "").split("\n")
    if words[0] in COMMANDS and words[0] not in LOOKING and "--help" not in words[1:2]:
        words[0] = "check"
    if words[0] in GROUPS and words[1:] and words[1] in GROUPS[words[0]] and words[1] not in LOOKED_AT:
        words[1] = LOOKED_AT[0]
    facts = HOSTS / (MIXED if len(words) % 2 else NO_GPU) / "facts.json"
    _run(words, scratch(), {"BNBENV_FACTS": str(facts)})


def _project(data: bytes) -> None:
    """A project in which bnbenv.toml, the lock or the record is anything."""
    place, _, content = data.partition(b"\n")
    root = scratch() / "synced"
    files = {"bnbenv.toml": WISHES[2], "pylock.bnb.toml": LOCK, ".bnbenv/generations/bnb/1.json": RECORD}
    names = [*files, "facts.json"]
    files["facts.json"] = (HOSTS / NO_GPU / "facts.json").read_bytes()
    files[names[(place or b"\0")[0] % len(names)]] = content
    for name, text in files.items():
        put(f"synced/{name}", text)
    (root / ".bnbenv/generations/bnb/1/bin").mkdir(parents=True, exist_ok=True)
    (root / ".bnbenv/generations/bnb/1/lib/python3.11/site-packages/torch-2.13.0.dist-info").mkdir(
        parents=True, exist_ok=True
    )
    (root / ".bnbenv/generations/bnb/1/bin/python").touch()
    if not os.path.lexists(root / ".venv-bnb"):
        (root / ".venv-bnb").symlink_to(".bnbenv/generations/bnb/1")
    for words in (["check"], ["list"], ["path"], ["plan"], ["status"], ["status", "--why", "--all", "--json"]):
        _run(words, root, {"BNBENV_FACTS": str(root / "facts.json")})


def _run(words: list[str], folder: Path, changes: dict[str, str]) -> None:
    """The program in this process, with nothing of this machine's users: an exit code of the contract and no fault."""
    own = {"BNBENV_HOME": str(scratch() / "user"), "HOME": str(scratch() / "home"), "BNBENV_OFFLINE": "1"}
    own |= {"BNBENV_SYSROOT": str(scratch() / "empty"), "PATH": os.defpath, "COLUMNS": "80", **changes}
    before, here, streams = dict(os.environ), Path.cwd(), (sys.stdin, sys.stdout, sys.stderr)
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    try:
        os.environ.clear()
        os.environ.update(own)
        os.chdir(folder)
        sys.stdin, sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO(b"{}")), out, err
        try:
            code = main(words)
        except SystemExit as ended:  # argparse, after --help
            code = int(ended.code or 0)
        said, told = (stream.buffer.getvalue().decode("utf-8", "surrogateescape") for stream in (_end(out), _end(err)))
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)
    _judge(words, code, said, told)


def _end(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.flush()
    return stream


def _judge(words: list[str], code: int, said: str, told: str) -> None:
    if code not in tuple(Exit):
        raise Fault(f"exit code {code}")
    if "fault of bnbenv" in told or ("Traceback" in told and "Traceback" not in " ".join(words)):
        raise Fault(told[:2000])
    if code in (Exit.USAGE, Exit.FAILED, Exit.NO_COMBINATION, Exit.UNREACHABLE) and told:
        errors = [line for line in told.splitlines() if line.startswith("error: ")]
        if len(errors) != 1 or not errors[0].isprintable():
            raise Fault(f"no single sentence: {told[:500]!r}")
    if "--json" in words and said and "--help" not in words and words[0] in LOOKING[:-1]:
        document = json.loads(said)
        if not document["schema"].startswith("bnbenv."):
            raise Fault(f"no document: {said[:300]}")


def _lines() -> tuple[bytes, ...]:
    facts = str(HOSTS / H200 / "facts.json")
    words = [
        ["solve", "--facts", facts, "--torch", ">=2.8", "--gpus", "0", "--backend", "cuda", "--no-build", "--json"],
        ["solve", "--driver", "590.44.01", "--shipped", "--python", "3.12", "--bitsandbytes", "0.50.*", "--build"],
        ["solve", "--reachable", "--torch", "2.9.1"],
        ["check", "--env", "bnb", "--project", "."],
        ["plan", "--env=bnb", "--json"],
        ["list"],
        ["why-not", "bitsandbytes==0.46.1", "torch==2.9.*", "--facts", facts, "--json"],
        ["why-not", "torch==2.9.1+cu128", "--shipped", "--gpus", "0"],
        ["matrix", "show", "0.50.2", "--shipped"],
        ["matrix", "show", "--gpu", "RTX 5090", "--shipped", "--json"],
        ["matrix", "inspect", facts, "--facts", facts],
        ["matrix", "inspect", "https://host/x-1-py3-none-any.whl", "--json"],
        ["status", "--why", "--all", "--env", "bnb"],
        ["completion", "bash"],
        ["path", "--python", "--env", "x"],
        ["facts", "--facts", "-", "--json"],
        ["facts", "--facts", facts],
        ["help", "solve"],
        ["sync", "--help"],
        ["--version"],
        ["solve", "--torch", f"https://me:{SECRET}@host/torch.whl"],
        ["check", "-v"],
        ["-q", "check"],
    ]
    return tuple("\n".join(line).encode() for line in words)


def _projects() -> tuple[bytes, ...]:
    facts = (HOSTS / MIXED / "facts.json").read_bytes()
    return tuple(bytes([n]) + b"\n" + one for n, one in enumerate((WISHES[2], LOCK, RECORD, facts)))


def _event_lines() -> tuple[bytes, ...]:
    step = {
        "event": "end",
        "name": "nf4",
        "ok": True,
        "error": 0.01,
        "threshold": 0.02,
        "seconds": 0.5,
        "check": "mean",
    }
    events = [
        {"event": "environment", "python": "3.11.7", "torch": "2.13.0", "torch_cuda": "13.0", "memory_total": 1 << 33},
        {"event": "library", "library": "libbitsandbytes_cuda130.so", "library_path": "/x", "bitsandbytes": "0.50.2"},
        {"event": "start", "name": "nf4"},
        {**step, "figures": {"gb_per_s": 1.5}, "reason": "relative"},
        {"event": "warning", "text": "slow"},
        {**step, "ok": False, "name": "fp4", "message": None},
        {**step, "ok": None, "skipped": "no GPU", "error": None, "threshold": None},
        {"event": "done"},
    ]
    lines = [json.dumps(event) for event in events]
    fault = ["Fatal Python error: Segmentation fault", "Current thread (most recent call first):", '  File "x", line 1']
    return "\n".join(lines).encode(), "\n".join(lines[:3] + fault).encode()


_SPECIFIERS = (
    b"*",
    b">=2.8,<3",
    b"2.9",
    b"2.9.1",
    b"==2.*",
    b"~=2.4",
    b"===2.13.0+cpu",
    b"1!2.0.post1.dev2+x",
    b"!=2.0",
)
_GPUS = (b"all", b"0", b"0,1", b"GPU-a77fe1ad-7299-5c6c-a818-cac1975000f5", b"MIG-", b"GPU-,0")

TARGETS = (
    Target("specifiers", "text", _specifier, lambda: _SPECIFIERS, (InputError,), "--torch", True),
    Target("gpu-choice", "text", _gpus, lambda: _GPUS, (InputError,), "--gpus"),
    Target("verification-events", "text", _events, _event_lines),
    Target("command-lines", "text", _command_line, _lines, slow=True),
    Target("projects", "text", _project, _projects, slow=True),
)
