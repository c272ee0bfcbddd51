"""Which file system a folder is on, what its locks are worth, and how packages get there from uv's cache."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bnbenv.envs.uv import Uv
from bnbenv.paths import Sysroot
from bnbenv.process import Command

QUICK = 30.0  # seconds; uv waits that long for another uv that uses its cache

# File systems of several machines. A hold on a file has to be told to a server there, and some are not set up for it.
NETWORK = frozenset(
    (
        *("nfs", "nfs3", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "9p"),
        *("fuse.glusterfs", "fuse.sshfs", "fuse.s3fs", "fuse.ceph", "fuse.ceph-fuse", "fuse.juicefs", "fuse.gcsfuse"),
        *("virtiofs", "wekafs", "panfs", "gfs2", "ocfs2"),
    )
)
# File systems that keep no owners and permissions of each file: everything seems to be writable by everybody.
WITHOUT_PERMISSIONS = frozenset(
    ("9p", "drvfs", "vfat", "exfat", "msdos", "ntfs", "ntfs3", "fuseblk", "cifs", "smb3", "smbfs", "vboxsf")
)
# Here uv clones files across file systems that cannot be linked across.
CLONES = frozenset(("btrfs", "xfs", "bcachefs", "zfs", "apfs"))

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One mounted file system: where, of which type, from what, and its options."""

    point: str
    type: str
    source: str
    options: frozenset[str]

    @property
    def network(self) -> bool:
        return self.type in NETWORK

    @property
    def locks_here_only(self) -> bool:
        """Whether a lock holds on this machine alone: another machine with the same folder does not see it."""
        here = {"nolock", "local_lock=all", "local_lock=flock", "localflock", "nobrl"}
        return self.network and bool(here & self.options)


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """The lines of /proc/self/mountinfo; what is no such line is left out. Pure.

    ``36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue``
    """
    mounts = []
    for line in text.splitlines():
        first, mark, second = line.partition(" - ")
        fields, rest = first.split(" "), second.split(" ")
        if mark and len(fields) >= 6 and len(rest) >= 2:
            options = frozenset((*fields[5].split(","), *(rest[2].split(",") if len(rest) > 2 else ())))
            mounts.append(Mount(_unescaped(fields[4]), rest[0], _unescaped(rest[1]), options))
    return tuple(mounts)


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)


def mount_of(path: Path, mounts: tuple[Mount, ...]) -> Mount | None:
    """The mount that a real path is on: the innermost one, and of those at one point the last. Pure."""
    words = str(path).rstrip("/") + "/"
    fitting = [mount for mount in mounts if words.startswith(mount.point.rstrip("/") + "/")]
    return max(reversed(fitting), key=lambda mount: len(mount.point), default=None)


def find_mount(path: Path, environ: Mapping[str, str]) -> Mount | None:
    """The mount that a path is on; None where the system does not tell (not Linux)."""
    text = Sysroot.from_environment(environ).read("/proc/self/mountinfo")
    return mount_of(Path(os.path.realpath(path)), parse_mounts(text)) if text else None


def uv_cache(uv: Uv) -> Path | None:
    """uv's cache as it is set up, whether by uv.toml, a variable or not at all; None where uv does not say."""
    done = uv.runner.run(Command((uv.binary, "cache", "dir", "--color", "never"), QUICK, uv.environment, str(uv.cwd)))
    return Path(done.stdout.strip()) if done.ok and done.stdout.strip() else None


def forget(uv: Uv, packages: frozenset[str]) -> bool:
    """Delete packages from uv's cache, so that they are loaded again. False where it could not be done."""
    words = (uv.binary, "cache", "clean", "--quiet", "--color", "never", *sorted(packages))
    # What other uvs that are at work hold is waited for, but not for the five minutes that uv itself would.
    environment = {**uv.environment, "UV_LOCK_TIMEOUT": str(int(QUICK / 2))}
    return uv.runner.run(Command(words, QUICK, environment, str(uv.cwd))).ok


def why_not_linked(cache: Path, folder: Path) -> str | None:
    """Why files of uv's cache cannot be linked into a folder; None: they can, or it cannot be known yet.

    It is tried: file systems that look alike may refuse, and Linux lets nobody link to files of others.
    """
    sample, link = cache / "CACHEDIR.TAG", folder / f".link-{os.getpid()}.part"
    try:
        os.link(sample, link, follow_symlinks=False)
    except OSError as error:
        reasons = {
            errno.EXDEV: f"uv's cache ({cache}) is on another file system",
            errno.EPERM: f"uv's cache ({cache}) belongs to another user, or its file system has no links",
            errno.EACCES: f"uv's cache ({cache}) belongs to another user, or its file system has no links",
            errno.EMLINK: "that file system allows no more links to a file",
            errno.ENOTSUP: "that file system has no links",
        }
        return reasons.get(error.errno or 0)
    link.unlink()
    return None
