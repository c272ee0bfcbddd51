"""How ``bnbenv build`` looks."""

from __future__ import annotations

import shlex
from typing import Any

from bnbenv.cli.render.text import listed, wrap


def render(
    document: dict[str, Any],
    exact: bool = False,
    torch: dict[str, Any] | None = None,
    older_libc: str | None = None,
    older_driver: tuple[str, str] | None = None,
    named: bool = False,
) -> str:
    """``exact``: it is loaded by a torch of just that CUDA, unless a variable names it; ``torch`` is the one that is
    locked here; ``older_libc`` the glibc of the machine that it is for, where that is too old for it, and
    ``older_driver`` its driver and the one that is needed. ``named``: the source stood on the command line, and not in
    bnbenv.toml.
    """
    how = "compiled before" if document["cached"] else f"compiled in {_time(document['seconds'])}"
    lines = [document["wheel"]]
    lines += wrap(f"bitsandbytes {document['version']}, {how}", "  ")
    ptx = f", PTX for {listed([_arch(one) for one in document['ptx']])}" if document["ptx"] else ""
    native = f"native code for {listed([_arch(one) for one in document['sass']])}"
    lines += wrap(f"{document['library']}: {native}{ptx}", "  ")
    lines += wrap(f"from {_source(document['source'])}", "  ")
    lines += wrap(f"with CUDA {document['toolkit']} and {document['host_compiler']}", "  ")
    lines += _loading(document, exact, torch)
    if older_libc is not None:
        lines += wrap(f"warning: the machine that it is for has glibc {older_libc}, and it was made on a newer one")
    if older_driver is not None:
        there, need = older_driver
        major = document["toolkit"].partition(".")[0]
        lines += wrap(f"warning: CUDA {major} needs driver {need} or newer, and the machine that it is for has {there}")
    lines.append(f"use it: uv pip install --no-deps {shlex.quote(document['wheel'])}")
    where = ", with this source as bitsandbytes-source in bnbenv.toml" if named else ""
    lines += wrap(f"use it in a project: bnbenv sync --build{where}")
    return "\n".join(lines)


def _loading(document: dict[str, Any], exact: bool, torch: dict[str, Any] | None) -> list[str]:
    """Which torch loads it, and what that takes."""
    digits = document["library"].partition("_cuda")[2].partition(".")[0]
    cuda, major = f"{digits[:-1]}.{digits[-1:]}", digits[:-1]
    setting = f"BNB_CUDA_VERSION={digits}"
    if torch is not None and torch["cuda"] != cuda:
        called = f"torch {torch['torch']} (CUDA {torch['cuda']}) of {torch['called']}"
        if torch["cuda"].partition(".")[0] != major:
            return wrap(f"warning: {called} cannot load it: that takes a torch of CUDA {major}")
        return wrap(f"{called} loads it{f' with {setting} in the environment' if exact else ''}", "  ")
    if exact:
        return wrap(f"a torch of CUDA {cuda} loads it; one of another CUDA {major} with {setting}", "  ")
    return wrap(f"every torch of CUDA {major} loads it", "  ")


def _arch(name: str) -> str:
    return name.replace("compute_", "sm_") if name.startswith("compute_") else name


def _source(source: dict[str, Any]) -> str:
    """``tag 0.50.1 of https://host/repository, commit 3f2a1b0c9d8e``."""
    ref = f"{source['ref']} of " if source["ref"] else ""
    commit = f", commit {source['commit'][:12]}" if source["commit"] else f", sha256 {source['digest'][:12]}..."
    return f"{ref}{source['asked']}{commit}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
