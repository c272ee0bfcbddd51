"""What ``sync`` and ``fleet apply`` both do while they hold the project."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from bnbenv.cli.bundled import supplying
from bnbenv.cli.command import Context
from bnbenv.cli.common import facts_of, selected, setting_of
from bnbenv.cli.several import about
from bnbenv.envs.adapt import stop_on_loss
from bnbenv.envs.check import Host, in_use
from bnbenv.envs.firststart import check_platform
from bnbenv.envs.generations import clear_strays, note_wishes_file
from bnbenv.envs.guard import follow
from bnbenv.envs.project import Project, env_python
from bnbenv.envs.record import file_digest
from bnbenv.envs.resolve import Setting
from bnbenv.envs.stage import Options
from bnbenv.envs.sync import Done, sync_env
from bnbenv.envs.wishes import decode_wishes, load_wishes
from bnbenv.errors import BnbenvError, RebootRequired
from bnbenv.facts.host import HostPort, read_platform
from bnbenv.paths import Sysroot

if TYPE_CHECKING:
    from bnbenv.bundle.archive import Reader
    from bnbenv.facts.model import HostFacts


class Work(NamedTuple):
    """What is to be synced: the environments of ``names``, which are not always all of bnbenv.toml."""

    setting: Setting
    names: tuple[str, ...]
    host: Host
    options: Options

    @property
    def several(self) -> bool:
        return len(self.setting.wishes.envs) > 1


@contextlib.contextmanager
def prepared(
    project: Project,
    host: Host,
    ctx: Context,
    options: Options,
    new_config: Callable[[], str | None],
    env: str | None = None,
    bundle: Reader | None = None,
    facts: HostFacts | None = None,
) -> Iterator[Work]:
    """Everything that a sync needs to know. The caller holds the project.

    ``new_config`` is asked for a new text of bnbenv.toml (None: it stays). Raises InputError, UsageError, NoCombination
    (a GPU is lost, or the bundle is for other machines).
    """
    with contextlib.ExitStack() as stack:
        shutil.rmtree(project.unpacked, ignore_errors=True)  # what a killed run left
        before = file_digest(project.config)
        config = new_config()
        wishes = load_wishes(project) if config is None else decode_wishes(config.encode(), str(project.config))
        names = selected(wishes, env, project)
        setting = setting_of(project, wishes, facts_of(ctx) if facts is None else facts, ctx)
        setting = replace(setting, config=config, config_before=before)
        if bundle is not None:
            setting, names = stack.enter_context(supplying(bundle, setting, names, ctx))
        recorded = bool(ctx.environ.get("BNBENV_FACTS"))
        if recorded:
            sysroot = Sysroot.from_environment(ctx.environ)
            check_platform(setting.facts, read_platform(ctx.environ, sysroot, ctx.runner, HostPort.current())[0])
        work = Work(setting, names, host, replace(options, recorded=recorded))
        for env in names:  # before the first of them is touched
            with about(env, work.several):
                stop_on_loss(setting, env, in_use(project, env), options.accepted)
        yield work


def carry_out(work: Work, ctx: Context) -> tuple[list[Done], dict[str, BnbenvError]]:
    """Sync them; what was done, and which of several failed. The caller holds the project.

    Raises the error where there is but one, or where it is one for all.
    """
    setting, project, together = work.setting, work.setting.project, work.options.together
    clear_strays(project, setting.wishes.envs)
    done: list[Done] = []
    failed: dict[str, BnbenvError] = {}
    for env in work.names:
        try:
            with about(env, work.several):
                done.append(sync_env(setting, env, work.host, work.options))
            if together is not None:
                setting = replace(setting, waiting={one.env: one.lock for one in together.switches})
        except BnbenvError as error:
            # What was asked for by options is of one environment, or of all alike.
            of_all = setting.config is not None or together is not None or isinstance(error, RebootRequired)
            if len(work.names) == 1 or of_all:
                raise
            failed[env] = error
            ctx.progress.say(f"{error.message}; it stays as it is")
            continue
        if work.several and switched(done[-1]) and together is None:
            where = env_python(project.link(env))
            ctx.progress.say(f"{env}: switched to generation {done[-1].generation}, use it: {where}")
    if together is not None:
        together.commit(setting)
    setting.write_wishes()  # where nothing else had to be done
    for env in (one.plan.env for one in done):
        follow(project, env)
        note_wishes_file(project, env)
    return done, failed


def switched(done: Done) -> bool:
    """Whether another generation is in use than before."""
    return any(action["action"] in ("stage", "switch") for action in done.actions)
