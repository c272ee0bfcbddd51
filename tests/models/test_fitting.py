"""Does it fit, and what would: on small values that can be checked in one's head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bnbenv.models.devices import Devices
from bnbenv.models.fitting import CUDA_CONTEXT, PROCESS, Fit, judge, max_memory, offload, way
from bnbenv.models.model import Device, Parameter, Setting, Skeleton, Training, Weights, Workload
from bnbenv.models.options import Question
from bnbenv.models.placing import Block, blocks, place

GB = 10**9
PLAIN = Workload()
CPU = Device(None, "main memory", 64 * GB, 32 * GB)
BLOCKS = (Block("embed", GB, False), *(Block(f"layers.{n}", 2 * GB, True) for n in range(4)), Block("head", GB, False))


def gpus(*free: float, uuid: str = "GPU-") -> Devices:
    """GPUs with so many GB free beside what a process takes of them."""
    return Devices(
        tuple(Device(n, "H", 80 * GB, int(size * GB) + CUDA_CONTEXT, f"{uuid}{n}") for n, size in enumerate(free)), CPU
    )


def setting(name: Any = "nf4", weights: float = 10, peak: float = 12, **more: Any) -> Setting:
    numbers = {"kv_cache": GB, "training": Training(1, GB, GB, 2 * GB, GB), "forward": 0, **more}
    before = None if name == "none" else int(weights * GB)
    return Setting(
        name, Weights(int(weights * GB), {"converted": int(weights * GB)}), int(peak * GB), before, **numbers
    )


def again(known: Sequence[Setting], workload: Workload) -> tuple[Setting, ...]:
    """A cache of 1 GB for 4096 tokens; training takes half with a paged optimizer."""
    optimizer = 0 if workload.optimizer == "paged-adamw-8bit" else 2 * GB
    training = Training(1, GB, GB, optimizer, GB * workload.batch)
    size = GB * workload.context * workload.batch // 4096
    return tuple(msgspec.structs.replace(one, kv_cache=size, training=training) for one in known)


def asked(devices: Devices, *known: Setting, train: bool = False, workload: Workload = PLAIN) -> Fit:
    known = again(known, workload)
    question = Question(known[0].quantization, train)
    return judge(question, known, workload, devices, lambda name: BLOCKS, again)


def test_the_first_gpu_on_which_it_fits_to_the_byte() -> None:
    assert asked(gpus(11.9, 12), setting()).way.gpus == (1,)
    assert asked(gpus(12), setting(peak=12)).way.answer == "fits"
    less = asked(gpus(12 - 1e-9), setting(peak=12)).way
    assert (less.answer, less.missing) == ("fits-when-prequantized", 0)
    assert asked(gpus(14.9), setting(), train=True).way.missing == 10**8
    assert asked(gpus(15), setting(), train=True).way.answer == "fits"


def test_several_gpus_take_whole_layers_in_order_in_proportion() -> None:
    fit = asked(gpus(8, 8), setting(peak=10.5))
    assert fit.way.answer == "fits-with-device-map"
    assert fit.way.device_map == {"embed": 0, "layers.0": 0, "layers.1": 0, "layers.2": 1, "layers.3": 1, "head": 1}
    limits = max_memory(setting(peak=10.5), False, gpus(8, 8))
    assert limits == {0: 7 * GB, 1: 7 * GB}  # half a GB to convert in, half of the cache
    assert asked(gpus(9.2, 5), setting(peak=10.5)).way.device_map == {
        **{"embed": 0, "layers.0": 0, "layers.1": 0, "layers.2": 0},
        **{"layers.3": 1, "head": 1},
    }


def test_mig_slices_are_not_put_together() -> None:
    assert asked(gpus(8, 8, uuid="MIG-"), setting(peak=10.5)).way.answer == "does-not-fit"


def test_only_the_conversion_is_too_much() -> None:
    way = asked(gpus(11), setting(peak=14)).way
    assert (way.answer, way.gpus, way.prequantized) == ("fits-when-prequantized", (0,), True)
    assert asked(gpus(11), setting("none", peak=14)).way.missing == 3 * GB


def test_what_would_fit() -> None:
    """The next smaller quantization, and the longest context of the same one."""
    known = (setting("int8", 16, 16), setting("nf4", 10, 10), setting("nf4-double", 9, 9))
    fit = asked(gpus(11.5), *known)
    assert (fit.way.missing, [one.arguments for one in fit.options]) == (55 * 10**8, [("--quant", "nf4")])
    tight = asked(gpus(16.3), *known, workload=Workload(context=8192))
    assert [one.arguments for one in tight.options] == [("--quant", "nf4"), ("--context", "1024")]
    assert asked(gpus(16.3), known[0], workload=Workload(context=8192)).options[0].change == "a context of 1024 tokens"
    assert asked(gpus(2), *known).options == ()


def test_what_would_fit_for_training() -> None:
    """Each change that helps alone; else all of them; else the smaller quantization as well."""
    known = (setting("nf4", 10, 10), setting("nf4-double", 9, 9))
    fit = asked(gpus(13), known[0], train=True)
    assert [one.arguments for one in fit.options] == [("--optimizer", "paged-adamw-8bit")]
    large = Workload(batch=4)
    fit = asked(gpus(13), known[0], train=True, workload=large)
    assert [one.arguments for one in fit.options] == [("--optimizer", "paged-adamw-8bit", "--batch", "1")]
    fit = asked(gpus(12.5), *known, train=True, workload=large)
    assert fit.options[0].change == "nf4-double and the optimizer paged-adamw-8bit, a batch of 1"


def test_without_a_gpu_it_is_the_main_memory() -> None:
    none = Devices((), Device(None, "main memory", 64 * GB, 12 * GB + PROCESS), "no NVIDIA driver is here")
    assert asked(none, setting()).way == msgspec.structs.replace(asked(gpus(12), setting()).way, gpus=())
    assert asked(none, setting(peak=12.5)).way.answer == "fits-when-prequantized"


def test_a_part_on_the_cpu_is_not_converted() -> None:
    plain = tuple(Block(one.name, 4 * one.bytes, one.layer) for one in BLOCKS)
    # 2 GB beside the layers, 8 for the layer that comes from the CPU, 1 for the cache.
    spared = offload(setting(peak=10), gpus(15.5), BLOCKS, plain)
    assert spared is not None and (spared.on_gpu, spared.on_cpu, spared.bytes) == (2, 2, 16 * GB)
    assert offload(setting(peak=10), gpus(12), BLOCKS, plain) is None


def test_blocks_are_layers_and_what_lies_beside_them() -> None:
    """In the order in which the model computes, whatever order its file has; tied output beside its embeddings."""
    linear: dict[str, Any] = {"shape": (64, 128), "kind": "linear", "converted": True}
    skeleton = Skeleton(
        (
            Parameter("model.norm.weight", (128,), "norm", stored=256),
            *(Parameter(f"model.layers.{n}.mlp.experts.1.w1.weight", **linear) for n in (10, 2)),
            Parameter("model.embed_tokens.weight", (100, 128), "embedding", stored=25600),
            Parameter("model.rotary_emb.inv_freq", (32,), "buffer", dtype="F32"),
        ),
        "5.23.0",
        "",
    )
    found = blocks(skeleton, "none", "BF16")
    names = ["model.embed_tokens", "model.rotary_emb", "model.layers.2", "model.layers.10", "model.norm", "lm_head"]
    assert [one.name for one in found] == names
    assert [one.bytes for one in found] == [25600, 128, 16384, 16384, 256, 0]
    assert [one.bytes for one in blocks(skeleton, "nf4", "BF16")][2] == 4096 + 128 * 4 + 64
    placed = place(found, (42500, 20000))
    assert placed is not None and placed["lm_head"] == placed["model.embed_tokens"] == 0
    assert placed["model.norm"] == placed["model.layers.10"] == 1


def test_what_is_computed_has_its_room_beside_weights_and_cache() -> None:
    """On each GPU as a whole."""
    prompt = setting(forward=2 * GB)
    assert asked(gpus(13), prompt).way.answer == "fits"
    less = asked(gpus(12.9), prompt).way
    assert (less.answer, less.missing) == ("does-not-fit", 10**8)
    assert max_memory(setting(peak=10, forward=2 * GB), False, gpus(8, 8)) == dict.fromkeys((0, 1), 55 * 10**8)


def test_what_becomes_float32_for_training_counts_where_it_lies() -> None:
    """Half of it with the embeddings, half with the output layer."""
    parts = tuple(block if block.layer else block._replace(kept=GB) for block in BLOCKS)
    trained = setting(peak=10, training=Training(1, 0, 0, 0, 0, casts=4 * GB))
    found = way(trained, True, gpus(7, 7), lambda name: parts)
    assert found.device_map == {"embed": 0, "layers.0": 0, "layers.1": 0, "layers.2": 1, "layers.3": 1, "head": 1}
    assert way(trained, True, gpus(7, 6.9), lambda name: parts).answer == "does-not-fit"
