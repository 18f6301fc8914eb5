"""Training rows as an epoch has them: mixed from files with weights, and augmented."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from multiprocessing import Value
from typing import Any

import numpy as np

from swiftalign.augment.pipeline import Pipeline
from swiftalign.data.rows import Mixture, Rows, open_images, sizes_of, to_row


class TrainingRows:
    """Rows as a dataset that the trainer can index: the same for any number of workers, and after a resume.

    Args:
        pipeline: the augmentation, if any.
        mixture: which rows an epoch takes; each one once if there is none.
    """

    def __init__(self, rows: Rows, pipeline: Pipeline | None = None, mixture: Mixture | None = None) -> None:
        self.rows, self.pipeline, self.mixture = rows, pipeline, mixture
        self._epoch = Value("q", 0, lock=False)  # shared with the data loader workers, which outlive an epoch
        self._order: Callable[[int], Sequence[int]] | None = None
        self._samples = 0
        self._places = -1, np.zeros(0, np.int64)  # of an epoch, where its order has each sample

    def set_epoch(self, epoch: int) -> None:
        self._epoch.value = epoch

    def follow(self, order: Callable[[int], Sequence[int]], samples: int) -> None:
        """Say in which order the run takes the samples, which a curriculum needs.

        Args:
            order: the samples of an epoch in the order in which the run takes them.
            samples: number of samples that the whole run takes.
        """
        self._order, self._samples = order, samples

    def progress(self, index: int) -> float:
        """How much of the run is over when it takes a sample, 0..1.

        It follows from the sample's place in the order, not from the trainer's step: data loader workers read ahead.
        It is 0 until the order is known.
        """
        epoch = self._epoch.value
        if self._order is None:
            return 0.0
        if self._places[0] != epoch:
            places = np.empty(len(self), np.int64)
            places[np.asarray(self._order(epoch))] = np.arange(len(self))
            self._places = epoch, places
        done = epoch * len(self) + int(self._places[1][index])
        return float(min(done / self._samples, 1.0))

    def __len__(self) -> int:
        return len(self.mixture or self.rows)

    def place(self, index: int) -> tuple[int, int]:
        """The index of a sample's row, and the number of the pass over its file."""
        if self.mixture is None:
            return index, self._epoch.value
        chosen, passes = self.mixture.picked(self._epoch.value)
        return int(chosen[index]), int(passes[index])

    def naming(self, index: int) -> AbstractContextManager[None]:
        """As `Rows.naming`, for a sample."""
        return self.rows.naming(self.place(index)[0])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row in ms-swift's layout, with its images in memory."""
        pipeline = self.pipeline
        if pipeline and pipeline.settings.curriculum:
            pipeline = pipeline.at(self.progress(index))
        index, epoch = self.place(index)
        if pipeline is None:
            return self.rows[index]
        with self.rows.naming(index):
            row, number = self.rows.row(index), int(self.rows.order[index])
            images = open_images(row)
            if not images:  # on the web, or none
                return row.to_swift((), self.rows.writing)
            record = row.record(sizes_of(images), pipeline.limits)
            augmented, record = pipeline.row(images, record, epoch=epoch, row=number)
            return to_row(record, augmented, self.rows.writing)
