"""Measure what loading a model holds at most, and keep it beside what ``bnbenv.models.peak`` predicts, as evidence.

    scripts/measure_loading.py --python .venv-bnb/bin/python            on the CPU
    scripts/measure_loading.py --python .venv-bnb/bin/python --device cuda

The environment needs torch, transformers, accelerate and bitsandbytes. It makes models of 400 to 900 MB in a temporary
folder, loads each with the real ``from_pretrained`` in a process of its own, and writes
``matrices/evidence/loading-DEVICE-transformers-RELEASE.json``. On the CPU glibc is told to give freed blocks back at
once: by itself it keeps up to 64 MB of them, which is much
beside models as small as these.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bnbenv.models.layout import weights
from bnbenv.models.local import read_local
from bnbenv.models.model import QUANTIZATIONS, Checkpoint
from bnbenv.models.peak import load_peak, prequantized_peak
from bnbenv.models.skeleton import skeleton

ROOT = Path(__file__).resolve().parents[1]
CHILD = Path(__file__).with_name("measure_loading_child.py")
# Model, quantization, loading type.
CASES = [
    ("mixtral", "nf4", "BF16"),
    ("llama-f32", "nf4", "BF16"),
    ("llama", "nf4-double", "BF16"),
    ("opt", "int8", "F16"),
    ("llama-f32", "none", "BF16"),
    ("llama", "fp4", "BF16"),
    ("qwen2-tied-sharded", "nf4-double", "F16"),
    ("llama", "int8", "BF16"),
    ("mixtral", "int8", "F16"),
    ("llama", "none", "BF16"),
    ("opt", "nf4", "F16"),
    ("llama-f16", "nf4", "F16"),
    ("llama-f16", "fp4-double", "BF16"),
    ("llama-f32", "nf4", "F32"),
    ("mixtral", "none", "BF16"),
    ("qwen2-tied-sharded", "int8", "BF16"),
    ("opt", "none", "F16"),
]
PREQUANTIZED = [("llama-f16", "nf4-double", "F16"), ("llama-f16", "int8", "F16"), ("mixtral", "nf4", "BF16")]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="the Python of an environment with transformers")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", type=Path, help="a folder to keep the models in, for another run")
    parser.add_argument("--cases", type=int, default=len(CASES), help="only the first so many")
    parser.add_argument("--out", type=Path, help="the file to write; what stands in it is not measured again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bnbenv-") as temporary:
        bench = Bench(arguments.python, arguments.device, arguments.models or Path(temporary), arguments.out)
        for case in CASES[: arguments.cases]:
            bench.measure(*case)
        for case in PREQUANTIZED:
            bench.measure(*case, saved=True)
    return 0 if bench.worst <= 0.1 else 1


class Bench:
    def __init__(self, python: Path, device: str, models: Path, out: Path | None) -> None:
        self.python, self.device, self.models, self.out = python, device, models, out
        self.rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"] if out and out.exists() else []
        self.worst = 0.0

    def measure(self, model: str, quantization: str, dtype: str, saved: bool = False) -> None:
        """One load, its row, and the file with all of them so far."""
        known = [
            (row["model"], row["quantization"], row["dtype"], row["stored"] == "bitsandbytes") for row in self.rows
        ]
        if (model, quantization, dtype, saved) in known:
            return
        checkpoint = self.checkpoint(model)
        folder = Path(checkpoint.source)
        if saved:
            folder = self.models / f"{model}-{quantization}-{dtype}"
            if not folder.exists():
                self.child("save", checkpoint.source, quantization, dtype, str(folder))
        told = json.loads(self.child("peak", str(folder), quantization, dtype, self.device))
        expected = self.expected(checkpoint, told, quantization, dtype, saved)
        stored = next(one.dtype for one in checkpoint.tensors or ())
        row: dict[str, Any] = {"model": model, "stored": "bitsandbytes" if saved else stored}
        row |= {"quantization": quantization, "dtype": dtype, "bytes_of_files": checkpoint.bytes, **expected}
        row |= {key: value for key, value in told.items() if key.endswith("_bytes")}
        row["weight_error"] = row["predicted_weight_bytes"] - row["weight_bytes"]
        row["peak_error"] = round(row["predicted_peak_bytes"] / row["peak_bytes"] - 1, 4)
        self.worst = max(self.worst, abs(row["peak_error"]))
        self.rows.append(row)
        print(f"{row['model']:20} {quantization:10} {dtype:4} {row['stored']:12} {row['peak_bytes']:>12,}", end="")
        print(f" predicted {row['peak_error']:+.1%}, weights {row['weight_error']:+d}", flush=True)
        self.write({key: value for key, value in told.items() if not key.endswith("_bytes")})

    def expected(
        self, checkpoint: Checkpoint, told: dict[str, Any], quantization: str, dtype: str, saved: bool
    ) -> dict[str, int]:
        plan = skeleton(checkpoint, told["transformers"])
        known = next(one for one in QUANTIZATIONS if one == quantization)
        place: Any = self.device
        stored = next(one.dtype for one in checkpoint.tensors or ())
        if saved:
            peak = prequantized_peak(plan, known, dtype, place)
        else:
            peak = load_peak(plan, known, dtype, place, stored, told["bitsandbytes"])
        assert peak is not None
        return {"predicted_weight_bytes": weights(plan, known, dtype).total, "predicted_peak_bytes": peak}

    def checkpoint(self, model: str) -> Checkpoint:
        folder = self.models / model
        if not (folder / "config.json").exists():
            self.child("make", str(folder), model)
        return read_local(folder)

    def child(self, *words: str) -> str:
        """What the child printed; it says on standard error why it failed."""
        environment = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "MALLOC_MMAP_THRESHOLD_": "1048576"}
        if self.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        command = ["env", *(f"{name}={value}" for name, value in environment.items())]
        command += [str(self.python), str(CHILD), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def write(self, packages: dict[str, str]) -> None:
        name = f"loading-{self.device}-transformers-{packages['transformers']}.json"
        out = self.out or ROOT / "matrices" / "evidence" / name
        today = datetime.now(timezone.utc).date().isoformat()
        document = {"device": self.device, "measured": today, **packages, "rows": self.rows}
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
