"""``bnbenv fleet sync``: bring the hosts of an inventory to what their classes should have, in waves."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import project_of
from bnbenv.cli.fleet import add_ansible, engine_of, next_command
from bnbenv.cli.help import positive_number
from bnbenv.cli.page_file import add_html, page_file, write_page
from bnbenv.errors import BnbenvError, Exit, UsageError

if TYPE_CHECKING:
    from bnbenv.envs.project import Project
    from bnbenv.envs.resolve import Setting
    from bnbenv.fleet.model import ClassPlan, Content, Delivery, HostReport, LeftOut
    from bnbenv.fleet.onelock import InTheWay
    from bnbenv.fleet.outcome import Run
    from bnbenv.fleet.rolling import Desk, Options, Rolled

SUMMARY = """\
Bring every host of an inventory to what its kind should have. Hosts that the
solver cannot tell apart are one class: one lock, one bundle, the same bytes.

Of each class one host is changed first, and its kernels run there; then come
batches. A host whose kernels fail keeps what it had. Hosts in use are left for
later. What was interrupted is gone on with by running it again."""
EXAMPLE = """\
bnbenv fleet sync -i hosts.ini
bnbenv fleet sync -i hosts.ini --limit v100 --batch 5 --content shared:/nfs/b"""
EXITS = (
    "0 all in sync, 1 a host failed or did not answer, 2 unreadable inventory, 3 hosts were left for later,"
    " 4 no known-good combination for some hosts, 5 verification failed on some host, 6 only hosts are left that"
    " need a reboot, 7 a package source cannot be reached, 8 another desk is at work"
)
_AGAIN = ("canary", "batch", "max_failures", "in_use", "content", "bootstrap", "one_lock")  # belong to the next run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("rollout")
    what = "hosts of a class that are changed first, and have to succeed (default: 1)"
    group.add_argument("--canary", metavar="N", type=positive_number, default=1, help=what)
    what = "hosts of a class at a time: a number, or a percentage of the class (default: 10%%)"
    group.add_argument("--batch", metavar="N", default="10%", help=what)
    what = "how many hosts may fail, one more ends it: a number, or a percentage of those to be changed (default: 10%%)"
    group.add_argument("--max-failures", metavar="N", default="10%", help=what)
    what = "hosts with processes on their GPUs: leave them for later (default), or change them anyway"
    group.add_argument("--in-use", choices=("later", "anyway"), default="later", help=what)
    what = "how bundles travel: copy (default), shared:DIR for a folder that hosts see, or http[:ADDRESS[:PORT]]"
    group.add_argument("--content", metavar="HOW", default="copy", help=what)
    group.add_argument("--bootstrap", action="store_true", help="install bnbenv on hosts that have none")
    group.add_argument("--one-lock", action="store_true", help="one combination for all hosts, or none at all")
    group.add_argument("--fresh-locks", action="store_true", help="choose anew what classes get")
    group.add_argument("--dry-run", action="store_true", help="ask the hosts, and say what would be changed")
    add_html(group)
    add_ansible(parser)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from datetime import datetime, timezone

    from bnbenv import __version__
    from bnbenv.envs.hold import hold
    from bnbenv.fleet import journal
    from bnbenv.fleet.outcome import Run
    from bnbenv.fleet.rolling import Options
    from bnbenv.fleet.rollout import Policy, read_share

    if args.fresh_locks and args.dry_run:
        message = "--fresh-locks chooses anew what classes get, and --dry-run changes nothing"
        raise UsageError("usage", message, "Leave one of them out; bnbenv fleet plan shows what is newest.")
    project = project_of(args, ctx)
    policy = Policy(read_share(args.batch, "--batch"), read_share(args.max_failures, "--max-failures", 0), args.canary)
    delivery = _delivery(args.content, ctx)
    page = page_file(args.html, ctx)
    folder = project.home / "fleet" / "rollouts"
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder, f"the hosts of {project.root}", 0, ctx.environ, ctx.progress.say):
        ctx.log_to(project.home)
        now = datetime.now(timezone.utc)
        path = str(folder / journal.name_of(now))
        started = now.isoformat(timespec="seconds")
        again = next_command("sync", args, _AGAIN, add_arguments)
        header = Run(
            __version__, str(project.root), tuple(args.inventory), started, args.content, args.one_lock, again, path
        )
        options = Options(policy, args.in_use, args.dry_run, journal.failures(folder))
        return _roll(args, ctx, _Room(project, header, options, delivery, page))


class _Room:
    """One rollout: what is said of it, and where that is written."""

    def __init__(self, project: Project, header: Run, options: Options, delivery: _Delivery, page: Path | None) -> None:
        import time

        self.project, self.header, self.options, self.delivery, self.page = project, header, options, delivery, page
        self._clock, self._start, self._told = time.monotonic, time.monotonic(), False

    def document(self, rolled: Rolled) -> dict[str, Any]:
        from bnbenv.fleet.outcome import document

        return document(rolled, self.header, self.options, self._clock() - self._start)

    def keep(self, rolled: Rolled, ctx: Context) -> None:
        """Write the journal. A disk that is full ends no rollout: hosts tell what they have."""
        from bnbenv.fleet import journal

        if not rolled.begun:
            return
        path = Path(self.header.journal)
        try:
            journal.write(path.parent, path.name, self.document(rolled))
        except OSError as error:
            if not self._told:
                reason = (error.strerror or type(error).__name__).lower()
                ctx.progress.say(f"warning: {path} cannot be written ({reason}); the rollout goes on without it")
            self._told = True


def _roll(args: argparse.Namespace, ctx: Context, room: _Room) -> Outcome:
    from bnbenv.fleet.outcome import exit_of
    from bnbenv.fleet.rolling import roll

    try:
        rolled = roll(_desk(args, ctx, room), room.options)
    except KeyboardInterrupt:
        from bnbenv.cli.errors import Interrupted

        step = f"Run it again: {room.header.again}"
        raise Interrupted("interrupted", "interrupted: no environment of any host was changed", step) from None
    room.keep(rolled, ctx)
    document = room.document(rolled)
    ends = exit_of(rolled, document)
    if room.page is not None and not write_page(room.page, document, ctx) and ends == Exit.DONE:
        ends = Exit.FAILED
    return Outcome(ends, document)


def _desk(args: argparse.Namespace, ctx: Context, room: _Room) -> Desk:
    """What the rollout is done with. Raises InputError, UsageError (wishes that no desk can plan)."""
    from bnbenv.cli.common import setting_of
    from bnbenv.envs.wishes import load_wishes
    from bnbenv.facts.model import Driver, HostFacts, Platform
    from bnbenv.fleet.asking import Planned, plan_hosts
    from bnbenv.fleet.content import make_contents
    from bnbenv.fleet.onelock import InTheWay
    from bnbenv.fleet.planning import requests_for
    from bnbenv.fleet.rolling import Desk
    from bnbenv.fleet.toolbundle import tool_bundle

    wishes = load_wishes(room.project)
    requests = requests_for(wishes, str(room.project.config))
    nobody = HostFacts(Platform("", ""), Driver("absent"), ())  # each class brings its own
    setting: Setting = setting_of(room.project, wishes, nobody, ctx)
    planned: list[Planned] = []

    def plan(reports: Sequence[HostReport]) -> tuple[Sequence[ClassPlan], Sequence[LeftOut]]:
        planned[:] = [plan_hosts(setting, reports, requests, one=args.one_lock)]
        if isinstance(planned[0].one, InTheWay):
            raise _no_one_lock(planned[0].one)
        return planned[0].plans, planned[0].left_out

    def contents(plans: Sequence[ClassPlan], bundles: bool) -> dict[str, Content | BnbenvError]:
        narrowed = planned[0].requests if args.one_lock else None
        fresh = args.fresh_locks and not bundles  # the locks of all classes come before the bundles of some
        return make_contents(setting, plans, narrowed, fresh, bundles)

    return Desk(
        engine_of(args, ctx),
        plan,
        contents,
        room.delivery,
        ctx.progress,
        (lambda: tool_bundle(setting).path) if args.bootstrap and not args.dry_run else None,
        lambda rolled: room.keep(rolled, ctx),
    )


_Delivery = Callable[[Sequence["Content"], Sequence[str]], contextlib.AbstractContextManager["Delivery"]]


def _delivery(how: str, ctx: Context) -> _Delivery:
    """How bundles travel. Raises UsageError, InputError."""
    from bnbenv.fleet.model import Delivery
    from bnbenv.fleet.serve import put_shared, read_address, serving
    from bnbenv.paths import expand

    kind, _, place = how.partition(":")
    if kind == "http":
        read_address(place)
        return lambda needed, hosts: serving(needed, place, hosts)
    if (kind, bool(place)) not in {("copy", False), ("shared", True)} or how == "copy:":
        message = f'--content: expected copy, shared:DIR or http[:ADDRESS], found "{how[:60]}"'
        raise UsageError("usage", message, "See: bnbenv fleet sync --help")

    @contextlib.contextmanager
    def shared(needed: Sequence[Content], hosts: Sequence[str]) -> Iterator[Delivery]:
        folder = ctx.cwd / expand(place)
        for content in {one.sha256: one for one in needed}.values():
            put_shared(content, folder)
        yield Delivery("shared", str(folder))

    return shared if kind == "shared" else lambda needed, hosts: contextlib.nullcontext(Delivery())


def _no_one_lock(found: InTheWay) -> BnbenvError:
    """Why there is no one combination. Nothing was changed, and those for whom there is one are named by a limit."""
    from bnbenv.errors import NoCombination

    many = len(found.hosts)
    message = "no one combination fits all hosts"
    step = "See what each of them would need: bnbenv fleet plan --one-lock"
    if found.rest is not None:
        names = ", ".join(found.hosts[:10]) + f" and {many - 10} more" * (many > 10)
        message = f"{message}: {many} of them {'stands' if many == 1 else 'stand'} in the way ({names})"
        step += ", or leave them out with --limit"
    lines = []
    for blocker in found.blockers:
        lines.append(f"{blocker.kind.title} ({len(blocker.kind.hosts)} of them):")
        for env, refusal in blocker.answers.items():
            lines += [f"  {env}: {part.because}" for part in refusal.conflict]
    return NoCombination("no-one-lock", message, step, "\n".join(lines))
