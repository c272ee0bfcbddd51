"""From wishes to a lock: which sources answer, what fits, and the full set of packages with hashes from uv."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bnbenv.build.model import Built
from bnbenv.envs.elsewhere import platform_variables, resolving_python
from bnbenv.envs.families import OWN_BUILD, asked_for, refuse_mixed, requirement_lines
from bnbenv.envs.keep.above import OnTop
from bnbenv.envs.lockfile import CompiledWheel, Decision, Locked, compose, read_lock
from bnbenv.envs.overlay import overlay
from bnbenv.envs.project import Project
from bnbenv.envs.record import digest, file_digest
from bnbenv.envs.sources import PackageSources, read_sources
from bnbenv.envs.supply import Supply
from bnbenv.envs.trust import check_files, check_trust
from bnbenv.envs.uv import Uv
from bnbenv.envs.uvconfig import project_file
from bnbenv.envs.wishes import SourcesWish, Wishes
from bnbenv.errors import Exit, Failed, NoCombination, SourceUnreachable
from bnbenv.facts.model import Driver, HostFacts, Python
from bnbenv.matrix.drivers import number
from bnbenv.matrix.model import Matrix, TorchBuild
from bnbenv.paths import Sysroot, user_home, write_atomically
from bnbenv.process import Runner
from bnbenv.progress import About, Progress, Quiet
from bnbenv.redact import strip_credentials
from bnbenv.solve.model import Availability, Refusal, Request, Solution
from bnbenv.solve.situation import with_request
from bnbenv.solve.solver import solve

if TYPE_CHECKING:
    from bnbenv.envs.keep.find import Kept


@dataclass(frozen=True)
class Setting:
    """What resolving needs to know besides the wishes of one environment.

    ``config`` is a new text of bnbenv.toml that the wishes stand in, written once they are fulfilled; None: it stays.
    ``config_before`` is the digest of the file that it was made from. ``present`` is the driver that is there, where
    the facts are as if another one were. ``elsewhere``: what is locked is for another machine, the one of the facts.
    ``supply`` is what a bundle brings: nothing is taken from anywhere else. ``kept`` is the torch that the environment
    at hand lies on, where that is wished for. ``waiting`` are the texts of locks, by environment, that are to take the
    place of those in the project.
    """

    project: Project
    wishes: Wishes
    facts: HostFacts
    matrix: Matrix
    environ: Mapping[str, str]
    runner: Runner
    config: str | None = None
    progress: Progress = field(default_factory=Quiet)
    config_before: str | None = None
    present: Driver | None = None
    elsewhere: bool = False
    supply: Supply | None = None
    kept: Kept | None = None
    waiting: Mapping[str, str] = field(default_factory=dict)

    def ahead(self, request: Request) -> tuple[HostFacts, Request]:
        """What to judge by: with a driver that is asked about, the host as it is and the wish for that driver."""
        if self.present is None:
            return self.facts, request
        facts = msgspec.structs.replace(self.facts, driver=self.present)
        return facts, with_request(request, driver=self.facts.driver.version)

    def wishes_to_write(self) -> str | None:
        """The new bnbenv.toml, if it is to be written. Raises Failed if somebody edited the file meanwhile."""
        now = file_digest(self.project.config)
        if self.config is None or now == digest(self.config.encode()):
            return None
        if now != self.config_before:
            message = f"{self.project.config} was edited meanwhile, so the options were not written into it"
            raise Failed("edited-meanwhile", message, "Run the same command again; what was made is taken up.")
        return self.config

    def write_wishes(self) -> None:
        """Write the new bnbenv.toml, if there is one. Raises Failed if somebody edited the file meanwhile, OSError."""
        text = self.wishes_to_write()
        if text is not None:
            write_atomically(self.project.config, text)


def user_matrix(environ: Mapping[str, str]) -> Matrix:
    """The shipped matrix with the user's own newer rows over it. Raises InputError."""
    from bnbenv.matrix.load import BITSANDBYTES, TORCH, load_matrix

    folder = overlay(environ)
    if folder is None or not folder.is_dir():
        return load_matrix()
    own = Project(folder, folder)  # its rows decide what is installed
    check_trust(own, environ)
    check_files((folder / BITSANDBYTES, folder / TORCH), own, environ)
    return load_matrix(folder)


