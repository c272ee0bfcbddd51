"""A bundle with bnbenv alone, for hosts that have none: unpacked there, ``sh install.sh FOLDER`` needs no network.

It is made once for this very bnbenv, for Linux on x86_64 and aarch64 and each Python that bnbenv runs on, and kept
beside the bundles of the classes. Hosts whose Python is older get one out of it, if it could be had.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from importlib.metadata import version

import msgspec

from bnbenv import __version__
from bnbenv.bundle.gather import Group
from bnbenv.bundle.itself import INSTALL, code, requirements
from bnbenv.bundle.make import Also, make_of
from bnbenv.bundle.manifest import Machine
from bnbenv.envs.resolve import Setting
from bnbenv.facts.model import Driver, HostFacts, Libc, Platform
from bnbenv.fleet.kept import NEW, Home, Kept, clear, find_bundle, holding, keep_bundle, use, writing
from bnbenv.fleet.model import Content
from bnbenv.progress import shown_size

MACHINES = ("x86_64", "aarch64")
PYTHONS = ("3.14", "3.13", "3.12", "3.11", "3.10")
PYTHON = "3.12"  # for hosts that have none of these: RHEL 9 and Debian 11 have 3.9
# The oldest that uv's and msgspec's wheels of today are for on both machines: manylinux_2_17 (manylinux2014).
GLIBC = Libc("glibc", "2.17")
_CLASS = hashlib.sha256(b"bnbenv itself").hexdigest()[:12]  # where the desk notes that it has it


def tool_bundle(setting: Setting, machines: Sequence[str] = MACHINES, pythons: Sequence[str] = PYTHONS) -> Content:
    """The bundle; ``locks`` are empty. Raises what loading raises, Busy, Failed (``no-file``: what bnbenv needs has no
    wheel for one of these; ``not-installed``: it runs from a folder)."""
    with holding(setting.project, setting.environ, setting.progress.say) as home:
        key = _key(machines, pythons)
        known = find_bundle(home, key, setting.progress.say)
        kept = known[1] if known is not None else _make(setting, home, key, machines, pythons)
        with writing(home.locks):
            use(home, _CLASS, key)
        clear(home, setting.progress.say)
    return Content(_CLASS, str(home.bundles / f"{kept.sha256}.tar"), kept.sha256, kept.size, {})


def _key(machines: Sequence[str], pythons: Sequence[str]) -> str:
    """Of the code that runs here, whatever its version says, and of what goes with it. Raises Failed."""
    digest = hashlib.sha256(msgspec.json.encode((__version__, version("uv"), INSTALL, *machines, *pythons)))
    digest.update(msgspec.json.encode(requirements()))
    for name, data in code():
        digest.update(f"{name} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def _make(setting: Setting, home: Home, key: str, machines: Sequence[str], pythons: Sequence[str]) -> Kept:
    setting.progress.say("making the bundle with bnbenv alone, for hosts that have none")
    groups = []
    for machine in machines:
        facts = HostFacts(Platform("linux", machine, GLIBC), Driver("absent"), ())
        own = dataclasses.replace(setting, facts=facts, elsewhere=True, supply=None)
        groups.append(Group(own, [Machine("a bare host", "linux", machine, None, (), tuple(pythons))], {}))
    with writing(home.bundles):
        new = home.bundles / NEW
        new.unlink(missing_ok=True)
        manifest = make_of(setting, groups, new, Also(config=False, python=PYTHON))
        for note in manifest.notes:
            setting.progress.say(note)
        assert manifest.sha256 is not None and manifest.size is not None
        setting.progress.say(f"it takes {shown_size(manifest.size)}")
        return keep_bundle(home, key, new, manifest.sha256)
