"""Quantized models run: each layer against its own input, the logits against the plain model, and generation."""

from __future__ import annotations

from typing import Any

import torch

from .measures import unit
from .models import Loaded, Models, words
from .products import int8_forward
from .protocol import Broken, Step

PROMPT, NEW_TOKENS = 24, 16
WEIGHT = {
    "4bit": (0.12, "in norm: NF4 in blocks of 64 errs by 0.09 on normal values"),
    "8bit": (0.02, "in norm: int8 with one scale a row errs by 0.007 on normal values"),
}
LAYER = {
    "4bit": (2.0, "units in the last place in norm: scales, terms and result rounded, each by half a unit at most"),
    "8bit": (10.0, "units in the last place in norm: of activations midway between two codes either may be taken"),
}
LOGITS = {
    "4bit": (0.05, "in norm: roundings to 16 bits, through both layers of the model"),
    "8bit": (0.1, "in norm: int8 rounds the activations of each product by 0.7%, which adds up to 0.04"),
}
CHOICE = (0.4, "standard deviations of the logits: where two tokens are nearly as good, either may be chosen")


def run(step: Step, models: Models, kind: str) -> None:
    """Load in ``kind``, run two rows of tokens; the weights, every layer and the logits are compared."""
    if kind == "8bit":
        models.target.need_int8()
    loaded = models.load(kind)
    for name, decoded in loaded.decoded.items():
        saved = models.weights[name]
        step.check(f"{name} against the saved one", (decoded - saved).norm() / saved.norm(), *WEIGHT[kind])
    tokens = models.tokens(2, PROMPT, 157)
    with torch.no_grad(), Watch(loaded) as watch:
        logits = loaded.model(input_ids=tokens).logits
    watch.check(step)
    expected = models.plain(loaded.decoded)(input_ids=tokens.cpu()).logits
    step.check("logits", distance(logits, expected), *LOGITS[kind])
    models.loaded[kind] = loaded


def generate(step: Step, models: Models) -> None:
    """Greedy generation, a token at a time from the cache, held against one pass of the plain model over the result."""
    for kind, loaded in models.loaded.items():
        prompt = models.tokens(1, PROMPT, 163)
        with Watch(loaded) as watch:
            result = loaded.model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
            )
        what = f"{words(kind)}: "
        watch.check(step, what)
        tokens = result.sequences.cpu()
        if tuple(tokens.shape) != (1, PROMPT + NEW_TOKENS) or not torch.equal(tokens[:, :PROMPT], prompt.cpu()):
            raise Broken(f"{what}{PROMPT} tokens and {NEW_TOKENS} new ones were due, there are {tuple(tokens.shape)}")
        expected = models.plain(loaded.decoded)(input_ids=tokens).logits[0, PROMPT - 1 : -1]
        scores = torch.cat(result.scores).cpu()
        step.check(f"{what}logits of the new tokens", distance(scores, expected), *LOGITS[kind])
        chosen = expected.gather(1, tokens[0, PROMPT:, None])[:, 0]
        gap = (expected.max(dim=1).values - chosen) / expected.std(dim=1)
        step.check(f"{what}the tokens chosen", gap.max(), *CHOICE)


def distance(result: Any, expected: Any) -> Any:
    """The error relative to what is expected, in norm."""
    return (result.detach().cpu().double() - expected).norm() / expected.norm()


class Watch:
    """Keeps what goes into each quantized layer and what comes out, and holds it against float64."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.seen: list[tuple[str, Any, Any]] = []
        self.handles: list[Any] = []

    def __enter__(self) -> Watch:
        for name, layer in self.loaded.layers.items():
            self.handles.append(layer.register_forward_hook(self.hook(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

    def hook(self, name: str) -> Any:
        def keep(layer: Any, arguments: tuple[Any, ...], output: Any) -> None:
            self.seen.append((name, arguments[0].detach().cpu(), output.detach().cpu()))

        return keep

    def check(self, step: Step, what: str = "") -> None:
        if {name for name, _, _ in self.seen} != set(self.loaded.layers):
            raise Broken(f"{what}some quantized layers of the model were never run")
        for name, x, result in self.seen:
            weight, rows = self.loaded.decoded[f"{name}.weight"], x.reshape(-1, x.shape[-1]).double()
            if self.loaded.kind == "4bit":
                expected = rows @ weight.t()
            else:
                scale = self.loaded.scale(name)
                expected = int8_forward(rows, (weight * 127 / scale[:, None]).round(), scale)
            error = distance(result.reshape(expected.shape), expected) / unit(result.dtype)
            step.check(f"{what}{name}", error, *LAYER[self.loaded.kind])
