"""Classes of hosts: the solver answers alike for all hosts of one, and whoever else is there changes nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnbenv.facts.model import Driver, Gpu, HostFacts, Libc, Platform, Python, Toolkit, Unknown, decode_facts
from bnbenv.fleet.classes import Sight, classify, remarks
from bnbenv.fleet.model import HostAnswer, HostReport
from bnbenv.matrix.drivers import number
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import Matrix
from bnbenv.solve.grid_parts import driver_bounds, libc_bounds
from bnbenv.solve.model import Request, Solution
from bnbenv.solve.situation import on_windows_driver
from bnbenv.solve.solver import solve

HOSTS = Path(__file__).parent.parent / "hosts"
PLAIN = {"bnb": Request()}
WISHES = (
    Request(),
    Request(torch="<2.9", python=">=3.11", build="never"),
    Request(backend="cpu"),
    Request(backend="cuda", bitsandbytes="<0.47"),
    Request(family="gptq"),
    Request(gpus=("0",)),
    Request(gpus=("GPU-1",), build="always"),
)


@lru_cache(maxsize=1)
def matrix() -> Matrix:
    return load_matrix()


@lru_cache(maxsize=1)
def recorded() -> dict[str, HostFacts]:
    paths = sorted(HOSTS.glob("*/facts.json"))
    return {path.parent.name: decode_facts(path.read_bytes(), path.parent.name) for path in paths}


def host(name: str) -> HostFacts:
    """The recorded host of which the name holds this."""
    return next(facts for known, facts in recorded().items() if name in known)


def report(name: str, facts: HostFacts, **more: Any) -> HostReport:
    return HostReport(name, "ok", HostAnswer("1.0", "/srv/train", facts, **more))


def ids(hosts: dict[str, HostFacts], wishes: dict[str, Request] = PLAIN, rows: Matrix | None = None) -> dict[str, str]:
    """By host the id of its class."""
    classes, _ = classify([report(*item) for item in hosts.items()], rows or matrix(), wishes)
    return {name: kind.id for kind in classes for name in kind.hosts}


def told(facts: HostFacts, request: Request) -> object:
    """What the solver answers, but for what is about one host alone: names and numbers of its GPUs in texts."""
    answer = solve(facts, matrix(), request)
    if not isinstance(answer, Solution):
        return sorted({part.rule.partition("[")[0] for part in answer.conflict})
    code = {(cover.arch, cover.torch, cover.bitsandbytes, cover.kernels) for cover in answer.covers}
    return answer.backend, answer.choice, answer.visible_devices, answer.torch_sha256, code


@st.composite
def altered(draw: st.DrawFn, base: HostFacts) -> HostFacts:
    """A host like another one: with other cards of the kinds, another driver, C library or Python, each perhaps."""
    facts = base
    if draw(st.booleans()) and facts.gpus:
        copies = draw(st.integers(1, 3))
        gpus = [gpu for gpu in draw(st.permutations(facts.gpus)) for _ in range(copies)]
        facts = msgspec.structs.replace(
            facts,
            gpus=tuple(
                Gpu(place, f"GPU-{place}", draw(st.sampled_from(["", "A card"])), gpu.compute_capability, 1 << 30)
                for place, gpu in enumerate(gpus)
            ),
        )
    if draw(st.booleans()) and facts.driver.version:
        near = [*driver_bounds(matrix(), on_windows_driver(facts)), "535.161.08", "550.127.08", "580.82.06"]
        version = draw(st.sampled_from(near)) + draw(st.sampled_from(["", ".1", ".0"]))
        driver = msgspec.structs.replace(facts.driver, version=version, cuda=draw(st.sampled_from(["12.2", None])))
        facts = msgspec.structs.replace(facts, driver=driver)
    if draw(st.booleans()):
        version = draw(st.sampled_from([*libc_bounds(matrix()), "2.31", "2.36", "2.39"]))
        libc = Libc(draw(st.sampled_from(["glibc", "glibc", "musl"])), version)
        facts = msgspec.structs.replace(facts, platform=msgspec.structs.replace(facts.platform, libc=libc))
    if draw(st.booleans()):
        versions = draw(st.lists(st.sampled_from(["3.8.1", "3.10.0", "3.10.12", "3.12.3", "3.13.0rc1"]), max_size=3))
        facts = msgspec.structs.replace(facts, pythons=tuple(Python("/usr/bin/python3", one) for one in versions))
    return facts


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_hosts_of_one_class_get_one_answer(data: st.DataObject) -> None:
    """So hosts with different answers are in different ones; and what is chosen for the class fits each of them."""
    names = [name for name, facts in recorded().items() if facts.driver.state != "mismatch"]
    base = recorded()[data.draw(st.sampled_from(names))]
    request = data.draw(st.sampled_from(WISHES))
    hosts = {str(number): data.draw(altered(base)) for number in range(2)}
    classes, left = classify([report(*item) for item in hosts.items()], matrix(), {"bnb": request})
    assert sorted([*(name for kind in classes for name in kind.hosts), *(one.host for one in left)]) == sorted(hosts)
    for kind in classes:
        answers = [told(hosts[name], request) for name in kind.hosts]
        assert all(answer == answers[0] for answer in answers)
        assert told(kind.facts, request) == answers[0]


def test_what_makes_no_difference_makes_no_class() -> None:
    """Number, names, memory and UUIDs of GPUs, a container, what the shell has set, where Python lies."""
    base, chance = host("580.65.06__h200-sm90"), random.Random(1)
    fleet = {}
    for place in range(200):
        gpus = tuple(
            Gpu(index, f"GPU-{chance.random()}", chance.choice(["NVIDIA H100", "NVIDIA H200"]), "9.0", place << 30)
            for index in range(chance.choice([1, 2, 4, 8]))
        )
        fleet[f"node{place}"] = msgspec.structs.replace(
            base,
            gpus=gpus,
            platform=msgspec.structs.replace(base.platform, container=chance.choice([None, "docker"])),
            driver=Driver("ok", chance.choice(["580.65.06", "580.82.01"]), cuda="13.0"),
            pythons=tuple(Python(f"/usr/lib/{place}/python", f"3.12.{patch}") for patch in (place % 9, place % 5)),
            environment={"BNB_CUDA_VERSION": chance.choice([None, "128"])},
        )
    assert len(set(ids(fleet).values())) == 1
    classes, _ = classify([report(*item) for item in fleet.items()], matrix(), PLAIN)
    assert classes[0].hosts == tuple(fleet)
    assert classes[0].facts.driver.version == "580.65.06"
    assert classes[0].facts.environment == {}
    # Where a wish is for some of the GPUs, their UUIDs are what the environment is told.
    some = dict(list(fleet.items())[:20])
    alone = {name for name, facts in some.items() if len(facts.gpus) == 1}
    found = ids(some, {"bnb": Request(gpus=("0",))})
    assert len({found[name] for name in alone}) == 1
    assert len(set(found.values())) == 1 + len(some) - len(alone)


def test_the_id_depends_on_the_host_alone() -> None:
    whole = ids(recorded())
    backwards = ids(dict(reversed(recorded().items())))
    assert backwards == whole
    for name, facts in list(recorded().items())[::9]:
        assert ids({name: facts}).get(name) == whole.get(name)
    rows = matrix()
    turned = msgspec.structs.replace(rows, torch=rows.torch[::-1], bitsandbytes=rows.bitsandbytes[::-1])
    assert ids(recorded(), rows=turned) == whole
    newer = msgspec.structs.replace(rows.torch[0], version="99.0", evidence=rows.torch[0].evidence)
    assert ids(recorded(), rows=msgspec.structs.replace(rows, torch=(newer, *rows.torch))) == whole
    assert all(len(one) == 12 and int(one, 16) >= 0 for one in whole.values())


def test_recorded_hosts_are_sorted_as_people_would() -> None:
    found = ids(recorded())
    together = [name for name in found if "535.1" in name and "a100-sm80" in name and name.startswith("linux-x86_64")]
    together = [name for name in together if "python3.9" not in name]
    assert len(together) == 4 and len({found[name] for name in together}) == 1
    for one, other in [
        ("580.65.06__h200-sm90", "580.65.06__h200-sm90+h200-sm90+h200-sm90+h200-sm90"),
        ("560.35.03__rtx4080-sm89__podman", "565.57.01__l40s-sm89+l40s-sm89"),
    ]:
        assert found[f"linux-x86_64__{one}"] == found[f"linux-x86_64__{other}"]
    for one, other in [
        ("580.65.06__h200-sm90", "580.65.06__v100-sm70"),  # other cards
        ("570.133.20__rtx5090-sm120", "580.65.06__rtx5090-sm120"),  # another driver
        ("absent__nogpu__glibc2.36", "absent__nogpu__musl1.2.5-docker"),  # another C library
        ("470.256.02__k40m-sm35", "470.256.02__k80-sm37+k80-sm37"),
        ("580.95.05__rtx3060-sm86+p40-sm61", "580.65.06__gtx1080ti-sm61"),  # a mixture is of its own
    ]:
        assert found[f"linux-x86_64__{one}"] != found[f"linux-x86_64__{other}"]
    aarch, x86 = "linux-aarch64__absent__nogpu__glibc2.39", "linux-x86_64__absent__nogpu__gpu-without-driver"
    assert found[aarch] != found[x86]


def test_a_bound_of_the_matrix_parts_what_lies_on_its_two_sides() -> None:
    base = host("535.183.01__rtx3090-sm86__glibc2.27")

    def with_libc(name: str, version: str) -> HostFacts:
        platform = msgspec.structs.replace(base.platform, libc=Libc(name, version))
        return msgspec.structs.replace(base, platform=platform)

    def with_driver(version: str) -> HostFacts:
        return msgspec.structs.replace(base, driver=Driver("ok", version))

    found = ids(
        {
            **{version: with_libc("glibc", version) for version in ("2.27", "2.28", "2.31", "2.34", "2.39")},
            **{version: with_driver(version) for version in ("525.60.12", "525.60.13", "525.147.05", "580.0")},
            "musl": with_libc("musl", "2.28"),
        }
    )
    assert found["2.28"] == found["2.31"] and found["2.34"] == found["2.39"]
    assert found["525.60.13"] == found["525.147.05"]
    assert len(set(found.values())) == 7


def test_each_thing_that_the_solver_reads_parts_hosts() -> None:
    base = host("580.65.06__h200-sm90")

    def on(**platform: Any) -> HostFacts:
        return msgspec.structs.replace(base, platform=msgspec.structs.replace(base.platform, **platform))

    def with_cards(*capabilities: str) -> HostFacts:
        gpus = (Gpu(place, f"GPU-{place}", "", one, 1 << 30) for place, one in enumerate(capabilities))
        return msgspec.structs.replace(base, gpus=tuple(gpus))

    hosts = {"base": base, "wsl": on(wsl=True), "jetson": on(jetson="36.4"), "arm": on(machine="aarch64")}
    hosts |= {"old": with_cards("7.0"), "mixed": with_cards("7.0", "9.0"), "other": with_cards("7.0", "8.0")}
    assert len(set(ids(hosts).values())) == len(hosts)
    # A Python of the same minor is another one where a wheel wants a later patch.
    rows = matrix()
    picky = msgspec.structs.replace(rows.torch[0], requires_python=">=3.12.5")
    rows = msgspec.structs.replace(rows, torch=(picky, *rows.torch[1:]))
    hosts = {
        version: msgspec.structs.replace(base, pythons=(Python("/usr/bin/python3", version),))
        for version in ("3.12.3", "3.12.4", "3.12.5", "3.12.9")
    }
    found = ids(hosts, rows=rows)
    assert found["3.12.3"] == found["3.12.4"] != found["3.12.5"] == found["3.12.9"]


def test_hosts_that_cannot_be_judged_are_left_out_with_the_reason() -> None:
    reports = [report(*item) for item in recorded().items()]
    reports += [
        HostReport("far", "unreachable", None, "no route to host", "See whether it is up."),
        HostReport("bare", "no-bnbenv", None, "there is no bnbenv", "Give --bootstrap."),
        report("waits", host("580.65.06__h200"), reboot="the kernel module is 550 and the library 580"),
    ]
    classes, left = classify(reports, matrix(), PLAIN)
    assert len(left) + sum(len(kind.hosts) for kind in classes) == len(reports)
    by_code: dict[str, list[str]] = {}
    for one in left:
        assert one.because and one.next_step
        by_code.setdefault(one.code, []).append(one.host)
    errors = [name for name, facts in recorded().items() if facts.driver.state == "error"]
    assert by_code == {
        "unknown-facts": errors,
        "reboot-required": ["linux-x86_64__mismatch__nogpu", "waits"],
        "unreachable": ["far"],
        "no-bnbenv": ["bare"],
    }
    # Where nobody looks at GPUs, their driver does not matter.
    _, left = classify(reports, matrix(), {"bnb": Request(backend="cpu")})
    assert {one.code for one in left} == {"reboot-required", "unreachable", "no-bnbenv"}


def test_gpus_that_are_unknown_are_none_to_forget() -> None:
    lost = msgspec.structs.replace(host("580.65.06__h200"), gpus=(), unknown=(Unknown("gpus", "NVML was silent"),))
    classes, left = classify([report("lost", lost)], matrix(), PLAIN)
    assert classes == () and left[0].code == "unknown-facts" and "NVML was silent" in left[0].because
    names = {name for name, _ in remarks([report(*item) for item in recorded().items()])}
    assert {name.rpartition("__")[2] for name in names} == {"gpu-lost", "v100-unseen", "gpu-without-driver"}


TEXTS = st.text(max_size=12) | st.sampled_from(["linux", "x86_64", "9.0", "580", "2.36", "3.12.1", "999999999999"])


@settings(max_examples=25, deadline=None)
@given(TEXTS, TEXTS, TEXTS, TEXTS, st.lists(st.tuples(st.integers(-1, 3), TEXTS), max_size=4))
def test_a_host_that_lies_harms_nobody(
    system: str, libc: str, driver: str, python: str, gpus: list[tuple[int, str]]
) -> None:
    lying = HostFacts(
        Platform(system, "x86_64", Libc("glibc", libc)),
        Driver("ok", driver),
        tuple(Gpu(index, "GPU-1", "\x1b[31m", capability, -1) for index, capability in gpus),
        (Python("", python),),
    )
    good = report("good", host("580.65.06__h200-sm90"))
    classes, left = classify([report("lies", lying), good], matrix(), PLAIN)
    assert ("good",) in [kind.hosts for kind in classes]
    assert [one.host for one in left] == ["lies"] * (1 - any("lies" in kind.hosts for kind in classes))
    assert all(one.code in ("bad-answer", "unknown-facts") for one in left)


def of_capability(number: int) -> Gpu:
    return Gpu(number, f"GPU-{number}", "", f"{number}.0", 0)


@pytest.mark.parametrize(
    ("change", "code", "because"),
    [
        (lambda facts: msgspec.structs.replace(facts, schema="bnbenv.facts/9"), "bad-answer", "schema: expected"),
        (lambda facts: msgspec.structs.replace(facts, gpus=facts.gpus * 400), "bad-answer", "expected 256 GPUs"),
        (lambda facts: msgspec.structs.replace(facts, pythons=facts.pythons * 300), "bad-answer", "200 Pythons"),
        (
            *(lambda facts: msgspec.structs.replace(facts, gpus=tuple(map(of_capability, range(40)))), "bad-answer"),
            "expected 16 compute capabilities at most, found 40",
        ),
        (lambda facts: msgspec.structs.replace(facts, driver=Driver("ok")), "unknown-facts", "version is unknown"),
    ],
)
def test_odd_facts_are_told(change: Callable[[HostFacts], HostFacts], code: str, because: str) -> None:
    _, left = classify([report("odd", change(host("580.65.06__h200-sm90")))], matrix(), PLAIN)
    assert [one.code for one in left] == [code] and because in left[0].because


def test_a_class_is_known_by_its_least_capable_host() -> None:
    base = host("535.183.01__a100-sm80+a100-sm80")

    def like(driver: str, libc: str, cuda: str, *unknown: Unknown) -> HostFacts:
        return msgspec.structs.replace(
            base,
            platform=msgspec.structs.replace(base.platform, libc=Libc("glibc", libc)),
            driver=msgspec.structs.replace(base.driver, version=driver, cuda=cuda),
            toolkits=(Toolkit("/usr/local/cuda", "12.2.91"),),
            unknown=unknown,
        )

    # Of the oldest driver is one of which not all GPUs answered: that is no host to stand for the others.
    fleet = [report("a", like("535.183.01", "2.39", "12.2")), report("b", like("535.161.08", "2.41", "12.1"))]
    fleet.append(report("c", like("535.161.08", "2.39", "12.2", Unknown("gpus", "one is lost"))))
    (kind,), _ = classify(fleet, matrix(), PLAIN)
    assert kind.facts.driver.version == "535.161.08"
    assert kind.facts.platform.libc == Libc("glibc", "2.39")
    assert (kind.facts.driver.cuda, kind.facts.toolkits, kind.facts.unknown) == ("12.1", (), ())
    assert "driver 535.161.08 to 535.183.01, glibc 2.39 to 2.41" in kind.title
    assert number(kind.facts.driver.version) <= number("535.183.01")
    assert Sight(matrix(), PLAIN).id_of(kind.facts) == kind.id
