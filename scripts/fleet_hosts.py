#!/usr/bin/env python3
"""Hosts to try a fleet on: Linux machines of their own in all but the kernel, on this one.

usage: .test-env/bin/python scripts/fleet_hosts.py [--hosts 6] [--facts FILE ...] [--folder DIR]

Each host has its own network (an address on a bridge), processes, mounts, name, home and sshd, and sees this machine's
files as they are; what it writes elsewhere than at home is kept in memory and gone with it. It has no other network.
Prints the inventory's path and waits; Ctrl-C takes all down. `BNBENV_FACTS` of the hosts are the recorded FILEs, one a
host. Root on Linux only. The tests use the same (tests/fleet/real).

Everything hangs on one process a host, which ends with the one that started it: after a kill -9 only the bridge is
left, and the next one deletes it.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
HOME = "/home/desk"  # of root on a host
OWN = "/run/fleet"  # sshd's files there
RANGE = ipaddress.ip_network("198.18.0.0/15")  # for tests of networks (RFC 2544): nobody's address
PROGRAMS = ("ip", "sshd", "ssh", "ssh-keygen", "unshare", "nsenter", "setpriv", "mount", "chroot")
PATIENCE = 60.0  # seconds until a host answers
letters = iter("abcdefghijklmnopqrstuvwxy")  # of the fleets of one process

# What a host's first process does. $1: its folder, $2: its name, $3: yes where sshd is to run, $4: a root of its own.
FIRST = """\
set -e
read -r _  # the network is there
mount --make-rprivate /
top="$1/root"
mount -t tmpfs none "$top"
mkdir "$top/upper" "$top/work" "$top/host"
mount -t overlay overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/host"
host="$top/host"
mount -t proc proc "$host/proc"
mount --rbind /sys "$host/sys"
mount --rbind /dev "$host/dev"
for place in tmp run dev/shm; do mount -t tmpfs -o mode=1777 none "$host/$place"; done
for place in $KEPT; do mkdir -p "$host$place"; mount --rbind "$place" "$host$place"; done
mkdir "$host/run/sshd" "$host/run/fleet"; chmod 755 "$host/run" "$host/run/sshd"
mount --bind "$1/sshd" "$host/run/fleet"
if [ -n "$BYTECODE" ]; then mkdir "$host/run/bytecode"; mount --bind "$BYTECODE" "$host/run/bytecode"; fi
if [ -n "$4" ]; then
  mkdir "$top/bare-upper" "$top/bare-work" "$host/run/bare"; bare="$host/run/bare"
  mount -t overlay overlay -o "lowerdir=$4,upperdir=$top/bare-upper,workdir=$top/bare-work" "$bare"
  mount -t proc proc "$bare/proc"; mount --rbind /dev "$bare/dev"; mount -t tmpfs -o mode=1777 none "$bare/tmp"
  mount --bind "$1/home" "$bare/root"
else
  mkdir -p "$host/home/desk"; mount --bind "$1/home" "$host/home/desk"
  sed -i 's|^root:\\(.*\\):[^:]*:\\([^:]*\\)$|root:\\1:/home/desk:\\2|' "$host/etc/passwd"
  mkdir -p "$host/usr/local/bin"; rm -f "$host/usr/local/bin/bnbenv"
  printf '#!/bin/sh\\nexec "%s" -c "%s" "$@"\\n' "$PYTHON" 'from bnbenv.__main__ import main; main()' \
    >"$host/usr/local/bin/bnbenv"
  chmod 755 "$host/usr/local/bin/bnbenv"
fi
hostname "$2"
cd /
exec chroot "$host" /bin/bash -c '
  [ "$1" != yes ] || "$0" -f /run/fleet/sshd_config -E /run/fleet/log
  while :; do sleep 3600 & wait $!; done' "$SSHD" "$3"
