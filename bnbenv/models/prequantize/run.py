"""Follow the process that quantizes, which runs in the environment; its lines are told in standalone/protocol.py."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bnbenv.errors import Failed, UsageError
from bnbenv.models.model import CheckpointError
from bnbenv.models.prequantize.note import File
from bnbenv.models.prequantize.order import Order
from bnbenv.process import Command, Finished, Runner
from bnbenv.progress import Progress, shown_size

SCRIPT = Path(__file__).with_name("script.py")
LIMIT = 30 * 86400.0  # seconds: a time limit is the user's wish
AGAIN = "Run it again: it goes on where it stopped."

# Never the network; what the libraries draw is not for this process's standard error.
_ENVIRONMENT: Mapping[str, str | None] = {
    **{"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
    **{"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"},
}
_CHECKPOINT = frozenset(
    (
        *("unreadable-checkpoint", "unknown-architecture", "remote-code", "quantized-already", "no-safetensors"),
        *("cannot-build", "nothing-to-convert", "missing-tensors", "wrong-shape", "not-finite", "changed"),
    )
)


class OtherPackages(Exception):
    """The process runs with other releases than the finished files were made with."""


class Plan(msgspec.Struct, frozen=True):
    """What the process is going to do; see the protocol. ``largest`` is the memory that one tensor needs at most."""

    architecture: str | None
    dtype: str
    tensors: int
    converted: int
    kept: int
    left_out: int
    read_bytes: int
    bytes: int
    largest: int


class Follower:
    """Takes the lines of the process while it runs. ``ports`` are told of what they mean."""

    def __init__(
        self,
        progress: Progress,
        packages: Mapping[str, str] | None,
        told_packages: Callable[[Mapping[str, str]], None],
        planned: Callable[[Plan], None],
        finished: Callable[[str, File], None],
    ) -> None:
        self.progress, self._packages = progress, packages
        self._told_packages, self._planned, self._finished = told_packages, planned, finished
        self._taken = 0
        self._begun: float | None = None
        self.plan: Plan | None = None
        self.warnings: list[str] = []
        self.error: dict[str, Any] | None = None
        self.done: dict[str, Any] | None = None
        self.packages: Mapping[str, str] = {}

    def __call__(self, pid: int, stdout: str, stderr: str) -> None:
        end = stdout.rfind("\n") + 1
        text, self._taken = stdout[self._taken : end], max(end, self._taken)
        last: dict[str, Any] | None = None
        for line in text.split("\n"):
            event = read_event(line)
            if event is None:
                continue
            if event["event"] == "progress":
                last = event
            else:
                self._take(event)
        if last is not None:
            self._tell(last)

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "packages":
            self.packages = {str(name): str(value) for name, value in event["versions"].items()}
            if self._packages is not None and self._packages != self.packages:
                raise OtherPackages
            self._told_packages(self.packages)
        elif kind == "plan":
            self.plan = msgspec.convert(event, Plan)
            self._planned(self.plan)
        elif kind == "shard":
            self._finished(str(event["name"]), File(int(event["bytes"]), str(event["sha256"])))
        elif kind == "warning":
            text = " ".join(str(event["text"]).split())  # names of tensors may hold line breaks
            self.warnings.append(text)
            self.progress.say(f"warning: {text}")
        elif kind == "error":
            self.error = event
        elif kind == "done":
            self.done = event

    def _tell(self, event: dict[str, Any]) -> None:
        """``quantizing 120 of 291 (model.layers.11.mlp.up_proj.weight): 5.1 of 16.1 GB, 812.0 MB/s, 14 s left``."""
        read, total = int(event["read"]), int(event["total"])
        if self._begun is None:
            self._begun = time.monotonic()
        passed = time.monotonic() - self._begun
        speed = ""
        if passed >= 1 and read:
            rate = read / passed
            speed = f", {shown_size(int(rate))}/s, {_duration((total - read) / rate)} left"
        where = f"{event['index']} of {event['of']} ({event['tensor']})"
        self.progress.at(f"quantizing {where}: {shown_size(read)} of {shown_size(total)}{speed}")


def read_event(line: str) -> dict[str, Any] | None:
    """A line of the protocol; None for any other. Pure."""
    if not line.startswith("{"):
        return None
    try:
        event = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def run(
    order: Order,
    program: tuple[str, ...],
    out: Path,
    shards: Mapping[str, File],
    follower: Follower,
    runner: Runner,
    changes: Mapping[str, str | None],
) -> None:
    """Quantize into ``out``. ``program`` is a Python and the script; ``shards`` are finished. ``changes`` are to the
    process's environment.

    Raises CheckpointError, Failed (``no-space``, ``out-of-memory``, ``time-limit``, ``quantizing-died`` ...),
    UsageError where the Python cannot be started, and what the follower's ports raise.
    """
    job = {
        **{"model": str(order.model), "out": str(out), "quant": order.quant, "double_quant": order.double_quant},
        **{"compute_dtype": order.compute_dtype, "dtype": order.dtype, "device": order.device},
        **{"skip": None if order.skip is None else list(order.skip), "shard_bytes": order.shard_bytes},
        "trust_remote_code": order.trust_remote_code,
        "done": {name: {"bytes": one.bytes, "sha256": one.sha256} for name, one in shards.items()},
    }
    command = Command(
        program,
        order.limit or LIMIT,
        {**changes, **_ENVIRONMENT},
        stdin=json.dumps(job),
        watch=follower,
    )
    follower.progress.at("starting Python, torch and transformers")
    try:
        finished = runner.run(command)
        follower(0, finished.stdout + "\n", finished.stderr)
    except OSError as error:
        if error.filename != command.argv[0]:
            raise
        reason = (error.strerror or str(error)).lower()
        message = f"{program[0]} cannot be started ({reason})"
        raise UsageError("no-such-python", message, "Give the path of an environment's Python.") from None
    finally:
        follower.progress.at("")
    if follower.error is not None or follower.done is None or not finished.ok:
        raise failure(order, follower, finished)


def failure(order: Order, follower: Follower, finished: Finished) -> Failed:
    """How the process ended, as an error for people. Pure."""
    error = follower.error
    if error is not None:
        kind = CheckpointError if error["code"] in _CHECKPOINT else Failed
        return kind(str(error["code"]), str(error["message"]), str(error.get("next_step") or ""), _detail(error))
    if finished.timed_out:
        message = f"it was not done after {finished.command.timeout:.0f} s"
        return Failed("time-limit", message, f"{AGAIN} --limit SECONDS gives it more time.")
    tail = "\n".join(finished.stderr.strip().splitlines()[-15:])
    if finished.signal_name == "SIGKILL":
        largest = f" (the largest tensor takes {shown_size(follower.plan.largest)})" if follower.plan else ""
        message = f"the process that quantizes was killed, as the system does where memory runs out{largest}"
        step = f"Free memory (close programs, add swap, a container with more). {AGAIN}"
        return Failed("out-of-memory", message, step, tail)
    how = finished.signal_name or f"exit {finished.returncode}"
    message = f"the process that quantizes ended early ({how})"
    return Failed("quantizing-died", message, "See what is wrong with the environment: bnbenv verify", tail)


def _detail(error: Mapping[str, Any]) -> str:
    return str(error.get("detail") or "")


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
