# SPDX-License-Identifier: Apache-2.0
"""How the modules call the host's bnbenv: they import nothing of it, run its commands and read their documents.

What a module fails with has a ``reason`` that stays the same: ``no-bnbenv`` (none is here, or it does not start),
``bad-answer`` (what it says is not what this collection reads), ``failed`` (an error of bnbenv, with its ``code``), or
a state of an ``applied`` document.
"""

from __future__ import annotations

import json
import math
import os
import shutil

PLACES = ("~/.local/bin", "~/.local/share/bnbenv/tool/bin", "/usr/local/bin", "/opt/bnbenv/bin")
LONGEST = 16 * 1024 * 1024  # characters of an answer
DEEPEST = 50  # levels of lists and objects in an answer; those of bnbenv have seven
INSTALL = "Install it there with the role bnbenv.fleet.bootstrap."
UPDATE = "Install the bnbenv of this collection there with the role bnbenv.fleet.bootstrap."

# What every module takes.
COMMON = {
    "project": {"type": "path", "default": "~/bnbenv"},
    "executable": {"type": "path"},
}


def find_executable(named, search_path=None):
    """The path of bnbenv: the one that is named, else on the search path, else where it is installed; None: nowhere."""
    if named:
        return named if os.path.isfile(named) and os.access(named, os.X_OK) else None
    found = shutil.which("bnbenv", path=search_path)
    if found:
        return found
    for place in PLACES:
        path = os.path.join(os.path.expanduser(place), "bnbenv")
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def fail(module, reason, because, next_step="", **more):
    """End the module as failed: ``msg`` is for people, the rest for programs."""
    because, next_step = str(because), str(next_step)  # they may come from a document
    message = " ".join(part for part in (_sentence(because), next_step) if part)
    module.fail_json(msg=message, reason=reason, because=because, next_step=next_step, **more)


def _sentence(text):
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else text + "."


def ask(module, words, schema):
    """Run ``bnbenv WORDS --json`` for the project of the module; returns its exit code and its document.

    ``schema`` is the one expected, such as ``bnbenv.check/1``. A document of an error is given back, too: it has
    ``error``. Whatever else comes ends the module: no bnbenv, no JSON, another schema.
    """
    named = module.params["executable"]
    executable = find_executable(named)
    if executable is None:
        searched = named or "PATH, " + ", ".join(PLACES)
        fail(module, "no-bnbenv", f"no bnbenv is on this host (searched: {searched})", INSTALL)
    command = [executable, *words, "--project", module.params["project"], "--json"]
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a connection may have a terminal
        code, out, err = module.run_command(
            command, environ_update={"PYTHONIOENCODING": "utf-8"}, handle_exceptions=False, errors="replace"
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        fail(module, "no-bnbenv", f"{executable} does not start ({why.lower()})", INSTALL)
    return code, read(module, " ".join(["bnbenv", *words[:2]]), code, out, err, schema)


def read(module, called, code, out, err, schema):
    """The document that a command printed. ``called`` names the command. Ends the module where it is none."""
    try:
        document = json.loads(out) if len(out) <= LONGEST else None
        _check(document)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        if code == 127 or "ModuleNotFoundError" in err:
            fail(module, "no-bnbenv", f"bnbenv is on this host and does not start ({_last(err, code)})", INSTALL)
        said = f"what {called} printed is no JSON document ({_last(err, code)})"
        fail(module, "bad-answer", said, UPDATE)
    error = document.get("error")
    if "error" in document and not _is_error(error):
        fail(module, "bad-answer", f"what {called} printed is no error of bnbenv ({_last(err, code)})", UPDATE)
    strange = ("unknown-command", "usage") if called.startswith("bnbenv fleet") else ("unknown-command",)
    if isinstance(error, dict) and error.get("code") in strange:
        said = f"the bnbenv of this host does not know what it is asked ({error.get('message')})"
        fail(module, "bad-answer", said, UPDATE)
    if "error" not in document and document.get("schema") != schema:
        found = str(document.get("schema"))[:60]
        fail(module, "bad-answer", f'expected a document "{schema}" of {called}, found "{found}"', UPDATE)
    return document


def _check(value, levels=DEEPEST):
    """Raises ValueError for what Ansible cannot carry: halves of signs, NaN, infinity, lists in lists without end."""
    if not levels:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("no number")
    elif isinstance(value, (dict, list)):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            _check(inner, levels - 1)


def _is_error(error):
    """Whether a document's error has the fields of one, all of them text."""
    fields = ("code", "message", "next_step", "detail")
    return isinstance(error, dict) and all(isinstance(error.get(name) or "", str) for name in fields)


def _last(err, code):
    lines = [line for line in err.splitlines() if line.strip()]
    return (lines[-1].strip()[:200] + ", " if lines else "") + f"exit code {code}"


def fail_with_error(module, code, document):
    """End the module with the error that a command of bnbenv printed as its document."""
    error = document["error"]
    said = error.get("message") or "bnbenv failed"
    more = {"code": error.get("code"), "detail": error.get("detail") or "", "rc": code}
    fail(module, "failed", said, error.get("next_step") or "", **more)
