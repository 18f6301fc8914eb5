"""Training rows as an epoch has them: mixed from files with weights, and augmented."""

from __future__ import annotations

from contextlib import AbstractContextManager
from multiprocessing import Value
from typing import Any

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

    def set_epoch(self, epoch: int) -> None:
        self._epoch.value = epoch

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
        index, epoch = self.place(index)
        if self.pipeline is None:
            return self.rows[index]
        with self.rows.naming(index):
            row, number = self.rows.row(index), int(self.rows.order[index])
            images = open_images(row)
            if not images:  # on the web, or none
                return row.to_swift((), self.rows.writing)
            record = row.record(sizes_of(images), self.pipeline.limits)
            augmented, record = self.pipeline.row(images, record, epoch=epoch, row=number)
            return to_row(record, augmented, self.rows.writing)
