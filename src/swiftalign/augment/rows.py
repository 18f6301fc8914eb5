"""Augmented rows as a dataset that the trainer can index."""

from __future__ import annotations

from contextlib import AbstractContextManager
from multiprocessing import Value
from typing import Any

from swiftalign.augment.pipeline import Pipeline
from swiftalign.data.formats.own import GroundingRow
from swiftalign.data.rows import Rows, open_images, to_row, with_images


class AugmentedRows:
    """Training rows as an epoch has them: the same for any number of workers, and after a resume."""

    def __init__(self, rows: Rows, pipeline: Pipeline) -> None:
        self.rows = rows
        self.pipeline = pipeline
        self._epoch = Value("q", 0, lock=False)  # shared with the data loader workers, which outlive an epoch

    def set_epoch(self, epoch: int) -> None:
        self._epoch.value = epoch

    def naming(self, index: int) -> AbstractContextManager[None]:
        """As `Rows.naming`."""
        return self.rows.naming(index)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The augmented row in ms-swift's layout, with its images in memory."""
        with self.rows.naming(index):
            row, number, epoch = self.rows.row(index), int(self.rows.order[index]), self._epoch.value
            images = open_images(row)
            if isinstance(row, GroundingRow):
                height, width = images[0].shape[:2]
                sample = self.pipeline(images[0], row.record(width, height), epoch=epoch, row=number)
                return to_row(sample.record, sample.image, self.rows.text)
            coloured = self.pipeline.colours_only(images, epoch=epoch, row=number)
            return with_images(row.to_swift((), self.rows.text), coloured)
