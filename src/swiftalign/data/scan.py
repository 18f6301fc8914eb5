"""The pass over the data before anything trains: every row is checked, and what the run has to know of it is kept."""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from swiftalign.config.sections import Config, DataSource
from swiftalign.data.count import weighted
from swiftalign.data.encoding import Encoding, encoding_of
from swiftalign.data.files import RowCounts, data_sources
from swiftalign.data.formats import read_row
from swiftalign.data.formats.own import PLAIN_KINDS, glance
from swiftalign.data.image_check import Checked, ImageCheck
from swiftalign.data.images import NoSuchImageError, check_image, remembered_sizes
from swiftalign.data.records import Row
from swiftalign.data.row_checks import PixelSpread, UnitSpread, row_problems
from swiftalign.data.sizes import Size, model_size
from swiftalign.data.storage import DataFile, Indices, open_file
from swiftalign.data.targets import Kind, PixelTarget
from swiftalign.data.text import Composed
from swiftalign.data.tokens import Conversation
from swiftalign.data.words import special_text
from swiftalign.data.written import Written
from swiftalign.files import cache_path
from swiftalign.problems import DATA_CODES, DataError, Problem, counted

NAMED_ROWS = 4  # that a finding names; the others are counted
LONGEST_MESSAGE = 300  # characters
PROGRESS_ROWS = 1000
_MOST_SIZES = 4096  # of images, remembered by name

# What goes to the tokenizer together: rows, and characters, which bound the memory.
ROWS_AT_ONCE = 256
CHARACTERS_AT_ONCE = 4_000_000

Progress = Callable[[int], None]
"""Called now and then with the number of rows done."""

ImageProgress = Callable[[int, int], None]
"""Called now and then, once it takes long, with the number of images done and about how many there are."""


