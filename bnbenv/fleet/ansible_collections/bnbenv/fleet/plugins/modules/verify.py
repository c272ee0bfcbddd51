#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Whether the kernels of an environment compute what they should, by ``bnbenv verify``."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: verify
short_description: Run real kernels in an environment of a host
description:
  - Runs the kernels of torch and bitsandbytes on each GPU, or on the CPU where there is none, and compares the results
    with references. The task fails where a result is wrong or a kernel died.
  - Nothing is changed. It takes seconds to minutes and uses the GPUs, in check mode, too.
version_added: 0.1.0
extends_documentation_fragment:
  - bnbenv.fleet.bnbenv
options:
  env:
    description: The environment.
    type: str
    default: bnb
  devices:
    description: V(cpu), or indices or UUIDs of GPUs. By default those that the environment was made for.
    type: list
    elements: str
    default: []
  timeout:
    description: The time limit for each device in seconds. By default the one of bnbenv.
    type: float
attributes:
  check_mode:
    description: Nothing is changed in any mode, and the kernels are run in any.
    support: full
  diff_mode:
    description: There is nothing to show, since nothing is changed.
    support: none
"""

EXAMPLES = r"""
- name: Run the kernels on each GPU
  bnbenv.fleet.verify:
    project: /srv/train

- name: Run those of another environment on one GPU
  bnbenv.fleet.verify:
    project: /srv/train
    env: gptq
    devices: ["0"]
    timeout: 600
"""

RETURN = r"""
ok:
  description: Whether every result is right. The task fails where it is not.
  returned: when the kernels ran
  type: bool
  sample: true
devices:
  description: For each device its steps, with the error that was measured, the threshold, and the seconds.
  returned: when the kernels ran
  type: list
  elements: dict
  sample:
    - device: "0"
      name: NVIDIA H200
      ok: true
      died: null
      steps:
        - {name: "nf4 quantize, 64", ok: true, error: 0.0727, threshold: 0.08, seconds: 0.01}
warnings_of_verification:
  description: What else was noticed.
  returned: when the kernels ran
  type: list
  elements: str
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bnbenv.fleet.plugins.module_utils.bnbenv import COMMON, ask, fail, fail_with_error

OPTIONS = dict(
    COMMON,
    env={"type": "str", "default": "bnb"},
    devices={"type": "list", "elements": "str", "default": []},
    timeout={"type": "float"},
)


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    words = ["verify", "--env", module.params["env"]]
    for device in module.params["devices"]:
        words += ["--device", device]
    if module.params["timeout"] is not None:
        words += ["--timeout", str(module.params["timeout"])]
    code, document = ask(module, words, "bnbenv.verify/1")
    if "error" in document:
        fail_with_error(module, code, document)
    found = {"ok": document.get("ok"), "devices": document.get("devices")}
    found["warnings_of_verification"] = document.get("warnings")
    if not found["ok"]:
        step = f"See all steps there: bnbenv verify --project {module.params['project']}"
        fail(module, "verify-failed", f"verification failed: {wrong(found['devices'] or [])}", step, rc=code, **found)
    module.exit_json(changed=False, **found)


def wrong(devices):
    """What went wrong, as words: by device the first steps that failed, or how its process ended."""
    said = []
    for device in devices:
        if device.get("ok"):
            continue
        failed = [step for step in device.get("steps") or [] if not step.get("ok") and not step.get("skipped")]
        words = [
            " ".join(str(part) for part in (step.get("name"), _brackets(step.get("message"))) if part)
            for step in failed[:3]
        ]
        if len(failed) > 3:
            words.append(f"and {len(failed) - 3} more")
        died = device.get("died")
        if died:
            ended = died.get("signal") or f"exit code {died.get('exit_code')}"
            how = "ran out of time" if died.get("timed_out") else f"died ({ended})"
            words.append(f"the process {how}" + (f" in {died['step']}" if died.get("step") else ""))
        said.append(f"{device.get('name') or device.get('device')}: {', '.join(words)}")
    return "; ".join(said) or "no device was verified"


def _brackets(text):
    return f"({text.splitlines()[0][:160]})" if text else ""


if __name__ == "__main__":
    main()
