"""The same batches for any number of processes and of workers, and after a resume.

ms-swift drops rows until the processes have equally many, and so shuffles another list for each number of them. Here
the order is that of a single process; each global batch is dealt out among the processes, and one that would go without
a row gets one of which nothing is to be learned.

torch's loader seeds its workers by a draw from the generator that dropout draws from, once an epoch, unless workers
persist. Here it has a generator of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from accelerate.data_loader import SkipBatchSampler
from swift.dataloader import DataLoaderShard
from swift.dataset import LazyLLMDataset
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import seed_worker

UNLEARNED = -100  # label of the tokens that are not to be learned


class GlobalBatches:
    """Deals the batches of one process out among several.

    Args:
        rows: of the data set.
        batch_size: rows of a process.
        seed: of the order; None for the order of the data set.
        rank: this process.  world: how many there are.
        lengths: of the rows: those of a batch are then of about one length.
    """

    def __init__(
        self, rows: int, batch_size: int, seed: int | None, rank: int, world: int, lengths: Sequence[int] | None = None
    ) -> None:
        self.rows, self.seed, self.rank, self.world, self.lengths = rows, seed, rank, world, lengths
        self.together = batch_size * world
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-self.rows // self.together)

    def __iter__(self) -> Iterator[list[int]]:
        """Row numbers; of a filler, ``~number``."""
        order = list(range(self.rows))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed + self._epoch)  # as ms-swift shuffles for one process
            if self.lengths is None:
                order = torch.randperm(self.rows, generator=generator).tolist()
            else:
                order = get_length_grouped_indices(self.lengths, self.together, generator=generator)
        for first in range(0, self.rows, self.together):
            batch = order[first : first + self.together]
            yield batch[self.rank :: self.world] or [~batch[0]]


class FilledRows(LazyLLMDataset):  # type: ignore[misc]  # ms-swift ships no types
    """Encoded rows, and fillers: rows of which nothing is to be learned."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str) or index >= 0:
            return super().__getitem__(index)
        row = super().__getitem__(~index)
        return {**row, "labels": [UNLEARNED] * len(row["labels"])}


def replaces_dataloader(args: Any) -> bool:
    """Whether `train_dataloader` knows all that a run asks of its loader."""
    tensor_parallel = isinstance(args.deepspeed, dict) and "tensor_parallel" in args.deepspeed
    others = args.dataloader_drop_last or args.dataloader_multiprocessing_context
    return not (others or tensor_parallel)


def train_dataloader(
    trainer: Any,
    skip_batches: int = 0,
    *,
    loader: type[DataLoaderShard] = DataLoaderShard,
    lengths: Sequence[int] | None = None,
) -> DataLoaderShard:
    """What ms-swift's ``get_train_dataloader`` makes, with `GlobalBatches` and a generator of its own.

    Args:
        lengths: of the rows, to group them by.
    """
    args, rows = trainer.args, trainer.train_dataset
    seed = (args.data_seed or 0) if args.train_dataloader_shuffle else None
    size = trainer._train_batch_size
    batches: Any = GlobalBatches(len(rows), size, seed, args.process_index, args.world_size, lengths)
    if skip_batches:
        batches = SkipBatchSampler(batches, skip_batches=skip_batches)
    workers = args.dataloader_num_workers
    return loader(
        rows,
        device=trainer.accelerator.device,
        generator=torch.Generator().manual_seed(args.data_seed or 0),
        batch_sampler=batches,
        collate_fn=trainer.data_collator,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        worker_init_fn=partial(seed_worker, num_workers=workers, rank=args.process_index),
    )
