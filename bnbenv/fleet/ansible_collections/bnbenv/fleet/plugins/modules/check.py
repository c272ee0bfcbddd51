#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Whether the environments of a host are in sync, by ``bnbenv check``."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: check
short_description: Whether the environments of a host are in sync
description:
  - Says in milliseconds whether the environments of a project still fit the driver, the GPUs, C(bnbenv.toml) and the
    lock, and whether packages were changed behind the back of bnbenv.
  - Nothing is changed, and a host that is not in sync is no failure. Use C(failed_when) to make it one.
version_added: 0.1.0
extends_documentation_fragment:
  - bnbenv.fleet.bnbenv
options:
  env:
    description: The environment. By default all of the project.
    type: str
attributes:
  check_mode:
    description: Nothing is changed in any mode.
    support: full
  diff_mode:
    description: There is nothing to show, since nothing is changed.
    support: none
"""

EXAMPLES = r"""
- name: Look whether the host is in sync
  bnbenv.fleet.check:
    project: /srv/train
  register: checked

- name: Fail where it is not, and say why
  ansible.builtin.assert:
    that: checked.in_sync
    fail_msg: "{{ checked.reasons | map(attribute='because') | join('; ') }}"
"""

RETURN = r"""
in_sync:
  description: Whether all environments are in sync. False where a reboot is required.
  returned: success
  type: bool
  sample: false
reboot_required:
  description: Whether the kernel module and the library of the driver differ, so that no GPU works until a reboot.
  returned: success
  type: bool
  sample: false
reasons:
  description: Why not. An C(env) is empty where the reason is about the host.
  returned: success
  type: list
  elements: dict
  sample:
    - env: bnb
      code: driver-changed
      because: the driver is 590.10 and was 580.65.06
environments:
  description: The environments that were looked at. Empty where a reboot is required, and where the folder is missing.
  returned: success
  type: list
  elements: str
  sample: [bnb]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bnbenv.fleet.plugins.module_utils.bnbenv import COMMON, ask, fail_with_error


def main():
    module = AnsibleModule(argument_spec=dict(COMMON, env={"type": "str"}), supports_check_mode=True)
    env = module.params["env"]
    code, document = ask(module, ["check", *(["--env", env] if env else [])], "bnbenv.check/1")
    if "error" not in document:
        found = {name: document.get(name) for name in ("in_sync", "reasons", "environments")}
        module.exit_json(changed=False, reboot_required=False, **found)
    error = document["error"]
    if code != 6 and error.get("code") != "no-project":  # a host that has nothing yet is not in sync
        fail_with_error(module, code, document)
    reason = {"env": "", "code": error.get("code"), "because": error.get("message")}
    module.exit_json(changed=False, in_sync=False, reboot_required=code == 6, reasons=[reason], environments=[])


if __name__ == "__main__":
    main()
