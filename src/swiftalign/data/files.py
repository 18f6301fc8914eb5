"""Data files: where they lie, and the lines in them. Planning reads no more than their number."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from swiftalign.config.sections import Config
from swiftalign.problems import DataError

MAX_ROW_BYTES = 16_000_000
JSONL = "a JSONL file has one JSON object per line"  # a hint

# What JSON may turn into half of a surrogate pair: an escape, or the bytes that UTF-8 forbids.
_SURROGATE = re.compile(rb"\\u[dD]|\xed")


class RowCounts(NamedTuple):
    """Numbers of rows that a run uses, without those that are left out.

    Attributes:
        train: number of training rows; None where it is not known or no file is named.
        val: number of validation rows; 0 where no file is named, None where it is not known.
    """

    train: int | None
    val: int | None


UNKNOWN = RowCounts(None, None)


def require_training_data(config: Config) -> None:
    """Stop where a configuration names no training data.

    Raises:
        DataError: naming its file, and the phase where there are phases.
    """
    if not config.data.train:
        file = config.where().rpartition(":")[0] or config.where()
        file = f"{file}: {config.phase}" if config.phase else file
        raise DataError(f"{file}: no training data is named", "add a line 'data: {train: data/train.jsonl}'")


def count_rows(config: Config) -> RowCounts:
    """Count the rows of all data files, in one pass over each and in constant memory.

    Raises:
        DataError: a file does not exist, can't be read, or holds no row.
    """
    counts = []
    for part in ("train", "val"):
        counts.append(0)
        for index, path in enumerate(data_files(config, part)):
            rows = count_lines(path)
            if not rows:
                raise DataError(f"{config.where('data', part, index)}: data.{part}: {path} holds no row", JSONL)
            counts[-1] += rows
    return RowCounts(counts[0] or None, counts[1])


def data_files(config: Config, part: str) -> list[Path]:
    """The files that ``data.train`` or ``data.val`` names.

    Raises:
        DataError: one of them does not exist.
    """
    paths = [Path(name) for name in getattr(config.data, part)]
    for index, path in enumerate(paths):
        if not path.is_file():
            where = config.where("data", part, index)
            reason = "a folder, not a file" if path.is_dir() else "no such file"
            raise DataError(f"{where}: data.{part}: {path}: {reason}", _elsewhere(path, where))
    return paths


def _elsewhere(path: Path, where: str) -> str:
    """Paths are relative to the config file's folder: say so where the file lies under the current folder instead."""
    if where.startswith("--set "):
        return "in --set, paths are relative to the current folder"
    folder = Path(where.rpartition(":")[0]).absolute().parent
    if not path.is_relative_to(folder):
        return "check the path"
    here = Path.cwd() / path.relative_to(folder)
    rule = f"paths are relative to the config's own folder, {folder}"
    return f"{rule}; to use the file here write {here}" if here != path and here.is_file() else rule


def count_lines(path: Path) -> int:
    """The number of lines that are not blank.

    Raises:
        DataError: the file can't be read.
    """
    try:
        with path.open("rb") as file:
            return sum(1 for _ in read_lines(file))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def read_lines(
    file: BinaryIO, seen: Callable[[bytes], object] = lambda content: None
) -> Iterator[tuple[int, int, bytes]]:
    """The lines that are not blank: position of the first byte, line number from 1, and content.

    Of a line longer than `MAX_ROW_BYTES`, the content is that much and one byte: no more of it is ever in memory.

    Args:
        seen: gets every byte of the file, in order.
    """
    number = position = 0
    while content := file.readline(MAX_ROW_BYTES + 1):
        number, start = number + 1, position
        rest = content
        while True:
            seen(rest)
            position += len(rest)
            if len(rest) <= MAX_ROW_BYTES or rest.endswith(b"\n"):
                break
            rest = file.readline(MAX_ROW_BYTES + 1)
        if not content.isspace():
            yield start, number, content


def parse_json(line: bytes, path: Path, number: int) -> Any:
    """One line as JSON, all of whose texts can be written as UTF-8.

    Raises:
        DataError: it is not JSON, or too long.
    """
    if len(line) > MAX_ROW_BYTES:
        raise DataError(f"{path}:{number}: longer than {MAX_ROW_BYTES // 1_000_000} MB")
    try:
        row = json.loads(line)
        if _SURROGATE.search(line):
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number}: not JSON: {error}", JSONL) from None
    return row
