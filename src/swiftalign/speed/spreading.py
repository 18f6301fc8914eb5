"""What each way of spreading a run over GPUs keeps on one GPU, and what it sends between them.

`benchmarks/RESULTS.md` compares ddp, fsdp2 and zero2 with measurements on two H200; the rest is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

from swiftalign.config.sharding import stage
from swiftalign.speed.cards import Card

# Layers that FSDP2 has whole on a GPU: the one in work, and the next one.
FSDP2_LAYERS = 2
# Bytes of the weights that ZeRO-3 has whole at a time, but for larger layers: `stage3_max_live_parameters` of 16 bits.
ZERO3_LIVE = 2_000_000_000
# Bytes of the gradients that ZeRO-1 and ZeRO-2 collect before they add them up: `reduce_bucket_size` of float32.
ZERO_BUCKET = 800_000_000
# Times that a layer is gathered per batch: forward and backward. Gradient checkpointing adds none, since a layer runs
# again right before its backward pass.
GATHERED = 2


@dataclass(frozen=True)
class Weights:
    """The weights of the base model.

    Attributes:
        total: bytes of all of them.
        layers: bytes of the LLM's layers, as far as they are frozen.
        layer: bytes of the largest of these layers.
    """

    total: int
    layers: int
    layer: int


@dataclass(frozen=True)
class Spreading:
    """A way of spreading a run over a number of GPUs.

    Attributes:
        sharding: the way, as in `swiftalign.speed.choices.Choices`.
        processes: number of training processes, each with a GPU.
    """

    sharding: str = "ddp"
    processes: int = 1

    @property
    def _offload(self) -> bool:
        return self.sharding.endswith("offload")

    def weights(self, base: Weights, copies: int) -> int:
        """Bytes of the weights on each GPU.

        Args:
            copies: bytes of what trains beside the base model.
        """
        kept = 0 if self._offload else 1 / self.processes
        if self.sharding.startswith("fsdp2"):
            gathered = min(FSDP2_LAYERS * base.layer, base.layers)
            return base.total - base.layers + copies + int(base.layers * kept) + gathered
        if stage(self.sharding) == 3:
            return int((base.total + copies) * kept) + min(max(ZERO3_LIVE, base.layer), base.total)
        return base.total + copies

    def trained(self, gradients: int) -> int:
        """Bytes of the gradients and of the optimizer's state on each GPU.

        Args:
            gradients: bytes of the gradients; Adam's two averages take as many each.
        """
        if not stage(self.sharding):  # DDP has a second copy of the gradients, in the order in which they are sent
            return (3 if self.processes == 1 else 4) * gradients
        # DeepSpeed's optimizer has weights of its own beside Adam's averages.
        state = 0 if self._offload else 3 * gradients // self.processes
        if stage(self.sharding) == 3:
            return state + gradients // self.processes
        whole = gradients if stage(self.sharding) == 1 else gradients // self.processes
        return state + whole + min(gradients, ZERO_BUCKET)

    def seconds(self, computing: float, base: Weights, card: Card) -> float:
        """Seconds per batch, with the gathering of divided weights.

        FSDP2 gathers a layer while the one before it computes, but the copies slow that layer's products by as much as
        they hide: on two H200, a batch took the sum. ms-swift's presets of ZeRO-3 leave `overlap_comm` off.

        Args:
            computing: seconds per batch where each GPU has all weights.
        """
        fsdp2 = self.sharding.startswith("fsdp2")
        if not fsdp2 and stage(self.sharding) != 3:
            return computing
        assert card.link is not None  # a card whose computing is known
        assert card.host is not None
        moved = GATHERED * base.layers + (0 if fsdp2 else base.total - base.layers)
        gathering = moved * (1 - 1 / self.processes) / card.link
        if self._offload:
            gathering += moved / self.processes / card.host
        return computing + gathering

    def reducing(self, gradients: int, card: Card, accumulation: int) -> float:
        """Seconds per optimizer step in which gradients are added up over the GPUs.

        Args:
            gradients: bytes of the gradients.
            accumulation: batches per step; ZeRO-2 and ZeRO-3 add up the gradients of each of them.
        """
        assert card.link is not None  # a card whose computing is known
        times = 1 + (accumulation if (stage(self.sharding) or 0) > 1 else 1)
        return times * gradients * (1 - 1 / self.processes) / card.link
