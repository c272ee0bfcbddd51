"""How an option of a refusal reads, and the command line that carries it out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bnbenv.solve.model import Request, Solution

# Options of ``bnbenv solve`` and their values; None for an option that has none.
Arguments = dict[str, str | None]

BUILD_WORDS: dict[str, Arguments] = {"auto": {}, "always": {"--build": None}, "never": {"--no-build": None}}


def gives(solution: Solution) -> str:
    """A solution in one line: ``bitsandbytes 0.50.2 with torch 2.15.0 (CUDA 13.2), Python 3.12``."""
    choice = solution.choice
    torch = f"torch {choice.torch.version} ({f'CUDA {choice.torch.cuda}' if choice.torch.cuda else 'CPU'})"
    needs = "".join(f", {name}={value}" for name, value in choice.environment.items())
    made = " (compiled here)" if choice.compiled else ""
    return f"{choice.title}{made} with {torch}, Python {choice.python}{needs}"


def arguments_of(request: Request) -> Arguments:
    """The request as options of ``bnbenv solve``, defaults left out."""
    values = {
        "--family": request.family if request.family != "bitsandbytes" else "",
        "--package": request.package,
        "--torch": request.torch if request.torch != "*" else "",
        "--bitsandbytes": request.bitsandbytes if request.bitsandbytes != "*" else "",
        "--python": request.python if request.python != ">=3.10" else "",
        "--gpus": ",".join(request.gpus) if request.gpus != ("all",) else "",
        "--backend": request.backend if request.backend != "auto" else "",
        "--driver": request.driver or "",
    }
    given: Arguments = {key: value for key, value in values.items() if value}
    return {**given, **BUILD_WORDS[request.build]}


def words_of(arguments: Mapping[str, str | None]) -> tuple[str, ...]:
    """Options as words of a command line."""
    return tuple(word for key, value in arguments.items() for word in (key, value) if word is not None)


def command(arguments: Mapping[str, str | None]) -> str:
    """What carries wishes out, to be pasted into a shell: ``bnbenv sync``, of another family ``bnbenv add``."""
    return line(words_of(arguments))


def line(words: Iterable[str]) -> str:
    """The same of ``solve_args``."""
    given = tuple(words)
    if "--family" in given:
        place = given.index("--family")
        others = (*given[:place], *given[place + 2 :])
        return " ".join(["bnbenv", "add", given[place + 1], *map(_quoted, others)])
    return " ".join(["bnbenv", "sync", *map(_quoted, given)])


def _quoted(word: str) -> str:
    return f"'{word}'" if set(word) & set("<>*!= ~[]") else word
