"""What the rows of the data hold: images, and the boxes, quads and lines on them, each with its unit in its type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, get_args

from swiftalign.config.sections import GroundingTextSection
from swiftalign.problems import Problem

Kind = Literal["bbox", "quad", "line", "point", "polygon"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Point = tuple[float, float]
Size = tuple[int, int]
"""Width and height of an image as it is shown, in pixels."""


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


def to_points(kind: Kind, numbers: Any, least: float = -1e9, most: float = 1e9) -> tuple[Point, ...]:
    """Numbers as the points of a target; none unless they are as many as the kind has, each from `least` to `most`."""
    spelling = SPELLINGS[kind]
    sound = isinstance(numbers, list) and all(type(n) in (int, float) and least <= n <= most for n in numbers)
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

    def in_pixels(self, width: int, height: int) -> PixelTarget:
        """The same target: rows may hold either unit."""
        return self

    def in_text(self, width: int, height: int) -> TextTarget:
        """As Qwen3-VL writes it: whole thousandths of the image's sides, rounded and clamped.

        >>> PixelTarget("line", "wire", ((0, 32), (63.9, 130))).in_text(width=64, height=128).points
        ((0, 250), (998, 1000))
        """
        return self._converted(TextTarget, lambda x, y: (_thousandths(x, width), _thousandths(y, height)))

    def in_shares(self, width: int, height: int) -> ShareTarget:
        return self._converted(ShareTarget, lambda x, y: (x / width, y / height))


class TextTarget(Target):
    """A target in thousandths of the image's sides, 0..1000."""

    def in_pixels(self, width: int, height: int) -> PixelTarget:
        x_factor, y_factor = width / 1000, height / 1000
        return self._converted(PixelTarget, lambda x, y: (x * x_factor, y * y_factor))

    def in_shares(self) -> ShareTarget:
        return self._converted(ShareTarget, lambda x, y: (x / 1000, y / 1000))


class ShareTarget(Target):
    """A target in shares of the image's sides, 0..1."""


def _thousandths(value: float, side: int) -> int:
    return min(max(round(value / side * 1000), 0), 1000)


@dataclass(frozen=True)
class Record:
    """An image whose targets are known in pixels, so that they can move with it.

    Attributes:
        images: one absolute path.
        prompt: the request; None for that of the configuration.
        system: the system message; None for that of the configuration.
    """

    images: tuple[Path, ...]
    targets: tuple[PixelTarget, ...] = ()
    prompt: str | None = None
    system: str | None = None


class Row(Protocol):
    """One row of the data, whatever its layout."""

    @property
    def images(self) -> tuple[Path | None, ...]:
        """Absolute paths; None for an image on the web or inline."""

    @property
    def targets(self) -> tuple[PixelTarget | TextTarget, ...]:
        """The targets in the answer that can be scored."""

    @property
    def objects(self) -> int:
        """Number of objects that the answer locates."""

    def problems(self, sizes: Sequence[Size | None]) -> Iterator[Problem]:
        """What is wrong with the row on images of these sizes, None where one is not known."""

    def to_swift(self, sizes: Sequence[Size], text: GroundingTextSection) -> dict[str, Any]:
        """The row in ms-swift's own layout.

        Args:
            sizes: sizes of the row's images as they are shown.
            text: the words around the coordinates.
        """


class Format(NamedTuple):
    """A layout of rows.

    Attributes:
        recognise: whether a JSON object is a row of this layout.
        fault: what is wrong with the layout of a JSON value; None for nothing.
        read: makes a row without fault from the JSON object and the folder that its image paths are relative to.
    """

    recognise: Callable[[dict[str, Any]], bool]
    fault: Callable[[Any], str | None]
    read: Callable[[dict[str, Any], Path], Row]
