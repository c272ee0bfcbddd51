"""What cannot be reached here and now is no candidate; what can is taken, and that is said in one line."""

from __future__ import annotations

from typing import Any

from bnbenv.matrix.drivers import number
from bnbenv.matrix.model import Matrix
from bnbenv.solve.model import Availability, Refusal, Request, Solution
from bnbenv.solve.solver import solve

REASON = "no answer within 3 s"


def closed_network(matrix: Matrix) -> dict[str, str]:
    """Everything but the default index does not answer."""
    return {f"pytorch-index/{build.index}": REASON for build in matrix.torch if build.index}


def solved(answer: Solution | Refusal) -> Solution:
    assert isinstance(answer, Solution), answer
    return answer


def test_the_next_best_is_taken_with_one_note(rows: Any, shipped: Matrix) -> None:
    """A V100 would have torch 2.14.1 of PyTorch's index; the default index has sm_70 up to 2.10."""
    facts = rows.host("7.0")
    free = solved(solve(facts, shipped, Request()))
    assert free.choice.torch.source == "pytorch-index"
    assert free.notes == ()
    near = solved(solve(facts, shipped, Request(), Availability(unreachable=closed_network(shipped))))
    assert (near.choice.torch.version, near.choice.torch.source) == ("2.10.0", "default-index")
    (note,) = near.notes
    assert REASON in note
    assert "2.10.0" in note
    assert any(row.rule == "reachable" for row in near.rejected)


def test_nothing_is_said_where_nothing_was_lost(rows: Any, shipped: Matrix) -> None:
    answer = solved(solve(rows.host("9.0"), shipped, Request(), Availability(unreachable=closed_network(shipped))))
    assert answer.choice.torch.source == "default-index"
    assert answer.notes == ()


def test_one_source_of_several_is_enough(rows: Any, shipped: Matrix) -> None:
    unreachable = {"default-index": REASON, "pytorch-index/cu132": REASON}
    answer = solved(solve(rows.host("9.0"), shipped, Request(), Availability(unreachable=unreachable)))
    assert (answer.choice.torch.source, answer.choice.torch.index) == ("pytorch-index", "cu130")


def test_without_a_gpu_the_default_index_is_the_last_resort(rows: Any, shipped: Matrix) -> None:
    answer = solved(solve(rows.host(), shipped, Request(), Availability(unreachable=closed_network(shipped))))
    assert (answer.choice.torch.source, answer.choice.torch.cuda) == ("default-index", "13.2")
    assert answer.choice.bitsandbytes.library == "libbitsandbytes_cpu.so"
    assert len(answer.notes) == 1


def test_a_folder_of_wheels_serves_where_nothing_answers(rows: Any, shipped: Matrix) -> None:
    local = rows.torch("2.13.0+cpu", cuda=None, source="local")
    unreachable = {**closed_network(shipped), "default-index": REASON}
    answer = solved(solve(rows.host(), shipped, Request(), Availability(unreachable=unreachable, local=(local,))))
    assert (answer.choice.torch.version, answer.choice.torch.source) == ("2.13.0+cpu", "local")
    (note,) = answer.notes  # a newer CPU build is; one for CUDA is no loss
    assert note == f"pytorch-index/cpu cannot be reached: {REASON}; the next best is torch 2.13.0+cpu (CPU, local)"


def test_a_version_that_a_source_does_not_offer_is_no_candidate(rows: Any, shipped: Matrix) -> None:
    """A mirror that has only one release."""
    mirror = Availability(unreachable=closed_network(shipped), torch={"default-index": frozenset({"2.13.0"})})
    assert solved(solve(rows.host("9.0"), shipped, Request(), mirror)).choice.torch.version == "2.13.0"


def test_a_wheel_that_no_source_offers_is_no_candidate(rows: Any, shipped: Matrix) -> None:
    offered = frozenset(row.filename for row in shipped.bitsandbytes if row.version == "0.49.1")
    answer = solved(solve(rows.host("9.0"), shipped, Request(), Availability(bitsandbytes=offered)))
    assert answer.choice.bitsandbytes.version == "0.49.1"
    refused = solve(rows.host("9.0"), shipped, Request(build="never"), Availability(bitsandbytes=frozenset()))
    assert isinstance(refused, Refusal)
    assert refused.unreachable


