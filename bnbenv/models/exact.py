"""The skeleton of a model as transformers itself builds it: in the environment, on the meta device, without weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import msgspec

from bnbenv.errors import Failed, UsageError
from bnbenv.models.model import SIZES, TORCH_NAMES, CheckpointError, Kind, Parameter, Skeleton, Tensor
from bnbenv.process import Command, Finished, Runner
from bnbenv.redact import redact

SCRIPT = Path(__file__).parent / "standalone" / "skeleton.py"
LIMIT = 300.0  # seconds; imports from a cold disk take 30 s, the largest models a few

# Errors of the script that are about the model; others are about the environment.
_STEPS: Mapping[str, str] = {
    "unknown-architecture": "Give a newer transformers with --python PATH, or leave --exact out.",
    "remote-code": "Read that code, and if you trust it, give --trust-remote-code.",
    "unreadable-config": "Give a folder that from_pretrained of this environment can load.",
    "cannot-build": "Leave --exact out: the headers of the weights tell most of it.",
}
_TYPES: Mapping[str, str] = {
    **TORCH_NAMES,
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"},
    **{"complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"},
}


def exact(
    folder: Path,
    python: Path,
    runner: Runner,
    *,
    dtype: str = "BF16",
    skip: Sequence[str] = (),
    tensors: Sequence[Tensor] | None = None,
    trust_remote_code: bool = False,
    environ: Mapping[str, str | None] | None = None,
) -> Skeleton:
    """What transformers of the environment that ``python`` belongs to makes of the model in ``folder``.

    The folder needs a config.json; ``tensors`` are those of the checkpoint, in the order of its files (None: those that
    transformers would write). ``dtype`` is the loading type as safetensors names it: some parameters stay in float32
    beside one type and not beside another. ``skip`` are the user's ``llm_int8_skip_modules``. The model's own code is
    run only with ``trust_remote_code``.

    Raises CheckpointError where that transformers cannot make the model, Failed for an environment that lacks a
    package or a process that dies, UsageError if ``python`` cannot be started.
    """
    names = {safetensors: torch for torch, safetensors in TORCH_NAMES.items()}
    request = {
        "folder": str(folder.absolute()),
        "dtype": names[dtype],
        "skip": list(skip) or None,
        "trust_remote_code": trust_remote_code,
        "tensors": None if tensors is None else [(one.name, one.bytes) for one in tensors],
    }
    changes: dict[str, str | None] = {"CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if not trust_remote_code:  # code may lie on the hub
        changes["HF_HUB_OFFLINE"] = "1"
    command = Command((str(python), str(SCRIPT)), LIMIT, {**changes, **(environ or {})}, stdin=json.dumps(request))
    try:
        finished = runner.run(command)
    except OSError as error:
        message = f"{python} cannot be started ({(error.strerror or str(error)).lower()})"
        raise UsageError("no-such-python", message, "Give the path of an environment's Python.") from None
    return read_answer(finished, str(folder), str(python))


def read_answer(finished: Finished, model: str, python: str) -> Skeleton:
    """The skeleton from what the script printed and how it ended. Raises as ``exact`` does. Pure."""
    events = [event for event in map(_event, finished.stdout.splitlines()) if event is not None]
    end = events[-1] if events else {}
    if end.get("event") == "error":
        code, message = str(end.get("code")), str(end.get("message"))
        if code in _STEPS:
            raise CheckpointError(code, f"{model}: {redact(message)}", _STEPS[code])
        step = "Install it there, or name another environment with --python PATH."
        raise Failed(code, f"{python}: {redact(message)}", step, _tail(finished))
    if end.get("event") != "end":
        why = "did not end in time" if finished.timed_out else _how_it_died(finished)
        message = f"building the model with {python} {why}"
        raise Failed("exact-failed", message, "Leave --exact out: the headers tell most of it.", _tail(finished))
    release = str(end.get("transformers"))
    basis = f"built by transformers {release} on the meta device, as {end.get('architecture')}"
    try:
        parameters = tuple(_parameter(event) for event in events[:-1])
    except (KeyError, TypeError, ValueError) as error:
        message = f"what {python} said about the model cannot be read ({error})"
        raise Failed("exact-failed", message, "Leave --exact out: the headers tell most of it.") from None
    return Skeleton(parameters, release, basis)


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _parameter(event: Mapping[str, Any]) -> Parameter:
    dtype = event["dtype"]
    if dtype is not None and _TYPES.get(dtype) not in SIZES:
        raise ValueError(f"{event['name']}: a type {dtype}")
    if event["kind"] not in get_args(Kind):
        raise ValueError(f"{event['name']}: a kind {event['kind']}")
    return Parameter(
        str(event["name"]),
        tuple(int(side) for side in event["shape"]),
        cast(Kind, event["kind"]),
        converted=bool(event["converted"]),
        kept=event["kept"],
        dtype=None if dtype is None else _TYPES[dtype],
        stored=int(event["stored"]),
        parts=int(event["parts"]),
        turned=bool(event["turned"]),
    )


def _how_it_died(finished: Finished) -> str:
    if finished.signal_name:
        return f"was killed by {finished.signal_name}"
    return f"failed with exit code {finished.returncode}"


def _tail(finished: Finished) -> str:
    return redact("\n".join(finished.stderr.splitlines()[-20:]))