"""

SSHD_CONFIG = """\
ListenAddress {address}
HostKey {own}/host_key
PidFile none
AuthorizedKeysFile {own}/authorized_keys
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
PrintMotd no
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class Wanted:
    """A host to make. ``environ`` is what every login there has in its environment. ``root`` is a folder with the
    system that it has instead of this machine's (such as a clean Debian). Without ``sshd`` it is dead to a desk."""

    name: str
    environ: Mapping[str, str] = field(default_factory=dict)
    root: Path | None = None
    sshd: bool = True


@dataclass
class Host:
    """One host. ``home`` is its home as this machine sees it, ``pid`` its first process."""

    name: str
    address: str
    folder: Path
    link: str
    wanted: Wanted
    starter: subprocess.Popen[bytes]
    pid: int = 0

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def __call__(self, *words: str, code: int | None = 0, timeout: float = 120, **environ: str) -> str:
        """Run a command on it without the network, as root; returns what it printed."""
        inside = [f"{name}={value}" for name, value in {**self.environ, **environ}.items()]
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--uts", "--pid", "--root", "--wd"]
        chroot = ["chroot", "/run/bare"] if self.wanted.root is not None else []
        command = [*enter, *chroot, "env", "-i", "-C", self.environ["HOME"], *inside, *words]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        if code is not None and ended.returncode != code:
            raise RuntimeError(f"{self.name}: {' '.join(words)}: exit {ended.returncode}\n{ended.stdout}{ended.stderr}")
        return ended.stdout + ended.stderr

    @property
    def environ(self) -> dict[str, str]:
        home = "/root" if self.wanted.root is not None else HOME
        path = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
        return {"HOME": home, "PATH": path, **self.wanted.environ}

    def plug(self, there: bool) -> None:
        """Pull its network cable out, or put it in again."""
        _done("ip", "link", "set", self.link, "up" if there else "down")

    def slow(self, megabits: int) -> None:
        """Let only so many megabits a second come to it (0: all)."""
        if megabits == 0:
            _done("tc", "qdisc", "del", "dev", self.link, "root")
        else:
            rate = ["rate", f"{megabits}mbit", "burst", "256kb", "latency", "400ms"]
            _done("tc", "qdisc", "replace", "dev", self.link, "root", "tbf", *rate)

    def hang_up(self) -> None:
        """End every login on it; whatever ran there in one loses its terminal and its connection."""
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if b"sshd: root" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """The processes on it, by this machine's numbers."""
        mine = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if os.readlink(entry / "ns" / "pid") == mine:
                        found.append(int(entry.name))
        return found

    def log(self) -> str:
        """What its sshd said."""
        file = self.folder / "sshd" / "log"
        return file.read_text(errors="replace") if file.exists() else ""


@dataclass(frozen=True)
class Fleet:
    """The hosts, by name, and the files of the desk: an inventory with all of them, and the key to log in with."""

    folder: Path
    address: str  # the desk's, as the hosts see it
    hosts: dict[str, Host]

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory.ini"

    @property
    def ssh_options(self) -> tuple[str, ...]:
        known = f"UserKnownHostsFile={self.folder / 'known_hosts'}"
        return ("-F", "none", "-i", str(self.folder / "key"), "-o", known, "-o", "BatchMode=yes")


