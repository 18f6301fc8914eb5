"""What is wrong with the targets and texts of a row, held against the size of its image."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from swiftalign.config.sections import Unit
from swiftalign.data.polygons import area, box_iou, crosses_itself, envelope
from swiftalign.data.records import Row
from swiftalign.data.sizes import PixelLimits, Size, model_size
from swiftalign.data.targets import PixelTarget, Point, RowTarget, ShareTarget, Target, TextTarget
from swiftalign.data.words import shown
from swiftalign.problems import Problem, counted

# Coordinates that are this far outside come from rounding: they are clamped in the text. In pixels, and in shares of
# the side.
SLACK_PIXELS = 1.0
SLACK_SHARE = 0.005

LEAST_OVERLAP = 0.5  # of a box with its own object's outline, as intersection over union
SURE = math.log(1e-6)
ENOUGH_ROWS = 5

DECLARE = "declare it beside the file: data: {train: [{path: FILE, coordinates: UNIT}]}"
_CHECK_UNIT = "check that they are pixels of this very image; if they have another unit, declare it: data.coordinates"
NAMELESS = Problem("data-label-empty", "an object has an empty label", "name the object")


def target_problems(target: PixelTarget, width: int, height: int, name: str) -> Iterator[Problem]:
    """What is wrong with a target on an image of this size in pixels; messages have this name of the target."""
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

    def add(self, most: float, width: int, height: int, *, outside: bool) -> None:
        """Take a row of pixel coordinates into account.

        Args:
            most: the largest coordinate.
            width: width of the image, in pixels.
            height: height of the image, in pixels.
            outside: whether the row has `data-outside-image`.
        """
        self._rows += 1
        self._outside += outside
        self._most = max(self._most, most)
        for side in (width, height):
            if side > 1000:  # far edges that are spread evenly over the side would stay below 1000 with this chance
                self._odds += math.log(1000 / side)

    def problems(self) -> Iterator[Problem]:
        """That the coordinates look relative, where they do."""
        larger, outside = self._odds < SURE, self._outside >= max(ENOUGH_ROWS, self._rows / 5)
        if 900 <= self._most <= 1000 and (larger or outside):
            many = f"and in {self._outside:,} rows they lie outside the image"
            reason = "though the images are larger" if larger else many
            message = f"no coordinate of {self._rows:,} rows passes 1000, the largest is {self._most:g}, {reason}"
            hint = f"if they are 0..1000 of the image's sides, {DECLARE.replace('UNIT', 'relative1000')}"
            yield Problem("data-coordinates-relative-like", message, hint)


class UnitSpread:
    """In which unit the answers of a file are written, where nothing says it; in constant memory.

    A unit is ruled out by rows with numbers beyond what it has. Where several units are left, that of the model is
    believed if the numbers reach far beyond the images, or would stay below 1000 by chance only.

    Args:
        text_unit: the unit in which the model writes.
        limits: how large images reach the model.
    """

    def __init__(self, text_unit: Unit, limits: PixelLimits) -> None:
        self._text_unit, self._limits = text_unit, limits
        self._rows = self._resized = 0
        self._against: dict[Unit, int] = {"relative1000": 0, "pixels": 0, "resized": 0, "relative1": 0}
        # The logarithm of the chance of such small numbers.
        self._odds: dict[Unit, float] = {"pixels": 0.0, "relative1000": 0.0, "resized": 0.0}

    def add(self, targets: Sequence[Target], size: Size) -> None:
        """Take a row into account.

        Args:
            targets: its targets of assumed unit; at least one.
            size: width and height of the image, in pixels.
        """
        self._rows += 1
        points = [point for target in targets for point in target.points]
        most = max(x for x, _ in points), max(y for _, y in points)
        whole = all(float(number).is_integer() for point in points for number in point)
        self._against["relative1"] += max(most) > 1 or whole
        sides: dict[Unit, Size] = {
            "relative1000": (1000, 1000),
            "pixels": size,
            "resized": model_size(*size, self._limits),
        }
        for unit, ends in sides.items():
            self._against[unit] += any(
                value > end * (1 + SLACK_SHARE) + 1 for value, end in zip(most, ends, strict=True)
            )
        self._resized += sides["resized"] != size
        for unit, ends in sides.items():
            for axis in (0, 1):
                if unit == "relative1000":  # such small numbers, if they may reach 1000
                    self._odds[unit] += min(math.log(size[axis] / 1000), 0)
                else:
                    self._odds[unit] += min(math.log(1000 / ends[axis]), 0)

    def possible(self) -> list[Unit]:
        """The units that the file may have; none where too many rows contradict each of them."""
        fewest = min(self._against.values())
        if fewest > self._rows / 5:
            return []
        left = [unit for unit, rows in self._against.items() if rows == fewest]
        if "relative1" in left:
            return ["relative1"]
        # Where the model writes thousandths, nobody means pixels of the resized image; where no image is resized, both
        # kinds of pixels are the same.
        if "pixels" in left and "resized" in left and (self._text_unit == "relative1000" or not self._resized):
            left.remove("resized" if self._text_unit == "relative1000" else "pixels")
        # Far edges that are spread evenly over the image would hardly ever stay so far below 1000, or below its sides.
        unlikely = {unit for unit, odds in self._odds.items() if odds < SURE}
        likely = [unit for unit in left if unit not in unlikely]
        return likely if len(left) > 1 and likely else left

    def problems(self) -> Iterator[Problem]:
        """Report that the unit is not the model's, or that the numbers do not show which unit it is."""
        units = self.possible() if self._rows else [self._text_unit]
        if units == [self._text_unit]:
            return
        if len(units) == 1:
            given, writes = _UNIT_NAMES[units[0]], _UNIT_NAMES[self._text_unit]
            message = f"the answers of {counted(self._rows, 'row')} give {given}, but the model writes {writes}"
            hint = f"to have them converted, {DECLARE.replace('UNIT', units[0])}"
            yield Problem("data-coordinates-foreign", message, hint)
            return
        message = f"the numbers of {counted(self._rows, 'row')} fit to no unit alike"
        hint = "give rows of each unit a file of their own, and declare its unit: "
        hint += "data: {train: [{path: ..., coordinates: ...}]}"
        if units:
            several = " and to ".join(_UNIT_NAMES[unit] for unit in units)
            message = f"the numbers of {counted(self._rows, 'row')} fit to {several}"
            first, *others = sorted(units, key=lambda unit: unit != self._text_unit)
            hint = f"{DECLARE.replace('UNIT', first)}, or {' or '.join(others)} in its place"
        yield Problem("data-coordinates-undeclared", message, hint)


