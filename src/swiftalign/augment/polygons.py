"""Polygons and lines cut at the image's edges, and their measures; points [n, 2] are float64, in pixels at pixel edges.

Outlines have few corners, for which plain floats are faster than array operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Corner: TypeAlias = tuple[float, float]

# Points this near to the image's edge lie on it: they went through float arithmetic.
ON_EDGE = 1e-6
# Turns this small, relative to an outline's sharpest, are straight.
STRAIGHT = 1e-9


def clip_polygon(points: Floats, width: float, height: float) -> Floats:
    """The part of a polygon inside the image, its order and orientation kept.

    Args:
        points: [n, 2]. Of a quad that is not convex or crosses itself, the convex hull is cut.

    Returns:
        [m, 2]; m is 0 where nothing is inside, and may be 1 or 2 where the polygon only touches the image.

    References:
        Sutherland and Hodgman, Reentrant polygon clipping, 1974.
    """
    points = _snapped(points, width, height)
    if inside(points, width, height):
        return points
    corners: list[Corner] = [(x, y) for x, y in convex(points).tolist()]
    for axis, edge, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        corners = _cut(corners, axis, edge, sign)
    return _points(corners, width, height)


def clip_line(points: Floats, width: float, height: float) -> Floats:
    """The longest piece of a line inside the image, the first of equals; its order is kept.

    Args:
        points: [n, 2], joined in turn.

    Returns:
        [m, 2]; m is 0 where nothing, or only a single point, is inside.

    References:
        Liang and Barsky, A new concept and method for line clipping, 1984.
    """
    points = _snapped(points, width, height)
    if inside(points, width, height):
        return points
    pieces: list[list[Corner]] = [[]]
    goes_on = False
    for a, b in pairwise([(x, y) for x, y in points.tolist()]):
        span = _visible_span(a, b, width, height)
        if span is not None:
            if not (goes_on and span[0] == 0):
                pieces.append([_between(a, b, span[0])])
            pieces[-1].append(_between(a, b, span[1]))
        # Not by comparing points: a line may come back where it left.
        goes_on = span is not None and span[1] == 1
    longest = max(pieces, key=lambda piece: length(np.array(piece).reshape(-1, 2)))
    return _points(_distinct(longest), width, height)


def inside(points: Floats, width: float, height: float) -> bool:
    """Whether no point [n, 2] lies outside the image by more than a rounding error."""
    return all(-ON_EDGE < x < width + ON_EDGE and -ON_EDGE < y < height + ON_EDGE for x, y in points.tolist())


def area(points: Floats) -> float:
    """Area of a polygon [n, 2] by the shoelace formula, whichever its orientation."""
    return abs(_signed_area(points.tolist()))


def length(points: Floats) -> float:
    """Length of a line [n, 2]."""
    return math.fsum(math.dist(a, b) for a, b in pairwise(points.tolist()))


def envelope(points: Floats) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the smallest upright box around points [n, 2]."""
    xs, ys = zip(*points.tolist(), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def convex(points: Floats) -> Floats:
    """A quad [4, 2] itself where it is convex, else its hull [m, 2] in the quad's orientation."""
    corners = points.tolist()
    turns = [_turn(*(corners[(i + k) % len(corners)] for k in range(3))) for i in range(len(corners))]
    straight = STRAIGHT * max(map(abs, turns), default=0)
    if min(turns, default=0) >= -straight or max(turns, default=0) <= straight:
        return points
    hull = np.array(_hull(corners))
    return hull if _signed_area(corners) >= 0 else hull[::-1]


def min_area_rectangle(points: Floats) -> Floats:
    """The smallest rectangle around points [n, 2], at any angle, as [4, 2], clockwise on screen; n is at least 1.

    References:
        One side lies along an edge of the hull: Freeman and Shapira, Determining the minimum-area encasing rectangle
        for an arbitrary closed curve, 1975.
    """
    hull = _hull(points.tolist())
    edges = zip(hull, hull[1:] + hull[:1], strict=True)
    return min((_rectangle_along(hull, b[0] - a[0], b[1] - a[1]) for a, b in edges), key=area)


def largest_quad(polygon: Floats) -> Floats:
    """Four corners [4, 2] in a convex polygon's order [m, 2], m at least 1, that keep as much of its area as four can.

    A triangle gets a fourth point in the middle of its longest side.
    """
    corners = polygon.tolist()
    while len(corners) < 4:
        i = max(range(len(corners)), key=lambda i: math.dist(corners[i - 1], corners[i]))
        a, b = corners[i - 1], corners[i]
        corners.insert(i, [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2])
    return np.array(max(combinations(corners, 4), key=lambda four: abs(_signed_area(four))))


def ordered_like(quad: Floats, like: Floats) -> Floats:
    """The corners of a quad [4, 2] in the orientation of another, and from the corner that matches its first.

    All four corners are matched at once, since the first may lie far outside the image.
    """
    if _signed_area(quad.tolist()) * _signed_area(like.tolist()) < 0:
        quad = quad[::-1]
    centred = like - like.mean(axis=0)
    first = max(range(4), key=lambda start: float((np.roll(quad, -start, axis=0) * centred).sum()))
    return np.roll(quad, -first, axis=0)


def shorter_side(quad: Floats) -> float:
    """The shorter side of the smallest rectangle around a quad [4, 2]."""
    rectangle = min_area_rectangle(quad).tolist()
    return min(math.dist(rectangle[0], rectangle[1]), math.dist(rectangle[1], rectangle[2]))


def _points(corners: Sequence[Corner], width: float, height: float) -> Floats:
    """As [m, 2], with nothing outside the image by a rounding error."""
    points: Floats = np.array(corners, dtype=np.float64).reshape(-1, 2)
    return np.minimum(np.maximum(points, 0), np.array((width, height), dtype=np.float64))


def _snapped(points: Floats, width: float, height: float) -> Floats:
    sides = np.array((width, height), dtype=np.float64)
    points = np.where(np.abs(points) < ON_EDGE, 0.0, points)
    return np.where(np.abs(points - sides) < ON_EDGE, sides, points)


def _cut(corners: list[Corner], axis: int, edge: float, sign: int) -> list[Corner]:
    """The corners of the part at or beyond an edge, towards where ``sign`` points."""
    kept: list[Corner] = []
    for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
        a_depth, b_depth = sign * (a[axis] - edge), sign * (b[axis] - edge)
        if a_depth >= 0:
            kept.append(a)
        if a_depth * b_depth < 0:
            x, y = _between(a, b, a_depth / (a_depth - b_depth))
            kept.append((edge, y) if axis == 0 else (x, edge))
    return kept


def _visible_span(a: Corner, b: Corner, width: float, height: float) -> tuple[float, float] | None:
    """Where the segment from a (0) to b (1) enters and leaves the image; None where it stays outside."""
    enter, leave = 0.0, 1.0
    for start, step, side in ((a[0], b[0] - a[0], width), (a[1], b[1] - a[1], height)):
        if step == 0:
            if not 0 <= start <= side:
                return None
            continue
        first, second = sorted((-start / step, (side - start) / step))
        enter, leave = max(enter, first), min(leave, second)
    return (enter, leave) if enter <= leave else None


def _between(a: Corner, b: Corner, t: float) -> Corner:
    """The point a share t of the way from a to b; a and b themselves exactly."""
    return (a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])) if t < 1 else b


