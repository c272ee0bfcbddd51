"""Which NVIDIA driver would resolve a refusal: only people can install it, or leave it as it is. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from bnbenv.facts.model import HostFacts
from bnbenv.matrix.drivers import known_releases, number
from bnbenv.matrix.model import Matrix
from bnbenv.solve.model import Availability, Option, Request
from bnbenv.solve.situation import Situation, with_request
from bnbenv.solve.solver import try_out
from bnbenv.solve.wording import arguments_of, gives, words_of


def keep_driver(facts: HostFacts, matrix: Matrix, request: Request, availability: Availability) -> Iterator[Option]:
    """Where another driver was asked about: the one that is there, if it is enough."""
    present = _present(facts)
    if request.driver is None or present is None:
        return
    solution = try_out(facts, matrix, with_request(request, driver=None), availability)
    if solution is not None:
        arguments = {key: value for key, value in arguments_of(request).items() if key != "--driver"}
        change = f"keep the NVIDIA driver of branch {_branch(present)} ({present})"
        yield Option(change, gives(solution), None, words_of(arguments))


def other_driver(
    facts: HostFacts, matrix: Matrix, request: Request, availability: Availability, situation: Situation
) -> Iterator[Option]:
    """The driver to upgrade to, to go back to, or to install: the nearest one of the matrix that helps."""
    if situation.backend != "cuda" or not facts.gpus:
        return
    judged_by = situation.driver.version
    known = known_releases(matrix.drivers, matrix.archs, situation.windows_driver)
    newer = [text for text in known if judged_by and number(text) > number(judged_by)]
    older = [text for text in reversed(known) if judged_by is None or number(text) < number(judged_by)]
    for text in (*newer, *older):
        solution = try_out(facts, matrix, with_request(request, driver=text), availability)
        if solution is not None:
            change = _sentence(situation, text, _present(facts), or_newer=text in newer)
            yield Option(change, gives(solution), None, None)
            return


def _present(facts: HostFacts) -> str | None:
    return facts.driver.version if facts.driver.state == "ok" else None


def _sentence(situation: Situation, version: str, present: str | None, or_newer: bool) -> str:
    last = min((last for gpu in situation.gpus if (last := _last_branch(situation, gpu.compute_capability))), default=0)
    if not or_newer:
        range_ = f"{version}, or another one of branch {_branch(version)}"
    else:
        range_ = f"{version} or newer, up to branch {last}" if last else f"{version} or newer"
    if present is None:
        return f"install the NVIDIA driver {range_}"
    verb = "upgrade" if number(version) > number(present) else "downgrade"
    return f"{verb} the NVIDIA driver to {range_}"


def _last_branch(situation: Situation, capability: str) -> int | None:
    row = situation.archs.get(capability)
    return row.last_branch if row else None


def _branch(version: str) -> str:
    return version.partition(".")[0]
