"""The files of each kind of hook, exactly as they are written. Pure.

Formats: apt.conf(5); dnf-post-transaction-actions(8) of dnf 4 and libdnf5-actions(8) of dnf 5; alpm-hooks(5); libzypp's
"Commit plugin" page (its messages are STOMP frames, each of which has to be acknowledged); systemd.unit(5),
systemd.service(5), systemd.path(5).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from bnbenv.hooks.place import SERVICE, Place
from bnbenv.hooks.scripts import hook_script, tell_script

PACKAGE_MANAGERS = ("apt", "dnf", "pacman", "zypper")
KINDS = (*PACKAGE_MANAGERS, "systemd", "profile")
USER_KINDS = ("systemd", "profile")
BASE = "scripts"  # what all kinds need

_TELL = "bnbenv-tell"
PLUGIN = "/usr/lib/zypp/plugins/commit/bnbenv"
OPENING, CLOSING = "# >>> bnbenv hook", "# <<< bnbenv hook"


class OwnFile(NamedTuple):
    """A file of a hook: its text, or where it leads to if it is a link, or a block in a file of the user's.

    ``after`` is a folder without which the file is not written: that of a program which may not be there.
    """

    path: Path
    text: str = ""
    mode: int = 0o644
    link: str | None = None
    block: bool = False
    after: Path | None = None


class Caller(NamedTuple):
    """How hooks call bnbenv: the words, and the variables that have to be set. ``version`` is bnbenv's.

    ``package`` is a file that is there as long as bnbenv is.
    """

    command: tuple[str, ...]
    variables: Mapping[str, str]
    version: str
    package: str


def files_of(
    kind: str, place: Place, caller: Caller, uids: Iterable[int], shells: Iterable[Path] = ()
) -> list[OwnFile]:
    """The files of a kind, in the order in which they are written.

    ``uids`` are the owners of the projects, ``shells`` the files of the user's in which a block is put.
    """
    if kind == BASE:
        return _base(place, caller)
    if kind == "systemd":
        return _systemd(place, caller, sorted(set(uids)))
    if kind == "profile":
        return _profile(place, caller, shells)
    return {"apt": _apt, "dnf": _dnf, "pacman": _pacman, "zypper": _zypper}[kind](place, caller)


def mark(kind: str, place: Place, caller: Caller, sign: str = "#") -> str:
    """The line that says whose a file is, and how to remove it. ``is_ours`` knows it again."""
    words = "" if kind == BASE else f" {kind}"
    return f"{sign} Written by bnbenv {caller.version} (hook). To remove it: bnbenv hook uninstall{_user(place)}{words}"


def is_ours(text: str) -> bool:
    """Whether a file's text is of a hook that some bnbenv wrote."""
    return any("Written by bnbenv" in line and "(hook)" in line for line in text.splitlines()[:3])


def _user(place: Place) -> str:
    return " --user" if place.user else ""


def _base(place: Place, caller: Caller) -> list[OwnFile]:
    line = mark(BASE, place, caller)
    hook = hook_script(line, caller.command, caller.package, caller.variables, place.user)
    tell = tell_script(line, place.boxes, place.hook_script if place.user else None)
    return [OwnFile(place.hook_script, hook), OwnFile(place.tell_script, tell)]


def _call(place: Place, kind: str) -> str:
    """What a package manager has a shell do: it ends well, and where the script was taken away nothing is said."""
    return f"if [ -r {place.hook_script} ]; then /bin/sh {place.hook_script} {kind} || :; fi"


def _apt(place: Place, caller: Caller) -> list[OwnFile]:
    text = f"""\
{mark("apt", place, caller, "//")}
// bnbenv then looks, in the background, whether the NVIDIA driver is another one.
DPkg::Post-Invoke {{ "{_call(place, "apt")}"; }};
"""
    return [OwnFile(place.system_path("/etc/apt/apt.conf.d/99bnbenv"), text)]


def _dnf(place: Place, caller: Caller) -> list[OwnFile]:
    line = mark("dnf", place, caller)
    call = _call(place, "dnf")
    word = call.replace(" ", "\\ ")  # dnf 5 starts no shell by itself, and knows no quotes
    five = f"""\
{line}
# dnf 5, with its plugin: dnf install libdnf5-plugin-actions
post_transaction::::/bin/sh -c {word}
"""
    plugin = "python3-dnf-plugin-post-transaction-actions"
    filters = "\n".join(f"{name}:any:{call}" for name in ("*nvidia*", "*cuda*", "kmod-*"))
    four = f"{line}\n# dnf 4, with its plugin: dnf install {plugin}\n{filters}\n"
    return [
        OwnFile(place.system_path("/etc/dnf/libdnf5-plugins/actions.d/bnbenv.actions"), five),
        OwnFile(place.system_path("/etc/dnf/plugins/post-transaction-actions.d/bnbenv.action"), four),
    ]


def _pacman(place: Place, caller: Caller) -> list[OwnFile]:
    text = f"""\
{mark("pacman", place, caller)}
[Trigger]
Operation = Install
Operation = Upgrade
Operation = Remove
Type = Package
Target = nvidia*
Target = lib32-nvidia*
Target = cuda*

[Action]
Description = Telling bnbenv that the NVIDIA driver may be another one...
When = PostTransaction
Exec = /bin/sh -c "{_call(place, "pacman")}"
"""
    return [OwnFile(place.system_path("/etc/pacman.d/hooks/bnbenv.hook"), text)]


