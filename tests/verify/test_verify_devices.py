"""Which devices are verified, on recorded and made-up hosts."""

from __future__ import annotations

import pytest

from bnbenv.errors import BnbenvError, Failed, UsageError
from bnbenv.facts.model import Driver, DriverState, Gpu, HostFacts, Mig, MigSlice, Platform, Unknown
from bnbenv.verify.devices import default_selection, devices_for

A = Gpu(0, "GPU-aaaa1111", "NVIDIA A100", "8.0", 40 << 30)
B = Gpu(1, "GPU-aaaa2222", "NVIDIA T4", "7.5", 15 << 30)
SLICES = (MigSlice("MIG-1111", "1g.10gb"), MigSlice("MIG-2222"))
M = Gpu(2, "GPU-bbbb", "NVIDIA H100", "9.0", 80 << 30, Mig("enabled", SLICES))


def host(*gpus: Gpu, state: DriverState = "ok", unknown: tuple[Unknown, ...] = ()) -> HostFacts:
    return HostFacts(Platform("linux", "x86_64"), Driver(state), gpus, unknown=unknown)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ["cpu"]),
        (("cpu",), ["cpu"]),
        (("all",), ["GPU-aaaa1111", "GPU-aaaa2222", "MIG-1111", "MIG-2222"]),
        (("1",), ["GPU-aaaa2222"]),
        (("GPU-aaaa1111",), ["GPU-aaaa1111"]),
        (("gpu-AAAA2",), ["GPU-aaaa2222"]),
        (("2",), ["MIG-1111", "MIG-2222"]),
        (("GPU-bbbb",), ["MIG-1111", "MIG-2222"]),
        (("MIG-2222",), ["MIG-2222"]),
        (("1", "all", "1"), ["GPU-aaaa2222", "GPU-aaaa1111", "MIG-1111", "MIG-2222"]),
    ],
)
def test_words_name_devices(words: tuple[str, ...], expected: list[str]) -> None:
    assert [device.id for device in devices_for(host(A, B, M), words)] == expected


def test_a_process_sees_its_device_alone() -> None:
    gpu, cpu = devices_for(host(A), ("0", "cpu"))
    assert (gpu.kind, gpu.visible) == ("cuda", "GPU-aaaa1111")
    assert (cpu.kind, cpu.visible) == ("cpu", "")


@pytest.mark.parametrize(
    ("gpus", "word", "error", "text"),
    [
        ((A, B), "7", UsageError, "0 (GPU-aaaa1111), 1 (GPU-aaaa2222)"),
        ((), "0", UsageError, "this host has no GPU"),
        ((A, B), "GPU-aaaa", UsageError, "several devices"),
        ((Gpu(0, "GPU-c", "H100", "9.0", 1, Mig("enabled", ())),), "all", Failed, "no slices"),
    ],
)
def test_what_is_not_there_is_said(gpus: tuple[Gpu, ...], word: str, error: type[BnbenvError], text: str) -> None:
    with pytest.raises(error) as caught:
        devices_for(host(*gpus), (word,))
    assert text in caught.value.message


@pytest.mark.parametrize(
    ("facts", "environ", "expected"),
    [
        (host(A, B), {}, ("all",)),
        (host(state="absent"), {}, ("cpu",)),
        (host(state="absent"), {"CUDA_VISIBLE_DEVICES": "0"}, ("cpu",)),
        (host(A, B), {"CUDA_VISIBLE_DEVICES": "1"}, ("1",)),
        (host(A, B), {"CUDA_VISIBLE_DEVICES": "GPU-aaaa2222, 0"}, ("GPU-aaaa2222", "0")),
        (host(A, B), {"CUDA_VISIBLE_DEVICES": ""}, ("cpu",)),
        (host(A, B), {"CUDA_VISIBLE_DEVICES": "-1"}, ("cpu",)),
    ],
)
def test_without_a_word_all_gpus_that_may_be_used(
    facts: HostFacts, environ: dict[str, str], expected: tuple[str, ...]
) -> None:
    assert default_selection(facts, environ) == expected


def test_a_driver_that_does_not_answer_is_not_taken_for_no_gpu() -> None:
    facts = host(state="error", unknown=(Unknown("gpus", "NVML did not answer within 10 s"),))
    with pytest.raises(Failed) as caught:
        default_selection(facts, {})
    assert "NVML did not answer within 10 s" in caught.value.message
    assert "--device cpu" in caught.value.next_step
