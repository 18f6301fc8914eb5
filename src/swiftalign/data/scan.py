"""The pass over the data before anything trains: every row is checked, and what the run has to know of it is kept."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from swiftalign.config.sections import Config
from swiftalign.data.encoding import Encoding, encoding_of
from swiftalign.data.files import RowCounts, data_files
from swiftalign.data.formats import read_row
from swiftalign.data.image_check import ImageCheck, cache_file
from swiftalign.data.images import NoSuchImageError, remembered_sizes
from swiftalign.data.records import Kind, PixelTarget, Row, Size
from swiftalign.data.row_checks import PixelSpread, special_text
from swiftalign.data.rows import DataFile, Index
from swiftalign.data.tokens import Conversation, model_size
from swiftalign.problems import DATA_CODES, DataError, Problem, counted

NAMED_ROWS = 4  # that a finding names; the others are counted
LONGEST_MESSAGE = 300  # characters
PROGRESS_ROWS = 1000

# What goes to the tokenizer together: rows, and characters, which bound the memory.
ROWS_AT_ONCE = 256
CHARACTERS_AT_ONCE = 4_000_000

Progress = Callable[[int], None]
"""Called now and then with the number of rows done."""
ImageProgress = Callable[[int, int], None]
"""Called now and then with the number of images done, and about how many there are."""


@dataclass(frozen=True)
class DataReport:
    """What one pass over the data has found.

    Attributes:
        rows: numbers of rows, without those left out.
        findings: one for each code.
        counts: number of rows by code.
        kinds: the kinds of target in each training file, and then in each validation file.
        left_out: line numbers of the rows that are left out as too long, by file; no entry for a file without any.
        index: the files, with the places of their rows.
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


def read_data(
    config: Config,
    progress: Progress = lambda rows: None,
    *,
    check_images: bool = True,
    image_progress: ImageProgress = lambda done, about: None,
) -> DataReport:
    """Read all data of a configuration's run once.

    Args:
        check_images: whether images are decoded, not only their headers read.

    Raises:
        DataError: a file does not exist, or can't be read.
        ModelError: the tokenizer can't be read.
    """
    files = data_files(config, "train"), data_files(config, "val")
    return scan(*files, encoding_of(config), progress, check_images=check_images, image_progress=image_progress)


