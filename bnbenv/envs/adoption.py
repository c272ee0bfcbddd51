"""Adoption: an environment that others made becomes generation zero of one of bnbenv's, and stays as it is.

It is read, judged and recorded; the link then leads straight to it. It is in sync as long as it, the host and the
wishes are as they were. What comes after it is made from what it holds, as a generation of bnbenv's own, beside it.

The order of writing makes a kill harmless: the record, then bnbenv.toml, then the link. Without the second there is no
such environment, and without the third the next sync sets the link.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from bnbenv.envs import generations as gens
from bnbenv.envs.check import Host, in_use
from bnbenv.envs.fitness import Fitness, families_in, family_for, judge, measure, of_others
from bnbenv.envs.foreign import Dist, Foreign, roots
from bnbenv.envs.generations import Generation
from bnbenv.envs.project import ADOPTED, DEFAULT_ENV, Project, env_python
from bnbenv.envs.record import (
    Record,
    digest,
    file_digest,
    observe_conda,
    observe_files,
    observe_packages,
    observe_stamps,
)
from bnbenv.envs.resolve import Setting
from bnbenv.envs.stage import Options, run_kernels
from bnbenv.envs.wishes import ENV_NAMES, EnvWish, Wishes, decode_wishes, edited
from bnbenv.errors import UsageError, VerificationFailed
from bnbenv.matrix.model import Matrix
from bnbenv.progress import during
from bnbenv.solve.model import FamilyName, Solution

UNFIT, FAILED = "does-not-fit", "kernels-failed"  # codes of what was found against it

# What belongs to no one's wishes: torch and bitsandbytes have keys of their own, installers come with Python (Debian
# once put pkg-resources beside them), and torch brings what it runs on.
NEVER_ASKED = ("torch", "bitsandbytes", "pip", "setuptools", "wheel", "pkg-resources", "triton", "pytorch-triton")
_OF_TORCH = "nvidia-"
_SHOWN = 6
OLDEST = 10  # the minor of the oldest Python that generations are made with

# Python would leave its bytecode beside what it imports.
UNTOUCHED = {"PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True)
class Adopted:
    """What was done: the environment as it was read, its name, the record, and whether bnbenv.toml was written."""

    env: str
    found: Foreign
    wish: EnvWish
    record: Record
    wrote: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """The name that an environment gets, what is asked for it from now on, and why something is left out of that."""

    env: str
    wish: EnvWish
    changes: dict[str, Any]
    notes: tuple[str, ...]


def wanted(found: Foreign, name: str | None, wishes: Wishes, named: frozenset[str], matrix: Matrix) -> Wanted:
    """What bnbenv.toml says of it, or will say. ``name`` is the one asked for; ``named`` stand in the file. Pure."""
    there = families_in(found, matrix.families)
    family = family_for(name, there)
    env = name or ENV_NAMES[family]
    family = wishes.envs[env].family if env in named else family
    others = of_others(found, family, matrix.families)
    notes = _mixed(found, others)
    if env in named:
        return Wanted(env, wishes.envs[env], {}, tuple(notes))
    own = there.get(family, ())
    asked, local = asked_for(found.dists, (*own, *others))
    notes += [
        f"left out of requirements, since it comes from no index: {one.name} ({one.place}); what it needs is in"
        for one in local
    ]
    # What bnbenv makes has Python 3.10 or newer; of an older one that is what does not fit.
    python = f"=={found.python}.*" if int(found.python.partition(".")[2]) >= OLDEST else f">=3.{OLDEST}"
    changes: dict[str, Any] = {"family": family, "python": python}
    if package := _package(family, own):
        changes["package"] = package
    if asked:
        changes["requirements"] = list(asked)
    return Wanted(env, msgspec.convert(changes, EnvWish), changes, tuple(notes))


def asked_for(dists: tuple[Dist, ...], leave_out: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[Dist, ...]]:
    """The names of what was installed on purpose, and those of it that come from a folder or a repository. Pure.

    What such a one requires counts as asked for: nothing else in the environment would bring it in again.
    """
    own = frozenset((*NEVER_ASKED, *leave_out, *(one.name for one in dists if one.name.startswith(_OF_TORCH))))
    local = tuple(one for one in dists if one.place is not None and one.name not in own)
    kept = [one for one in dists if one not in local]
    return roots(kept, own), local


def _package(family: FamilyName, own: tuple[str, ...]) -> str:
    """The wish for a package where it is not the family's first one, or has its kernels with it."""
    if family == "gptq" and own[:1] == ("auto-gptq",):
        return "auto-gptq"
    return "autoawq[kernels]" if family == "awq" and "autoawq-kernels" in own else ""


def _mixed(found: Foreign, others: dict[str, str]) -> list[str]:
    if not others:
        return []
    names = ", ".join(f"{name} ({family})" for name, family in others.items())
    return [
        f"it also holds {names}, which belongs apart: a new generation is made without, and"
        f" bnbenv doctor {found.prefix} says how to split it"
    ]


