"""Source builds in the pipeline: what can be compiled here, a chosen build carried out, and one that a lock names.

Nothing of a lock is believed about a compiled wheel: it has to lie in this user's own cache of builds, and is measured
there each time that the lock is judged.
"""

from __future__ import annotations

import platform
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from bnbenv.build.model import Built, Order
from bnbenv.build.order import ordered
from bnbenv.build.ports import Ports
from bnbenv.envs.lockfile import Locked, locked_build
from bnbenv.envs.plan import judged_again
from bnbenv.envs.sources import PackageSources
from bnbenv.envs.toolbox import build_ports, builds_home
from bnbenv.envs.wishes import UPSTREAM
from bnbenv.errors import BnbenvError, Failed, SourceUnreachable, UsageError
from bnbenv.facts.model import Toolkit as CudaToolkit
from bnbenv.matrix.drivers import number, too_old
from bnbenv.matrix.model import BitsandbytesWheel, Matrix, Toolkit, TorchBuild
from bnbenv.matrix.native import library_cuda
from bnbenv.paths import Sysroot, expand
from bnbenv.progress import About, during
from bnbenv.solve.coverage import sass_for
from bnbenv.solve.model import KEEP, Availability, Buildable, EvidenceLine, Request, Solution
from bnbenv.solve.situation import Situation, on_windows_driver, situate
from bnbenv.solve.versions import admits, public

if TYPE_CHECKING:
    from bnbenv.envs.resolve import Setting

_AT_ONCE = 4  # questions to uv: each takes a core for a moment
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|file:|[\w.-]+@[\w.-]+:")  # user@host:path is git's own


# ---- what can be compiled --------------------------------------------------------------------------------------


def survey_builds(
    setting: Setting, sources: PackageSources, request: Request, found: Availability
) -> tuple[Buildable, BnbenvError | None]:
    """What can be compiled here for the torch builds that may be taken: toolkits, and releases that have a source.

    Second, why the source does not answer. It takes a second or two, and nothing is downloaded but a list of tags.
    Raises UsageError for a source that is none.
    """
    facts, request = setting.ahead(request)
    here = ({"win32": "windows", "darwin": "macos"}.get(sys.platform, "linux"), platform.machine())
    there = (facts.platform.os, facts.platform.machine)
    if there != here:  # another machine's facts
        because = f"this machine is {' on '.join(here)}, and what it compiles does not run on {' on '.join(there)}"
        return Buildable({}, frozenset(), because), None
    ports = ports_of(setting, sources)
    situation = situate(facts, setting.matrix, request, found, managed=True)
    with during(setting.progress, "asking what can be compiled here"), ThreadPoolExecutor(_AT_ONCE + 1) as pool:
        releases = pool.submit(_releases, setting, ports)
        toolkits = _toolkits(setting, situation, ports, found, pool)
        versions, error = releases.result()
    return Buildable(toolkits, versions, error.message if error else ""), error


def _toolkits(
    setting: Setting, situation: Situation, ports: Ports, found: Availability, pool: ThreadPoolExecutor
) -> dict[str, str]:
    """Why the toolkit of a CUDA release cannot be had, empty where it can.

    First of the torch builds' own releases; of others of the same major only where that one cannot be had.
    """
    from bnbenv.build.toolchain import within_reach

    rows = {row.cuda: row for row in setting.matrix.toolkits}
    wanted = sorted({build.cuda for build in _torches(setting, situation, found) if build.cuda}, key=number)

    toolkits = toolkits_of(setting)

    def why_not(cuda: str) -> str:
        archs = _targets(situation, rows[cuda])
        if archs is None:
            return f"the compiler of CUDA {cuda} is not for these GPUs"
        return within_reach(cuda, archs, ports, setting.matrix, toolkits)

    def each(releases: list[str]) -> dict[str, str]:
        return dict(zip(releases, pool.map(why_not, releases), strict=True))

    asked = each([cuda for cuda in wanted if cuda in rows])
    lacking = {_major(cuda) for cuda in wanted if asked.get(cuda, "-")}
    return {**asked, **each([cuda for cuda in rows if _major(cuda) in lacking and cuda not in asked])}


def _torches(setting: Setting, situation: Situation, found: Availability) -> list[TorchBuild]:
    """The torch builds that this host's driver runs and that may be taken."""
    host, driver, wish = situation.facts.platform, situation.driver.version, situation.request.torch
    windows = on_windows_driver(situation.facts)
    if wish == KEEP:
        return [found.existing.torch] if found.existing else []
    builds = (
        build
        for build in (*found.local, *setting.matrix.torch)
        if (build.os, build.machine) == (host.os, host.machine) and admits(wish, build.version)
    )
    rows = situation.drivers.values()
    return [one for one in builds if one.cuda and not (driver and too_old(rows, one.cuda, driver, windows))]


def _targets(situation: Situation, toolkit: Toolkit) -> tuple[str, ...] | None:
    """What a toolkit would compile for the selected GPUs; None where it cannot for one of them."""
    plain = tuple(name for name in toolkit.sass if name[-1:].isdigit())
    found = {sass_for(gpu.capability, plain) for gpu in situation.gpus}
    return None if None in found else ordered(name for name in found if name)


def _major(cuda: str) -> str:
    return cuda.partition(".")[0]


def _releases(setting: Setting, ports: Ports) -> tuple[frozenset[str], BnbenvError | None]:
    """The versions whose source can be had, those that were fetched before among them, and why none can.

    Raises UsageError for a source that is none.
    """
    from bnbenv.build.source import offered

    try:
        return frozenset(offered(source_of(setting), ports, setting.matrix.upstream)), None
    except (SourceUnreachable, Failed) as error:  # Failed: there is no git, or it failed
        return frozenset(), error


