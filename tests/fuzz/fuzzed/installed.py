"""Decoders of what lies in an environment, what uv tells while it works, and what the kernel says of file systems."""

from __future__ import annotations

from pathlib import Path

from bnbenv.envs.filesystem import mount_of, parse_mounts
from bnbenv.envs.integrity import BadRecord, examine, parse_record, same_files
from bnbenv.envs.uvprogress import describe, read_stage, without_progress

from .oracle import Fault, Target
from .places import put, scratch, text_of


def _mounts(data: bytes) -> None:
    mounts = parse_mounts(text_of(data))
    found = mount_of(Path("/home/me/project"), mounts)
    if found is not None and not "/home/me/project/".startswith(found.point.rstrip("/") + "/"):
        raise Fault(f"it is not on {found}")
    for mount in mounts:
        str((mount.network, mount.locks_here_only))


def _records(data: bytes) -> None:
    """A RECORD of any content, in an environment: what it says is compared, and nothing outside is looked at."""
    try:
        rows = parse_record(text_of(data))
    except BadRecord:
        rows = ()
    same_files(rows, rows[:1])
    site = scratch() / "prefix/lib/python3.11/site-packages"
    if not site.exists():
        put("prefix/lib/python3.11/site-packages/pkg/__init__.py", b"x = 1\n")
        put("prefix/lib/python3.11/site-packages/pkg-1.0.dist-info/METADATA", b"Name: pkg\n")
        put("prefix/bin/tool", b"#!\n")
    (site / "pkg-1.0.dist-info/RECORD").write_bytes(data)
    for every_byte in (True, False):
        damage = examine(site, scratch() / "prefix", every_byte=every_byte)
        if not all(str(one).strip() for one in damage):
            raise Fault(f"damage without words: {damage}")


def _progress(data: bytes) -> None:
    text = text_of(data)
    if not describe(read_stage(text), "otherwise"):
        raise Fault("nothing is told")
    without_progress(text)


_MOUNTS = (
    b"36 35 98:0 / / rw,noatime master:1 - ext4 /dev/root rw,errors=continue\n"
    b"41 36 0:34 / /home rw - nfs4 server:/home rw,vers=4.2,local_lock=none\n"
    b"42 36 0:35 / /home/me\\040too rw - fuse.sshfs me@host:/x rw,nolock\n"
)
_RECORD = (
    b"pkg/__init__.py,sha256=bVl6T8ZqG4cCBrY0T6SQzMG1A8ssFBh9FXBU9VsHj9w,6\n"
    b"pkg-1.0.dist-info/METADATA,sha256=AAAA,10\n../../../bin/tool,,\npkg-1.0.dist-info/RECORD,,\n"
)
_TOLD = (
    b"Using CPython 3.11.7\nResolved 31 packages in 20ms\nDownloading torch (780.1MiB)\nDownloading sympy (6.0MiB)\n"
    b" Downloaded sympy\n   Building gptqmodel==7.6.0\n      Built gptqmodel==7.6.0\nPrepared 2 packages in 5s\n"
    b"Installed 2 packages in 1ms\n + sympy==1.14.0\nerror: no\n"
)

TARGETS = (
    Target("mounts", "text", _mounts, lambda: (_MOUNTS,)),
    Target("package-records", "text", _records, lambda: (_RECORD,), slow=True),
    Target("uv-progress", "text", _progress, lambda: (_TOLD,)),
)
