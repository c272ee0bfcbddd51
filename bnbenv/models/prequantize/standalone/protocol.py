"""What the parent process gives, and the lines that tell it what happened.

``ENV_PYTHON .../prequantize/script.py`` reads one JSON object, the job, from standard input up to its end::

    {"model": "/folder", "out": "/staging",        absolute folders; out exists. Nothing but out is written to.
     "quant": "nf4" | "fp4" | "int8", "double_quant": true, "compute_dtype": "bfloat16",
     "dtype": null | "bfloat16" | "float16" | "float32",   null: what from_pretrained of that release loads in
     "skip": null | ["lm_head"],                   llm_int8_skip_modules; null: transformers' own choice
     "device": "cpu" | "cuda:0", "shard_bytes": 5000000000, "trust_remote_code": false,
     "done": {"model-00001-of-00003.safetensors": {"bytes": 123, "sha256": "..."}}}

``done`` names shards in ``out`` that an earlier run finished and the parent has verified; they are not written again.
A ``done`` shard that the plan does not know is an error (``other-plan``). Sizes are bytes everywhere.

It writes JSON objects to standard output, one a line, each with ``event``. What libraries print goes to standard
error. In this order:

``packages``  ``versions``: {"torch", "transformers", "bitsandbytes", "accelerate", "safetensors"} and ``python``.
``warning``   ``code``, ``text``: one sentence. It can come at any time.
``plan``      before the first byte is written, the same for the same checkpoint, job and releases:
              ``architecture``; ``dtype`` (what it is loaded in); ``tensors`` (of the output);
              ``converted`` (weights that are quantized); ``kept``; ``left_out`` (tensors of the checkpoint that the
              model does not use); ``read_bytes`` and ``bytes`` (all shards, files at most that large);
              ``largest`` (the largest weight in its loading type, with its result: what must be in memory beside the
              libraries and what their kernel takes for itself);
              ``skipped_modules`` (names that the configuration keeps from being quantized);
              ``shards``: [{"name", "bytes", "tensors", "read_bytes", "done"}]. The real size of a shard is at most
              its ``bytes``, and less by a few bytes a weight at the most.
``progress``  at most ten a second: ``tensor`` (its name), ``index`` (of the units that are done, from 1), ``of``,
              ``read`` and ``written`` (bytes up to now, without shards that were done before), ``total`` (to be read).
``shard``     a shard is complete, flushed to the disk and has its name: ``name``, ``bytes``, ``tensors``, ``sha256``
              (of the whole file). Until then it has the name ``NAME.part`` in ``out``; whoever finds one may delete it.
``done``      ``files``: the names of all files that the checkpoint consists of: the shards, ``config.json`` and, with
              more than one shard, ``model.safetensors.index.json``; ``bytes`` (of all shards), ``total_size`` (of the
              tensors), ``seconds`` (without imports), ``device``. Copying other files (generation_config.json,
              tokenizer, licence) is the parent's.
``error``     ``code``, ``message`` (one sentence), ``next_step``, ``detail`` (may be empty). It is the last line.

Exit code 0 after ``done``, 1 after ``error``; anything else is a crash or a kill, and the shards that were told are
good. Codes of errors: ``unreadable-job``, ``package-missing``, ``package-too-old``, ``unreadable-checkpoint``,
``unknown-architecture``, ``remote-code``, ``quantized-already``, ``no-safetensors``, ``cannot-build``,
``nothing-to-convert``, ``missing-tensors``, ``wrong-shape``, ``not-finite``, ``not-loadable``, ``no-device``,
``out-of-memory``, ``disk-full``, ``cannot-read``, ``cannot-write``, ``other-plan``, ``changed``, ``failed``.
Codes of warnings: ``experts-not-converted``, ``experts-converted``, ``left-out``, ``not-finite-kept``,
``load-with-dtype``, ``not-in-checkpoint``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO


class JobError(Exception):
    """What ends the job: the ``error`` event."""

    def __init__(self, code: str, message: str, next_step: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.next_step, self.detail = code, message, next_step, detail


@dataclass(frozen=True)
class Job:
    """See the module's text."""

    model: str
    out: str
    quant: str = "nf4"
    double_quant: bool = True
    compute_dtype: str = "bfloat16"
    dtype: str | None = None
    skip: list[str] | None = None
    device: str = "cpu"
    shard_bytes: int = 5_000_000_000
    trust_remote_code: bool = False
    done: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_job(text: str) -> Job:
    """Raises JobError where it cannot be read."""
    try:
        job = Job(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise JobError("unreadable-job", f"the job cannot be read: {error}") from None
    if job.quant not in ("nf4", "fp4", "int8") or job.shard_bytes <= 0:
        raise JobError("unreadable-job", f"the job cannot be done: quant {job.quant}, shards of {job.shard_bytes}")
    return job


class Reporter:
    """Writes events to the original standard output."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.told = 0.0

    def send(self, event: str, **fields: Any) -> None:
        self.stream.write(json.dumps({"event": event, **fields}, allow_nan=False) + "\n")
        self.stream.flush()

    def progress(self, **fields: Any) -> None:
        """At most ten a second."""
        now = time.monotonic()
        if now - self.told >= 0.1:
            self.told = now
            self.send("progress", **fields)

    def warn(self, code: str, text: str) -> None:
        self.send("warning", code=code, text=text)


def private_stdout() -> TextIO:
    """Keep standard output for the protocol: what libraries print, also from C, goes to standard error instead."""
    sys.stdout.flush()
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream
