"""Files and folders of rows, each of which gives its rows in one pass, and then any row by its number.

Lines (JSONL, also compressed by gzip) stay in their file: of each row, only its place is in memory. JSON arrays,
Parquet files, folders that ``datasets`` saved and the files of annotation tools are read into memory as a whole.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from swiftalign.config.sections import DataSource
from swiftalign.data.files import JSONL, MAX_ROW_BYTES, distinct, has_lines, parse_json, read_lines
from swiftalign.data.formats import read_row
from swiftalign.data.records import Reading, Row
from swiftalign.data.tables import read_table
from swiftalign.data.text import DEFAULT_WRITING, Writing
from swiftalign.data.tools import find_tool
from swiftalign.data.words import shown
from swiftalign.files import file_error, require_fetched
from swiftalign.problems import DataError

Indices = np.ndarray[Any, np.dtype[np.int64]]

_MAX_UNPACKED = 200  # a gzip file may become so many times larger: text in JSON becomes about 10 times larger
_MAX_WHOLE = 2_000_000_000  # bytes of a file that is read as a whole


class DataFile:
    """A file of lines, which each process opens once.

    Args:
        source: the file, as the configuration names it. Rows beyond its limit are not read.
        writing: how the model writes coordinates.
        places: the position of each row, and at last the size of the file; the line number of each row, from 1, and at
            last 0; [n + 1, 2]. Found by `read` if not given. May have rows beyond the limit.

    Attributes:
        digest: SHA-256 of the lines that were read; empty until `read` has ended.
        left_out: what the file holds beyond rows, counted; filled by `read`.
    """

    def __init__(self, source: DataSource, writing: Writing = DEFAULT_WRITING, places: Indices | None = None) -> None:
        self.source, self.path, self.digest = source, Path(source.path), ""
        self.reading = reading_of(source, writing)
        self.places: Indices = np.empty((0, 2), dtype=np.int64) if places is None else places
        if source.limit is not None and len(self.places) > source.limit + 1:
            self.places = np.concatenate((self.places[: source.limit], self.places[-1:]))
        self.left_out: Counter[str] = Counter()
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
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            for position, line, content in islice(read_lines(file, digest.update), self.source.limit):
                places.extend((position, line))
                yield line, content
            places.extend((size, 0))
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror or error}") from None
        self.places, self.digest = np.frombuffer(places, dtype=np.int64).reshape(-1, 2), digest.hexdigest()

    def where(self, line: int) -> str:
        """File and line, for messages."""
        return f"{self.path}:{line}"

    def value(self, content: bytes, line: int) -> Any:
        """What the file holds of a row, as JSON.

        Raises:
            DataError: it is not JSON.
        """
        return parse_json(content, self.path, line)

    def size_of(self, content: Any) -> int:
        """The number of bytes of a row's text, nearly."""
        return len(content)

    def row(self, number: int) -> tuple[Row, int]:
        """A row by its number in the file, and the number of bytes of its text, nearly.

        Raises:
            DataError: the row is malformed, or the file has changed.
        """
        line, file = int(self.lines[number]), self._file()
        file.seek(self.places[number, 0])
        content = file.readline(MAX_ROW_BYTES + 1)
        return read_row(self.value(content, line), self.where(line), self.reading), self.size_of(content)

    def _file(self) -> BinaryIO:
        """The open file. Processes do not share one, as they would share its position."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), _unpacked(self.path) if self.path.suffix == ".gz" else self.path.open("rb")
            if len(self.places) and self.places[-1, 0] != os.fstat(self._opened[1].fileno()).st_size:
                raise DataError(f"{self.path}: has changed since its rows were checked", "start the command again")
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}


class LoadedFile(DataFile):
    """A file or folder whose rows are in memory; the arguments and errors are those of `DataFile`."""

    _values: list[tuple[str, Any]] | None = None
    _unchanged = False  # whether the values in memory are known to be those whose places were found

    def read(self) -> Iterator[tuple[int, Any]]:
        """The number of each row, from 1, and the row as JSON."""
        places, digest = array("q"), hashlib.sha256()
        values = self._load()
        for number, (_, value) in enumerate(values, 1):
            row_digest = _digest_of_row(value)
            digest.update(row_digest)
            # These rows have no position in a file. Part of the digest is kept instead, to find out about changes.
            places.extend((_place_of(row_digest), number))
            yield number, value
        places.extend((len(values), 0))
        self.places, self.digest = np.frombuffer(places, dtype=np.int64).reshape(-1, 2), digest.hexdigest()
        self._unchanged = True

    def where(self, line: int) -> str:
        return self._load()[line - 1][0]

    def value(self, content: Any, line: int) -> Any:
        return content

    def size_of(self, content: Any) -> int:
        return len(json.dumps(content, default=lambda _: ""))  # without images

    def row(self, number: int) -> tuple[Row, int]:
        lines, values = self.lines, self._load()
        if not self._unchanged:  # once: a digest of a row takes as long as its images are large
            found = [_place_of(_digest_of_row(value)) for _, value in values]
            if len(lines) != len(values) or found != self.places[:-1, 0].tolist():
                raise DataError(f"{self.path}: has changed since its rows were checked", "start the command again")
            self._unchanged = True
        where, value = values[number]
        return read_row(value, where, self.reading), self.size_of(value)

    def _load(self) -> list[tuple[str, Any]]:
        if self._values is None:
            self.left_out.clear()
            try:
                self._values = list(islice(_values(self.path, self.source, self.left_out), self.source.limit))
            except OSError as error:
                raise DataError(f"{self.path}: {error.strerror or error}") from None
        return self._values


def reading_of(source: DataSource, writing: Writing) -> Reading:
    """What the rows of a file mean where they do not say it."""
    path = Path(source.path)
    folder = Path(source.images) if source.images else path if path.is_dir() else path.parent
    return Reading(folder, source.coordinates, writing.unit, writing.own_boxes)


def open_file(source: DataSource, writing: Writing = DEFAULT_WRITING, places: Indices | None = None) -> DataFile:
    """Open a file or folder of rows, whatever its format.

    Raises:
        DataError: it is not a file or folder of rows.
    """
    path = Path(source.path)
    require_fetched(path, DataError)
    lines = _looks_like_lines(path) if path.suffix == ".json" and path.is_file() else has_lines(path)
    return (DataFile if lines else LoadedFile)(source, writing, places)


def _values(path: Path, source: DataSource, left_out: Counter[str]) -> Iterator[tuple[str, Any]]:
    """Place and content of each row of a file or folder that is read as a whole."""
    if tool := find_tool(path):
        yield from tool.read(path, Path(source.images) if source.images else None, left_out)
    elif path.suffix == ".parquet" or (path.is_dir() and (path / "state.json").is_file()):
        yield from read_table(path)
    elif path.is_dir() and (path / "dataset_dict.json").is_file():
        raise DataError(f"{path}: holds several splits", f"name one of them, e.g. {path / 'train'}")
    elif path.suffix == ".json":
        yield from _array(path)
    else:
        hint = "name a JSONL file, a JSON array, a Parquet file, or the export of an annotation tool"
        for file in sorted(path.iterdir()) if path.is_dir() else ():
            require_fetched(file, DataError)
        raise DataError(f"{path}: a {'folder' if path.is_dir() else 'file'} whose rows are not recognised", hint)


def _looks_like_lines(path: Path) -> bool:
    """Whether a .json file has one row per line."""
    with path.open("rb") as file:
        first = file.readline(MAX_ROW_BYTES).strip()
        if not first.startswith(b"{") or not first.endswith(b"}"):
            return False
        return bool(file.readline(100).strip()) or find_tool(path) is None


def _array(path: Path) -> Iterator[tuple[str, Any]]:
    """The elements of a JSON array, each with the line where it begins."""
    if path.stat().st_size > _MAX_WHOLE:
        raise DataError(f"{path}: too large for a JSON array", "write one row per line")
    decoder = json.JSONDecoder(object_pairs_hook=distinct)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error.reason} at byte {error.start:,}", "correct the file") from None
    position = len(text) - len(text.lstrip())
    if not text.startswith("[", position):
        raise DataError(f"{path}: neither a JSON array of rows nor the export of a known annotation tool", JSONL)
    line, seen, position = 1, 0, position + 1
    while True:
        while text[position : position + 1] in (" ", "\n", "\r", "\t", ","):
            position += 1
        line, seen = line + text.count("\n", seen, position), position
        if text.startswith("]", position):
            if rest := text[position + 1 :].strip():
                message = f"{path}:{line}: not JSON: after the array comes {shown(rest, 20)}"
                raise DataError(message, "write all rows into one array")
            return
        try:
            value, position = decoder.raw_decode(text, position)
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair can't be written
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{line}: not JSON: {error}", "correct the file") from None
        yield f"{path}:{line}", value


def _unpacked(path: Path) -> BinaryIO:
    """A gzip file as a temporary file without a name, which is gone when it is closed.

    Raises:
        DataError: it is damaged, or becomes far larger than text does.
    """
    most = path.stat().st_size * _MAX_UNPACKED + 1_000_000
    file = tempfile.TemporaryFile()  # noqa: SIM115  # it stays open for the caller
    try:
        with gzip.open(path) as packed:
            while part := packed.read(1 << 20):
                file.write(part)
                if file.tell() > most:
                    raise DataError(f"{path}: becomes more than {_MAX_UNPACKED} times larger", "unpack it first")
    except (gzip.BadGzipFile, EOFError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise DataError(f"{path}: not a sound gzip file: {error}", "write the file again") from None
    except OSError as error:
        error.filename = error.filename or tempfile.gettempdir()
        raise file_error(error, DataError, elsewhere="name another folder for temporary files in TMPDIR") from None
    file.flush()
    return file


def _place_of(row_digest: bytes) -> int:
    return int.from_bytes(row_digest[:8], "big", signed=True)


def _digest_of_row(value: Any) -> bytes:
    text = json.dumps(value, default=_digest_of_bytes)
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _digest_of_bytes(value: Any) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)
