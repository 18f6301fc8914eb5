"""Frozen matrices in FP8: the products of the forward and the backward pass have e4m3 operands.

A frozen layer needs no gradient of its weight, so it multiplies only by the weight and by the transposed weight. Both
are kept in FP8, with a scale per output; together they take as much memory as the weight in bfloat16. Activations and
their gradients get a scale per token in each pass.

References:
    Micikevicius et al., "FP8 Formats for Deep Learning", 2022 (arXiv:2209.05433).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def quantize_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix as e4m3 and float32 scales.

    Args:
        matrix: [rows, columns].

    Returns:
        The matrix in e4m3 [rows, columns] and scales [rows, 1]: their product is nearly the given matrix.
    """
    # Literal numbers: module constants would be compiled as variables, which autograd functions can't have.
    scale = matrix.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / 448.0  # the largest number in e4m3
    return (matrix.float() / scale).to(torch.float8_e4m3fn), scale


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, transposed: Tensor, its_scale: Tensor) -> Tensor:
        ctx.save_for_backward(transposed, its_scale)
        return _scaled_product(x, weight, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale = ctx.saved_tensors
        return _scaled_product(gradient, weight, scale), None, None, None, None


def _scaled_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    rows, row_scale = quantize_rows(x)
    return torch._scaled_mm(
        rows, weight.t(), scale_a=row_scale, scale_b=scale, out_dtype=torch.bfloat16, use_fast_accum=True
    )


class Fp8Linear(nn.Module):
    """A frozen ``nn.Linear`` without bias, in FP8."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        for name, matrix in (("weight", layer.weight), ("transposed", layer.weight.t().contiguous())):
            quantized, scale = quantize_rows(matrix.detach())
            self.register_buffer(name, quantized, persistent=False)
            self.register_buffer(f"{name}_scale", scale.t().contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs], in bfloat16."""
        flat = x.reshape(-1, x.shape[-1])
        out: Tensor = _Product.apply(flat, self.weight, self.weight_scale, self.transposed, self.transposed_scale)
        return out.view(*x.shape[:-1], -1)


def freeze_in_fp8(layers: Iterable[nn.Module]) -> int:
    """Replace the frozen matrices inside these layers; returns the number of replaced matrices.

    What trains is not replaced, nor is a matrix with a bias or with a side that is not a multiple of 16.
    """
    replaced = 0
    for layer in layers:
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is not nn.Linear or child.bias is not None or child.weight.requires_grad:
                    continue
                if not any(side % 16 for side in child.weight.shape):  # torch's scaled product requires multiples of it
                    setattr(parent, name, Fp8Linear(child))
                    replaced += 1
    return replaced
