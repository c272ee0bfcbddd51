"""What else matters about a model and its memory, as sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from bnbenv.models.config import longest
from bnbenv.models.devices import Devices, room
from bnbenv.models.fitting import Offload, Way, in_use, overhead, splittable
from bnbenv.models.layout import held
from bnbenv.models.model import Checkpoint, Setting, Workload
from bnbenv.models.settings import Subject
from bnbenv.progress import shown_size

# What transformers lets device_map="auto" fill of what is free on one GPU: 0.9 in get_balanced_memory, and 0.9 of it in
# the quantizers' adjust_max_memory (transformers 4.57.6 and 5.23.0, accelerate 1.15.0).
AUTO = 0.81


class Situation(msgspec.Struct, frozen=True):
    """All that notes are made of: the setting in question among the ``known`` ones, and how it fits.

    ``older`` are the bytes of its weights with the last transformers 4, where those may be less.
    """

    checkpoint: Checkpoint
    subject: Subject
    workload: Workload
    setting: Setting
    known: Sequence[Setting]
    way: Way
    devices: Devices
    train: bool
    spared: Offload | None = None
    older: int | None = None


def notes(of: Situation) -> list[str]:
    """The sentences, what matters most first."""
    return [*_about_model(of), *_about_loading(of), *_about_devices(of)]


def _about_model(of: Situation) -> Iterator[str]:
    skeleton, config = of.subject.skeleton, of.checkpoint.config
    if of.subject.own is not None:
        yield f"it is quantized already ({of.subject.own}, by bitsandbytes): nothing is converted while it is loaded"
    if not skeleton.known and of.subject.own is not None:
        yield "config.json alone does not tell its layers: its tensors are counted as they are stored"
    elif not skeleton.known:
        yield (
            "this architecture is not known: which layers are converted was judged by the names and shapes of its"
            " tensors (--exact asks the environment)"
        )
    elif "was not measured" in skeleton.basis:
        yield skeleton.basis
    if config.remote_code:
        yield "it has code of its own, which is run by --exact --trust-remote-code alone"
    yield from _experts(of)
    if of.subject.stored_as == "F32" and of.subject.dtypes[of.setting.quantization] == "F32":
        quantization = of.setting.quantization
        saved = sum(
            one.count * (held(one, quantization, "F32") - held(one, quantization, "BF16"))
            for one in skeleton.parameters
        )
        if saved:
            yield (
                f"the checkpoint is in float32 and is loaded so; dtype=bfloat16 (bnbenv config prints it) takes"
                f" {shown_size(saved)} less"
            )
    most = longest(config)
    if most is not None and most < of.workload.context:
        yield f"the model was made for {most} tokens at most; {of.workload.context} were asked for"


def _experts(of: Situation) -> Iterator[str]:
    """What bitsandbytes does not get, though it is most of the model."""
    skeleton, kind = of.subject.skeleton, of.setting.quantization
    kept = [one for one in skeleton.parameters if one.kind == "expert" and not one.converted]
    none = of.subject.own is None and not any(one.converted for one in skeleton.parameters)
    if kind == "none" or not (kept or none):
        return
    if none:
        text = (
            f"nothing of it is quantized: transformers {skeleton.transformers} gives bitsandbytes plain linear layers"
            " only, and it has none"
        )
    else:
        size = sum(one.count * held(one, kind, of.subject.dtypes[kind]) for one in kept)
        text = (
            f"its experts, {shown_size(size)}, are not quantized: transformers {skeleton.transformers} has them"
            " in tensors of three dimensions, which bitsandbytes does not convert"
        )
    if of.older is not None and of.older < of.setting.weights.total:
        what = "its layers" if none else "them"
        text += f"; transformers<5 quantizes {what}, and all weights take {shown_size(of.older)} there"
    yield text


def _about_loading(of: Situation) -> Iterator[str]:
    setting, gpus = of.setting, of.devices.gpus
    if of.way.answer == "does-not-fit":
        device = gpus[0] if gpus else of.devices.cpu
        needs = max(setting.load_peak, in_use(setting, of.train)) + overhead(device)
        yield f"{'one GPU' if gpus else 'it'} would need {shown_size(needs)} free{' for it' if gpus else ''}"
    if of.spared is not None:
        yield (
            f"with llm_int8_enable_fp32_cpu_offload=True {of.spared.on_gpu} layers would be on the GPU and"
            f" {of.spared.on_cpu} in main memory, not quantized ({shown_size(of.spared.bytes)}): it runs, slowly"
        )
    sliced = len(splittable(of.devices)) < len(gpus)
    alone = sliced or len(gpus) == 1  # several are filled one after the other
    if of.way.answer == "fits" and alone and setting.quantization != "none":
        usable = room(gpus[of.way.gpus[0]]) - overhead(gpus[of.way.gpus[0]])  # accelerate asks CUDA once it is there
        counted = setting.weights.total - setting.weights.parts.get("statistics", 0)  # transformers leaves those out
        if counted > AUTO * usable:
            yield (
                'device_map="auto" refuses it: it fills 81% of what is free. Load it with'
                f' device_map={{"": {0 if sliced else of.way.gpus[0]}}}'
            )
    if sliced and len(of.way.gpus) == 1:
        yield f"a process sees one MIG slice: CUDA_VISIBLE_DEVICES={gpus[of.way.gpus[0]].uuid} makes it this one"
    if of.way.device_map is not None and of.train:
        yield "over several GPUs the layers are trained one after the other: one GPU works at a time"


def _about_devices(of: Situation) -> Iterator[str]:
    if of.devices.missing:
        memory = "this machine's main memory" if of.devices.recorded else "main memory"
        yield f"judged for {memory}, since {of.devices.missing}"
    if of.devices.recorded and any(gpu.free is None for gpu in of.devices.gpus):
        yield "what is free there is not known: all of its memory is counted, less what a driver keeps"
    yield from of.devices.notes
