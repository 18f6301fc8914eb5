"""The pass over the data before anything trains: every row is checked, and what the run has to know of it is kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swiftalign.config.sections import Config
from swiftalign.data.encoding import Encoding, encoding_of
from swiftalign.data.files import RowCounts, data_files
from swiftalign.data.formats import read_row
from swiftalign.data.images import NoSuchImageError, remembered_sizes
from swiftalign.data.records import Kind, PixelTarget, Row, Size, malformed
from swiftalign.data.row_checks import PixelSpread, special_text
from swiftalign.data.rows import DataFile, Index
from swiftalign.data.scan_report import RowProblems, SeenSizes
from swiftalign.data.tokens import Conversation, model_size
from swiftalign.problems import DataError, Problem

PROGRESS_ROWS = 1000

# What goes to the tokenizer together: rows, and characters, which bound the memory.
ROWS_AT_ONCE = 256
CHARACTERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class DataReport:
    """What one pass over the data has found.

    Attributes:
        rows: numbers of rows, without those left out.
        findings: one for each code.
        counts: number of rows by code.
        kinds: the kinds of target in each training file, and then in each validation file.
        left_out: line numbers of the rows that are left out as too long, by file; no entry for a file without any.
        index: the files, with the positions of their rows.
    """

    rows: RowCounts
    findings: tuple[Problem, ...]
    counts: Mapping[str, int]
    kinds: tuple[frozenset[Kind], ...]
    left_out: Mapping[Path, list[int]]
    index: Index

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, by path."""
        return {str(path): file.digest for path, file in self.index.items()}


Progress = Callable[[int], None]


def read_data(config: Config, progress: Progress = lambda rows: None) -> DataReport:
    """Read all data of a configuration's run once.

    Args:
        progress: called now and then with the number of rows done.

    Raises:
        DataError: a file does not exist, or can't be read.
        ModelError: the tokenizer can't be read.
    """
    return scan(data_files(config, "train"), data_files(config, "val"), encoding_of(config), progress)


def scan(
    train: Sequence[Path],
    val: Sequence[Path] = (),
    encoding: Encoding = Encoding(),  # noqa: B008  # frozen
    progress: Progress = lambda rows: None,
) -> DataReport:
    """Check every row, and the header of every image; arguments and errors are those of `read_data`."""
    run = _Scan(encoding, progress)
    index = {path: DataFile(path) for path in (*train, *val)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about images whose faults are found here anyway
        kinds = {path: frozenset(run.read(file)) for path, file in index.items()}
    run.count_waiting()
    progress(run.rows)
    kept = {path: len(file.lines) - len(run.left_out.get(path, ())) for path, file in index.items()}
    return DataReport(
        RowCounts(sum(kept[path] for path in train), sum(kept[path] for path in val)),
        (*run.problems.findings(), *run.sizes.findings()),
        run.problems.counts,
        tuple(kinds[path] for path in (*train, *val)),
        run.left_out,
        index,
    )


class _Scan:
    """The state of a pass. What grows with the rows is 12 bytes per row, and the lines that are left out."""

    def __init__(self, encoding: Encoding, progress: Progress) -> None:
        self.rows = 0
        self.problems, self.sizes = RowProblems(), SeenSizes()
        self.left_out: dict[Path, list[int]] = {}
        self._encoding, self._progress = encoding, progress
        self._size_of = remembered_sizes()
        self._counts = encoding.max_length is not None and encoding.tokenizer is not None
        self._waiting: list[tuple[Conversation, Path, int]] = []
        self._characters = 0
        for name, value in (("prompt", encoding.text.prompt), ("system", encoding.text.system)):
            for problem in special_text(value or ""):
                self.problems.add(problem, f"data.text.{name}")
        if encoding.max_length and not encoding.tokenizer:
            message = "the length of the rows, as there is no tokenizer.json of a Qwen3-VL here"
            self.problems.add(Problem("data-unchecked", message), "")

    def read(self, file: DataFile) -> set[Kind]:
        """Check the rows of a file; returns the kinds of their targets."""
        kinds, spread, before = set[Kind](), PixelSpread(), self.rows
        for line, content in file.read():
            where = f"{file.path}:{line}"
            try:
                row = read_row(content, file.path, line)
                kinds |= {target.kind for target in row.targets}
                found = self._check(row, file.path, line, spread)
            except DataError as error:
                found = [malformed(error.message.removeprefix(f"{where}: "))]
            for problem in {each.code: each for each in reversed(found)}.values():  # the first one of each code
                self.problems.add(problem, where)
            self.rows += 1
            if self.rows % PROGRESS_ROWS == 0:
                self._progress(self.rows)
        if self.rows == before:
            self.problems.add(Problem("data-empty", "", "name a file with rows"), str(file.path))
        for problem in spread.problems():
            self.problems.add(problem, str(file.path))
        return kinds

    def _check(self, row: Row, path: Path, line: int, spread: PixelSpread) -> list[Problem]:
        found: list[Problem] = []
        sizes = [None if image is None else self._size(image, found) for image in row.images]
        found += row.problems(sizes)
        targets = [target for target in row.targets if isinstance(target, PixelTarget)]
        if targets and sizes[0] is not None:
            outside = any(problem.code == "data-outside-image" for problem in found)
            spread.add(targets, *sizes[0], outside=outside)
        known = [size for size in sizes if size is not None]
        if self._counts and len(known) == len(sizes):
            conversation = self._encoding.conversation(row, known)
            if conversation is None:
                message = "its length, as it has tools, video, audio or a loss of its own"
                found.append(Problem("data-unchecked", message))
            elif conversation.most > (self._encoding.max_length or 0):
                self._waiting.append((conversation, path, line))
                self._characters += conversation.most
                if len(self._waiting) >= ROWS_AT_ONCE or self._characters >= CHARACTERS_AT_ONCE:
                    self.count_waiting()
        return found

    def _size(self, image: Path, found: list[Problem]) -> Size | None:
        try:
            size = self._size_of(image)
            self.sizes.add(image, size, model_size(*size, self._encoding.limits), self._encoding.limits)
        except NoSuchImageError:
            found.append(Problem("data-image-missing", str(image), "image paths count from the data file's folder"))
            return None
        except DataError as error:
            message = error.message.removeprefix("image ")
            found.append(Problem("data-image-unreadable", message, "replace these images, or remove their rows"))
            return None
        return size

    def count_waiting(self) -> None:
        """Count the tokens of the rows that may be too long."""
        lengths = self._encoding.lengths([conversation for conversation, *_ in self._waiting]) if self._waiting else ()
        most, drop = self._encoding.max_length or 0, self._encoding.too_long == "drop"
        for length, (_, path, line) in zip(lengths, self._waiting, strict=True):
            if length > most:
                message, where = f"{length:,} tokens of {most:,}", f"{path}:{line}"
                if drop:
                    self.problems.add(Problem("data-too-long-dropped", message), where)
                    self.left_out.setdefault(path, []).append(line)
                else:
                    hint = "raise data.max_length, or leave these rows out: data.too_long: drop"
                    self.problems.add(Problem("data-too-long", message, hint), where)
        self._waiting.clear()
        self._characters = 0
