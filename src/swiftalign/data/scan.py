"""Look at every row of JSONL files before anything trains, in constant memory."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from swiftalign.config.sections import GroundingTextSection
from swiftalign.data.answers import parse_answer
from swiftalign.data.images import NoSuchImageError, image_size
from swiftalign.data.records import Kind, layout_fault, parse_row, read_lines, to_record
from swiftalign.data.row_checks import PixelSpread, record_faults, swift_faults, text_fault
from swiftalign.data.scan_report import SeenFaults, SeenSizes
from swiftalign.data.swift_rows import swift_images
from swiftalign.data.text import DEFAULT_TEXT, TEXT_KEYS, to_messages
from swiftalign.data.tokens import DEFAULT_LIMITS, Conversation, PixelLimits, RowLength, Size, conversation, model_size
from swiftalign.problems import DataError, Problem

PROGRESS_ROWS = 1000
REMEMBERED_IMAGES = 4096  # sizes of images that several rows share

# What goes to the tokenizer together: rows, and characters, which bound the memory.
ROWS_AT_ONCE = 256
CHARACTERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class ScanReport:
    """What a scan has seen.

    Attributes:
        rows: of all files.
        findings: one for each code.
        counts: code -> number of rows.
        kinds: the kinds of target in each file.
        dropped: [n, 2]: file (by its place in the list) and line of each row that is left out as too long.
    """

    rows: int
    findings: tuple[Problem, ...]
    counts: Mapping[str, int]
    kinds: tuple[frozenset[Kind], ...]
    dropped: np.ndarray[Any, np.dtype[np.int64]]

    def left_out(self, files: Sequence[Path]) -> dict[Path, list[int]]:
        """The lines that are left out, of each of the files that were scanned, where there are any."""
        lines = {path: self.dropped[self.dropped[:, 0] == number, 1] for number, path in enumerate(files)}
        return {path: numbers.tolist() for path, numbers in lines.items() if len(numbers)}


def scan(
    files: Sequence[Path],
    *,
    max_length: int | None = None,
    too_long: Literal["refuse", "drop"] = "refuse",
    limits: PixelLimits = DEFAULT_LIMITS,
    tokenizer: Path | None = None,
    text: GroundingTextSection = DEFAULT_TEXT,
    system: str | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> ScanReport:
    """Check every row, and the header of every image.

    Args:
        max_length: tokens of a row; None to count none.
        too_long: whether longer rows are errors, or are listed to be left out.
        limits: of the images' sizes, in pixels.
        tokenizer: the model's ``tokenizer.json``; without it no tokens are counted.
        text: the words around the coordinates.
        system: ms-swift's argument of this name, for rows without a system message.
        progress: called now and then with the number of rows done.

    Raises:
        DataError: a file can't be read.
        ModelError: the tokenizer can't be read.
    """
    seen = SeenFaults()
    for name, value in (("prompt", text.prompt), ("system", text.system)):
        if value and (fault := text_fault(value)):
            seen.add("data-special-text", f"data.text.{name}", fault)
    if max_length and not tokenizer:
        seen.add("data-unchecked", "", "the length of the rows, as there is no tokenizer.json of a Qwen3-VL here")
    lengths = _Lengths(max_length, too_long, tokenizer, seen) if max_length and tokenizer else None
    run = _Scan(seen, limits, text, system, lengths, progress)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about images whose faults are found here anyway
        for number, path in enumerate(files):
            run.scan_file(path, number)
    if lengths:
        lengths.count()
    progress(run.rows)
    dropped = np.array(lengths.dropped if lengths else (), dtype=np.int64).reshape(-1, 2)
    return ScanReport(
        run.rows,
        (*seen.findings(), *run.sizes.findings()),
        dict(seen.counts),
        tuple(map(frozenset, run.kinds)),
        dropped,
    )


class _Lengths:
    """Rows held against max_length. Only those that may be too long go to the tokenizer."""

    def __init__(self, most: int, too_long: str, tokenizer: Path, seen: SeenFaults) -> None:
        self.dropped = array("q")  # file and line in turn
        self._most, self._drop, self._seen = most, too_long == "drop", seen
        self._tokenizer = RowLength(tokenizer)
        self._waiting: list[tuple[Conversation, int, int, str]] = []
        self._characters = 0

    def add(self, row: Conversation, file: int, line: int, where: str) -> None:
        if row.most <= self._most:
            return
        self._waiting.append((row, file, line, where))
        self._characters += row.most
        if len(self._waiting) >= ROWS_AT_ONCE or self._characters >= CHARACTERS_AT_ONCE:
            self.count()

    def count(self) -> None:
        """Count the rows that wait."""
        lengths = self._tokenizer.count([row for row, *_ in self._waiting]) if self._waiting else []
        for length, (_, file, line, where) in zip(lengths, self._waiting, strict=True):
            if length > self._most:
                code = "data-too-long-dropped" if self._drop else "data-too-long"
                self._seen.add(code, where, f"{length:,} tokens of {self._most:,}")
                if self._drop:
                    self.dropped.extend((file, line))
        self._waiting.clear()
        self._characters = 0


class _Scan:
    """The state of one scan. Nothing in it grows with the rows, but for 16 bytes for each that is left out."""

    def __init__(
        self,
        seen: SeenFaults,
        limits: PixelLimits,
        text: GroundingTextSection,
        system: str | None,
        lengths: _Lengths | None,
        progress: Callable[[int], None],
    ) -> None:
        self.rows = 0
        self.sizes = SeenSizes()
        self.kinds: list[set[Kind]] = []  # of each file
        self._seen, self._limits, self._text, self._system = seen, limits, text, system
        self._lengths, self._progress = lengths, progress
        self._size_of = lru_cache(REMEMBERED_IMAGES)(image_size)

    def scan_file(self, path: Path, number: int) -> None:
        before, spread = self.rows, PixelSpread()
        self.kinds.append(set())
        try:
            with path.open("rb") as file:
                for line_number, line in read_lines(file):
                    self._scan_line(line, path, number, line_number, spread)
                    self.rows += 1
                    if self.rows % PROGRESS_ROWS == 0:
                        self._progress(self.rows)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from None
        if self.rows == before:
            self._seen.add("data-empty", str(path))
        if verdict := spread.verdict():
            self._seen.add("data-coordinates-relative-like", str(path), verdict)

    def _scan_line(self, line: bytes, path: Path, file: int, line_number: int, spread: PixelSpread) -> None:
        where = f"{path}:{line_number}"
        faults: dict[str, str] = {}  # the first of each code
        try:
            row = parse_row(line, path, line_number)
            fault = layout_fault(row)
            if fault:
                raise DataError(fault)
            check = self._swift_row if "messages" in row else self._own_row
            known = check(row, path.parent, faults, spread)
            if self._lengths and known:
                self._lengths.add(known, file, line_number, where)
        except DataError as error:
            faults["data-row-malformed"] = error.message.removeprefix(f"{where}: ")
        for code, detail in faults.items():
            self._seen.add(code, where, detail)

    def _own_row(
        self, row: dict[str, Any], folder: Path, faults: dict[str, str], spread: PixelSpread
    ) -> Conversation | None:
        record = to_record(row, folder)
        self.kinds[-1].update(target.kind for target in record.targets)
        size = self._size(record.images[0], faults)
        if size is None:
            return None
        for code, detail in record_faults(record, *size):
            faults.setdefault(code, detail)
        if not record.relative:
            spread.add(record, *size, outside="data-outside-image" in faults)
        if not self._lengths:
            return None
        messages = to_messages(record.in_pixels(*size), *size, self._text)
        return conversation({"messages": messages}, [size], self._limits, self._system)

    def _swift_row(
        self, row: dict[str, Any], folder: Path, faults: dict[str, str], spread: PixelSpread
    ) -> Conversation | None:
        self.kinds[-1] |= self._answered_kinds(row)
        images = swift_images(row, folder)
        sizes = [None if image is None else self._size(image, faults) for image in images]
        for code, detail in swift_faults(row, sizes):
            faults.setdefault(code, detail)
        if None in images:
            faults["data-unchecked"] = "an image is on the web or inline"
        if not self._lengths or None in sizes:
            return None
        known = conversation(row, [size for size in sizes if size is not None], self._limits, self._system)
        if known is None:
            faults["data-unchecked"] = "its length, as it has tools, video, audio or a loss of its own"
        return known

    def _answered_kinds(self, row: dict[str, Any]) -> set[Kind]:
        text = row["messages"][-1].get("content")
        if not isinstance(text, str) or not any(key in text for key in TEXT_KEYS.values()):
            return set()
        return {target.kind for target in parse_answer(text).targets}

    def _size(self, image: Path, faults: dict[str, str]) -> Size | None:
        try:
            size = self._size_of(image)
            self.sizes.add(image, size, model_size(*size, self._limits), self._limits)
        except NoSuchImageError:
            faults.setdefault("data-image-missing", str(image))
            return None
        except DataError as error:
            faults.setdefault("data-image-unreadable", error.message.removeprefix("image "))
            return None
        return size
