"""The number of rows that a run takes; of lines it is found without reading what they hold."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from swiftalign.config.sections import Config, DataSource
from swiftalign.data.files import JSONL, RowCounts, data_sources, has_lines, read_lines
from swiftalign.problems import DataError


def count_rows(config: Config) -> RowCounts:
    """Count the rows that an epoch takes from all data files, in one pass over each.

    Raises:
        DataError: a file does not exist, can't be read, or holds no row.
    """
    counts = []
    for part in ("train", "val"):
        counts.append(0)
        for index, source in enumerate(data_sources(config, part)):
            rows = rows_in(source)
            if not rows:
                raise DataError(f"{config.where('data', part, index)}: data.{part}: {source.path} holds no row", JSONL)
            counts[-1] += weighted(rows, source.weight) if part == "train" else rows
    return RowCounts(counts[0] or None, counts[1])


def rows_in(source: DataSource) -> int:
    """The number of rows that are taken of a file or folder.

    Raises:
        DataError: it can't be read.
    """
    path = Path(source.path)
    if has_lines(path) and path.suffix != ".gz":
        try:
            with path.open("rb") as file:
                return sum(1 for _ in islice(read_lines(file), source.limit))
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from None
    from swiftalign.data.storage import open_file

    return sum(1 for _ in open_file(source).read())


def weighted(rows: int, weight: float) -> int:
    """The rows that an epoch takes from a file with this many rows."""
    return max(round(rows * weight), 1) if rows else 0
