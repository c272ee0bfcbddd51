"""Locking for another machine than this one: what uv is told of its platform and its Python."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bnbenv.envs.uv import Uv
from bnbenv.facts.model import Platform

if TYPE_CHECKING:
    from bnbenv.envs.resolve import Setting

MACOS = "14.0"  # the oldest that torch's wheels are for, from 2.9 on
# What uv 0.9.17 to 0.13 name of "--python-platform": the glibc of a manylinux tag, without its 2.
_GLIBC = (17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)


def resolving_python(setting: Setting, uv: Uv, minor: str) -> tuple[str, tuple[str, ...]]:
    """The interpreter to resolve with, and what uv is told beside it.

    For this machine it is the one that will run. For another one any will do: no package has to be run for it.
    Raises Failed, SourceUnreachable where this machine's has to be downloaded and cannot be.
    """
    from bnbenv.envs.resolve import interpreter

    if not setting.elsewhere:
        return interpreter(setting, minor) or uv.download_python(minor), ()
    own = interpreter(setting, minor) or getattr(sys, "_base_executable", None) or sys.executable
    return own, ("--python-version", minor, "--python-platform", uv_platform(setting.facts.platform))


def platform_variables(setting: Setting) -> dict[str, str]:
    """What uv is told of another machine by variables: of macOS the version, which facts do not name."""
    return {"MACOSX_DEPLOYMENT_TARGET": MACOS} if setting.elsewhere and setting.facts.platform.os == "macos" else {}


def uv_platform(platform: Platform) -> str:
    """A platform as uv calls it: ``aarch64-manylinux_2_39``. Pure."""
    machine = platform.machine
    if platform.os == "windows":
        return f"{machine}-pc-windows-msvc"
    if platform.os == "macos":
        return f"{machine}-apple-darwin"
    if platform.libc is None:
        return f"{machine}-unknown-linux-gnu"
    if platform.libc.name == "musl":
        return f"{machine}-unknown-linux-musl"
    minor = platform.libc.version.split(".")[1] if "." in platform.libc.version else "17"
    known = [one for one in _GLIBC if minor.isdigit() and one <= int(minor)]
    return f"{machine}-manylinux_2_{max(known, default=17)}"
