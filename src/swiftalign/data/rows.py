"""The rows of JSONL files as a dataset that the trainer can index, without holding them in memory."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from swiftalign.config.sections import GroundingTextSection
from swiftalign.data.images import Pixels, image_size, open_image
from swiftalign.data.records import Record, parse_row, to_record
from swiftalign.data.text import DEFAULT_TEXT, to_messages
from swiftalign.data.tokens import PixelLimits, visual_tokens

Indices = np.ndarray[Any, np.dtype[np.int64]]


class JsonlRows:
    """Rows of one or several files, read from disk when their turn comes.

    Holds 12 bytes a row: where its line begins, and which file it is in.

    Args:
        left_out: line numbers of the rows not to have, by file.
        text: the words around the coordinates.

    Attributes:
        order: numbers of the rows, in their order; a row's number counts from 0 over all files, those left out too.
    """

    def __init__(
        self,
        files: Sequence[Path],
        left_out: Mapping[Path, Collection[int]] | None = None,
        text: GroundingTextSection = DEFAULT_TEXT,
    ) -> None:
        self.files = list(files)
        self.text = text
        starts = [_line_starts(path) for path in self.files]
        self._offsets = np.concatenate([offsets for offsets, _ in starts])
        self._lines = np.concatenate([lines for _, lines in starts])
        self._file_of = np.repeat(np.arange(len(starts), dtype=np.int32), [len(offsets) for offsets, _ in starts])
        gone = [
            np.isin(lines, list((left_out or {}).get(file, ()))) for file, (_, lines) in zip(files, starts, strict=True)
        ]
        self.order: Indices = np.flatnonzero(~np.concatenate(gone))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row as ms-swift's messages, with its images in memory, as they are shown."""
        record = self.record(index)
        images = open_images(record)
        if record.swift_row is not None:
            return with_images(record.swift_row, images)
        height, width = images[0].shape[:2]
        return to_row(record.in_pixels(width, height), images[0], self.text)

    def record(self, index: int) -> Record:
        return self._parsed(index)[0]

    def lengths(self, limits: PixelLimits) -> list[int]:
        """Tokens of each row, nearly: those of its images, and one for three bytes of its line."""
        size = lru_cache(4096)(image_size)
        parsed = (self._parsed(index) for index in range(len(self)))
        return [
            count // 3 + sum(visual_tokens(*size(path), limits) for path in record.images) for record, count in parsed
        ]

    def _parsed(self, index: int) -> tuple[Record, int]:
        """A row, and the bytes of its line."""
        row = self.order[index]
        path = self.files[self._file_of[row]]
        with path.open("rb") as file:
            file.seek(int(self._offsets[row]))
            line = file.readline()
        return to_record(parse_row(line, path, int(self._lines[row])), path.parent), len(line)

    def reordered(self, order: Indices) -> JsonlRows:
        """The same rows in another order, or some of them."""
        rows = copy.copy(self)
        rows.order = self.order[order]
        return rows


def open_images(record: Record) -> list[Pixels]:
    """A row's images; none where some of them are no files."""
    swift_row = record.swift_row
    if swift_row is not None and len(record.images) != len(swift_row.get("images", [])):
        return []
    return [open_image(path) for path in record.images]


def to_row(record: Record, image: Pixels, text: GroundingTextSection) -> dict[str, Any]:
    """A record, in pixels of its image, as ms-swift's messages."""
    height, width = image.shape[:2]
    return with_images({"messages": to_messages(record, width, height, text)}, [image])


def with_images(row: dict[str, Any], images: Sequence[Pixels]) -> dict[str, Any]:
    """A row with its images in memory: from a file, ms-swift would not turn them upright, and clip 16 bits to white."""
    from PIL import Image as PilImage

    return {**row, "images": [PilImage.fromarray(image) for image in images]} if images else row


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
