"""Data files: where they lie, and the lines in them. Planning reads no more than their number."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from swiftalign.config.sections import Config, DataSource
from swiftalign.files import not_fetched
from swiftalign.problems import DataError, size_text

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


def data_sources(config: Config, part: Literal["train", "val"]) -> list[DataSource]:
    """What ``data.train`` or ``data.val`` names.

    Raises:
        DataError: one of the files and folders does not exist.
    """
    sources = config.data.sources(part)
    for index, source in enumerate(sources):
        path = Path(source.path)
        where = config.where("data", part, index)
        if not path.exists():
            what, hint = not_fetched(path) or ("no such file", _elsewhere(path, where))
            raise DataError(f"{where}: data.{part}: {path}: {what}", hint)
        if part == "val" and path.suffix in (".yaml", ".yml") and source.path in {e.path for e in config.data.train}:
            hint = "name the folder of the validation labels, e.g. labels/val"
            raise DataError(f"{where}: data.val: {path}: stands for its training images, as in data.train", hint)
        if source.images and not Path(source.images).is_dir():
            raise DataError(f"{where}: images: {source.images}: no such folder", "name the folder of the images")
    return sources


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


def has_lines(path: Path) -> bool:
    """Whether a file has one row per line, by its name; of a .json file it has to be looked for."""
    whole = (".json", ".parquet", ".xml", ".yaml", ".yml", ".txt", ".csv")
    return not path.is_dir() and path.suffix not in whole


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
        raise DataError(f"{path}:{number}: longer than {size_text(MAX_ROW_BYTES)}")
    try:
        row, escapes = json.loads(line), b"\\" in line
        if (escapes or not line.isascii()) and _SURROGATE.search(line):
            json.dumps(row, ensure_ascii=False).encode()
        # Of two equal keys, json keeps the last. Each key ends with a quote and a colon, and nothing else does, except
        # an escaped quote: only where the numbers differ is a closer look needed.
        keys = line.count(b'":') - (line.count(b'\\":') if escapes else 0)
        spaced = b'" :' in line or b'"\t:' in line or b'"\r:' in line
        if keys != _keys(row) or spaced or (escapes and b'\\\\":' in line):
            json.loads(line, object_pairs_hook=distinct)
    except _TwiceError as error:
        raise DataError(f"{path}:{number}: {error}", "correct or remove these rows") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number}: not JSON: {error}", JSONL) from None
    return row


class _TwiceError(ValueError):
    """A JSON object in which a key is given twice."""


def _keys(row: Any) -> int:
    """The number of keys of a row, and of the objects that are its values or stand in its lists."""
    if type(row) is not dict:
        return 0
    count = len(row)
    for value in row.values():
        if type(value) is list:
            for item in value:
                if type(item) is dict:
                    count += len(item)
        elif type(value) is dict:
            count += len(value)
    return count


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; for ``object_pairs_hook``.

    Raises:
        ValueError: a key is given twice.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise _TwiceError(f"the key {twice!r} is given twice")
    return values
