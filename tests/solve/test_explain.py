"""``why-not``: what stands against versions that are named, or what is preferred to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.errors import RebootRequired
from bnbenv.facts.model import decode_facts
from bnbenv.solve.explain import Explanation, why_not
from bnbenv.solve.model import Availability, Refusal, Request, Solution
from bnbenv.solve.situation import with_request
from bnbenv.solve.solver import solve
from bnbenv.solve.versions import read_specifier

HOSTS = Path(__file__).parent.parent / "hosts"


def asked(facts: Any, matrix: Any, **wishes: Any) -> Explanation:
    read = {name: read_specifier(text, name, "") if name != "driver" else text for name, text in wishes.items()}
    return why_not(facts, matrix, with_request(Request(), **read), Availability())


def against(answer: Explanation) -> dict[str, set[str]]:
    """The rules against each candidate, without the GPU that they are about."""
    return {one.candidate: {part.rule.split("[")[0] for part in one.against} for one in answer.candidates}


@pytest.fixture
def matrix(rows: Any) -> Any:
    return rows.matrix(
        rows.torch("2.10.0"),
        rows.torch("2.9.0", cuda="12.6", archs="sm_70 sm_80"),
        rows.torch("2.3.0"),
        rows.wheel("0.50.0", {"cuda130": "sm_80", "cuda126": "sm_70 sm_80"}),
        rows.wheel("0.49.0", {"cuda130": "sm_75 compute_75"}, requires="torch"),
        rows.wheel("0.47.0", {"cuda126": "sm_70"}, requires="torch"),
    )


def test_what_fits_and_comes_first(rows: Any, matrix: Any) -> None:
    answer = asked(rows.host("8.0"), matrix, bitsandbytes="==0.50.0", torch="==2.10.0")
    assert answer.fits and answer.preferred is None and answer.conflict == ()
    assert answer.command == "bnbenv sync --torch '==2.10.0' --bitsandbytes '==0.50.0'"


@pytest.mark.parametrize(
    ("wishes", "because"),
    [
        ({"bitsandbytes": "==0.49.0"}, "it has native code for every GPU, where the other one has the driver compile"),
        ({"torch": "==2.9.0"}, "its torch is newer (2.10.0)"),
    ],
)
def test_what_is_preferred_to_what_fits_and_why(rows: Any, matrix: Any, wishes: Any, because: str) -> None:
    answer = asked(rows.host("8.0"), matrix, **wishes)
    assert answer.fits and answer.preferred is not None
    assert answer.preferred.bitsandbytes.version == "0.50.0" and answer.preferred.torch.version == "2.10.0"
    assert str(answer.because).startswith(because)


def test_what_stands_against_each_alone_and_against_both(rows: Any, matrix: Any) -> None:
    """One fact decides; the others are told with the candidate that they are about."""
    answer = asked(rows.host("7.0"), matrix, bitsandbytes="==0.50.0", torch=">=2.10")
    assert not answer.fits
    assert [part.rule for part in answer.conflict] == ["torch-arch[0]"]
    assert "torch 2.10.0 (CUDA 13.0, default-index) has no code for GPU 0" in answer.conflict[0].because
    assert against(answer) == {
        "bitsandbytes 0.50.0": set(),
        "torch 2.10.0 (CUDA 13.0, default-index)": {"torch-arch"},
        "bitsandbytes 0.50.0 with torch 2.10.0 (CUDA 13.0, default-index)": {"library-arch"},
    }
    assert answer.preferred is not None and answer.preferred.torch.version == "2.9.0"
    assert answer.command == "bnbenv sync"


def test_the_requirement_is_about_the_pair(rows: Any, matrix: Any) -> None:
    answer = asked(rows.host("8.0"), matrix, bitsandbytes="==0.50.0", torch="==2.3.0")
    assert [part.rule for part in answer.conflict] == ["torch-requirement"]
    assert against(answer)["bitsandbytes 0.50.0"] == set()


def test_what_stands_in_the_same_words_with_every_torch_is_about_the_wheel(rows: Any) -> None:
    """Another library of it has code for the GPU, but both torch builds load the one that has none."""
    matrix = rows.matrix(
        rows.torch("2.10.0"), rows.torch("2.9.0"), rows.wheel("0.50.0", {"cuda130": "sm_90", "cuda126": "sm_80"})
    )
    answer = asked(rows.host("8.0"), matrix, bitsandbytes="==0.50.0", torch=">=2.9")
    assert against(answer)["bitsandbytes 0.50.0"] == {"library-arch"}
    assert not any(" with torch" in candidate for candidate in against(answer))


def test_what_stands_with_every_torch_is_about_the_wheel(rows: Any, matrix: Any) -> None:
    """No library of it has code for the GPU, whichever is loaded."""
    answer = asked(rows.host("8.0"), matrix, bitsandbytes="==0.47.0", torch=">=2.3")
    assert against(answer)["bitsandbytes 0.47.0"] == {"library-arch"}


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ("==0.48.3", "no release of bitsandbytes that is ==0.48.3 is known; the nearest known are 0.47.0 and 0.49.0"),
        (">=0.51", "no release of bitsandbytes that is >=0.51 is known; the nearest known is 0.50.0"),
        ("==0.30.0", "no release of bitsandbytes that is ==0.30.0 is known; the nearest known is 0.47.0"),
    ],
)
def test_a_version_that_was_never_published(rows: Any, matrix: Any, wish: str, said: str) -> None:
    answer = asked(rows.host("8.0"), matrix, bitsandbytes=wish)
    assert [(part.rule, part.because) for part in answer.conflict] == [("bitsandbytes-wish", said)]


def test_a_version_for_another_platform(rows: Any, matrix: Any) -> None:
    facts = rows.host("9.0", machine="aarch64")
    (part,) = asked(facts, matrix, torch="==2.9.0").conflict[:1]
    assert (part.rule, part.because) == ("platform", "torch ==2.9.0 was published, but not for linux on aarch64")


def test_a_host_on_which_nothing_fits_is_the_candidate(rows: Any, matrix: Any) -> None:
    facts = rows.host("8.0")
    broken = msgspec.structs.replace(facts, driver=msgspec.structs.replace(facts.driver, state="error"))
    answer = asked(broken, matrix, bitsandbytes="==0.50.0")
    assert against(answer) == {"this machine": {"driver-state"}}
    assert answer.preferred is None and answer.command is None


def test_the_answer_is_that_of_solve_on_every_recorded_host(shipped: Any) -> None:
    request = Request(bitsandbytes="==0.46.1", torch="==2.7.*")
    ended = set()
    for host in sorted(HOSTS.glob("*/facts.json")):
        facts = decode_facts(host.read_bytes(), host.parent.name)
        if facts.driver.state == "mismatch":
            with pytest.raises(RebootRequired):
                why_not(facts, shipped, request, Availability())
            continue
        answer, solution = why_not(facts, shipped, request, Availability()), solve(facts, shipped, request)
        ended.add(answer.fits)
        if isinstance(solution, Solution):
            assert answer.chosen == solution.choice, host
            assert any(one.against == () for one in answer.candidates), host
        else:
            assert not answer.fits and answer.conflict, host
            assert any(one.against for one in answer.candidates), host
    assert ended == {True, False}


def test_what_is_to_be_known_of_what_fits_is_said_as_solve_says_it(shipped: Any) -> None:
    """LLM.int8() on Hopper."""
    facts = decode_facts((HOSTS / "linux-x86_64__580.65.06__h200-sm90" / "facts.json").read_bytes(), "h200")
    request = Request(bitsandbytes="==0.44.1", torch="==2.5.1")
    answer = why_not(facts, shipped, request, Availability())
    solution = solve(facts, shipped, request, Availability())
    assert isinstance(solution, Solution) and answer.notes == solution.notes != ()


def test_where_only_python_is_named(rows: Any, matrix: Any) -> None:
    answer = asked(rows.host("8.0"), matrix, python="==3.7.*")
    assert against(answer) == {"anything with these wishes": {"python"}}
    assert answer.command == "bnbenv sync"


def test_a_refusal_of_solve_is_one_here(rows: Any, matrix: Any) -> None:
    """The few facts are the same, but for the wish itself, which is no reason for somebody who asks about it."""
    request = Request(torch="==2.10.0")
    refusal = solve(rows.host("7.0"), matrix, request)
    assert isinstance(refusal, Refusal)
    facts = {part.because for part in refusal.conflict if not part.rule.endswith("-wish")}
    answer = why_not(rows.host("7.0"), matrix, request, Availability())
    assert {part.because for part in answer.conflict} == facts


def test_what_has_to_be_compiled_fits_and_a_wheel_comes_before_it(shipped: Any) -> None:
    """Of 0.48.2 no wheel is for Maxwell, and its source is; that of 0.50.2 is not."""
    path = HOSTS / "linux-x86_64__535.183.01__gtx970-sm52" / "facts.json"
    facts = decode_facts(path.read_bytes(), "a host")
    answer = asked(facts, shipped, bitsandbytes="==0.48.2")
    assert answer.fits and answer.chosen is not None and answer.preferred is not None
    assert (answer.chosen.bitsandbytes.source, answer.preferred.bitsandbytes.source) == ("build", "wheel")
    assert answer.because == "it is a published wheel, where the other one has to be compiled"
    assert answer.notes[0].startswith("no published wheel fits: ") and "has no code for GPU 0" in answer.notes[0]
    answer = asked(facts, shipped, bitsandbytes="==0.50.2")
    assert not answer.fits
    assert [part.rule for part in answer.conflict] == ["build-arch[0]", "library-arch[0]"]
    assert "is for sm_60 and newer; GPU 0 (NVIDIA GeForce GTX 970, sm_52) is older" in answer.conflict[0].because
