"""What becomes of targets: wrapped once, clipped, kept in order, or dropped with a reason."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st

from swiftalign.augment import geometry
from swiftalign.augment.geometry import Affine
from swiftalign.augment.targets import Outcome, _surely_wider, fit_targets, inflation_cost
from swiftalign.config.augmentation import AugmentationSection
from swiftalign.data import polygons
from swiftalign.data.polygons import Floats
from swiftalign.data.targets import KINDS, Kind, PixelTarget, Point

WIDTH, HEIGHT = 200, 120
DEFAULT = AugmentationSection()
ALL = AugmentationSection(min_visible=0.0, min_side=0.0)


def box(left: float, top: float, right: float, bottom: float, outline: tuple[Point, ...] = ()) -> PixelTarget:
    return PixelTarget("bbox", "box", ((left, top), (right, bottom)), outline)


def quad(*points: Point) -> PixelTarget:
    return PixelTarget("quad", "quad", points)


def line(*points: Point) -> PixelTarget:
    return PixelTarget("line", "line", points)


def point(x: float, y: float) -> PixelTarget:
    return PixelTarget("point", "point", ((x, y),))


def polygon(*points: Point) -> PixelTarget:
    return PixelTarget("polygon", "polygon", points)


def corners(target: PixelTarget) -> Floats:
    return np.array(target.corners, dtype=np.float64)


def mirrors(affine: Affine) -> bool:
    return bool(np.linalg.det(affine.matrix) < 0)


def stays(affine: Affine) -> bool:
    return np.array_equal(affine.matrix, np.eye(3))


def move(
    targets: list[PixelTarget], affine: Affine, rules: AugmentationSection = ALL, boxes_as_quads: bool = False
) -> list[Outcome]:
    moved = [geometry.transform(corners(target), affine.matrix) for target in targets]
    flipped = mirrors(affine)
    return list(fit_targets(targets, moved, affine.size, rules, flipped=flipped, boxes_as_quads=boxes_as_quads))


def kept(
    target: PixelTarget, affine: Affine, rules: AugmentationSection = ALL, boxes_as_quads: bool = False
) -> PixelTarget:
    (outcome,) = move([target], affine, rules, boxes_as_quads)
    assert outcome.target is not None
    assert outcome.reason is None
    return outcome.target


def shifted(x: float, y: float, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Affine:
    return Affine(np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64), size)


def plain() -> Affine:
    return geometry.start((WIDTH, HEIGHT))


EVERY_KIND = [
    box(10, 20, 60, 50),
    box(10, 20, 60, 50, outline=((10, 30), (50, 20), (60, 40), (20, 50))),
    quad((70, 20), (120, 30), (115, 60), (68, 50)),
    line((20, 100), (80, 90), (150, 110)),
    point(30, 70),
    polygon((20, 20), (60, 20), (60, 60), (40, 40), (20, 60)),
]

positions = st.one_of(st.integers(-60, 260).map(float), st.floats(-60, 260).map(lambda number: round(number, 3)))
points = st.tuples(positions, positions)


@st.composite
def boxes(draw: st.DrawFn) -> PixelTarget:
    (x, y), width, height = draw(points), draw(st.integers(1, 150)), draw(st.integers(1, 150))
    return box(x, y, x + width, y + height)


@st.composite
def convex_quads(draw: st.DrawFn, inside: bool = False) -> PixelTarget:
    """Clockwise on screen, from the top left: each corner in its own quarter of a box."""
    lefts, tops = (
        (st.integers(0, 120), st.integers(0, 60)) if inside else (st.integers(-60, 180), st.integers(-60, 100))
    )
    left, top, width, height = draw(lefts), draw(tops), draw(st.integers(8, 80)), draw(st.integers(8, 60))
    jitter = draw(st.lists(st.floats(0, 0.24).map(lambda number: round(number, 3)), min_size=8, max_size=8))
    unit = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * np.array(jitter).reshape(4, 2)
    return quad(*map(tuple, ((unit + inwards) * (width, height) + (left, top)).tolist()))


def with_box(target: PixelTarget) -> PixelTarget:
    """The box of a quad, with the quad as its outline."""
    return PixelTarget("bbox", "box", polygons.envelope(corners(target)), target.points)


lines = st.lists(points, min_size=2, max_size=6).map(lambda chain: line(*chain))
any_quads = st.lists(points, min_size=4, max_size=4).map(lambda chain: quad(*chain))
any_polygons = st.lists(points, min_size=3, max_size=9).map(lambda chain: polygon(*chain))
any_points = points.map(lambda at: point(*at))


@st.composite
def stars(draw: st.DrawFn) -> PixelTarget:
    """Polygons that need not be convex and do not cross themselves, clockwise on screen, around a centre."""
    (x, y), count = draw(points), draw(st.integers(3, 12))
    reach = draw(st.lists(st.floats(4, 90).map(lambda number: round(number, 3)), min_size=count, max_size=count))
    angles = np.arange(count) / count * 2 * np.pi
    shape = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array(reach)[:, None] + (x, y)
    return polygon(*map(tuple, shape.tolist()))


any_targets = st.one_of(
    boxes(), convex_quads().map(with_box), convex_quads(), any_quads, lines, any_points, any_polygons, stars()
)


@st.composite
def affines(draw: st.DrawFn) -> Affine:
    affine = geometry.hflip(plain()) if draw(st.booleans()) else plain()
    affine = geometry.rotate(affine, draw(st.floats(-30, 30).map(lambda number: round(number, 2))))
    affine = geometry.scale(affine, draw(st.sampled_from([1, 0.7, 1.4])))
    return geometry.resize_by_scale(affine, draw(st.sampled_from([1, 0.5, 1.5])), draw(st.sampled_from([1, 32])))


@given(st.lists(any_targets, max_size=5), st.booleans())
def test_the_identity_leaves_every_target_as_it_is(targets: list[PixelTarget], boxes_as_quads: bool) -> None:
    """Also those that reach beyond the image, or are tiny; padding is no other geometry."""
    for affine in (plain(), geometry.hflip(geometry.hflip(plain())), geometry.pad_to_multiple(plain(), 32)):
        outcomes = move(targets, affine, DEFAULT, boxes_as_quads)
        assert all(outcome.target is target for outcome, target in zip(outcomes, targets, strict=True))
        assert all(outcome == Outcome(outcome.target) for outcome in outcomes)


@given(st.lists(any_targets, max_size=5), affines(), st.booleans())
def test_nothing_leaves_the_canvas(targets: list[PixelTarget], affine: Affine, boxes_as_quads: bool) -> None:
    outcomes = move(targets, affine, ALL, boxes_as_quads)
    assert len(outcomes) == len(targets)
    for before, outcome in zip(targets, outcomes, strict=True):
        assert 0 <= outcome.visible <= 1
        assert (outcome.target is None) == (outcome.reason is not None)
        if outcome.target is None or outcome.target is before:
            continue
        for x, y in (*outcome.target.points, *outcome.target.outline):
            assert 0 <= x <= affine.size[0]
            assert 0 <= y <= affine.size[1]
        count, kind = len(outcome.target.points), outcome.target.kind
        assert count == {"bbox": 2, "quad": 4, "point": 1}.get(kind, count)
        assert count >= {"polygon": 3, "line": 1}.get(kind, count)
        assert outcome.target.label == before.label


@given(st.one_of(boxes(), convex_quads().map(with_box)), affines())
def test_a_box_is_the_envelope_of_its_visible_part(target: PixelTarget, affine: Affine) -> None:
    moved = geometry.transform(corners(target), affine.matrix)
    part = shapely.Polygon(moved).intersection(shapely.box(0, 0, *affine.size))
    (outcome,) = move([target], affine)
    assume(not stays(affine) and part.area > 0.1)
    assert outcome.target is not None
    (left, top), (right, bottom) = outcome.target.points
    np.testing.assert_allclose((left, top, right, bottom), part.bounds, atol=1e-5)
    assert outcome.visible == pytest.approx(part.area / shapely.Polygon(moved).area, abs=1e-5)
    box_area = (right - left) * (bottom - top)
    assert outcome.inflation == pytest.approx(box_area / shapely.Polygon(moved).area, rel=1e-5)


@given(convex_quads(), affines())
def test_quads_stay_clockwise_four_cornered_and_near_their_visible_part(target: PixelTarget, affine: Affine) -> None:
    moved = shapely.Polygon(geometry.transform(corners(target), affine.matrix))
    part = moved.intersection(shapely.box(0, 0, *affine.size))
    assume(part.area > 1 and not stays(affine))
    settled = shapely.Polygon(kept(target, affine).points)
    assert shapely.LinearRing(settled.exterior).is_ccw
    assert settled.is_valid
    assert part.buffer(1e-5).covers(settled)
    # The worst case of any convex shape, a disc, keeps 64%.
    assert settled.area >= 0.63 * part.area


@given(convex_quads(inside=True), affines())
def test_uncut_quads_keep_their_corners(target: PixelTarget, affine: Affine) -> None:
    moved = geometry.transform(corners(target), affine.matrix)
    assume(polygons.inside(moved, *affine.size))
    expected = moved[[1, 0, 3, 2]] if mirrors(affine) else moved
    np.testing.assert_allclose(kept(target, affine).points, expected, atol=1e-6)


@given(convex_quads(inside=True), st.booleans())
def test_flipping_twice_gives_the_same_quad(target: PixelTarget, boxed: bool) -> None:
    """In two rounds, each with its own reading order."""
    flip = geometry.hflip(plain())
    target = with_box(target) if boxed else target
    twice = kept(kept(target, flip), flip)
    np.testing.assert_allclose(twice.points, target.points, atol=1e-9)
    np.testing.assert_allclose(twice.outline, target.outline, atol=1e-9)


@given(lines, affines())
def test_lines_keep_their_longest_piece_and_direction(target: PixelTarget, affine: Affine) -> None:
    moved = geometry.transform(corners(target), affine.matrix)
    part = polygons.clip_line(moved, *affine.size)
    assume(not stays(affine) and len(part))
    outcome = move([target], affine)[0]
    assert outcome.target is not None
    assert outcome.target.points == tuple(map(tuple, part.tolist()))
    assert outcome.visible == pytest.approx(
        polygons.length(part) / polygons.length(moved) if polygons.length(moved) else 1.0
    )


@given(stars(), affines())
def test_a_polygon_is_cut_to_its_largest_piece_as_shapely_has_it(target: PixelTarget, affine: Affine) -> None:
    moved = shapely.Polygon(geometry.transform(corners(target), affine.matrix))
    pieces = shapely.get_parts(moved.intersection(shapely.box(0, 0, *affine.size)))
    areas = shapely.area(pieces)
    assume(not stays(affine) and areas.sum() > 0.1 and shapely.area(moved) > 1)
    (outcome,) = move([target], affine)
    assert outcome.visible == pytest.approx(areas.sum() / moved.area, abs=1e-5)
    assert outcome.target is not None
    assert outcome.inflation == 1.0
    settled = shapely.Polygon(outcome.target.points)
    assert settled.area == pytest.approx(areas.max(), abs=1e-3)
    assert moved.buffer(1e-5).covers(settled)
    assert shapely.LinearRing(settled.exterior).is_ccw == (settled.area > 0)
    assert len(outcome.target.points) <= 2 * len(target.points) + 4


@given(stars(), affines())
def test_the_corners_of_a_polygon_keep_their_order(target: PixelTarget, affine: Affine) -> None:
    moved = geometry.transform(corners(target), affine.matrix)
    count = len(moved)
    wanted = moved[[1, 0, *range(count - 1, 1, -1)]] if mirrors(affine) else moved
    assume(not stays(affine))
    (outcome,) = move([target], affine)
    assume(outcome.target is not None)
    assert outcome.target is not None
    if not outcome.clipped:
        np.testing.assert_allclose(outcome.target.points, wanted, atol=1e-6)
        return
    apart = np.linalg.norm(np.array(outcome.target.points)[:, None] - wanted[None], axis=-1)
    found = [int(row.argmin()) for row in apart if row.min() < 1e-9]
    assert sum(after < before for before, after in pairwise(found)) <= 1
    assert 0 not in found or found[0] == 0


@given(st.lists(st.tuples(st.integers(0, WIDTH), st.integers(0, HEIGHT)), min_size=3, max_size=9))
def test_flipping_a_polygon_twice_gives_the_same(chain: list[Point]) -> None:
    flip, target = geometry.hflip(plain()), polygon(*chain)
    np.testing.assert_allclose(kept(kept(target, flip), flip).points, target.points, atol=2 * polygons.ON_EDGE)


@given(any_points, affines())
def test_a_point_is_kept_where_it_is_on_the_canvas(target: PixelTarget, affine: Affine) -> None:
    moved = geometry.transform(corners(target), affine.matrix)
    assume(not stays(affine) and not np.array_equal(moved, corners(target)))
    (outcome,) = move([target], affine, DEFAULT)
    if polygons.inside(moved, *affine.size):
        assert outcome == Outcome(PixelTarget("point", "point", (pytest.approx(moved[0].tolist(), abs=1e-5),)))
    else:
        assert outcome == Outcome(None, "0% visible", True, 0.0)


def test_a_polygon_in_two_pieces_keeps_the_larger_and_counts_both() -> None:
    # A U, open to the top, whose base is below the canvas: of 160 x 60 - 100 x 40 pixels, two arms remain.
    cup = polygon((20, 20), (60, 20), (60, 60), (160, 60), (160, 20), (180, 20), (180, 80), (20, 80))
    (outcome,) = move([cup], shifted(0, 70))
    assert outcome.target == polygon((20, 90), (60, 90), (60, 120), (20, 120))
    assert outcome.visible == pytest.approx((40 * 30 + 20 * 30) / (160 * 60 - 100 * 40))


def test_a_cut_polygon_begins_nearest_to_its_first_corner() -> None:
    house = polygon((60, 10), (90, 40), (90, 90), (10, 90), (10, 40))
    assert kept(house, shifted(-30, 0)).points[0] == (30, 10)
    assert kept(house, shifted(0, -40)) == polygon((90, 0), (90, 50), (10, 50), (10, 0))
    flip = geometry.hflip(plain())
    assert kept(house, flip) == polygon((110, 40), (140, 10), (190, 40), (190, 90), (110, 90))


@pytest.mark.parametrize(
    ("crossed", "left"),
    [
        (polygon((20, 20), (80, 60), (80, 20), (20, 60)), 3),  # the right lobe
        (polygon((20, 20), (60, 20), (20, 20), (60, 20), (60, 60)), 4),  # a side there and back again
        (polygon((20, 20), (20, 20), (20, 20)), 0),
        (polygon((20, 20), (40, 40), (80, 80)), 0),
    ],
)
def test_polygons_that_cross_themselves_or_are_flat_keep_their_points_until_they_are_cut(
    crossed: PixelTarget, left: int
) -> None:
    assert len(kept(crossed, geometry.hflip(plain())).points) == len(crossed.points)
    (outcome,) = move([crossed], shifted(-45, 0))
    assert len(outcome.target.points if outcome.target else ()) == left


def test_a_pentagram_is_the_union_of_its_lobes() -> None:
    star = polygon((10, 10), (50, 90), (90, 10), (5, 60), (95, 60))
    (outcome,) = move([star], shifted(-45, 0))
    whole = shapely.make_valid(shapely.Polygon(star.points), method="structure")
    part = whole.intersection(shapely.box(45, 0, 245, HEIGHT))
    assert outcome.visible == pytest.approx(part.area / whole.area)


def test_a_flip_by_hand() -> None:
    flip = geometry.hflip(plain())
    assert kept(EVERY_KIND[0], flip) == box(140, 20, 190, 50)
    assert kept(EVERY_KIND[1], flip) == box(
        140, 20, 190, 50, outline=((150.0, 20.0), (190.0, 30.0), (180.0, 50.0), (140.0, 40.0))
    )
    assert kept(EVERY_KIND[2], flip) == quad((80, 30), (130, 20), (132, 50), (85, 60))
    assert kept(EVERY_KIND[3], flip) == line((180, 100), (120, 90), (50, 110))
    assert kept(EVERY_KIND[4], flip) == point(170, 70)
    assert kept(EVERY_KIND[5], flip) == polygon((140, 20), (180, 20), (180, 60), (160, 40), (140, 60))


def test_a_box_with_an_outline_turns_tight_and_keeps_the_outline() -> None:
    diamond = ((50.0, 40.0), (70.0, 60.0), (50.0, 80.0), (30.0, 60.0))
    turned = geometry.rotate(geometry.start((100, 120)), 45)
    tight, loose = move([box(30, 40, 70, 80, outline=diamond), box(30, 40, 70, 80)], turned)
    assert tight.inflation == pytest.approx(1.0)
    assert loose.inflation == pytest.approx(2.0)
    assert tight.target is not None
    assert tight.target.points[1][0] - tight.target.points[0][0] == pytest.approx(40 / 2**0.5)
    np.testing.assert_allclose(tight.target.outline, geometry.transform(np.array(diamond), turned.matrix))


def test_an_outline_is_cut_with_its_box_and_let_go_where_four_corners_are_too_few() -> None:
    upright = box(20, 20, 80, 40, outline=((20.0, 20.0), (80.0, 20.0), (80.0, 40.0), (20.0, 40.0)))
    assert kept(upright, shifted(-50, 0)).outline == ((0, 20), (30, 20), (30, 40), (0, 40))
    diamond = box(10, 10, 90, 90, outline=((50.0, 10.0), (90.0, 50.0), (50.0, 90.0), (10.0, 50.0)))
    assert kept(diamond, shifted(-20, 0)) == box(0, 10, 70, 90)


def test_boxes_are_wrapped_once() -> None:
    """A 1:4 box grows 1.59 times at 8 degrees and 2.37 times at 20, and there and back not at all."""
    long = box(60, 50, 140, 70)
    for degrees, growth in ((8, 1.59), (20, 2.37)):
        (outcome,) = move([long], geometry.rotate(plain(), degrees))
        assert outcome.inflation == pytest.approx(growth, abs=0.01)
        assert inflation_cost(
            [long], [geometry.transform(corners(long), geometry.rotate(plain(), degrees).matrix)]
        ) == (pytest.approx(1 / growth, abs=0.005))
    there_and_back = geometry.rotate(geometry.rotate(plain(), 8), -8)
    np.testing.assert_allclose(kept(long, there_and_back).points, long.points, atol=1e-9)


def test_inflation_costs_what_the_worst_box_without_outline_pays() -> None:
    turned = geometry.rotate(plain(), 20)
    moved = [geometry.transform(corners(target), turned.matrix) for target in EVERY_KIND]
    assert inflation_cost(EVERY_KIND, moved) == pytest.approx(
        polygons.area(moved[0]) / shapely.box(*shapely.Polygon(moved[0]).bounds).area
    )
    assert inflation_cost(EVERY_KIND[1:], moved[1:]) == 1.0
    assert inflation_cost([], []) == 1.0
    flipped = geometry.transform(corners(EVERY_KIND[0]), geometry.hflip(plain()).matrix)
    assert inflation_cost(EVERY_KIND[:1], [flipped]) == 1.0


def test_tilted_boxes_may_become_quads() -> None:
    turned = geometry.rotate(plain(), 20)
    loose, outlined = box(60, 50, 140, 70), EVERY_KIND[1]
    settled = kept(loose, turned, boxes_as_quads=True)
    assert (settled.kind, settled.label, settled.outline) == ("quad", "box", ())
    np.testing.assert_allclose(settled.points, geometry.transform(corners(loose), turned.matrix))
    assert kept(outlined, turned, boxes_as_quads=True).kind == "bbox"
    upright = geometry.hflip(geometry.resize(plain(), (300, 100)))
    assert kept(loose, upright, boxes_as_quads=True).kind == "bbox"
    mirrored = geometry.hflip(turned)
    expected = geometry.transform(corners(loose), mirrored.matrix)[[1, 0, 3, 2]]
    np.testing.assert_allclose(kept(loose, mirrored, boxes_as_quads=True).points, expected)


def test_a_quad_cut_to_four_corners_keeps_its_first() -> None:
    text = quad((20, 20), (80, 20), (80, 40), (20, 40))
    assert kept(text, shifted(-50, 0)) == quad((0, 20), (30, 20), (30, 40), (0, 40))
    upside_down = quad((80, 40), (20, 40), (20, 20), (80, 20))
    assert kept(upside_down, shifted(-50, 0)) == quad((30, 40), (0, 40), (0, 20), (30, 20))


def test_a_quad_cut_at_a_corner_keeps_its_largest_four() -> None:
    diamond = quad((50, 10), (90, 50), (50, 90), (10, 50))
    assert kept(diamond, shifted(-20, 0)) == quad((30, 10), (70, 50), (30, 90), (0, 60))
    triangle = kept(diamond, shifted(-50, 0))
    assert triangle.points == ((0, 10), (40, 50), (0, 90), (0, 50))


@pytest.mark.parametrize(
    ("target", "x", "visible", "reason"),
    [
        (box(10, 20, 60, 50), -41, 0.38, "38% visible"),
        (box(10, 20, 60, 50), -35.02, 0.4996, "49% visible"),
        (quad((10, 20), (60, 20), (60, 50), (10, 50)), -50, 0.2, "20% visible"),
        (line((10, 20), (60, 20)), -40, 0.4, "40% visible"),
        (box(10, 20, 60, 50), -300, 0.0, "0% visible"),
        (box(10, 20, 60, 50), -60, 0.0, "0% visible"),
    ],
)
def test_what_is_hardly_visible_is_dropped(target: PixelTarget, x: float, visible: float, reason: str) -> None:
    (outcome,) = move([target], shifted(x, 0), DEFAULT)
    assert outcome == Outcome(None, reason, True, pytest.approx(visible))


def test_half_visible_is_enough() -> None:
    (outcome,) = move([box(10, 20, 60, 50)], shifted(-35, 0), DEFAULT)
    assert outcome == Outcome(box(0, 20, 25, 50), None, True, 0.5, 0.5)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (box(10, 20, 15.4, 80), "2.7 px wide"),
        (box(10, 20, 80, 27.98), "3.9 px high"),
        (quad((10, 20), (80, 20), (80, 26), (10, 26)), "3.0 px across"),
        (line((10, 20), (14, 20), (14, 22)), "3.0 px long"),
        (polygon((10, 20), (80, 20), (80, 26), (45, 26), (10, 26)), "3.0 px across"),
    ],
)
def test_what_became_too_small_is_dropped(target: PixelTarget, reason: str) -> None:
    half = geometry.resize(plain(), (WIDTH // 2, HEIGHT // 2))
    (outcome,) = move([target], half, DEFAULT)
    assert outcome == Outcome(None, reason, False, 1.0)
    assert kept(target, half, AugmentationSection(min_side=2.0)).kind == target.kind


@pytest.mark.parametrize(
    "grow", [geometry.hflip, lambda a: geometry.resize(a, (222, 133)), lambda a: geometry.rotate(a, 7)]
)
@pytest.mark.parametrize(
    "target",
    [
        box(33.1, 20.3, 35.8, 80.7),
        quad((10.1, 20.3), (80.7, 20.3), (80.7, 22.9), (10.1, 22.9)),
        line((50.1, 40.3), (51.7, 41.9)),
        point(50.1, 40.3),
        polygon((10.1, 20.3), (80.7, 20.3), (80.7, 22.9)),
    ],
)
def test_what_was_small_before_stays(target: PixelTarget, grow: Callable[[Affine], Affine]) -> None:
    assert kept(target, grow(plain()), DEFAULT).kind == target.kind


@pytest.mark.parametrize("kind", KINDS)
def test_targets_without_extent_do_not_crash(kind: Kind) -> None:
    counts = {"quad": 4, "line": 2, "point": 1, "polygon": 3}
    flat = ((30.0, 40.0),) * counts[kind] if kind in counts else ((30.0, 40.0), (30.0, 60.0))
    target = PixelTarget(kind, "flat", flat)
    assert kept(target, geometry.hflip(plain()), DEFAULT).kind == kind
    assert move([target], shifted(500, 0), DEFAULT)[0] == Outcome(None, "0% visible", True, 0.0)


def test_quads_that_cross_themselves_keep_their_points_until_they_are_cut() -> None:
    bow_tie = quad((20, 20), (80, 60), (80, 20), (20, 60))
    flip = geometry.hflip(plain())
    assert kept(bow_tie, flip) == quad((120, 60), (180, 20), (180, 60), (120, 20))
    cut = kept(bow_tie, shifted(-40, 0))
    assert set(cut.points) == {(0, 20), (40, 20), (40, 60), (0, 60)}


def test_targets_that_hang_over_the_edge_are_cut_only_when_they_move() -> None:
    over = box(-10, 20, 40, 50)
    assert kept(over, plain(), DEFAULT) is over
    (outcome,) = move([over], geometry.hflip(plain()), DEFAULT)
    assert outcome == Outcome(box(160, 20, 200, 50), None, True, 0.8, 0.8)


def test_every_target_needs_its_points() -> None:
    with pytest.raises(ValueError, match="shorter"):
        list(fit_targets(EVERY_KIND, [], (WIDTH, HEIGHT), DEFAULT, flipped=False))


@given(points=st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), min_size=4, max_size=4), side=st.floats(0, 40))
def test_a_quad_that_is_surely_wide_enough_is_wide_enough(points: list[Point], side: float) -> None:
    """The quick bound never keeps a quad that the measured side would drop; quads that cross themselves included."""
    quad = PixelTarget("quad", "plate", tuple(points))
    if _surely_wider(quad, side):
        assert polygons.shorter_side(np.array(points)) >= side


def test_a_usual_quad_is_kept_without_being_measured() -> None:
    assert _surely_wider(PixelTarget("quad", "plate", ((10, 10), (90, 20), (85, 60), (5, 50))), side=4.0)
