"""What the rows of the data hold: images, what is on them, each with its unit in its type, and the words about it.

Rows of every layout become a `Row`: images, targets, and a `Wording`, which makes the conversation of them. Checks,
previews, augmentation and scores work on the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar, get_args

from swiftalign.config.sections import Kind as Kind
from swiftalign.config.sections import Unit
from swiftalign.data.sizes import DEFAULT_LIMITS, PixelLimits, model_size
from swiftalign.data.sizes import Size as Size
from swiftalign.problems import Problem

if TYPE_CHECKING:
    from swiftalign.data.text import Writing

KINDS: tuple[Kind, ...] = get_args(Kind)
Point = tuple[float, float]


class KindSpelling(NamedTuple):
    """How a kind of target is written.

    Attributes:
        row_key: its key in a row of this toolkit.
        text_key: its key in the text that the model reads and writes, in the naming of Qwen3-VL.
        least: lowest number of points.
        most: highest number of points; None for any number.
    """

    row_key: str
    text_key: str
    least: int
    most: int | None


SPELLINGS: dict[Kind, KindSpelling] = {
    "bbox": KindSpelling("bbox_2d", "bbox_2d", 2, 2),
    "quad": KindSpelling("quad", "quad_2d", 4, 4),
    "line": KindSpelling("line", "line_2d", 2, None),
    "point": KindSpelling("point_2d", "point_2d", 1, 1),
    "polygon": KindSpelling("polygon", "polygon_2d", 3, None),
}

_NUMBERS = {int, float}


def to_points(kind: Kind, numbers: Any, least: float = -1e9, most: float = 1e9) -> tuple[Point, ...]:
    """Numbers as the points of a target; none unless they are as many as the kind has, each from `least` to `most`."""
    spelling = SPELLINGS[kind]
    sound = isinstance(numbers, list) and all(type(n) in _NUMBERS and least <= n <= most for n in numbers)
    if not sound or len(numbers) % 2 or not spelling.least <= len(numbers) // 2 <= (spelling.most or len(numbers)):
        return ()
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


@dataclass(frozen=True)
class Target:
    """One object and where it is. The subclasses say in which unit.

    Attributes:
        points: (x, y): the top left and the bottom right corner of a box, the four corners of a quad, the two or more
            points of a line, the one of a point, the three or more corners of a polygon.
        outline: the four corners of the object in a box, where the row gives them; empty otherwise.
        image: number of the row's image that the object is in, from 0.
    """

    kind: Kind
    label: str
    points: tuple[Point, ...]
    outline: tuple[Point, ...] = ()
    image: int = 0

    @property
    def corners(self) -> tuple[Point, ...]:
        """The points that move with the image; a box's are clockwise from the top left."""
        if self.kind != "bbox" or len(self.points) != 2:
            return self.points
        (left, top), (right, bottom) = self.points
        return self.outline or ((left, top), (right, top), (right, bottom), (left, bottom))

    def _converted(self, to: type[AnyTarget], convert: Callable[[float, float], Point]) -> AnyTarget:
        points, outline = (tuple(convert(x, y) for x, y in each) for each in (self.points, self.outline))
        return to(self.kind, self.label, points, outline, self.image)


AnyTarget = TypeVar("AnyTarget", bound=Target)


class PixelTarget(Target):
    """A target in pixels, measured at pixel edges: the middle of the first pixel is (0.5, 0.5)."""

    def in_pixels(self, width: int, height: int, limits: PixelLimits = DEFAULT_LIMITS) -> PixelTarget:
        """The same target: rows may hold any unit."""
        return self

    def in_text(self, width: int, height: int) -> TextTarget:
        """As Qwen3-VL writes it: whole thousandths of the image's sides, rounded and clamped.

        >>> PixelTarget("line", "wire", ((0, 32), (63.9, 130))).in_text(width=64, height=128).points
        ((0, 250), (998, 1000))
        """
        points, outline = (rounded(each, (width, height), (1000, 1000)) for each in (self.points, self.outline))
        return TextTarget(self.kind, self.label, points, outline, self.image)

    def in_shares(self, width: int, height: int) -> ShareTarget:
        return self._converted(ShareTarget, lambda x, y: (x / width, y / height))


class TextTarget(Target):
    """A target in thousandths of the image's sides, 0..1000."""

    def in_pixels(self, width: int, height: int, limits: PixelLimits = DEFAULT_LIMITS) -> PixelTarget:
        x_factor, y_factor = width / 1000, height / 1000
        return self._converted(PixelTarget, lambda x, y: (x * x_factor, y * y_factor))

    def in_shares(self) -> ShareTarget:
        return self._converted(ShareTarget, lambda x, y: (x / 1000, y / 1000))


class ShareTarget(Target):
    """A target in shares of the image's sides, 0..1."""

    def in_pixels(self, width: int, height: int, limits: PixelLimits = DEFAULT_LIMITS) -> PixelTarget:
        return self._converted(PixelTarget, lambda x, y: (x * width, y * height))


class ResizedTarget(Target):
    """A target in pixels of the image at the size at which it reaches the model."""

    def in_pixels(self, width: int, height: int, limits: PixelLimits = DEFAULT_LIMITS) -> PixelTarget:
        wide, high = model_size(width, height, limits)
        return self._converted(PixelTarget, lambda x, y: (x * width / wide, y * height / high))


RowTarget = PixelTarget | TextTarget | ShareTarget | ResizedTarget
UNITS: dict[Unit, type[RowTarget]] = {
    "pixels": PixelTarget,
    "relative1000": TextTarget,
    "relative1": ShareTarget,
    "resized": ResizedTarget,
}


