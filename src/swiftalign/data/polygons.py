"""Areas, lengths and overlaps of boxes, polygons and lines, and cutting them at the image's edges.

Quads and the outlines of boxes have four corners and code of their own; polygons of any form are given to shapely.

Points are float64 arrays [n, 2] of x and y, measured at pixel edges. The functions that scoring calls take many objects
at once; the others work on plain floats, which for outlines of few corners are faster than array operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations, groupby, pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from swiftalign.data.targets import Point

Floats: TypeAlias = NDArray[np.float64]

# Points this near to the image's edge lie on it: the difference is float error.
ON_EDGE = 1e-6
# Turns this small, relative to the sharpest turn of the outline, are straight.
STRAIGHT = 1e-9
# The lobes of a polygon that crosses itself are found up to this many corners; their number may grow with the square.
MOST_CROSSING = 100


# -- measures ------------------------------


def signed_area(points: Floats) -> float:
    """Area of a polygon [n, 2] by the shoelace formula; positive where it runs clockwise, as seen on screen."""
    corners = points.tolist()
    # Measured from the first corner, so as not to cancel far from 0.
    near: list[Point] = [(x - corners[0][0], y - corners[0][1]) for x, y in corners]
    return sum(a[0] * b[1] - a[1] * b[0] for a, b in pairwise(near)) / 2


def area(points: Floats) -> float:
    """Area of a polygon [n, 2] in either orientation."""
    return abs(signed_area(points))


def length(points: Floats) -> float:
    """Length of a line [n, 2]."""
    return math.fsum(math.dist(a, b) for a, b in pairwise(points.tolist()))


def envelope(points: Floats) -> tuple[Point, Point]:
    """The top left and the bottom right corner of the smallest upright box around points [n, 2]."""
    xs, ys = zip(*points.tolist(), strict=True)
    return (min(xs), min(ys)), (max(xs), max(ys))


def box_area(boxes: Floats) -> Floats:
    """Areas of upright boxes, each as its top left and its bottom right corner: [..., 2, 2] -> [...]."""
    sides = boxes[..., 1, :] - boxes[..., 0, :]
    return np.asarray(sides[..., 0] * sides[..., 1])


def inside(points: Floats, width: float, height: float) -> bool:
    """Whether no point [n, 2] lies outside the image by more than a rounding error."""
    return all(-ON_EDGE < x < width + ON_EDGE and -ON_EDGE < y < height + ON_EDGE for x, y in points.tolist())


def crosses_itself(polygon: Floats) -> bool:
    """Whether two sides of a polygon [n, 2] cross between their ends; sides that only touch do not cross."""
    if len(polygon) == 4:
        a, b, c, d = polygon.tolist()
        return any(
            _turn(p, q, r) * _turn(p, q, s) < 0 and _turn(r, s, p) * _turn(r, s, q) < 0
            for p, q, r, s in ((a, b, c, d), (b, c, d, a))
        )
    import shapely

    if shapely.is_valid(shapely.Polygon(polygon)):
        return False
    sides = shapely.linestrings(np.stack([polygon, np.roll(polygon, -1, axis=0)], axis=1))
    tree = shapely.STRtree(sides)
    return any(len(tree.query(side, predicate="crosses")) for side in sides)


# -- cutting at the image's edges ------------------------------


def clip_polygon(points: Floats, width: float, height: float) -> Floats:
    """The part of a polygon inside the image, its order and orientation kept.

    Args:
        points: corners of the polygon [n, 2]; of a quad that is not convex or crosses itself, the convex hull is cut.

    Returns:
        [m, 2]; m is 0 where nothing is inside, and may be 1 or 2 where the polygon only touches the image.

    References:
        Sutherland and Hodgman, Reentrant polygon clipping, 1974.
    """
    points = _snapped(points, width, height)
    if inside(points, width, height):
        return points
    corners: list[Point] = [(x, y) for x, y in convex(points).tolist()]
    for axis, edge, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        kept: list[Point] = []  # on the side of the edge in the direction of the sign
        for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
            a_depth, b_depth = sign * (a[axis] - edge), sign * (b[axis] - edge)
            if a_depth >= 0:
                kept.append(a)
            if a_depth * b_depth < 0:
                x, y = _between(a, b, a_depth / (a_depth - b_depth))
                kept.append((edge, y) if axis == 0 else (x, edge))
        corners = kept
    return _within(corners, width, height)


def clip_line(points: Floats, width: float, height: float) -> Floats:
    """The longest piece of a line inside the image, or the first of equally long ones; its order is kept.

    Args:
        points: points of the line [n, 2], in its order.

    Returns:
        [m, 2]; m is 0 where nothing, or only a single point, is inside.

    References:
        Liang and Barsky, A new concept and method for line clipping, 1984.
    """
    points = _snapped(points, width, height)
    if inside(points, width, height):
        return points
    pieces: list[list[Point]] = [[]]
    goes_on = False
    for a, b in pairwise([(x, y) for x, y in points.tolist()]):
        # The shares of the way from a to b at which it enters and leaves the image.
        enter, leave = 0.0, 1.0
        for start, step, side in ((a[0], b[0] - a[0], width), (a[1], b[1] - a[1], height)):
            if step:
                first, second = sorted((-start / step, (side - start) / step))
                enter, leave = max(enter, first), min(leave, second)
            elif not 0 <= start <= side:
                leave = -1.0
        if enter <= leave:
            if not (goes_on and enter == 0):
                pieces.append([_between(a, b, enter)])
            pieces[-1].append(_between(a, b, leave))
        # Points are not compared: a line may come back in where it left.
        goes_on = enter <= leave == 1
    longest = max(pieces, key=lambda piece: length(np.array(piece)))
    return _within([point for point, _ in groupby(longest)], width, height)


def largest_piece(points: Floats, width: float, height: float) -> tuple[Floats, float]:
    """The largest piece of a polygon inside the image, and the share of the area that all pieces have together.

    Args:
        points: corners [n, 2] of a polygon of any form; one that crosses itself is the union of its lobes.

    Returns:
        [m, 2] in the polygon's orientation, beginning at the corner nearest to the polygon's first one, without the
        holes that lobes may enclose; m is 0 where no area is inside. A polygon that is wholly inside keeps its points,
        even if it crosses itself.
    """
    points = _snapped(points, width, height)
    if inside(points, width, height):
        return points, 1.0
    import shapely

    whole = shapely.make_valid(shapely.Polygon(points), method="structure", keep_collapsed=False)
    pieces = shapely.get_parts(shapely.intersection(whole, shapely.box(0, 0, width, height)))
    areas = shapely.area(pieces)
    if not areas.any():
        return np.empty((0, 2)), 0.0
    piece: Floats = shapely.get_coordinates(shapely.get_exterior_ring(pieces[areas.argmax()]))[:-1]
    if (signed_area(piece) < 0) != (signed_area(points) < 0):
        piece = piece[::-1]
    first = int(np.linalg.norm(piece - points[0], axis=1).argmin())
    return _within(np.roll(piece, -first, axis=0).tolist(), width, height), min(float(areas.sum() / whole.area), 1.0)


def _snapped(points: Floats, width: float, height: float) -> Floats:
    """The points, those within `ON_EDGE` of an edge moved onto it."""
    if all(min(abs(x), abs(x - width), abs(y), abs(y - height)) >= ON_EDGE for x, y in points.tolist()):
        return points
    sides = np.array((width, height), dtype=np.float64)
    points = np.where(np.abs(points) < ON_EDGE, 0.0, points)
    return np.where(np.abs(points - sides) < ON_EDGE, sides, points)


def _within(corners: Sequence[Point], width: float, height: float) -> Floats:
    """Corners of a part as [m, 2], with nothing outside the image by a rounding error."""
    return np.clip(np.array(corners, dtype=np.float64).reshape(-1, 2), 0, (width, height))


def _between(a: Point, b: Point, t: float) -> Point:
    """The point at the share t of the way from a to b; exactly a or b at the ends."""
    return (a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])) if t < 1 else b


# -- hulls and quads ------------------------------


def convex(points: Floats) -> Floats:
    """A quad [4, 2] itself where it is convex, else its hull [m, 2] in the quad's orientation."""
    corners = points.tolist()
    turns = [*map(_turn, corners, corners[1:] + corners[:1], corners[2:] + corners[:2])]
    straight = STRAIGHT * max(map(abs, turns), default=0)
    if min(turns, default=0) >= -straight or max(turns, default=0) <= straight:
        return points
    hull = np.array(_hull(corners))
    return hull if signed_area(points) >= 0 else hull[::-1]


