"""``bnbenv fleet apply``: what a host does for a desk: take a bundle, verify, switch, or stay as it was."""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import facts_of, holding, selected, setting_of, stop_on_mismatch
from bnbenv.cli.help import seconds
from bnbenv.envs.check import Host, in_use, observe_host
from bnbenv.envs.trust import check_trust
from bnbenv.errors import BnbenvError, InputError, UsageError

if TYPE_CHECKING:
    from bnbenv.bundle.archive import Reader
    from bnbenv.envs.project import Project
    from bnbenv.envs.sync import Done
    from bnbenv.fleet.model import AppliedState, HostEnv

SUMMARY = """\
Bring the project of a folder to what a bundle holds, or its own bnbenv.toml asks
for. All environments are made and verified with real kernels; then bnbenv.toml,
locks and environments are switched together. Whatever fails, or is killed, the
host has all of the new or all that it had. A folder that is missing is made.

It is what bnbenv fleet sync runs on every host, and what the Ansible module
bnbenv.fleet.sync runs. With a bundle nothing is taken from anywhere else, and
its bnbenv.toml is taken even where there is another one. A host whose GPUs are in
use is left as it is, and so is one where nobody can tell."""
EXAMPLE = """\
bnbenv fleet apply --project ~/bnbenv --bundle all.tar --bundle-sha256 6f1e...
bnbenv fleet apply --check     what it would do"""
EXITS = (
    "0 changed or in sync, 1 failed, 2 unreadable input, 3 it would change, or was left since its GPUs are in use or it"
    " was changed meanwhile, 4 the bundle does not fit this host, 5 the kernels failed, 6 reboot required, 7 a package"
    " source cannot be reached, 8 another bnbenv is at work"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", metavar="FILE", help="install from what bnbenv bundle wrote, and nothing else")
    parser.add_argument("--bundle-sha256", metavar="HEX", help="what it has to be; goes with --bundle")
    parser.add_argument("--config", metavar="FILE", help="the bnbenv.toml to take, even where there is another one")
    what = "by environment the sha256 of the lock that was seen in use, or null: '{\"bnb\": null}'; else it is left"
    parser.add_argument("--expect", metavar="JSON", help=what)
    what = "with processes on its GPUs: leave it (default), or go on"
    parser.add_argument("--in-use", choices=("later", "anyway"), default="later", help=what)
    parser.add_argument("--check", action="store_true", help="say what would be done; nothing is touched")
    what = "how long to wait for another bnbenv (default: 5 seconds)"
    parser.add_argument("--wait", metavar="SECONDS", type=seconds, default=5.0, help=what)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    """The document with what became of this host. Raises UsageError for options that do not go together."""
    from bnbenv.cli.commands.fleet.host import as_document
    from bnbenv.cli.errors import document, from_exception
    from bnbenv.fleet.applying import EXITS as EXIT_OF
    from bnbenv.fleet.applying import read_expect, state_of
    from bnbenv.fleet.model import Applied

    began = time.monotonic()
    _check_options(args)
    expect = {} if args.expect is None else read_expect(args.expect)
    work = _Apply(args, ctx, expect)
    step = ""
    try:
        state, because = work.run()
        ends = EXIT_OF[state]
    except Exception as error:
        failure = error if isinstance(error, BnbenvError) else from_exception(error)
        state, ends = state_of(failure), failure.exit
        said = document(failure, "fleet-apply", ctx.environ)["error"]
        because, step = said["message"], said["next_step"]
        for line in said["detail"].splitlines():
            ctx.progress.say(line)
    applied = Applied(
        state, because, step, work.before, work.now(), work.together.undone, round(time.monotonic() - began, 3)
    )
    return Outcome(ends, as_document(applied))


def _check_options(args: argparse.Namespace) -> None:
    if (args.bundle is None) != (args.bundle_sha256 is None):
        raise UsageError("usage", "--bundle and --bundle-sha256 go together", "Give both: sha256sum FILE prints it.")
    if args.bundle is not None and args.config is not None:
        raise UsageError("usage", "a bundle holds its own bnbenv.toml", "Leave out --config.")
    if args.bundle_sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", args.bundle_sha256):
        raise UsageError("usage", "--bundle-sha256: expected 64 hexadecimal digits", "sha256sum FILE prints them.")


class _Apply:
    """One run. ``before`` is what the project had in use."""

    def __init__(self, args: argparse.Namespace, ctx: Context, expect: dict[str, str | None]) -> None:
        from bnbenv.envs.together import Together

        self._args, self._ctx, self._expect = args, ctx, expect
        self._project: Project | None = None
        self._host: Host | None = None
        self.before: tuple[HostEnv, ...] = ()
        self.together = Together()

    def now(self) -> tuple[HostEnv, ...]:
        """What it has in use."""
        from bnbenv.fleet.host import environments

        if self._project is None or self._host is None:
            return ()
        return environments(self._project, self._host)

    def run(self) -> tuple[AppliedState, str]:
        """How it ended, and what is to be said of that. Raises BnbenvError, OSError; all is then as before."""
        from bnbenv.fleet.host import project_at

        ctx = self._ctx
        project = project_at(ctx.cwd, ctx.environ, self._args.project)
        check_trust(project, ctx.environ)
        self._host = observe_host(ctx.environ, ctx.runner)
        self._project = project
        self.before = self.now()
        stop_on_mismatch(self._host, project)
        self._facts = facts_of(ctx)
        if self._args.check:
            return self._blocked(project) or self._look(project, self._host)
        missing = _first_missing(project.root)
        with holding(project, ctx, self._args.wait):
            try:
                if missing is None:  # somebody else may have held it
                    self.before = self.now()
                ended = self._blocked(project) or self._change(project, self._host)
            except BaseException:
                self._take_back(project, missing)
                raise
            if ended[0] not in ("changed", "in-sync"):
                self._take_back(project, missing)
            return ended

    def _blocked(self, project: Project) -> tuple[AppliedState, str] | None:
        """Why the host is left as it is; None: it is not, or there is nothing to do for it."""
        from bnbenv.facts.processes import gpu_processes
        from bnbenv.fleet.applying import moved, why_in_use
        from bnbenv.fleet.host import locks_in_use
        from bnbenv.paths import Sysroot

        environ, ctx = self._ctx.environ, self._ctx
        blocked: tuple[AppliedState, str] | None = None
        if because := moved(self._expect, locks_in_use(project, self._expect)):
            blocked = "moved", because
        elif self._args.in_use == "later":
            processes = gpu_processes(environ, Sysroot.from_environment(environ), ctx.runner, self._facts)
            blocked = ("in-use", because) if (because := why_in_use(processes)) else None
        if blocked is not None and self._host is not None:
            with contextlib.suppress(BnbenvError, OSError):
                looked = self._look(project, self._host, whole=False)
                return looked if looked[0] == "in-sync" else blocked
        return blocked

    def _look(self, project: Project, host: Host, whole: bool = True) -> tuple[AppliedState, str]:
        """What would be done; nothing is touched. ``whole``: all of the bundle is read."""
        from dataclasses import replace

        from bnbenv.bundle.use import check_wishes
        from bnbenv.cli.bundled import as_if_supplied
        from bnbenv.cli.several import about
        from bnbenv.envs.stage import Options
        from bnbenv.envs.sync import choose, make_plan
        from bnbenv.envs.wishes import decode_wishes, load_wishes

        with self._bundle(whole) as bundle:
            config = self._config(bundle)
            wishes = load_wishes(project) if config is None else decode_wishes(config.encode(), str(project.config))
            names = selected(wishes, None, project)
            setting = replace(setting_of(project, wishes, self._facts, self._ctx), config=config)
            if bundle is not None:
                names = check_wishes(bundle, wishes, names, str(project.config))
            options = Options(locked=bundle is not None, together=self.together)
            pending = []
            for env in names:
                with about(env, len(wishes.envs) > 1), as_if_supplied(bundle, setting, env, self._ctx) as own:
                    plan = make_plan(own, env, host, options)
                    if plan.lock is None and not plan.adopted:
                        choose(own, env, in_use(project, env))
                    pending += [] if plan.in_sync else [env]
        if pending:
            return "would-change", f"it would change: {', '.join(pending)}"
        return "in-sync", ""

    def _change(self, project: Project, host: Host) -> tuple[AppliedState, str]:
        from bnbenv.cli.syncing import carry_out, prepared
        from bnbenv.envs.stage import Options

        with self._bundle() as bundle:
            options = Options(locked=bundle is not None, together=self.together)
            with prepared(
                project, host, self._ctx, options, lambda: self._config(bundle), bundle=bundle, facts=self._facts
            ) as work:
                done, _ = carry_out(work, self._ctx)
                names = tuple(work.setting.wishes.envs)
        return self._told(done, names)

    def _told(self, done: list[Done], names: tuple[str, ...]) -> tuple[AppliedState, str]:
        from bnbenv.fleet.applying import left_over, what_ran

        changed = [one.plan.env for one in done if one.actions]
        recorded = bool(self._ctx.environ.get("BNBENV_FACTS"))
        said = [what_ran(self.before, self.now(), changed, recorded), left_over(self.before, names)]
        for note in (note for one in done for note in one.notes):
            self._ctx.progress.say(f"note: {note}")
        return "changed" if changed else "in-sync", "; ".join(part for part in said if part)

    @contextlib.contextmanager
    def _bundle(self, whole: bool = True) -> Iterator[Reader | None]:
        """The bundle, its sha256 compared. Raises InputError."""
        if self._args.bundle is None:
            yield None
            return
        from bnbenv.cli.bundled import opened

        with opened(self._args.bundle, self._ctx, self._args.bundle_sha256.lower() if whole else None) as reader:
            yield reader

    def _config(self, bundle: Reader | None) -> str | None:
        """The bnbenv.toml to take; None: the one that is here. Raises InputError."""
        from bnbenv.bundle.use import config_of
        from bnbenv.envs.wishes import LARGEST, decode_wishes

        if bundle is not None:
            return config_of(bundle)
        if self._args.config is None:
            return None
        file: str = self._args.config
        try:
            with (self._ctx.cwd / file).open("rb") as stream:
                data: bytes = stream.read(LARGEST + 1)
        except OSError as error:
            raise InputError(file, "", f"cannot be read ({error.strerror})") from None
        decode_wishes(data, file)
        return data.decode()

    def _take_back(self, project: Project, missing: Path | None) -> None:
        """Delete what was made and is not in use; with it a folder that was made for it.

        The lock goes too: who waits for it sees that, and makes its own.
        """
        self.together.discard(project)
        for env in project.envs_made():
            with contextlib.suppress(OSError):  # there is a generation
                project.generations(env).rmdir()
        if missing is None or project.envs_made():
            return
        shutil.rmtree(project.home, ignore_errors=True)
        for folder in (project.root, *project.root.parents):
            with contextlib.suppress(OSError):  # somebody put something into it
                folder.rmdir()
            if folder == missing:
                return


def _first_missing(folder: Path) -> Path | None:
    """The uppermost folder that has to be made for one to be there; None: it is."""
    missing = None
    while not folder.exists():
        missing, folder = folder, folder.parent
    return missing
