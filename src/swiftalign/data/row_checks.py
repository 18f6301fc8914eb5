"""What is wrong with the targets and texts of a row, held against the size of its image."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from swiftalign.data.polygons import area, box_iou, crosses_itself, envelope
from swiftalign.data.records import PixelTarget, Point
from swiftalign.problems import Problem

# Coordinates that are this far outside come from rounding: they are clamped in the text. In pixels, and in shares of
# the side.
SLACK_PIXELS = 1.0
SLACK_SHARE = 0.005

LEAST_OVERLAP = 0.5  # of a box with its own object's outline, as intersection over union
SURE = math.log(1e-6)
ENOUGH_ROWS = 5

_CHECK_UNIT = 'check that they are pixels of this very image, or 0..1000 with "coordinates": "relative1000"'
_NOT_TEXT = re.compile(
    r"<\|(?:im_start|im_end|endoftext|vision_start|vision_end|image_pad|video_pad)\|>"
    r"|<(?:image|video|audio|bbox|ref-object)>"
)


def special_text(text: str, pattern: re.Pattern[str] = _NOT_TEXT) -> Iterator[Problem]:
    """Whether a text holds what the model or ms-swift reads as something other than text."""
    if "<" in text and (found := pattern.search(text)):
        hint = "remove it; <image> is inserted automatically"
        yield Problem("data-special-text", f"{found[0]} in {shown(text)}", hint)


def target_problems(target: PixelTarget, width: int, height: int) -> Iterator[Problem]:
    """What is wrong with a target on an image of this size in pixels."""
    name = f"{target.kind} of {shown(target.label)}"
    yield from outside_problems((*target.points, *target.outline), width, height, name)
    is_box, (left, top), (right, bottom) = target.kind == "bbox", target.points[0], target.points[-1]
    polygon = target.points if target.kind in ("quad", "polygon") else target.outline
    shape = "polygon" if target.kind == "polygon" else "quad"
    hint = "a box is [x1, y1, x2, y2], not [x, y, width, height]"
    if target.kind == "line" and len(set(target.points)) == 1:
        yield Problem("data-line-degenerate", f"{name}: all its points are one", "remove it, or give its ends")
    elif is_box and (right < left or bottom < top):
        yield Problem("data-box-degenerate", f"{name}: its second corner lies left of or above the first", hint)
    elif is_box and (right == left or bottom == top):
        yield Problem("data-box-degenerate", f"{name}: it has no area", hint)
    elif polygon and crosses_itself(np.array(polygon)):
        hint = "give its corners in order around the object"
        yield Problem("data-quad-crossed", f"{name}: two sides of the {shape} cross", hint)
    elif polygon and not area(np.array(polygon)):
        hint = "remove it, or give its corners in order around the object" if shape == "polygon" else hint
        yield Problem("data-box-degenerate", f"{name}: the {shape} has no area", hint)
    elif target.outline:
        box, around = np.array([target.points, envelope(np.array(target.outline))], dtype=np.float64)
        overlap = float(box_iou(box, around))
        if overlap < LEAST_OVERLAP:
            message = f"{name} overlaps the box around its own quad by {overlap:.2f}"
            yield Problem("data-outline-apart", message, "augmentation builds the box from the quad")


def outside_problems(points: Sequence[Point], width: int, height: int, name: str) -> Iterator[Problem]:
    """Whether points lie outside the image, and whether that can be rounding.

    Args:
        points: (x, y) in pixels.
        name: what has these points.
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    beyond = {"left": -min(xs), "right": max(xs) - width, "top": -min(ys), "bottom": max(ys) - height}
    edge = max(beyond, key=lambda each: beyond[each])
    by, side = round(beyond[edge], 6), width if edge in ("left", "right") else height
    if by <= 0:  # 1000 of 1000 may come out a hair beyond the edge
        return
    code, hint = "data-outside-slightly", "they are cut at its edge"
    if by > max(SLACK_PIXELS, SLACK_SHARE * side):
        code, hint = "data-outside-image", f"{_CHECK_UNIT}; if you allow them, {hint}"
    yield Problem(code, f"{name} reaches {by:.4g} px beyond the {edge} of {width}x{height}", hint)


class PixelSpread:
    """Whether the pixel coordinates of a file look like 0..1000; in constant memory."""

    def __init__(self) -> None:
        self._rows = self._outside = 0
        self._most = self._odds = 0.0

    def add(self, targets: Sequence[PixelTarget], width: int, height: int, *, outside: bool) -> None:
        """Take a row of pixel coordinates into account.

        Args:
            targets: one target or more.
            width: width of the image, in pixels.
            height: height of the image, in pixels.
            outside: whether the row has `data-outside-image`.
        """
        self._rows += 1
        self._outside += outside
        for axis, side in enumerate((width, height)):
            self._most = max(self._most, *(point[axis] for target in targets for point in target.points))
            # Far edges that are spread evenly over the side would stay below 1000 with this chance.
            self._odds += min(math.log(1000 / side), 0)

    def problems(self) -> Iterator[Problem]:
        """That the coordinates look relative, where they do."""
        larger, outside = self._odds < SURE, self._outside >= max(ENOUGH_ROWS, self._rows / 5)
        if 900 <= self._most <= 1000 and (larger or outside):
            many = f"and in {self._outside:,} rows they lie outside the image"
            reason = "though the images are larger" if larger else many
            message = f"no coordinate of {self._rows:,} rows passes 1000, the largest is {self._most:g}, {reason}"
            hint = 'if they are 0..1000 of the image\'s sides, add "coordinates": "relative1000" to the rows'
            yield Problem("data-coordinates-relative-like", message, hint)


def shown(text: str, limit: int = 60) -> str:
    """A text of the data for a message: short, on one line, and safe to print."""
    return repr(text if len(text) <= limit else text[:limit] + "...")
