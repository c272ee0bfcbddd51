"""The order of the steps."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .packages import check_device, check_packages, import_packages
from .protocol import Job, JobError, Reporter, private_stdout, read_job

EXPERT = re.compile(r"\.experts\.\d+\.")

if TYPE_CHECKING:
    from .capture import Captured
    from .plan import Plan


def main() -> int:
    """Do the job on standard input; see ``protocol.py``. Returns the exit code."""
    reporter = Reporter(private_stdout())
    faulthandler.enable(all_threads=False)
    return_freed_memory()
    return attempt(sys.stdin.read(), reporter)


def attempt(text: str, reporter: Reporter) -> int:
    """Do the job that a JSON text describes, and tell its end, whatever it is. Returns the exit code."""
    place = [""]
    try:
        prequantize(read_job(text), reporter, place)
    except JobError as error:
        told = error
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException as error:  # what is not foreseen is a finding as well
        told = _unforeseen(error, place[0])
    else:
        return 0
    reporter.send("error", code=told.code, message=told.message, next_step=told.next_step, detail=told.detail)
    return 1


def return_freed_memory() -> None:
    """Have glibc give each large block back at once: it keeps those of up to 32 MB for later, in pieces."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(-3, 4 << 20)  # M_MMAP_THRESHOLD of malloc.h; a fixed one does not grow any more


def prequantize(job: Job, reporter: Reporter, place: list[str]) -> None:
    """Raises JobError. ``place`` tells the tensor that is being worked on, for errors that do not."""
    versions = check_packages(reporter)
    hf = import_packages()
    check_device(job.device)
    import torch

    from .capture import capture
    from .checkpoint import read_headers
    from .names import names_for
    from .plan import make_plan
    from .run import Run

    started = time.perf_counter()
    with torch.no_grad():
        captured = capture(job, hf, versions)
        sources = read_headers(captured.files)
        names = names_for(captured)
        plan = make_plan(captured, names, sources, job, reporter)
        _tell_plan(captured, plan, job, reporter)
        _check_done(plan, job)
        _check_space(plan, job)
        run = Run(captured, names, plan, job, reporter)
        try:
            run.run()
        finally:
            place[0] = run.tensor
    files, total = _finish(captured, plan, job)
    seconds = round(time.perf_counter() - started, 3)
    size = sum((Path(job.out) / shard.name).stat().st_size for shard in plan.shards)
    reporter.send("done", files=files, bytes=size, total_size=total, seconds=seconds, device=job.device)


def _tell_plan(captured: Captured, plan: Plan, job: Job, reporter: Reporter) -> None:
    dtype = str(captured.dtype).replace("torch.", "")
    units = plan.units
    if captured.transformers < (5,) and dtype != "float16":
        text = f"transformers {captured.versions['transformers']} loads the result in float16 unless from_pretrained is"
        reporter.warn("load-with-dtype", f"{text} given dtype=torch.{dtype}")
    _warn_experts(captured, plan, reporter)
    reporter.send(
        "plan",
        architecture=captured.architecture,
        dtype=dtype,
        tensors=sum(len(shard.layout) for shard in plan.shards),
        converted=sum(sum(len(group) > 1 for group in unit.groups.values()) for unit in units),
        kept=sum(len(unit.entries) for unit in units if not unit.groups),
        left_out=len(plan.unused),
        read_bytes=sum(unit.read_bytes for unit in units),
        bytes=sum(shard.bytes for shard in plan.shards),
        largest=max(unit.need for unit in units),
        skipped_modules=sorted(getattr(captured.quantizer, "modules_to_not_convert", None) or []),
        shards=[
            {
                "name": shard.name,
                "bytes": shard.bytes,
                "tensors": len(shard.layout),
                "read_bytes": sum(unit.read_bytes for unit in shard.units),
                "done": shard.name in job.done,
            }
            for shard in plan.shards
        ],
    )


