"""Readers of models: config.json, the headers of safetensors files, the index of shards."""

from __future__ import annotations

import io
import json
from typing import Any

from bnbenv.errors import InputError
from bnbenv.models.config import read_config
from bnbenv.models.local import read_index
from bnbenv.models.model import SIZES, CheckpointError
from bnbenv.models.safetensors import read_header

from .oracle import Target

_CONFIGS: tuple[dict[str, Any], ...] = (
    {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
        "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
        "eos_token_id": [128001, 128009],
    },
    {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {"hidden_size": 2560, "intermediate_size": [10240, 5120], "dtype": "bfloat16"},
        "vision_config": {"hidden_size": 1152},
        "quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes", "llm_int8_skip_modules": None},
    },
    {
        "thinker_config": {"text_config": {"num_experts": 128}},
        "auto_map": {"AutoModelForCausalLM": "modeling_x.X"},
        "dtype": "torch.float16",
        "time_step_limit": [0.0, float("inf")],
    },
)
_HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "model.embed_tokens.weight": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]},
    "model.norm.weight": {"dtype": "F32", "shape": [8], "data_offsets": [64, 96]},
    "lm_head.weight": {"dtype": "F4", "shape": [8], "data_offsets": [96, 100]},
    "step": {"dtype": "I64", "shape": [], "data_offsets": [100, 108]},
    "none": {"dtype": "U8", "shape": [0, 3], "data_offsets": [108, 108]},
}
_INDEX = {"metadata": {"total_size": 108}, "weight_map": {"a": "model-1-of-2.safetensors", "b": "model.safetensors"}}
_OTHERS = (b"version https://git-lfs", b"<!DOCTYPE html>")


def _config(data: bytes) -> None:
    found = read_config(data, "config.json")
    assert found.architecture is None or found.architecture
    assert isinstance(found.text, dict) and isinstance(found.fields, dict)


def _file(data: bytes) -> None:
    _whole(data, len(data))


def _header(data: bytes) -> None:
    """The header is edited as JSON; the file is as long as its tensors say."""
    try:
        ends = [entry["data_offsets"][1] for entry in json.loads(data).values() if "data_offsets" in entry]
        size = max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        size = 108
    size = size if type(size) is int and 0 <= size < 1 << 62 else 108
    _whole(len(data).to_bytes(8, "little") + data, 8 + len(data) + size)


def _whole(content: bytes, size: int) -> None:
    """Tensors follow each other without holes up to the file's end, and none has more bytes than its shape."""
    found = read_header(io.BytesIO(content), "model.safetensors", size)
    position = 8 + int.from_bytes(content[:8], "little")
    for tensor in found:
        assert tensor.begin == position and tensor.file == "model.safetensors"
        assert tensor.name.encode() is not None
        count = 1
        for side in tensor.shape:
            count *= side
        if tensor.dtype in SIZES:
            assert tensor.bytes == count * SIZES[tensor.dtype]
        position = tensor.end
    assert position == size


def _index(data: bytes) -> None:
    for name, shard in read_index(data, "model.safetensors.index.json").items():
        assert isinstance(name, str) and shard.endswith(".safetensors")
        assert "/" not in shard and "\\" not in shard and ".." not in shard[:2]


def _of(document: Any) -> bytes:
    return json.dumps(document).encode()


def _file_seeds() -> tuple[bytes, ...]:
    padded, header, none = _of(_HEADER) + b" " * 5, _of(_HEADER), b"{}"
    files = ((padded, 108), (header, 108), (none, 0))
    return (*(len(text).to_bytes(8, "little") + text + bytes(size) for text, size in files), *_OTHERS)


TARGETS = (
    Target("model-config", "json", _config, lambda: tuple(map(_of, _CONFIGS)), (InputError,), "config.json"),
    Target("safetensors-file", "binary", _file, _file_seeds, (CheckpointError,)),
    Target("safetensors-header", "json", _header, lambda: (_of(_HEADER),), (CheckpointError,)),
    Target("safetensors-index", "json", _index, lambda: (_of(_INDEX),), (CheckpointError,)),
)
