#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What a host is and has, by ``bnbenv fleet host``."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: facts
short_description: What a host is, which environments it has, and who uses its GPUs
description:
  - Asks bnbenv on the host, in one call, for its driver, GPUs, libc and Pythons, for the environments of a project and
    whether they are in sync, and for the processes on its GPUs.
  - Nothing is changed.
version_added: 0.1.0
extends_documentation_fragment:
  - bnbenv.fleet.bnbenv
options:
  set_fact:
    description:
      - Whether the answer becomes the fact C(bnbenv) of the host, too, which stays in memory for the run, and in a fact
        cache where one is configured.
    type: bool
    default: true
attributes:
  check_mode:
    description: Nothing is changed in any mode.
    support: full
  diff_mode:
    description: There is nothing to show, since nothing is changed.
    support: none
"""

EXAMPLES = r"""
- name: Look at the host
  bnbenv.fleet.facts:
    project: /srv/train
  register: looked

- name: Say which GPUs it has
  ansible.builtin.debug:
    msg: "{{ bnbenv.facts.gpus | map(attribute='name') | list }}"
  vars:
    bnbenv: "{{ ansible_facts.bnbenv }}"

- name: Stop before a job where somebody computes
  ansible.builtin.assert:
    that: looked.answer.processes | length == 0
"""

RETURN = r"""
answer:
  description: The document of C(bnbenv fleet host), of the schema C(bnbenv.fleet-host/1).
  returned: success
  type: dict
  sample:
    schema: bnbenv.fleet-host/1
    bnbenv: 0.1.0
    project: /srv/train
    facts:
      schema: bnbenv.facts/1
      driver: {state: ok, version: 580.65.06, cuda: "13.0"}
      gpus: [{index: 0, name: NVIDIA H200, compute_capability: "9.0", memory_total: 150754820096}]
    environments:
      - env: bnb
        in_sync: true
        generation: 3
        lock: 6f1ed002ab5595859014ebf0951522d9f7c0a8a5f1f5e8b1b4b1b1a1c2d3e4f5
        verified: true
        backend: cuda
        holds: {torch: 2.10.0, bitsandbytes: 0.50.2}
        reasons: []
    processes:
      - {gpu: 0, uuid: GPU-5a1d0c3e, pid: 4242, name: python3, user: ada, memory: 8589934592}
    processes_unknown: ""
    reboot: ""
ansible_facts:
  description: The same document as the fact C(bnbenv) of the host.
  returned: success, if O(set_fact) is true
  type: dict
  contains:
    bnbenv:
      description: See RV(answer).
      returned: success
      type: dict
      sample: {schema: bnbenv.fleet-host/1, bnbenv: 0.1.0, project: /srv/train}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bnbenv.fleet.plugins.module_utils.bnbenv import COMMON, ask, fail_with_error


def main():
    options = dict(COMMON, set_fact={"type": "bool", "default": True})
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    code, document = ask(module, ["fleet", "host"], "bnbenv.fleet-host/1")
    if "error" in document:
        fail_with_error(module, code, document)
    facts = {"ansible_facts": {"bnbenv": document}} if module.params["set_fact"] else {}
    module.exit_json(changed=False, answer=document, **facts)


if __name__ == "__main__":
    main()
