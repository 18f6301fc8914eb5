"""What a batch costs, counted: tokens, patches, and the operations of each part of the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swiftalign.model.qwen3_vl import expert_count, is_sparse

if TYPE_CHECKING:
    from swiftalign.model.tree import Model
    from swiftalign.plan.plan import TuningPlan

COUNTED_TYPES = ("qwen3_vl", "qwen3_vl_moe")


@dataclass(frozen=True)
class Row:
    """A row as the model sees it.

    Attributes:
        tokens: of text and images.
        patches: of each image; four make a visual token.
        labels: tokens to learn.
    """

    tokens: int
    patches: tuple[int, ...]
    labels: int

    @property
    def asked(self) -> int:
        """Tokens before the answer."""
        return self.tokens - self.labels


# Where there are no data: a 1024x768 image, and a few boxes.
ASSUMED = Row(1115, (3072,), 150)


@dataclass(frozen=True)
class Sizes:
    """The sides of a Qwen3-VL that cost time and memory.

    Attributes:
        layers: of the LLM; width, inner: its hidden and intermediate size (of the experts that a token meets).
        queries, keys: width of all query heads, and of all key heads.
        matrix: parameters in the products of one token, over all layers.
        vit_layers, vit_width, vit_inner: of the ViT.
        vit_matrix: parameters in the products of one patch, over all blocks.
        merge: patches of a visual token.
        mergers: of the aligner; merged: width of their input and middle.
        aligner_matrix: parameters in the products of one visual token, over all mergers.
    """

    layers: int
    width: int
    inner: int
    queries: int
    keys: int
    matrix: int
    vocabulary: int
    vit_layers: int
    vit_width: int
    vit_inner: int
    vit_matrix: int
    merge: int
    mergers: int
    merged: int
    aligner_matrix: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> Sizes:
        """Of a config of model_type qwen3_vl or qwen3_vl_moe, with all sizes written out."""
        text, vision = config["text_config"], config["vision_config"]
        width, layers, head = text["hidden_size"], text["num_hidden_layers"], text["head_dim"]
        queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
        inner = text["intermediate_size"]
        if expert_count(text) and is_sparse(layers - 1, text):
            inner = text["moe_intermediate_size"] * text["num_experts_per_tok"]
        vit_width, vit_inner = vision["hidden_size"], vision["intermediate_size"]
        merge = vision["spatial_merge_size"] ** 2
        merged, mergers = vit_width * merge, 1 + len(vision["deepstack_visual_indexes"])
        return cls(
            layers,
            width,
            inner,
            queries,
            keys,
            matrix=layers * (2 * width * (queries + keys) + 3 * width * inner),
            vocabulary=text["vocab_size"],
            vit_layers=vision["depth"],
            vit_width=vit_width,
            vit_inner=vit_inner,
            vit_matrix=vision["depth"] * (4 * vit_width**2 + 2 * vit_width * vit_inner),
            merge=merge,
            mergers=mergers,
            merged=merged,
            aligner_matrix=mergers * (merged**2 + merged * vision["out_hidden_size"]),
        )


@dataclass(frozen=True)
class Trained:
    """What of a plan decides how far gradients run, and what they need.

    Attributes:
        llm, vit, aligner: whether something in it trains.
        numel: parameters that train.
        float32: of those, the ones that train in float32.
        copied: parameters of modules that train whole beside their original, as peft keeps it.
        adapted_numel: parameters of the layers that carry an adapter.
    """

    llm: bool
    vit: bool
    aligner: bool
    numel: int
    float32: int
    copied: int
    adapted_numel: int
    method: str

    @classmethod
    def by(cls, plan: TuningPlan, modules: Model) -> Trained:
        parts = {item.component for item in plan.trainables}
        adapted = set(plan.adapted)
        return cls(
            "llm" in parts,
            "vit" in parts,
            "aligner" in parts,
            numel=sum(item.numel for item in plan.trainables),
            float32=sum(item.numel for item in plan.trainables if item.dtype == "float32"),
            copied=sum(weight.numel for name in plan.saved for weight in modules.under(name)),
            adapted_numel=sum(w.numel for name in adapted for w in modules.under(name)),
            method=plan.method,
        )


@dataclass(frozen=True)
class Work:
    """Operations of one batch, forward and backward, by part.

    Attributes:
        llm: products of the LLM's layers.  head: of the vocabulary.  vit, aligner: likewise.
        llm_attention, vit_attention: of the attention itself.
    """

    llm: float
    head: float
    vit: float
    aligner: float
    llm_attention: float
    vit_attention: float

    @property
    def total(self) -> float:
        return float(sum(vars(self).values()))


# Of a product's forward operations: its gradient by the input, and by the weight, cost as much again each.
_FORWARD = _BY_INPUT = _BY_WEIGHT = 2
# Of attention: two products forward; backward five, one of which computes the scores again.
_ATTENTION_FORWARD, _ATTENTION_BACKWARD = 4, 10


def count(sizes: Sizes, trained: Trained, rows: Sequence[Row], *, checkpointing: bool = False) -> Work:
    """The operations of a batch without padding.

    Args:
        checkpointing: the LLM's layers run forward a second time.
    """
    tokens, labels = sum(row.tokens for row in rows), sum(row.labels for row in rows)
    patches = [count for row in rows for count in row.patches]
    merged = sum(patches) / sizes.merge
    again = _FORWARD if checkpointing else 0
    llm = _FORWARD + again + _BY_INPUT + (_BY_WEIGHT if trained.method == "full" and trained.llm else 0)
    vit = _FORWARD + (_BY_INPUT + _BY_WEIGHT if trained.vit else 0)
    pairs = sum(row.tokens**2 for row in rows) / 2  # each token sees those before it
    seen = sum(count**2 for count in patches)
    attention = _ATTENTION_FORWARD * (2 if checkpointing else 1) + _ATTENTION_BACKWARD
    vit_attention = _ATTENTION_FORWARD + (_ATTENTION_BACKWARD if trained.vit else 0)
    return Work(
        llm=llm * sizes.matrix * tokens,
        head=(_FORWARD + _BY_INPUT) * sizes.vocabulary * sizes.width * labels,
        vit=vit * sizes.vit_matrix * sum(patches),
        aligner=(_FORWARD + _BY_INPUT + _BY_WEIGHT) * sizes.aligner_matrix * merged,
        llm_attention=attention * sizes.layers * sizes.queries * pairs,
        vit_attention=vit_attention * sizes.vit_layers * sizes.vit_width * seen,
    )


def padded(rows: Iterable[Row]) -> list[Row]:
    """The rows of a batch as they are with padding: each as long as the longest.

    ms-swift makes logits of every position from the first answer's beginning on, whichever row that answer is in.
    """
    rows = list(rows)
    longest, first = max(row.tokens for row in rows), min(row.asked for row in rows)
    return [Row(longest, row.patches, longest - first) for row in rows]
