"""How an option of a refusal reads, and the command line that carries it out. Pure."""

from __future__ import annotations

from bnbenv.solve.model import Request, Solution


def gives(solution: Solution) -> str:
    """A solution in one line: ``bitsandbytes 0.50.2 with torch 2.15.0 (CUDA 13.2), Python 3.12``."""
    choice = solution.choice
    torch = f"torch {choice.torch.version} ({f'CUDA {choice.torch.cuda}' if choice.torch.cuda else 'CPU'})"
    return f"bitsandbytes {choice.bitsandbytes.version} with {torch}, Python {choice.python}"


def arguments_of(request: Request) -> dict[str, str]:
    """The request as options of ``bnbenv solve``, defaults left out."""
    values = {
        "--torch": request.torch if request.torch != "*" else "",
        "--bitsandbytes": request.bitsandbytes if request.bitsandbytes != "*" else "",
        "--python": request.python if request.python != ">=3.10" else "",
        "--gpus": ",".join(request.gpus) if request.gpus != ("all",) else "",
        "--backend": request.backend if request.backend != "auto" else "",
        "--driver": request.driver or "",
    }
    return {key: value for key, value in values.items() if value}


def command(arguments: dict[str, str]) -> str:
    """``bnbenv sync`` with wishes, to be pasted into a shell."""
    words = [f"{key} '{value}'" if set(value) & set("<>*!= ") else f"{key} {value}" for key, value in arguments.items()]
    return " ".join(["bnbenv sync", *words])
