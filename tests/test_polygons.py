"""Clipping, held against shapely."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from swiftalign.data import polygons
from swiftalign.data.polygons import Floats

WIDTH, HEIGHT = 100.0, 60.0
CANVAS = shapely.box(0, 0, WIDTH, HEIGHT)

# Whole numbers meet the canvas's edges and corners; rounded ones keep clear of them, or of the tolerance there.
numbers = st.one_of(st.integers(-80, 180).map(float), st.floats(-80, 180).map(lambda number: round(number, 3)))
corners = st.tuples(numbers, numbers)


def point_lists(least: int, most: int) -> st.SearchStrategy[Floats]:
    return st.lists(corners, min_size=least, max_size=most).map(lambda points: np.array(points, dtype=np.float64))


@st.composite
def convex_polygons(draw: st.DrawFn) -> Floats:
    """Of three corners or more, either way round."""
    hull = shapely.MultiPoint(draw(point_lists(3, 8))).convex_hull
    assume(hull.geom_type == "Polygon" and hull.area > 1e-3)
    ring = np.array(hull.exterior.coords)[:-1]
    return ring[::-1] if draw(st.booleans()) else ring


@st.composite
def rectangles(draw: st.DrawFn) -> Floats:
    """At any angle, from any corner, either way round."""
    centre, angle = draw(corners), draw(st.floats(0, 2 * math.pi))
    long, short = draw(st.floats(1, 120)), draw(st.floats(1, 60))
    quad = np.array([[-long, -short], [long, -short], [long, short], [-long, short]]) / 2
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    quad = np.roll(quad, draw(st.integers(0, 3)), axis=0)
    return (quad[::-1] if draw(st.booleans()) else quad) @ turn + centre


def clockwise(points: Floats) -> bool:
    """On screen, where y points down."""
    return shapely.LinearRing(points).is_ccw


@given(convex_polygons())
def test_clipped_polygons_are_those_of_shapely(polygon: Floats) -> None:
    part = polygons.clip_polygon(polygon, WIDTH, HEIGHT)
    expected = shapely.Polygon(polygon).intersection(CANVAS)
    assert polygons.area(part) == pytest.approx(expected.area, abs=1e-3)
    assert polygons.area(part) <= polygons.area(polygon) + 1e-3
    assert len(part) <= len(polygon) + 4
    assert polygons.inside(part, WIDTH, HEIGHT)
    if expected.area > 1:
        assert shapely.Polygon(part).symmetric_difference(expected).area < 1e-3
        assert clockwise(part) == clockwise(polygon)


@given(convex_polygons())
def test_clipping_keeps_the_order_of_the_corners_inside(polygon: Floats) -> None:
    part = [tuple(corner) for corner in polygons.clip_polygon(polygon, WIDTH, HEIGHT).tolist()]
    inside = [(x, y) for x, y in polygon.tolist() if 1e-3 < x < WIDTH - 1e-3 and 1e-3 < y < HEIGHT - 1e-3]
    assert [corner for corner in part if corner in inside] == inside


@given(point_lists(4, 4))
def test_any_quad_clips_to_its_part_or_its_hulls(quad: Floats) -> None:
    """Quads that are not convex or cross themselves are cut as their hull."""
    part = polygons.clip_polygon(quad, WIDTH, HEIGHT)
    assert polygons.inside(part, WIDTH, HEIGHT)
    if polygons.inside(quad, WIDTH, HEIGHT):
        np.testing.assert_allclose(part, quad, atol=1e-6)
        return
    hull = shapely.MultiPoint(quad).convex_hull
    assert polygons.area(part) == pytest.approx(hull.intersection(CANVAS).area, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "quad", "hull"),
    [
        ("convex", [[0, 0], [4, 0], [4, 4], [0, 4]], [[0, 0], [4, 0], [4, 4], [0, 4]]),
        ("arrow", [[0, 0], [4, 2], [0, 4], [1, 2]], [[0, 0], [4, 2], [0, 4]]),
        ("bow tie", [[0, 0], [4, 4], [4, 0], [0, 4]], [[0, 0], [4, 0], [4, 4], [0, 4]]),
        ("collinear", [[0, 0], [1, 1], [2, 2], [3, 3]], [[0, 0], [1, 1], [2, 2], [3, 3]]),
        ("arrow, other way", [[1, 2], [0, 4], [4, 2], [0, 0]], [[0, 4], [4, 2], [0, 0]]),
    ],
)
def test_only_quads_that_are_not_convex_become_hulls(name: str, quad: list[list[float]], hull: list) -> None:
    assert polygons.convex(np.array(quad, dtype=np.float64)).tolist() == hull


def test_polygons_that_touch_the_canvas_have_no_area_there() -> None:
    beside = np.array([[100.0, 10], [120, 10], [120, 30], [100, 30]])
    assert polygons.area(polygons.clip_polygon(beside, WIDTH, HEIGHT)) == 0
    assert len(polygons.clip_polygon(beside + 1, WIDTH, HEIGHT)) == 0
    at_corner = np.array([[100.0, 60], [120, 60], [120, 80]])
    assert polygons.clip_polygon(at_corner, WIDTH, HEIGHT).tolist() == [[100, 60]]


def test_rounding_errors_at_the_edge_add_no_corners() -> None:
    quad = np.array([[-1e-12, 5], [50, -1e-12], [130, 20], [60, 60 + 1e-12]])
    part = polygons.clip_polygon(quad, WIDTH, HEIGHT)
    assert part[:2].tolist() == [[0, 5], [50, 0]]
    assert part[-1].tolist() == [60, 60]
    assert len(part) == 5
    whole = np.array([[-1e-12, 0], [100 + 1e-12, 0], [100, 60], [0, 60]])
    assert polygons.inside(whole, WIDTH, HEIGHT)
    assert polygons.clip_polygon(whole, WIDTH, HEIGHT).tolist() == [[0, 0], [100, 0], [100, 60], [0, 60]]


@given(st.lists(corners, min_size=2, max_size=7, unique=True))
@settings(max_examples=300)
def test_the_longest_piece_of_a_line_is_that_of_shapely(line: list[tuple[float, float]]) -> None:
    points = np.array(line, dtype=np.float64)
    part = polygons.clip_line(points, WIDTH, HEIGHT)
    assert polygons.inside(part, WIDTH, HEIGHT)
    assert polygons.length(part) == pytest.approx(longest_piece(points), abs=1e-3)
    if len(part):
        assert shapely.LineString(points).buffer(1e-6).covers(shapely.LineString(part))


def longest_piece(points: Floats) -> float:
    """Shapely cuts crossing lines at the crossing, so each segment is cut by itself, and the parts chained again."""
    best = current = 0.0
    end: tuple[float, ...] | None = None
    for a, b in zip(points[:-1].tolist(), points[1:].tolist(), strict=True):
        part = shapely.LineString([a, b]).intersection(CANVAS)
        if part.is_empty:
            end = None
            continue
        ends = sorted(part.coords, key=lambda p, a=a: math.dist(p, a))
        goes_on = end is not None and max(math.dist(end, a), math.dist(ends[0], a)) < 1e-9
        current = current + part.length if goes_on else part.length
        end, best = ends[-1], max(best, current)
    return best


def test_lines_keep_their_longest_piece_in_order() -> None:
    out_and_in = np.array([[90.0, 10], [120, 10], [120, 40], [50, 40], [20, 50]])
    part = polygons.clip_line(out_and_in, WIDTH, HEIGHT)
    assert part.tolist() == [[100, 40], [50, 40], [20, 50]]
    assert polygons.clip_line(out_and_in[::-1], WIDTH, HEIGHT).tolist() == [[20, 50], [50, 40], [100, 40]]


@pytest.mark.parametrize(
    "line",
    [
        [[-10, -10], [-5, 70]],
        [[-10, 10], [10, -10]],
        [[110, 10], [120, 10], [130, 50]],
    ],
)
def test_lines_outside_or_through_a_corner_leave_nothing(line: list[list[float]]) -> None:
    assert polygons.clip_line(np.array(line, dtype=np.float64), WIDTH, HEIGHT).shape == (0, 2)


def test_points_given_twice_are_kept_inside_and_merged_in_a_cut_line() -> None:
    twice = np.array([[10.0, 10], [20, 10], [20, 10], [90, 10]])
    assert polygons.clip_line(twice, WIDTH, HEIGHT).tolist() == twice.tolist()
    assert polygons.clip_line(twice + np.array([30, 0]), WIDTH, HEIGHT).tolist() == [[40, 10], [50, 10], [100, 10]]


def test_a_line_that_comes_back_where_it_left_is_in_two_pieces() -> None:
    around = np.array([[0.0, 2], [0, -1], [-1, 0], [1, 0]])
    assert polygons.clip_line(around, WIDTH, HEIGHT).tolist() == [[0, 2], [0, 0]]
    straight_back = np.array([[10.0, 10], [-10, 10], [20, 10]])
    assert polygons.clip_line(straight_back, WIDTH, HEIGHT).tolist() == [[0, 10], [20, 10]]


def test_a_line_that_touches_the_edge_from_inside_stays_one_piece() -> None:
    line = np.array([[80.0, 10], [100, 20], [80, 30], [80, 70]])
    assert polygons.clip_line(line, WIDTH, HEIGHT).tolist() == [[80, 10], [100, 20], [80, 30], [80, 60]]


@given(point_lists(1, 9))
def test_the_smallest_rectangle_is_shapelys(points: Floats) -> None:
    rectangle = polygons.min_area_rectangle(points)
    expected = shapely.MultiPoint(points).minimum_rotated_rectangle
    assert rectangle.shape == (4, 2)
    assert polygons.area(rectangle) == pytest.approx(expected.area, rel=1e-6, abs=1e-3)
    outline = shapely.MultiPoint(rectangle).convex_hull.buffer(1e-6)
    assert outline.covers(shapely.MultiPoint(points))


@given(rectangles())
def test_a_rectangle_is_its_own_smallest_rectangle(rectangle: Floats) -> None:
    """To 1e-6 pixels; cv2.minAreaRect, in float32, is not that exact."""
    smallest = polygons.ordered_like(polygons.min_area_rectangle(rectangle), rectangle)
    np.testing.assert_allclose(smallest, rectangle, atol=1e-6)
    sides = np.linalg.norm(np.diff(rectangle[:3], axis=0), axis=1)
    assert polygons.shorter_side(rectangle) == pytest.approx(sides.min(), abs=1e-6)


@given(rectangles(), st.integers(0, 3), st.booleans())
def test_order_follows_the_other_quad(quad: Floats, start: int, reverse: bool) -> None:
    like = np.roll(quad[::-1] if reverse else quad, start, axis=0)
    nearby = quad + 1e-3
    np.testing.assert_allclose(polygons.ordered_like(nearby, like), like + 1e-3)


def test_the_first_corner_is_found_by_all_four() -> None:
    """Of a long tilted quad, 21 pixels of the far end are left: nearest to the first corner would be the lower left."""
    quad = np.array([[-1000.0, 400], [14, 31], [21, 50], [-993, 419]])
    left_over = np.array([[0.0, 55], [0, 36], [21, 31], [21, 50]])
    assert polygons.ordered_like(left_over, quad).tolist() == [[0, 36], [21, 31], [21, 50], [0, 55]]


@given(convex_polygons())
def test_the_largest_quad_lies_in_its_polygon(polygon: Floats) -> None:
    quad = polygons.largest_quad(polygon)
    area, whole = polygons.area(quad), polygons.area(polygon)
    assert quad.shape == (4, 2)
    assert area <= whole + 1e-9
    # No convex shape is approximated worse than a disc (Sas, 1939).
    assert area >= 2 / math.pi * whole - 1e-6
    assert shapely.Polygon(polygon).buffer(1e-6).covers(shapely.MultiPoint(quad))
    if len(polygon) <= 4:
        assert area == pytest.approx(whole)


def test_a_triangle_gets_a_fourth_point_on_its_longest_side() -> None:
    assert polygons.largest_quad(np.array([[0.0, 0], [8, 6], [0, 6]])).tolist() == [[0, 0], [4, 3], [8, 6], [0, 6]]
    assert polygons.largest_quad(np.array([[1.0, 2]])).tolist() == [[1, 2]] * 4


# -- polygons of any form ------------------------------

outlines = point_lists(3, 10)


@st.composite
def simple_polygons(draw: st.DrawFn) -> Floats:
    """Not convex, as a rule, and of one piece: corners in the order of their angles around a centre."""
    centre, reach = draw(corners), draw(st.lists(st.floats(2, 90), min_size=3, max_size=12))
    angles = np.arange(len(reach)) / len(reach) * 2 * math.pi
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array(reach)[:, None] + centre


@given(outlines)
@settings(max_examples=300, deadline=None)
def test_any_outline_is_cut_to_the_largest_part_of_its_lobes(outline: Floats) -> None:
    piece, visible = polygons.largest_piece(outline, WIDTH, HEIGHT)
    assert polygons.inside(piece, WIDTH, HEIGHT)
    if polygons.inside(outline, WIDTH, HEIGHT):
        np.testing.assert_allclose(piece, outline, atol=1e-6)
        return
    whole = shapely.make_valid(shapely.Polygon(outline), method="structure")
    part = whole.intersection(CANVAS)
    assume(whole.area > 1e-3)
    assert visible == pytest.approx(part.area / whole.area, abs=1e-5)
    assert len(piece) >= 3 or not part.area
    assert shapely.Polygon(piece).is_valid


@given(simple_polygons(), st.booleans())
def test_a_piece_keeps_the_orientation_of_its_polygon(outline: Floats, reverse: bool) -> None:
    outline = outline[::-1] if reverse else outline
    piece, visible = polygons.largest_piece(outline, WIDTH, HEIGHT)
    assume(visible > 1e-3)
    assert clockwise(piece) == clockwise(outline)
    assert len(piece) <= 2 * len(outline) + 4


def test_a_piece_begins_at_the_first_corner_or_near_it() -> None:
    arrow = np.array([[90.0, 30], [50, 50], [-40, 30], [50, 10]])
    assert polygons.largest_piece(arrow, WIDTH, HEIGHT)[0][0].tolist() == [90, 30]
    tip_outside = np.roll(arrow, 2, axis=0)
    assert polygons.largest_piece(tip_outside, WIDTH, HEIGHT)[0][0][0] == 0


def test_what_encloses_the_canvas_becomes_the_canvas() -> None:
    around = np.array([[-50.0, -50], [200, -50], [200, 200], [-50, 200]])
    piece, visible = polygons.largest_piece(around, WIDTH, HEIGHT)
    assert piece.tolist() == [[0, 0], [100, 0], [100, 60], [0, 60]]
    assert visible == pytest.approx(6000 / 250**2)


@given(point_lists(1, 9))
def test_the_narrowest_strip_holds_all_points_at_every_angle(points: Floats) -> None:
    width = polygons.narrowest(points)
    turns = np.stack([[math.cos(t), math.sin(t)] for t in np.linspace(0, math.pi, 3600)])
    extents = np.ptp(points @ turns.T, axis=0)
    assert width <= extents.min() + 1e-6
    assert width == pytest.approx(extents.min(), abs=0.3)


@given(rectangles())
def test_the_narrowest_strip_of_a_rectangle_is_its_shorter_side(rectangle: Floats) -> None:
    assert polygons.narrowest(rectangle) == pytest.approx(polygons.shorter_side(rectangle), abs=1e-6)


@pytest.mark.parametrize(
    ("outline", "crosses"),
    [
        ([[0, 0], [4, 0], [4, 4]], False),
        ([[0, 0], [4, 0], [2, 1], [4, 4], [0, 4]], False),
        ([[0, 0], [4, 4], [4, 0], [0, 4], [-1, 2]], True),
        ([[0, 0], [2, 6], [4, 0], [-1, 4], [5, 4]], True),
        ([[0, 0], [5, 0], [10, 0], [5, 0], [5, 5], [0, 5]], False),  # there and back on one line
        ([[0, 0], [4, 0], [2, 2], [4, 4], [0, 4], [2, 2]], False),  # two parts that meet in a corner
        ([[0, 0], [9, 0], [9, 9], [3, 9], [3, 3], [6, 3], [6, 6], [3, 6], [3, 9], [0, 9]], False),  # around a hole
        ([[1, 1], [1, 1], [1, 1], [1, 1], [1, 1]], False),
    ],
)
def test_sides_that_touch_do_not_cross(outline: list[list[float]], crosses: bool) -> None:
    assert polygons.crosses_itself(np.array(outline, dtype=np.float64)) == crosses


def test_thousands_of_corners_are_checked_and_cut_in_little_time() -> None:
    angles = np.linspace(0, 2 * math.pi, 4000, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 50
    star = ring[np.arange(4000) * 1501 % 4000]  # nearly all sides cross nearly all others
    start = time.process_time()
    assert not polygons.crosses_itself(ring)
    assert polygons.crosses_itself(star)
    assert polygons.largest_piece(ring, WIDTH, HEIGHT)[1] == pytest.approx(0.25, abs=1e-3)
    assert polygons.narrowest(ring) == pytest.approx(100, abs=1e-3)
    assert polygons.polygon_iou([ring, star], [ring, star]).tolist() == [[pytest.approx(1), 0], [0, 0]]
    assert time.process_time() - start < 10


@given(st.lists(outlines, min_size=1, max_size=2), st.lists(outlines, min_size=1, max_size=2))
@settings(deadline=None)
def test_the_overlap_of_polygons_is_that_of_their_pixels(one: list[Floats], other: list[Floats]) -> None:
    """Of those with many pixels, as pixels on the outlines may count to either side."""
    found = polygons.polygon_iou(one, other)
    step = 1.0
    x, y = np.meshgrid(np.arange(-80, 180, step) + step / 2, np.arange(-80, 180, step) + step / 2)
    masks = [[shapely.contains_xy(lobes(outline), x, y) for outline in side] for side in (one, other)]
    for row, a in enumerate(masks[0]):
        for column, b in enumerate(masks[1]):
            union = np.count_nonzero(a | b)
            if union > 2000:
                assert found[row, column] == pytest.approx(np.count_nonzero(a & b) / union, abs=0.05)


def lobes(outline: Floats) -> shapely.Geometry:
    return shapely.make_valid(shapely.Polygon(outline), method="structure", keep_collapsed=False)


@given(st.lists(point_lists(4, 4), min_size=1, max_size=4), st.lists(point_lists(4, 4), min_size=1, max_size=4))
@settings(deadline=None)
def test_a_quad_as_a_polygon_has_the_same_iou(one: list[Floats], other: list[Floats]) -> None:
    # Which part of a quad that crosses itself is inside, is a matter of definition.
    one, other = ([each for each in quads if shapely.Polygon(each).is_valid] for quads in (one, other))
    assume(one and other)
    expected = polygons.quad_iou(np.array(one), np.array(other))
    np.testing.assert_allclose(polygons.polygon_iou(one, other), expected, atol=1e-9)


def test_measures() -> None:
    triangle = np.array([[1e6, 1e6], [1e6 + 3, 1e6], [1e6, 1e6 + 4]])
    assert polygons.area(triangle) == polygons.area(triangle[::-1]) == 6
    assert polygons.length(triangle) == 8
    assert polygons.envelope(triangle) == ((1e6, 1e6), (1e6 + 3, 1e6 + 4))
    nothing = np.zeros((0, 2))
    assert polygons.area(nothing) == polygons.length(nothing) == 0
