"""``bnbenv build``: compile bitsandbytes into a wheel, for exactly the architectures that are needed."""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import facts_of, project_of, selected, setting_of
from bnbenv.errors import Exit, InputError, NoCombination

if TYPE_CHECKING:
    from bnbenv.build.model import Built, Order
    from bnbenv.build.order import Asked, Beside, Planned
    from bnbenv.build.ports import Ports
    from bnbenv.envs.project import Project
    from bnbenv.envs.resolve import Setting
    from bnbenv.envs.wishes import Wishes
    from bnbenv.facts.model import HostFacts
    from bnbenv.matrix.model import Matrix
    from bnbenv.solve.model import Availability

SUMMARY = """\
Compile bitsandbytes into a wheel for the GPUs of this machine, or for those that
--arch names; no GPU is needed for it. For CUDA 13 the compiler comes from
packages, for 11.8 and 12 a CUDA toolkit has to be installed.

Without options: the release and the CUDA that the lock of this project names, else
what the solver would compile here. What was compiled before is there at once.
In a project, bnbenv sync --build does all of it."""
EXAMPLE = """\
bnbenv build
bnbenv build --ref 0.50.1 --cuda 13.0 --arch sm_87 --arch sm_90
bnbenv build --source ~/src/bitsandbytes --arch 8.9"""
EXITS = (
    "0 the wheel is there, 1 it could not be compiled, 2 an option or the source cannot be read, 4 nothing here can "
    "compile that, 6 reboot required, 7 a source cannot be reached, 8 another bnbenv is at work on it"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = "a git URL, a folder, or a tarball (URL#sha256=...); default: upstream's repository"
    parser.add_argument("--source", metavar="PATH", help=source)
    parser.add_argument("--ref", metavar="TAG", help="a release, tag, branch or commit (of a folder: as it is)")
    parser.add_argument("--cuda", metavar="RELEASE", help='the CUDA to compile with, such as "13.0": that of torch')
    what = 'an architecture, such as "sm_87" or "8.7"; several times, or with commas'
    parser.add_argument("--arch", metavar="ARCH", action="append", default=[], help=what)
    parser.add_argument("--gpus", metavar="WHICH", help='for which GPUs: "all", indices "0,1", or UUIDs')
    parser.add_argument("--env", metavar="NAME", help="the environment whose lock and GPUs are meant")
    parser.add_argument("--facts", metavar="FILE", help="recorded facts (bnbenv facts --json) instead of this host")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.build import order
    from bnbenv.build.run import build
    from bnbenv.build.source import as_it_is
    from bnbenv.envs.builds import source_of, toolkits_of
    from bnbenv.envs.project import DEFAULT_ENV
    from bnbenv.envs.resolve import user_matrix
    from bnbenv.envs.wishes import load_wishes

    matrix = user_matrix(ctx.environ)
    archs = order.read_archs(args.arch, matrix)
    cuda = None if args.cuda is None else order.read_cuda(args.cuda, matrix)
    project = project_of(args, ctx)
    wishes = load_wishes(project)
    names = selected(wishes, args.env, project)
    env = DEFAULT_ENV if DEFAULT_ENV in names else names[0]
    facts = facts_of(ctx, args.facts)
    _check_machine(facts)
    if args.source is not None:
        named = msgspec.structs.replace(wishes.sources, bitsandbytes_source=_placed(args.source, ctx.cwd))
        wishes = msgspec.structs.replace(wishes, sources=named)
    recorded = ctx if args.facts is None else ctx._replace(environ={**ctx.environ, "BNBENV_FACTS": args.facts})
    setting = setting_of(project, wishes, facts, recorded)
    facts = msgspec.structs.replace(facts, toolkits=toolkits_of(setting))
    setting, source = replace(setting, facts=facts), source_of(setting)
    beside = None if args.facts is not None else _beside(project, env)
    asked = order.Asked(source, args.ref, cuda, archs, _gpus(args, wishes, env), as_it_is(source))
    if not project.root.is_dir():  # the user's own, in which nothing was made yet; programs are run somewhere
        setting = replace(setting, project=project._replace(root=ctx.cwd))
    planned, ports = _planned(asked, setting, _found(args, ctx, facts, project), beside)
    for line in planned.because:
        ctx.progress.say(f"for {line}" if line.startswith("sm_") else f"with {line}")
    made = build(planned.order, ports, matrix, facts.toolkits)
    view = {**_view(made, matrix, facts, beside), "named": args.source is not None}
    if not archs:  # else it may be for another machine
        view["older_driver"] = _older_driver(planned.order.cuda, matrix, facts)
    return Outcome(Exit.DONE, made.document(), view)


def _planned(asked: Asked, setting: Setting, found: Availability, beside: Beside | None) -> tuple[Planned, Ports]:
    """The order, and what its build is handed. Of what would do as well, what can be had: compiler and source."""
    from bnbenv.build.order import plan
    from bnbenv.build.toolchain import check_known
    from bnbenv.envs.builds import survey_builds
    from bnbenv.envs.resolve import sources_of
    from bnbenv.envs.toolbox import build_ports
    from bnbenv.solve.model import Request

    sources = sources_of(setting)
    ports = build_ports(setting.environ, setting.runner, sources, setting.project.root, setting.progress)
    if asked.cuda is not None:  # what no torch and no release would change
        check_known(asked.cuda, asked.archs, ports, setting.matrix)
    planned = plan(asked, setting.facts, setting.matrix, found, beside)
    if planned.open and not _within_reach(planned.order, asked, ports, setting):
        builds, _ = survey_builds(setting, sources, Request(build="always"), found)
        with contextlib.suppress(NoCombination):  # then the first one says what is lacking
            there = msgspec.structs.replace(found, builds=builds)
            other = plan(asked, setting.facts, setting.matrix, there, beside)
            planned = other if _within_reach(other.order, asked, ports, setting) else planned
    return planned, ports


def _within_reach(order: Order, asked: Asked, ports: Ports, setting: Setting) -> bool:
    """Whether compiler and source of an order can be had, as far as that is quickly known."""
    from bnbenv.build.source import offered
    from bnbenv.build.toolchain import within_reach
    from bnbenv.errors import SourceUnreachable

    if asked.ref is None and order.ref is not None:
        with contextlib.suppress(SourceUnreachable):  # it may have been compiled, or fetched, before
            if order.ref not in offered(order.source, ports, setting.matrix.upstream):
                return False
    return not within_reach(order.cuda, order.archs, ports, setting.matrix, setting.facts.toolkits)


def _check_machine(facts: HostFacts) -> None:
    """The compiler makes code for the machine that it runs on. Raises NoCombination."""
    import platform

    here, wanted = (sys.platform, platform.machine().lower()), (facts.platform.os, facts.platform.machine)
    if here[0] != "linux":
        message = "bitsandbytes is compiled on Linux only"
        raise NoCombination("not-linux", message, "On Windows: in WSL2; or take a published wheel: bnbenv solve")
    if here != wanted:
        message = f"the facts are of {' on '.join(wanted)}, and what is compiled here is for {' on '.join(here)}"
        raise NoCombination("other-machine", message, "Compile it on a machine of that kind.")


def _placed(source: str, folder: Path) -> str:
    """A path made whole; what leads nowhere may be an address. Raises InputError."""
    from bnbenv.paths import exists, expand

    if not source.strip():
        raise InputError("--source", "", "expected a git URL, a folder or a tarball, found nothing")
    place, mark, digest = source.partition("#")
    path = folder / expand(place)
    return source if "://" in place or not exists(path) else f"{path.resolve()}{mark}{digest}"


def _beside(project: Project, env: str) -> Beside | None:
    """What the lock of an environment names; None where there is none that can be read."""
    from bnbenv.build.order import Beside
    from bnbenv.envs.lockfile import read_saved_lock

    locked = read_saved_lock(project.lock(env))
    choice = locked.decision.solution.choice if locked is not None else None
    if choice is None or choice.wheel is None:
        return None
    return Beside(choice.torch.version, choice.torch.cuda, choice.wheel.version, project.lock(env).name)


def _gpus(args: argparse.Namespace, wishes: Wishes, env: str) -> tuple[str, ...]:
    """The GPUs of ``--gpus``, else those that bnbenv.toml names for the environment. Raises InputError."""
    from bnbenv.solve.situation import read_gpus

    return wishes.request(env).gpus if args.gpus is None else read_gpus(args.gpus, "--gpus", "")


def _found(args: argparse.Namespace, ctx: Context, facts: HostFacts, project: Project) -> Availability:
    """On a Jetson the torch that is there decides: no other runs on it."""
    from bnbenv.envs.existing import find_existing
    from bnbenv.solve.model import Availability

    if facts.platform.jetson is None or args.facts is not None:
        return Availability()
    existing, why = find_existing(ctx.environ, facts, ctx.runner, project)
    return Availability(existing=existing, no_existing=why)


def _older_driver(cuda: str, matrix: Matrix, facts: HostFacts) -> tuple[str, str] | None:
    """The driver that is there and the one that this CUDA needs, where it is too old for any torch of that CUDA."""
    from bnbenv.matrix.drivers import too_old

    there = facts.driver.version
    need = too_old(matrix.drivers, cuda, there, facts.platform.os == "windows") if there else None
    return (there, need) if there and need else None


def _view(made: Built, matrix: Matrix, facts: HostFacts, beside: Beside | None) -> dict[str, Any]:
    """What the screen says of using it, beside the document."""
    from bnbenv.matrix.drivers import number
    from bnbenv.solve.pairs import loader_for
    from bnbenv.solve.versions import public

    rule = loader_for(matrix, str(public(made.version)))
    libc, needs = facts.platform.libc, made.row.libc_tag
    old = libc is not None and libc.name == "glibc" and needs is not None and number(libc.version) < number(needs)
    return {
        "exact": rule is None or rule.rule != "same-major",
        "torch": beside._asdict() if beside is not None and beside.cuda is not None else None,
        "older_libc": libc.version if old and libc is not None else None,
    }
