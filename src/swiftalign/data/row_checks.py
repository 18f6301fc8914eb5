"""What is wrong with a row's targets, held against the size of its image."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from swiftalign.data.polygons import area, box_iou, crosses_itself, envelope
from swiftalign.data.records import Point, Record, Target
from swiftalign.data.swift_rows import flat_text, placeholder_fault

Fault = tuple[str, str]  # code of a finding, and what is so

# Coordinates this far outside come from rounding: they are clamped in the text. In pixels, and in shares of the side.
SLACK_PIXELS = 1.0
SLACK_SHARE = 0.005

LEAST_OVERLAP = 0.5  # of a box with its own object's outline, as intersection over union
SURE = math.log(1e-6)
ENOUGH_ROWS = 5

_MODEL_TOKENS = re.compile(r"<\|(?:im_start|im_end|endoftext|vision_start|vision_end|image_pad|video_pad)\|>")
# ms-swift's own rows may well spell out an <|im_end|>; an image's tokens they never hold.
_VISUAL_TOKENS = re.compile(r"<\|(?:image_pad|video_pad)\|>")
_PLACEHOLDERS = re.compile(r"<(?:image|video|audio|bbox|ref-object)>")


def text_fault(text: str) -> str | None:
    """Whether a text holds what the model or ms-swift reads as something else than text."""
    found = _MODEL_TOKENS.search(text) or _PLACEHOLDERS.search(text)
    return f"{found[0]} in {shown(text)}" if found else None


def record_faults(record: Record, width: int, height: int) -> Iterator[Fault]:
    """The faults of a row of this toolkit.

    Args:
        record: as the row gives it.
        width: of its image as it is shown, in pixels.  height: likewise.
    """
    for text in (record.prompt, record.system, *(target.label for target in record.targets)):
        if text and "<" in text and (fault := text_fault(text)):
            yield "data-special-text", fault
    if not record.targets:
        yield "data-no-objects", ""
    if record.relative and (large := _beyond_thousand(record)):
        yield "data-coordinates-pixel-like", large
        return
    for target in record.in_pixels(width, height).targets:
        yield from target_faults(target, width, height)


def _beyond_thousand(record: Record) -> str | None:
    for target in record.targets:
        most = max(value for point in (*target.points, *target.outline) for value in point)
        if most > 1000 * (1 + SLACK_SHARE):
            return f"object {shown(target.label)} reaches {most:g} of 1000"
    return None


def target_faults(target: Target, width: int, height: int) -> Iterator[Fault]:
    """The faults of a target in pixels."""
    name = f"{target.kind} of {shown(target.label)}"
    if outside := outside_fault((*target.points, *target.outline), width, height, name):
        yield outside
    degenerate = _degenerate(target)
    if degenerate:
        yield degenerate[0], f"{name}: {degenerate[1]}"
    elif target.outline:
        box, around = np.array([target.points, envelope(np.array(target.outline))], dtype=np.float64)
        overlap = float(box_iou(box, around))
        if overlap < LEAST_OVERLAP:
            yield "data-outline-apart", f"{name} overlaps the box around its own quad by {overlap:.2f}"


def outside_fault(points: Sequence[Point], width: int, height: int, name: str) -> Fault | None:
    """Whether points lie outside the image, and whether that can be rounding.

    Args:
        points: (x, y) in pixels.
        name: of what has them.
    """
    by, beyond, side = _farthest(points, width, height)
    if by <= 0:
        return None
    code = "data-outside-image" if by > max(SLACK_PIXELS, SLACK_SHARE * side) else "data-outside-slightly"
    return code, f"{name} reaches {by:.4g} px beyond the {beyond} of {width}x{height}"


def _farthest(points: Sequence[Point], width: int, height: int) -> tuple[float, str, int]:
    """By how many pixels the farthest point is outside, beyond which edge, and how long that axis is."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, right, top, bottom = -min(xs), max(xs) - width, -min(ys), max(ys) - height
    farthest = max(left, right, top, bottom)
    by = round(farthest, 6)  # 1000 of 1000 may come out a hair beyond the edge
    if farthest in (left, right):
        return by, "left" if farthest == left else "right", width
    return by, "top" if farthest == top else "bottom", height


def _degenerate(target: Target) -> Fault | None:
    if target.kind == "line":
        return ("data-line-degenerate", "all its points are one") if len(set(target.points)) == 1 else None
    if target.kind == "bbox":
        (left, top), (right, bottom) = target.points
        if right < left or bottom < top:
            return "data-box-degenerate", "its second corner lies left of or above the first"
        if right == left or bottom == top:
            return "data-box-degenerate", "it has no area"
    quad = target.points if target.kind == "quad" else target.outline
    if quad and crosses_itself(np.array(quad)):
        return "data-quad-crossed", "two sides of the quad cross"
    if quad and not area(np.array(quad)):
        return "data-box-degenerate", "the quad has no area"
    return None


def swift_faults(row: dict[str, Any], sizes: Sequence[tuple[int, int] | None]) -> Iterator[Fault]:
    """The faults of a row of ms-swift's layout.

    Args:
        row: without faults of layout.
        sizes: width and height of the row's images, None where unknown.
    """
    if fault := placeholder_fault(row):
        yield "data-placeholders", fault
    for message in row["messages"]:
        text = flat_text(message.get("content")) or ""
        if found := _VISUAL_TOKENS.search(text):
            yield "data-special-text", f"{found[0]} in {shown(text)}"
    objects = row.get("objects") or {}
    boxes = objects.get("bbox") or []
    ids = [*(objects.get("image_id") or []), *[0] * len(boxes)]
    for number, (box, image) in enumerate(zip(boxes, ids, strict=False), 1):
        size = sizes[image] if sizes else None
        if size is not None:
            x, y = size if objects.get("bbox_type") == "norm1" else (1, 1)
            points = [(a * x, b * y) for a, b in zip(box[::2], box[1::2], strict=True)]
            if outside := outside_fault(points, size[0], size[1], f"bbox {number}"):
                yield outside


class PixelSpread:
    """Whether the pixel coordinates of a file look as if they were relative, 0..1000; in constant memory."""

    def __init__(self) -> None:
        self.rows = 0
        self._outside = 0
        self._most = 0.0
        self._odds = 0.0
        self._passed = False

    def add(self, record: Record, width: int, height: int, *, outside: bool) -> None:
        """Take a row of pixel coordinates into account; `outside` says that it has `data-outside-image`."""
        if not record.targets:
            return
        self.rows += 1
        self._outside += outside
        points = [point for target in record.targets for point in target.points]
        for side, most in ((width, max(x for x, _ in points)), (height, max(y for _, y in points))):
            self._most = max(self._most, most)
            self._passed |= most > 1000
            if side > 1000:
                # Far edges spread evenly over the side would stay below 1000 with this chance.
                self._odds += math.log(1000 / side)

    def verdict(self) -> str | None:
        """Why the coordinates look relative; None where they do not."""
        if self._passed or self._most < 900:
            return None
        seen = f"no coordinate of {self.rows:,} rows passes 1000, the largest is {self._most:g}"
        if self._odds < SURE:
            return f"{seen}, though the images are larger"
        if self._outside >= max(ENOUGH_ROWS, self.rows / 5):
            return f"{seen}, and in {self._outside:,} rows they lie outside the image"
        return None


def shown(text: str, limit: int = 60) -> str:
    """A text of the data for a message: short, on one line, and safe to print."""
    return repr(text if len(text) <= limit else text[:limit] + "...")
