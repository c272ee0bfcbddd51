"""Reading what was recorded of hosts, and planning for it: one bad host harms no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bnbenv.cli.render.fleet.plan import render
from bnbenv.envs.wishes import decode_wishes
from bnbenv.errors import InputError, UsageError
from bnbenv.facts.model import HostFacts, decode_facts
from bnbenv.fleet.answers import encode_report
from bnbenv.fleet.asking import Planned
from bnbenv.fleet.classes import classify
from bnbenv.fleet.model import HostAnswer, HostEnv, HostReport
from bnbenv.fleet.planned import document
from bnbenv.fleet.planning import Offers, plan_classes, requests_for, standing
from bnbenv.fleet.reports import LARGEST, read_reports
from bnbenv.matrix.load import load_matrix
from bnbenv.solve.model import Availability, Refusal, Request, Solution

HOSTS = Path(__file__).parent.parent / "hosts"


def facts(name: str) -> HostFacts:
    path = next(path for path in sorted(HOSTS.glob("*/facts.json")) if name in path.parent.name)
    return decode_facts(path.read_bytes(), name)


def report(name: str, kind: str = "580.65.06__h200-sm90") -> HostReport:
    env = HostEnv("bnb", True, 2, "ab" * 32, True, "cuda", {"torch": "2.15.0", "bitsandbytes": "0.50.2"})
    return HostReport(name, "ok", HostAnswer("1.0", "/srv/train", facts(kind), (env,)))


def states(path: Path) -> dict[str, tuple[str, str]]:
    return {one.name: (one.state, one.because) for one in read_reports(path)}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    reports = (report("b"), report("a", "absent__nogpu"), HostReport("far", "unreachable", None, "no route", "Wait."))
    (tmp_path / "fleet.jsonl").write_text("\n".join(map(encode_report, reports)) + "\n\n")
    assert read_reports(tmp_path / "fleet.jsonl") == reports


def test_a_bad_line_is_its_own_host_s_trouble(tmp_path: Path) -> None:
    good = encode_report(report("good"))
    document = json.loads(encode_report(report("x")))

    def changed(name: str, **changes: object) -> str:
        return json.dumps({**document, "name": name, **changes})

    answer = document["answer"]
    broken = {
        "other-facts": changed("other-facts", answer={**answer, "facts": {**answer["facts"], "schema": "x/7"}}),
        "other-schema": changed("other-schema", answer={**answer, "schema": "bnbenv.fleet-host/9"}),
        "no-facts": changed("no-facts", answer={**answer, "facts": 7}),
        "wrong": changed("wrong", answer={**answer, "facts": {**answer["facts"], "gpus": [{"index": "one"}]}}),
        "odd-state": changed("odd-state", state="fine"),
        "cut": encode_report(report("cut"))[:300],
        "deep": '{"name":"deep","answer":' + "[" * 50_000,
        "line 8": "not json",
        "line 9": "[1]",
        "line 10": changed("\x1b[31mred"),
        "line 11": changed(""),
        "line 12": '{"name":"\\ud800"}',
        "long": '{"name":"long","more":"' + "x" * LARGEST + '"}',
    }
    file = tmp_path / "fleet.jsonl"
    file.write_text("\n".join([*broken.values(), good, good]))
    found = states(file)
    assert found.pop("good") == ("ok", "")
    assert list(found) == list(broken)
    for number, (name, (state, because)) in enumerate(found.items(), 1):
        assert state == "bad-answer" and f"line {number}" in because, (name, because)
        assert because.isprintable(), because
    assert 'expected "bnbenv.facts/1", found "x/7"' in found["other-facts"][1]
    assert "gpus[0]" in found["wrong"][1]
    assert "breaks off" not in found["cut"][1]
    file.write_text(f"{good}\n{broken['cut']}")
    assert states(file)["cut"][1] == "line 2 is no JSON document, and it breaks off"


def test_a_host_that_stands_there_twice(tmp_path: Path) -> None:
    file = tmp_path / "fleet.jsonl"
    twice = [report("one"), report("other"), report("one", "v100-sm70__glibc2.17"), report("other")]
    file.write_text("\n".join(map(encode_report, twice)))
    found = states(file)
    assert found["other"] == ("ok", "")  # the same both times
    assert found["one"] == (
        "bad-answer",
        "it stands there 2 times, with different facts: line 1 and line 3",
    )


@pytest.mark.parametrize("text", ["", "\n\n", "hosts:\n  gpu-1:\n", "\x00\x01", "{}", "[]\n[]", '{\n "schema": 1\n}'])
def test_what_is_no_record_at_all(text: str, tmp_path: Path) -> None:
    file = tmp_path / "hosts.ini"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_reports(file)
    assert str(file) in caught.value.message
    for path in (tmp_path / "missing", tmp_path):  # nothing there, and a folder without facts
        with pytest.raises(InputError):
            read_reports(path)


def test_a_folder_of_facts(tmp_path: Path) -> None:
    whole = (HOSTS / "linux-x86_64__580.65.06__h200-sm90" / "facts.json").read_text()
    (tmp_path / "gpu-1.json").write_text(whole)
    (tmp_path / "gpu-2.json").write_text(whole[:200])
    (tmp_path / "gpu-3").mkdir()
    (tmp_path / "gpu-3" / "facts.json").write_text(whole)
    assert {name: state for name, (state, _) in states(tmp_path).items()} == {
        "gpu-1": "ok",
        "gpu-2": "bad-answer",
        "gpu-3": "ok",
    }
    (one,) = read_reports(tmp_path / "gpu-1.json")
    assert (one.name, one.answer and one.answer.facts) == ("gpu-1", facts("580.65.06__h200-sm90"))


def test_a_torch_that_is_kept_cannot_be_planned_from_afar() -> None:
    wishes = decode_wishes(b'[envs.bnb]\n[envs.own]\ntorch = "keep"\n', "bnbenv.toml")
    with pytest.raises(UsageError, match='own: torch = "keep"'):
        requests_for(wishes, "bnbenv.toml")
    assert requests_for(wishes, "bnbenv.toml", ["bnb"]) == {"bnb": Request()}


def test_offers_are_those_of_the_platform() -> None:
    matrix, requests = load_matrix(), {"bnb": Request()}
    classes, _ = classify([report("x86"), report("arm", "gh200")], matrix, requests)
    away = Availability(unreachable={"default-index": "no answer", "pytorch-index/cu126": "no answer"})
    offers = Offers({("linux", "aarch64", "bitsandbytes"): away})
    found = {plan.kind.hosts[0]: plan.answers["bnb"] for plan in plan_classes(classes, matrix, requests, offers)}
    assert isinstance(found["x86"], Solution)
    arm = found["arm"]
    assert isinstance(arm, Refusal) or arm.choice.torch.source != "default-index"
    # What the desk can compile for one class is said of that class alone.
    own = Offers(offers.by_place, {(classes[1].id, "bnb"): Availability()})
    assert own.of(classes[1], "bnb", Request()) == Availability() != own.of(classes[1], "other", Request())


def test_how_a_host_stands() -> None:
    matrix, requests = load_matrix(), {"bnb": Request()}
    classes, _ = classify([report("a")], matrix, requests)
    (plan,) = plan_classes(classes, matrix, requests)
    answer = plan.answers["bnb"]
    assert isinstance(answer, Solution)
    good = HostEnv(
        "bnb",
        True,
        2,
        "ab" * 32,
        True,
        "cuda",
        {"torch": answer.choice.torch.version, **answer.choice.versions, "numpy": "2.0"},
    )
    assert standing(plan, [good]) == "in-sync"
    assert standing(plan, []) == "none"
    assert standing(plan, [HostEnv("bnb", False)]) == "none"
    assert standing(plan, [HostEnv("bnb", True, 2, "ab" * 32, True, "cuda", {"torch": "2.0"})]) == "change"
    assert standing(plan, [HostEnv("bnb", False, 2, "ab" * 32, True, "cuda", good.holds)]) == "change"
    built = {**good.holds, "bitsandbytes": f"{good.holds['bitsandbytes']}+cuda130"}
    assert standing(plan, [HostEnv("bnb", True, 2, "ab" * 32, True, "cuda", built)]) == "change"  # a wheel is wanted
    assert standing(plan, [good], {"bnb": frozenset({"ab" * 32})}) == "in-sync"
    assert standing(plan, [good], {"bnb": frozenset({"cd" * 32})}) == "change"


def test_two_hundred_hosts_are_no_two_hundred_lines() -> None:
    """Those that are left out for as many reasons are counted, and so are those that something is noted of."""
    requests, matrix = {"bnb": Request()}, load_matrix()
    lost = facts("gpu-lost")
    reports = [
        HostReport(f"far-{number}", "unreachable", None, f"no route to 10.0.0.{number}") for number in range(100)
    ]
    reports += [HostReport(f"lost-{number}", "ok", HostAnswer("1", "/x", lost)) for number in range(100)]
    classes, left = classify(reports, matrix, requests)
    planned = Planned(classes, left, plan_classes(classes, matrix, requests), requests, matrix)
    text = render(document(planned, reports, "/x", True, {}))
    assert len(text.splitlines()) < 60
    assert "left out, and not shown: 90 hosts more (--json names them)" in text
    assert text.count("GPU is lost") == 1 and "lost-9 and 90 more" in " ".join(text.split())