def min_area_rectangle(points: Floats) -> Floats:
    """The smallest rectangle around points [n, 2], at any angle, as [4, 2], clockwise on screen; n is at least 1.

    References:
        One side lies along an edge of the hull: Freeman and Shapira, Determining the minimum-area encasing rectangle
        for an arbitrary closed curve, 1975.
    """
    hull = _hull(points.tolist())
    rectangles = []
    for a, b in zip(hull, hull[1:] + hull[:1], strict=True):
        x, y = b[0] - a[0], b[1] - a[1]
        norm = math.hypot(x, y)
        x, y = (x / norm, y / norm) if norm else (1.0, 0.0)
        along, across = [x * c + y * d for c, d in hull], [x * d - y * c for c, d in hull]
        (left, right), (top, bottom) = (min(along), max(along)), (min(across), max(across))
        frame = ((left, top), (right, top), (right, bottom), (left, bottom))
        rectangles.append(np.array([(x * s - y * t, y * s + x * t) for s, t in frame]))
    return min(rectangles, key=area)


def shorter_side(quad: Floats) -> float:
    """The shorter side of the smallest rectangle around a quad [4, 2]."""
    a, b, c, _ = min_area_rectangle(quad).tolist()
    return min(math.dist(a, b), math.dist(b, c))