@dataclass(frozen=True)
class DataReport:
    """What one pass over the data has found.

    Attributes:
        rows: numbers of rows, without those left out.
        findings: one for each code.
        counts: number of rows by code.
        kinds: the kinds of target that can be scored, in each training file, and then in each validation file.
        left_out: line numbers of the rows that are left out as too long, by file; no entry for a file without any.
        files: the files, with the places of their rows, by path; up to the highest of a file's limits.
        without_image: number of training rows without an image.
        in_place: number of training rows whose targets augmentation can't move, by reason.
    """

    rows: RowCounts
    findings: tuple[Problem, ...]
    counts: Mapping[str, int]
    kinds: tuple[frozenset[Kind], ...]
    left_out: Mapping[Path, list[int]]
    files: Mapping[Path, DataFile]
    without_image: int = 0
    in_place: Mapping[str, int] = field(default_factory=dict)

    @property
    def index(self) -> dict[Path, Indices]:
        """The places of the rows of each file."""
        return {path: file.places for path, file in self.files.items()}

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, by path."""
        return {str(path): file.digest for path, file in self.files.items()}


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
    sources = data_sources(config, "train"), data_sources(config, "val")
    return scan(*sources, encoding_of(config), progress, check_images=check_images, image_progress=image_progress)


def scan(
    train: Sequence[DataSource | Path],
    val: Sequence[DataSource | Path] = (),
    encoding: Encoding = Encoding(),  # noqa: B008  # frozen
    progress: Progress = lambda rows: None,
    *,
    check_images: bool = True,
    image_progress: ImageProgress = lambda done, about: None,
) -> DataReport:
    """Check every row and every image; arguments and errors are those of `read_data`."""
    sources = [DataSource(path=str(each)) if isinstance(each, Path) else each for each in (*train, *val)]
    run = _Scan(encoding, progress)
    files: dict[Path, DataFile] = {}
    kinds: dict[_Meaning, frozenset[Kind]] = {}
    whole = {Path(source.path) for source in sources if source.limit is None}
    size = sum(path.stat().st_size for path in whole if path.is_file())

    def tell(done: int) -> None:
        image_progress(done, max(done, done * size // max(run.bytes, 1)))

    check = ImageCheck(run.add_unreadable, tell, cache=cache_path("sound-images")) if check_images else nullcontext()
    with warnings.catch_warnings(), check as run.images:
        warnings.simplefilter("ignore")  # Pillow's, about images whose faults are found here anyway
        for number, source in enumerate(sources):
            if (meaning := _meaning(source)) not in kinds:
                run.part = "train" if number < len(train) else "val"
                before = run.without_image, run.in_place.copy()
                file = open_file(source, encoding.writing)
                kinds[meaning] = run.read(file)
                if file.path not in files or len(file.places) > len(files[file.path].places):
                    files[file.path] = file
                if number >= len(train):
                    run.without_image, run.in_place = before
    run.count_waiting()
    run.left_out = {path: sorted(set(lines)) for path, lines in run.left_out.items()}
    progress(run.rows)
    counts: list[int] = []
    for source in sources:
        path = Path(source.path)
        lines = files[path].lines[: source.limit]
        kept = len(lines) - int(np.isin(lines, run.left_out.get(path, [])).sum())
        counts.append(weighted(kept, source.weight) if len(counts) < len(train) else kept)
    rows = RowCounts(sum(counts[: len(train)]), sum(counts[len(train) :]))
    found = tuple(kinds[_meaning(source)] for source in sources)
    return DataReport(
        rows, tuple(run.findings()), run.counts, found, run.left_out, files, run.without_image, run.in_place
    )


_Meaning = tuple[str, int | None, str | None, str | None]


def _meaning(source: DataSource) -> _Meaning:
    """What the rows of a file depend on: one that is named again with other settings is read again."""
    return source.path, source.limit, source.images, source.coordinates


class _Scan:
    """The state of a pass. What grows is 16 bytes per row, 9 per image, and the lines left out."""

    def __init__(self, encoding: Encoding, progress: Progress) -> None:
        self.rows = self.bytes = self.without_image = 0
        self.part = "train"
        self.images: ImageCheck | None = None  # where images are decoded too
        self.in_place: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()  # rows by code
        self.left_out: dict[Path, list[int]] = {}
        self.encoding, self._progress = encoding, progress
        self._first: dict[str, list[Problem]] = {}  # by code
        self._images = {"all": 0, "changed": 0, "reduced": 0}  # reduced to the model's limit
        self._largest = (0, "")  # pixels of the largest image, and its description
        self.size_of = remembered_sizes()
        self._waiting: list[tuple[Conversation, Path, int]] = []  # rows whose tokens have to be counted
        self._characters = 0
        self._last_unreadable = self._path = ""
        text = encoding.writing.text
        for name, value in (("prompt", text.prompt), ("system", text.system), ("first_line", text.first_line)):
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
            hint = (
                problem.hint.replace("FILE", self._path).replace("{train:", f"{{{self.part}:")
                if problem.hint
                else problem.hint
            )
            first.append(replace(problem, message=text, hint=hint, where=where))

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
        if changed := self._images["changed"]:
            message = (
                f"{changed:,} of {counted(self._images['all'], 'image')} reach the model at another size by more than "
                f"5%, {self._images['reduced']:,} of them reduced to its limit; the largest is {self._largest[1]}"
            )
            yield Problem("data-image-resized", message)

    def read(self, file: DataFile) -> frozenset[Kind]:
        """Check the rows of a file; returns the kinds of their targets that can be scored."""
        kinds, spread, before = set[Kind](), PixelSpread(), self.rows
        # As YAML in which it stands between braces.
        plain = re.fullmatch(r"[\w./][\w./-]*", str(file.path))
        self._path = str(file.path) if plain else json.dumps(str(file.path), ensure_ascii=False)
        units, quick = UnitSpread(file.reading.text_unit, self.encoding.limits), _Quick(self, file)
        for line, content in file.read():
            self.bytes += file.size_of(content)
            try:
                value = file.value(content, line)
                if quick.sound(value, line, spread):
                    problems = []
                else:
                    row = read_row(value, file.where(line), file.reading)
                    kinds |= row.kinds
                    problems = self._check(row, file, line, spread, units)
            except DataError as error:
                message = error.message.removeprefix(f"{file.where(line)}: ")
                problems = [Problem("data-row-malformed", message, error.hint or "correct or remove these rows")]
            if problems:
                where = file.where(line)
                for problem in {each.code: each for each in reversed(problems)}.values():  # the first of each code
                    self._add(problem, where)
            self.rows += 1
            if self.rows % PROGRESS_ROWS == 0:
                self._progress(self.rows)
        if self.rows == before:
            self._add(Problem("data-empty", "", "name a file with rows"), str(file.path))
        for problem in (*spread.problems(), *units.problems()):
            self._add(problem, str(file.path))
        if file.left_out:
            what = ", ".join(f"{name} ({number:,})" for name, number in file.left_out.most_common())
            self._add(Problem("data-annotations-left-out", what), str(file.path))
        return frozenset(kinds | quick.kinds)

    def _check(self, row: Row, file: DataFile, line: int, spread: PixelSpread, units: UnitSpread) -> list[Problem]:
        problems: list[Problem] = []
        sizes = [None if image is None else self.size(image, problems) for image in row.images]
        self._decode(row, file.where(line) if row.images else "", problems)
        self.without_image += not row.images
        if row.images and (reason := row.wording.fixed):
            self.in_place[reason] += 1
        problems += row_problems(row, sizes, self.encoding.limits)
        grouped = self.encoding.writing.text.shape == "by_image" or not isinstance(row.wording, Composed)
        if not grouped and len({target.image for target in row.targets}) > 1:
            message = f"its {counted(len(row.images), 'image')} share one list of objects"
            problems.append(Problem("data-image-unnamed", message, "group them: data: {text: {shape: by_image}}"))
        most = [max(map(max, each.points)) for each in row.targets if isinstance(each, PixelTarget)]
        if most and sizes[0]:
            outside = any(problem.code == "data-outside-image" for problem in problems)
            spread.add(max(most), *sizes[0], outside=outside)
        if isinstance(row.wording, Written):
            assumed = [row.targets[number] for number, spot in enumerate(row.wording.spots) if spot.assumed]
            if assumed and (size := sizes[assumed[0].image]):
                units.add(assumed, size)
        known = [size for size in sizes if size]
        if self.encoding.max_length and self.encoding.tokenizer and len(known) == len(sizes):
            conversation = self.encoding.conversation(row, known)
            if conversation is None:
                message = "its length, as it has tools, video, audio or a loss of its own"
                problems.append(Problem("data-unchecked", message))
            elif conversation.most > self.encoding.max_length:
                self._waiting.append((conversation, file.path, line))
                self._characters += conversation.most
                if len(self._waiting) >= ROWS_AT_ONCE or self._characters >= CHARACTERS_AT_ONCE:
                    self.count_waiting()
        return problems

    def size(self, image: Path | bytes, problems: list[Problem]) -> Size | None:
        limits = self.encoding.limits
        try:
            size = self.size_of(image)
            becomes = model_size(*size, limits)
        except NoSuchImageError:
            problems.append(
                Problem("data-image-missing", str(image), "image paths are relative to the data file's folder")
            )
            return None
        except DataError as error:
            problems.append(_unreadable(error))
            return None
        self.count_image(image, size, becomes)
        return size

    def count_image(self, image: Path | bytes, size: Size, becomes: Size) -> None:
        """Take the size of a row's image into account, and the size at which it reaches the model."""
        pixels, images = size[0] * size[1], self._images
        images["all"] += 1
        # Every image is rounded to whole patches; that matters where a side changes by more than a twentieth.
        images["changed"] += any(abs(now - then) > then / 20 for then, now in zip(size, becomes, strict=True))
        images["reduced"] += pixels > self.encoding.limits.most_unreduced
        if pixels > self._largest[0]:
            name = "an image in the file" if isinstance(image, bytes) else image
            self._largest = pixels, f"{name}, {size[0]}x{size[1]} -> {becomes[0]}x{becomes[1]}"

    def _decode(self, row: Row, where: str, problems: list[Problem]) -> None:
        """Have a row's images decoded, unless one of them is known to be unreadable: a row counts once."""
        if self.images is None:
            return
        if any(problem.code == "data-image-unreadable" for problem in problems):
            self.images.flush()  # so that the first rows are named
            return
        for image in row.images:
            if isinstance(image, Path):
                self.images.add(image, where)
            elif image is not None:
                try:
                    check_image(image)
                except DataError as error:
                    problems.append(_unreadable(error))

    def add_unreadable(self, where: str, error: DataError) -> None:
        """Count an image that could not be decoded."""
        if where != self._last_unreadable:
            self._last_unreadable = where
            self._add(_unreadable(error), where)

    def count_waiting(self) -> None:
        """Count the tokens of the rows that may be too long."""
        lengths = self.encoding.lengths([conversation for conversation, *_ in self._waiting])
        most, code = self.encoding.max_length or 0, "data-too-long"
        hint = "raise data.max_length, or leave these rows out: data.too_long: drop"
        for length, (_, path, line) in zip(lengths, self._waiting, strict=True):
            if length > most:
                if self.encoding.too_long == "drop":
                    code, hint = "data-too-long-dropped", ""
                    self.left_out.setdefault(path, []).append(line)
                self._add(Problem(code, f"{length:,} tokens of {most:,}", hint), f"{path}:{line}")
        self._waiting.clear()
        self._characters = 0


