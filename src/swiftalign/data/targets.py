"""Boxes, quads, lines, points and polygons on images, each with its unit in its type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, get_args

from swiftalign.config.sections import Kind as Kind
from swiftalign.config.sections import Unit
from swiftalign.data.sizes import DEFAULT_LIMITS, PixelLimits, Size, model_size

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

OUTLINES: tuple[Kind, ...] = ("line", "quad", "polygon")
"""The kinds whose points have an order in which they are to be written, and may be written as pairs."""

_NUMBERS = {int, float}


def flat(numbers: Any) -> Any:
    """Pairs of numbers as one list; any other value as it is.

    >>> flat([[1, 2], [3, 4]])
    [1, 2, 3, 4]
    """
    if isinstance(numbers, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in numbers):
        return [number for pair in numbers for number in pair]
    return numbers


def to_points(kind: Kind, numbers: Any, least: float = -1e9, most: float = 1e9) -> tuple[Point, ...]:
    """Numbers as the points of a target; those of lines, quads and polygons may be pairs.

    Returns:
        The points; none unless they are as many as the kind has, and each number from `least` to `most`.
    """
    spelling = SPELLINGS[kind]
    numbers = flat(numbers) if kind in OUTLINES else numbers
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
