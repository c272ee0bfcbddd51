"""A model's ``config.json`` as a value. Pure.

Which parts count is transformers' ``PreTrainedConfig`` (``dtype`` before ``torch_dtype``, ``get_text_config``) and
``AutoQuantizationConfig.from_dict``, read in its releases 4.57.6 and 5.23.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnbenv.decode import shown
from bnbenv.errors import InputError
from bnbenv.models.mistaken import HEAD, mistaken
from bnbenv.models.model import TORCH_NAMES, Config
from bnbenv.models.strictjson import NotJson, load

LARGEST = 16 << 20  # bytes of a config.json; those with the labels of 20,000 classes have one million

# Where the part about the language model stands: transformers' own names first, then those of models with own code.
_TEXT = ("text_config", "llm_config", "language_config", "thinker_config", "decoder", "generator", "text_encoder")
_DEEPEST = 3  # parts within parts: thinker_config holds a text_config

# torch's names of what a model can be loaded in, the short ones too, and of what some checkpoints name instead.
_DTYPES: Mapping[str, str] = {
    **TORCH_NAMES,
    **{"half": "F16", "float": "F32", "double": "F64"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8": "I8", "uint8": "U8"},
}

# Numbers from which bytes are counted, as the families of models name them. Some write a list, one for each layer.
_COUNTS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"),
    *("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"),
    *("num_local_experts", "num_experts", "n_routed_experts", "n_shared_experts", "num_experts_per_tok"),
    *("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "global_head_dim"),
    *("n_embd", "n_layer", "n_head", "n_inner", "n_layers", "n_heads", "d_model", "d_ff", "d_kv"),
    *("num_layers", "num_heads", "num_kv_heads", "n_head_kv", "ffn_dim", "ffn_hidden_size", "word_embed_proj_dim"),
)
# -1 where there is no limit, 1200.0 in musicflamingo.
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len")
_MOST = 1 << 40


def read_config(text: str | bytes, file: str) -> Config:
    """A ``config.json``; ``file`` is what errors call it.

    ``remote_code`` says that the document names a model class in a file of its own (``auto_map``): whether it is
    needed, ``local.with_own_code`` knows.
    Raises InputError with the path of what is wrong.
    """
    fields = _read(text, file)
    for key in ("architectures", "model_type", "auto_map", "quantization_config"):
        _check_kind(fields, key, file)
    language, within = _language_model(fields, file)
    _check_numbers(fields, file, "")
    if within:
        _check_numbers(language, file, within)
    named = fields.get("architectures") or [None]
    quantization, model_type = _quantization(fields, language, file, within), fields.get("model_type")
    return Config(
        architecture=named[0],
        model_type=model_type,
        dtype=_dtype(fields, file, "") or (_dtype(language, file, within) if within else None),
        fields=fields,
        text=language,
        quantization=quantization,
        remote_code=any(str(key).startswith("AutoModel") for key in fields.get("auto_map") or {}),
    )


def longest(config: Config) -> int | None:
    """The tokens that the model was made for; None where its document does not say."""
    given = (config.text.get(name) for name in _LENGTHS)
    return next((int(one) for one in given if isinstance(one, (int, float)) and one > 0), None)


def _read(text: str | bytes, file: str) -> dict[str, Any]:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    other = mistaken(data[:HEAD], weights=False)
    if other:
        raise InputError(file, "", f"this is {other.what}", other.step)
    if len(data) > LARGEST:
        raise InputError(file, "", f"it is larger than {LARGEST >> 20} MiB, which no configuration is")
    try:
        fields = load(data)
    except NotJson as error:
        raise InputError(file, error.where, str(error), "Download it again, or mend it.") from None
    if not isinstance(fields, dict):
        raise InputError(file, "", f"expected an object, found {_kind(fields)}")
    return fields


def _check_kind(fields: Mapping[str, Any], key: str, file: str) -> None:
    """Whether one of the few keys that say what the model is holds what it has to; null is as good as nothing."""
    value = fields.get(key)
    if value is None:
        return
    if key == "architectures":
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise InputError(file, key, f"expected a list of class names, found {_kind(value)}")
    elif key == "model_type":
        if not isinstance(value, str):
            raise InputError(file, key, f"expected text in quotes, found {_kind(value)}")
    elif not isinstance(value, dict):
        raise InputError(file, key, f"expected an object, found {_kind(value)}")


def _language_model(fields: Mapping[str, Any], file: str) -> tuple[Mapping[str, Any], str]:
    """The part about the language model and where it stands; the whole document where there is no such part."""
    part, within = fields, ""
    for _ in range(_DEEPEST):
        name = next((name for name in _TEXT if part.get(name) is not None), None)
        if name is None:
            break
        where = _path(within, name)
        if not isinstance(part[name], dict):
            if name in _TEXT[-3:]:  # words that also name other things
                break
            raise InputError(file, where, f"expected an object, found {_kind(part[name])}")
        part, within = part[name], where
    return part, within


def _check_numbers(part: Mapping[str, Any], file: str, within: str) -> None:
    for key in (*_COUNTS, *_LENGTHS):
        value, least = part.get(key), -1 if key in _LENGTHS else 0
        if value is None or isinstance(value, dict):  # lxmert counts its layers by their kinds
            continue
        for number, one in enumerate(value) if isinstance(value, list) else [(None, value)]:
            where = _path(within, key) if number is None else f"{_path(within, key)}[{number}]"
            if one is None and number is not None:
                continue
            if type(one) is not int and not (least < 0 and type(one) is float and one.is_integer()):
                raise InputError(file, where, f"expected a whole number, found {_kind(one)}")
            if not least <= one < _MOST:
                raise InputError(file, where, f"{shown(one)} is no size that a model has")


def _dtype(part: Mapping[str, Any], file: str, within: str) -> str | None:
    for key in ("dtype", "torch_dtype"):
        value = part.get(key)
        if value is None or value == "auto":
            continue
        name = value.removeprefix("torch.") if isinstance(value, str) else ""
        if name not in _DTYPES:
            known = ", ".join(TORCH_NAMES)
            raise InputError(file, _path(within, key), f"expected one of {known}, found {_quoted(value)}")
        return _DTYPES[name]
    return None


def _quantization(
    fields: Mapping[str, Any], language: Mapping[str, Any], file: str, within: str
) -> Mapping[str, Any] | None:
    """With ``quant_method``, which early checkpoints of bitsandbytes left out."""
    found = fields.get("quantization_config")
    if found is None and within:
        found = language.get("quantization_config")
        if found is not None and not isinstance(found, dict):
            where = _path(within, "quantization_config")
            raise InputError(file, where, f"expected an object, found {_kind(found)}")
    if found is None:
        return None
    method = found.get("quant_method")
    if method is not None and not isinstance(method, str):
        raise InputError(file, "quantization_config.quant_method", f"expected text in quotes, found {_kind(method)}")
    if found.get("load_in_8bit") or found.get("load_in_4bit"):
        return {**found, "quant_method": "bitsandbytes"}
    # What a library writes that was told to quantize nothing.
    return found or None


def _path(within: str, key: str) -> str:
    return f"{within}.{key}" if within else key


def _quoted(value: object) -> str:
    return f'"{shown(value)}"' if isinstance(value, str) else _kind(value)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = ((bool, "true or false"), (str, "text"), (int, "a number"), (float, "a fraction"), (list, "a list"))
    return next((word for kind, word in kinds if isinstance(value, kind)), "an object")
