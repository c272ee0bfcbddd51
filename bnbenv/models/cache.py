"""The bytes of the cache that ``generate`` keeps: keys and values of every token, or states of a fixed size. Pure.

What transformers' ``DynamicCache`` holds, read in 4.57.6 and 5.23.0 and held against it class by class with
scripts/measure_cache.py (``matrices/evidence/kv-cache-*.jsonl``). Of models with an encoder it is the decoder's own.

Layers with a sliding window keep the whole prompt all the same until the answer's second token: their tensors are
windows on tensors of the full length, which stay as long as these. That is the most that is held, and what
``kv_cache`` says; ``written=True`` is what is left of it when an answer is being written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from bnbenv.matrix.architectures import row_for
from bnbenv.models.formulas import Unresolved
from bnbenv.models.model import SIZES, CheckpointError, Config, Workload
from bnbenv.models.structure import MOST, Fields

# The names that families give to one number; transformers maps most of them to the first one (``attribute_map``).
HIDDEN = ("hidden_size", "n_embd", "d_model", "model_dim")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")

MAMBA = frozenset({"mamba", "mamba2", "falcon_mamba"})  # without attention
# The letters of Nemotron-H's ``hybrid_override_pattern``.
LETTERS = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}

# Since this release the latent of multi-head latent attention is cached, before it the heads made of it. Others of the
# family were there before and cached heads, or are newer and always cached the latent.
LATENT_SINCE = 5
# Classes that keep their keys for every head, though fewer are computed.
EVERY_HEAD = frozenset({"falcon"})


class Layer(NamedTuple):
    """What a layer holds: elements a token of the loading type, tokens at most, and bytes beside that for a row."""

    token: int
    window: int | None = None
    state: int = 0


def kv_cache(
    config: Config, workload: Workload, dtype: str, transformers: str | None = None, written: bool = False
) -> int:
    """The bytes of the cache for ``workload.context`` tokens of each of ``workload.batch`` rows.

    ``dtype`` is the type that the model computes in, as safetensors names it ("BF16"); ``transformers`` a release,
    None the newest that is known. A number that is nowhere given is assumed so that the answer is rather too large:
    as many heads of keys as of queries. Raises CheckpointError where there are no numbers of layers and heads.
    """
    total = 0
    for layer in layers(config, dtype, transformers):
        tokens = workload.context
        if written and layer.window is not None:
            tokens = min(tokens, layer.window)
        total += workload.batch * (tokens * layer.token * SIZES[dtype] + layer.state)
    return total


def layers(config: Config, dtype: str, transformers: str | None = None) -> list[Layer]:
    """What each layer of the model holds, in their order."""
    model_type = str(config.text.get("model_type") or config.model_type or "")
    text = _filled(config, transformers)
    window, found = _window(text, model_type), []
    for index, kind in enumerate(_kinds(text, model_type, window is not None)):
        if kind in ("moe", "mlp", "dummy"):
            continue
        if kind in ("linear_attention", "mamba", "mamba2", "conv"):
            state = _state(text, SIZES[dtype])
            if state is not None:  # else as if it kept keys and values, which are more
                found.append(Layer(0, None, state))
                continue
        token = _token({**text, **_own(text, index)}, model_type, index, kind, transformers)
        state = (_state(text, SIZES[dtype]) or 0) if kind.startswith("hybrid") else 0
        sliding = "sliding" in kind or kind == "chunked_attention"
        found.append(Layer(token, window if sliding else None, state))
    return found


def _filled(config: Config, transformers: str | None) -> Mapping[str, Any]:
    """The part about the language model, with what its class takes for numbers that are left out."""
    text = {key: one for key, one in config.text.items() if one is not None}
    row = row_for(config.architecture, config.model_type, transformers)
    if row is not None:
        fields = Fields(row, config.fields)
        for names in (LAYERS, HEADS, KV_HEADS, HIDDEN, ("head_dim",)):
            if not any(name in text for name in names):
                text |= _taken(fields, names)
    return text


def _taken(fields: Fields, names: Sequence[str]) -> Mapping[str, int]:
    for name in names:
        for path in (name, f"text_config.{name}"):
            with suppress(Unresolved):
                found = fields(path)
                if isinstance(found, int):
                    return {name: found}
    return {}


def _kinds(text: Mapping[str, Any], model_type: str, sliding: bool) -> Sequence[str]:
    """The kind of each layer, without those that use the cache of another one (Gemma 3n)."""
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return [LETTERS.get(letter, "full_attention") for letter in pattern]
    kinds = text.get("layer_types") or text.get("layers_block_type")
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        kinds = _computed(text, model_type, _number(text, LAYERS, "layers"), sliding)
    shared = text.get("num_kv_shared_layers")
    return kinds[: len(kinds) - shared] if isinstance(shared, int) and 0 < shared < len(kinds) else kinds


def _computed(text: Mapping[str, Any], model_type: str, number: int, sliding: bool) -> list[str]:
    """Where the document names no kinds, as the configuration's class computes them."""
    every, begin = text.get("attn_layer_period"), text.get("attn_layer_offset") or 0
    if isinstance(every, int) and every > 0:  # Jamba
        return ["full_attention" if one % every == begin else "linear_attention" for one in range(number)]
    named = text.get("attn_layer_indices")
    if isinstance(named, list):  # Bamba
        return ["full_attention" if one in named else "linear_attention" for one in range(number)]
    if model_type in MAMBA:
        return ["linear_attention"] * number
    if model_type == "falcon_h1":
        return ["hybrid"] * number
    if not sliding:
        return ["full_attention"] * number
    pattern = {"gemma2": 2, "gemma3_text": 6, "cohere2": 4}.get(model_type)
    pattern = text.get("sliding_window_pattern") or text.get("_sliding_window_pattern") or pattern
    if isinstance(pattern, int) and pattern > 0:
        return ["full_attention" if (one + 1) % pattern == 0 else "sliding_attention" for one in range(number)]
    first = text.get("max_window_layers") if model_type.startswith("qwen2") else None
    begin = first if isinstance(first, int) else 0
    return ["sliding_attention" if one >= begin else "full_attention" for one in range(number)]