def _warn_experts(captured: Captured, plan: Plan, reporter: Reporter) -> None:
    """transformers 5 has the experts of a layer in one parameter of three dimensions, which nobody quantizes.

    In transformers 4 they are linear layers: what one of them quantized, the other cannot read.
    """
    version = captured.versions["transformers"]
    targets = {target for unit in plan.units if not unit.groups for target in unit.assigned.targets}
    experts = [name for name, value in captured.model.named_parameters() if value.ndim == 3 and name in targets]
    if experts:
        size = sum(captured.model.get_parameter(name).numel() for name in experts) * captured.dtype.itemsize
        text = f"{len(experts)} tensors of experts ({size / 1e9:.1f} GB) are not quantized: transformers {version} "
        text += f"keeps all experts of a layer in one parameter, {experts[0]}; transformers 4 cannot load the result"
        reporter.warn("experts-not-converted", text)
    elif captured.transformers < (5,) and any(EXPERT.search(name) for unit in plan.units for name in unit.groups):
        text = f"transformers 5 cannot load the result: {version} has the experts as linear layers, and it has not"
        reporter.warn("experts-converted", text)


def _check_done(plan: Plan, job: Job) -> None:
    """Raises JobError where the shards of an earlier run are not those of this plan."""
    planned = {shard.name: shard.bytes for shard in plan.shards}
    for name, what in job.done.items():
        path = Path(job.out) / name
        size = path.stat().st_size if path.is_file() else None
        if name not in planned or size is None or size > planned[name] or size != what.get("bytes"):
            text = f"{name} of the earlier run is no part of what would be written now"
            raise JobError("other-plan", text, "Start anew.")


def _check_space(plan: Plan, job: Job) -> None:
    needed = sum(shard.bytes for shard in plan.shards if shard.name not in job.done)
    free = shutil.disk_usage(job.out).free
    if free < needed:
        text = f"the disk of {job.out} has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are needed"
        raise JobError("disk-full", text, "Make room and run the same command again.")


def _finish(captured: Captured, plan: Plan, job: Job) -> tuple[list[str], int]:
    """Write config.json and the index. Returns the names of all files, and the bytes of all tensors."""
    from .checkpoint import read_headers
    from .writing import guarded, sync_folder, write_file

    folder = Path(job.out)
    shards = [shard.name for shard in plan.shards]
    written = read_headers([str(folder / name) for name in shards])
    total = sum(source.bytes for source in written.values())
    config = captured.model.config
    config.quantization_config = captured.quantizer.quantization_config
    config.architectures = [captured.architecture]
    dtype = str(captured.dtype).replace("torch.", "")
    setattr(config, "dtype" if captured.transformers >= (4, 56) else "torch_dtype", dtype)
    config.name_or_path = ""
    with guarded(folder / "config.json"):
        config.to_json_file(str(folder / "config.json"), use_diff=True)
    files = [*shards, "config.json"]
    if len(shards) > 1:
        weight_map = {name: Path(source.file).name for name, source in sorted(written.items())}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_file(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")
        files.append("model.safetensors.index.json")
    with guarded(folder / "config.json"):
        sync_folder(folder)
    return files, total


def _unforeseen(error: BaseException, tensor: str) -> JobError:
    text = " ".join(str(error).split())[:300]
    where = f" at {tensor}" if tensor else ""
    kind = type(error).__name__
    memory = isinstance(error, MemoryError) or kind == "OutOfMemoryError"
    if memory or "can't allocate memory" in text or "not enough memory" in text:
        step = "Free memory, or take another device; the largest tensor and its result must fit."
        return JobError("out-of-memory", f"there is not enough memory{where}", step, text)
    if isinstance(error, OSError):
        return JobError("cannot-read", f"a file cannot be read{where}: {error.strerror or text}", "", text)
    step = "See whether from_pretrained with a BitsAndBytesConfig loads it; if it does, report this."
    return JobError("failed", f"quantizing failed{where}: {kind}: {text}", step, _places(error))


def _places(error: BaseException) -> str:
    """Where it happened, as whoever mends it needs to know."""
    import traceback

    places = traceback.extract_tb(error.__traceback__)[-6:]
    return "\n".join(f"{place.filename}, line {place.lineno}, in {place.name}" for place in places)
