"""What would resolve a refusal, the cheapest first; each option has been solved. Pure.

The order: fewer GPUs (nobody asked for each of them), another torch or other wishes given up, both, a source build
where only wheels were to be taken, another driver, two environments that share the GPUs out, the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from bnbenv.facts.model import Gpu, HostFacts
from bnbenv.matrix.model import Matrix
from bnbenv.matrix.native import library_cuda
from bnbenv.solve.driver_options import keep_driver, other_driver
from bnbenv.solve.model import KEEP, Availability, Option, Request, Solution
from bnbenv.solve.package_sets import looser, read_package
from bnbenv.solve.preference import Judged
from bnbenv.solve.situation import with_request
from bnbenv.solve.solver import try_out
from bnbenv.solve.wording import Arguments, arguments_of, command, gives, words_of

KINDS_COMBINED = 6  # compute capabilities in one machine, up to which every mixture is tried
_MOST_SUBSETS = 3  # sets of GPUs that are offered
_LOOSEST = {"torch": "*", "bitsandbytes": "*", "python": ">=3.10", "package": ""}


@dataclass(frozen=True)
class Question:
    """What was refused, and how it is asked again with some of it changed."""

    facts: HostFacts
    matrix: Matrix
    request: Request
    availability: Availability
    judged: Judged

    def solve(self, **changes: object) -> Solution | None:
        """The solution with some wishes changed, None where there is none."""
        return try_out(self.facts, self.matrix, with_request(self.request, **changes), self.availability)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that were asked for, or all where these are not there."""
        situation = self.judged.situation
        return situation.facts.gpus if "gpu" in situation.fails else situation.gpus


def options(question: Question, fail_sets: Iterable[frozenset[str]]) -> Iterator[Option]:
    """Changes that lead to a solution. ``fail_sets`` are the rules against each candidate."""
    request, situation = question.request, question.judged.situation
    kept = tuple(keep_driver(question.facts, question.matrix, request, question.availability))
    yield from kept
    every = question.solve(gpus=("all",)) if request.gpus != ("all",) else None
    if every is not None:
        yield _option(question, "take all GPUs", every, {"--gpus": "all"})
    subsets = [] if every else list(_fewer_gpus(question))
    yield from (option for _, _, option in subsets[:_MOST_SUBSETS])
    wishes = list(_wishes_given_up(question))
    yield from wishes
    both = [] if every or subsets or wishes else list(_all_wishes_and_fewer_gpus(question))
    yield from both
    yield from _by_compiling(question, nothing_else=not (every or subsets or wishes or both))
    helped = situation.fails or any(_driver_only(rules) for rules in fail_sets)
    if helped and not kept and "torch-wish" not in situation.fails:
        yield from other_driver(question.facts, question.matrix, request, question.availability, situation)
    yield from _two_environments(question, [(gpus, solution) for gpus, solution, _ in subsets])
    if situation.backend == "cuda" or "gpu" in situation.fails:
        yield from _on_the_cpu(question)


def _option(question: Question, change: str, solution: Solution, replaced: Arguments) -> Option:
    """A change of the wishes. ``--build`` and ``--no-build`` replace each other."""
    arguments = {key: value for key, value in {**arguments_of(question.request), **replaced}.items() if value != ""}
    for one, other in (("--build", "--no-build"), ("--no-build", "--build")):
        if one in replaced:
            arguments.pop(other, None)
    driver = arguments.get("--driver")
    if driver is not None:
        change += f", with the NVIDIA driver {driver}"
    return Option(change, gives(solution), None if driver else command(arguments), words_of(arguments))


def _wishes_given_up(question: Question) -> Iterator[Option]:
    """The wishes worth giving up: one, two, all of them. That for a source build is one, too."""
    request = question.request
    build = ["build"] if request.build == "always" and request.family == "bitsandbytes" else []
    given = [*build, *_given(request)]
    enough: list[set[str]] = []
    for size in range(1, len(given) + 1):
        for names in combinations(given, size):
            if any(fewer <= set(names) for fewer in enough):
                continue
            for changes in _ways_to_give_up(names, request):
                solution = question.solve(**changes)
                if solution is not None:
                    enough.append(set(names))
                    yield _option(question, _giving_up(changes, request), solution, _replaced(changes))
                    break