def narrowest(points: Floats) -> float:
    """Width of the narrowest strip, at any angle, that holds points [n, 2]; n is at least 1."""
    hull = np.array(_hull(points.tolist()))
    sides = np.roll(hull, -1, axis=0) - hull
    across = np.stack([-sides[:, 1], sides[:, 0]], axis=1) / np.linalg.norm(sides, axis=1, keepdims=True).clip(1e-300)
    # A strip that can't be narrower lies along a side of the hull.
    return min(float(np.ptp(hull @ normal)) for normal in across)


def largest_quad(polygon: Floats) -> Floats:
    """The largest quad [4, 2] on corners of a convex polygon [m, 2], in the polygon's order; m is at least 1.

    A triangle gets a fourth point in the middle of its longest side.
    """
    corners = polygon.tolist()
    while len(corners) < 4:
        i = max(range(len(corners)), key=lambda i: math.dist(corners[i - 1], corners[i]))
        a, b = corners[i - 1], corners[i]
        corners.insert(i, [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2])
    return max(map(np.array, combinations(corners, 4)), key=area)


def ordered_like(quad: Floats, like: Floats) -> Floats:
    """The corners of a quad [4, 2] in the orientation of another quad, beginning at the corner that matches its first.

    All four corners are matched at once, since the first corner may lie far outside the image.
    """
    if signed_area(quad) * signed_area(like) < 0:
        quad = quad[::-1]
    centred = like - like.mean(axis=0)
    first = max(range(4), key=lambda start: float((np.roll(quad, -start, axis=0) * centred).sum()))
    return np.roll(quad, -first, axis=0)


def _turn(a: Sequence[float], b: Sequence[float], c: Sequence[float]) -> float:
    """Positive where the way from a through b to c turns right, as seen on screen."""
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])


def _hull(corners: Sequence[Sequence[float]]) -> list[Point]:
    """Convex hull, clockwise on screen (Andrew, Another efficient algorithm for convex hulls, 1979)."""
    ordered = sorted({(x, y) for x, y in corners})
    if len(ordered) < 3:
        return ordered
    hull: list[Point] = []
    for way in (ordered, ordered[::-1]):
        chain: list[Point] = []
        for corner in way:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], corner) <= 0:
                chain.pop()
            chain.append(corner)
        hull += chain[:-1]
    return hull


# -- many objects at once ------------------------------


def box_iou(one: Floats, other: Floats) -> Floats:
    """Intersection over union of boxes as in `box_area`, [..., 2, 2] each -> [...]; 0 where neither has an area."""
    sides = np.minimum(one[..., 1, :], other[..., 1, :]) - np.maximum(one[..., 0, :], other[..., 0, :])
    return _iou(np.clip(sides, 0, None).prod(-1), box_area(one), box_area(other))