def _window(text: Mapping[str, Any], model_type: str) -> int | None:
    """Tokens that a layer with a window keeps between two steps; with the one that is being written."""
    window = text.get("sliding_window") or text.get("attention_chunk_size")
    if text.get("use_sliding_window") is False and model_type.startswith(("qwen2", "qwen3")):
        return None
    return window if isinstance(window, int) and window > 0 else None


def _token(text: Mapping[str, Any], model_type: str, index: int, kind: str, transformers: str | None) -> int:
    """Elements that a layer keeps of each token."""
    heads = _number(text, HEADS, "attention heads", index)
    latent = text.get("kv_lora_rank")
    if isinstance(latent, int) and latent:
        rope = _size(text, "qk_rope_head_dim")
        if _major(transformers) >= LATENT_SINCE:
            return latent + rope + (_size(text, "index_head_dim") if kind == "indexed_attention" else 0)
        return heads * (_size(text, "qk_nope_head_dim") + rope + _size(text, "v_head_dim"))
    if kind == "full_attention" and isinstance(text.get("global_head_dim"), int):  # Gemma 4
        kept = _size(text, "num_global_key_value_heads") or _kv_heads(text, model_type, index, heads)
        return 2 * kept * _size(text, "global_head_dim")
    return 2 * _kv_heads(text, model_type, index, heads) * _head_dim(text, index, heads)


def _kv_heads(text: Mapping[str, Any], model_type: str, index: int, heads: int) -> int:
    if model_type in EVERY_HEAD and (text.get("new_decoder_architecture") or not text.get("multi_query", True)):
        return heads
    if text.get("multi_query", model_type == "gpt_bigcode" or model_type in EVERY_HEAD):
        return 1
    found = next((text[name] for name in KV_HEADS if text.get(name) is not None), None)
    if found is None and isinstance(text.get("attn_config"), dict) and model_type == "dbrx":
        found = text["attn_config"].get("kv_n_heads")
    found = _of_layer(found, index)
    return found if isinstance(found, int) and found > 0 else heads


