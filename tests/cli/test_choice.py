"""The one screen on a choice: what was taken, why, what was passed over, and what it rests on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli import main
from bnbenv.cli.render.choice import chosen, in_short, passed_over, rests_on, why

HOSTS = Path(__file__).parent.parent / "hosts"


def solution(**changes: Any) -> dict[str, Any]:
    """A solution for four equal GPUs; ``torch``, ``bitsandbytes`` and ``environment`` change its choice."""
    torch = {"version": "2.15.0", "cuda": "13.2", "source": "default-index", "index": None}
    wheel = {"version": "0.50.2", "source": "wheel", "library": "libbitsandbytes_cuda132.so"}
    covers = [{"gpu": n, "arch": "sm_90", "torch": "sass sm_90", "bitsandbytes": "sass sm_90"} for n in range(4)]
    choice = {
        "python": "3.12",
        "torch": torch | changes.pop("torch", {}),
        "bitsandbytes": wheel | changes.pop("bitsandbytes", {}),
        "environment": changes.pop("environment", {}),
    }
    found = {"backend": "cuda", "choice": choice, "covers": covers, "evidence": [], "rejected": []}
    return {**found, **changes}


def cover(gpu: int, torch: str = "sass sm_90", bitsandbytes: str = "sass sm_90") -> dict[str, Any]:
    return {"gpu": gpu, "arch": "sm_90", "torch": torch, "bitsandbytes": bitsandbytes}


def test_gpus_that_are_alike_share_a_line() -> None:
    assert "  GPUs 0 to 3 (sm_90): torch and bitsandbytes run native code (SASS sm_90)" in chosen(solution())
    one = chosen(solution(covers=[cover(0)]))
    assert "  GPU 0 (sm_90): torch and bitsandbytes run native code (SASS sm_90)" in one
    some = " ".join(chosen(solution(covers=[cover(0), cover(2), cover(5, bitsandbytes="ptx compute_80")])))
    assert "GPUs 0 and 2 (sm_90): torch and" in some
    assert "GPU 5 (sm_90): torch runs native code (SASS sm_90), bitsandbytes PTX compute_80" in " ".join(some.split())


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        ({"source": "default-index"}, "from the default index"),
        ({"source": "pytorch-index", "index": "cu126"}, "from PyTorch's own index (cu126)"),
        ({"source": "local"}, "from a local wheel"),
        ({"source": "existing"}, "the one that is there"),
    ],
)
def test_where_torch_is_from(torch: dict[str, str], said: str) -> None:
    assert f"  torch is {said}" in chosen(solution(torch=torch))


def test_the_reasons_stand_in_the_order_of_preference() -> None:
    lines = " ".join(" ".join(why(solution(), "newest")).split())
    places = [
        lines.index(words) for words in ("1. every GPU has native", "2. bitsandbytes is a pub", "3. no variable", "4.")
    ]
    assert places == sorted(places)
    newest = "bitsandbytes 0.50.2 is the newest that fits host and wishes, torch 2.15.0 the newest"
    assert f"4. of what the package sources offered, {newest}" in lines
    assert f"4. {newest}" in " ".join(" ".join(why(solution(), "newest", asked=False)).split())


def test_what_is_not_so_is_not_given_as_a_reason() -> None:
    ptx = " ".join(" ".join(why(solution(covers=[cover(0), cover(1, torch="ptx compute_90")]), "newest")).split())
    assert "nothing published that fits has native code for GPU 1" in ptx and "every GPU has native" not in ptx
    override = " ".join(why(solution(environment={"BNB_CUDA_VERSION": "130"}), "newest"))
    assert "nothing as good fits without BNB_CUDA_VERSION=130" in override and "no variable" not in override
    built = " ".join(why(solution(bitsandbytes={"source": "build"}), "newest"))
    assert "is compiled here" in built and "is a published wheel" not in built
    close = " ".join(why(solution(), "minimal-change"))
    assert "changes least" in close and "newest" not in close
    unknown = " ".join(why(solution(), None))
    assert "newest" not in unknown and "changes least" not in unknown
    cpu = " ".join(why(solution(backend="cpu", covers=[], torch={"cuda": None}), "newest"))
    assert "for the CPU, and a CPU build" in cpu and "GPU" not in cpu
    odd = " ".join(why(solution(backend="cpu", covers=[]), "newest"))
    assert "with a CUDA build of torch" in odd


def row(number: int) -> dict[str, str]:
    name = f"torch 2.{number}.0 (CUDA 13.2, default-index)"
    return {"candidate": name, "rule": "torch-arch[0]", "because": f"{name} has no code for GPU 0"}


def test_what_was_passed_over_is_a_few_or_all() -> None:
    rows = [row(number) for number in range(9)]
    assert passed_over([]) == []
    few, everything = passed_over(rows), passed_over(rows, everything=True)
    assert few[-1] == "  and 5 more (--all lists them)"
    assert "  torch 2.0.0 (CUDA 13.2, default-index): has no code for GPU 0" in few
    assert sum("has no code" in line for line in few) == 4
    assert sum("has no code" in line for line in everything) == 9 and "more" not in everything[-1]


def test_evidence_in_short_keeps_what_identifies_it() -> None:
    digest = "0123456789ab" + "c" * 52
    about = ["torch 2.15.0", "bitsandbytes 0.50.2", "loader of bitsandbytes 0.50.2", "driver for CUDA 13.2"]
    evidence = [
        {"about": name, "level": "measured" if n < 2 else "declared", "source": f"x.whl sha256:{digest}", "date": None}
        for n, name in enumerate(about)
    ]
    evidence[0]["date"] = "2026-11-21"
    found = solution(evidence=evidence)
    short, whole = rests_on(found), rests_on(found, everything=True)
    assert "  measured 2026-11-21: torch 2.15.0" in short
    assert "    from x.whl sha256:0123456789ab..." in short
    joined = " ".join(" ".join(short).split())
    assert "declared: loader of bitsandbytes 0.50.2 and driver for CUDA 13.2 (--all names" in joined
    assert " ".join(whole).count(digest) == 4


def test_the_first_of_what_was_passed_over_stands_under_plan_and_sync() -> None:
    evidence = [{"about": "torch 2.15.0", "level": "measured", "source": "x", "date": None}]
    lines = " ".join(" ".join(in_short(solution(evidence=evidence, rejected=[row(9), row(8)]), "bnbenv solve")).split())
    assert "the measured contents of torch (bnbenv solve says more)" in lines
    assert "passed over: torch 2.9.0 (CUDA 13.2, default-index): has no code for GPU 0" in lines
    assert "2.8.0" not in lines


def test_the_newest_of_each_kind_and_each_of_its_rules_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    facts = HOSTS / "linux-x86_64__535.183.01__gtx970-sm52" / "facts.json"
    assert main(["solve", "--json", "--shipped", "--facts", str(facts)]) == 0
    rejected = json.loads(capsys.readouterr().out)["rejected"]
    first = [(one["candidate"].split(" (")[0], one["rule"].split("[")[0]) for one in rejected[:4]]
    assert len(set(first)) == 4
    assert any("bitsandbytes 0.50" in one["candidate"] for one in rejected[:2])
    assert any(name.startswith("torch 2.15") for name, _ in first)
