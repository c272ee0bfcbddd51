"""The two shell scripts behind all hooks. Pure: values in, text out; POSIX sh, as small as they can be.

``hook.sh`` is what package managers call, ``tell.sh`` what shells and desktop sessions call.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

LIMIT = 60  # seconds that what a package manager starts in the background may take

_HOOK = """\
#!/bin/sh
{mark}
# Package managers call it after their work: hook.sh NAME. It ends at once and well, whatever is
# broken, and prints nothing. bnbenv looks in the background, for {limit} seconds at most, whether the
# NVIDIA driver is another one.
[ -x {python} ] && [ -e {package} ] || exit 0
(
    cd / || exit 0
    # Whoever reads what a package manager prints shall not wait for this.
    exec </dev/null >/dev/null 2>&1 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
    trap '' HUP INT
{variables}    limit=
    if command -v timeout; then limit='timeout -k 5 {limit}'; fi
    $limit {command} hook run {user}--event "$1"
) &
exit 0
"""

_TELL = """\
#!/bin/sh
{mark}
# Shows what bnbenv noted for this user, once: tell.sh terminal (a line) or desktop (a notification).
exec 3>&2 2>/dev/null
box={boxes}/$(id -u) || exit 0
boot=unknown
read -r boot </proc/sys/kernel/random/boot_id
{look}[ -r "$box/message" ] || exit 0
{{ read -r event && read -r since && read -r now && read -r later; }} <"$box/message" || exit 0
if [ "$boot" = "$since" ] || [ "$now" = "$later" ]; then text=$now when=now; else text=$later when=later; fi
[ -n "$text" ] || exit 0
# Of several shells that start at once, one makes this file.
told=$box/told-$event-$when
(set -C && : >"$told") || exit 0
case ${{1-}} in
desktop)
    busctl --user --timeout=5 -- call org.freedesktop.Notifications /org/freedesktop/Notifications \\
        org.freedesktop.Notifications Notify 'susssasa{{sv}}i' bnbenv 0 '' bnbenv "$text" 0 0 -1 >/dev/null ||
        notify-send -a bnbenv bnbenv "$text" || rm -f "$told"
    ;;
*) printf 'bnbenv: %s\\n' "$text" >&3 ;;
esac
exit 0
"""

# For users whose package manager says nothing to bnbenv: libraries that were installed renew the linker's cache.
_LOOK = """\
seen=
read -r seen <"$box/seen"
# No shell that is /bin/sh anywhere lacks -nt.
# shellcheck disable=SC3013
if [ "$seen" != "$boot" ] || [ /etc/ld.so.cache -nt "$box/seen" ]; then
    (printf '%s\\n' "$boot" >"$box/seen") && /bin/sh {hook} login
fi
"""


def hook_script(mark: str, command: tuple[str, ...], package: str, variables: Mapping[str, str], user: bool) -> str:
    """What package managers call. ``variables`` are set for bnbenv, whose ``package`` has to be there."""
    lines = "".join(f"    {name}={shlex.quote(value)}; export {name}\n" for name, value in sorted(variables.items()))
    return _HOOK.format(
        mark=mark,
        limit=LIMIT,
        python=shlex.quote(command[0]),
        package=shlex.quote(package),
        command=shlex.join(command),
        variables=lines,
        user="--user " if user else "",
    )


def tell_script(mark: str, boxes: Path, hook: Path | None) -> str:
    """What shows a message. With ``hook`` it also has that script look, after each start of the machine and whenever
    libraries were installed.
    """
    look = "" if hook is None else _LOOK.format(hook=shlex.quote(str(hook)))
    return _TELL.format(mark=mark, boxes=shlex.quote(str(boxes)), look=look)
