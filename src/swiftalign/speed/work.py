"""Counting what a batch costs: tokens, patches, and the operations in each part of the model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from swiftalign.model.family import Sizes
from swiftalign.model.tree import Component


@dataclass(frozen=True)
class Row:
    """The size of a row as the model sees it.

    Attributes:
        tokens: number of tokens, of text and of images.
        patches: number of patches of each image; four patches make a visual token.
        labels: number of tokens to learn.
    """

    tokens: int
    patches: tuple[int, ...]
    labels: int


# Where no data is given: a 1024x768 image, and a few boxes.
ASSUMED = Row(1115, (3072,), 150)


@dataclass(frozen=True)
class Trained:
    """What decides how far back gradients run in a model, and how much memory they need.

    Attributes:
        parts: the components in which something trains.
        numel: number of parameters that train.
        float32: number of parameters that train in float32.
        adapted_numel: number of parameters in the layers that carry an adapter.
        method: the tuning method.
    """

    parts: Collection[Component]
    numel: int
    float32: int
    adapted_numel: int
    method: str


@dataclass(frozen=True)
class Work:
    """Operations of one batch, forward and backward, per part of the model.

    Attributes:
        llm: matrix products of the LLM's layers.
        head: matrix products of the vocabulary head.
        vit: matrix products of the ViT.
        aligner: matrix products of the aligner.
        llm_attention: attention itself in the LLM.
        linear_attention: linear attention in the LLM, from the convolution's result on.
        vit_attention: attention itself in the ViT.
    """

    llm: float
    head: float
    vit: float
    aligner: float
    llm_attention: float
    linear_attention: float
    vit_attention: float


# Operations per weight and token of a product: forward, its gradient by the input, and its gradient by the weight.
_FORWARD = _BY_INPUT = _BY_WEIGHT = 2
# Attention has two products forward, and five backward, one of which computes the scores again.
_ATTENTION_FORWARD, _ATTENTION_BACKWARD = 4, 10
# Operations of linear attention per token and element of its memory, in chunks of 64 tokens and with heads of 128 (see
# `worker.linear_attention`): the products of its forward pass, which runs again before the backward pass, and twice as
# many there.
_STATE_FORWARD, _STATE_BACKWARD = 16, 48


def count(sizes: Sizes, trained: Trained, rows: Sequence[Row], *, checkpointing: bool = False) -> Work:
    """The operations of a batch, with each row as long as it is given here.

    Args:
        checkpointing: whether the LLM's layers run forward a second time.
    """
    tokens, labels = sum(row.tokens for row in rows), sum(row.labels for row in rows)
    patches = [count for row in rows for count in row.patches]
    again = _FORWARD if checkpointing else 0
    llm = _FORWARD + again + _BY_INPUT + (_BY_WEIGHT if trained.method == "full" and "llm" in trained.parts else 0)
    vit = _FORWARD + (_BY_INPUT + _BY_WEIGHT if "vit" in trained.parts else 0)
    pairs = sum(row.tokens**2 for row in rows) / 2  # each token sees those before it
    passes = 2 if checkpointing else 1
    attention = _ATTENTION_FORWARD * passes + _ATTENTION_BACKWARD
    state = (_STATE_FORWARD * passes + _STATE_BACKWARD) * sizes.state * tokens
    vit_attention = _ATTENTION_FORWARD + (_ATTENTION_BACKWARD if "vit" in trained.parts else 0)
    seen = (sizes.vit_layers - sizes.window_layers) * sum(count**2 for count in patches)
    seen += sizes.window_layers * sum(count * min(count, sizes.window) for count in patches)
    return Work(
        llm=llm * sizes.matrix * tokens,
        head=(_FORWARD + _BY_INPUT) * sizes.vocabulary * sizes.width * labels,
        vit=vit * sizes.vit_matrix * sum(patches),
        aligner=(_FORWARD + _BY_INPUT + _BY_WEIGHT) * sizes.aligner_matrix * (sum(patches) / sizes.merge),
        llm_attention=attention * sizes.attention_layers * sizes.queries * pairs,
        linear_attention=state,
        vit_attention=vit_attention * sizes.vit_width * seen,
    )


def padded(rows: Sequence[Row]) -> list[Row]:
    """The rows of a batch with padding: each is as long as the longest.

    ms-swift computes the logits of every position from the beginning of the earliest answer in the batch.
    """
    longest, first = max(row.tokens for row in rows), min(row.tokens - row.labels for row in rows)
    return [Row(longest, row.patches, longest - first) for row in rows]
