"""What measured times and rates mean."""

from __future__ import annotations


def judge(figures: dict[str, float]) -> list[str]:
    """Warnings, no failures: another process on the GPU slows things too.

    An 8-bit AdamW step moves 16 bytes a parameter, a 32-bit one 28: it should take about 0.6 of the time.
    """
    warnings = []
    if figures["adamw8bit_ms"] > 0.9 * figures["adamw32bit_ms"]:
        warnings.append(
            f"AdamW8bit runs at 32-bit speed: {figures['adamw8bit_ms']:.2f} ms a step, "
            f"32-bit AdamW takes {figures['adamw32bit_ms']:.2f} ms"
        )
    if figures["dequantize_gb_per_s"] < 0.25 * figures["copy_gb_per_s"]:
        warnings.append(
            f"dequantizing NF4 is slow: {figures['dequantize_gb_per_s']:.0f} GB/s, "
            f"a plain copy reaches {figures['copy_gb_per_s']:.0f} GB/s"
        )
    return warnings
