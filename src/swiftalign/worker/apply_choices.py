"""Putting a run's `Choices` into effect on the live model and trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import nn

from swiftalign.speed.choices import Choices
from swiftalign.worker.attention import use_padding_free_attention
from swiftalign.worker.fp8 import freeze_in_fp8


def speed_up_model(model: nn.Module, choices: Choices) -> None:
    """Attention and matrices, once the model is loaded and what trains is known."""
    _end_backward_at_vit(model)
    if choices.padding_free:
        use_padding_free_attention(model)
    if choices.frozen_fp8:
        freeze_in_fp8(_frozen_layers(model, "language_model.layers"))


def speed_up_trainer(trainer: Any, choices: Choices) -> None:
    """Compile the frozen layers, one at a time: all of a kind share the code of the first.

    The whole model in one graph takes minutes, and breaks where deepstack features are added. Evaluation runs as it
    is written: its shapes and its cache would be compiled anew.
    """
    if choices.kernels != "compiled":
        return
    for stack in ("language_model.layers", "visual.blocks"):
        for layer in _frozen_layers(trainer.model, stack):
            layer.compile(dynamic=True)
    trainer.evaluate = _uncompiled(trainer.evaluate)


def _end_backward_at_vit(model: nn.Module) -> None:
    """Let no gradient into a ViT of which nothing trains.

    With gradient checkpointing ms-swift asks for gradients of the ViT's patches too, and its activations are kept, and
    its backward pass runs, for nothing.
    """
    for name, visual in model.named_modules():
        blocks = getattr(visual, "blocks", None)
        if name.endswith("visual") and isinstance(blocks, nn.ModuleList) and not _vit_trains(visual):
            blocks[0].register_forward_pre_hook(lambda block, args: (args[0].detach(), *args[1:]))


def _vit_trains(visual: nn.Module) -> bool:
    return any(weight.requires_grad for name, weight in visual.named_parameters() if "merger" not in name)


def _frozen_layers(model: nn.Module, stack: str) -> Iterator[nn.Module]:
    """The layers of a stack, by the end of its name, unless something in it trains."""
    for name, module in model.named_modules():
        if name.endswith(stack) and not any(weight.requires_grad for weight in module.parameters()):
            yield from module.children()


def _uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.compiler.set_stance("force_eager"):
            return function(*args, **kwargs)

    return run