def _unreadable(error: DataError) -> Problem:
    message = error.message.removeprefix("image ")
    return Problem("data-image-unreadable", message, "replace these images, or remove their rows")


class _Quick:
    """The rows of a file that need no closer look: in this toolkit's layout, in pixels, and evidently without fault.

    Attributes:
        kinds: the kinds of their targets.
    """

    def __init__(self, run: _Scan, file: DataFile) -> None:
        self.kinds: set[Kind] = set()
        self._run, self._file, self._folder = run, file, file.reading.images
        self._keys: set[str] = set()
        self._known: dict[str, _KnownImage | None] = {}
        # Rows whose tokens are counted become conversations.
        counts = run.encoding.max_length and run.encoding.tokenizer
        self._possible = file.reading.unit in (None, "pixels") and not counts

    def sound(self, row: Any, line: int, spread: PixelSpread) -> bool:
        """Whether a row is one of these; then it is counted.

        Args:
            row: what the file holds of it, as JSON.
            line: its line number.
        """
        images = row.get("images") if self._possible and type(row) is dict else None
        if type(images) is not list or len(images) != 1 or type(images[0]) is not str:
            return False
        image = self._known.get(images[0], ...)
        if image is ...:
            image = self._look(images[0], line)
        elif image and image.check is not None:
            self._check_again(image, line)
        if image is None:
            return False
        size = image.size
        seen = glance(row, *size)
        if seen is None:
            return False
        most, keys = seen
        if not self._keys.issuperset(keys):
            self._keys.update(keys)
            self.kinds |= {PLAIN_KINDS[key] for key in keys}
        self._run.count_image(image.path, size, image.becomes)
        spread.add(most, *size, outside=False)
        return True

    def _look(self, name: str, line: int) -> _KnownImage | None:
        """An image, by its name in a row; None if something is wrong with it."""
        if len(self._known) >= _MOST_SIZES:
            self._known.clear()
        path, image, images = self._folder / name, None, self._run.images
        try:
            size = self._run.size_of(path)
            check = images.add(path, self._file.where(line)) if images else None
            image = _KnownImage(path, size, model_size(*size, self._run.encoding.limits), check)
        except DataError:
            pass
        self._known[name] = image
        return image

    def _check_again(self, image: _KnownImage, line: int) -> None:
        """Name a further row with an image that is not known to be sound yet."""
        assert image.check is not None
        if image.check.done() and image.check.result()[0] is None:
            image.check = None
        elif self._run.images:
            image.check = self._run.images.add(image.path, self._file.where(line))


@dataclass
class _KnownImage:
    """An image that several rows may have.

    Attributes:
        becomes: the size at which it reaches the model.
        check: its decoding, until it is known to be sound.
    """

    path: Path
    size: Size
    becomes: Size
    check: Checked | None