def test_a_wheel_that_a_mirror_has_not_is_compiled(rows: Any, shipped: Matrix) -> None:
    answer = solved(solve(rows.host("9.0"), shipped, Request(), Availability(bitsandbytes=frozenset())))
    assert answer.choice.bitsandbytes.source == "build"
    assert answer.notes[0].startswith("no published wheel fits: no source here offers bitsandbytes-0.50.2-")


def test_a_wheel_whose_source_is_silent_is_not_compiled_instead(rows: Any, shipped: Matrix) -> None:
    """It is for a moment, and the toolchain would come from there, too."""
    silent = Availability(
        unreachable={"default-index": REASON}, bitsandbytes=frozenset(), torch={"default-index": frozenset({"2.15.0"})}
    )
    answer = solve(rows.host("9.0"), shipped, Request(), silent)
    assert isinstance(answer, Refusal)
    assert answer.unreachable
    assert {part.rule for part in answer.conflict} == {"reachable"}
    lacking = solved(solve(rows.host("9.0"), shipped, Request(build="always"), silent))
    assert lacking.choice.bitsandbytes.source == "build"


def test_a_refusal_for_want_of_a_source_says_so(rows: Any, shipped: Matrix) -> None:
    unreachable = {**closed_network(shipped), "default-index": REASON}
    answer = solve(rows.host("9.0"), shipped, Request(), Availability(unreachable=unreachable))
    assert isinstance(answer, Refusal)
    assert answer.unreachable
    assert any(REASON in part.because for part in answer.conflict)


def test_a_refusal_for_another_reason_does_not_blame_a_source(rows: Any, shipped: Matrix) -> None:
    answer = solve(rows.host("3.7"), shipped, Request(), Availability(unreachable=closed_network(shipped)))
    assert isinstance(answer, Refusal)
    assert not answer.unreachable


def test_a_refusal_by_wish_and_source_names_both(rows: Any, shipped: Matrix) -> None:
    """torch 2.14 has a build for Pascal on PyTorch's index only."""
    answer = solve(
        rows.host("6.1"), shipped, Request(torch=">=2.14,<2.15"), Availability(unreachable=closed_network(shipped))
    )
    assert isinstance(answer, Refusal)
    assert answer.unreachable
    assert all(option.solve_args is None or "--torch" in option.solve_args for option in answer.options)


def test_the_options_of_a_refusal_are_reachable_too(rows: Any, shipped: Matrix) -> None:
    here = Availability(unreachable=closed_network(shipped))
    answer = solve(rows.host("7.0"), shipped, Request(torch=">=2.11"), here)
    assert isinstance(answer, Refusal)
    given_up = next(option for option in answer.options if option.solve_args == ("--torch", "*"))
    assert "torch 2.10.0 (CUDA 12.8)" in given_up.gives


def test_what_another_index_has_can_be_had_where_the_default_one_does_not_answer(rows: Any, shipped: Matrix) -> None:
    beside = Availability(unreachable={"default-index": REASON}, torch={"default-index": frozenset({"2.13.0"})})
    facts = rows.host("9.0")
    wished = solved(solve(facts, shipped, Request(torch="==2.13.0"), beside))
    assert wished.choice.torch.source == "default-index"
    gone = Availability(
        unreachable={**closed_network(shipped), "default-index": REASON}, torch={"default-index": frozenset({"1.0"})}
    )
    refused = solve(facts, shipped, Request(), gone)
    assert isinstance(refused, Refusal)
    assert [part.because for part in refused.conflict] == [f"default-index cannot be reached: {REASON}"]


def test_a_wish_that_nothing_known_fulfils_is_said_to_be_one(rows: Any, shipped: Matrix) -> None:
    unknown = solve(rows.host("9.0"), shipped, Request(torch="==99.*"))
    assert isinstance(unknown, Refusal)
    newest = max((build.version for build in shipped.torch if "+" not in build.version), key=number)
    said = f"torch ==99.* was asked for, and no such release is known; the newest known is {newest}"
    assert [part.because for part in unknown.conflict] == [said]
    known = solve(rows.host("12.0"), shipped, Request(torch="==2.5.1", python="==3.12.*"))
    assert isinstance(known, Refusal)
    assert not any("is known" in part.because for part in known.conflict)
