# SPDX-License-Identifier: Apache-2.0
"""What the documentation of all modules has in common."""

from __future__ import annotations


class ModuleDocFragment:
    """Options and requirements that every module of this collection has."""

    DOCUMENTATION = r"""
options:
  project:
    description:
      - The folder of the project on the host, the one with C(bnbenv.toml).
    type: path
    default: ~/bnbenv
  executable:
    description:
      - The path of C(bnbenv) on the host.
      - By default it is searched for on the E(PATH), then in C(~/.local/bin), C(~/.local/share/bnbenv/tool/bin),
        C(/usr/local/bin) and C(/opt/bnbenv/bin).
    type: path
requirements:
  - bnbenv on the host; the role P(bnbenv.fleet.bootstrap#role) installs it
author:
  - The authors of bnbenv (@bnbenv)
notes:
  - A failed task has a C(reason) that does not change between releases. V(no-bnbenv) means that the host has no bnbenv
    that starts, V(bad-answer) that this collection cannot read what it answers, V(failed) that bnbenv ended with an
    error, whose C(code) is returned, too.
"""
