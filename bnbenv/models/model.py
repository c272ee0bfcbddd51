"""What is said about a model: its configuration, its checkpoint, its parameters, and the bytes that they take.

All sizes are bytes, all shapes are rows first as safetensors and torch write them. Names of data types are those of
safetensors: ``BF16``, ``F16``, ``F32``, ``U8``, ``I8``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from bnbenv.errors import Failed

Quantization = Literal["none", "int8", "nf4", "nf4-double", "fp4", "fp4-double"]
QUANTIZATIONS: tuple[Quantization, ...] = ("none", "int8", "nf4", "nf4-double", "fp4", "fp4-double")

# Bytes of one element, by safetensors' name of the type. A checkpoint may hold types of less than a byte (F4):
# those are no weights that bitsandbytes could convert, and reading such a header says so.
SIZES: Mapping[str, int] = {
    **{"F64": 8, "I64": 8, "U64": 8, "C64": 8},
    **{"F32": 4, "I32": 4, "U32": 4},
    **{"F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "I8": 1, "U8": 1, "BOOL": 1},
}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})  # what bitsandbytes can convert, after a cast to the loading type

# torch's names of the types that a model is loaded in.
TORCH_NAMES: Mapping[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


class CheckpointError(Failed):
    """A checkpoint that is broken, incomplete, or of a kind that this cannot be said about."""


class Tensor(msgspec.Struct, frozen=True):
    """A tensor of a checkpoint, as the header of its file names it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int = 0  # where its bytes begin and end in the file
    end: int = 0

    @property
    def bytes(self) -> int:
        return self.end - self.begin


class Config(msgspec.Struct, frozen=True):
    """A ``config.json``. ``fields`` is the whole document, ``text`` the part about the language model in it.

    ``architecture`` is the class that ``from_pretrained`` makes (``LlamaForCausalLM``), ``dtype`` the safetensors
    name of the type that the document names. ``quantization`` is its ``quantization_config``, of a checkpoint that is
    quantized already. ``remote_code`` says that the class comes with the checkpoint and not with transformers.
    """

    architecture: str | None
    model_type: str | None
    dtype: str | None
    fields: Mapping[str, Any]
    text: Mapping[str, Any]
    quantization: Mapping[str, Any] | None = None
    remote_code: bool = False


class Checkpoint(msgspec.Struct, frozen=True):
    """A model as it lies on a disk or on the hub.

    ``source`` is what the user named, ``tensors`` is None where there is a ``config.json`` alone. ``files`` are
    the files with weights and their sizes.
    """

    source: str
    config: Config
    tensors: tuple[Tensor, ...] | None
    files: Mapping[str, int] = {}

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


Kind = Literal["linear", "expert", "embedding", "output", "norm", "bias", "buffer", "other"]


class Parameter(msgspec.Struct, frozen=True):
    """A parameter or buffer of the model as transformers builds it.

    ``converted`` says that ``from_pretrained`` with a ``BitsAndBytesConfig`` quantizes it; if not, ``kept`` says why
    in words. ``dtype`` is the type that it always has (rotary frequencies are F32); None is the type that the model
    is loaded in. ``count`` equal ones stand in one (the layers of a model). ``stored`` are the bytes of what
    it is read from, of one, 0 for what is no part of the checkpoint (the tied output, buffers that are computed).
    ``parts`` is of how many tensors of the checkpoint one is put together (the experts of a layer). ``turned``: it is
    stored the other way round (GPT-2's Conv1D), and copied when it is quantized.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    converted: bool = False
    kept: str | None = None
    dtype: str | None = None
    count: int = 1
    stored: int = 0
    parts: int = 1
    turned: bool = False

    @property
    def elements(self) -> int:
        """Elements of one."""
        product = 1
        for side in self.shape:
            product *= side
        return product


class Skeleton(msgspec.Struct, frozen=True):
    """All parameters and buffers of a model in the order in which transformers loads them.

    ``basis`` says what that rests on in words, with the release of transformers; ``known`` is False where the
    architecture has no row and was judged by the names and shapes of its tensors alone.
    """

    parameters: tuple[Parameter, ...]
    transformers: str
    basis: str
    known: bool = True


class Weights(msgspec.Struct, frozen=True):
    """Bytes of a loaded model: parameters, buffers and every tensor of the quantization's state.

    ``parts`` adds up to ``total``: ``converted`` (packed weights), ``statistics`` (absmax, nested absmax, code
    tables, SCB), ``experts``, ``embeddings``, ``output``, ``norms and biases``, ``buffers``, ``other``.
    """

    total: int
    parts: Mapping[str, int]


class Training(msgspec.Struct, frozen=True):
    """Bytes that training adapters needs beside the weights: what stays all the time, and the activations' peak.

    ``trained`` is the number of trained parameters. ``casts`` is what it adds to the weights that peft's
    ``prepare_model_for_kbit_training`` makes those float32 that are not quantized.
    """

    trained: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    casts: int = 0

    @property
    def total(self) -> int:
        return self.adapters + self.gradients + self.optimizer + self.activations + self.casts


class Workload(msgspec.Struct, frozen=True):
    """What the model is to be used for. ``context`` is tokens, of prompt and answer together.

    ``targets`` are the names of the modules that get adapters (``q_proj``); None is every converted linear layer, as
    peft's ``all-linear``. ``checkpointing`` is gradient checkpointing.
    """

    context: int = 4096
    batch: int = 1
    rank: int = 16
    targets: tuple[str, ...] | None = None
    optimizer: Literal["adamw", "adamw-8bit", "paged-adamw-8bit"] = "adamw"
    checkpointing: bool = True


class Setting(msgspec.Struct, frozen=True):
    """A way to load the model, and the bytes that it needs.

    ``load_peak`` is the most that is held while loading and converting, ``prequantized_peak`` the same for a
    checkpoint that is quantized already (None where that makes no sense). ``forward`` is what computing with a whole
    prompt at once takes beside weights and KV cache.
    """

    quantization: Quantization
    weights: Weights
    load_peak: int
    prequantized_peak: int | None
    kv_cache: int
    training: Training
    forward: int = 0


class Device(msgspec.Struct, frozen=True):
    """A GPU, or a MIG slice, or the CPU (``index`` None), and its memory in bytes now; ``free`` None is unknown."""

    index: int | None
    name: str
    total: int
    free: int | None
    uuid: str | None = None
    compute_capability: str | None = None
