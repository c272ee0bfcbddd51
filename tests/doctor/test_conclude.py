"""One primary cause; what follows from it; side notes; and where a text and a machine contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from bnbenv.doctor.causes import rule_codes
from bnbenv.doctor.conclude import conclude, wanted
from bnbenv.doctor.model import (
    Bitsandbytes,
    Examination,
    Finding,
    Fix,
    LibraryFile,
    Said,
    Seen,
    Target,
    TextDiagnosis,
    Torch,
    Verdict,
)
from bnbenv.facts.model import Driver, Gpu, HostFacts, Platform, Unknown

YES = Verdict("yes", ("it is so",))
HERE = Examination(
    facts=HostFacts(
        Platform("linux", "x86_64"),
        Driver("ok", "580.65.06"),
        (Gpu(0, "GPU-1", "NVIDIA H200", "9.0", 0),),
    ),
    target=Target(kind="venv", version="3.11.7"),
    torch=Torch(path="/t", version="2.10.0+cu128", cuda="12.8"),
    bitsandbytes=Bitsandbytes(
        path="/b", version="0.50.2", libraries=(LibraryFile(name="libbitsandbytes_cuda124.so", path="/b/x"),)
    ),
)


def concluded(*codes: str, text: TextDiagnosis | None = None) -> tuple[Finding, ...]:
    judged = tuple((code, YES) for code in codes)
    found = conclude(judged, HERE, text, lambda code, cause: Fix(summary=f"mend {code}")).findings
    assert [one.primary for one in found] == [one.role == "primary" for one in found]
    assert wanted(judged, text) == tuple((one.code, one.cause) for one in found)
    return found


def roles(*codes: str, text: TextDiagnosis | None = None) -> dict[str, str]:
    return {one.code: one.role for one in concluded(*codes, text=text)}


def told(cause: Any, code: str, said: Said | None = None) -> TextDiagnosis:
    seen = Seen(cause=cause, code=code, role="primary", lines=((7, "  what was   printed"),))
    return TextDiagnosis(seen=(seen,), said=said or Said(), read=100)


def test_nothing_is_found_where_no_rule_says_yes() -> None:
    assert conclude((("driver-reboot", Verdict("no")),), HERE, None, lambda code, cause: Fix(summary="")).findings == ()


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (("torch-cpu-build",), {"torch-cpu-build": "primary"}),
        # a reboot that is due explains that the driver does not answer
        (("driver-error", "driver-reboot"), {"driver-reboot": "primary", "driver-error": "consequence"}),
        # what hides the environment's own packages explains what is wrong with those that are taken
        (
            ("torch-requirement", "triton-ops", "user-site-shadows"),
            {"user-site-shadows": "primary", "torch-requirement": "consequence", "triton-ops": "consequence"},
        ),
        # two that have nothing to do with each other: the order of causes.toml decides
        (("numpy-abi", "driver-too-old"), {"driver-too-old": "primary", "numpy-abi": "note"}),
        # a stale override explains that nothing is found; leftovers of an older version do not follow from it
        (
            ("override-library-missing", "library-for-cuda-missing", "advisory-note"),
            {
                "override-library-missing": "primary",
                "library-for-cuda-missing": "consequence",
                "advisory-note": "note",
            },
        ),
        # what hardly comes alone is primary only if it does
        (("verify-failed",), {"verify-failed": "primary"}),
        (("verify-failed", "advisory-note"), {"verify-failed": "primary", "advisory-note": "note"}),
        (("verify-failed", "numpy-abi"), {"numpy-abi": "primary", "verify-failed": "consequence"}),
        (("quant-libraries-mixed",), {"quant-libraries-mixed": "primary"}),
        (("quant-libraries-mixed", "numpy-abi"), {"numpy-abi": "primary", "quant-libraries-mixed": "note"}),
        (
            ("package-incomplete", "cpu-library-missing"),
            {"cpu-library-missing": "primary", "package-incomplete": "consequence"},
        ),
        # what is wrong whatever torch is goes before a damaged torch
        (
            ("torch-damaged", "override-empty", "package-incomplete"),
            {"override-empty": "primary", "torch-damaged": "note", "package-incomplete": "note"},
        ),
        # a chain: a shadowing copy is damaged, and so lacks its library
        (
            ("bitsandbytes-damaged", "pythonpath-shadows", "library-for-cuda-missing", "cpu-library-missing"),
            {
                "pythonpath-shadows": "primary",
                "bitsandbytes-damaged": "consequence",
                "library-for-cuda-missing": "consequence",
                "cpu-library-missing": "consequence",
            },
        ),
    ],
)  # fmt: skip
def test_one_cause_is_primary(codes: tuple[str, ...], expected: dict[str, str]) -> None:
    assert roles(*codes) == expected
    assert next(iter(roles(*codes))) == next(iter(expected))
    assert roles(*reversed(codes)) == expected


def test_of_any_two_causes_exactly_one_is_primary() -> None:
    codes = [code for code, one in rule_codes().items() if one.role != "harmless"]
    for one in codes:
        for other in codes:
            if one != other:
                assert list(roles(one, other).values()).count("primary") == 1, (one, other)


def test_what_is_harmless_is_said_and_no_finding() -> None:
    found = conclude((("override-needless", YES),), HERE, None, lambda code, cause: Fix(summary=""))
    assert found.findings == ()
    assert found.harmless == ("BNB_CUDA_VERSION is set and not needed: it is so",)


def test_a_text_decides_and_the_machine_follows() -> None:
    text = told("out_of_memory", "cuda-out-of-memory")
    found = concluded("numpy-abi", "driver-reboot", text=text)
    assert [(one.code, one.role, one.source) for one in found] == [
        ("cuda-out-of-memory", "primary", "text"),
        ("driver-reboot", "note", "machine"),
        ("numpy-abi", "note", "machine"),
    ]
    assert found[0].evidence == ("line 7: what was printed",)


def test_what_the_machine_shows_can_follow_from_the_text() -> None:
    text = told("driver_library_mismatch", "driver-library-mismatch")
    assert roles("driver-error", text=text)["driver-error"] == "consequence"


def test_a_text_without_a_failure_leaves_the_word_to_the_machine() -> None:
    text = TextDiagnosis(read=10, harmless=("line 3: Found duplicate libcudart",))
    assert roles("numpy-abi", text=text) == {"numpy-abi": "primary"}
    found = conclude((), HERE, text, lambda code, cause: Fix(summary=""))
    assert (found.findings, found.harmless) == ((), text.harmless)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (Said(), None),
        (Said(os="windows"), "the text is from Windows, this machine has Linux"),
        (Said(driver="535.54.03"), "driver 535.54.03, this machine has 580.65.06"),
        (Said(capability="12.0"), "compute capability 12.0, this machine has 9.0"),
        (Said(python="3.10"), "Python 3.10, the environment here has 3.11.7"),
        (Said(python="3.11"), None),
        (Said(torch="2.10.0"), None),
        (Said(torch="2.10.0+cu128"), None),
        (Said(torch="2.10.0+cpu"), "torch 2.10.0+cpu, the environment here has 2.10.0+cu128"),
        (Said(torch_cuda="12.4"), "CUDA 12.4, the one here is for CUDA 12.8"),
        (Said(bitsandbytes="0.45.0"), "bitsandbytes 0.45.0, the environment here has 0.50.2"),
        (Said(library="libbitsandbytes_cuda124.so"), "does not find libbitsandbytes_cuda124.so, which is there"),
        (Said(library="libbitsandbytes_cuda121.so"), None),
    ],
)
def test_a_text_of_another_machine_is_noticed(said: Said, expected: str | None) -> None:
    text = told("out_of_memory", "cuda-out-of-memory", said=said)
    found = conclude((), HERE, text, lambda code, cause: Fix(summary="")).contradictions
    assert len(found) == (expected is not None), found
    assert expected is None or expected in found[0]


def test_of_what_a_text_of_another_machine_asks_for_nothing_is_carried_out_here() -> None:
    text = told("out_of_memory", "cuda-out-of-memory", said=Said(os="windows"))
    found = conclude((("numpy-abi", YES),), HERE, text, lambda code, cause: Fix(summary="", automatic=True))
    assert [(one.source, one.fix.automatic) for one in found.findings] == [("text", False), ("machine", True)]


def test_what_is_unknown_is_said_once() -> None:
    judged = (("torch-lacks-gpu", Verdict("unknown", (), "it could not be read")),) * 2
    found = conclude(judged, HERE, None, lambda code, cause: Fix(summary=""))
    assert found.unknown == (Unknown("torch-lacks-gpu", "it could not be read"),)
