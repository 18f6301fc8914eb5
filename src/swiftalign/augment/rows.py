"""Augmented rows as a dataset that the trainer can index."""

from __future__ import annotations

from typing import Any

import torch

from swiftalign.augment.pipeline import Pipeline
from swiftalign.data.rows import JsonlRows, open_images, to_row, with_images


class AugmentedRows:
    """Training rows as an epoch has them: the same for any number of workers, and after a resume."""

    def __init__(self, rows: JsonlRows, pipeline: Pipeline) -> None:
        self.rows = rows
        self.pipeline = pipeline
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]  # workers outlive an epoch

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The augmented row as ms-swift's messages, with its image in memory."""
        record, row, epoch = self.rows.record(index), int(self.rows.order[index]), int(self._epoch)
        images = open_images(record)
        if record.swift_row is not None:
            return with_images(record.swift_row, self.pipeline.colours_only(images, epoch=epoch, row=row))
        height, width = images[0].shape[:2]
        sample = self.pipeline(images[0], record.in_pixels(width, height), epoch=epoch, row=row)
        return to_row(sample.record, sample.image, self.rows.text)
