"""``bnbenv fleet host``: everything that a desk asks a host, in one go."""

from __future__ import annotations

import argparse
from typing import Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import facts_of
from bnbenv.envs.check import observe_host
from bnbenv.envs.trust import check_trust
from bnbenv.errors import Exit

SUMMARY = """\
Say what this host is, what the project of a folder has in use here and whether
that is in sync, which processes compute on the GPUs, and whether a reboot is
required. It is what bnbenv fleet asks every host, and what the Ansible module
bnbenv.fleet.facts returns. Nothing is touched; the folder need not be there.

In use is a GPU on which a process computes by NVML, clients of MPS included. A
desktop that only draws does not count."""
EXAMPLE = "bnbenv fleet host --project ~/bnbenv --json"
EXITS = "0 done (whatever the host is), 2 unreadable input, or the project is not to be trusted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has no options of its own."""


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    """The answer as a document. Raises UsageError (not to be trusted), InputError (``BNBENV_FACTS``)."""
    from bnbenv.facts.processes import gpu_processes
    from bnbenv.fleet.host import answer, project_at
    from bnbenv.paths import Sysroot
    from bnbenv.progress import during

    project = project_at(ctx.cwd, ctx.environ, args.project)
    check_trust(project, ctx.environ)
    facts = facts_of(ctx)
    with during(ctx.progress, "looking which processes are on the GPUs"):
        processes = gpu_processes(ctx.environ, Sysroot.from_environment(ctx.environ), ctx.runner, facts)
    host = observe_host(ctx.environ, ctx.runner)
    return Outcome(Exit.DONE, as_document(answer(project, host, facts, processes)))


def as_document(value: Any) -> dict[str, Any]:
    """A value that has a schema, which stands first."""
    import msgspec

    body = msgspec.to_builtins(value)
    return {"schema": body.pop("schema"), **body}