def sources_of(setting: Setting) -> PackageSources:
    """The package sources of a project.

    Raises InputError for a configuration that cannot be read, UsageError for one that is not to be trusted.
    """
    if setting.supply is not None:
        return setting.supply.sources()
    return sources_for(setting.project, setting.wishes.sources, setting.matrix, setting.environ)


def sources_for(project: Project, wish: SourcesWish, matrix: Matrix, environ: Mapping[str, str]) -> PackageSources:
    """The same before there are facts. Raises InputError, UsageError."""
    uv_file = project_file(environ, project.root)
    check_files([uv_file] if uv_file else [], project, environ)
    sysroot = Sysroot.from_environment(environ)
    return read_sources(environ, sysroot, wish, user_home(), project.root, matrix.pytorch_index)


def decide(setting: Setting, request: Request, found: Availability, sources: PackageSources) -> Solution:
    """The solver's choice; what can be compiled is asked only where that could be it.

    Raises NoCombination or SourceUnreachable with the conflict and the options in it, UsageError (source of builds).
    """
    facts, asked = setting.ahead(request)
    answer = solve(facts, setting.matrix, asked, found)
    no_source = None
    if would_compile(answer, asked):
        from bnbenv.envs.builds import survey_builds

        builds, no_source = survey_builds(setting, sources, request, found)
        found = msgspec.structs.replace(found, builds=builds)
        answer = solve(facts, setting.matrix, asked, found)
    if isinstance(answer, Solution):
        return answer
    detail = "\n".join(f"{part.because} [{part.source}]" for part in answer.conflict)
    offline = sources_of(setting).offline if answer.unreachable else None
    if offline is not None:
        message = f"what fits this machine has to be downloaded, and the network is switched off ({offline})"
        step = "Take offline out of uv.toml" if offline == "uv.toml" else f"Unset {offline}"
        raise SourceUnreachable("offline", message, f"{step}, then run it again.", detail)
    if answer.unreachable:
        message = "what fits this machine cannot be had: a package source does not answer"
        step = "Check the network, the proxy and the index in uv.toml, pip.conf or bnbenv.toml, then run it again."
        # To compile is no answer to a network that is away for a moment.
        if answer.options and "--build" not in (answer.options[0].solve_args or ()):
            step = _first_option(answer)
        raise SourceUnreachable("source-unreachable", message, step, detail)
    if no_source is not None and any(part.rule == "build-source" for part in answer.conflict):
        why = "is to be compiled, as was asked" if request.build == "always" else "has to be compiled for this machine"
        message = f"bitsandbytes {why}, and {no_source.message}"
        copy = 'name a copy of the source in bnbenv.toml: bitsandbytes-source = "..." in [sources]'
        step = f"Check the network and run it again, or {copy}"
        raise type(no_source)(
            no_source.code, message, step if no_source.exit == Exit.UNREACHABLE else no_source.next_step, detail
        )
    message = "no known-good combination fits this machine and the wishes"
    raise NoCombination("no-combination", message, _first_option(answer), detail)


def would_compile(answer: Solution | Refusal, request: Request) -> bool:
    """Whether an answer hangs on what can be compiled here, which the solver was not told yet."""
    if isinstance(answer, Solution):
        return answer.choice.compiled
    return request.build == "always" or any(part.rule == "toolkit" for part in answer.conflict)


def _first_option(refusal: Refusal) -> str:
    if not refusal.options:
        return "See: bnbenv facts"
    first = refusal.options[0]
    change = f"{first.change[:1].upper()}{first.change[1:]}"
    if first.change.startswith("keep "):  # what is there: nothing has to be run
        return f"{change}: it gives {first.gives}"
    return f"{change}: {first.command or 'then run bnbenv sync'} (gives {first.gives})"


def uv_for(setting: Setting, env: str, sources: PackageSources) -> Uv:
    """uv with these sources, telling what it does for an environment. Raises Failed if there is no uv."""
    own = {name: value for name, value in OWN_BUILD.items() if name not in setting.environ}
    return Uv.find(
        setting.runner,
        {**sources.uv_environment(), **own, **platform_variables(setting)},
        setting.project.root,
        sources.uv_arguments(),
        About(setting.progress, env),
    )


