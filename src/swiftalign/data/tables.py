"""Tables of rows: Parquet files, and folders that ``datasets`` saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from swiftalign.problems import DataError


def read_table(path: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and content of each row; images stay as their files' content.

    Args:
        columns: those of a Parquet file to read; None for all.

    Raises:
        DataError: it can't be read.
    """
    try:
        if path.is_dir():
            import datasets

            batches: Any = datasets.load_from_disk(str(path)).with_format("arrow").iter(1000)
        else:
            from pyarrow.parquet import ParquetFile

            batches = ParquetFile(path).iter_batches(1000, columns=columns)
        number = 0
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", _without_nulls(row)
    except DataError:
        raise
    except Exception as error:  # the libraries raise errors of many types on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: can't be read: {reason}", "write the file again") from None


def columns_of(path: Path) -> set[str]:
    """The names of a Parquet file's columns; none where it is damaged or missing."""
    from pyarrow.parquet import read_schema

    try:
        return set(read_schema(path).names)
    except Exception:  # of many types, as above
        return set()


def _without_nulls(value: Any) -> Any:
    """A value of a table without the keys that only other rows have: the objects of a column all have the same keys."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
