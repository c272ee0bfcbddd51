"""Compiling bitsandbytes for a fix: whether that can be done here, and doing it."""

from __future__ import annotations

from pathlib import Path

from bnbenv.build.model import Order
from bnbenv.build.ports import Ports
from bnbenv.build.source import as_it_is
from bnbenv.doctor.fixes.model import Compile, Hands, Install
from bnbenv.doctor.model import Examination
from bnbenv.envs.builds import source_of
from bnbenv.envs.project import Project, find_project
from bnbenv.envs.resolve import Setting, sources_of
from bnbenv.envs.toolbox import build_ports
from bnbenv.envs.wishes import EnvWish, SourcesWish, Wishes, load_wishes
from bnbenv.matrix.model import Matrix
from bnbenv.progress import Progress, Quiet, during


def project_for(hands: Hands) -> Project:
    """The project whose configuration of sources holds; for a folder without one, that folder."""
    found = hands.project or find_project(hands.cwd, hands.environ)
    return Project(hands.cwd, hands.cwd / "bnbenv.toml") if found.user else found


def sources_wish(project: Project) -> SourcesWish:
    """``[sources]`` of a project. Raises InputError."""
    return load_wishes(project).sources if project.config.exists() else SourcesWish()


def against(action: Compile, examination: Examination, matrix: Matrix, hands: Hands) -> str:
    """Why it cannot be compiled here; empty: toolkit and source are within reach. Raises BnbenvError, OSError."""
    from bnbenv.build.source import offered
    from bnbenv.build.toolchain import within_reach

    ports, source = _handed(examination, matrix, hands, Quiet())
    with during(hands.progress, "asking whether bitsandbytes can be compiled here"):
        reason = within_reach(action.cuda, action.archs, ports, matrix, examination.facts.toolkits)
        if not reason and action.release not in offered(source, ports, matrix.upstream):
            return f"its source has no bitsandbytes {action.release}"
    return reason


def made(action: Compile, examination: Examination, matrix: Matrix, hands: Hands) -> Install:
    """Compile it, or take it out of the cache; the action that installs it. Raises BnbenvError, OSError."""
    from bnbenv.build.run import build

    ports, source = _handed(examination, matrix, hands, hands.progress)
    order = Order(None if as_it_is(source) else action.release, action.cuda, action.archs, source)
    built = build(order, ports, matrix, examination.facts.toolkits)
    return Install(
        requirements=(f"bitsandbytes=={built.version}",),
        reinstall=("bitsandbytes",),
        no_deps=True,
        hashes={"bitsandbytes": built.sha256},
        folder=str(Path(built.wheel).parent),
    )


def _handed(examination: Examination, matrix: Matrix, hands: Hands, progress: Progress) -> tuple[Ports, str | None]:
    """What a build is handed, and the source that bnbenv.toml names. Raises InputError, UsageError."""
    project = project_for(hands)
    wishes = Wishes(envs={"bnb": EnvWish()}, sources=sources_wish(project))
    setting = Setting(project, wishes, examination.facts, matrix, hands.environ, hands.runner, None, progress)
    cwd = project.root if project.root.is_dir() else hands.home
    return build_ports(hands.environ, hands.runner, sources_of(setting), cwd, progress), source_of(setting)
