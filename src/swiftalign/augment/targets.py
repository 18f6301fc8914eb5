"""Where targets end up after the image moved: wrapped in an upright box, clipped to the canvas, or dropped.

Boxes are wrapped once, at the end: wrapping after each operation would make them grow with each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from swiftalign.config.augmentation import AugmentationSection
from swiftalign.data import polygons
from swiftalign.data.polygons import Floats
from swiftalign.data.sizes import Size
from swiftalign.data.targets import PixelTarget, Point

# Corners are an upright rectangle if the IoU with the box around them differs from 1 by less than this.
UPRIGHT = 1e-9


class Outcome(NamedTuple):
    """What became of one target.

    Attributes:
        target: the target on the new canvas; None where it was dropped.
        reason: why it was dropped, such as "18% visible" or "2.1 px wide"; None where it was kept.
        clipped: whether part of the target lies outside the canvas.
        visible: share of the target's area, or of a line's length, on the canvas, 0..1; of a point, 0 or 1.
        inflation: area of a kept box over the area of the moved outline before clipping; 1.0 for all other targets.
    """

    target: PixelTarget | None
    reason: str | None = None
    clipped: bool = False
    visible: float = 1.0
    inflation: float = 1.0

    def then(self, later: Outcome) -> Outcome:
        """The outcome of this and of what became of its target later."""
        clipped, visible = self.clipped or later.clipped, self.visible * later.visible
        return Outcome(later.target, later.reason, clipped, visible, self.inflation * later.inflation)


def fit_targets(
    targets: Sequence[PixelTarget],
    moved: Sequence[Floats],
    size: Size,
    settings: AugmentationSection,
    *,
    flipped: bool,
    boxes_as_quads: bool = False,
    cut: bool = False,
) -> Iterator[Outcome]:
    """Each target on the new canvas.

    A target whose points did not move is returned unchanged, even where it reaches beyond the image. A box becomes the
    envelope of its clipped outline. A quad that is cut to a number of corners other than four becomes the largest quad
    on the corners of the visible part. Of a cut line the longest piece is kept, in its order, and of a cut polygon the
    largest one (see `polygons.largest_piece`). A point is kept where it is on the canvas.

    Args:
        moved: each target's ``corners`` on the new canvas, [n, 2].
        size: width and height of the canvas in pixels.
        settings: when a target is dropped: ``min_visible``, and ``min_side`` for a target that shrank. The side of a
            polygon is the width of the narrowest strip that holds it; a point has none.
        flipped: whether the geometry mirrors; the order of the corners of quads and polygons is then reversed, from the
            second on, so that one that was clockwise from the top left is so again. Lines keep their order, which may
            have a meaning.
        boxes_as_quads: whether boxes without outline that a rotation tilted become quads.
        cut: whether the canvas is a part of the earlier one: targets that did not move are clipped to it as well.
    """
    for target, points in zip(targets, moved, strict=True):
        if not cut and _pairs(points) == target.corners:
            yield Outcome(target)
            continue
        clipped = not polygons.inside(points, *size)
        order = [1, 0, *range(len(points) - 1, 1, -1)] if flipped else [*range(len(points))]
        area = polygons.area(polygons.convex(points)) if target.kind in ("bbox", "quad") else 0.0
        if target.kind == "polygon":
            part, visible = polygons.largest_piece(points[order], *size)
        else:
            clip, measure = (polygons.clip_polygon, polygons.area) if area else (polygons.clip_line, polygons.length)
            part, whole = clip(points, *size), area or polygons.length(points)
            visible = min(measure(part) / whole, 1.0) if clipped and whole else float(not clipped)
        if visible == 0 or visible < settings.min_visible:
            yield Outcome(None, f"{math.floor(visible * 100)}% visible", clipped, visible)
            continue
        if boxes_as_quads and _wrap_iou(target, points) < 1 - UPRIGHT:
            target = replace(target, kind="quad", points=target.corners)
        quad: tuple[Point, ...] = ()
        if target.kind == "quad" or (target.outline and len(part) == 4):
            clockwise = polygons.ordered_like(polygons.largest_quad(part), points[order]) if clipped else part[order]
            quad = _pairs(clockwise)
        is_box = target.kind == "bbox"
        at = polygons.envelope(part) if is_box else quad or _pairs(part)
        fitted = PixelTarget(target.kind, target.label, at, quad if is_box else target.outline, target.image)
        if not _surely_wider(fitted, settings.min_side):
            side, word = _extent(fitted)
            if side < settings.min_side and side < _extent(target)[0] - polygons.ON_EDGE:
                yield Outcome(None, f"{math.floor(side * 10) / 10} px {word}", clipped, visible)
                continue
        inflated = fitted.kind == "bbox" and area > 0
        inflation = float(polygons.box_area(np.array(fitted.points))) / area if inflated else 1.0
        yield Outcome(fitted, None, clipped, visible, inflation)


def inflation_cost(targets: Sequence[PixelTarget], moved: Sequence[Floats]) -> float:
    """The lowest IoU of a moved box with the upright box around it, over all boxes without outline; 1.0 without boxes.

    Args:
        moved: each target's ``corners`` on the new canvas, [n, 2].
    """
    return min((_wrap_iou(target, points) for target, points in zip(targets, moved, strict=True)), default=1.0)


def _surely_wider(target: PixelTarget, side: float) -> bool:
    """Whether a bound, which takes less time than `_extent`, shows that a quad is wider than ``side``."""
    if target.kind != "quad":
        return False
    points = np.array(target.points, dtype=np.float64)
    (left, top), (right, bottom) = polygons.envelope(points)
    # The area is at most that of the smallest rectangle around the quad, whose longer side is at most this sum.
    return polygons.area(points) > side * (right - left + bottom - top)


def _extent(target: PixelTarget) -> tuple[float, str]:
    """Shorter side of a box or a quad, length of a line or width of a polygon in pixels, and the word in a reason."""
    if target.kind == "point":
        return math.inf, ""
    points = np.array(target.points, dtype=np.float64)
    if target.kind == "polygon":
        return polygons.narrowest(points), "across"
    if target.kind == "line":
        return polygons.length(points), "long"
    if target.kind == "quad":
        return polygons.shorter_side(points), "across"
    (left, top), (right, bottom) = polygons.envelope(points)
    return min((right - left, "wide"), (bottom - top, "high"))


def _wrap_iou(target: PixelTarget, points: Floats) -> float:
    """IoU of a box's moved corners [4, 2] with the upright box around them; 1.0 for a target of any other kind.

    A box with an outline counts as another kind: the outline is what is wrapped.
    """
    if target.kind != "bbox" or target.outline:
        return 1.0
    (left, top), (right, bottom) = polygons.envelope(points)
    box = (right - left) * (bottom - top)
    return polygons.area(points) / box if box else 1.0


def _pairs(points: Floats) -> tuple[Point, ...]:
    return tuple((x, y) for x, y in points.tolist())
