"""What is known before the first byte: how large the result becomes, and what loading takes with it and without."""

from __future__ import annotations

from typing import Literal, NamedTuple

from bnbenv.models.dtype import loading_dtype
from bnbenv.models.layout import weights
from bnbenv.models.model import SIZES, TORCH_NAMES, Checkpoint
from bnbenv.models.peak import load_peak, prequantized_peak
from bnbenv.models.prequantize.order import Order
from bnbenv.models.skeleton import skeleton

HEADER = 200  # bytes of a tensor in a file's header, about


class Prediction(NamedTuple):
    """Bytes. ``size`` of all files of weights; ``largest`` is the largest tensor in the type that it is loaded in.

    ``peak`` is the most that is held while the source is loaded and quantized, ``own_peak`` the same for the result.
    """

    size: int
    largest: int
    peak: int
    own_peak: int | None


def predict(
    order: Order, checkpoint: Checkpoint, transformers: str | None, device: Literal["cuda", "cpu"]
) -> Prediction:
    """Of a checkpoint that ``inputs.check`` lets pass. Pure. Raises CheckpointError."""
    tensors = checkpoint.tensors or ()
    dtype = TORCH_NAMES[order.dtype] if order.dtype else loading_dtype(checkpoint.config, transformers, True, tensors)
    model = skeleton(checkpoint, transformers, order.skip or ())
    found = weights(model, order.quantization, dtype)
    stored = found.total - found.parts.get("buffers", 0) + HEADER * len(tensors)
    largest = max((one.elements * SIZES[dtype] for one in model.parameters if one.stored), default=0)
    peak = load_peak(model, order.quantization, dtype, device)
    return Prediction(stored, largest, peak, prequantized_peak(model, order.quantization, dtype, device))
