"""How much of a GPU's memory a batch takes, by what has to be kept until the backward pass.

The model is counted from the plan and the sizes of the model. What is kept of each token follows from what autograd
needs where weights are frozen: no layer's input, only the operands of norms, attention and activations.
`benchmarks/RESULTS.md` holds the predictions beside peaks measured on an H100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from swiftalign.methods import METHODS
from swiftalign.speed.cards import GIB
from swiftalign.speed.work import Row, Sizes, Trained, padded

Kernels = Literal["plain", "liger", "compiled"]

# CUDA's own context and libraries, and what the allocator can't use for fragments: not for tensors.
CONTEXT = int(0.9 * GIB)
SAFETY = 0.04  # of the card

_HALF, _FLOAT = 2, 4
# The kept elements of a token and layer in plain and in Liger's kernels, relative to compiled ones.
_MORE_KEPT = {"compiled": 1.0, "liger": 1.17, "plain": 1.48}


@dataclass(frozen=True)
class How:
    """How a batch runs.

    Attributes:
        checkpointing: the LLM's layers keep their input alone, and run again.
        padding_free: rows lie in a line; otherwise each is as long as the longest.
        fp8: the LLM's frozen matrices are in FP8.
    """

    checkpointing: bool
    padding_free: bool
    kernels: Kernels
    fp8: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a step.

    Attributes:
        weights: of the whole model, with peft's copies.
        training: gradients and optimizer state.
        activations: what is kept until the backward pass.
        working: what comes and goes.
    """

    weights: int
    training: int
    activations: int
    working: int

    @property
    def peak(self) -> int:
        return self.weights + self.training + self.activations + self.working


def predict(
    sizes: Sizes,
    trained: Trained,
    parameters: int,
    rows: Sequence[Row],
    how: How,
    *,
    half: bool = True,
    shards: int = 1,
) -> Memory:
    """The peak of a batch on one GPU.

    Args:
        parameters: of the base model.
        half: the base is in bfloat16 or float16.
        shards: GPUs that share the weights (ZeRO-3); an estimate.
    """
    element = _HALF if half else _FLOAT
    rows = list(rows) if how.padding_free else padded(rows)
    tokens, labels = sum(row.tokens for row in rows), sum(row.labels for row in rows)
    patches = sum(count for row in rows for count in row.patches)
    trained_bytes = trained.float32 * _FLOAT + (trained.numel - trained.float32) * element
    own = trained_bytes if trained.method != "full" else trained.float32 * (_FLOAT - element)
    weights = parameters * element + own
    training = 3 * trained_bytes  # gradients, and Adam's two averages
    kept: float = tokens * _kept_of_llm(sizes, trained, how) * element
    kept += patches // sizes.merge * _kept_of_aligner(sizes, trained) * element
    if trained.vit:
        kept += patches * sizes.vit_layers * (10 * sizes.vit_width + 3 * sizes.vit_inner) * element
    kept += METHODS[trained.method].dense_copies * trained.adapted_numel * element
    # Logits, and in float32 the loss's softmax, its gradient, and that of what went into it.
    layer: float = tokens * (3 * sizes.inner + 4 * sizes.width) * element
    if how.checkpointing:  # its activations, computed again
        layer += tokens * _kept_of_layer(sizes, trained, how) * element
    # Logits, and in float32 the loss's softmax, its gradient, and that of what went into it: gone when layers begin.
    working = max(layer, labels * sizes.vocabulary * (element + 3 * _FLOAT))
    # The ViT keeps nothing, and is over when the LLM begins; it counts only where it takes more.
    vit = patches * (6 * sizes.vit_width + sizes.vit_inner) * _FLOAT
    return Memory(
        weights // shards,
        training // shards,
        int(max(kept, 0)),
        int(max(working, vit - kept)) + trained.numel * element,
    )


def _kept_of_llm(sizes: Sizes, trained: Trained, how: How) -> float:
    return sizes.layers * (sizes.width if how.checkpointing else _kept_of_layer(sizes, trained, how))


def _kept_of_layer(sizes: Sizes, trained: Trained, how: How) -> float:
    """Elements of a token: the inputs of both norms, queries and keys before and after theirs, values, the attention's
    result with its sums, and both halves of the gated product."""
    own = 2 * sizes.width + 2 * (sizes.queries + sizes.keys) + sizes.keys + sizes.queries + 2 * sizes.inner
    kept = own * _MORE_KEPT[how.kernels]
    if trained.llm:  # the inputs of layers with weights of their own
        kept += 2 * sizes.width + sizes.queries + sizes.inner
    return kept


def _kept_of_aligner(sizes: Sizes, trained: Trained) -> float:
    """Elements of a visual token: norm, first layer and activation, before and after."""
    return 5 * sizes.mergers * sizes.merged + 2 * sizes.mergers * sizes.width if trained.aligner or trained.vit else 0