def _head_dim(text: Mapping[str, Any], index: int, heads: int) -> int:
    for name in ("head_dim", "d_kv", "attention_head_dim", "kv_channels"):
        found = _of_layer(text.get(name), index)
        if isinstance(found, int) and found > 0:
            return found
    return _number(text, HIDDEN, "the width of a layer") // heads


def _state(text: Mapping[str, Any], size: int) -> int | None:
    """Bytes of the state of a layer without attention, for a row of the batch; None where it cannot be told.

    That of the convolution is of the type that is computed in, the recurrent one float32.
    """

    def field(*names: str) -> int:
        return next((text[name] for name in names if isinstance(text.get(name), int)), 0)

    if field("linear_num_value_heads"):  # gated delta nets: Qwen3-Next, Qwen3.5
        keys = field("linear_num_key_heads") * field("linear_key_head_dim")
        values = field("linear_num_value_heads") * field("linear_value_head_dim")
        recurrent = values * field("linear_key_head_dim")
        return (2 * keys + values) * field("linear_conv_kernel_dim") * size + recurrent * 4
    if field("linear_num_heads"):  # Kimi Linear
        width = field("linear_num_heads") * field("linear_head_dim")
        return 3 * width * field("linear_conv_kernel_dim") * size + width * field("linear_head_dim") * 4
    if "linear_attn_alpha_factor" in text:  # MiniMax
        heads = _number(text, HEADS, "attention heads")
        return heads * _head_dim(text, 0, heads) ** 2 * size
    if field("conv_L_cache"):  # LFM2
        return field(*HIDDEN) * field("conv_L_cache") * size
    heads, inside = field("mamba_n_heads", "mamba_num_heads"), field("mamba_d_head", "mamba_head_dim")
    if text.get("model_type") == "mamba2":
        heads, inside = field("num_heads"), field("head_dim")
    states, kernel = field("mamba_d_state", "ssm_state_size", "state_size"), field("mamba_d_conv", "conv_kernel")
    if not states or not kernel:
        return None
    if heads and inside:  # Mamba 2: Granite 4, Bamba, Nemotron-H, Falcon-H1
        width = heads * inside
        groups = max(field("mamba_n_groups", "n_groups"), 1)
        return (width + 2 * groups * states) * kernel * size + width * states * 4
    width = field("mamba_expand", "expand") * field(*HIDDEN)  # Mamba: Jamba
    return width * kernel * size + width * states * 4 if width else None


def _number(text: Mapping[str, Any], names: Sequence[str], what: str, index: int = 0) -> int:
    for name in names:
        found = _of_layer(text.get(name), index)
        if isinstance(found, int) and 0 < found <= (MOST if names is LAYERS else found):
            return found
    raise CheckpointError(
        "no-cache-size",
        f"config.json does not give the number of {what} ({', '.join(names[:3])}), from which the cache is counted",
        "Give a config.json that has it: transformers writes one that is whole (config.save_pretrained).",
    )


def _size(text: Mapping[str, Any], name: str) -> int:
    """A number that may be left out; what is no number counts as left out."""
    found = text.get(name)
    return found if isinstance(found, int) and found > 0 else 0


def _of_layer(value: object, index: int) -> object:
    """Some write a list with one number for each layer."""
    if isinstance(value, list):
        return value[index] if index < len(value) else None
    return value


def _own(text: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    """What the document says of one layer alone (Gemma 4: ``{"05": {"head_dim": 512}}``)."""
    rows = text.get("per_layer_config")
    named = rows.items() if isinstance(rows, dict) else ()
    return next((row for key, row in named if _is_index(key, index) and isinstance(row, dict)), {})


def _is_index(key: str, index: int) -> bool:
    return key.isdecimal() and key.lstrip("0") == str(index or "")


def _major(transformers: str | None) -> int:
    first = (transformers or str(LATENT_SINCE)).split(".")[0]
    return int(first) if first.isdecimal() else LATENT_SINCE
