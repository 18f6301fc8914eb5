"""The reader of rows: one pass over a data file, and then any row by its position, without holding rows in memory."""

from __future__ import annotations

import copy
import hashlib
import io
import os
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from swiftalign.config.sections import GroundingTextSection
from swiftalign.data.files import JSONL, MAX_ROW_BYTES, read_lines
from swiftalign.data.formats import read_row
from swiftalign.data.images import Pixels, open_image, remembered_sizes
from swiftalign.data.records import Record, Row
from swiftalign.data.text import DEFAULT_TEXT, to_messages
from swiftalign.data.tokens import PixelLimits, visual_tokens
from swiftalign.problems import DataError

Indices = np.ndarray[Any, np.dtype[np.int64]]
LeftOut = Mapping[Path, Collection[int]]
"""Line numbers of rows that are not used, by file."""


class DataFile:
    """A file of rows, which each process opens once.

    Another way to store rows than JSONL needs a class like this: one pass, and a position for each row that only the
    class itself understands.

    Attributes:
        positions: position of each row: the first byte of its line.
        lines: line number of each row, from 1.
        size: size of the file in bytes when its rows were listed.
        digest: SHA-256 of the file's bytes; empty until `read` has ended.
    """

    def __init__(self, path: Path, positions: Sequence[int] = (), lines: Sequence[int] = (), size: int = -1) -> None:
        self.path, self.size, self.digest = path, size, ""
        self.positions: Indices = np.asarray(positions, dtype=np.int64)
        self.lines = np.asarray(lines, dtype=np.uint32)
        self._opened: BinaryIO | None = None
        self._process = 0

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Line number and content of each row, in one pass that also finds positions, size and digest.

        Raises:
            DataError: the file can't be read.
        """
        positions, lines, digest = array("q"), array("I"), hashlib.sha256()
        try:
            file = self._file()
            for position, line, content in read_lines(file, digest.update):
                positions.append(position)
                lines.append(line)
                yield line, content
            self.size, self.digest = file.tell(), digest.hexdigest()
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror or error}") from None
        self.positions, self.lines = np.array(positions, dtype=np.int64), np.array(lines, dtype=np.uint32)

    def content(self, number: int) -> bytes:
        """What the file holds of a row.

        Args:
            number: the row's number in the file, from 0.
        """
        file = self._file()
        file.seek(int(self.positions[number]))
        return file.readline(MAX_ROW_BYTES + 1)

    def _file(self) -> BinaryIO:
        """The open file. Processes do not share one, as they would share its position."""
        if self._opened is None or self._process != os.getpid():
            self._opened, self._process = self.path.open("rb"), os.getpid()
            if self.size not in (-1, os.fstat(self._opened.fileno()).st_size):
                raise DataError(f"{self.path}: has changed since its rows were checked", "start the command again")
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}


Index = Mapping[Path, DataFile]
"""Data files by their paths, with the positions of their rows."""


def list_rows(path: Path) -> DataFile:
    """A data file with the positions of its rows.

    Raises:
        DataError: the file can't be read, or holds no row.
    """
    file = DataFile(path)
    if not sum(1 for _ in file.read()):
        raise DataError(f"{path} holds no row", JSONL)
    return file


def index_to_bytes(index: Index) -> bytes:
    """An index as a file in numpy's npz format."""
    arrays: dict[str, Any] = {"paths": np.array([str(path) for path in index], dtype=np.str_)}
    for number, file in enumerate(index.values()):
        arrays |= {f"positions-{number}": file.positions, f"lines-{number}": file.lines, f"size-{number}": file.size}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def read_index(path: Path) -> Index:
    with np.load(path, allow_pickle=False) as arrays:
        files = {}
        for number, name in enumerate(arrays["paths"].tolist()):
            positions, lines, size = (arrays[f"{each}-{number}"] for each in ("positions", "lines", "size"))
            files[Path(name)] = DataFile(Path(name), positions, lines, int(size))
        return files


class Rows:
    """Rows of one or several files as a dataset that the trainer can index.

    Args:
        left_out: rows not to have.
        text: the words around the coordinates.
        index: the files, with the positions of their rows; what it lacks is read here.

    Attributes:
        order: numbers of the rows, in their order; a row's number counts from 0 over all files, those left out too.
    """

    def __init__(
        self,
        files: Sequence[Path],
        left_out: LeftOut | None = None,
        text: GroundingTextSection = DEFAULT_TEXT,
        index: Index | None = None,
    ) -> None:
        known = {path: (index or {}).get(path) or list_rows(path) for path in dict.fromkeys(files)}
        self.files = [known[path] for path in files]
        self.text = text
        self._ends = np.cumsum([len(file.lines) for file in self.files])
        gone = [np.isin(file.lines, list((left_out or {}).get(file.path, ()))) for file in self.files]
        self.order: Indices = np.flatnonzero(~np.concatenate(gone))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row in ms-swift's layout, with its images in memory, as they are shown."""
        row = self.row(index)
        images = open_images(row)
        return with_images(row.to_swift([(image.shape[1], image.shape[0]) for image in images], self.text), images)

    def row(self, index: int) -> Row:
        """The row as the file gives it.

        Raises:
            DataError: the row is malformed.
        """
        return self._read(index)[0]

    def lengths(self, limits: PixelLimits) -> list[int]:
        """Tokens of each row, nearly: those of its images, and one per three bytes of its line."""
        size_of, read = remembered_sizes(), map(self._read, range(len(self)))
        return [
            length // 3 + sum(visual_tokens(*size_of(path), limits) for path in row.images if path)
            for row, length in read
        ]

    def _read(self, index: int) -> tuple[Row, int]:
        """A row, and the number of bytes that the file holds of it."""
        number = self.order[index]
        place = int(np.searchsorted(self._ends, number, side="right"))
        file, inner = self.files[place], int(number) - int(self._ends[place]) + len(self.files[place].lines)
        content = file.content(inner)
        return read_row(content, file.path, int(file.lines[inner])), len(content)

    def reordered(self, order: Indices) -> Rows:
        """The same rows in another order, or some of them."""
        rows = copy.copy(self)
        rows.order = self.order[order]
        return rows


def open_images(row: Row) -> list[Pixels]:
    """A row's images; none where some of them are not files."""
    return [] if None in row.images else [open_image(path) for path in row.images if path]


def to_row(record: Record, image: Pixels, text: GroundingTextSection) -> dict[str, Any]:
    """A record and its image in ms-swift's layout."""
    height, width = image.shape[:2]
    return with_images({"messages": to_messages(record, width, height, text)}, [image])


def with_images(row: dict[str, Any], images: Sequence[Pixels]) -> dict[str, Any]:
    """A row with its images in memory: from a file, ms-swift would not turn them upright, and clip 16 bits to white."""
    from PIL import Image as PilImage

    return {**row, "images": [PilImage.fromarray(image) for image in images]} if images else row
