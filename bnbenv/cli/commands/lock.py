"""``bnbenv lock``: choose again and rewrite the lock; the environment is left for ``sync``."""

from __future__ import annotations

import argparse

import msgspec

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import (
    add_build,
    add_env,
    facts_of,
    holding,
    project_of,
    selected,
    setting_of,
    stop_on_mismatch,
    told,
    wished,
)
from bnbenv.cli.several import about, of_several
from bnbenv.envs.check import in_use, observe_host
from bnbenv.errors import BnbenvError, Exit, RebootRequired
from bnbenv.paths import write_atomically

SUMMARY = """\
Choose again what fits best, and rewrite pylock.<env>.toml with the hashes of all
packages and the decision. The environment itself stays as it is until the next
sync. Where no published wheel fits, bitsandbytes is compiled for these GPUs."""
EXAMPLE = "bnbenv lock && bnbenv sync --locked"
EXITS = (
    "0 done, 1 failed, 2 unreadable input, 4 no known-good combination, 6 reboot required, 7 a package "
    "source cannot be reached, 8 another bnbenv is at work"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_env(parser)
    add_build(parser)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from dataclasses import replace

    from bnbenv.envs.adapt import stop_on_loss
    from bnbenv.envs.record import file_digest
    from bnbenv.envs.sync import new_lock
    from bnbenv.envs.wishes import decode_wishes, load_wishes

    project = project_of(args, ctx)
    stop_on_mismatch(observe_host(ctx.environ, ctx.runner), project)
    rows = []
    with holding(project, ctx):
        before = file_digest(project.config)
        config = wished(project, args.env, {}, args.build)
        wishes = load_wishes(project) if config is None else decode_wishes(config.encode(), str(project.config))
        setting = setting_of(project, wishes, facts_of(ctx), ctx)
        setting = replace(setting, config=config, config_before=before)
        names = selected(wishes, args.env, project)
        for env in names:
            with about(env, len(wishes.envs) > 1):
                stop_on_loss(setting, env, in_use(project, env))
        failed: dict[str, BnbenvError] = {}
        for env in names:
            use = in_use(project, env)
            try:
                with about(env, len(wishes.envs) > 1):
                    locked, solution = new_lock(setting, env, use, anew=True)
            except BnbenvError as error:
                if len(names) == 1 or config is not None or isinstance(error, RebootRequired):
                    raise
                failed[env] = error
                continue
            setting.write_wishes()
            path = project.lock(env)
            changed = not path.exists() or path.read_text(encoding="utf-8", errors="replace") != locked.text
            if changed:
                write_atomically(path, locked.text)
            choice = msgspec.to_builtins(solution.choice)
            packages = locked.packages
            if use.record is not None and use.record.adopted is not None:  # it needs no lock, so sync leaves it in use
                made = f"what is locked is made with: bnbenv sync --fresh --env {env}"
                ctx.progress.say(f"{env}: {use.record.adopted} stays in use; {made}")
            rows.append({"env": env, "path": str(path), "changed": changed, "choice": choice, "packages": packages})
    if failed:
        raise of_several(failed, [f"pylock.{row['env']}.toml" for row in rows], "written")
    for line in told(project, {}, args.build):
        ctx.progress.say(line)
    return Outcome(Exit.DONE, {"schema": "bnbenv.lock/1", "locks": rows})
