"""What was chosen, why this, and what it rests on: for ``solve``, ``plan``, ``sync`` and ``status``.

Each line says what it is about, so that it can be heard as well as seen.
"""

from __future__ import annotations

import re
from typing import Any

from bnbenv.cli.render.text import describe, listed, wrap

_FEW = 4  # of what was passed over, unless all is asked for; the most telling stand first


def chosen(solution: dict[str, Any]) -> list[str]:
    """The combination, and its details."""
    return wrap(describe(solution["choice"])) + details(solution)


def details(solution: dict[str, Any]) -> list[str]:
    """Where torch is from, the library that bitsandbytes loads or what another family's packages are, and what runs on
    which GPU."""
    choice = solution["choice"]
    existing = choice["torch"]["source"] == "existing"
    lines = wrap(f"torch is {'' if existing else 'from '}{_origin(choice['torch'])}", "  ")
    if choice["bitsandbytes"]:
        lines += wrap(f"bitsandbytes {_made(solution)}loads {choice['bitsandbytes']['library']}", "  ")
    for package in choice.get("packages", []):
        what = "a source archive, which uv makes a wheel of" if package["source"] == "sdist" else "a published wheel"
        lines += wrap(f"{package['name']} is {what}", "  ")
    for name, value in choice["environment"].items():
        lines += wrap(f"it needs {name}={value} in the environment, which bnbenv sync sets there", "  ")
    return lines + covered(solution)


def compiled_for(solution: dict[str, Any]) -> tuple[str, list[str]]:
    """The CUDA release of the compiler of a source build, and the architectures that it is for, the lowest first."""
    from bnbenv.matrix.native import library_cuda  # not for a sync with nothing to do

    archs = {cover["bitsandbytes"].removeprefix("sass ") for cover in solution["covers"]}
    cuda = library_cuda(solution["choice"]["bitsandbytes"]["library"]) or solution["choice"]["torch"]["cuda"]
    return cuda, sorted(archs, key=lambda arch: (len(arch), arch))


def _made(solution: dict[str, Any]) -> str:
    """Of a source build what it is compiled for."""
    if solution["choice"]["bitsandbytes"]["source"] != "build":
        return ""
    cuda, archs = compiled_for(solution)
    return f"is compiled here for {' '.join(archs)} with CUDA {cuda}, and "


def covered(solution: dict[str, Any]) -> list[str]:
    """What runs on which GPU; GPUs that are alike share a line."""
    alike: dict[tuple[str, str, str, str], list[int]] = {}
    for cover in solution["covers"]:
        what = "bitsandbytes" if cover["bitsandbytes"] else "the kernels"
        code = cover["bitsandbytes"] or cover.get("kernels", "")
        alike.setdefault((cover["arch"], cover["torch"], what, code), []).append(cover["gpu"])
    lines = []
    for (arch, torch, what, code), gpus in alike.items():
        names = f"GPU{'s' if len(gpus) > 1 else ''} {_numbers(gpus)} ({arch})"
        if not code:
            lines += wrap(f"{names}: torch runs {_code(torch)}", "  ")
        elif torch == code:
            lines += wrap(f"{names}: torch and {what} run {_code(torch)}", "  ")
        else:
            lines += wrap(f"{names}: torch runs {_code(torch)}, {what} {_code(code)}", "  ")
    return lines


def why(solution: dict[str, Any], prefer: str | None, asked: bool = True) -> list[str]:
    """Why this one, by the rules of preference; ``prefer`` is the policy, None where it is not known.

    ``asked``: only what the package sources offered was a candidate.
    """
    choice = solution["choice"]
    torch, wheel = choice["torch"]["version"], choice["bitsandbytes"]
    named = [{"name": "bitsandbytes", **wheel}] if wheel else choice.get("packages", [])
    own = ", ".join(f"{one['name']} {one['version']}" for one in named)
    reasons = [_code_reason(solution)]
    if wheel and wheel["source"] == "wheel":
        reasons.append("bitsandbytes is a published wheel: nothing has to be compiled")
    elif wheel and wheel["source"] == "build":
        reasons.append("bitsandbytes is compiled here: no published wheel fits, or that was asked for")
    needs = " and ".join(f"{name}={value}" for name, value in choice["environment"].items())
    if wheel:
        reasons.append(f"nothing as good fits without {needs}" if needs else "no variable has to be set for it")
    if choice["torch"]["source"] == "existing":
        reasons.append(f"torch stays as it is{f', and {own} is the newest that fits it' if own else ''}")
    elif prefer == "minimal-change":
        reasons.append('it changes least of what was there, as policy.prefer = "minimal-change" asks')
    elif prefer is not None:
        offered = "of what the package sources offered, " if asked else ""
        fit = "are the newest that fit" if len(named) > 1 else "is the newest that fits"
        with_it = f"{own} {fit} host and wishes, torch {torch} the newest that fits with it"
        reasons.append(offered + (with_it if own else f"torch {torch} is the newest that fits host and wishes"))
    lines = ["why this one, what counts most first:"]
    for number, reason in enumerate(reasons, 1):
        lines += wrap(f"{number}. {reason}", "  ")
    return lines


