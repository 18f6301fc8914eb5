"""The rows of JSONL files as a dataset that the trainer can index, without holding them in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swiftalign.grounding.images import image_size
from swiftalign.grounding.records import parse_row, to_record
from swiftalign.grounding.text import to_messages


class JsonlRows:
    """Rows of one or several files, read from disk when their turn comes.

    Holds 12 bytes a row: where its line begins, and which file it is in.
    """

    def __init__(self, files: Sequence[Path], order: np.ndarray[Any, np.dtype[np.int64]] | None = None) -> None:
        self.files = list(files)
        starts = [_line_starts(path) for path in self.files]
        self._offsets = np.concatenate([offsets for offsets, _ in starts])
        self._lines = np.concatenate([lines for _, lines in starts])
        self._file_of = np.repeat(np.arange(len(starts), dtype=np.int32), [len(offsets) for offsets, _ in starts])
        self._order = np.arange(len(self._offsets)) if order is None else order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row as ms-swift's messages."""
        row = self._order[index]
        path = self.files[self._file_of[row]]
        with path.open("rb") as file:
            file.seek(int(self._offsets[row]))
            line = file.readline()
        record = to_record(parse_row(line, path, int(self._lines[row])), path.parent)
        if record.swift_row is not None:
            return record.swift_row
        width, height = image_size(record.images[0])
        messages = to_messages(record.in_pixels(width, height), width, height)
        return {"messages": messages, "images": [str(path) for path in record.images]}

    def reordered(self, order: np.ndarray[Any, np.dtype[np.int64]]) -> JsonlRows:
        """The same rows in another order, or some of them."""
        return JsonlRows(self.files, self._order[order])


def _line_starts(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Byte offset and line number of every line that is not blank."""
    offsets, numbers, offset = [], [], 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                offsets.append(offset)
                numbers.append(number)
            offset += len(line)
    return np.array(offsets, dtype=np.int64), np.array(numbers, dtype=np.int64)