def missing() -> str:
    """What is missing here to make hosts, as a sentence; "": nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts are made by root on Linux"
    lacking = [name for name in PROGRAMS if program(name) is None]
    if lacking:
        return f"{', '.join(lacking)} missing (apt install openssh-server openssh-client iproute2 util-linux)"
    probe = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        return "the kernel lets nobody make namespaces here"
    name = f"bf{os.getpid()}z"
    if subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True, check=False).returncode != 0:
        return "no network bridge can be made here"
    _done("ip", "link", "del", name)
    return ""


def program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")


@contextlib.contextmanager
def fleet(
    folder: Path, wanted: Sequence[Wanted], bytecode: Path | None = None, shared: Sequence[Path] = ()
) -> Iterator[Fleet]:
    """Make hosts; at the end all is taken down but ``folder``, where their homes are.

    ``bytecode`` is a folder where all of them keep the bytecode of Python's modules: compiling torch takes each 8 s.
    ``shared`` are folders of this machine that they see at the same place, as one of a file server.
    """
    sweep()
    folder.mkdir(parents=True, exist_ok=True)
    if bytecode is not None:
        bytecode.mkdir(exist_ok=True)
    _done("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key"))
    bridge = f"bf{os.getpid()}{next(letters)}"
    hosts: dict[str, Host] = {}
    try:
        network = _network(bridge, len(wanted))
        desk, *addresses = [str(address) for address in network.hosts()]
        for number, one in enumerate(wanted):
            host = _prepared(folder / one.name, one, addresses[number], f"{bridge}h{number}", bytecode, shared)
            hosts[one.name] = host
            _connect(host, bridge, network.prefixlen)
        made = Fleet(folder, desk, hosts)
        _write_inventory(made)
        for host in hosts.values():
            _wait(host)
        yield made
    finally:
        for host in hosts.values():
            host.starter.kill()
            host.starter.wait()
        for link in (*(host.link for host in hosts.values()), bridge):
            subprocess.run(["ip", "link", "del", link], capture_output=True, check=False)


def sweep() -> None:
    """Delete the bridges of processes that are gone."""
    listed = subprocess.run(["ip", "-o", "link", "show", "type", "bridge"], capture_output=True, text=True, check=False)
    for name, pid in re.findall(r"^\d+: (bf(\d+)[a-z]):", listed.stdout, re.MULTILINE):
        if not Path("/proc", pid).exists():
            subprocess.run(["ip", "link", "del", name], capture_output=True, check=False)


def _network(bridge: str, hosts: int) -> ipaddress.IPv4Network:
    """A bridge with an address of its own in a network that nobody here has."""
    prefix = 30 - hosts.bit_length()
    _done("ip", "link", "add", bridge, "type", "bridge")
    for _ in range(50):
        number = random.randrange(int(RANGE.network_address), int(RANGE.broadcast_address))
        network = ipaddress.ip_network((number, prefix), strict=False)
        taken = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True, check=True).stdout
        known = [ipaddress.ip_interface(one).network for one in re.findall(r"inet (\S+/\d+)", taken)]
        if isinstance(network, ipaddress.IPv4Network) and not any(network.overlaps(one) for one in known):
            _done("ip", "addr", "add", f"{network[1]}/{prefix}", "dev", bridge)
            _done("ip", "link", "set", bridge, "up")
            return network
    raise RuntimeError("no free network was found")


def _prepared(
    folder: Path, wanted: Wanted, address: str, link: str, bytecode: Path | None, shared: Sequence[Path]
) -> Host:
    """A host that waits for its network."""
    own = folder / "sshd"
    for place in (own, folder / "home", folder / "root"):
        place.mkdir(parents=True, exist_ok=True)
    _done("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(own / "host_key"))
    shutil.copy(folder.parent / "key.pub", own / "authorized_keys")
    environ = dict(wanted.environ)
    if bytecode is not None and wanted.root is None:
        environ["PYTHONPYCACHEPREFIX"] = "/run/bytecode"
    wanted = Wanted(wanted.name, environ, wanted.root, wanted.sshd)
    lines = [SSHD_CONFIG.format(address=address, own=OWN)]
    if environ:
        lines.append("SetEnv " + " ".join(f'"{name}={value}"' for name, value in environ.items()) + "\n")
    if wanted.root is not None:
        lines.append("ChrootDirectory /run/bare\n")
    (own / "sshd_config").write_text("".join(lines))
    spaces = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child=KILL"]
    script = [FIRST, str(folder), wanted.name, "yes" if wanted.sshd else "no", str(wanted.root or "")]
    places = (REPO, Path(sys.prefix), Path(sys.base_prefix))
    kept = [str(place) for place in places if place.is_relative_to("/tmp") or place.is_relative_to("/run")]
    more = {"KEPT": " ".join([*kept, *map(str, shared)]), "BYTECODE": str(bytecode or ""), "PYTHON": sys.executable}
    log = (own / "first").open("wb")
    starter = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", *spaces, "bash", "-c", script[0], "host", *script[1:]],
        env={"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "SSHD": program("sshd") or "", **more},
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
    )
    log.close()
    return Host(wanted.name, address, folder, link, wanted, starter)


def _connect(host: Host, bridge: str, prefix: int) -> None:
    """Put a cable between a host and the bridge, and let it start."""
    here = os.readlink("/proc/self/ns/net")
    children = Path(f"/proc/{host.starter.pid}/task/{host.starter.pid}/children")
    until = time.monotonic() + PATIENCE
    while os.readlink(f"/proc/{host.starter.pid}/ns/net") == here or not children.read_text().split():
        if time.monotonic() > until or host.starter.poll() is not None:
            raise RuntimeError(f"{host.name} did not start: {(host.folder / 'sshd' / 'first').read_text()}")
        time.sleep(0.01)
    host.pid = int(children.read_text().split()[0])
    peer = ["peer", "name", "eth0", "netns", str(host.pid)]
    _done("ip", "link", "add", host.link, "type", "veth", *peer)
    _done("ip", "link", "set", host.link, "master", bridge, "up")
    inside = ["nsenter", "--target", str(host.pid), "--net", "ip"]
    _done(*inside, "link", "set", "lo", "up")
    _done(*inside, "addr", "add", f"{host.address}/{prefix}", "dev", "eth0")
    _done(*inside, "link", "set", "eth0", "up")
    assert host.starter.stdin is not None
    with host.starter.stdin as stream:
        stream.write(b"\n")


def _wait(host: Host) -> None:
    """Until its sshd answers (or, without one, until its files are there)."""
    import socket

    until = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            if not host.wanted.sshd:
                break
            with socket.create_connection((host.address, 22), 1) as connection:
                if connection.recv(4) == b"SSH-":
                    break
        if time.monotonic() > until or host.starter.poll() is not None:
            said = (host.folder / "sshd" / "first").read_text() + host.log()
            raise RuntimeError(f"{host.name} does not answer: {said}")
        time.sleep(0.02)


def _write_inventory(made: Fleet) -> None:
    lines, known = ["[machines]\n"], []
    for host in made.hosts.values():
        lines.append(f"{host.name} ansible_host={host.address}\n")
        known.append(f"{host.address} {(host.folder / 'sshd' / 'host_key.pub').read_text()}")
    options = f"-F none -o UserKnownHostsFile={made.folder / 'known_hosts'}"
    lines += ["\n[machines:vars]\n", "ansible_user=root\n", f"ansible_ssh_private_key_file={made.folder / 'key'}\n"]
    lines.append(f"ansible_ssh_common_args={options}\n")
    made.inventory.write_text("".join(lines))
    (made.folder / "known_hosts").write_text("".join(known))


def _done(*words: str) -> None:
    """Run a command of this machine. Raises RuntimeError."""
    command = [program(words[0]) or words[0], *words[1:]]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: exit {ended.returncode}: {ended.stdout}{ended.stderr}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=6, metavar="N")
    parser.add_argument("--facts", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where homes are kept (default: a temporary one)")
    args = parser.parse_args()
    if why := missing():
        print(f"fleet_hosts: {why}", file=sys.stderr)
        return 1
    folder = args.folder or Path(tempfile.mkdtemp(prefix="fleet-hosts-"))
    wanted = []
    for number in range(args.hosts):
        environ = {"BNBENV_FACTS": f"{HOME}/facts.json"} if number < len(args.facts) else {}
        wanted.append(Wanted(f"host{number + 1}", environ))
    with fleet(folder, wanted) as made, contextlib.suppress(KeyboardInterrupt):
        for host, file in zip(made.hosts.values(), args.facts, strict=False):
            shutil.copy(file, host.home / "facts.json")
        addresses = {host.name: host.address for host in made.hosts.values()}
        print(json.dumps({"inventory": str(made.inventory), "desk": made.address, "hosts": addresses}, indent=2))
        print("Ctrl-C takes them down", file=sys.stderr)
        signal.pause()
    if args.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
