"""Padding-free attention over concatenated rows, by torch's own kernels or by FlashAttention 4.

It is registered with transformers' own interface under a name that contains "flash". For such names, its models pass
on where rows and images begin (``cu_seq_lens_q``) instead of a mask, and don't loop over images.

FlashAttention 4 comes as the package flash-attn-4. It becomes an operator of torch here, so that layers that use it can
be compiled in one piece: torch's own switch, ``activate_flash_attention_impl``, would replace the kernels of the whole
process, and torch 2.11's does not know what that package returns now.

References:
    flash_attn/cute/interface.py of flash-attn-4 4.0.0b36 (github.com/Dao-AILab/flash-attention).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "swiftalign_flash"
# Sizes of heads that were tried with FlashAttention 4 -> whether its gradients are right (benchmarks/attention.py).
FLASH4_HEADS = {64: True, 72: False, 128: True, 256: True}


def use_padding_free_attention(model: nn.Module, *, flash4: bool = False) -> None:
    """Make a model and its parts use `attention`.

    Args:
        flash4: whether rows attend by FlashAttention 4, on a GPU and in 16 bits.
    """
    AttentionInterface.register(NAME, partial(attention, flash4=flash4))
    AttentionMaskInterface.register(NAME, sdpa_mask)  # for generation, whose rows are padded
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            # `set_attn_implementation` would look for a flash-attn package of this name.
            part.config._attn_implementation_internal = NAME


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    flash4: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each row; with a mask or a cache, as transformers' ``sdpa`` does.

    Args:
        query: [1, heads, tokens, head_dim].
        key: [1, key heads, tokens, head_dim]; the number of key heads divides that of heads.
        value: [1, key heads, tokens, head_dim].
        cu_seq_lens_q: the token at which each row begins, and the number of tokens: [rows + 1], int32.
        max_length_q: number of tokens in the longest row.
        flash4: whether rows attend by FlashAttention 4, on a GPU and in 16 bits.

    Returns:
        [1, tokens, heads, head_dim].
    """
    if cu_seq_lens_q is None or max_length_q is None:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
        return out, None
    if query.is_cuda and torch.is_autocast_enabled("cuda"):  # norms with float32 weights return float32
        query, key, value = (heads.to(torch.get_autocast_dtype("cuda")) for heads in (query, key, value))
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    starts, longest = cu_seq_lens_q, max_length_q
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and not dropout:
        query, key, value = (heads.squeeze(0).transpose(0, 1) for heads in (query, key, value))
        size = query.shape[-1]
        if flash4 and size in FLASH4_HEADS and (FLASH4_HEADS[size] or not query.requires_grad):
            scale = size**-0.5 if scaling is None else scaling
            return flash4_forward(query, key, value, starts, longest, scale, causal)[0].unsqueeze(0), None
        # The operator behind `torch.nn.attention.varlen_attn`, whose earlier releases refuse grouped key heads.
        out = torch.ops.aten._flash_attention_forward(
            query, key, value, starts, starts, longest, longest, 0.0, causal, False, scale=scaling
        )[0]
        return out.unsqueeze(0), None
    lengths, grouped = starts.diff().tolist(), query.shape[1] != key.shape[1]
    rows = zip(*(torch.split(heads, lengths, dim=2) for heads in (query, key, value)), strict=True)
    attended = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal, scale=scaling, enable_gqa=grouped)
        for q, k, v in rows
    ]
    return torch.cat(attended, dim=2).transpose(1, 2), None


@torch.library.custom_op("swiftalign::flash4", mutates_args=())
def flash4_forward(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention within each row by FlashAttention 4, with its gradients.

    Args:
        query: [tokens, heads, head_dim], in 16 bits.
        key: [tokens, key heads, head_dim].
        value: [tokens, key heads, head_dim].
        starts: the token at which each row begins, and the number of tokens: [rows + 1], int32.
        longest: number of tokens in the longest row.

    Returns:
        [tokens, heads, head_dim], and the logarithms of the sums of the weights [heads, tokens], in float32.
    """
    from flash_attn.cute.interface import _flash_attn_fwd

    out, sums = _flash4_results(query)
    rows = {"cu_seqlens_q": starts, "cu_seqlens_k": starts, "max_seqlen_q": longest, "max_seqlen_k": longest}
    _flash_attn_fwd(query, key, value, **rows, softmax_scale=scale, causal=causal, return_lse=True, out=out, lse=sums)
    return out, sums


@flash4_forward.register_fake
def _flash4_results(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    tokens, heads, _size = query.shape
    return query.new_empty(query.shape), query.new_empty(heads, tokens, dtype=torch.float32)


@torch.library.custom_op("swiftalign::flash4_backward", mutates_args=())
def flash4_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    starts: Tensor,
    longest: int,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value, from that of `flash4_forward`'s result."""
    from flash_attn.cute.interface import _flash_attn_bwd

    found: tuple[Tensor, Tensor, Tensor] = _flash4_gradients(gradient, query, key, value)
    rows = {"cu_seqlens_q": starts, "cu_seqlens_k": starts, "max_seqlen_q": longest, "max_seqlen_k": longest}
    _flash_attn_bwd(
        *(query, key, value, out, gradient.contiguous(), sums),
        **rows,
        softmax_scale=scale,
        causal=causal,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        **dict(zip(("dq", "dk", "dv"), found, strict=True)),
    )
    return found


@flash4_backward.register_fake
def _flash4_gradients(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, starts, *ctx.settings = inputs
    ctx.save_for_backward(query, key, value, *output, starts)


def _differentiate(ctx: Any, gradient: Tensor, of_sums: Tensor | None) -> tuple[Tensor | None, ...]:
    return *flash4_backward(gradient, *ctx.saved_tensors, *ctx.settings), None, None, None, None


flash4_forward.register_autograd(_differentiate, setup_context=_keep)
