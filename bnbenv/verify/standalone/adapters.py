"""Training as users of peft do it: LoRA adapters on frozen layers of 4 and of 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from .huggingface import cause_of
from .measures import matrix
from .models import Loaded, Models, words
from .protocol import Broken, Step, describe

RANK, ALPHA, STEPS = 8, 16, 12
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GRADIENT_4BIT = (0.05, "in norm: roundings to 16 bits, through both layers of the model and back")
GRADIENT_8BIT = (0.15, "in norm: int8 rounds the activations of each product by 0.7%, which adds up to 0.06")
GRADIENT_8BIT_CPU = (1e-3, "in norm: on a CPU an 8-bit layer is trained in float32")
LOSS = (0.02, "of the loss: the logits err by as much")
FALL = (0.5, "of the first: it must fall")


def lora(step: Step, models: Models, peft: ModuleType, kind: str) -> None:
    """Gradients of every adapter against the plain model's, then some steps: the loss falls, nothing else changes."""
    loaded = models.load(kind)
    model = adapted(loaded, peft)
    tokens = models.tokens(2, 24, 167)
    adapters = dict(adapters_of(model))
    exact = {name: value.detach().cpu().double().requires_grad_() for name, value in adapters.items()}
    frozen = {name: value.detach().clone() for name, value in frozen_of(model, loaded)}

    def loss() -> Any:
        return model(input_ids=tokens, labels=tokens).loss

    first = loss()
    first.backward()
    expected = plain_loss(loaded, exact, tokens.cpu())
    expected.backward()
    gradient = GRADIENT_4BIT if kind == "4bit" else GRADIENT_8BIT if models.target.cuda else GRADIENT_8BIT_CPU
    step.check("loss", (first.detach().cpu().double() - expected.detach()).abs() / expected.detach(), *LOSS)
    for name, value in adapters.items():
        if value.grad is None:
            raise Broken(f"the adapter {name} gets no gradient")
        wanted = exact[name].grad
        error = (value.grad.cpu().double() - wanted).norm() / wanted.norm()
        step.check(f"gradient of {name}", error, *gradient)
    last = train(list(adapters.values()), loss)
    step.check(f"loss after {STEPS} steps", last / float(first.detach()), *FALL)
    changed = [name for name, value in frozen_of(model, loaded) if not torch.equal(frozen[name], value.detach())]
    if changed:
        raise Broken(f"training changed what is frozen: {changed[0]}")


def adapted(loaded: Loaded, peft: ModuleType) -> Any:
    """The model with adapters on every quantized layer, as peft's guide to quantized training makes it."""
    try:
        model = peft.prepare_model_for_kbit_training(loaded.model)
        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MODULES, task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, config).train()
    except Exception as error:
        text = describe(cause_of(error))
        raise Broken(f"peft {peft.__version__} cannot adapt a model in {words(loaded.kind)}: {text}") from error
    named = adapters_of(model)
    if len(named) != 2 * len(loaded.layers):
        raise Broken(f"peft made {len(named)} adapter weights for {len(loaded.layers)} layers, not two for each")
    with torch.no_grad():  # peft starts with B = 0, with which A would get no gradient
        for number, (name, value) in enumerate(named):
            rows, columns = value.shape
            start = matrix(rows, columns, 173 + number) / columns**0.5
            value.copy_(start / 4 if "lora_B" in name else start)
    return model


def adapters_of(model: Any) -> list[tuple[str, Any]]:
    """What is trained, as ``model.layers.0.self_attn.q_proj.lora_A``. Raises Broken where that is anything else."""
    found = []
    for name, value in model.named_parameters():
        if not value.requires_grad:
            continue
        layer, marker, rest = name.partition(".lora_")
        if not marker:
            raise Broken(f"peft trains {name}, which is no adapter")
        found.append((f"{layer.replace('base_model.model.', '', 1)}.lora_{rest[0]}", value))
    return found


def frozen_of(model: Any, loaded: Loaded) -> list[tuple[str, Any]]:
    """Everything that must stay: parameters, and the scales of the 4-bit ones."""
    found = [(name, value) for name, value in model.named_parameters() if not value.requires_grad]
    if loaded.kind == "4bit":
        found += [(f"scales of {name}", layer.weight.quant_state.absmax) for name, layer in loaded.layers.items()]
    return found


def plain_loss(loaded: Loaded, adapters: dict[str, Any], tokens: Any) -> Any:
    """The loss of the plain model in float64 with the adapters multiplied out: W + B A alpha / rank."""
    weights = dict(loaded.decoded)
    for name in loaded.layers:
        a, b = adapters[f"{name}.lora_A"], adapters[f"{name}.lora_B"]
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + b @ a * (ALPHA / RANK)
    plain = loaded.models.plain({})
    logits = torch.func.functional_call(plain, weights, kwargs={"input_ids": tokens}).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def train(adapters: list[Any], loss: Callable[[], Any]) -> float:
    """Some steps, the first with the gradients that are there; returns the loss after the last."""
    optimizer = torch.optim.AdamW(adapters, lr=5e-3)
    for _ in range(STEPS):
        optimizer.step()
        optimizer.zero_grad()
        last = loss()
        last.backward()
    return float(last.detach())
