"""Runs in an environment with transformers: small random models, and what from_pretrained in 4 bit makes of them.

``python architecture_loads.py FOLDER CLASS ...`` prints the release, saves a checkpoint of each class in
FOLDER/CLASS, and prints a line of JSON for it: its parameters and buffers as [name, elements before quantization,
whether it was converted, bytes of an element where it was not].
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

SMALL = {
    **{"vocab_size": 320, "hidden_size": 64, "n_embd": 64, "d_model": 64, "intermediate_size": 96, "ffn_dim": 96},
    **{"num_hidden_layers": 3, "n_layer": 3, "n_layers": 3, "num_layers": 3, "num_attention_heads": 4, "n_head": 4},
    **{"n_heads": 4, "num_heads": 4, "num_key_value_heads": 2, "num_kv_heads": 2, "max_position_embeddings": 64},
    **{"n_positions": 64, "n_ctx": 64, "head_dim": 32, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4},
    **{"moe_intermediate_size": 48, "shared_expert_intermediate_size": 80, "num_experts_per_tok": 2, "n_group": 1},
    **{"topk_group": 1, "q_lora_rank": 24, "kv_lora_rank": 40, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8},
    **{"v_head_dim": 20, "word_embed_proj_dim": 64, "pad_token_id": 0, "rotary_dim": 8, "first_k_dense_replace": 1},
}


def made(name: str, folder: Path) -> list[list[Any]]:
    import bitsandbytes
    import torch
    import transformers

    model_class = getattr(transformers, name)
    known = set(model_class.config_class().to_dict())
    aliases = set(getattr(model_class.config_class, "attribute_map", {}))
    config = model_class.config_class(**{key: one for key, one in SMALL.items() if key in known - aliases})
    torch.manual_seed(1)
    model_class(config).to(torch.bfloat16).save_pretrained(folder / name)
    quantization = transformers.BitsAndBytesConfig(load_in_4bit=True)
    model = model_class.from_pretrained(
        folder / name, quantization_config=quantization, torch_dtype=torch.bfloat16, device_map="cpu"
    )
    rows: list[list[Any]] = []
    for key, value in (*model.named_parameters(), *model.named_buffers()):
        converted = isinstance(value, bitsandbytes.nn.Params4bit)
        elements = value.quant_state.shape.numel() if converted else value.numel()
        rows.append([key, elements, converted, None if converted else value.element_size()])
    return sorted(rows)


def main() -> int:
    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    print(f"release {transformers.__version__}", flush=True)
    for name in sys.argv[2:]:
        try:
            print(json.dumps({"class": name, "rows": made(name, Path(sys.argv[1]))}), flush=True)
        except Exception as error:
            print(json.dumps({"class": name, "said": f"{type(error).__name__}: {error}"[:200]}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
