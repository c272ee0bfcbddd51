"""The type that a model is loaded in where nobody names one.

transformers 5 takes the type that ``config.json`` names, and without one that of the checkpoint; before, loading with a
``BitsAndBytesConfig`` took float16. What each release does is read out of its source (``matrices/huggingface.json``).
"""

from __future__ import annotations

from collections.abc import Iterable

from bnbenv.matrix.huggingface import api_for
from bnbenv.models.model import FLOATS, Config, Tensor


def loading_dtype(
    config: Config, transformers: str | None, quantized: bool, tensors: Iterable[Tensor] | None = None
) -> str:
    """The safetensors name of the type ("BF16") that ``from_pretrained`` takes by itself.

    ``transformers`` is a release, None the newest that is known. ``quantized`` says that a ``BitsAndBytesConfig`` is
    given; without one it is the checkpoint's own type, which is what ``config`` and ``fit`` ask for by name.
    ``tensors`` are the checkpoint's: the first of a floating type tells where config.json does not. Without either
    it is F32, torch's default.
    """
    if quantized and api_for(transformers).default_dtype == "float16":
        return "F16"
    if config.dtype is not None:
        return config.dtype
    return next((one.dtype for one in tensors or () if one.dtype in FLOATS), "F32")
