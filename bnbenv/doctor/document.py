"""The document of ``bnbenv doctor``. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bnbenv.doctor.conclude import Conclusion
from bnbenv.doctor.fixes.model import Mended, Undone
from bnbenv.doctor.model import SCHEMA, Examination, TextDiagnosis
from bnbenv.redact import redact

# Packages whose versions are told, in this order.
TOLD = (
    "triton", "transformers", "accelerate", "peft", "numpy", "xformers", "flash-attn", "unsloth",
    "auto-gptq", "gptqmodel", "autoawq", "optimum", "hqq", "deepspeed", "vllm",
)  # fmt: skip


def document(
    conclusion: Conclusion,
    examination: Examination,
    text: TextDiagnosis | None,
    interrupted: Sequence[str] = (),
    mended: Mended | None = None,
) -> dict[str, Any]:
    """All that was found, and what it was found out about. Logins in lines that were read are left out."""
    findings = msgspec.to_builtins(conclusion.findings)
    for finding in findings:
        finding["evidence"] = [redact(line) for line in finding["evidence"]]
    return {
        "schema": SCHEMA,
        "findings": findings,
        "examined": {**_examined(examination), "text_bytes": text.read if text is not None else None},
        "contradictions": list(conclusion.contradictions),
        "unknown": msgspec.to_builtins(conclusion.unknown),
        "harmless": [redact(line) for line in conclusion.harmless],
        "interrupted": list(interrupted),
        "mended": _mended(mended),
        "undone": None,
    }


def undone_document(undone: Undone) -> dict[str, Any]:
    """What ``--undo`` put back; nothing was examined."""
    return {
        "schema": SCHEMA,
        "findings": [],
        "examined": None,
        "contradictions": [],
        "unknown": [],
        "harmless": [],
        "interrupted": [],
        "mended": None,
        "undone": msgspec.to_builtins(undone),
    }


def _examined(examination: Examination) -> dict[str, Any]:
    facts, target, torch = examination.facts, examination.target, examination.torch
    wheel, loads = examination.bitsandbytes, examination.loads
    packages = {one.name: one.version for one in examination.packages if one.effective and one.version}
    return {
        "kind": target.kind,
        "env": target.env,
        "prefix": target.prefix,
        "python": target.python,
        "python_version": target.version,
        "driver": {"state": facts.driver.state, "version": facts.driver.version},
        "gpus": [{"index": gpu.index, "name": gpu.name, "arch": gpu.arch} for gpu in facts.gpus],
        "torch": {"version": torch.version, "cuda": torch.cuda, "hip": torch.hip} if torch is not None else None,
        "bitsandbytes": (wheel.version or wheel.own_version) if wheel is not None else None,
        "library": loads.library if loads is not None else None,
        "packages": {name: packages[name] for name in TOLD if name in packages},
    }


def _mended(mended: Mended | None) -> dict[str, Any] | None:
    if mended is None:
        return None
    body: dict[str, Any] = msgspec.to_builtins(mended)
    report = body.pop("verification")
    return {**body, "verified": None if report is None else bool(report["ok"])}
