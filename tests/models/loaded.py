"""Run by the Python of an environment with transformers: what from_pretrained in 4 bit gives, as JSON.

``python loaded.py FOLDER NAME ...`` prints, for each checkpoint, its parameters and buffers as
[name, elements as loaded in 16 bit, whether bitsandbytes converted it, bytes of an element where it was not].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bitsandbytes
import torch
import transformers as hf

hf.utils.logging.set_verbosity_error()
found = {"transformers": hf.__version__}
for name in sys.argv[2:]:
    wanted = hf.BitsAndBytesConfig(load_in_4bit=True)
    model = hf.AutoModelForCausalLM.from_pretrained(
        Path(sys.argv[1]) / name, quantization_config=wanted, torch_dtype=torch.bfloat16, device_map="cpu"
    )
    rows = []
    for key, value in (*model.named_parameters(), *model.named_buffers()):
        converted = isinstance(value, bitsandbytes.nn.Params4bit)
        elements = value.quant_state.shape.numel() if converted else value.numel()
        rows.append([key, elements, converted, None if converted else value.element_size()])
    found[name] = sorted(rows)
print(json.dumps(found))
