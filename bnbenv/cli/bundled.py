"""What ``sync --bundle`` does before and after the sync itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bnbenv.cli.command import Context
from bnbenv.cli.common import project_of
from bnbenv.envs.project import CONFIG, Project
from bnbenv.envs.trust import check_trust
from bnbenv.errors import BnbenvError, UsageError

if TYPE_CHECKING:
    from bnbenv.bundle.archive import Reader
    from bnbenv.envs.resolve import Setting

_WISHES = ("torch", "bitsandbytes", "python", "gpus", "backend", "build")


@contextmanager
def without_network() -> Iterator[None]:
    """What cannot be done without the network names the option that took it away."""
    try:
        yield
    except BnbenvError as error:
        error.message = error.message.replace("(BNBENV_OFFLINE)", "(--offline)")
        error.next_step = error.next_step.replace("Unset BNBENV_OFFLINE", "Leave out --offline")
        raise


def check_options(args: argparse.Namespace) -> None:
    """Raises UsageError for wishes beside a bundle: it was made for those of its bnbenv.toml."""
    given = [f"--{name}" for name in _WISHES if getattr(args, name, None) is not None]
    if given:
        message = f"{given[0]} is a wish, and a bundle holds what was wished for when it was made"
        raise UsageError("usage", message, "Write it into bnbenv.toml, and make a bundle of that.")


@contextmanager
def opened(file: str, ctx: Context, sha256: str | None = None) -> Iterator[Reader]:
    """The bundle; with ``sha256`` (lower case) all of it is compared first. Raises InputError."""
    from bnbenv.bundle.use import open_bundle
    from bnbenv.progress import shown_size

    passed = 0

    def told(size: int) -> None:
        nonlocal passed
        passed += size
        ctx.progress.at(f"comparing the bundle with its sha256, {shown_size(passed)}")

    reader = open_bundle(ctx.cwd / file, file, sha256, told)
    ctx.progress.at("")
    with reader:
        yield reader


def project_for(reader: Reader, args: argparse.Namespace, ctx: Context) -> Project:
    """The project to sync: where there is no bnbenv.toml, that of the bundle is for this folder.

    Raises UsageError (not to be trusted), InputError.
    """
    if args.env is not None:
        from bnbenv.envs.project import check_env_name, find_project

        check_env_name(args.env, "--env", "")
        project = find_project(ctx.cwd, ctx.environ, args.project)
        check_trust(project, ctx.environ)
    else:
        project = project_of(args, ctx)
    if project.user and reader.manifest.config:
        project = Project(ctx.cwd, ctx.cwd / CONFIG)
        check_trust(project, ctx.environ)
    return project


def config_for(reader: Reader, project: Project) -> str | None:
    """The bundle's bnbenv.toml where there is none here; None: the one that is here stays. Raises InputError."""
    from bnbenv.bundle.use import config_of

    return None if project.config.exists() else config_of(reader)


@contextmanager
def supplying(
    reader: Reader, setting: Setting, names: tuple[str, ...], ctx: Context
) -> Iterator[tuple[Setting, tuple[str, ...]]]:
    """The setting with what the bundle brings, and the environments that are in it. Raises as ``supplied``."""
    from bnbenv.bundle.use import check_wishes, keep_rows, supplied

    wanted = check_wishes(reader, setting.wishes, names, str(setting.project.config))
    for env in names:
        if env not in wanted:
            ctx.progress.say(f"{env}: not in {reader.name}, stays as it is")
    with supplied(reader, setting, wanted) as (own, rows):
        yield own, wanted
        keep_rows(rows, ctx.environ, own)


@contextmanager
def as_if_supplied(reader: Reader | None, setting: Setting, env: str, ctx: Context) -> Iterator[Setting]:
    """The setting for one environment, with what the bundle would bring; nothing of the project is touched."""
    if reader is None:
        yield setting
        return
    import tempfile
    from pathlib import Path

    from bnbenv.bundle.use import check_wishes, supplied

    check_wishes(reader, setting.wishes, (env,), str(setting.project.config))
    with (
        tempfile.TemporaryDirectory(prefix="bnbenv-") as folder,
        supplied(reader, setting, (env,), Path(folder) / "bundle") as (own, _),
    ):
        yield own
