"""One combination of versions for all hosts of a fleet, or the fewest hosts that stand in its way. Pure.

A combination is versions, not files, so that it can span platforms: of torch with its local part (``2.14.1+cu126``), of
bitsandbytes or another family's package, and the minor of Python. For each one that any class admits the hosts of the
classes that do not are counted; the least wins, so the answer is exact. Of several the solver's order decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from bnbenv.fleet.admitted import KINDS_OF_MERIT, Admitted, Fit, Order, admitted_by
from bnbenv.fleet.model import HostClass
from bnbenv.fleet.planning import Offers, offers_of
from bnbenv.matrix.model import Matrix
from bnbenv.solve.model import Availability, Conflict, Option, Refusal, Request
from bnbenv.solve.package_sets import wish_of
from bnbenv.solve.preference import descending
from bnbenv.solve.situation import downloadable, with_request
from bnbenv.solve.solver import solve
from bnbenv.solve.wording import words_of


class Pins(msgspec.Struct, frozen=True):
    """The combination of one environment. ``package`` is bitsandbytes, or the main package of another family; empty,
    with its version, where torch alone is asked for."""

    torch: str
    package: str
    version: str
    python: str

    @property
    def title(self) -> str:
        """``bitsandbytes 0.50.2, torch 2.10.0, Python 3.12``."""
        own = f"{self.package} {self.version}, " if self.package else ""
        return f"{own}torch {self.torch}, Python {self.python}"


class Common(msgspec.Struct, frozen=True):
    """By environment the combination that fits all classes, the preferred one."""

    pins: dict[str, Pins]


class Blocker(msgspec.Struct, frozen=True):
    """A class that the combination does not fit: by environment why, and what it would need (may be nothing)."""

    kind: HostClass
    answers: dict[str, Refusal]


class InTheWay(msgspec.Struct, frozen=True):
    """The smallest set of hosts without which there is one combination, and that one (None: no host admits any)."""

    hosts: tuple[str, ...]
    rest: Common | None
    blockers: tuple[Blocker, ...]


class Candidate(NamedTuple):
    """A combination of one environment, and its standing: first the classes without it (bits), then its rank."""

    missing: int
    rank: tuple[object, ...]
    pins: Pins


def one_combination(
    classes: Sequence[HostClass],
    matrix: Matrix,
    requests: Mapping[str, Request],
    availability: Availability | Offers = Availability(),  # noqa: B008 - frozen
) -> Common | InTheWay:
    """The combination for all classes, or who stands in its way. There is at least one class and one request.

    A class that a wheel serves counts as served by wheels alone: that its hosts could compile is no reason to.
    """
    weights = [len(kind.hosts) for kind in classes]
    by_env: dict[str, list[Candidate]] = {}
    compiled: set[tuple[str, str]] = set()
    for env, request in requests.items():
        tables = []
        for kind in classes:
            table = admitted_by(kind.facts, matrix, request, offers_of(availability, kind, env, request))
            tables.append(table)
            if table.compiled:
                compiled.add((kind.id, env))
        by_env[env] = _best_by_missing(_candidates(tables, weights, matrix, request))
    missing, chosen = _fewest(by_env, weights)
    rest = Common({env: one.pins for env, one in chosen.items()}) if chosen else None
    if not missing and rest is not None:
        return rest
    out = [kind for position, kind in enumerate(classes) if missing >> position & 1]
    asked = pinned(requests, rest, matrix) if rest else dict(requests)
    blockers = tuple(_blocker(kind, matrix, requests, asked, availability, compiled) for kind in out)
    return InTheWay(tuple(host for kind in out for host in kind.hosts), rest, blockers)


def pinned(requests: Mapping[str, Request], common: Common, matrix: Matrix) -> dict[str, Request]:
    """The requests narrowed to the combination. Of packages that go with the main one, such as autoawq-kernels, the
    version stays open."""
    found = {}
    for env, request in requests.items():
        pins = common.pins[env]
        python = ",".join(spec for spec in (request.python, f"=={pins.python}.*") if spec not in ("", "*"))
        changes: dict[str, object] = {"torch": f"==={pins.torch}", "python": python}
        if request.family == "bitsandbytes":
            changes["bitsandbytes"] = f"=={pins.version}"
        elif pins.package:
            wish = wish_of(request, matrix)
            extras = f"[{','.join(sorted(wish.extras))}]" if wish.extras else ""
            changes["package"] = f"{wish.name}{extras}=={pins.version}"
        found[env] = with_request(request, **changes)
    return found


@dataclass
class _Score:
    """How a combination stands over all classes: hosts by kind of merit, and hosts that have that Python already.

    ``order`` is that of its torch where it is preferred least.
    """

    has: int = 0
    there: int = 0
    merits: tuple[int, ...] = (0,) * KINDS_OF_MERIT
    order: Order = ()

    def add(self, bits: int, hosts: int, there: bool, fit: Fit) -> None:
        self.has |= bits
        self.there += hosts * there
        self.order = max(self.order, fit.order)
        if True in fit.merit:
            self.merits = tuple(sum_ + hosts * flag for sum_, flag in zip(self.merits, fit.merit, strict=True))


def _candidates(
    tables: Iterable[Admitted], weights: Sequence[int], matrix: Matrix, request: Request
) -> Iterable[Candidate]:
    """Every combination that any class admits. Classes that admit the same are looked at once."""
    alike: dict[Admitted, list[int]] = {}
    for position, table in enumerate(tables):
        alike.setdefault(table, []).append(position)
    scores: dict[tuple[str, str, str], _Score] = {}
    for table, positions in alike.items():
        bits = sum(1 << position for position in positions)
        hosts = sum(weights[position] for position in positions)
        for (torch, version), fit in table.pairs:
            for minor in fit.minors:
                score = scores.setdefault((torch, version, minor), _Score())
                score.add(bits, hosts, minor in table.there, fit)
    order = downloadable(matrix)
    package = wish_of(request, matrix).name if request.family not in ("bitsandbytes", "none") else request.family
    everyone = (1 << len(weights)) - 1
    for (torch, version, minor), score in scores.items():
        # Python: what the most hosts have, then as the solver would download it.
        python = (-score.there, order.index(minor) if minor in order else len(order))
        rank = (score.merits, descending(version), descending(torch), score.order, *python, torch)
        pins = Pins(torch, "" if request.family == "none" else package, "" if not package else version, minor)
        yield Candidate(everyone & ~score.has, rank, pins)


def _best_by_missing(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Of the combinations that the same classes lack, the preferred one."""
    best: dict[int, Candidate] = {}
    for one in candidates:
        known = best.get(one.missing)
        if known is None or one.rank < known.rank:
            best[one.missing] = one
    return list(best.values())