def passed_over(rejected: list[dict[str, Any]], everything: bool = False) -> list[str]:
    """What is newer and was not taken, and why: the most telling, or all."""
    rows = rejected if everything else rejected[:_FEW]
    if not rows:
        return []
    lines = ["newer, and passed over:"]
    for row in rows:
        lines += wrap(f"{row['candidate']}: {row['because'].removeprefix(row['candidate']).strip()}", "  ")
    if len(rejected) > len(rows):
        lines.append(f"  and {len(rejected) - len(rows)} more (--all lists them)")
    return lines


def rests_on(solution: dict[str, Any], everything: bool = False) -> list[str]:
    """The evidence: its level, what about, from where and when; the packages first, then the rules of the field.

    Digests are in short and the rules without their sources unless all is asked for.
    """
    lines = ["it rests on:"]
    evidence = solution["evidence"]
    packages = evidence if everything else evidence[: _packages(solution)]
    for row in packages:
        when = f" {row['date']}" if row.get("date") else ""
        lines += wrap(f"{row['level']}{when}: {row['about']}", "  ")
        lines += wrap(f"from {row['source'] if everything else short_source(row['source'])}", "    ", " ")
    rules: dict[str, list[str]] = {}
    for row in evidence[len(packages) :]:
        rules.setdefault(row["level"], []).append(row["about"])
    for level, about in rules.items():
        lines += wrap(f"{level}: {listed(about)} (--all names the sources)", "  ")
    return lines


def _packages(solution: dict[str, Any]) -> int:
    """How many lines of evidence are about packages: they stand first, torch and those that were decided on.

    What an earlier release recorded has no list of packages.
    """
    return 1 + bool(solution["choice"]["bitsandbytes"]) + len(solution["choice"].get("packages", []))


def in_short(solution: dict[str, Any], more: str) -> list[str]:
    """What it rests on and the first thing that was passed over; ``more`` is the command that says more."""
    levels: dict[str, list[str]] = {}
    for row in solution["evidence"][: _packages(solution)]:
        levels.setdefault(row["level"], []).append(row["about"].split()[0])
    rests = " and ".join(f"{level} contents of {listed(names)}" for level, names in levels.items())
    lines = wrap(f"it rests on the {rests} ({more} says more)", "  ") if rests else []
    for row in solution["rejected"][:1]:
        because = row["because"].removeprefix(row["candidate"]).strip()
        lines += wrap(f"newer, and passed over: {row['candidate']}: {because}", "  ")
    return lines


def _origin(torch: dict[str, Any]) -> str:
    return {
        "default-index": "the default index",
        "pytorch-index": f"PyTorch's own index ({torch.get('index')})",
        "local": "a local wheel",
        "existing": "the one that is there",
    }[torch["source"]]


def _code(code: str) -> str:
    kind, _, target = code.partition(" ")
    return f"native code (SASS {target})" if kind == "sass" else f"PTX {target}, which the driver compiles"


def _code_reason(solution: dict[str, Any]) -> str:
    covers = solution["covers"]
    if solution["backend"] == "cpu":
        if solution["choice"]["torch"]["cuda"]:
            return "it is for the CPU, with a CUDA build of torch: no CPU build can be had here"
        return "it is for the CPU, and a CPU build of torch has all that is needed"
    codes = [cover["torch"] + cover["bitsandbytes"] + cover.get("kernels", "") for cover in covers]
    by_ptx = [cover["gpu"] for cover, code in zip(covers, codes, strict=True) if "ptx" in code]
    if not by_ptx:
        other = "bitsandbytes" if solution["choice"]["bitsandbytes"] else "its kernels"
        both = any(cover["bitsandbytes"] or cover.get("kernels", "") for cover in covers)
        return f"every GPU has native code in torch{f' and in {other}' if both else ''}"
    return f"nothing published that fits has native code for GPU {_numbers(by_ptx)}, so the driver compiles PTX"


def _numbers(gpus: list[int]) -> str:
    """``0 to 7``, or ``0, 2 and 5``."""
    if len(gpus) > 2 and gpus == list(range(gpus[0], gpus[-1] + 1)):
        return f"{gpus[0]} to {gpus[-1]}"
    return listed([str(gpu) for gpu in gpus])


def short_source(source: str) -> str:
    """Where something is known from, with digests in short."""
    return re.sub(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}", r"\1...", source)
