"""What ``fleet facts`` and ``fleet check`` say of many hosts: each in one list, the exit code by the worst."""

from __future__ import annotations

from typing import Any

import pytest

from bnbenv.facts.model import Driver, Gpu, HostFacts, Platform
from bnbenv.fleet.model import Cause, GpuProcess, HostAnswer, HostEnv, HostReport
from bnbenv.fleet.overview import check_document, check_exit, facts_document, facts_exit

GOOD = HostEnv("bnb", True)
APART = HostEnv("bnb", False, reasons=(Cause("driver-changed", "the driver is another one"),))
SILENT = HostReport("silent", "unreachable", None, "no route")


def host(name: str, *environments: HostEnv, gpus: int = 1, driver: Driver | None = None, **more: Any) -> HostReport:
    cards = tuple(Gpu(number, f"GPU-{name}-{number}", "NVIDIA H200", "9.0", 1 << 37) for number in range(gpus))
    facts = HostFacts(Platform("linux", "x86_64"), driver or Driver("ok", "580.65.06"), cards)
    return HostReport(name, "ok", HostAnswer("0.1.0", "/srv", facts, environments, **more))


@pytest.mark.parametrize(
    ("reports", "lists", "code"),
    [
        ([host("a", GOOD), host("b", GOOD)], (["a", "b"], [], [], []), 0),
        ([host("a", GOOD), host("b", GOOD, APART)], (["a"], ["b"], [], []), 3),
        ([host("a", GOOD), host("b")], (["a"], ["b"], [], []), 3),
        ([host("a", GOOD), host("b", APART, reboot="they differ")], (["a"], [], ["b"], []), 6),
        ([host("a", GOOD, driver=Driver("mismatch")), host("b", APART)], ([], ["b"], ["a"], []), 3),
        ([host("a", APART), host("b", reboot="they differ"), SILENT], ([], ["a"], ["b"], ["silent"]), 1),
    ],
)
def test_each_host_is_in_one_list(reports: list[HostReport], lists: Any, code: int) -> None:
    document = check_document(reports)
    reboot, silent = ([row["host"] for row in document[key]] for key in ("reboot", "no_answer"))
    assert (document["hosts_in_sync"], document["not_in_sync"], reboot, silent) == lists
    assert (check_exit(document), document["in_sync"]) == (code, code == 0)


def test_a_reason_stands_once_with_the_hosts_that_have_it() -> None:
    odd = HostEnv("gptq", False)
    document = check_document([host("a", APART), host("b", APART, odd), host("c")])
    assert [(row["env"], row["code"], row["hosts"]) for row in document["reasons"]] == [
        ("bnb", "driver-changed", ["a", "b"]),
        ("gptq", "unknown", ["b"]),
        (None, "no-environment", ["c"]),
    ]


def test_kinds_are_of_cards_driver_and_platform() -> None:
    used = (GpuProcess(0, "GPU-c-0", 4242),)
    reports = [host("a", gpus=8), host("b", gpus=4), host("c", gpus=8, processes=used), SILENT]
    reports.append(host("d", gpus=8, driver=Driver("ok", "590.44"), processes_unknown="NVML does not say"))
    document = facts_document(reports, None)
    assert [(kind["gpus"][0]["number"], kind["driver"]["version"], kind["hosts"]) for kind in document["kinds"]] == [
        (8, "580.65.06", ["a", "c"]),
        (4, "580.65.06", ["b"]),
        (8, "590.44", ["d"]),
    ]
    assert (document["in_use"], document["in_use_unknown"]) == (["c"], ["d"])
    assert facts_exit(document) == 1 and facts_exit(facts_document(reports[:3], None)) == 0
