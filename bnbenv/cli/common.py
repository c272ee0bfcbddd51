"""What several commands need: their options, the project, the wishes, the facts."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bnbenv.cli.command import Context
from bnbenv.envs.check import Host, Reason, in_use
from bnbenv.envs.project import Project, check_env_name, find_project
from bnbenv.envs.trust import check_trust

if TYPE_CHECKING:
    from bnbenv.envs.resolve import Setting
    from bnbenv.envs.wishes import Wishes
    from bnbenv.facts.model import HostFacts


def add_env(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", metavar="NAME", help="the environment (default: all)")


def add_one_env(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", metavar="NAME", default="bnb", help="the environment (default: bnb)")


def add_wishes(parser: argparse.ArgumentParser, keep: bool = False) -> None:
    """Options that are wishes; sync writes them into bnbenv.toml. ``keep``: torch may be kept as it is."""
    more = '; "keep": the one that is there' if keep else ""
    parser.add_argument("--torch", metavar="SPEC", help=f'torch, such as "2.9.1" or ">=2.8"{more}')
    parser.add_argument("--bitsandbytes", metavar="SPEC", help="a version or specifier of bitsandbytes")
    parser.add_argument("--python", metavar="SPEC", help="a version or specifier of Python")
    parser.add_argument("--gpus", metavar="WHICH", help='which GPUs: "all", indices "0,1", or UUIDs')
    parser.add_argument(
        "--backend", choices=("auto", "cuda", "cpu"), help="auto, cuda or cpu; cpu makes no use of the GPUs"
    )


def add_package(parser: argparse.ArgumentParser) -> None:
    """The wish that families other than bitsandbytes have."""
    what = "of gptq and awq: which package, such as 'gptqmodel>=7' or auto-gptq"
    parser.add_argument("--package", metavar="REQUIREMENT", help=what)


def add_build(parser: argparse.ArgumentParser) -> None:
    """The policy for source builds; sync and lock write it into bnbenv.toml."""
    which = parser.add_mutually_exclusive_group()
    for option, value, what in (
        ("--build", "always", "compile bitsandbytes for exactly these GPUs, even where a wheel fits"),
        ("--no-build", "never", "published wheels only (default: compile where no wheel fits)"),
    ):
        which.add_argument(option, dest="build", action="store_const", const=value, help=what)


def wished(project: Project, env: str | None, changes: dict[str, Any], build: str | None) -> str | None:
    """bnbenv.toml with what was asked for by options, so that the next check asks for the same; None: nothing was.

    It is written once that is fulfilled. Raises UsageError if it is not clear which environment is meant, InputError.
    """
    if not changes and build is None:
        return None
    from bnbenv.envs.wishes import edited, load_wishes
    from bnbenv.errors import UsageError

    names = selected(load_wishes(project), env, project)
    if len(names) > 1 and changes:
        raise UsageError("which-env", f"there are several environments ({', '.join(names)})", "Name one with --env.")
    return edited(project, names[0], changes, {} if build is None else {"build": build})


def told(project: Project, changes: dict[str, Any], build: str | None) -> list[str]:
    """What was written into bnbenv.toml, as a line; none where nothing was asked for."""
    import json

    asked = changes if build is None else {**changes, "policy.build": build}
    words = ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in asked.items())
    return [f"written into {project.config}: {words}"] if asked else []


def project_of(args: argparse.Namespace, ctx: Context) -> Project:
    """The project a command is about. Raises UsageError (not to be trusted, no such environment), InputError."""
    env = getattr(args, "env", None)
    if env is not None:
        check_env_name(env, "--env", "")
    project = find_project(ctx.cwd, ctx.environ, args.project)
    check_trust(project, ctx.environ)
    if env is not None and not project.generations(env).exists() and not os.path.lexists(project.link(env)):
        from bnbenv.envs.wishes import load_wishes

        selected(load_wishes(project), env, project)
    return project


def facts_of(ctx: Context, file: str | None = None) -> HostFacts:
    """The host's facts: a recorded file's, or probed. Raises InputError."""
    from bnbenv.facts import read_facts
    from bnbenv.paths import Sysroot
    from bnbenv.progress import during

    with during(ctx.progress, "looking at this host: driver, GPUs, Pythons"):
        return read_facts(ctx.environ, Sysroot.from_environment(ctx.environ), ctx.runner, file)


def check_driver(text: str) -> None:
    """A driver's version, or a branch. Raises InputError."""
    from bnbenv.errors import InputError

    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}", text):
        raise InputError("--driver", "", f'expected a version such as "580.65.06", found "{text[:60]}"')


