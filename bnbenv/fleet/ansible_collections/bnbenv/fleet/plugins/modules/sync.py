#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Bring the environments of a host to their locks, by ``bnbenv fleet apply``."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: sync
short_description: Bring the environments of a host to what they should be
description:
  - Installs what the lock or the bundle holds beside the environment in use, runs its kernels, and only then switches
    to it. Whatever fails, the host has what it had before.
  - With I(bundle) everything comes out of that one file and no network is used. Without, packages come from the indexes
    that the host is set up with.
  - Several environments of a project are switched together or not at all.
version_added: 0.1.0
extends_documentation_fragment:
  - bnbenv.fleet.bnbenv
options:
  bundle:
    description:
      - A file on the host that C(bnbenv bundle) or C(bnbenv fleet) wrote. Its C(bnbenv.toml) becomes that of the
        project.
    type: path
  bundle_sha256:
    description: The sha256 of the bundle. Nothing of a file with another one is used.
    type: str
  keep_bundle:
    description:
      - Whether the bundle stays on the host.
      - With V(false) it is deleted once the host has what is in it, where it does not fit this host, and where its
        sha256 is wrong, so that it can be brought again.
    type: bool
    default: true
  config:
    description: The content of a C(bnbenv.toml), which becomes that of the project.
    type: str
  expect:
    description:
      - By environment the sha256 of the lock that should be in use now, or null for none. Where another one is,
        somebody else was there, and nothing is changed.
    type: dict
  in_use:
    description: What to do where processes are on the GPUs. V(later) leaves the host as it is.
    type: str
    choices: [later, anyway]
    default: later
  left:
    description:
      - Whether the task fails where the host was left as it is, since it is in use, another bnbenv is at work on it,
        somebody else changed it, or a reboot is required.
    type: str
    choices: [fail, ok]
    default: fail
  wait:
    description: How many seconds to wait for another bnbenv at work on the project. By default those of bnbenv.
    type: float
attributes:
  check_mode:
    description: Says whether something would be changed. Where a bundle is not on the host yet, the task is skipped.
    support: full
  diff_mode:
    description: Shows the versions that were in use before and that are in use after.
    support: full
"""

EXAMPLES = r"""
- name: Sync the project on the host, from the indexes that it is set up with
  bnbenv.fleet.sync:
    project: /srv/train

- name: Give the host these wishes, and whatever fits its GPUs
  bnbenv.fleet.sync:
    project: /srv/train
    config: "{{ lookup('ansible.builtin.file', 'bnbenv.toml') }}"

- name: Bring the bundle
  ansible.builtin.copy:
    src: train.tar
    dest: /var/tmp/train.tar
    mode: "0644"

- name: Sync out of the bundle alone, and not where somebody computes
  bnbenv.fleet.sync:
    project: /srv/train
    bundle: /var/tmp/train.tar
    bundle_sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    keep_bundle: false
    in_use: later
    left: ok
"""

RETURN = r"""
applied:
  description:
    - The document of C(bnbenv fleet apply), of the schema C(bnbenv.fleet-apply/1).
    - Its C(state) is C(changed), C(in-sync) or C(would-change), the host was left as it is with C(in-use), C(moved),
      C(busy) or C(reboot), and the task failed with C(verify-failed), C(no-combination) or C(failed).
  returned: unless bnbenv could not be asked
  type: dict
  sample:
    schema: bnbenv.fleet-apply/1
    state: changed
    because: ""
    next_step: ""
    before: []
    environments:
      - env: bnb
        in_sync: true
        generation: 1
        lock: 6f1ed002ab5595859014ebf0951522d9f7c0a8a5f1f5e8b1b4b1b1a1c2d3e4f5
        verified: true
        backend: cuda
        holds: {torch: 2.10.0, bitsandbytes: 0.50.2}
        reasons: []
    rolled_back: []
    seconds: 41.5
