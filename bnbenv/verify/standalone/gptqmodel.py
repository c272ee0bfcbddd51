"""gptqmodel, through what it offers to transformers and Optimum."""

from __future__ import annotations

from typing import Any

import torch

from .gptq import GROUP, INPUTS, OUTPUTS, Quantized, Variant
from .target import Target


class GptqModel:
    """See ``gptq.Package``."""

    name = "gptqmodel"
    offset = 0  # in memory it keeps zero points as they are

    def __init__(self) -> None:
        from gptqmodel.nn_modules.qlinear import torch as plain

        self.plain = getattr(plain, "TorchLinear", None) or plain.TorchQuantLinear  # so called before 6

    def quantize(self, linear: Any, x: Any, variant: Variant) -> tuple[Any, Any, Any, Any]:
        from gptqmodel.quantization import GPTQ, QuantizeConfig

        wish = QuantizeConfig(bits=4, group_size=GROUP, sym=variant.sym, desc_act=variant.act_order)
        quantizer = GPTQ(linear, wish)
        # Before 6 these two, which are there for Optimum, go before what was wished.
        quantizer.quantizer.configure(perchannel=True, bits=4, sym=variant.sym)
        with torch.no_grad():
            quantizer.add_batch(x, linear(x))
        weight, scales, zeros, groups = quantizer.quantize()[:4]
        return weight, scales, zeros, groups

    def pack(self, quantized: Quantized, variant: Variant) -> Any:
        layer = self.plain(**shape(variant))
        layer.pack(quantized.linear, quantized.scales, quantized.zeros, quantized.groups)
        return layer

    def kernels(self, target: Target, variant: Variant) -> list[Any]:
        from gptqmodel.models._const import DEVICE
        from gptqmodel.utils.importer import select_quant_linear

        return list(
            select_quant_linear(
                bits=4,
                group_size=GROUP,
                desc_act=variant.act_order,
                sym=variant.sym,
                device=DEVICE.CUDA if target.cuda else DEVICE.CPU,
                pack=False,
                pack_dtype=torch.int32,
                multi_select=True,
            )
        )

    def make(self, kernel: Any, layer: Any, target: Target, variant: Variant, dtype: Any) -> Any:
        from gptqmodel.quantization import QuantizeConfig
        from gptqmodel.utils.model import hf_gptqmodel_post_init

        made = kernel(**shape(variant), dtype=dtype)
        state = {name: value.detach().clone() for name, value in layer.state_dict().items()}
        if not keeps_zero_points(kernel):
            state["qzeros"] -= 0x11111111  # eight zero points a word
        made.load_state_dict(state)
        box = torch.nn.ModuleDict({"layer": made.eval().to(target.device)})
        wish = QuantizeConfig(bits=4, group_size=GROUP, sym=variant.sym, desc_act=variant.act_order)
        hf_gptqmodel_post_init(box, use_act_order=variant.act_order, quantize_config=wish)
        return box["layer"]

    def dtypes(self, kernel: Any, target: Target) -> tuple[Any, ...]:
        known = getattr(kernel, "SUPPORTS_DTYPES", (torch.float16,))
        old = target.cuda and (target.capability or (0, 0)) < (8, 0)
        return tuple(one for one in (torch.float16, torch.bfloat16) if one in known and not (old and one != known[0]))


def keeps_zero_points(kernel: Any) -> bool:
    """Whether a kernel wants zero points as they are. Others want those of files, less one; early ones do not say."""
    known: bool | None = getattr(kernel, "REQUIRES_FORMAT_V2", None)
    return known if known is not None else not kernel.__name__.startswith(("Marlin", "ExllamaEora"))


def shape(variant: Variant) -> dict[str, Any]:
    return {
        "bits": 4,
        "group_size": GROUP,
        "sym": variant.sym,
        "desc_act": variant.act_order,
        "in_features": INPUTS,
        "out_features": OUTPUTS,
        "bias": True,
        "pack_dtype": torch.int32,
    }