def make_lock(
    setting: Setting,
    env: str,
    solution: Solution,
    sources: PackageSources,
    found: Availability,
    keep: Mapping[str, str] | None = None,
    built: Built | None = None,
) -> Locked:
    """Have uv resolve the full set for a choice, and check that it is the choice; ``keep`` as in ``Uv.compile``.

    ``built`` is the wheel of a choice that was compiled; only uv is told of its folder.

    Raises NoCombination (the requirements do not fit it), SourceUnreachable, Failed.
    """
    choice = solution.choice
    if choice.torch.index is not None:
        sources = sources.with_pytorch(choice.torch.index)
    if built is not None:
        sources = sources.with_folder(Path(built.wheel).parent)
    wish, on_top = setting.wishes.envs[env], OnTop(setting.kept, choice)
    requirements = [*requirement_lines(choice, wish.package), *asked_for(setting.matrix, choice, wish.requirements)]
    with on_top.resolving(sources) as (sources, torchs):
        uv = uv_for(setting, env, sources)
        python, target = (on_top.python, ()) if on_top.python else resolving_python(setting, uv, choice.python)
        text = uv.compile("\n".join([*torchs, *requirements, ""]), python, {**(keep or {}), **on_top.preferred}, target)
    text, base = on_top.without(strip_credentials(text))
    torch = chosen_torch(setting, found, solution)
    wheel = CompiledWheel(**msgspec.structs.asdict(built.row)) if built is not None else None
    decision = Decision(env, setting.wishes.digest(env), _kept(solution), torch, wheel=wheel, base=base)
    locked = read_lock(compose(text, decision), setting.project.lock(env).name)
    _check_lock(locked, solution)
    if not setting.wishes.policy.mix:
        refuse_mixed(wish.family, locked.packages, wish.requirements, setting.matrix.families)
    return locked


def _kept(solution: Solution) -> Solution:
    """The lock holds the decision and its evidence; what was rejected on the day is in the output only."""
    return msgspec.structs.replace(solution, rejected=(), notes=())


def chosen_torch(setting: Setting, found: Availability, solution: Solution) -> TorchBuild:
    """The row of the chosen torch build."""
    choice, platform = solution.choice.torch, setting.facts.platform
    if choice.source == "existing" and found.existing is not None:
        return found.existing.torch
    tag = f"cp{solution.choice.python.replace('.', '')}"
    wanted = (choice.version, choice.source, choice.index, choice.cuda, platform.os, platform.machine)
    return next(
        build
        for build in (*found.local, *setting.matrix.torch)
        if (build.version, build.source, build.index, build.cuda, build.os, build.machine) == wanted
        and build.sha256 == solution.torch_sha256
        and tag in build.pythons
    )


def _check_lock(locked: Locked, solution: Solution) -> None:
    """uv resolved on its own: what it took must be what was chosen, to the bytes where they were measured."""
    choice = solution.choice
    problem = None
    if choice.torch.source == "existing":
        pass  # it lies below, and is not in the lock
    elif locked.packages.get("torch") != choice.torch.version:
        problem = f"torch {choice.torch.version} was chosen and uv took {locked.packages.get('torch')}"
    elif solution.torch_sha256 and solution.torch_sha256 not in locked.hashes["torch"]:
        problem = f"the source's torch {choice.torch.version} is not the wheel that was measured"
    for name, sha256 in choice.hashes.items():
        if problem is None and sha256 not in locked.hashes.get(name, frozenset()):
            problem = f"the source's {name} {choice.versions[name]} is not the file that was measured"
    if problem:
        step = "Check which index serves it: one may hold a changed copy."
        raise Failed("not-as-measured", problem, step)


def interpreter(setting: Setting, minor: str) -> str | None:
    """The path of the newest interpreter of a minor version, None if there is none.

    The facts may be another machine's: where the one they name is not here, it is this machine's own.
    """
    recorded = _of_minor(setting.facts.pythons, minor)
    here = [python for python in recorded if Path(python.path).exists()]
    if recorded and not here:
        from bnbenv.facts.pythons import find_pythons

        here = _of_minor(find_pythons(setting.environ, setting.runner, None, sys.platform)[0], minor)
    best = max(here, key=lambda python: number(python.version), default=None)
    return best.path if best else None


def _of_minor(pythons: tuple[Python, ...], minor: str) -> list[Python]:
    return [python for python in pythons if python.version.startswith(f"{minor}.")]
