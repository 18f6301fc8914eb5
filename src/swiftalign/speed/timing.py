"""How long a step takes: the counted operations at the card's rate, and the bytes that pass through its memory."""

from __future__ import annotations

from collections.abc import Sequence

from swiftalign.speed.cards import Card
from swiftalign.speed.memory import How
from swiftalign.speed.work import Row, Sizes, Trained, count, padded

# Of the rate of a large product, what each part reaches, measured on an H100 (benchmarks/RESULTS.md).
_PRODUCTS, _ATTENTION = 0.94, 0.24
_FP8_GAIN = 1.83  # of the LLM's products
# Elementwise traffic of plain and of Liger's kernels, relative to compiled ones.
_MORE_TRAFFIC = {"compiled": 1.0, "liger": 2.3, "plain": 5.0}
_BATCH_SECONDS = 0.05  # what the CPU makes the card wait for
# What the CPU needs to start the kernels of a layer of the LLM, forward and backward: small batches wait for it.
_STARTS = {"compiled": 0.002, "liger": 0.0045, "plain": 0.0045}
_FORWARD = 0.3  # of that
_COMPILE_SECONDS = 35.0


def batch_seconds(sizes: Sizes, trained: Trained, card: Card, rows: Sequence[Row], how: How) -> float | None:
    """Seconds of one batch, forward and backward; None where the card's rates are not known."""
    if card.rate is None or card.bandwidth is None:
        return None
    rows = list(rows) if how.padding_free else padded(rows)
    work = count(sizes, trained, rows, checkpointing=how.checkpointing)
    llm = work.llm / (_FP8_GAIN if how.fp8 else 1.0)
    products = (llm + work.head + work.vit + work.aligner) / (card.rate * _PRODUCTS)
    attention = (work.llm_attention + work.vit_attention) / (card.rate * _ATTENTION)
    tokens, patches = sum(row.tokens for row in rows), sum(sum(row.patches) for row in rows)
    llm_elements = 8 * sizes.inner + 24 * sizes.width + 12 * (sizes.queries + sizes.keys)
    vit_elements = 2 * sizes.vit_inner + 24 * sizes.vit_width
    elements = tokens * sizes.layers * llm_elements * (1.4 if how.checkpointing else 1.0)
    elements += patches * sizes.vit_layers * vit_elements
    traffic = 2 * elements * _MORE_TRAFFIC[how.kernels] / card.bandwidth
    layers = sizes.layers * (1 + _FORWARD * how.checkpointing) + sizes.vit_layers * (1 if trained.vit else _FORWARD)
    return max(products + attention + traffic, layers * _STARTS[how.kernels]) + _BATCH_SECONDS


def pays_back(saved_a_batch: float, batches: int) -> bool:
    """Whether compiling, which takes its time once, makes a run shorter."""
    return saved_a_batch * batches > _COMPILE_SECONDS
