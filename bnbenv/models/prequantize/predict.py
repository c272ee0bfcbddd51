"""What is known before the first byte: how large the result becomes, and what loading takes with it and without."""

from __future__ import annotations

from typing import Literal, NamedTuple

from bnbenv.models.dtype import loading_dtype
from bnbenv.models.layout import weights
from bnbenv.models.model import SIZES, TORCH_NAMES, Checkpoint, CheckpointError
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
    """Of a checkpoint that ``check`` lets pass. Pure. Raises CheckpointError."""
    tensors = checkpoint.tensors or ()
    dtype = TORCH_NAMES[order.dtype] if order.dtype else loading_dtype(checkpoint.config, transformers, True, tensors)
    model = skeleton(checkpoint, transformers, order.skip or ())
    found = weights(model, order.quantization, dtype)
    stored = found.total - found.parts.get("buffers", 0) + HEADER * len(tensors)
    largest = max((one.elements * SIZES[dtype] for one in model.parameters if one.stored), default=0)
    peak = load_peak(model, order.quantization, dtype, device)
    return Prediction(stored, largest, peak, prequantized_peak(model, order.quantization, dtype, device))


def check(source: str, checkpoint: Checkpoint, code: bool) -> None:
    """Raises CheckpointError where it is clear from the headers alone that nothing can be made of a checkpoint.

    ``source`` is its name as the user gave it, ``code`` whether its own code may be run.
    """
    config = checkpoint.config
    if config.quantization is not None:
        method = str(config.quantization.get("quant_method") or "another method")[:60]
        if method == "bitsandbytes":
            step = "Load it as it is: from_pretrained needs no BitsAndBytesConfig for it."
        else:
            step = "Take the original, in 16 or 32 bit."
        raise CheckpointError("quantized-already", f"{source} is quantized already ({method})", step)
    if checkpoint.tensors is None:
        message = f"{source} has a config.json and no weights in safetensors files"
        raise CheckpointError("no-weights", message, "Name the folder that holds the weights too.")
    if config.remote_code and not code:
        message = f"{source} comes with code of its own, which is not run unless you ask for it"
        raise CheckpointError("remote-code", message, "Read that code; then add: --trust-remote-code")