def _distinct(corners: Sequence[Corner]) -> list[Corner]:
    return [corner for i, corner in enumerate(corners) if i == 0 or corner != corners[i - 1]]


def _turn(a: Sequence[float], b: Sequence[float], c: Sequence[float]) -> float:
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])


def _signed_area(corners: Sequence[Sequence[float]]) -> float:
    """Positive for clockwise, as seen on screen; measured from the first corner, so as not to cancel far from 0."""
    if not corners:
        return 0.0
    x, y = corners[0]
    near = [(c[0] - x, c[1] - y) for c in corners]
    return sum(a[0] * b[1] - a[1] * b[0] for a, b in pairwise(near)) / 2


def _hull(corners: Sequence[Sequence[float]]) -> list[Corner]:
    """Convex hull, clockwise on screen (Andrew, Another efficient algorithm for convex hulls, 1979)."""
    ordered = sorted({(x, y) for x, y in corners})
    if len(ordered) < 3:
        return ordered
    return _half_hull(ordered) + _half_hull(ordered[::-1])


def _half_hull(ordered: list[Corner]) -> list[Corner]:
    chain: list[Corner] = []
    for corner in ordered:
        while len(chain) > 1 and _turn(chain[-2], chain[-1], corner) <= 0:
            chain.pop()
        chain.append(corner)
    return chain[:-1]


def _rectangle_along(corners: Sequence[Corner], x: float, y: float) -> Floats:
    """The rectangle around corners with a side in direction (x, y), as [4, 2], clockwise on screen."""
    norm = math.hypot(x, y) or 1.0
    x, y = (x / norm, y / norm) if (x, y) != (0, 0) else (1.0, 0.0)
    along, across = [x * a + y * b for a, b in corners], [x * b - y * a for a, b in corners]
    lows, highs = (min(along), min(across)), (max(along), max(across))
    frame = [lows, (highs[0], lows[1]), highs, (lows[0], highs[1])]
    return np.array([(x * s - y * t, y * s + x * t) for s, t in frame])