# ---- carrying one out ------------------------------------------------------------------------------------------


def source_of(setting: Setting) -> str | None:
    """What bnbenv.toml names as the source, folders absolute; None: upstream's repository."""
    text = setting.wishes.sources.bitsandbytes_source
    if text == UPSTREAM:
        return None
    return text if _ADDRESS.match(text) else str(setting.project.root / expand(text))


def toolkits_of(setting: Setting) -> tuple[CudaToolkit, ...]:
    """The CUDA toolkits of this machine, which compiles, whatever machine the facts were recorded on."""
    if not setting.elsewhere and not setting.environ.get("BNBENV_FACTS"):
        return setting.facts.toolkits
    from bnbenv.facts.toolkits import find_toolkits

    return find_toolkits(setting.environ, Sysroot.from_environment(setting.environ), setting.runner)[0]


def ports_of(setting: Setting, sources: PackageSources, env: str = "") -> Ports:
    """What a build is handed. Raises UsageError where this user has no place for data."""
    progress = About(setting.progress, env) if env else setting.progress
    return build_ports(setting.environ, setting.runner, sources, setting.project.root, progress)


def order_of(setting: Setting, solution: Solution) -> Order:
    """What to compile for a solution whose bitsandbytes is a build that is still to be made."""
    from bnbenv.build.source import as_it_is

    chosen, source = solution.choice.bitsandbytes, source_of(setting)
    ref = None if as_it_is(source) else str(public(chosen.version))
    cuda = library_cuda(chosen.library) or solution.choice.torch.cuda or ""
    archs = ordered(cover.bitsandbytes.removeprefix("sass ") for cover in solution.covers)
    return Order(ref, cuda, archs, source)


def build_for(
    setting: Setting, env: str, solution: Solution, sources: PackageSources, request: Request, torch: TorchBuild
) -> tuple[Solution, Built]:
    """Compile what a solution asks for, or take it from the cache; the solution then names the wheel.

    The wheel is judged by the rules for any other: what it holds decides. Raises what ``bnbenv.build.run.build``
    raises; Failed (``not-as-asked``) where it does not fit after all.
    """
    from bnbenv.build.run import build

    order = order_of(setting, solution)
    built = build(order, ports_of(setting, sources, env), setting.matrix, toolkits_of(setting))
    how = "was compiled before" if built.cached else f"was compiled in {built.seconds:.0f} s"
    setting.progress.say(f"{env}: bitsandbytes {built.version} {how}")
    facts, request = setting.ahead(request)
    made = msgspec.structs.replace(solution.choice.bitsandbytes, version=built.version)
    choice = msgspec.structs.replace(solution.choice, wheel=made)
    again = judged_again(choice, (torch,), request, facts, with_row(setting.matrix, built.row))
    if isinstance(again, str):
        message = f"what was compiled does not fit this host: {again}"
        raise Failed("not-as-asked", message, f"See what was compiled: bnbenv matrix inspect {built.wheel}")
    taken = msgspec.structs.replace(again.choice.bitsandbytes, source="build")
    choice = msgspec.structs.replace(again.choice, wheel=taken)
    evidence = (*again.evidence, *_compiled(solution, built))
    return msgspec.structs.replace(solution, choice=choice, covers=again.covers, evidence=evidence), built


def _compiled(solution: Solution, built: Built) -> list[EvidenceLine]:
    """What the wheel was made of, and what the solver knew of the compiler."""
    origin = built.source
    commit = f" commit {origin.commit}" if origin.commit else ""
    ref = f" {origin.ref}" if origin.ref else ""
    source = f"{origin.asked}{ref}{commit} sha256:{origin.digest}"
    lines = [line for line in solution.evidence if line.about.startswith("compiler of ")]
    return [EvidenceLine(f"source of bitsandbytes {public(built.version)}", "measured", source), *lines]


# ---- one that a lock names -------------------------------------------------------------------------------------


def own_row(setting: Setting, locked: Locked) -> tuple[BitsandbytesWheel | None, str]:
    """The row of the compiled wheel that a lock names, measured now; or None, and why it cannot be used.

    It has to lie in this user's own cache of builds, with the bytes of the lock.
    """
    from bnbenv.matrix.measure import measure_bitsandbytes
    from bnbenv.matrix.wheel import local_wheel

    wheel = locked_build(locked)
    version = locked.packages["bitsandbytes"]
    try:
        home = builds_home(setting.environ) / "wheels"
        if wheel is None or wheel.resolve().parent.parent != home.resolve() or not wheel.is_file():
            return None, f"bitsandbytes {version} was compiled elsewhere, or is no longer in the cache of builds"
        with local_wheel(wheel) as opened:
            if opened.sha256 not in locked.hashes["bitsandbytes"]:
                return None, f"bitsandbytes {version} in the cache of builds is not the wheel that was locked"
            return measure_bitsandbytes(opened), ""
    except (BnbenvError, OSError) as error:
        if isinstance(error, UsageError):  # no place for this user's data, or one that others may write into
            raise
        return None, f"bitsandbytes {version} in the cache of builds cannot be read ({error})"


def with_row(matrix: Matrix, row: BitsandbytesWheel) -> Matrix:
    """The matrix, and a wheel that was compiled here."""
    return msgspec.structs.replace(matrix, bitsandbytes=(row, *matrix.bitsandbytes))
