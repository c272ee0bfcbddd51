# SPDX-License-Identifier: Apache-2.0
"""What ``bnbenv fleet`` reads while a playbook runs: one JSON object a line, appended to a file."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: desk
type: stdout
short_description: Tells bnbenv fleet what becomes of each host
description:
  - Writes one JSON object a line into a file while a playbook runs, and prints nothing.
  - C(bnbenv fleet) uses it; there is no need to name it anywhere.
version_added: 0.1.0
author:
  - The authors of bnbenv (@bnbenv)
options:
  events:
    description: The file to append to. Without one nothing is written.
    type: path
    env:
      - name: BNBENV_DESK_EVENTS
  largest:
    description: A result whose JSON is longer than this many characters is left out, and said to be too large.
    type: int
    default: 4194304
    env:
      - name: BNBENV_DESK_LARGEST
"""

import json

from ansible.plugins.callback import CallbackBase
from ansible.release import __version__

# Of a result, what the desk reads. The rest, such as what ansible_facts repeats, stays here.
KEPT = (
    *("answer", "applied", "changed", "reason", "because", "next_step", "code", "censored"),
    *("msg", "module_stderr", "module_stdout", "stderr", "rc", "skip_reason"),
)


def _native(value):
    """What JSON does not know, as text: types of Ansible's own are subclasses of text, numbers, lists and mappings."""
    return str(value)


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "bnbenv.fleet.desk"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._file = None
        self._largest = 0

    def v2_playbook_on_start(self, playbook):
        path = self.get_option("events")
        self._largest = self.get_option("largest")
        self._file = open(path, "a", encoding="utf-8", errors="backslashreplace") if path else None  # noqa: SIM115
        self._tell("start", ansible=__version__)

    def v2_runner_on_start(self, host, task):
        self._tell("began", host=host.get_name(), task=task.name)

    def v2_runner_on_ok(self, result):
        self._result("ok", result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._result("failed" if not ignore_errors else "ignored", result)

    def v2_runner_on_unreachable(self, result):
        self._result("unreachable", result)

    def v2_runner_on_skipped(self, result):
        self._result("skipped", result)

    def v2_playbook_on_stats(self, stats):
        self._tell("end", hosts={host: stats.summarize(host) for host in stats.processed})

    def _result(self, event, result):
        # Through ansible-core 2.18 these are private names only.
        host = getattr(result, "host", None) or result._host
        task = getattr(result, "task", None) or result._task
        found = getattr(result, "result", None) or result._result
        kept = {key: found[key] for key in KEPT if key in found}
        self._tell(event, host=host.get_name(), task=task.name, result=kept)

    def _tell(self, event, **more):
        if self._file is None:
            return
        try:
            line = json.dumps({"event": event, **more}, default=_native, allow_nan=False)
        except (ValueError, RecursionError) as error:  # a host may say that, whatever its modules are
            more["result"] = {"reason": "bad-answer", "because": f"its answer is no JSON document ({error})"}
            event = "failed"
            line = json.dumps({"event": event, **more})
        if event != "end" and len(line) > self._largest:
            more["result"] = {}
            line = json.dumps({"event": event, **more, "too_large": len(line)})
        self._file.write(line + "\n")
        self._file.flush()
