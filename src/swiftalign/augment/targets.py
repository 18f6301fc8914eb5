"""Where targets end up after the image moved: wrapped, clipped to the canvas, or dropped.

Boxes are wrapped once, at the end: wrapping after each operation would make them grow with each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from swiftalign.augment import polygons as clip
from swiftalign.augment.polygons import Floats
from swiftalign.data.records import PixelTarget, Point

# Mirrored outlines run the other way round; in this order a quad is clockwise again, from its top left.
MIRRORED = [1, 0, 3, 2]
# Corners whose box is larger than they are by less than this are an upright rectangle.
UPRIGHT = 1e-9


@dataclass(frozen=True)
class Rules:
    """When a target is too little to be asked for.

    Attributes:
        min_visible: share of its area, or of a line's length, that must be on the canvas, 0..1.
        min_side: the least shorter side of a box or a quad, or length of a line, in pixels; only a target that shrank
            is dropped for it.
    """

    min_visible: float = 0.5
    min_side: float = 4.0


@dataclass(frozen=True)
class Outcome:
    """What became of one target.

    Attributes:
        target: as it is on the new canvas; None where it was dropped.
        reason: why it was dropped, such as "18% visible" or "2.1 px wide"; None where it was kept.
        clipped: whether part of it lies outside the canvas.
        visible: share of its area, or of a line's length, on the canvas, 0..1.
        inflation: of a kept box, its area over that of the moved outline before clipping; 1.0 otherwise.
    """

    target: PixelTarget | None
    reason: str | None = None
    clipped: bool = False
    visible: float = 1.0
    inflation: float = 1.0


def settle(
    targets: Sequence[PixelTarget],
    moved: Sequence[Floats],
    size: tuple[int, int],
    rules: Rules,
    *,
    flipped: bool,
    boxes_as_quads: bool = False,
) -> list[Outcome]:
    """Each target on the new canvas.

    A target whose points did not move is returned as it is, even where it reaches beyond the image. A box becomes the
    envelope of its clipped outline. A quad that is cut to other than four corners becomes the largest quad on the
    corners of what is left. Of a cut line the longest piece stays, in its order.

    Args:
        moved: each target's ``corners`` on the new canvas, [n, 2].
        size: of the canvas, width and height in pixels.
        flipped: whether the geometry mirrors; the order of a quad's corners is then reversed, so that it is clockwise
            from the top left again if it was. Lines keep their order: it may carry meaning.
        boxes_as_quads: whether boxes without outline that a rotation tilted become quads.
    """
    return [
        _settled(target, points, size, rules, flipped, boxes_as_quads)
        for target, points in zip(targets, moved, strict=True)
    ]


def inflation_cost(targets: Sequence[PixelTarget], moved: Sequence[Floats]) -> float:
    """The least IoU of a tilted box with the upright box that will wrap it, over boxes without outline; 1.0 if none.

    Args:
        moved: each target's ``corners`` on the new canvas, [n, 2].
    """
    pairs = zip(targets, moved, strict=True)
    return min((_wrap_iou(points) for target, points in pairs if _loose(target)), default=1.0)


def _settled(
    target: PixelTarget, points: Floats, size: tuple[int, int], rules: Rules, flipped: bool, boxes_as_quads: bool
) -> Outcome:
    if np.array_equal(points, np.array(target.corners)):
        return Outcome(target)
    clipped = not clip.inside(points, *size)
    visible, part = _visible_part(target, points, size)
    if visible == 0 or visible < rules.min_visible:
        return Outcome(None, f"{math.floor(visible * 100)}% visible", clipped, visible)
    if boxes_as_quads and _loose(target) and _wrap_iou(points) < 1 - UPRIGHT:
        target = PixelTarget("quad", target.label, target.corners)
    settled = _rebuilt(target, points, part, flipped, clipped)
    side, measure = _extent(settled)
    if side < rules.min_side and side < _extent(target)[0] - clip.ON_EDGE:
        return Outcome(None, f"{math.floor(side * 10) / 10} px {measure}", clipped, visible)
    return Outcome(settled, None, clipped, visible, _inflation(settled, points))


def _visible_part(target: PixelTarget, points: Floats, size: tuple[int, int]) -> tuple[float, Floats]:
    """Share of a target on the canvas, and its part there [m, 2]: by area, or by length where it has no area."""
    part = (clip.clip_line if target.kind == "line" else clip.clip_polygon)(points, *size)
    if clip.inside(points, *size):
        return 1.0, part
    if target.kind != "line" and (whole := clip.area(clip.convex(points))):
        return min(clip.area(part) / whole, 1.0), part
    part, whole = clip.clip_line(points, *size), clip.length(points)
    return (min(clip.length(part) / whole, 1.0) if whole else 0.0), part


def _rebuilt(target: PixelTarget, points: Floats, part: Floats, flipped: bool, clipped: bool) -> PixelTarget:
    """The target from its part on the canvas [m, 2]."""
    if target.kind == "line":
        return replace(target, points=_pairs(part))
    if target.kind == "quad":
        return replace(target, points=_pairs(_four_corners(points, part, flipped, clipped)))
    left, top, right, bottom = clip.envelope(part)
    kept = bool(target.outline) and len(part) == 4
    outline = _pairs(_four_corners(points, part, flipped, clipped)) if kept else ()
    return replace(target, points=((left, top), (right, bottom)), outline=outline)


def _four_corners(points: Floats, part: Floats, flipped: bool, clipped: bool) -> Floats:
    """A quad's corners [4, 2] from its part on the canvas [m, 2], in the order of the moved quad [4, 2]."""
    if not clipped:
        return part[MIRRORED] if flipped else part
    quad = part if len(part) == 4 else clip.largest_quad(part)
    return clip.ordered_like(quad, points[MIRRORED] if flipped else points)


def _extent(target: PixelTarget) -> tuple[float, str]:
    """Shorter side of a box or a quad, or length of a line, in pixels, and what to call it."""
    points = np.array(target.points, dtype=np.float64)
    if target.kind == "line":
        return clip.length(points), "long"
    if target.kind == "quad":
        return clip.shorter_side(points), "across"
    left, top, right, bottom = clip.envelope(points)
    return min((right - left, "wide"), (bottom - top, "high"))


def _loose(target: PixelTarget) -> bool:
    """Whether it is a box of whose object no more is known."""
    return target.kind == "bbox" and not target.outline


def _wrap_iou(points: Floats) -> float:
    """IoU of a box's moved corners [4, 2] with the upright box around them."""
    box = _box_area(points)
    return clip.area(points) / box if box else 1.0


def _inflation(settled: PixelTarget, points: Floats) -> float:
    """Of a box, its area over that of the moved outline [4, 2]; 1.0 otherwise."""
    if settled.kind != "bbox":
        return 1.0
    outline = clip.area(clip.convex(points))
    return _box_area(np.array(settled.points)) / outline if outline else 1.0


def _box_area(points: Floats) -> float:
    left, top, right, bottom = clip.envelope(points)
    return (right - left) * (bottom - top)


def _pairs(points: Floats) -> tuple[Point, ...]:
    return tuple((x, y) for x, y in points.tolist())