reason:
  description: Why the task failed. One of C(no-bnbenv), C(bad-answer), C(failed) and the states above.
  returned: failure
  type: str
  sample: verify-failed
next_step:
  description: What to do about it.
  returned: failure
  type: str
  sample: "See why: bnbenv verify"
"""

import os
import re
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bnbenv.fleet.plugins.module_utils.bnbenv import COMMON, ask, fail, fail_with_error

LEFT = ("in-use", "moved", "busy", "reboot")
DONE = ("changed", "in-sync", "would-change")

OPTIONS = dict(
    COMMON,
    bundle={"type": "path"},
    bundle_sha256={"type": "str"},
    keep_bundle={"type": "bool", "default": True},
    config={"type": "str"},
    expect={"type": "dict"},
    in_use={"type": "str", "choices": ["later", "anyway"], "default": "later"},
    left={"type": "str", "choices": ["fail", "ok"], "default": "fail"},
    wait={"type": "float"},
)


def main():
    module = AnsibleModule(
        argument_spec=OPTIONS,
        supports_check_mode=True,
        mutually_exclusive=[("bundle", "config")],
        required_together=[("bundle", "bundle_sha256")],
    )
    bundle = module.params["bundle"]
    if bundle and not re.fullmatch("[0-9a-fA-F]{64}", module.params["bundle_sha256"]):
        fail(module, "failed", "bundle_sha256: expected 64 hexadecimal digits", "sha256sum prints them.")
    if bundle and module.check_mode and not os.path.exists(bundle):
        module.exit_json(changed=False, skipped=True, msg=f"{bundle} is not on this host yet, so nothing is compared")
    code, document = ask(module, words_for(module), "bnbenv.fleet-apply/1")
    if "error" in document:
        fail_with_error(module, code, document)
    state = document.get("state")
    if bundle and not module.params["keep_bundle"] and not module.check_mode:
        forget(module, bundle, state)
    found = {"applied": document, "changed": state in ("changed", "would-change")}
    if module._diff:
        after = shown(document.get("environments"))
        if state == "would-change":
            after += f"would change: {document.get('because')}\n"
        found["diff"] = {"before": shown(document.get("before")), "after": after}
    if state in DONE or (state in LEFT and module.params["left"] == "ok"):
        module.exit_json(**found)
    fail(module, state, document.get("because") or f"it ended as {state}", document.get("next_step") or "", **found)


def words_for(module):
    """The words of the command for the options of the module."""
    given = module.params
    words = ["fleet", "apply", "--in-use", given["in_use"]]
    if given["bundle"]:
        words += ["--bundle", given["bundle"], "--bundle-sha256", given["bundle_sha256"].lower()]
    if given["config"] is not None:
        handle, path = tempfile.mkstemp(prefix="bnbenv-", suffix=".toml", dir=module.tmpdir)
        module.add_cleanup_file(path)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(given["config"])
        words += ["--config", path]
    if given["expect"] is not None:
        words += ["--expect", module.jsonify(given["expect"])]
    if given["wait"] is not None:
        words += ["--wait", str(given["wait"])]
    return words + (["--check"] if module.check_mode else [])


def forget(module, bundle, state):
    """Delete a bundle that is used up, of no use here, or not what it should be."""
    used = state in ("changed", "in-sync", "no-combination")
    try:
        if used or (state == "failed" and module.sha256(bundle) != module.params["bundle_sha256"].lower()):
            os.unlink(bundle)
    except OSError as error:
        module.warn(f"{bundle} could not be deleted ({error.strerror})")


def shown(environments):
    """The environments as lines, for a diff."""
    lines = []
    for one in environments or []:
        name = one.get("env")
        holds = one.get("holds") or {}
        lines += [f"{name}: {package} {holds[package]}" for package in sorted(holds)]
        lines.append(f"{name}: generation {one.get('generation')}, lock {(one.get('lock') or 'none')[:12]}")
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
