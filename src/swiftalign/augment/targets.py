"""Where targets end up after the image moved: wrapped in an upright box, clipped to the canvas, or dropped.

Boxes are wrapped once, at the end: wrapping after each operation would make them grow with each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from swiftalign.data import polygons
from swiftalign.data.polygons import Floats
from swiftalign.data.records import PixelTarget, Point, Size

# A mirrored outline runs the other way round; in this order a quad is clockwise again, from its top left corner.
MIRRORED = [1, 0, 3, 2]
# Corners are an upright rectangle if the IoU with the box around them differs from 1 by less than this.
UPRIGHT = 1e-9


@dataclass(frozen=True)
class Rules:
    """When a target is dropped because too little of it is left.

    Attributes:
        min_visible: least share of the target's area, or of a line's length, on the canvas, 0..1.
        min_side: least shorter side of a box or a quad, or length of a line, in pixels; only a target that shrank is
            dropped for it.
    """

    min_visible: float = 0.5
    min_side: float = 4.0


@dataclass(frozen=True)
class Outcome:
    """What became of one target.

    Attributes:
        target: the target on the new canvas; None where it was dropped.
        reason: why it was dropped, such as "18% visible" or "2.1 px wide"; None where it was kept.
        clipped: whether part of the target lies outside the canvas.
        visible: share of the target's area, or of a line's length, on the canvas, 0..1.
        inflation: area of a kept box over the area of the moved outline before clipping; 1.0 for all other targets.
    """

    target: PixelTarget | None
    reason: str | None = None
    clipped: bool = False
    visible: float = 1.0
    inflation: float = 1.0


def fit_targets(
    targets: Sequence[PixelTarget],
    moved: Sequence[Floats],
    size: Size,
    rules: Rules,
    *,
    flipped: bool,
    boxes_as_quads: bool = False,
) -> list[Outcome]:
    """Each target on the new canvas.

    A target whose points did not move is returned unchanged, even where it reaches beyond the image. A box becomes the
    envelope of its clipped outline. A quad that is cut to a number of corners other than four becomes the largest quad
    on the corners of the visible part. Of a cut line the longest piece is kept, in its order.

    Args:
        moved: each target's ``corners`` on the new canvas, [n, 2].
        size: width and height of the canvas in pixels.
        flipped: whether the geometry mirrors; the order of a quad's corners is then reversed, so that a quad that was
            clockwise from the top left is so again. Lines keep their order, which may have a meaning.
        boxes_as_quads: whether boxes without outline that a rotation tilted become quads.
    """
    return [
        _fitted(target, points, size, rules, flipped, boxes_as_quads)
        for target, points in zip(targets, moved, strict=True)
    ]


def inflation_cost(targets: Sequence[PixelTarget], moved: Sequence[Floats]) -> float:
    """The lowest IoU of a moved box with the upright box around it, over all boxes without outline; 1.0 without boxes.

    Args:
        moved: each target's ``corners`` on the new canvas, [n, 2].
    """
    pairs = zip(targets, moved, strict=True)
    return min((_wrap_iou(points) for target, points in pairs if _is_bare_box(target)), default=1.0)


def _fitted(
    target: PixelTarget, points: Floats, size: Size, rules: Rules, flipped: bool, boxes_as_quads: bool
) -> Outcome:
    if np.array_equal(points, np.array(target.corners)):
        return Outcome(target)
    clipped = not polygons.inside(points, *size)
    visible, part = _visible_part(target, points, size, clipped)
    if visible == 0 or visible < rules.min_visible:
        return Outcome(None, f"{math.floor(visible * 100)}% visible", clipped, visible)
    if boxes_as_quads and _is_bare_box(target) and _wrap_iou(points) < 1 - UPRIGHT:
        target = PixelTarget("quad", target.label, target.corners)
    quad: tuple[Point, ...] = ()
    if target.kind == "quad" or (target.outline and len(part) == 4):
        quad = _pairs(_four_corners(points, part, flipped, clipped))
    if target.kind == "bbox":
        fitted = replace(target, points=polygons.envelope(part), outline=quad)
    else:
        fitted = replace(target, points=quad or _pairs(part))
    side, measure = _extent(fitted)
    if side < rules.min_side and side < _extent(target)[0] - polygons.ON_EDGE:
        return Outcome(None, f"{math.floor(side * 10) / 10} px {measure}", clipped, visible)
    whole = polygons.area(polygons.convex(points)) if fitted.kind == "bbox" else 0.0
    inflation = float(polygons.box_area(np.array(fitted.points))) / whole if whole else 1.0
    return Outcome(fitted, None, clipped, visible, inflation)


def _visible_part(target: PixelTarget, points: Floats, size: Size, clipped: bool) -> tuple[float, Floats]:
    """Share of a target on the canvas, by area or else by length, and its part there [m, 2]."""
    part = (polygons.clip_line if target.kind == "line" else polygons.clip_polygon)(points, *size)
    if not clipped:
        return 1.0, part
    if target.kind != "line" and (whole := polygons.area(polygons.convex(points))):
        return min(polygons.area(part) / whole, 1.0), part
    part, whole = polygons.clip_line(points, *size), polygons.length(points)
    return (min(polygons.length(part) / whole, 1.0) if whole else 0.0), part


def _four_corners(points: Floats, part: Floats, flipped: bool, clipped: bool) -> Floats:
    """A quad's corners [4, 2] from its part on the canvas [m, 2], in the order of the moved quad [4, 2]."""
    if not clipped:
        return part[MIRRORED] if flipped else part
    quad = part if len(part) == 4 else polygons.largest_quad(part)
    return polygons.ordered_like(quad, points[MIRRORED] if flipped else points)


def _extent(target: PixelTarget) -> tuple[float, str]:
    """Shorter side of a box or a quad, or length of a line, in pixels, and the word for it in a reason."""
    points = np.array(target.points, dtype=np.float64)
    if target.kind == "line":
        return polygons.length(points), "long"
    if target.kind == "quad":
        return polygons.shorter_side(points), "across"
    (left, top), (right, bottom) = polygons.envelope(points)
    return min((right - left, "wide"), (bottom - top, "high"))


def _is_bare_box(target: PixelTarget) -> bool:
    """Whether it is a box without outline."""
    return target.kind == "bbox" and not target.outline


def _wrap_iou(points: Floats) -> float:
    """IoU of a box's moved corners [4, 2] with the upright box around them."""
    box = float(polygons.box_area(np.array(polygons.envelope(points))))
    return polygons.area(points) / box if box else 1.0


def _pairs(points: Floats) -> tuple[Point, ...]:
    return tuple((x, y) for x, y in points.tolist())
