"""What a fleet is made of: what hosts answer, the kinds of hosts, what each gets, and how it went. Frozen values.

*Host* is one machine of the inventory, by its inventory name; *desk* the machine where ``bnbenv fleet`` runs; *class*
the hosts that the solver cannot tell apart; *wave* the hosts that are changed at one time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from bnbenv.errors import BnbenvError
from bnbenv.facts.model import HostFacts
from bnbenv.facts.processes import GpuProcess as GpuProcess
from bnbenv.solve.model import Choice, Refusal, Solution

HOST_SCHEMA = "bnbenv.fleet-host/1"
APPLY_SCHEMA = "bnbenv.fleet-apply/1"


class Cause(msgspec.Struct, frozen=True):
    """Why an environment is not in sync: a reason of ``bnbenv check``."""

    code: str
    because: str


class HostEnv(msgspec.Struct, frozen=True):
    """One environment of a host's project, as it is in use.

    ``lock`` is the sha256 of the lock of the generation in use, None where there is none; ``holds`` its versions
    (``{"torch": "2.13.0+cpu", ...}``); ``verified``: its kernels ran on this host.
    """

    env: str
    in_sync: bool
    generation: int | None = None
    lock: str | None = None
    verified: bool = False
    backend: str | None = None
    holds: dict[str, str] = {}
    reasons: tuple[Cause, ...] = ()


class HostAnswer(msgspec.Struct, frozen=True):
    """The document of ``bnbenv fleet host``: everything that a desk asks a host, in one go.

    ``processes_unknown`` says why nobody can tell which processes are on the GPUs; ``reboot`` why a reboot is required.
    """

    bnbenv: str
    project: str
    facts: HostFacts
    environments: tuple[HostEnv, ...] = ()
    processes: tuple[GpuProcess, ...] = ()
    processes_unknown: str = ""
    reboot: str = ""
    schema: str = HOST_SCHEMA


AppliedState = Literal[
    "changed",  # another generation is in use, or the same was verified anew; its kernels ran (or could not, as said)
    "in-sync",  # there was nothing to do
    "would-change",  # only asked
    "in-use",  # left for later: processes are on its GPUs
    "moved",  # left: somebody else changed it after the desk had looked
    "busy",  # left: another bnbenv is at work on it
    "reboot",  # left: a reboot is required
    "verify-failed",  # kernels failed; it has what it had
    "no-combination",  # the bundle does not fit this host; it has what it had
    "failed",  # anything else; it has what it had
]


class Applied(msgspec.Struct, frozen=True):
    """The document of ``bnbenv fleet apply``: what became of one host. ``seconds`` is how long it took there.

    ``rolled_back`` are the environments that had been switched and were switched back since another one failed.
    """

    state: AppliedState
    because: str = ""
    next_step: str = ""
    before: tuple[HostEnv, ...] = ()
    environments: tuple[HostEnv, ...] = ()
    rolled_back: tuple[str, ...] = ()
    seconds: float = 0.0
    schema: str = APPLY_SCHEMA


ReportState = Literal["ok", "unreachable", "failed", "no-bnbenv", "bad-answer"]


class HostReport(msgspec.Struct, frozen=True):
    """What is known of one host of the inventory. ``answer`` is there where ``state`` is ``ok``; else ``because``."""

    name: str
    state: ReportState
    answer: HostAnswer | None = None
    because: str = ""
    next_step: str = ""


class LeftOut(msgspec.Struct, frozen=True):
    """A host that is in no class, and why; never dropped in silence.

    ``code`` is a state of ``HostReport``, or ``reboot-required`` or ``unknown-facts``.
    """

    host: str
    code: str
    because: str
    next_step: str = ""


class HostClass(msgspec.Struct, frozen=True):
    """Hosts that the solver cannot tell apart. ``id`` is the same for the same kind at any time (12 hex digits);
    ``facts`` stand for all of them; ``hosts`` are in the order of the inventory."""

    id: str
    title: str
    facts: HostFacts
    hosts: tuple[str, ...]


class ClassPlan(msgspec.Struct, frozen=True):
    """What the solver says for a class: by environment a solution or a refusal."""

    kind: HostClass
    answers: dict[str, Solution | Refusal]

    @property
    def solved(self) -> bool:
        return all(isinstance(one, Solution) for one in self.answers.values())


class Content(msgspec.Struct, frozen=True):
    """The bundle of a class at the desk. ``path`` is the file, ``sha256`` and ``size`` (bytes) are of the whole of it;
    ``locks`` the sha256 of the lock of each environment in it: what the hosts then have in use; ``choices`` what these
    locks hold, which may be older than what the solver would take now."""

    class_id: str
    path: str
    sha256: str
    size: int
    locks: dict[str, str]
    choices: dict[str, Choice] = {}


class Delivery(msgspec.Struct, frozen=True):
    """How bundles come to the hosts. ``copy``: through Ansible; ``shared``: ``place`` is a folder that hosts see;
    ``http``: ``place`` is the address below which ``<sha256>.tar`` can be loaded."""

    how: Literal["copy", "shared", "http"] = "copy"
    place: str = ""


InUse = Literal["later", "anyway"]


class Job(msgspec.Struct, frozen=True):
    """One host to bring to its class's locks. ``expect`` is by environment the lock that the desk saw in use there
    (None: none): where it is another one by now, somebody else was there."""

    host: str
    content: Content
    expect: dict[str, str | None] = {}
    in_use: InUse = "later"


ResultState = Literal[AppliedState, "unreachable", "not-tried"]


class HostResult(msgspec.Struct, frozen=True):
    """How it went with one host in a rollout. ``unreachable``: the connection was lost; what it has in use is whole,
    and which one that is the next look tells."""

    host: str
    state: ResultState
    because: str = ""
    next_step: str = ""
    applied: Applied | None = None


Told = Callable[[str, str], None]  # called as it happens: a host, and what is to be told of it


class Engine(Protocol):
    """The port to the hosts. The real one is Ansible; every method raises InputError for an inventory that cannot be
    read and Failed where Ansible is not there or did not start. A host that does not answer raises nothing."""

    def hosts(self) -> tuple[str, ...]:
        """The hosts of the inventory, after its limits, in its order."""

    def ask(self, hosts: Sequence[str], told: Told) -> dict[str, HostReport]:
        """One report for each of these hosts."""

    def bootstrap(self, hosts: Sequence[str], bundle: str, told: Told) -> dict[str, HostResult]:
        """Install bnbenv on bare hosts out of a bundle (a file of the desk). ``changed``, ``in-sync`` or a failure."""

    def apply(self, jobs: Sequence[Job], delivery: Delivery, told: Told) -> dict[str, HostResult]:
        """Bring each host to its content; one result for each job."""


# By class id its content, made where it is not there yet, or why it cannot be made. Raises Busy. With False the locks
# alone: of hosts that have them nobody needs a bundle.
Contents = Callable[[Sequence[ClassPlan], bool], Mapping[str, Content | BnbenvError]]