def wishes_from(args: argparse.Namespace) -> dict[str, Any]:
    """The wishes given as options, as they stand in bnbenv.toml. Raises InputError."""
    from bnbenv.envs.wishes import read_torch
    from bnbenv.solve.situation import read_gpus
    from bnbenv.solve.versions import read_specifier

    changes: dict[str, Any] = {}
    for name in ("torch", "bitsandbytes", "python"):
        value = getattr(args, name)
        if value is not None:
            (read_torch if name == "torch" else read_specifier)(value, f"--{name}", "")
            changes[name] = value
    if args.package is not None:
        changes["package"] = args.package
    if args.gpus is not None:
        words = read_gpus(args.gpus, "--gpus", "")
        changes["gpus"] = "all" if words == ("all",) else [int(word) if word.isdigit() else word for word in words]
    if args.backend is not None:
        changes["backend"] = args.backend
    return changes


@contextlib.contextmanager
def holding(project: Project, ctx: Context, wait: float = 5.0) -> Iterator[None]:
    """Hold the project while something is changed in it, and keep this run's log there. Raises Busy."""
    from bnbenv.envs.generations import held

    ctx.progress.at(f"waiting for another bnbenv at work on {project.root}")
    with held(project, wait, ctx.environ, ctx.progress.say):
        ctx.progress.at("")
        ctx.log_to(project.home)
        yield


def setting_of(project: Project, wishes: Wishes, facts: HostFacts, ctx: Context) -> Setting:
    """Everything that planning and syncing needs. Raises InputError."""
    from bnbenv.envs.resolve import Setting, user_matrix

    return Setting(project, wishes, facts, user_matrix(ctx.environ), ctx.environ, ctx.runner, None, ctx.progress)


def selected(wishes: Wishes, only: str | None, project: Project) -> tuple[str, ...]:
    """The environments named by bnbenv.toml, or the one asked for. Raises UsageError if there is no such one."""
    from bnbenv.errors import UsageError

    if only is None:
        return tuple(wishes.envs)
    if only not in wishes.envs:
        known = ", ".join(wishes.envs)
        message = f'{project.config} names no environment "{only}" (it has: {known})'
        raise UsageError("no-such-env", message, f"Name one with --env, or add [envs.{only}] to it.")
    return (only,)


def stop_on_mismatch(host: Host, project: Project) -> None:
    """With the driver half upgraded nothing is touched.

    Raises RebootRequired, which names the GPUs that the reboot would cost.
    """
    if host.state == "mismatch":
        from bnbenv.envs.lost import lost_after_reboot
        from bnbenv.facts.model import Driver
        from bnbenv.solve.situation import reboot_required

        found = host.fingerprint
        module = found.get("driver module") or found.get("driver kernel_module")
        library = found.get("driver library") or found.get("driver userland")
        error = reboot_required(Driver(state="mismatch", kernel_module=module, userland=library))
        records = [use.record for env in project.envs_made() if (use := in_use(project, env)).record]
        said, remedy = lost_after_reboot((one for one in records if one), library or "")
        if said:
            error.detail = "\n".join(f"after the reboot {one}" for one in said)
            error.next_step = f"To keep it, {remedy} instead of rebooting."
        raise error


def reason_rows(reasons: tuple[Reason, ...]) -> list[dict[str, str]]:
    return [{"env": reason.env, "code": reason.code, "because": reason.because} for reason in reasons]
