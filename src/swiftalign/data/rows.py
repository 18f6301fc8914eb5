"""The reader of rows: one pass over a data file, and then any row by its position, without holding rows in memory."""

from __future__ import annotations

import copy
import hashlib
import io
import os
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

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


_RESTORE = "restore the file"


class DataFile:
    """A file of rows, which each process opens once.

    Another way to store rows than JSONL needs a class like this: one pass, and a position for each row that nothing but
    the class itself understands.

    Args:
        places: the position of each row, and at last the size of the file; the line number of each row, from 1, and at
            last 0; [n + 1, 2]. Found by `read` if not given.

    Attributes:
        digest: SHA-256 of the file; empty until `read` has ended.
    """

    def __init__(self, path: Path, places: Indices | None = None) -> None:
        self.path, self.digest = path, ""
        self.places: Indices = np.empty((0, 2), dtype=np.int64) if places is None else places
        self._opened: tuple[int, BinaryIO] | None = None

    @property
    def lines(self) -> Indices:
        """The line number of each row, found by `read` if it is not known yet."""
        if not len(self.places) and not sum(1 for _ in self.read()):
            raise DataError(f"{self.path} holds no row", JSONL)
        return self.places[:-1, 1]

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Line number and content of each row, in one pass that also finds places and digest.

        Raises:
            DataError: the file can't be read.
        """
        places, digest = array("q"), hashlib.sha256()
        try:
            file = self._file()
            file.seek(0)
            for position, line, content in read_lines(file, digest.update):
                places.extend((position, line))
                yield line, content
            places.extend((file.tell(), 0))
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror or error}") from None
        self.places, self.digest = np.frombuffer(places, dtype=np.int64).reshape(-1, 2), digest.hexdigest()

    def row(self, number: int) -> tuple[Row, int]:
        """A row by its number in the file, and how many bytes the file holds of it."""
        line, file = int(self.lines[number]), self._file()
        file.seek(self.places[number, 0])
        content = file.readline(MAX_ROW_BYTES + 1)
        return read_row(content, self.path, line), len(content)

    def _file(self) -> BinaryIO:
        """The open file. Processes do not share one, as they would share its position."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), self.path.open("rb")
            if len(self.places) and self.places[-1, 0] != os.fstat(self._opened[1].fileno()).st_size:
                raise DataError(f"{self.path}: has changed since its rows were checked", "start the command again")
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}


Index = Mapping[Path, DataFile]
"""Data files by their paths."""


def index_to_bytes(index: Index) -> bytes:
    """The places of the rows of all files, in numpy's npz format."""
    buffer = io.BytesIO()
    np.savez(buffer, np.array([str(path) for path in index]), *[file.places for file in index.values()])
    return buffer.getvalue()


def read_index(path: Path) -> Index:
    with np.load(path, allow_pickle=False) as arrays:
        names, *places = arrays.values()
        return {Path(name): DataFile(Path(name), each) for name, each in zip(names.tolist(), places, strict=True)}


class RowError(DataError):
    """A row that can't be used although the check before training passed: its message begins with file and line.

    A data loader's worker hands an exception on as text: torch makes a new exception of the same class, whose only
    argument is the worker's traceback. Message and hint are then found at the end of that text.

    References:
        torch `_utils.py`, `ExceptionWrapper.reraise`.

    Attributes:
        hint: None where the file's state is not the reason, so that only the log can say more.
        saved_at: the step at which the run was saved; 0 where it was not.
    """

    exit_code = 1
    saved_at = 0

    def __init__(self, message: str, hint: str | None = None) -> None:
        _, wrapped, told = message.rpartition(f"{RowError.__module__}.{RowError.__qualname__}: ")
        if wrapped:
            message, _, advice = told.strip().partition("\nhint: ")
            hint = advice or None
        super().__init__(" ".join(message.split()), hint)

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class Rows:
    """Rows of one or several files as a dataset that the trainer can index.

    Args:
        left_out: rows not to have.
        text: the words around the coordinates.
        index: files whose rows have been found already.

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
        known = {path: DataFile(path) for path in files} | dict(index or {})
        self.files = [known[path] for path in files]
        self.text = text
        self._ends = np.cumsum([len(file.lines) for file in self.files])
        gone = [np.isin(file.lines, list((left_out or {}).get(file.path, ()))) for file in self.files]
        self.order: Indices = np.flatnonzero(~np.concatenate(gone))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row in ms-swift's layout, with its images in memory, as they are shown."""
        with self.naming(index):
            row = self.row(index)
            images = open_images(row)
            return with_images(row.to_swift([(image.shape[1], image.shape[0]) for image in images], self.text), images)

    @contextmanager
    def naming(self, index: int) -> Iterator[None]:
        """Name a row's file and line in every error about it.

        Raises:
            RowError: the row, its file or one of its images can't be used.
        """
        try:
            yield
        except RowError:
            raise
        except Exception as error:
            file, number = self._place(index)
            where = f"{file.path}:{file.lines[number]}"
            if isinstance(error, DataError):
                reason = error.message.removeprefix(f"{where}: ").removeprefix(f"{file.path}: ")
                raise RowError(f"{where}: {reason}", error.hint or _RESTORE) from error
            if isinstance(error, OSError):
                of = f"{error.filename}: " if error.filename else ""
                raise RowError(f"{where}: {of}{error.strerror or error}", _RESTORE) from error
            raise RowError(f"{where}: {type(error).__name__}: {str(error)[:500]}") from error

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
        file, number = self._place(index)
        return file.row(number)

    def _place(self, index: int) -> tuple[DataFile, int]:
        """A row's file, and its number in the file."""
        place = int(np.searchsorted(self._ends, self.order[index], side="right"))
        file = self.files[place]
        return file, int(self.order[index] - self._ends[place] + len(file.lines))

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
    return {**row, "images": [Image.fromarray(image) for image in images]} if images else row