def _given(request: Request) -> list[str]:
    """The wishes that are none of those that admit all."""
    return [name for name, loosest in _LOOSEST.items() if getattr(request, name) != loosest]


def _ways_to_give_up(names: tuple[str, ...], request: Request) -> list[dict[str, str]]:
    """Of a package first its version is given up, then its extras, then that it is this one."""
    changes = {name: _LOOSEST.get(name, "never") for name in names}
    if "package" not in names:
        return [changes]
    return [{**changes, "package": package} for package in looser(request.package)]


def _giving_up(changes: dict[str, str], request: Request) -> str:
    if list(changes) == ["torch"] and request.torch == KEEP:
        return "take another torch than the one that is there"
    parts = ["take a published wheel"] if "build" in changes else []
    if "package" in changes:
        parts.append(_other_package(request.package, changes["package"]))
    others = " and ".join(name for name in changes if name not in ("build", "package"))
    return " and ".join([*parts, *([f"give up the wish for {others}"] if others else [])])


def _other_package(asked: str, instead: str) -> str:
    before = read_package(asked)
    if not instead:
        return f"give up the wish for {before.name}"
    if read_package(instead).extras == before.extras:
        return f"take any {before.name}"
    version = "" if before.spec == "*" else ", any version of it"
    return f"take {before.name} without its {' and '.join(sorted(before.extras))}{version}"


def _replaced(changes: dict[str, str]) -> Arguments:
    """The options for it; None stands for one without a value, and an empty text for one that is left out."""
    return {"--no-build" if name == "build" else f"--{name}": _value(name, text) for name, text in changes.items()}


def _value(name: str, text: str) -> str | None:
    return None if name == "build" else text


def _fewer_gpus(question: Question, **changes: object) -> Iterator[tuple[tuple[Gpu, ...], Solution, Option]]:
    """Fewer GPUs, the most first. Those of one compute capability go together: the rules treat them alike."""
    kinds = tuple(dict.fromkeys(gpu.compute_capability for gpu in question.gpus))
    sizes = range(len(kinds) - 1, 0, -1) if len(kinds) <= KINDS_COMBINED else (len(kinds) - 1, 1)
    taken: list[set[str]] = []  # only the largest sets are worth saying
    for size in sizes:
        for kept in combinations(kinds, size):
            if any(set(kept) <= larger for larger in taken):
                continue
            gpus = tuple(gpu for gpu in question.gpus if gpu.compute_capability in kept)
            words = tuple(str(gpu.index) for gpu in gpus)
            solution = question.solve(gpus=words, **changes)
            if solution is not None:
                taken.append(set(kept))
                text = f"take only GPU {', '.join(words)}"
                yield gpus, solution, _option(question, text, solution, {"--gpus": ",".join(words)})


def _all_wishes_and_fewer_gpus(question: Question) -> Iterator[Option]:
    """Where neither helps alone: all wishes given up, and fewer GPUs."""
    request = question.request
    given = {name: loosest for name, loosest in _LOOSEST.items() if getattr(request, name) != loosest}
    if not given:
        return
    replaced: Arguments = {f"--{name}": value for name, value in given.items()}
    for gpus, _, option in _fewer_gpus(question, **given):
        arguments = {**arguments_of(request), **replaced, "--gpus": ",".join(str(gpu.index) for gpu in gpus)}
        arguments = {key: value for key, value in arguments.items() if value != ""}
        text = f"{option.change} and give up the wish for {' and '.join(given)}"
        line = None if request.driver else command(arguments)
        yield Option(text, option.gives, line, words_of(arguments))
        return


