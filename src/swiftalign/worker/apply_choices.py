"""Applying a run's `Choices` to the live model and trainer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from swiftalign.model.families import find
from swiftalign.model.family import Family
from swiftalign.plan.plan import TuningPlan
from swiftalign.speed.choices import Choices
from swiftalign.worker.attention import use_padding_free_attention
from swiftalign.worker.fp8 import freeze_in_fp8
from swiftalign.worker.linear_attention import reset_at_rows

_SUMMED = "grouped_mm_summed"  # a way of experts, beside transformers' own


def speed_up_model(model: nn.Module, plan: TuningPlan, choices: Choices, *, tf32: bool | None = None) -> None:
    """Apply the choices of attention and matrices to a model, once it is known what of it trains.

    The backward pass is stopped at a frozen ViT: with gradient checkpointing, ms-swift asks for gradients of the ViT's
    patches, so that its activations would be kept and its backward pass would run for nothing.

    Args:
        tf32: the run's argument of that name.
    """
    llm, vit = (find(plan.model_type) or Family).stacks  # an unknown family may have the usual names
    if not any(item.component == "vit" for item in plan.trainables):
        for name, blocks in model.named_modules():
            if name.endswith(vit) and isinstance(blocks, nn.ModuleList):
                blocks[0].register_forward_pre_hook(lambda block, args: (args[0].detach(), *args[1:]))
    for part in model.modules():
        if isinstance(part, nn.Conv3d) and part.weight.is_cuda and _embeds_patches(part):
            part.forward = partial(embed_patches, part)  # type: ignore[method-assign]
    if choices.padding_free:
        use_padding_free_attention(model, flash4=choices.attention == "flash4")
        reset_at_rows(model, tf32)
    if choices.frozen_fp8:
        freeze_in_fp8(_frozen_layers(model, llm))


def speed_up_trainer(trainer: Any, plan: TuningPlan, choices: Choices) -> None:
    """Compile the frozen layers one by one: layers of the same kind share the code of the first.

    One graph of the whole model takes minutes to compile, and breaks where deepstack features are added. Evaluation is
    not compiled, since its shapes and its cache would be compiled anew.
    """
    if choices.kernels != "compiled":
        return
    # The compiler knows this function by its identity, and ms-swift has put another one in its place: layers would fall
    # into pieces where they call it. Transformers' layers keep ms-swift's.
    torch.utils.checkpoint.checkpoint = getattr(torch.utils.checkpoint, "_old_checkpoint", checkpoint)
    for stack in (find(plan.model_type) or Family).stacks:
        for layer in _frozen_layers(trainer.model, stack):
            # Not the layer itself: what is called before and after it, e.g. to gather weights, can't be compiled.
            layer.forward = torch.compile(layer.forward, dynamic=True)
    for part in trainer.model.modules():
        if hasattr(part, "_apply_gate") and part.config._experts_implementation == "grouped_mm":  # experts
            part.config._experts_implementation = _SUMMED
    trainer.evaluate = torch.compiler.set_stance("force_eager")(trainer.evaluate)


def _frozen_layers(model: nn.Module, stack: str) -> Iterator[nn.Module]:
    """The layers of a stack, unless something in it trains."""
    for name, module in model.named_modules():
        if name.endswith(stack) and not any(weight.requires_grad for weight in module.parameters()):
            yield from module.children()


def _embeds_patches(layer: nn.Conv3d) -> bool:
    """Whether this is a frozen convolution whose steps are as large as its kernel."""
    plain = layer.kernel_size == layer.stride and not any(layer.padding) and layer.groups == 1
    return plain and not any(weight.requires_grad for weight in layer.parameters())


def embed_patches(layer: nn.Conv3d, patches: Tensor) -> Tensor:
    """What a convolution makes of patches as large as its kernel, by one product.

    cuDNN's convolution takes 2.8 ms on an H200 for 12,288 patches of Qwen3-VL, which is 15 TFLOP/s.

    Args:
        patches: [patches, channels, frames, height, width].

    Returns:
        [patches, outputs, 1, 1, 1].
    """
    out = nn.functional.linear(patches.flatten(1), layer.weight.flatten(1), layer.bias)
    return out.view(*out.shape, 1, 1, 1)


def sum_experts(experts: nn.Module, tokens: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
    """What the experts make of tokens, with gradients that are the same each time when it is compiled.

    transformers reads a token once for each of its experts. Compiled, the gradient of that reading adds up by atomic
    operations, in an order that no run repeats. Here each expert has a copy of the token, and the copies are added up.

    Args:
        experts: a layer's experts.
        tokens: [tokens, width].
        chosen: the experts of each token: [tokens, experts].
        shares: their weights in the sum: [tokens, experts].

    Returns:
        [tokens, width].
    """
    count, number = chosen.shape
    copies = tokens.unsqueeze(1).expand(-1, number, -1).reshape(count * number, -1)
    made: Tensor = grouped_mm_experts_forward(experts, copies, chosen.reshape(-1, 1), shares.reshape(-1, 1))
    return made.view(count, number, -1).sum(1)


# Not set on each layer: a forward pass of its own would be compiled anew for each of them.
ALL_EXPERTS_FUNCTIONS.register(_SUMMED, sum_experts)
