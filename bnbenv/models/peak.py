"""The most memory that is held while ``from_pretrained`` reads a checkpoint and bitsandbytes converts it.

It follows what the loaders do, one tensor after another, and what the kernels of bitsandbytes 0.50.2 allocate
meanwhile; no figure is fitted. Read in transformers 5.23.0 (``core_model_loading``) and 4.57.6 (``modeling_utils``).

On the CPU it is held against measurements (``scripts/measure_loading.py``; ``matrices/evidence/loading-cpu-*.json``).
safetensors maps files: a tensor that stays in the checkpoint's type is no copy but the file's own pages. Counted are
the process's own (anonymous) memory at its peak, and the mapped pages that stay as weights of the model. Not counted
are mapped pages of tensors that were converted: they show in the resident size, and the kernel drops them for nothing
where memory is short.

On CUDA it follows from the same sources and is not measured yet: ``LEVELS`` says so. What PyTorch's context takes
(some hundreds of MB) and loses to fragments is not in it, nor what transformers reserves in advance
(``caching_allocator_warmup``): at most what is free less 1.2 GiB, and used by the weights that follow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Literal

from bnbenv.models.layout import BLOCK, NESTED_BLOCK, NESTED_CODE, held, plain, quantized, weights
from bnbenv.models.model import SIZES, Parameter, Quantization, Skeleton

Place = Literal["cuda", "cpu"]
LEVELS = {"cpu": "measured", "cuda": "declared"}  # evidence for load_peak and prequantized_peak


def load_peak(
    skeleton: Skeleton,
    quantization: Quantization,
    dtype: str,
    device: Place,
    stored_as: str | None = None,
    bitsandbytes: str | None = None,
) -> int:
    """Bytes at the peak of loading a checkpoint of full precision onto one device.

    ``dtype`` is the loading type, ``stored_as`` the type of the checkpoint's tensors, both as safetensors names them;
    without ``stored_as`` a tensor of the same size is taken for one of the same type. ``bitsandbytes`` is its release
    (None: 0.50): the 4-bit kernel for the CPU of earlier ones takes ten times as much.
    """
    if device == "cuda":
        return _on_cuda(skeleton, quantization, dtype, stored_as)
    first = bitsandbytes is not None and tuple(map(int, re.findall(r"\d+", bitsandbytes)[:2])) < (0, 50)
    return _on_the_cpu(skeleton, quantization, dtype, stored_as, first)


def prequantized_peak(skeleton: Skeleton, quantization: Quantization, dtype: str, device: Place) -> int | None:
    """Bytes at the peak of loading a checkpoint that is in bitsandbytes' own form; None where nothing is quantized.

    Nothing is converted, and what the worker threads of transformers 5 read ahead is part of the model. It is the
    weights, and beside them the largest thing that is put together (the experts of a layer) or copied: transformers 4
    takes an int8 weight from the GPU to the CPU and back.
    """
    if quantization == "none":
        return None
    copied = [plain(one, dtype) for one in skeleton.parameters if one.parts > 1 and not one.converted]
    if device == "cuda" and quantization == "int8" and _major(skeleton) < 5:
        copied += [one.elements for one in skeleton.parameters if one.converted]
    return weights(skeleton, quantization, dtype).total + max(copied, default=0)


def _major(skeleton: Skeleton) -> int:
    return int(skeleton.transformers.partition(".")[0])


def _highest(skeleton: Skeleton, kept: Callable[[Parameter], int], while_loading: Callable[[Parameter], int]) -> int:
    """The peak where one parameter is loaded after another.

    ``while_loading`` is what one needs with all its temporaries and its result, ``kept`` what of it stays. Neighbours
    of the same count are the layers of a model: the peak is in the last one.
    """
    before = peak = 0
    for count, group in _layers(skeleton):
        one_layer = [(kept(one), while_loading(one)) for one in group]
        size = sum(stays for stays, _ in one_layer)
        begun = before + (count - 1) * size
        for stays, needs in one_layer:
            peak = max(peak, begun + needs)
            begun += stays
        before += count * size
    return max(peak, before)


def _layers(skeleton: Skeleton) -> Iterator[tuple[int, list[Parameter]]]:
    for count, group in groupby(skeleton.parameters, key=lambda one: one.count):
        if count > 0:
            yield count, list(group)


def _is_cast(parameter: Parameter, dtype: str, stored_as: str | None) -> bool:
    """Whether what is read is of another type than what is loaded: it is a copy then."""
    if parameter.stored == 0:
        return True  # computed, no part of the checkpoint
    loaded = parameter.dtype or dtype
    if parameter.stored != parameter.elements * SIZES[loaded]:
        return True
    return stored_as is not None and SIZES[stored_as] == SIZES[loaded] and stored_as != loaded


# On the CPU


def _on_the_cpu(
    skeleton: Skeleton, quantization: Quantization, dtype: str, stored_as: str | None, first_kernel: bool
) -> int:
    mapped = 0

    def is_mapped(one: Parameter) -> bool:
        return one.parts == 1 and not _is_cast(one, dtype, stored_as)

    def kept(one: Parameter) -> int:
        stays = held(one, quantization, dtype)
        return 0 if quantized(one, quantization) is None and is_mapped(one) else stays

    def while_loading(one: Parameter) -> int:
        read = plain(one, dtype) if not is_mapped(one) else 0
        merging = _merging(one, plain(one, dtype), _is_cast(one, dtype, stored_as))
        if quantized(one, quantization) is None:
            return max(read, merging)
        return max(merging, read + _conversion_on_the_cpu(one, quantization, dtype, first_kernel))

    for one in skeleton.parameters:
        if quantized(one, quantization) is None and is_mapped(one):
            mapped += one.count * plain(one, dtype)
    return _highest(skeleton, kept, while_loading) + mapped


def _conversion_on_the_cpu(parameter: Parameter, quantization: Quantization, dtype: str, first_kernel: bool) -> int:
    """Bytes of temporaries and result at the peak of converting one weight, without the weight itself.

    The kernels are torch code on the CPU (bitsandbytes' ``backends/default/ops.py``).
    """
    n = parameter.elements
    if quantization == "int8":
        # float16 of it; then the float32 product with the inverse of the rows' maxima, and its rounded copy.
        half = 0 if dtype == "F16" else 2 * n
        return half + 4 * n + 4 * n + 2 * 4 * parameter.shape[0]
    absmax = 4 * -(-n // BLOCK)
    scaled = 4 * n + _turning(parameter, dtype)
    if first_kernel:  # 0.46 to 0.49: the distances to all 16 values of the code, and their absolute values
        return scaled + absmax + 2 * 16 * 4 * n
    single = 0 if dtype == "F32" else 4 * n
    if quantization.startswith("nf4"):
        # Indices as int32, then as bytes, then both halves of a pair as they are packed.
        return single + scaled + absmax + 4 * n + n + n
    # The order of FP4's values is looked up by int32 indices, which torch makes int64 first, and is int64 itself.
    return single + scaled + absmax + 4 * n + 8 * n + 8 * n


def _turning(parameter: Parameter, dtype: str) -> int:
    """Bytes of the copy of a weight that is stored the other way round, in 4 bit (``Params4bit._quantize``)."""
    return plain(parameter, dtype) if parameter.turned else 0


# On CUDA


def _on_cuda(skeleton: Skeleton, quantization: Quantization, dtype: str, stored_as: str | None) -> int:
    early = _major(skeleton) < 5

    def kept(one: Parameter) -> int:
        return held(one, quantization, dtype)

    def while_loading(one: Parameter) -> int:
        """transformers 5 casts on the CPU; 4 reads onto the GPU and casts there."""
        size = plain(one, dtype)
        reading = size + (one.stored if early and _is_cast(one, dtype, stored_as) else 0)
        need = max(reading, _merging(one, size, True))
        if quantized(one, quantization) is None:
            return need
        # transformers 4 takes a 4-bit weight to the CPU and back and holds the first copy meanwhile. Both do so
        # with an int8 one, and what comes back is float16.
        copy = 2 * one.elements if quantization == "int8" else size if early else _turning(one, dtype)
        return max(need, size + copy + _conversion_on_cuda(one, quantization))

    if quantization == "none" and not early:
        # Worker threads read ahead of what is put together.
        together = max((plain(one, dtype) for one in skeleton.parameters if one.parts > 1), default=0)
        return weights(skeleton, quantization, dtype).total + together
    return _highest(skeleton, kept, while_loading)


def _conversion_on_cuda(parameter: Parameter, quantization: Quantization) -> int:
    """Bytes of temporaries and result at the peak of the kernels, without the weight itself."""
    result = quantized(parameter, quantization)
    assert result is not None
    if quantization == "int8":
        return result.total
    blocks = -(-parameter.elements // BLOCK)
    if not quantization.endswith("-double"):
        return result.total
    # absmax, the same less its mean, and what that becomes
    nested = 4 * blocks + 4 * blocks + blocks + 4 * -(-blocks // NESTED_BLOCK) + 2 * NESTED_CODE
    return result.data + nested


def _merging(parameter: Parameter, size: int, copied: bool) -> int:
    """Bytes at the peak of putting one together from its parts in the checkpoint; 0 for one that is read as it is.

    The parts of a layer's experts are stacked, and where there are more parts than experts (gate and up) the stacks are
    joined: these are held twice whatever the parts are. ``copied`` says that the parts are copies, not mapped pages.
    """
    if parameter.parts == 1:
        return 0
    joined = len(parameter.shape) > 2 and parameter.parts > parameter.shape[0]
    return 2 * size if joined or copied else size
