"""The rows of JSONL files as a dataset that the trainer can index, without holding them in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swiftalign.augment.pipeline import Pipeline, Sample
from swiftalign.config import GroundingTextSection
from swiftalign.grounding.images import image_size, open_image
from swiftalign.grounding.records import Record, parse_row, to_record
from swiftalign.grounding.text import DEFAULT_TEXT, to_messages

Indices = np.ndarray[Any, np.dtype[np.int64]]


class JsonlRows:
    """Rows of one or several files, read from disk when their turn comes.

    Holds 12 bytes a row: where its line begins, and which file it is in.

    Args:
        order: numbers of the rows to have, in order; a row's number counts from 0 over all files.
        text: the words around the coordinates.
    """

    def __init__(
        self, files: Sequence[Path], order: Indices | None = None, text: GroundingTextSection = DEFAULT_TEXT
    ) -> None:
        self.files = list(files)
        self.text = text
        starts = [_line_starts(path) for path in self.files]
        self._offsets = np.concatenate([offsets for offsets, _ in starts])
        self._lines = np.concatenate([lines for _, lines in starts])
        self._file_of = np.repeat(np.arange(len(starts), dtype=np.int32), [len(offsets) for offsets, _ in starts])
        self.order: Indices = np.arange(len(self._offsets)) if order is None else order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row as ms-swift's messages."""
        record = self.record(index)
        if record.swift_row is not None:
            return record.swift_row
        width, height = image_size(record.images[0])
        messages = to_messages(record.in_pixels(width, height), width, height, self.text)
        return {"messages": messages, "images": [str(path) for path in record.images]}

    def record(self, index: int) -> Record:
        row = self.order[index]
        path = self.files[self._file_of[row]]
        with path.open("rb") as file:
            file.seek(int(self._offsets[row]))
            line = file.readline()
        return to_record(parse_row(line, path, int(self._lines[row])), path.parent)

    def reordered(self, order: Indices) -> JsonlRows:
        """The same rows in another order, or some of them."""
        return JsonlRows(self.files, self.order[order], self.text)


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
        from PIL import Image

        record, row, epoch = self.rows.record(index), int(self.rows.order[index]), int(self._epoch)
        swift_row = record.swift_row
        if swift_row is not None and (
            not record.images or len(record.images) != len(swift_row.get("images", []))  # others are not files
        ):
            return swift_row
        images = [open_image(path) for path in record.images]
        if swift_row is not None:
            coloured = self.pipeline.colours_only(images, epoch=epoch, row=row)
            return {**swift_row, "images": [Image.fromarray(image) for image in coloured]}
        height, width = images[0].shape[:2]
        sample = self.pipeline(images[0], record.in_pixels(width, height), epoch=epoch, row=row)
        return sample_row(sample, self.rows.text)


def sample_row(sample: Sample, text: GroundingTextSection) -> dict[str, Any]:
    """An augmented row as ms-swift's messages, with its image in memory."""
    from PIL import Image

    height, width = sample.image.shape[:2]
    messages = to_messages(sample.record, width, height, text)
    return {"messages": messages, "images": [Image.fromarray(sample.image)]}


def _line_starts(path: Path) -> tuple[Indices, Indices]:
    """Byte offset and line number of every line that is not blank."""
    offsets, numbers, offset = [], [], 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                offsets.append(offset)
                numbers.append(number)
            offset += len(line)
    return np.array(offsets, dtype=np.int64), np.array(numbers, dtype=np.int64)
