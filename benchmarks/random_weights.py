"""A trainer callback that both stock ms-swift and swiftalign load by ``external_plugins``: it gives the frozen weights
random values when training begins, on the GPUs where they lie.

So the model's files can be holes without any bytes on the disk. Zeros would be faster than real weights: a GPU takes
less power to multiply them, and a router of experts would send every token to the same ones.
"""

from __future__ import annotations

from typing import Any

import torch
from swift.callbacks import callbacks_map
from swift.callbacks.base import TrainerCallback
from torch.distributed.tensor import DTensor

BLOCK = 2**24 - 3  # values, repeated; odd, so that the rows of a matrix differ


class RandomWeights(TrainerCallback):
    """See the module."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        block = torch.empty(BLOCK).normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
        blocks: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}
        for name, weight in kwargs["model"].named_parameters():
            if weight.requires_grad:
                continue
            value = getattr(weight, "ds_tensor", weight.data)  # the process's share, under ZeRO-3
            value = value.to_local() if isinstance(value, DTensor) else value
            if "norm" in name:
                value.fill_(name.endswith("weight"))
                continue
            kind = (value.device, value.dtype)
            values = blocks[kind] = blocks[kind] if kind in blocks else block.to(*kind)
            for part in value.view(-1).split(BLOCK):
                part.copy_(values[: len(part)])


callbacks_map["random_weights"] = RandomWeights
