"""The same batches for any number of processes and data loader workers, and after a resume.

ms-swift drops rows until all processes have the same number, so that each number of processes shuffles another list.
Here the order is that of a single process; each global batch is distributed among the processes, and a process left
without a row gets a copy of a row with all labels masked.

torch's loader seeds its workers by a draw from the generator that dropout uses, once per epoch unless workers persist.
Here the loader has its own generator.
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

from swiftalign.model.template import IGNORED


class GlobalBatches:
    """Distributes the batches of one process among several.

    Args:
        rows: number of rows in the dataset.
        batch_size: rows per batch in each process.
        seed: seed of the order; None for the order of the dataset.
        rank: number of this process.
        world: number of processes.
        lengths: tokens per row; if given, rows of similar length share a batch.
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

    def order(self, epoch: int) -> list[int]:
        """The numbers of all rows, in the order in which an epoch takes them."""
        if self.seed is None:
            return list(range(self.rows))
        generator = torch.Generator().manual_seed(self.seed + epoch)  # as ms-swift shuffles for one process
        if self.lengths is None:
            order: list[int] = torch.randperm(self.rows, generator=generator).tolist()
        else:
            order = get_length_grouped_indices(self.lengths, self.together, generator=generator)
        return order

    def __iter__(self) -> Iterator[list[int]]:
        """Row numbers per batch; ``~number`` stands for a masked copy of a row."""
        order = self.order(self._epoch)
        for first in range(0, self.rows, self.together):
            batch = order[first : first + self.together]
            yield batch[self.rank :: self.world] or [~batch[0]]


class FilledRows(LazyLLMDataset):  # type: ignore[misc]  # ms-swift ships no types
    """Encoded rows, and copies of rows with all labels masked."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return super().__getitem__(index)
        number = index if index >= 0 else ~index
        with self.dataset.naming(number):
            row = super().__getitem__(number)
        if index >= 0:
            return row
        return {**row, "labels": [IGNORED] * len(row["labels"])}


def global_batches(trainer: Any, lengths: Sequence[int] | None = None) -> GlobalBatches:
    """The batches of a trainer of ms-swift.

    Args:
        lengths: tokens per row, to put rows of similar length in a batch.
    """
    args = trainer.args
    seed = (args.data_seed or 0) if args.train_dataloader_shuffle else None
    rows, batch = len(trainer.train_dataset), trainer._train_batch_size
    return GlobalBatches(rows, batch, seed, args.process_index, args.world_size, lengths)


def train_dataloader(
    trainer: Any,
    skip_batches: int = 0,
    *,
    loader: type[DataLoaderShard] = DataLoaderShard,
    lengths: Sequence[int] | None = None,
) -> DataLoaderShard:
    """ms-swift's ``get_train_dataloader``, but with `GlobalBatches` and its own random generator.

    Args:
        trainer: ms-swift's trainer.
        skip_batches: number of batches to skip, where a run resumes within an epoch.
        loader: class of the loader.
        lengths: tokens per row, to put rows of similar length in a batch.
    """
    args = trainer.args
    batches: Any = global_batches(trainer, lengths)
    if skip_batches:
        batches = SkipBatchSampler(batches, skip_batches=skip_batches)
    return loader(
        trainer.train_dataset,
        device=trainer.accelerator.device,
        generator=torch.Generator().manual_seed(args.data_seed or 0),
        batch_sampler=batches,
        collate_fn=trainer.data_collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
    )
