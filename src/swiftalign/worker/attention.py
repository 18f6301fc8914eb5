"""Padding-free attention over concatenated rows, in torch only.

It is registered with transformers' own interface under a name that contains "flash". For such names, its models pass
on where rows and images begin (``cu_seq_lens_q``) instead of a mask, and don't loop over images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "swiftalign_flash"


def use_padding_free_attention(model: nn.Module) -> None:
    """Make a model and its parts use `attention`."""
    AttentionInterface.register(NAME, attention)
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
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each row; with a mask or a cache, as transformers' ``sdpa`` does.

    Args:
        query: [1, heads, tokens, head_dim].
        key: [1, key heads, tokens, head_dim]; the number of key heads divides that of heads.
        value: [1, key heads, tokens, head_dim].
        cu_seq_lens_q: the token at which each row begins, and the number of tokens: [rows + 1], int32.
        max_length_q: number of tokens in the longest row.

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
