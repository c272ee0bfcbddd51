"""A systemd service and its timer that look, hourly and after each start, whether a project is in sync. Pure.

Formats: systemd.service(5), systemd.timer(5), systemd.exec(5); names as in systemd-escape(1).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bnbenv.export.slurm import LIMIT, Caller

FOLDER = "/etc/systemd/system"

_SERVICE = """\
# Printed by bnbenv {version}. To install: both files into {folder}, then
#   systemctl daemon-reload && systemctl enable --now {name}.timer
# {note}
[Unit]
Description=bnbenv: {what} {title}
{more}
[Service]
Type=oneshot
User={owner}
{variables}ExecStart={words}
{limits}"""

_TIMER = """\
# Printed by bnbenv {version}. It starts {name}.service.
[Unit]
Description=bnbenv: hourly and at boot, {what} {title}

[Timer]
OnBootSec=1min
OnCalendar=hourly
RandomizedDelaySec=5min

[Install]
WantedBy=timers.target
"""


def units(caller: Caller, sync: bool, quoted: Callable[[str], str]) -> dict[str, str]:
    """The texts by file name. ``sync``: it is brought in sync as well; ``quoted`` makes one word of a unit's line.

    Without ``sync`` the service fails where something is not in sync, so it is among ``systemctl --failed``, and its
    reason is in the journal.
    """
    name = f"bnbenv-{'sync' if sync else 'check'}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', caller.root).strip('-.')[-80:]}"
    title = caller.root.replace("%", "%%") if caller.root.isprintable() else repr(caller.root).replace("%", "%%")
    env = ("--env", caller.env) if caller.env else ()
    project = ("--project", caller.root)
    asked = ("sync", *env, *project) if sync else ("check", "--reason", *env, *project)
    what = "bring in sync" if sync else "look whether this is in sync:"
    if sync:
        note = f"What it did is in the journal: journalctl -u {name}; where it could not: systemctl --failed"
        # 8: another bnbenv is at work on it, which will have done it.
        limits = "SuccessExitStatus=8\nNice=10\nIOSchedulingClass=idle\nTimeoutStartSec=5h\n"
        more = "Wants=network-online.target\nAfter=network-online.target remote-fs.target\n"
    else:
        note = f"Where it is not in sync, systemctl --failed lists it; why: journalctl -u {name} (or set OnFailure=)"
        limits = f"TimeoutStartSec={LIMIT}\n"
        more = "After=remote-fs.target\n"
    service = _SERVICE.format(
        version=caller.version,
        folder=FOLDER,
        name=name,
        note=note,
        what=what,
        title=title,
        more=more,
        owner=caller.owner,
        variables="".join(
            f"Environment={quoted(f'{key}={value}')}\n" for key, value in sorted(caller.variables.items())
        ),
        words=" ".join(map(quoted, (*caller.command, *asked))),
        limits=limits,
    )
    timer = _TIMER.format(version=caller.version, name=name, what=what, title=title)
    return {f"{name}.service": service, f"{name}.timer": timer}