def rounded(points: Sequence[Point], size: Size, grid: Size) -> tuple[tuple[int, int], ...]:
    """Points in pixels as whole numbers of a grid, rounded and clamped.

    Args:
        size: width and height of the image, in pixels.
        grid: numbers that its width and height have in the grid, e.g. (1000, 1000).
    """
    (width, height), (wide, high) = size, grid
    return tuple(
        (min(max(round(x / width * wide), 0), wide), min(max(round(y / height * high), 0), high)) for x, y in points
    )


class Wording(Protocol):
    """The words of a row: what makes a conversation of its targets."""

    def to_swift(self, targets: Sequence[PixelTarget], sizes: Sequence[Size], writing: Writing) -> dict[str, Any]:
        """The row in ms-swift's own layout, without its images where they are files.

        Args:
            targets: the row's targets, in pixels of the images, which may have been moved.
            sizes: width and height of each of the images, in pixels; empty where some are not known.
            writing: how the model writes coordinates, and the words around them.
        """

    def without(self, dropped: Sequence[int]) -> Self:
        """The words without the targets of these numbers."""

    def mirrored(self) -> Self:
        """The words with left and right exchanged."""

    @property
    def names_sides(self) -> bool:
        """Whether the words contain left or right."""

    def problems(self, targets: Sequence[RowTarget]) -> Iterator[Problem]:
        """What is wrong with the words."""

    @property
    def fixed(self) -> str:
        """Why the targets must stay where they are; empty where they may move."""

    def can_lose(self, number: int) -> bool:
        """Whether a target may be dropped."""

    def answered(self, number: int) -> bool:
        """Whether the answer locates this target, so that the model's own answer can be scored."""


@dataclass(frozen=True)
class Record:
    """Images whose targets are known in pixels, so that they can move with them.

    Attributes:
        images: absolute paths.
        targets: targets in pixels of their images.
        numbers: of a part of a record, the number of each target in the whole.
    """

    images: tuple[Path | bytes | None, ...]
    targets: tuple[PixelTarget, ...]
    wording: Wording
    numbers: tuple[int, ...] = ()

    def on_image(self, image: int) -> Record:
        """The part of the record that is on one of its images; it has no words of its own."""
        numbers = tuple(number for number, target in enumerate(self.targets) if target.image == image)
        return Record((self.images[image],), tuple(self.targets[n] for n in numbers), self.wording, numbers)

    def can_lose(self, number: int) -> bool:
        """Whether a target may be dropped."""
        return self.wording.can_lose(self.numbers[number] if self.numbers else number)

    def to_swift(self, sizes: Sequence[Size], writing: Writing) -> dict[str, Any]:
        return self.wording.to_swift(self.targets, sizes, writing)

    def moved(self, targets: Sequence[PixelTarget | None]) -> Record:
        """The record with its targets where they are now; None for one that was dropped."""
        kept = tuple(target for target in targets if target)
        if len(kept) == len(targets):
            return replace(self, targets=kept)
        dropped = [number for number, target in enumerate(targets) if target is None]
        return replace(self, targets=kept, wording=self.wording.without(dropped))


@dataclass(frozen=True)
class Row:
    """One row of the data, whatever its layout.

    Attributes:
        images: absolute path of each image, or its file's content; None for an image on the web.
        targets: what the row locates, each in the row's own unit.
        declared: size of the first image as the row gives it, in pixels.
        remarks: what is wrong with the row apart from its targets and words.
    """

    images: tuple[Path | bytes | None, ...]
    targets: tuple[RowTarget, ...]
    wording: Wording
    declared: Size | None = None
    remarks: tuple[Problem, ...] = ()

    def record(self, sizes: Sequence[Size], limits: PixelLimits = DEFAULT_LIMITS) -> Record:
        """The row in pixels of its images.

        Args:
            sizes: width and height of each image as it is shown, in pixels.
            limits: how large the images reach the model.
        """
        targets = tuple(target.in_pixels(*sizes[target.image], limits) for target in self.targets)
        return Record(self.images, targets, self.wording)

    def to_swift(self, sizes: Sequence[Size], writing: Writing) -> dict[str, Any]:
        """The row in ms-swift's own layout.

        Args:
            sizes: width and height of each image as it is shown, in pixels; empty where some are not known.
            writing: how the model writes coordinates, and the words around them.
        """
        targets = self.record(sizes, writing.limits).targets if sizes else ()
        return self.wording.to_swift(targets, sizes, writing)

    @property
    def kinds(self) -> set[Kind]:
        """The kinds of target that can be scored in an answer."""
        return {target.kind for number, target in enumerate(self.targets) if self.wording.answered(number)}


class Reading(NamedTuple):
    """What the rows of a file mean where they do not say it.

    Attributes:
        images: folder that image paths are relative to.
        unit: the declared unit of the file's coordinates; None for that of each layout.
        text_unit: the unit in which the model writes coordinates.
        own_boxes: whether this toolkit writes ms-swift's placeholders as text; ms-swift does it otherwise.
    """

    images: Path
    unit: Unit | None = None
    text_unit: Unit = "relative1000"
    own_boxes: bool = True


class Format(NamedTuple):
    """A layout of rows.

    Attributes:
        recognise: whether a JSON object is a row of this layout.
        read: makes a row of the JSON object. Raises ValueError, whose text says what is wrong with the layout.
    """

    recognise: Callable[[dict[str, Any]], bool]
    read: Callable[[dict[str, Any], Reading], Row]