def scan(
    train: Sequence[Path],
    val: Sequence[Path] = (),
    encoding: Encoding = Encoding(),  # noqa: B008  # frozen
    progress: Progress = lambda rows: None,
    *,
    check_images: bool = True,
    image_progress: ImageProgress = lambda done, about: None,
) -> DataReport:
    """Check every row and every image; arguments and errors are those of `read_data`."""
    named, run = (*train, *val), _Scan(encoding, progress)
    index = {path: DataFile(path) for path in named}
    size = sum(path.stat().st_size for path in index if path.is_file())

    def tell(done: int) -> None:
        image_progress(done, max(done, done * size // max(run.bytes, 1)))

    check = ImageCheck(run.add_unreadable, tell, cache=cache_file()) if check_images else nullcontext()
    with warnings.catch_warnings(), check as run.images:
        warnings.simplefilter("ignore")  # Pillow's, about images whose faults are found here anyway
        kinds = {path: run.read(file) for path, file in index.items()}
    run.count_waiting()
    progress(run.rows)
    kept = {path: len(file.lines) - len(run.left_out.get(path, ())) for path, file in index.items()}
    rows = RowCounts(sum(kept[path] for path in train), sum(kept[path] for path in val))
    findings = tuple(run.findings())
    return DataReport(rows, findings, run.counts, tuple(kinds[path] for path in named), run.left_out, index)


class _Scan:
    """The state of a pass. What grows is 16 bytes per row, 9 per image, and the lines left out."""

    def __init__(self, encoding: Encoding, progress: Progress) -> None:
        self.rows = self.bytes = 0
        self.images: ImageCheck | None = None  # where images are decoded too
        self.counts: Counter[str] = Counter()  # rows by code
        self.left_out: dict[Path, list[int]] = {}
        self._encoding, self._progress = encoding, progress
        self._first: dict[str, list[Problem]] = {}  # by code
        self._images: Counter[str] = Counter()  # all, "changed" in size, "reduced" to the model's limit
        self._largest = (0, "")  # pixels of the largest image, and its description
        self._size_of = remembered_sizes()
        self._waiting: list[tuple[Conversation, Path, int]] = []  # rows whose tokens have to be counted
        self._characters = 0
        self._last_unreadable = ""
        for name, value in (("prompt", encoding.text.prompt), ("system", encoding.text.system)):
            for problem in special_text(value or ""):
                self._add(problem, f"data.text.{name}")
        if encoding.max_length and not encoding.tokenizer:
            message = "the length of the rows, as there is no tokenizer.json of a Qwen3-VL here"
            self._add(Problem("data-unchecked", message), "")

    def _add(self, problem: Problem, where: str) -> None:
        """Count a problem. Its message may hold the data's own words: it is kept short, and safe to print."""
        self.counts[problem.code] += 1
        first, text = self._first.setdefault(problem.code, []), problem.message
        if len(first) < NAMED_ROWS:
            text = text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}..."
            text = text if text.isprintable() else text.encode("unicode_escape").decode()
            first.append(replace(problem, message=text, where=where))

    def findings(self) -> Iterator[Problem]:
        """One for each code: the first rows in full, the others as a number."""
        for code, (_, title) in DATA_CODES.items():
            if code in self._first:
                first, *others = self._first[code]
                lines = [f"{title}: {first.message}".removesuffix(": ")]
                lines += [f"    {other.where}: {other.message}".removesuffix(": ") for other in others]
                rest = self.counts[code] - len(self._first[code])
                lines += [f"    and {counted(rest, 'more row')}"] if rest else []
                yield replace(first, message="\n".join(lines))
        if self._images["changed"]:
            message = (
                f"{self._images['changed']:,} of {counted(self._images['all'], 'image')} reach the model at another "
                f"size, {self._images['reduced']:,} of them reduced to its limit; the largest is {self._largest[1]}"
            )
            yield Problem("data-image-resized", message)

    def read(self, file: DataFile) -> frozenset[Kind]:
        """Check the rows of a file; returns the kinds of their targets."""
        kinds, spread, before = set[Kind](), PixelSpread(), self.rows
        for line, content in file.read():
            self.bytes += len(content)
            where = f"{file.path}:{line}"
            try:
                row = read_row(content, file.path, line)
                kinds |= {target.kind for target in row.targets}
                problems = self._check(row, file.path, line, spread)
            except DataError as error:
                message = error.message.removeprefix(f"{where}: ")
                problems = [Problem("data-row-malformed", message, "correct or remove these rows")]
            for problem in {each.code: each for each in reversed(problems)}.values():  # the first one of each code
                self._add(problem, where)
            self.rows += 1
            if self.rows % PROGRESS_ROWS == 0:
                self._progress(self.rows)
        if self.rows == before:
            self._add(Problem("data-empty", "", "name a file with rows"), str(file.path))
        for problem in spread.problems():
            self._add(problem, str(file.path))
        return frozenset(kinds)

    def _check(self, row: Row, path: Path, line: int, spread: PixelSpread) -> list[Problem]:
        problems: list[Problem] = []
        sizes = [None if image is None else self._size(image, problems) for image in row.images]
        self._decode(row, f"{path}:{line}", problems)
        problems += row.problems(sizes)
        targets = [target for target in row.targets if isinstance(target, PixelTarget)]
        if targets and sizes[0]:
            spread.add(targets, *sizes[0], outside=any(problem.code == "data-outside-image" for problem in problems))
        known = [size for size in sizes if size]
        if self._encoding.max_length and self._encoding.tokenizer and len(known) == len(sizes):
            conversation = self._encoding.conversation(row, known)
            if conversation is None:
                message = "its length, as it has tools, video, audio or a loss of its own"
                problems.append(Problem("data-unchecked", message))
            elif conversation.most > self._encoding.max_length:
                self._waiting.append((conversation, path, line))
                self._characters += conversation.most
                if len(self._waiting) >= ROWS_AT_ONCE or self._characters >= CHARACTERS_AT_ONCE:
                    self.count_waiting()
        return problems

    def _size(self, image: Path, problems: list[Problem]) -> Size | None:
        limits = self._encoding.limits
        try:
            size = self._size_of(image)
            becomes = model_size(*size, limits)
        except NoSuchImageError:
            problems.append(
                Problem("data-image-missing", str(image), "image paths are relative to the data file's folder")
            )
            return None
        except DataError as error:
            problems.append(_unreadable(error))
            return None
        pixels = size[0] * size[1]
        self._images.update(all=1, changed=size != becomes, reduced=pixels > limits.most_unreduced)
        if pixels > self._largest[0]:
            self._largest = pixels, f"{image}, {size[0]}x{size[1]} -> {becomes[0]}x{becomes[1]}"
        return size

    def _decode(self, row: Row, where: str, problems: list[Problem]) -> None:
        """Have a row's images decoded, unless one of them is known to be unreadable: a row counts once."""
        if self.images is None:
            return
        if any(problem.code == "data-image-unreadable" for problem in problems):
            self.images.flush()  # so that the first rows are named
            return
        for image in row.images:
            if image:
                self.images.add(image, where)

    def add_unreadable(self, where: str, error: DataError) -> None:
        """Count an image that could not be decoded."""
        if where != self._last_unreadable:
            self._last_unreadable = where
            self._add(_unreadable(error), where)

    def count_waiting(self) -> None:
        """Count the tokens of the rows that may be too long."""
        lengths = self._encoding.lengths([conversation for conversation, *_ in self._waiting])
        most, code = self._encoding.max_length or 0, "data-too-long"
        hint = "raise data.max_length, or leave these rows out: data.too_long: drop"
        for length, (_, path, line) in zip(lengths, self._waiting, strict=True):
            if length > most:
                if self._encoding.too_long == "drop":
                    code, hint = "data-too-long-dropped", ""
                    self.left_out.setdefault(path, []).append(line)
                self._add(Problem(code, f"{length:,} tokens of {most:,}", hint), f"{path}:{line}")
        self._waiting.clear()
        self._characters = 0


def _unreadable(error: DataError) -> Problem:
    message = error.message.removeprefix("image ")
    return Problem("data-image-unreadable", message, "replace these images, or remove their rows")
