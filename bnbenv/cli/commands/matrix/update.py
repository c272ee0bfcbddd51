"""``bnbenv matrix update``: measure what the indexes offer and no row knows, and keep it with the user's data."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import project_of
from bnbenv.cli.errors import Interrupted
from bnbenv.cli.help import whole_number
from bnbenv.errors import Exit, SourceUnreachable, UsageError
from bnbenv.redact import redact

if TYPE_CHECKING:
    from bnbenv.envs.sources import PackageSources
    from bnbenv.matrix.model import Matrix
    from bnbenv.matrix.news import Missed, Task
    from bnbenv.matrix.store import Row
    from bnbenv.matrix.update import Wish

SUMMARY = """\
Look for releases of bitsandbytes and torch that the matrix does not know,
measure them and keep their rows with your own data, over the ones that came with
bnbenv. Of a wheel only the parts that are needed are loaded. PyTorch's own index
is read too, where it answers, for the builds of this machine's platform; what was
declared of them is then measured. Each row is kept as soon as it is whole, so that
it can be interrupted and goes on the next time."""
EXAMPLE = "bnbenv matrix update --check --torch none    is there a newer bitsandbytes?"
EXITS = """\
0 done, or nothing is new, 1 some wheels could not be measured (the others are kept), 2 wrong usage or unreadable \
input, 3 something is new (--check), 7 the package index cannot be reached, 8 another bnbenv is at work"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = 'versions of {} to look at, such as "{}", or "none" (default: %(default)s)'
    for name, example, default in (("bitsandbytes", ">=0.50", ">=0.37"), ("torch", "==2.9.*", ">=2.0")):
        parser.add_argument(f"--{name}", metavar="SPEC", default=default, help=what.format(name, example))
    parser.add_argument("--check", action="store_true", help="only say what is new")
    parser.add_argument(
        "--all-platforms", action="store_true", help="of PyTorch's own index, the builds for other platforms too"
    )
    parser.add_argument("--jobs", metavar="N", type=whole_number, default=4, help="wheels at a time (default: 4)")
    parser.add_argument("--index", metavar="URL", help="a package index instead of the one that uv or pip use")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.envs.overlay import connections, overlay, store
    from bnbenv.envs.resolve import sources_for, user_matrix
    from bnbenv.envs.wishes import load_wishes
    from bnbenv.matrix.update import Report, look, refresh
    from bnbenv.progress import during

    folder = overlay(ctx.environ)
    if folder is None:
        raise UsageError("no-home", "this user has no home folder for bnbenv's data", "Set HOME, or BNBENV_HOME.")
    project = project_of(args, ctx)
    matrix = user_matrix(ctx.environ)
    sources = sources_for(project, load_wishes(project).sources, matrix, ctx.environ)
    if sources.offline:
        step = "Take offline out of uv.toml." if sources.offline == "uv.toml" else f"Unset {sources.offline}."
        raise SourceUnreachable("offline", f"the network is switched off ({sources.offline})", step)
    wish = _wish(args, ctx, matrix, sources)
    open_ = connections(sources)
    with during(ctx.progress, "asking the indexes what they offer"):
        found = look(wish, matrix.bitsandbytes, matrix.torch, open_)
    if args.check:
        report = Report(failed=list(found.failed), left_out=list(found.left_out))
        rows = [_of_task(task) for task in found.tasks] + [_of_row(row, because) for row, because in found.changed]
    else:
        try:
            report = refresh(found, store(folder, ctx.environ, ctx.progress), open_, ctx.progress, max(1, args.jobs))
        except KeyboardInterrupt:
            message = "interrupted: the rows that were finished are kept"
            raise Interrupted("interrupted", message, "It goes on with: bnbenv matrix update") from None
        rows = [_of_row(row, because) for row, because in report.kept]
    document = {
        "schema": "bnbenv.matrix-update/1",
        "check": args.check,
        "folder": str(folder),
        "added": [row for row in rows if row["because"] is None],
        "changed": [row for row in rows if row["because"] is not None],
        "failed": _missed(report.failed),
        "left_out": _missed(report.left_out),
        "gone": _missed(found.gone),
        "unreachable": [{"index": one.filename, "because": redact(one.because)} for one in found.silent],
        "unchanged": found.unchanged,
        "fetched": report.fetched,
    }
    code = Exit.FAILED if report.failed else Exit.PENDING if args.check and rows else Exit.DONE
    return Outcome(code, document)


def _wish(args: argparse.Namespace, ctx: Context, matrix: Matrix, sources: PackageSources) -> Wish:
    """What is asked for. Raises InputError, SourceUnreachable."""
    from packaging.specifiers import SpecifierSet

    from bnbenv.facts.host import HostPort, read_platform
    from bnbenv.matrix.index import index_endpoint
    from bnbenv.matrix.news import Place
    from bnbenv.matrix.update import Wish, pytorch_places
    from bnbenv.paths import Sysroot
    from bnbenv.solve.versions import read_specifier

    ranges: dict[str, SpecifierSet | None] = {}
    for name in ("bitsandbytes", "torch"):
        text = getattr(args, name)
        if text == "none":
            ranges[name] = None
        else:
            spec = read_specifier(text, f"--{name}", "")
            ranges[name] = SpecifierSet("" if spec == "*" else spec)
    if args.index:
        endpoint = index_endpoint({}, args.index)
    elif sources.default is not None:
        endpoint = sources.default.url
    else:
        raise SourceUnreachable("no-index", "no-index is set: there is no index to ask", "Name one with --index.")
    here, _ = read_platform(ctx.environ, Sysroot.from_environment(ctx.environ), ctx.runner, HostPort.current())
    cudas = [row.cuda for row in matrix.drivers]
    return Wish(
        bitsandbytes=ranges["bitsandbytes"],
        torch=ranges["torch"],
        default=Place(endpoint),
        variants=pytorch_places(sources.pytorch_base, matrix.torch, cudas) if ranges["torch"] is not None else (),
        own_platform=None if args.all_platforms else (here.os, here.machine),
    )


def _of_task(task: Task) -> dict[str, Any]:
    name, place = task.name, task.place
    row = {"project": task.project, "version": name.version, "os": name.os, "machine": name.machine}
    return {
        **row,
        "source": place.source,
        "index": place.variant,
        "filename": task.file.filename,
        "because": task.because,
    }


def _of_row(row: Row, because: str | None) -> dict[str, Any]:
    from bnbenv.matrix.model import TorchBuild

    torch = row if isinstance(row, TorchBuild) else None
    return {
        "project": "torch" if torch else "bitsandbytes",
        "version": row.version,
        "os": row.os,
        "machine": row.machine,
        "source": torch.source if torch else "default-index",
        "index": torch.index if torch else None,
        "filename": row.evidence.source.partition(" ")[0],
        "because": because,
    }


def _missed(missed: Iterable[Missed]) -> list[dict[str, str]]:
    return [{"filename": one.filename, "because": redact(one.because)} for one in missed]
