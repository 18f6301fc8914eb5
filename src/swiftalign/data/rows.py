"""Rows of one or several files as a dataset, without holding them in memory, and how often an epoch takes each."""

from __future__ import annotations

import copy
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from swiftalign.config.sections import DataSource
from swiftalign.data.count import weighted
from swiftalign.data.images import Pixels, open_image, remembered_sizes
from swiftalign.data.records import Record, Row
from swiftalign.data.sizes import PixelLimits, Size, visual_tokens
from swiftalign.data.storage import DataFile, Indices, open_file, reading_of
from swiftalign.data.text import DEFAULT_WRITING, Writing
from swiftalign.problems import DataError

LeftOut = Mapping[Path, Collection[int]]
"""Line numbers of rows that are not used, by file."""

Index = Mapping[Path, Indices]
"""The places of the rows of each file."""


def index_to_bytes(files: Mapping[Path, DataFile]) -> bytes:
    """The places of the rows of all files, in numpy's npz format."""
    buffer = io.BytesIO()
    np.savez(buffer, np.array([str(path) for path in files]), *[file.places for file in files.values()])
    return buffer.getvalue()


def read_index(path: Path) -> Index:
    with np.load(path, allow_pickle=False) as arrays:
        names, *places = arrays.values()
        return {Path(name): each for name, each in zip(names.tolist(), places, strict=True)}


_RESTORE = "restore the file"


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
        sources: the files.
        left_out: rows not to have.
        writing: how the model writes coordinates, and the words around them.
        index: files whose rows have been found already: open ones, or the places of their rows.

    Attributes:
        order: numbers of the rows, in their order; a row's number counts from 0 over all files, those left out too.
    """

    def __init__(
        self,
        sources: Sequence[DataSource | Path],
        left_out: LeftOut | None = None,
        writing: Writing = DEFAULT_WRITING,
        index: Mapping[Path, DataFile | Indices] | None = None,
    ) -> None:
        named = [DataSource(path=str(each)) if isinstance(each, Path) else each for each in sources]
        self.files = [_file(source, writing, (index or {}).get(Path(source.path))) for source in named]
        self.writing = writing
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
            return with_images(row.to_swift(sizes_of(images), self.writing), images)

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
            where = self.where(index)
            if isinstance(error, DataError):
                reason = error.message.removeprefix(f"{where}: ").removeprefix(f"{where.rpartition(':')[0]}: ")
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

    def where(self, index: int) -> str:
        """File and line of a row, for messages."""
        file, number = self._file(index)
        return file.where(int(file.lines[number]))

    def source(self, index: int) -> str:
        """The name of a row's file in metrics."""
        return self._file(index)[0].source.label

    def file_numbers(self) -> Indices:
        """The number of each row's file."""
        return np.searchsorted(self._ends, self.order, side="right")

    def lengths(self, limits: PixelLimits) -> list[int]:
        """Tokens of each row, nearly: those of its images, and one per three bytes of its line."""
        size_of, read = remembered_sizes(), map(self._read, range(len(self)))
        return [
            length // 3 + sum(visual_tokens(*size_of(image), limits) for image in row.images if image is not None)
            for row, length in read
        ]

    def _read(self, index: int) -> tuple[Row, int]:
        file, number = self._file(index)
        return file.row(number)

    def _file(self, index: int) -> tuple[DataFile, int]:
        """A row's file, and its number in the file."""
        place = int(np.searchsorted(self._ends, self.order[index], side="right"))
        return self.files[place], int(self.order[index] - self._ends[place] + len(self.files[place].lines))

    def reordered(self, order: Indices) -> Rows:
        """The same rows in another order, or some of them."""
        rows = copy.copy(self)
        rows.order = self.order[order]
        return rows


def _file(source: DataSource, writing: Writing, known: DataFile | Indices | None) -> DataFile:
    if isinstance(known, DataFile):
        of_known = known.source.path, known.source.limit, known.reading
        if of_known == (source.path, source.limit, reading_of(source, writing)):
            return known
        known = known.places
    return open_file(source, writing, known)


class Mixture:
    """Which rows an epoch takes, where files have weights: the same in every process, and after a resume.

    A file of weight 2 is passed over twice in each epoch. Of a file of weight 0.1, an epoch takes a tenth of the rows,
    and the next epoch another tenth, until all rows had their turn.

    Args:
        rows: the rows of all files.
        seed: seed of the order.
        shuffle: whether the files are mixed.
    """

    def __init__(self, rows: Rows, seed: int, *, shuffle: bool) -> None:
        self.seed, numbers = seed, rows.file_numbers()
        self.places = [np.flatnonzero(numbers == number) for number in range(len(rows.files))]
        self.weights = [file.source.weight for file in rows.files]
        self.counts = [weighted(len(own), weight) for own, weight in zip(self.places, self.weights, strict=True)]
        self.order = np.random.default_rng(seed).permutation(len(self)) if shuffle else np.arange(len(self))
        self._known: tuple[int, Indices, Indices] = (-1, self.order, self.order)

    def __len__(self) -> int:
        return sum(self.counts)

    def picked(self, epoch: int) -> tuple[Indices, Indices]:
        """For each sample of an epoch, the index of its row, and the number of the pass over the file, from 0."""
        if self._known[0] != epoch:
            chosen, passes = [], []
            for file, (own, count) in enumerate(zip(self.places, self.counts, strict=True)):
                if not count:
                    continue
                turn, place = np.divmod(np.arange(epoch * count, (epoch + 1) * count), len(own))
                if count % len(own):  # passes are not whole: their rows come in an order of their own
                    for each in np.unique(turn):
                        order = np.random.default_rng((self.seed, file, int(each))).permutation(len(own))
                        place[turn == each] = order[place[turn == each]]
                chosen.append(own[place])
                passes.append(turn)
            self._known = epoch, np.concatenate(chosen)[self.order], np.concatenate(passes)[self.order]
        return self._known[1:]


def open_images(row: Row) -> list[Pixels]:
    """A row's images; none where some of them are on the web."""
    return [] if None in row.images else [open_image(image) for image in row.images if image is not None]


def sizes_of(images: Sequence[Pixels]) -> list[Size]:
    """Width and height of images in memory."""
    return [(image.shape[1], image.shape[0]) for image in images]


def to_row(record: Record, images: Sequence[Pixels], writing: Writing) -> dict[str, Any]:
    """A record and its images in ms-swift's layout."""
    return with_images(record.to_swift(sizes_of(images), writing), images)


def with_images(row: dict[str, Any], images: Sequence[Pixels]) -> dict[str, Any]:
    """A row with its images in memory: from a file, ms-swift would not turn them upright, and clip 16 bits to white."""
    return {**row, "images": [Image.fromarray(image) for image in images]} if images else row