def _zypper(place: Place, caller: Caller) -> list[OwnFile]:
    # A frame is a command, headers, an empty line and a body, ended by NUL; the next command may follow the NUL on the
    # same line, as read drops it.
    text = f"""\
#!/bin/sh
{mark("zypper", place, caller)}
# A commit plugin of libzypp: it acknowledges each message, and tells bnbenv when all is done.
while IFS= read -r line; do
    case $line in
    *PLUGINBEGIN | *COMMITBEGIN | *COMMITEND | *PLUGINEND | *_DISCONNECT) printf 'ACK\\n\\n\\000' ;;
    *) continue ;;
    esac
    case $line in *_DISCONNECT) break ;; esac
done
{_call(place, "zypper")}
exit 0
"""
    return [OwnFile(place.system_path(PLUGIN), text, 0o755)]


def _profile(place: Place, caller: Caller, shells: Iterable[Path]) -> list[OwnFile]:
    script = shlex.quote(str(place.tell_script))
    call = f"case $- in *i*) if [ -r {script} ]; then /bin/sh {script} terminal || :; fi ;; esac\n"
    line = mark("profile", place, caller)
    quoted = "'" + str(place.tell_script).replace("\\", "\\\\").replace("'", "\\'") + "'"
    fish = f"{line}\nif status is-interactive; and test -r {quoted}\n    /bin/sh {quoted} terminal\nend\n"
    folder = place.config / "fish" if place.user else place.system_path("/etc/fish")
    own = OwnFile(folder / "conf.d/bnbenv.fish", fish, after=folder)
    if not place.user:
        return [OwnFile(place.system_path("/etc/profile.d/bnbenv.sh"), f"{line}\n{call}"), own]
    block = f"{OPENING} >>>\n{line}\n{call}{CLOSING} <<<\n"
    return [*(OwnFile(path, block, block=True) for path in shells), own]


def systemd_word(word: str) -> str:
    """A word of a unit's command line: quoted, and with no specifiers in it."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"'


def _systemd(place: Place, caller: Caller, uids: list[int]) -> list[OwnFile]:
    folder = place.config / "systemd/user" if place.user else place.system_path("/etc/systemd/system")
    sync = _sync_unit(place, caller)
    if place.user:
        files = [
            OwnFile(folder / f"{SERVICE}.service", sync),
            OwnFile(folder / f"default.target.wants/{SERVICE}.service", link=f"../{SERVICE}.service"),
        ]
        sessions = folder
    else:
        wants = folder / "multi-user.target.wants"
        files = [OwnFile(folder / f"{SERVICE}@.service", sync)]
        files += [OwnFile(wants / f"{SERVICE}@{uid}.service", link=f"../{SERVICE}@.service") for uid in uids]
        sessions = place.system_path("/etc/systemd/user")
    for name, text in _tell_units(place, caller).items():
        files.append(OwnFile(sessions / name, text))
        files.append(OwnFile(sessions / "graphical-session.target.wants" / name, link=f"../{name}"))
    return files


def _sync_unit(place: Place, caller: Caller) -> str:
    words = " ".join(map(systemd_word, caller.command))
    user = "--user " if place.user else ""
    variables = "".join(f"Environment={systemd_word(f'{k}={v}')}\n" for k, v in sorted(caller.variables.items()))
    who = "" if place.user else " of user %i"
    # It runs once, and nothing waits for its end (which "oneshot" would have the boot do: a sync may take an hour).
    # Without the default dependencies the target that wants it does not even wait for its beginning.
    head = (
        ""
        if place.user
        else (
            "DefaultDependencies=no\nRequires=sysinit.target\nWants=network-online.target\n"
            "After=sysinit.target basic.target remote-fs.target network-online.target nss-user-lookup.target"
            " nvidia-persistenced.service\nConflicts=shutdown.target\nBefore=shutdown.target\n"
        )
    )
    return f"""\
{mark("systemd", place, caller)}
[Unit]
Description=bnbenv: bring the environments{who} in line with this machine
ConditionFileIsExecutable={caller.command[0].replace("%", "%%")}
ConditionPathExists={caller.package.replace("%", "%%")}
{head}
[Service]
Type=simple
{"" if place.user else "User=%i" + chr(10)}{variables}Nice=10
IOSchedulingClass=idle
RuntimeMaxSec=5h
ExecStart={words} hook run {user}--event boot

[Install]
WantedBy={"default" if place.user else "multi-user"}.target
"""


def _tell_units(place: Place, caller: Caller) -> dict[str, str]:
    """For desktop sessions: at their start, and whenever there is a message, it is shown."""
    line, script = mark("systemd", place, caller), str(place.tell_script).replace("%", "%%")
    boxes = str(place.boxes).replace("%", "%%")
    install = "\n[Install]\nWantedBy=graphical-session.target\n"
    unit = f"ConditionPathExists={script}\nPartOf=graphical-session.target\nAfter=graphical-session.target\n"
    return {
        f"{_TELL}.service": f"{line}\n[Unit]\nDescription=bnbenv: tell what was noted of the NVIDIA driver\n{unit}\n"
        f"[Service]\nType=oneshot\nExecStart=/bin/sh {systemd_word(str(place.tell_script))} desktop\n{install}",
        f"{_TELL}.path": f"{line}\n[Unit]\nDescription=bnbenv: wait for what is noted of the NVIDIA driver\n{unit}\n"
        f"[Path]\nPathChanged={boxes}/%U/message\n{install}",
    }