def adopt(setting: Setting, found: Foreign, env: str | None, host: Host, options: Options) -> Adopted:
    """Take an environment in, or read one anew that is in use as generation zero. The caller holds the project.

    Raises UsageError (the name is taken, there is no torch), Failed, RebootRequired, InputError, OSError; nothing has
    changed then.
    """
    project, matrix = setting.project, setting.matrix
    again = in_use_as(project, found.prefix, env)
    held = measure(found)
    named = frozenset(_named(project))
    want = wanted(found, again or env, setting.wishes, named, matrix)
    if again is None:
        check_free(project, want.env, found.prefix)
    gens.clean_up(project, want.env)
    setting, wrote = _with_wish(setting, want)
    with during(setting.progress, f"{want.env}: judging what {found.prefix} holds"):
        request = setting.wishes.request(want.env, str(project.config))
        fitness = judge(found, held, want.wish, request, setting.facts, matrix)
    against, verification = _tried(setting, want.env, fitness, found.prefix, options)
    record = _record(setting, want.env, found, host, fitness.solution, against, verification)
    folder = project.generations(want.env)
    folder.mkdir(parents=True, exist_ok=True)
    generation = Generation(ADOPTED, folder, record)
    try:
        record.write(generation.record_file)
        setting.write_wishes()
    except BaseException:
        if again is None:
            generation.record_file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    gens.switch(project, want.env, generation)
    notes = (*want.notes, *fitness.notes, *_conda_notes(found))
    return Adopted(want.env, found, want.wish, record, wrote, notes)


def in_use_as(project: Project, prefix: Path, asked: str | None) -> str | None:
    """The name under which that environment is generation zero and in use; None: it is not adopted yet.

    Raises UsageError where it is adopted under another name than ``asked``, or a later generation is in use.
    """
    for env in project.envs_made():
        zero = gens.adopted(project, env)
        if zero is None or zero.prefix != prefix or not os.path.lexists(project.link(env)):
            continue
        if asked not in (None, env):
            message = f"{prefix} is adopted already, as {env}"
            raise UsageError("exists", message, f"See how it is: bnbenv status --env {env}")
        if in_use(project, env).generation != ADOPTED:
            message = f"{prefix} is adopted already, as {env}, and a generation made from it is in use"
            raise UsageError("exists", message, f"Go back to it: bnbenv rollback --env {env} {ADOPTED}")
        return env
    return None


def check_free(project: Project, env: str, prefix: Path) -> None:
    """Raises UsageError where an environment of that name is there. What a killed adoption left is none."""
    link, lock = project.link(env), project.lock(env)
    made = any(not one.adopted for one in gens.generations(project, env))
    taken = link if os.path.lexists(link) else project.generations(env) if made else lock
    if os.path.lexists(taken):
        message = f"there is an environment {env} in this project already ({taken})"
        raise UsageError("exists", message, f"Adopt it under another name: bnbenv adopt {prefix} --env NAME")


def _named(project: Project) -> list[str]:
    """The environments that stand in bnbenv.toml itself; it has been read as wishes before."""
    from bnbenv.decode import read_toml

    try:
        envs = read_toml(project.config.read_bytes().decode("utf-8-sig"), str(project.config)).get("envs", {})
    except FileNotFoundError:
        return []
    return list(envs)


def _with_wish(setting: Setting, want: Wanted) -> tuple[Setting, bool]:
    """The setting with bnbenv.toml as it will be, and whether that is another one than now."""
    project = setting.project
    if not want.changes:
        return setting, False
    # The default environment, which need not be named where it is the only one, counts where it was made.
    text = edited(project, want.env, want.changes, alone=not os.path.lexists(project.link(DEFAULT_ENV)))
    wishes = decode_wishes(text.encode(), str(project.config))
    before = file_digest(project.config)
    return replace(setting, wishes=wishes, config=text, config_before=before), True


def _tried(
    setting: Setting, env: str, fitness: Fitness, prefix: Path, options: Options
) -> tuple[dict[str, str], dict[str, Any] | None]:
    """What is against an environment by its code, and the report of its kernels where they ran and agreed.

    The kernels of one that does not fit are not run: nothing would be learned, and some hang.
    """
    if fitness.against is not None:
        return {UNFIT: f"it does not fit this host: {fitness.against}"}, None
    try:
        return {}, run_kernels(setting, env, options, fitness.solution, prefix, UNTOUCHED)
    except VerificationFailed as error:
        return {FAILED: error.message}, None


def _record(
    setting: Setting,
    env: str,
    found: Foreign,
    host: Host,
    solution: Solution,
    against: dict[str, str],
    verification: dict[str, Any] | None,
) -> Record:
    config = setting.project.config
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    facts = msgspec.to_builtins(setting.facts)
    return Record(
        generation=ADOPTED,
        created=now,
        python=str(env_python(found.prefix)),
        wishes=setting.wishes.digest(env),
        config=file_digest(config) if setting.config is None else digest(setting.config.encode()),
        environments=list(setting.wishes.envs),
        lock="",
        host=dict(host.fingerprint),
        facts={key: facts[key] for key in ("platform", "driver", "gpus")},
        packages=observe_packages(found.site),
        files={**observe_files(found.site), **observe_conda(found.prefix, found.conda_files)},
        decision={**msgspec.to_builtins(solution), "against": against},
        verified=verification is not None,
        verification=verification or {},
        verified_at=now if verification is not None else None,
        stamps=observe_stamps(found.site),
        adopted=str(found.prefix),
    )


def _conda_notes(found: Foreign) -> list[str]:
    if not found.only_conda:
        return []
    count = len(found.only_conda)
    what = f"{count} packages" if count > 1 else "1 package"
    return [f"only conda knows {what} in it ({few(found.only_conda)}): a generation that bnbenv makes has none of that"]


def few(words: Sequence[str]) -> str:
    """The first of some words, and how many more there are."""
    return ", ".join(words[:_SHOWN]) + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")