_UNIT_NAMES: dict[Unit, str] = {
    "pixels": "pixels of the image",
    "relative1000": "0..1000 of the image's sides",
    "relative1": "shares of the image's sides, 0..1",
    "resized": "pixels of the image as it reaches the model",
}


def row_problems(row: Row, sizes: Sequence[Size | None], limits: PixelLimits) -> list[Problem]:
    """What is wrong with a row on images of these sizes, None where one is not known."""
    problems = [*row.remarks, *row.wording.problems(row.targets)]
    if row.declared and sizes and sizes[0] and row.declared != sizes[0]:
        turned = row.declared == sizes[0][::-1]
        reason = ": the sides are exchanged, as those of an image that its EXIF data turns upright" if turned else ""
        message = f"the row says {row.declared[0]}x{row.declared[1]}, the image is {sizes[0][0]}x{sizes[0][1]}{reason}"
        problems.append(Problem("data-image-size", message, "check that the coordinates belong to this very image"))
    for number, target in enumerate(row.targets, 1):
        size = sizes[target.image]
        if size is None:
            continue
        name = f"{target.kind} of {shown(target.label)}" if target.label else f"{target.kind} {number}"
        most = max(value for point in (*target.points, *target.outline) for value in point)
        if isinstance(target, TextTarget) and most > 1000 * (1 + SLACK_SHARE):
            message = f"{name} reaches {most:g} of 1000"
            hint = f"if they are pixels of the image, {DECLARE.replace('UNIT', 'pixels')}"
            problems.append(Problem("data-coordinates-pixel-like", message, hint))
            break
        if isinstance(target, ShareTarget) and most > 1 + SLACK_SHARE:
            message = f"{name} reaches {most:g} of 1"
            problems.append(Problem("data-coordinates-pixel-like", message, "declare the unit that they have"))
            break
        problems += target_problems(target.in_pixels(*size, limits), *size, name)
    else:
        problems += _share_like(row.targets)
    return problems


def _share_like(targets: Sequence[RowTarget]) -> Iterator[Problem]:
    """Whether all coordinates lie between 0 and 1, though they are not declared so."""
    spread = [target for target in targets if len(target.points) > 1 and not isinstance(target, ShareTarget)]
    if spread and all(0 <= value <= 1 for target in spread for point in target.points for value in point):
        label = spread[0].label
        message = f"all coordinates{f' of {shown(label)}' if label else ''} lie between 0 and 1"
        hint = f"if they are shares of the image's sides, {DECLARE.replace('UNIT', 'relative1')}"
        yield Problem("data-coordinates-share-like", message, hint)


def declared_size(row: Mapping[str, Any]) -> Size | None:
    """The size of the image in pixels that a row gives with ``width`` and ``height``."""
    width, height = row.get("width"), row.get("height")
    return (width, height) if type(width) is int and type(height) is int else None


def near_keys(*parts: tuple[Mapping[str, Any], Collection[str]]) -> Iterator[Problem]:
    """That nobody reads some keys, which look like known ones misspelt.

    Args:
        parts: objects of a row, each with the keys that are known in it.
    """
    keys = [(key, near_key(key, frozenset(known))) for part, known in parts for key in part if key not in known]
    if found := [f"{shown(key)} (is {near!r} meant?)" for key, near in keys if near]:
        yield Problem("data-key-unknown", ", ".join(found), "correct the key, or remove it")


@lru_cache(1024)
def near_key(key: str, known: frozenset[str]) -> str | None:
    """The known key that a misspelt one is near."""
    return next(iter(difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.75)), None)
