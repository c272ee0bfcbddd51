"""Two programs for the nodes of a Slurm cluster. Pure: values in, POSIX shell out.

What Slurm does with them: slurm.conf(5), "Prolog", "PrologFlags", "HealthCheckProgram" and "PROLOG AND EPILOG SCRIPTS",
and slurm.schedmd.com/prolog_epilog.html (no search path is set; a Prolog that fails has its node drained and its job
requeued, held). How a node is drained with a reason, and resumed only by who drained it, is as in LBNL's Node Health
Check (mej/nhc, helpers/node-mark-offline and node-mark-online).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import NamedTuple

LIMIT = 20  # seconds for bnbenv on a node; Slurm kills a health check after 60

_ASK = """\
node=${{SLURMD_NODENAME:-$(hostname -s)}}
project={project}
owner={owner}
mark={mark}
PATH=${{PATH:+$PATH:}}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/slurm/bin
export PATH

# bnbenv runs as the project's owner, never as root for another user, and sees nothing of the job's variables.
ask() {{
    set -- env -i "PATH=$PATH" LANG=C.UTF-8 {variables}{command} "$@"
    if [ "$(id -u)" = 0 ] && [ "$owner" != root ]; then
        set -- setpriv --reuid="$(id -u "$owner")" --regid="$(id -g "$owner")" --init-groups "$@"
    fi
    timeout -k 5 {limit} "$@" </dev/null 2>/dev/null
}}

said=$(ask check --reason --project "$project"{env})
code=$?
# What a user's project says is a text to show: one line of letters, and not a long one.
said=$(printf '%s\\n' "$said" | head -n 1 | LC_ALL=C tr -cd ' -~' | cut -c 1-160)
case $code in
0) said= ;;
2 | 3 | 6)
    said=${{said:-$mark bnbenv check ends with $code}}
    case $said in "$mark"*) ;; *) said="$mark $said" ;; esac
    ;;
124 | 137) said="$mark bnbenv check did not answer within {limit} seconds" ;;
*)  # Not the node's fault: bnbenv itself failed. Without bnbenv nobody knows what the node has: that is one.
    if ask --version >/dev/null; then
        logger -t bnbenv -- "$mark bnbenv check ended with $code, the node stays as it is" 2>/dev/null || :
        exit 0
    fi
    said="$mark bnbenv cannot be run on this node"
    ;;
esac

# The state of the node and why it is in it, such as "drained|bnbenv: ..." or "idle|none".
look() {{
    now=$(timeout -k 5 10 sinfo -h -N -n "$node" -o '%T|%E' 2>/dev/null | head -n 1)
    state=${{now%%|*}} reason=${{now#*|}}
}}

# A reason that somebody else gave is left as it is, and so is one that says the same.
drain() {{
    look
    case $reason in
    "$said") return ;;
    "$mark"* | none | '') ;;
    *) case $state in drain* | drng* | down* | fail* | maint*) return ;; esac ;;
    esac
    timeout -k 5 10 scontrol update NodeName="$node" State=DRAIN Reason="$said"
}}
"""

_PROLOG = """\
#!/bin/sh
# Slurm's Prolog: no job starts on a node where the environments of {title}
# are not in sync, or that needs a reboot for its driver. Printed by bnbenv {version}.
#
# Put it on every node, owned by root and executable, such as /etc/slurm/prolog.d/50-bnbenv.sh. In slurm.conf:
#   Prolog=/etc/slurm/prolog.d/*.sh
#   PrologFlags=Alloc                            # when a job gets its nodes, not at its first step
#   SchedulerParameters=nohold_on_prolog_fail    # the job goes back into the queue, and is not held
# If it fails, Slurm drains the node and requeues the job. The reason stands in: sinfo -R
# It takes a tenth of a second; at most {limit} seconds, which any PrologEpilogTimeout has to allow.
# What is locked by another bnbenv is no fault: the environment in use is whole all the time.
# Whoever may change this project can drain nodes: name one that administrators own.
{ask}
[ -n "$said" ] || exit 0
drain
echo "$said" >&2
exit 1
"""

_HEALTH = """\
#!/bin/sh
# Slurm's HealthCheckProgram: drains a node where the environments of {title}
# are not in sync, or that needs a reboot for its driver, and resumes it when they are again. It resumes only what
# it drained itself. Printed by bnbenv {version}.
#
# Put it on every node, owned by root and executable, such as /etc/slurm/bnbenv-health.sh. In slurm.conf:
#   HealthCheckProgram=/etc/slurm/bnbenv-health.sh
#   HealthCheckInterval=300
#   HealthCheckNodeState=ANY,CYCLE    # not on all nodes at once; a drained one has to be looked at too
# Slurm knows one such program: where there is one (LBNL's NHC), have it call this one.
# Running jobs go on. The reason stands in: sinfo -R
# What is locked by another bnbenv is no fault: the environment in use is whole all the time.
# Whoever may change this project can drain nodes: name one that administrators own.
{ask}
if [ -n "$said" ]; then
    drain
    echo "$said"
    exit 1
fi
look
case $state in
*@* | *#* | *~*) ;; # it is about to reboot, or without power: Slurm brings it back
drain* | drng*)
    case $reason in
    "$mark"*) timeout -k 5 10 scontrol update NodeName="$node" State=RESUME ;;
    esac
    ;;
esac
exit 0
"""


class Caller(NamedTuple):
    """How a node asks about a project.

    ``root`` is the project's folder, ``owner`` the user it belongs to, ``env`` the one environment that is meant
    (empty: all), ``mark`` the beginning of each reason, ``command`` the words that are bnbenv, ``variables`` what has
    to be set for it, ``version`` bnbenv's.
    """

    root: str
    owner: str
    env: str
    mark: str
    command: tuple[str, ...]
    variables: Mapping[str, str]
    version: str


def prolog(caller: Caller) -> str:
    """Slurm's ``Prolog``: ends with 1 where the node is to take no job, after draining it with the reason."""
    return _script(_PROLOG, caller)


def health(caller: Caller) -> str:
    """Slurm's ``HealthCheckProgram``: drains the node with a reason, and resumes it if that reason was its own."""
    return _script(_HEALTH, caller)


def _script(template: str, caller: Caller) -> str:
    ask = _ASK.format(
        project=shlex.quote(caller.root),
        owner=shlex.quote(caller.owner),
        mark=shlex.quote(caller.mark),
        variables="".join(f"{shlex.quote(f'{name}={value}')} " for name, value in sorted(caller.variables.items())),
        command=shlex.join(caller.command),
        env=f" --env {shlex.quote(caller.env)}" if caller.env else "",
        limit=LIMIT,
    )
    title = caller.root if caller.root.isprintable() else repr(caller.root)  # in a comment
    return template.format(title=title, version=caller.version, limit=LIMIT, ask=ask)
