# SPDX-License-Identifier: Apache-2.0
"""What ``bnbenv fleet sync`` wants of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: job
short_description: What bnbenv fleet sync wants of the host at hand
description:
  - Reads a file of C(bnbenv fleet) with one JSON object a host.
  - What it gives is data. Ansible does not look for templates in it, although parts of it come from hosts.
  - C(bnbenv fleet) uses it in its own playbooks; other playbooks have no need for it.
version_added: 0.1.0
author:
  - The authors of bnbenv (@bnbenv)
options:
  _terms:
    description: The file.
    type: list
    elements: path
    required: true
"""

EXAMPLES = r"""
- name: Show the bundle that this host gets
  ansible.builtin.debug:
    msg: "{{ lookup('bnbenv.fleet.job', '/run/desk/jobs.json').sha256 }}"
"""

RETURN = r"""
_raw:
  description: The object of the host.
  type: list
  elements: dict
"""

import json

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        host = (variables or {}).get("inventory_hostname")
        found = []
        for term in terms:
            try:
                with open(term, encoding="utf-8") as stream:
                    jobs = json.load(stream)
            except (OSError, ValueError) as error:
                raise AnsibleError(f"the jobs of bnbenv fleet cannot be read ({error})") from error
            if host not in jobs:
                raise AnsibleError(f"bnbenv fleet has no job for {host}")
            found.append(jobs[host])
        return found