def _fewest(by_env: Mapping[str, list[Candidate]], weights: Sequence[int]) -> tuple[int, dict[str, Candidate]]:
    """The classes to leave out (bits), so that the fewest hosts are, and the combination of each environment then."""
    everyone = (1 << len(weights)) - 1
    if not all(by_env.values()):
        return everyone, {}

    def cost(missing: int) -> int:
        return sum(weight for position, weight in enumerate(weights) if missing >> position & 1)

    ordered = {env: sorted(found, key=lambda one: (cost(one.missing), one.rank)) for env, found in by_env.items()}
    names = list(ordered)
    best: tuple[int, int, dict[str, Candidate]] | None = None

    def search(depth: int, missing: int, taken: dict[str, Candidate]) -> None:
        nonlocal best
        if best is not None and cost(missing) >= best[0]:
            return
        if depth == len(names):
            best = (cost(missing), missing, dict(taken))
            return
        for one in ordered[names[depth]]:
            if best is not None and cost(one.missing) >= best[0]:
                return  # the others of this environment cost no less
            search(depth + 1, missing | one.missing, {**taken, names[depth]: one})

    search(0, 0, {})
    assert best is not None
    _, missing, chosen = best
    if missing == everyone:
        return everyone, {}
    # With the classes that are left each environment takes the preferred of what they all admit.
    for env, found in ordered.items():
        fitting = (one for one in found if not one.missing & ~missing)
        chosen[env] = min(fitting, key=lambda one: one.rank)
    return missing, chosen


def _blocker(
    kind: HostClass,
    matrix: Matrix,
    requests: Mapping[str, Request],
    asked: Mapping[str, Request],
    availability: Availability | Offers,
    compiled: set[tuple[str, str]],
) -> Blocker:
    """Why the combination does not fit a class, by environment, and what would make it fit."""
    answers: dict[str, Refusal] = {}
    for env, request in asked.items():
        if request.build == "auto" and (kind.id, env) not in compiled:
            request = with_request(request, build="never")
        answer = solve(kind.facts, matrix, request, offers_of(availability, kind, env, request))
        if isinstance(answer, Refusal):
            answers[env] = _about_the_host(answer, requests[env], request)
    return Blocker(kind, answers)


def _about_the_host(refusal: Refusal, wished: Request, asked: Request) -> Refusal:
    """Without what only says that the combination was asked for, and without options that give it up."""
    pins = {name: getattr(asked, name) for name in ("torch", "bitsandbytes", "python", "package")}
    changed = {f"--{name}": value for name, value in pins.items() if value != getattr(wished, name)}
    own = [part for part in refusal.conflict if not _is_pin(part, changed)]
    options = [one for one in refusal.options if _keeps(one, changed)]
    return Refusal(tuple(own) or refusal.conflict, tuple(options))


def _is_pin(part: Conflict, changed: Mapping[str, str]) -> bool:
    return part.rule.endswith("-wish") and f"--{part.rule.removesuffix('-wish')}" in changed


def _keeps(option: Option, changed: Mapping[str, str]) -> bool:
    if option.solve_args is None:
        return option.command is None  # two environments are none
    words = words_of(changed)
    pairs = set(zip(words[::2], words[1::2], strict=True))
    given = set(zip(option.solve_args, option.solve_args[1:], strict=False))
    return pairs <= given and "--backend" not in option.solve_args
