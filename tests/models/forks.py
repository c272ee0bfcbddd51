"""Run by the Python of an environment: imports the libraries once, and runs each program in a fork of itself.

Importing them takes longer than most of what the tests do with them. A job is one JSON object a line on standard input:
``argv`` (a file and its words, or ``-c`` and code), ``env`` (changes) and ``folder``, with the program's ``stdin``; its
``stdout`` and ``stderr`` are left there. The answer is its exit code, negative for a signal. Nothing computes in the
parent: the threads of a calculation would not live on in a fork.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401
import bitsandbytes  # noqa: F401
import peft  # noqa: F401
import safetensors.torch  # noqa: F401
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaForCausalLM  # noqa: F401


def become(job: dict[str, Any]) -> None:
    """In the fork: standard streams are those files, and the interpreter is as one that begins."""
    folder = Path(job["folder"])
    files = (
        (0, "stdin", os.O_RDONLY),
        (1, "stdout", os.O_WRONLY | os.O_CREAT),
        (2, "stderr", os.O_WRONLY | os.O_CREAT),
    )
    for number, name, flags in files:
        os.dup2(os.open(folder / name, flags), number)
    os.environ.update(job["env"])
    sys.argv = job["argv"]


def program(argv: list[str]) -> int:
    try:
        if argv[0] == "-c":
            sys.argv = ["-c", *argv[2:]]
            exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.path[0] = str(Path(argv[0]).parent)
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run(job: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            become(job)
            code = program(job["argv"])
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    limit = threading.Timer(job["seconds"], os.kill, (child, signal.SIGKILL))
    limit.start()
    status = os.waitpid(child, 0)[1]
    limit.cancel()
    limit.join()  # no thread beside this one when the next fork is made
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    jobs, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    gc.freeze()  # collecting in a fork would copy all that was imported
    for line in jobs:
        answers.write(f"{run(json.loads(line))}\n")
        answers.flush()
