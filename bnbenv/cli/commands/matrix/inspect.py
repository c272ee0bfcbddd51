"""``bnbenv matrix inspect``: what is in a binary, and would it run on this machine?"""

from __future__ import annotations

import argparse
import errno
from typing import TYPE_CHECKING, Any

import msgspec

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import facts_of
from bnbenv.decode import shown
from bnbenv.errors import Exit, Failed, InputError, SourceUnreachable, UsageError

if TYPE_CHECKING:
    import requests

    from bnbenv.facts.model import HostFacts
    from bnbenv.matrix.found import FoundPackage
    from bnbenv.matrix.model import Matrix

SUMMARY = """\
Say what is in a binary: CUDA release, SASS and PTX targets, linked libraries,
glibc; and whether it would run on this machine, or on that of recorded facts.

PATH is a wheel of any project (a file, or an http address, of which only parts
are fetched), an environment, the folder of an installed package, or a single
library (.so, .dll, .pyd, .dylib)."""
EXAMPLE = """\
bnbenv matrix inspect .venv-bnb
bnbenv matrix inspect flash_attn-2.8.3-cp312-cp312-linux_x86_64.whl"""
EXITS = "0 read (whether it would run or not), 1 failed, 2 it cannot be read, 7 the address cannot be reached"

_DOWNLOAD_AGAIN = frozenset({"bad-wheel", "bad-binary", "bad-torch", "bad-bitsandbytes", "not-cuda", "no-ranges"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("what", metavar="PATH", help="a wheel, a folder, a library, or the address of a wheel")
    parser.add_argument("--facts", metavar="FILE", help="recorded facts (bnbenv facts --json) instead of this host")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    """What was found, with an answer to each question. Raises UsageError, InputError, SourceUnreachable."""
    from bnbenv.envs.resolve import user_matrix
    from bnbenv.progress import during

    try:
        with during(ctx.progress, "reading"):
            packages = _read(args, ctx)
    except Failed as error:
        if error.code not in _DOWNLOAD_AGAIN:
            raise
        raise UsageError(error.code, error.message, error.next_step) from None
    facts = facts_of(ctx, args.facts)
    document = _document(packages, facts, user_matrix(ctx.environ))
    return Outcome(Exit.DONE, document, {"elsewhere": args.facts is not None})


def _document(packages: tuple[FoundPackage, ...], facts: HostFacts, matrix: Matrix) -> dict[str, Any]:
    from bnbenv.solve.inspecting import judge_library, judge_package, loaded, situation_of

    situation, rows = situation_of(facts, matrix), []
    for package in packages:
        one = msgspec.to_builtins(package)
        answers = judge_package(package, situation)
        for row, library in zip(one["libraries"], package.libraries, strict=True):
            row["answers"] = msgspec.to_builtins(judge_library(library, situation))
        one["loads"], loads = loaded(packages, matrix, situation) if package.name == "bitsandbytes" else (None, None)
        one["answers"] = msgspec.to_builtins((*answers, loads) if loads else answers)
        rows.append(one)
    return {"schema": "bnbenv.matrix-inspect/1", "packages": rows, "host": _host(facts)}


def _host(facts: HostFacts) -> dict[str, Any]:
    """What was judged by."""
    platform, driver = facts.platform, facts.driver
    return {
        "os": platform.os,
        "machine": platform.machine,
        "libc": f"{platform.libc.name} {platform.libc.version}" if platform.libc else None,
        "driver": {"state": driver.state, "version": driver.version},
        "gpus": [{"index": gpu.index, "name": gpu.name, "arch": gpu.arch} for gpu in facts.gpus],
    }


def _read(args: argparse.Namespace, ctx: Context) -> tuple[FoundPackage, ...]:
    from bnbenv.matrix.contents import read_file, read_folder, read_url
    from bnbenv.paths import expand

    what: str = args.what
    if what.lower().startswith(("http://", "https://")):
        with _session(args, ctx) as session:
            return (read_url(session, what, ctx.progress.at),)
    if not what:
        raise InputError("matrix inspect", "", "expected a file, a folder or an address, found nothing")
    path = ctx.cwd / expand(what)
    try:
        if path.is_dir():
            return read_folder(path, ctx.progress.at)
        if not path.exists():
            raise InputError(what, "", "there is no such file or folder")
        if not path.is_file():
            raise InputError(what, "", "this is neither a file nor a folder")
        return (read_file(path, ctx.progress.at),)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):  # where large libraries are unpacked
            raise
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise InputError(shown(what), "", f"cannot be read ({reason})") from None


def _session(args: argparse.Namespace, ctx: Context) -> requests.Session:
    """With certificates, proxy and logins of uv's and pip's configuration. Raises SourceUnreachable (offline)."""
    from bnbenv.cli.common import project_of, setting_of
    from bnbenv.envs.overlay import connections
    from bnbenv.envs.resolve import sources_of
    from bnbenv.envs.wishes import EnvWish, Wishes
    from bnbenv.facts.model import Driver, HostFacts, Platform

    nobody = HostFacts(Platform("", ""), Driver("absent"), ())  # package sources do not depend on the host
    sources = sources_of(setting_of(project_of(args, ctx), Wishes(envs={"bnb": EnvWish()}), nobody, ctx))
    if sources.offline is not None:
        message = f"an address cannot be read: the network is switched off ({sources.offline})"
        raise SourceUnreachable("offline", message, f"Unset {sources.offline}, or name a file.")
    return connections(sources)()