def quad_iou(one: Floats, other: Floats) -> Floats:
    """Intersection over union of quads: [n, 4, 2] and [m, 4, 2] -> [n, m]; one that crosses itself has both lobes."""
    import shapely

    a, b = (
        shapely.make_valid(shapely.polygons(corners), method="structure", keep_collapsed=False)
        for corners in (one, other)
    )
    return _shape_iou(a, b, box_gaps(one, other) == 0)


def polygon_iou(one: Sequence[Floats], other: Sequence[Floats]) -> Floats:
    """Intersection over union of polygons: n and m arrays of corners -> [n, m].

    One that crosses itself has all its lobes; with more than `MOST_CROSSING` corners it overlaps nothing.
    """
    import shapely

    a, b = (np.array([shapely.Polygon(corners) for corners in side]) for side in (one, other))
    for shapes in (a, b):
        invalid = np.flatnonzero(~shapely.is_valid(shapes))
        many = shapely.get_num_coordinates(shapes[invalid]) > MOST_CROSSING + 1
        shapes[invalid[many]] = shapely.Polygon()
        few = invalid[~many]
        shapes[few] = shapely.make_valid(shapes[few], method="structure", keep_collapsed=False)
    return _shape_iou(a, b, box_gaps(one, other) == 0)


def _shape_iou(one: Any, other: Any, near: NDArray[np.bool_]) -> Floats:
    """Intersection over union of valid shapely shapes: [n] and [m] -> [n, m].

    Args:
        near: which pairs may overlap, [n, m].
    """
    import shapely

    rows, columns = np.nonzero(near)
    overlap = np.zeros(near.shape)
    overlap[rows, columns] = shapely.area(shapely.intersection(one[rows], other[columns]))
    return _iou(overlap, shapely.area(one)[:, None], shapely.area(other)[None])


def _iou(overlap: Floats, one: Floats, other: Floats) -> Floats:
    """Intersection over union from the areas of the intersection and of both shapes."""
    union = one + other - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def box_gaps(one: Iterable[Floats], other: Iterable[Floats]) -> Floats:
    """Distances between the upright boxes around two lists of outlines: [n, m], 0 where two boxes touch or overlap."""
    a, b = (np.array([(points.min(0), points.max(0)) for points in side]) for side in (one, other))
    apart = np.maximum(b[None, :, 0] - a[:, None, 1], a[:, None, 0] - b[None, :, 1])
    return np.asarray(np.linalg.norm(np.clip(apart, 0, None), axis=-1))


def segment_lengths(line: Floats) -> Floats:
    """Lengths of the parts between a line's points: [n, 2] -> [n - 1]."""
    return np.asarray(np.linalg.norm(np.diff(line, axis=0), axis=1))


def evenly_along(line: Floats, count: int) -> Floats:
    """Points evenly along a line, in the middles of ``count`` equal parts: [n, 2] -> [count, 2]."""
    along = np.concatenate([[0], np.cumsum(segment_lengths(line))])
    at = (np.arange(count) + 0.5) / count * along[-1]
    return np.stack([np.interp(at, along, line[:, axis]) for axis in (0, 1)], axis=1)


def distances_to(points: Floats, lines: Sequence[Floats]) -> Floats:
    """Distance from each point to the nearest point of each line: [m, 2] and k lines -> [m, k]."""
    starts = np.concatenate([line[:-1] for line in lines])
    x, y = (np.concatenate([line[1:] for line in lines]) - starts).T
    from_x, from_y = points[:, None, 0] - starts[:, 0], points[:, None, 1] - starts[:, 1]
    squares = x * x + y * y
    along = np.clip((from_x * x + from_y * y) / np.where(squares > 0, squares, 1), 0, 1)
    distances = (from_x - along * x) ** 2 + (from_y - along * y) ** 2
    firsts = np.cumsum([0, *(len(line) - 1 for line in lines[:-1])])
    return np.asarray(np.sqrt(np.minimum.reduceat(distances, firsts, axis=1)))
