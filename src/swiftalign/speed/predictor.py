"""How much memory a batch takes on a GPU, and how long it takes there.

Memory is counted from what has to be kept until the backward pass. Where weights are frozen, autograd keeps no layer's
input, only the operands of norms, attention and activations. Time is that of the counted operations at the card's
rate, and of the bytes that pass through its memory. `benchmarks/RESULTS.md` compares both with measurements on an H100
and an H200.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from swiftalign.methods import METHODS
from swiftalign.model.families import find
from swiftalign.model.family import Sizes
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.speed.cards import GIB, Card
from swiftalign.speed.choices import Choices
from swiftalign.speed.spreading import Spreading, Weights
from swiftalign.speed.work import Row, Trained, count, padded

LARGEST_BATCH = 256
BATCHES_TIMED = 64

# Memory that tensors can't use: CUDA's context and libraries, and the allocator's fragments.
CONTEXT = int(0.9 * GIB)
SAFETY = 0.04  # share of the card's memory that stays free

_HALF, _FLOAT = 2, 4  # bytes per element
# Elements kept per token and layer by compiled and by Liger's kernels; plain ones keep `Sizes.plain_kept`.
_MORE_KEPT = {"compiled": 1.0, "liger": 1.17}

# Shares of a large product's rate, measured on an H200 (benchmarks/RESULTS.md).
_PRODUCTS = 0.91
_ATTENTION = {"torch": 0.23, "flash4": 0.42}
_LINEAR_ATTENTION = 0.035  # with all its elementwise work, on an H200: Qwen3.5-9B
_FP8_GAIN = 1.9  # of the LLM's products
# Elementwise memory traffic of plain and of Liger's kernels, relative to compiled ones.
_MORE_TRAFFIC = {"compiled": 1.0, "liger": 2.3, "plain": 5.0}
_FP8_TRAFFIC = 1.4  # elementwise memory traffic with it: activations are brought to FP8
# Elements that pass through memory for an element of a token's copies for its experts, forward and backward: measured
# with the 30B-A3B compiled, and with one layer of its experts for the others.
_ROUTING = {"compiled": 28.0, "liger": 45.0, "plain": 45.0}
_BATCH_SECONDS = 0.02  # per batch: the optimizer, the loss, and short waits for the CPU
# Seconds of CPU time to start the kernels of one LLM layer, forward and backward; small batches wait for it.
_STARTS = {"compiled": 0.002, "liger": 0.0045, "plain": 0.0045}
_LINEAR_STARTS = 0.0075  # the same for a layer with linear attention
_FORWARD = 0.3  # share of the forward pass in _STARTS


@dataclass(frozen=True)
class Memory:
    """Bytes that a step with the largest batch takes at most on one GPU, without CUDA's own context.

    Attributes:
        weights: the weights, with those that are gathered from other GPUs at a time.
        trained: the gradients of what trains, and the optimizer's averages.
        activations: everything that grows with the batch.
    """

    weights: int
    trained: int
    activations: int

    @property
    def peak(self) -> int:
        return self.weights + self.trained + self.activations


@dataclass(frozen=True)
class Predictor:
    """Predicts one run, as each of its GPUs sees it.

    Attributes:
        sizes: sizes of the base model.
        trained: what of the model trains.
        card: the GPU that each process trains on.
        rows: rows of the data, or an assumed one; batches are made of them in this order.
        weights: the bytes of the base model.
        element: bytes per element of the base model.
        spreading: how the run is spread over GPUs.
    """

    sizes: Sizes
    trained: Trained
    card: Card
    rows: Sequence[Row]
    weights: Weights
    element: int
    spreading: Spreading = field(default_factory=Spreading)

    @classmethod
    def of(cls, model: Model, plan: TuningPlan, card: Card, rows: Sequence[Row]) -> Predictor | None:
        """None where the model's family has no predictions, or its config leaves sizes to transformers' defaults."""
        family = find(plan.model_type)
        if family is None or family.sizes is None:
            return None
        try:
            sizes = family.sizes(model.config)
        except (KeyError, TypeError):
            return None
        trained = Trained(
            {item.component for item in plan.trainables},
            numel=sum(item.numel for item in plan.trainables),
            float32=sum(item.numel for item in plan.trainables if item.dtype == "float32"),
            adapted_numel=sum(weight.numel for name in plan.adapted for weight in model.by_name[name].weights),
            method=plan.method,
        )
        element = _HALF if plan.dtype in ("bfloat16", "float16") else _FLOAT
        # An adapted module's own weights stay frozen, and those of one in modules_to_save: a copy trains.
        own = {item.module for item in plan.trainables} if plan.method == "full" else set()
        frozen: Counter[str] = Counter()
        for module in model:
            _, found, inside = module.name.partition(f"{family.stacks[0]}.")
            if found and module.name not in own:
                frozen[inside.partition(".")[0]] += element * sum(weight.numel for weight in module.weights)
        largest = max(frozen.values(), default=0)
        weights = Weights(element * plan.total_parameters, frozen.total(), largest)
        return cls(sizes, trained, card, rows, weights, element)

    def spread(self, sharding: str, processes: int) -> Predictor:
        """What predicts the same run, spread over GPUs in another way."""
        return replace(self, spreading=Spreading(sharding, processes))

    def fits(self, choices: Choices) -> bool:
        """Whether the run's largest batch fits on the card."""
        return self.peak(choices) + CONTEXT <= self.card.memory * (1 - SAFETY)

    def largest_batch(self, choices: Choices) -> int:
        """The most rows per batch with which the largest batch fits; 0 where not even one row does."""
        batches = range(1, LARGEST_BATCH + 1)
        return bisect_left(batches, True, key=lambda batch: not self.fits(replace(choices, batch=batch)))

    def largest_rows(self, choices: Choices) -> list[Row]:
        """The batch that takes most memory: the longest rows, and with padding the row with the shortest question."""
        rows = sorted(self.rows, key=lambda row: row.tokens, reverse=True)[: choices.batch]
        rows += rows[:1] * (choices.batch - len(rows))
        if not choices.padding_free and choices.batch > 1:
            rows[-1] = min(self.rows, key=lambda row: row.tokens - row.labels)
        return rows

    def peak(self, choices: Choices) -> int:
        """Bytes that a step with the largest batch takes at most, without CUDA's own context."""
        return self.memory(choices).peak

    def memory(self, choices: Choices) -> Memory:
        """What a step with the largest batch takes at most."""
        sizes, trained, element = self.sizes, self.trained, self.element
        rows = self.largest_rows(choices)
        rows = rows if choices.padding_free else padded(rows)
        tokens, labels = sum(row.tokens for row in rows), sum(row.labels for row in rows)
        patches = sum(count for row in rows for count in row.patches)
        copies = self.trained_bytes if trained.method != "full" else trained.float32 * (_FLOAT - element)
        # Elements kept per token and average LLM layer: the inputs of both norms; what attention keeps; and both halves
        # of the gated product.
        attention = sizes.attention_kept / sizes.layers
        layer = 2 * sizes.width + attention + 2 * sizes.inner
        layer *= _MORE_KEPT.get(choices.kernels, sizes.plain_kept)
        layer += sizes.routed  # what the experts made, before it is weighted
        if "llm" in trained.parts:  # the inputs of the layers whose weights train
            layer += 2 * sizes.width + sizes.queries + sizes.inner
        # Activations that are kept until the backward pass.
        kept: float = tokens * (sizes.layers * (sizes.width if choices.gradient_checkpointing else layer)) * element
        if "aligner" in trained.parts or "vit" in trained.parts:  # norm, first layer and activation, before and after
            aligner = sizes.mergers * (5 * sizes.vit_width * sizes.merge + 2 * sizes.width)
            kept += patches // sizes.merge * aligner * element
        if "vit" in trained.parts:
            kept += patches * sizes.vit_layers * (10 * sizes.vit_width + 3 * sizes.vit_inner) * element
        kept += METHODS[trained.method].dense_copies * trained.adapted_numel * element
        # One layer in work.
        working: float = tokens * max((3 * sizes.inner + 4 * sizes.width) * element, sizes.linear_work * _FLOAT)
        if choices.gradient_checkpointing:  # its activations, computed again
            working += tokens * layer * element
        # Logits, and in float32 the loss's softmax, its gradient and that of its input; freed before the layers begin.
        working = max(working, labels * sizes.vocabulary * (element + 3 * _FLOAT))
        # A frozen ViT keeps nothing and has finished when the LLM begins; it counts only where it takes more.
        vit = patches * (6 * sizes.vit_width + sizes.vit_inner) * _FLOAT
        in_work = int(max(working, vit - kept)) + trained.numel * element
        return Memory(
            self.spreading.weights(self.weights, copies),
            self.spreading.trained(self.trained_bytes),
            int(max(kept, 0)) + in_work,
        )

    @property
    def trained_bytes(self) -> int:
        """The bytes of what trains, and of its gradients."""
        return self.trained.float32 * _FLOAT + (self.trained.numel - self.trained.float32) * self.element

    def step_seconds(self, choices: Choices, accumulation: int) -> float | None:
        """Seconds per optimizer step of ``accumulation`` batches; None where the card's rates are not known."""
        seconds = self.seconds(choices)
        if seconds is None:
            return None
        return seconds * accumulation + self.spreading.reducing(self.trained_bytes, self.card, accumulation)

    def seconds(self, choices: Choices) -> float | None:
        """Seconds per average batch, forward and backward; None where the card's rates are not known."""
        rate, bandwidth, size = self.card.rate, self.card.bandwidth, choices.batch
        if rate is None or bandwidth is None:
            return None
        sizes, again, times = self.sizes, choices.gradient_checkpointing, []
        passes = 1.4 if again else 1.0  # of the elementwise work in the LLM's layers
        llm_elements = 8 * sizes.inner + 24 * sizes.width + 4 * sizes.attention_kept / sizes.layers
        vit_passes = 1 if "vit" in self.trained.parts else _FORWARD
        start, linear = _STARTS[choices.kernels], sizes.layers - sizes.attention_layers
        starts = (sizes.attention_layers * start + linear * _LINEAR_STARTS) * (1 + _FORWARD * again)
        starts += sizes.vit_layers * vit_passes * start
        for first in range(0, min(len(self.rows), BATCHES_TIMED * size), size):
            rows = [self.rows[index % len(self.rows)] for index in range(first, first + size)]
            rows = rows if choices.padding_free else padded(rows)
            work = count(sizes, self.trained, rows, checkpointing=again)
            llm = work.llm / (_FP8_GAIN if choices.frozen_fp8 else 1.0)
            products = (llm + work.head + work.vit + work.aligner) / (rate * _PRODUCTS)
            attention = (work.llm_attention + work.vit_attention) / (rate * _ATTENTION[choices.attention])
            attention += work.linear_attention / (rate * _LINEAR_ATTENTION)
            tokens, patches = sum(row.tokens for row in rows), sum(sum(row.patches) for row in rows)
            elements = tokens * sizes.layers * llm_elements * passes
            elements += patches * sizes.vit_layers * (2 * sizes.vit_inner + 24 * sizes.vit_width)
            traffic = 2 * elements * _MORE_TRAFFIC[choices.kernels] / bandwidth
            traffic *= _FP8_TRAFFIC if choices.frozen_fp8 else 1.0
            traffic += 2 * tokens * sizes.layers * sizes.routed * _ROUTING[choices.kernels] * passes / bandwidth
            times.append(max(products + attention + traffic, starts) + _BATCH_SECONDS)
        return self.spreading.seconds(sum(times) / len(times), self.weights, self.card)