def _by_compiling(question: Question, nothing_else: bool) -> Iterator[Option]:
    """A source build where only wheels were to be taken, and on a Jetson one for the torch that is there.

    Where ``nothing_else`` helps, all wishes may be given up for it.
    """
    request, existing = question.request, question.availability.existing
    if question.judged.situation.backend != "cuda" or request.family != "bitsandbytes":
        return
    wheels_only = request.build == "never"
    build: dict[str, object] = {"build": "always"} if wheels_only else {}
    asked: Arguments = {"--build": None} if wheels_only else {}
    given = {name: loosest for name, loosest in _LOOSEST.items() if getattr(request, name) != loosest}
    tried: list[tuple[dict[str, object], str]] = [({}, "")] if wheels_only else []
    if existing is not None and request.torch == "*":
        tried.append(({"torch": KEEP}, " for the torch that is there"))
    if wheels_only and given and nothing_else:
        tried.append(({**given}, f", and give up the wish for {' and '.join(given)}"))
    for changes, text in tried:
        solution = question.solve(**build, **changes)
        if solution is not None and solution.choice.bitsandbytes.source == "build":
            taken = solution.choice.bitsandbytes
            archs = " ".join(dict.fromkeys(cover.bitsandbytes.removeprefix("sass ") for cover in solution.covers))
            change = f"compile bitsandbytes {taken.version} for {archs} with CUDA {library_cuda(taken.library)}{text}"
            replaced: Arguments = {f"--{name}": str(value) for name, value in changes.items()}
            yield _option(question, change, solution, {**replaced, **asked})
            return


def _two_environments(question: Question, subsets: list[tuple[tuple[Gpu, ...], Solution]]) -> Iterator[Option]:
    """Two environments, each for some of the GPUs, where one cannot be for all: two commands in one option."""
    request, arguments = question.request, arguments_of(question.request)
    if request.driver is not None or request.torch == KEEP:
        return
    for first, one in subsets:
        second = tuple(gpu for gpu in question.gpus if gpu not in first)
        words = [",".join(str(gpu.index) for gpu in part) for part in (first, second)]
        other = question.solve(gpus=tuple(words[1].split(",")))
        if other is not None:
            folder = f"gpu{words[1].replace(',', '-')}"
            lines = [
                command({**arguments, "--gpus": words[0]}),
                f"mkdir {folder}",
                command({**arguments, "--gpus": words[1], "--project": folder}),
            ]
            change = f"make two environments: one for GPU {words[0]}, one in the folder {folder} for GPU {words[1]}"
            text = f"{gives(one)}; for GPU {words[1]} {gives(other)}"
            yield Option(change, text, " && ".join(lines), None)
            return


def _on_the_cpu(question: Question) -> Iterator[Option]:
    """The CPU, with as many of the wishes as it can have."""
    request = question.request
    arguments = arguments_of(request)
    # Where the driver waits for a reboot, only with another one there is an answer at all.
    driver = request.driver if question.facts.driver.state == "mismatch" else None
    dropped = ("--gpus", "--build", "--no-build", *(() if driver else ("--driver",)))
    others = {key: value for key, value in arguments.items() if key not in dropped}
    given = _given(request)
    build = "auto" if request.build == "always" else request.build
    for size in range(len(given) + 1):
        for names in combinations(given, size):
            changes = {name: _LOOSEST[name] for name in names}
            solution = question.solve(backend="cpu", gpus=("all",), driver=driver, build=build, **changes)
            if solution is not None:
                replaced = {f"--{name}": value for name, value in changes.items()}
                line: Arguments = {**others, **replaced, "--backend": "cpu"}
                line = {key: value for key, value in line.items() if value != ""}
                text = "use the CPU only"
                text += f", and {_giving_up(changes, request)}" if names else ""
                yield Option(text, gives(solution), None if driver else command(line), words_of(line))
                return


_BY_DRIVER = ("driver-cuda", "torch-ptx", "library-ptx", "kernels-ptx")


def _driver_only(rules: frozenset[str]) -> bool:
    """Whether another driver is all that a candidate lacks."""
    return all(rule.split("[")[0] in _BY_DRIVER for rule in rules)
