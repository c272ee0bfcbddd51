"""The references' data types agree with their definitions, computed here in another way; and what speeds mean."""

from __future__ import annotations

from statistics import NormalDist

import pytest

from bnbenv.verify.standalone import reference
from bnbenv.verify.standalone.speed import judge


def test_nf4_is_the_normalized_quantiles_of_the_normal_distribution() -> None:
    # QLoRA (arXiv 2305.14314), section 3 and appendix E: 8 quantiles above zero, 7 below, zero itself; the outermost
    # lies at the mean of 1 - 1/(2*15) and 1 - 1/(2*16).
    offset = ((1 - 1 / 30) + (1 - 1 / 32)) / 2
    quantile = NormalDist().inv_cdf
    above = [quantile(offset - (offset - 0.5) * i / 8) for i in range(8)]
    below = [-quantile(offset - (offset - 0.5) * i / 7) for i in range(7)]
    largest = max(above)
    expected = sorted(value / largest for value in (*above, 0.0, *below))
    assert pytest.approx(expected, abs=1e-6) == reference.NF4


def test_fp4_has_its_eight_magnitudes_at_their_bits() -> None:
    magnitudes = [0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4]
    assert reference.fp4() == pytest.approx([*magnitudes, *(-value for value in magnitudes)])


def test_the_signed_dynamic_map() -> None:
    values = reference.dynamic_map(signed=True)
    assert len(values) == len(set(values)) == 256
    assert list(values) == sorted(values)
    assert values[-1] == 1.0
    assert values[127] == 0.0
    assert values[128] == pytest.approx(0.55e-6)
    # All but zero and one have a negative twin.
    assert [-value for value in values[:127]][::-1] == list(values[128:255])
    # Decade i holds 2**i values above zero: the last one 64 in [0.1, 1].
    assert [sum(10.0 ** (i - 7) < value < 10.0 ** (i - 6) for value in values) for i in range(7)] == [
        2**i for i in range(7)
    ]


def test_the_unsigned_dynamic_map() -> None:
    values = reference.dynamic_map(signed=False)
    assert len(values) == len(set(values)) == 256
    assert values[0] == 0.0
    assert values[-1] == 1.0
    assert sum(0.1 < value < 1 for value in values) == 128


def test_eight_bits_at_32_bit_speed_are_a_warning() -> None:
    sound = {"adamw8bit_ms": 0.6, "adamw32bit_ms": 1.0, "dequantize_gb_per_s": 2000.0, "copy_gb_per_s": 3500.0}
    assert judge(sound) == []
    (slow,) = judge({**sound, "adamw8bit_ms": 1.05})
    assert slow == "AdamW8bit runs at 32-bit speed: 1.05 ms a step, 32-bit AdamW takes 1.00 ms"
    (slow,) = judge({**sound, "dequantize_gb_per_s": 200.0})
    assert slow.startswith("dequantizing NF4 is slow: 200 GB/s")
