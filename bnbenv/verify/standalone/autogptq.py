"""auto-gptq, whose last release is 0.7.1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .gptq import GROUP, INPUTS, OUTPUTS, Quantized, Variant
from .target import Target


class AutoGptq:
    """See ``gptq.Package``."""

    name = "auto-gptq"
    offset = 1

    def quantize(self, linear: Any, x: Any, variant: Variant) -> tuple[Any, Any, Any, Any]:
        from auto_gptq.quantization import GPTQ

        quantizer = GPTQ(linear)
        quantizer.quantizer.configure(4, perchannel=True, sym=variant.sym, mse=False)
        with torch.no_grad():
            quantizer.add_batch(x, linear(x))
        # It waits for the GPU before it tells how long it took, and on a CPU that raises an error.
        wait = torch.cuda.synchronize
        if not x.is_cuda:
            torch.cuda.synchronize = _nothing
        try:
            scales, zeros, groups = quantizer.fasterquant(group_size=GROUP, actorder=variant.act_order)
        finally:
            torch.cuda.synchronize = wait
        return linear.weight.data, scales, zeros, groups

    def pack(self, quantized: Quantized, variant: Variant) -> Any:
        layer = self._plain(variant)(4, GROUP, INPUTS, OUTPUTS, True)
        # It subtracts one from the zero points that it is given, in place.
        layer.pack(quantized.linear, quantized.scales, quantized.zeros.clone(), quantized.groups)
        layer.register_buffer("g_idx", quantized.groups.clone())
        return layer

    def kernels(self, target: Target, variant: Variant) -> list[Any]:
        from auto_gptq.utils.import_utils import dynamically_import_QuantLinear

        plain = self._plain(variant)
        if not target.cuda:
            return [plain]
        best = dynamically_import_QuantLinear(False, variant.act_order, GROUP, 4)
        return [best] if best is plain else [best, plain]

    def make(self, kernel: Any, layer: Any, target: Target, variant: Variant, dtype: Any) -> Any:
        from auto_gptq.modeling._utils import autogptq_post_init

        made = kernel(4, GROUP, INPUTS, OUTPUTS, True)
        made.load_state_dict({name: value.detach().clone() for name, value in layer.state_dict().items()})
        box = torch.nn.ModuleDict({"layer": made.eval().to(target.device)})
        return autogptq_post_init(box, use_act_order=variant.act_order)["layer"]

    def dtypes(self, kernel: Any, target: Target) -> tuple[Any, ...]:
        return (torch.float16,)

    def _plain(self, variant: Variant) -> Any:
        """The layer that decodes in plain torch where its own kernels are not there."""
        if variant.act_order:
            from auto_gptq.nn_modules.qlinear.qlinear_cuda import QuantLinear
        else:
            from auto_gptq.nn_modules.qlinear.qlinear_cuda_old import QuantLinear
        return QuantLinear


_nothing: Callable[..., None] = lambda *args: None  # noqa: E731
