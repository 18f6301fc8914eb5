"""Scores of predicted targets: worked examples, properties, and shapely beside them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from swiftalign.data.accuracy import line_costs, overlap_costs
from swiftalign.data.answers import MAX_CHARACTERS, MAX_ITEMS, Answer
from swiftalign.data.metrics import LOWER_IS_BETTER, METRICS
from swiftalign.data.targets import KINDS, Kind, Point, TextTarget
from swiftalign.evaluation.predictions import Prediction
from swiftalign.evaluation.questions import Question
from swiftalign.evaluation.summary import metrics

WIDTH, HEIGHT = 640, 480


def box(left: float, top: float, right: float, bottom: float, label: str = "a") -> TextTarget:
    return TextTarget("bbox", label, ((left, top), (right, bottom)))


def quad(*points: Point, label: str = "a") -> TextTarget:
    return TextTarget("quad", label, points)


def line(*points: Point, label: str = "a") -> TextTarget:
    return TextTarget("line", label, points)


def point(x: float, y: float, label: str = "a") -> TextTarget:
    return TextTarget("point", label, ((x, y),))


def polygon(*points: Point, label: str = "a") -> TextTarget:
    return TextTarget("polygon", label, points)


def score(
    predicted: Sequence[TextTarget] | Answer, truth: Sequence[TextTarget], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> dict[str, float]:
    return metrics([prediction(predicted, truth, size)])


def prediction(
    predicted: Sequence[TextTarget] | Answer, truth: Sequence[TextTarget], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> Prediction:
    answer = predicted if isinstance(predicted, Answer) else Answer(tuple(predicted))
    return Prediction(Question(0, size, tuple(truth)), answer)


unhurried = settings(deadline=None)  # the first example imports scipy and shapely
whole = st.integers(0, 1000)
places = st.tuples(whole, whole)
labels = st.sampled_from(["a", "b"])


@st.composite
def boxes(draw: st.DrawFn) -> TextTarget:
    (left, right), (top, bottom) = (sorted(draw(places)) for _ in "xy")
    return box(left, top, right, bottom, draw(labels))


quads = st.builds(lambda points, label: quad(*points, label=label), st.lists(places, min_size=4, max_size=4), labels)
lines = st.builds(lambda points, label: line(*points, label=label), st.lists(places, min_size=2, max_size=5), labels)
dots = st.builds(lambda at, label: point(*at, label=label), places, labels)
polygons = st.builds(lambda corners, label: polygon(*corners, label=label), st.lists(places, min_size=3), labels)
objects = st.one_of(boxes(), quads, lines, dots, polygons)
several = st.lists(objects, min_size=1, max_size=6)


# -- worked examples ---------------------------------------------------------------------------------------------------


def test_boxes_by_hand() -> None:
    truth = [box(0, 0, 100, 100), box(200, 200, 300, 300), box(500, 500, 600, 600)]
    predicted = [box(0, 0, 100, 50), box(200, 200, 300, 290), box(700, 0, 800, 100), box(0, 900, 10, 910)]
    assert score(predicted, truth) == {
        "bbox_acc": 2 / 3,  # IoU 0.5 and 0.9 and a miss
        "bbox_precision": 2 / 4,
        "bbox_acc75": 1 / 3,
        "bbox_iou": pytest.approx((0.5 + 0.9 + 0) / 3),
        "malformed_answers": 0.0,
    }


def test_a_quad_crossed_by_another_by_hand() -> None:
    square = quad((0, 0), (100, 0), (100, 100), (0, 100))
    diamond = quad((50, 0), (100, 50), (50, 100), (0, 50))  # half of the square
    result = score([diamond], [square])
    assert result["quad_iou"] == pytest.approx(0.5)
    assert result["quad_acc"] == 1.0
    assert result["quad_acc75"] == 0.0


def test_a_quad_that_crosses_itself_counts_with_both_lobes() -> None:
    bow = quad((0, 0), (100, 100), (100, 0), (0, 100))  # two triangles with a quarter of the square each
    square = quad((0, 0), (100, 0), (100, 100), (0, 100))
    assert score([bow], [square])["quad_iou"] == pytest.approx(0.5)


def test_a_line_beside_a_straight_one_by_hand() -> None:
    # Both 640 pixels long, 48 pixels apart.
    result = score([line((0, 200), (1000, 200))], [line((0, 100), (1000, 100))])
    assert result["line_distance"] == pytest.approx(48 / 640)
    assert result["line_acc"] == 0.0
    assert score([line((0, 140), (1000, 140))], [line((0, 100), (1000, 100))])["line_acc"] == 1.0


def test_lines_that_cross_by_hand() -> None:
    # At a right angle in the middle: a point at s from there is s away; the mean of that over half of 100 is 25.
    upright, lying = line((50, 0), (50, 100)), line((0, 50), (100, 50))
    assert score([upright], [lying], (1000, 1000))["line_distance"] == pytest.approx(0.25)


def test_half_of_a_line_is_wrong_in_one_direction_only() -> None:
    # The half lies on the whole; the whole's other half is 0..50 away, 25 in the mean, and 12.5 over its length.
    result = score([line((0, 0), (50, 0))], [line((0, 0), (100, 0))], (1000, 1000))
    assert result["line_distance"] == pytest.approx((12.5 + 0) / 2 / 100)


def test_a_line_is_measured_in_pixels() -> None:
    # 100 across are 200 pixels, 100 down are 20.
    across = score([line((0, 0), (1000, 0))], [line((0, 100), (1000, 100))], (2000, 200))
    down = score([line((0, 0), (0, 1000))], [line((100, 0), (100, 1000))], (2000, 200))
    assert across["line_distance"] == pytest.approx(20 / 2000)
    assert down["line_distance"] == 1.0  # 200 pixels beside a line of 200


def test_points_by_hand() -> None:
    # The longer side is 1000 pixels: 50 pixels are a hit, 51 are not; one is missing.
    truth = [point(100, 100), point(500, 500), point(900, 100)]
    predicted = [point(150, 100), point(500, 602)]
    assert score(predicted, truth, (1000, 500)) == {
        "point_acc": 1 / 3,
        "point_precision": 1 / 2,
        "point_distance": pytest.approx((0.05 + 0.051 + 1) / 3),
        "malformed_answers": 0.0,
    }


def test_a_point_is_measured_in_pixels() -> None:
    across, down = (score([point(*at)], [point(0, 0)], (2000, 200)) for at in ((100, 0), (0, 100)))
    assert (across["point_distance"], down["point_distance"]) == (0.1, 0.01)
    assert (across["point_acc"], down["point_acc"]) == (0.0, 1.0)
    assert score([point(1000, 1000)], [point(0, 0)], (500, 500))["point_distance"] == 1.0


def test_a_polygon_by_hand() -> None:
    # An L of three squares, and the whole square of four.
    bend = polygon((0, 0), (200, 0), (200, 100), (100, 100), (100, 200), (0, 200))
    square = polygon((0, 0), (200, 0), (200, 200), (0, 200))
    result = score([square], [bend])
    assert result["polygon_iou"] == pytest.approx(0.75)
    assert result["polygon_acc"] == result["polygon_precision"] == 1.0
    assert score([polygon((0, 0), (100, 0), (100, 100), (0, 100))], [bend])["polygon_acc"] == 0.0  # 1/3


@pytest.mark.parametrize(
    "flat", [polygon((1, 1), (2, 2), (1, 1)), polygon((1, 1), (1, 1), (1, 1)), polygon((0, 0), (500, 0), (1000, 0))]
)
def test_a_polygon_without_area_overlaps_only_itself(flat: TextTarget) -> None:
    square = polygon((0, 0), (200, 0), (200, 200), (0, 200))
    assert score([flat], [square])["polygon_iou"] == score([square], [flat])["polygon_iou"] == 0.0
    assert score([flat], [flat])["polygon_iou"] == 1.0


def test_pairs_are_chosen_for_hits_before_the_mean() -> None:
    # Greedy by IoU would give the first box to the second truth, and leave one hit.
    truth = [box(0, 0, 100, 100), box(0, 0, 100, 60)]
    predicted = [box(0, 0, 100, 60), box(0, 0, 100, 31)]
    result = score(predicted, truth)
    assert result["bbox_acc"] == 1.0
    assert result["bbox_iou"] == pytest.approx((0.6 + 31 / 60) / 2)


def test_another_kind_is_a_miss() -> None:
    result = score([quad((0, 0), (100, 0), (100, 100), (0, 100))], [box(0, 0, 100, 100)])
    assert (result["bbox_acc"], result["bbox_precision"], result["bbox_iou"]) == (0, 0, 0)
    assert "quad_acc" not in result


def test_another_kind_is_wrong_where_the_truth_has_both() -> None:
    square = quad((0, 0), (100, 0), (100, 100), (0, 100))
    result = score([square, square], [box(0, 0, 100, 100), square])
    assert (result["quad_acc"], result["quad_precision"], result["bbox_acc"]) == (1.0, 0.5, 0.0)


@pytest.mark.parametrize(("written", "hit"), [(" CUP ", 1.0), ("Straße", 0.0), ("cups", 0.0), ("", 0.0)])
def test_labels_are_compared_without_case_and_outer_spaces(written: str, hit: float) -> None:
    assert score([box(0, 0, 9, 9, written)], [box(0, 0, 9, 9, "cup")])["bbox_acc"] == hit


def test_malformed_items_are_wrong_predictions_of_their_kind() -> None:
    truth = [box(0, 0, 9, 9)]
    result = score(Answer(tuple(truth), ("bbox", "line", None)), truth)
    assert (result["bbox_acc"], result["bbox_precision"], result["malformed_answers"]) == (1.0, 0.5, 1.0)
    assert score(Answer(complete=False), truth)["malformed_answers"] == 1.0


def test_what_is_predicted_where_nothing_is_costs_precision() -> None:
    found = metrics([prediction([box(0, 0, 9, 9)], truth) for truth in ([box(0, 0, 9, 9)], [])])
    assert found["bbox_precision"] == 0.5
    assert found["bbox_acc"] == 1.0


def test_without_rows_there_are_no_numbers() -> None:
    assert metrics([]) == {}


def test_every_metric_of_which_less_is_better_is_listed() -> None:
    square = ((0, 0), (9, 0), (9, 9), (0, 9))
    truth = [box(0, 0, 9, 9), quad(*square), line((0, 0), (9, 9)), point(5, 5), polygon(*square)]
    good, bad = score(truth, truth), score(Answer(complete=False), truth)
    assert good.keys() == bad.keys() == METRICS.keys()
    assert {name for name in good if good[name] < bad[name]} == set(LOWER_IS_BETTER)
    assert all(good[name] > bad[name] for name in good if name not in LOWER_IS_BETTER)


# -- properties --------------------------------------------------------------------------------------------------------


@unhurried
@given(several)
def test_the_truth_itself_scores_one(truth: list[TextTarget]) -> None:
    result = score(truth, truth)
    assert result.keys() >= {f"{target.kind}_acc" for target in truth}
    assert {value for name, value in result.items() if name not in LOWER_IS_BETTER} == {1.0}
    assert {value for name, value in result.items() if name in LOWER_IS_BETTER} == {0.0}


@unhurried
@given(several, several, st.randoms(use_true_random=False))
def test_the_order_of_objects_does_not_matter(
    predicted: list[TextTarget], truth: list[TextTarget], random: Random
) -> None:
    shuffled = [random.sample(side, len(side)) for side in (predicted, truth)]
    assert score(*shuffled) == pytest.approx(score(predicted, truth), abs=1e-12)


@unhurried
@given(several, several)
def test_predictions_and_truth_change_places_as_precision_and_recall(
    predicted: list[TextTarget], truth: list[TextTarget]
) -> None:
    there, back = score(predicted, truth), score(truth, predicted)
    for kind in ("bbox", "quad", "polygon", "point"):
        if f"{kind}_acc" in there and f"{kind}_acc" in back:
            assert there[f"{kind}_acc"] == pytest.approx(back[f"{kind}_precision"])
            assert there[f"{kind}_precision"] == pytest.approx(back[f"{kind}_acc"])


@unhurried
@given(*2 * [st.lists(boxes() | quads | polygons, min_size=1, max_size=5)])
def test_areas_compare_alike_at_every_scale(predicted: list[TextTarget], truth: list[TextTarget]) -> None:
    def halved(targets: list[TextTarget]) -> list[TextTarget]:
        return [TextTarget(t.kind, t.label, tuple((x / 2, y / 2 + 7) for x, y in t.points)) for t in targets]

    means = {"bbox_iou", "quad_iou", "polygon_iou"}
    there, here = score(predicted, truth), score(halved(predicted), halved(truth))
    assert {name: there[name] for name in there.keys() & means} == pytest.approx(
        {name: here[name] for name in here.keys() & means}, abs=1e-9
    )


@unhurried
@given(lines, lines)
def test_lines_compare_alike_in_either_direction_and_at_every_scale(predicted: TextTarget, truth: TextTarget) -> None:
    predicted = TextTarget("line", truth.label, predicted.points)
    expected = score([predicted], [truth])["line_distance"]
    backwards = TextTarget("line", predicted.label, predicted.points[::-1])
    assert score([backwards], [truth])["line_distance"] == pytest.approx(expected, abs=1e-9)
    assert score([predicted], [truth], (2 * WIDTH, 2 * HEIGHT))["line_distance"] == pytest.approx(expected, abs=1e-9)


@unhurried
@given(polygons, polygons, st.integers(0, 9), st.booleans())
def test_polygons_compare_alike_from_any_corner_in_either_order(
    predicted: TextTarget, truth: TextTarget, start: int, reverse: bool
) -> None:
    expected = score([polygon(*predicted.points)], [polygon(*truth.points)])["polygon_iou"]
    corners = predicted.points[start:] + predicted.points[:start]
    assume(corners != truth.points != predicted.points)
    turned = score([polygon(*(corners[::-1] if reverse else corners))], [polygon(*truth.points)])["polygon_iou"]
    assert turned == pytest.approx(expected, abs=1e-9)


@unhurried
@given(dots, dots)
def test_points_compare_alike_at_every_scale_and_when_exchanged(one: TextTarget, other: TextTarget) -> None:
    other = point(*other.points[0], label=one.label)
    expected = score([one], [other])["point_distance"]
    assert score([other], [one])["point_distance"] == expected
    assert score([one], [other], (2 * WIDTH, 2 * HEIGHT))["point_distance"] == pytest.approx(expected, abs=1e-12)


@unhurried
@given(several, several)
def test_no_number_leaves_zero_to_one(predicted: list[TextTarget], truth: list[TextTarget]) -> None:
    assert all(0 <= value <= 1 for value in score(predicted, truth).values())


@unhurried
@given(st.lists(st.tuples(several, several), min_size=1, max_size=4), st.randoms())
def test_the_order_of_rows_does_not_matter(
    rows: list[tuple[list[TextTarget], list[TextTarget]]], chance: Random
) -> None:
    predictions = [prediction(predicted, truth) for predicted, truth in rows]
    expected = metrics(predictions)
    chance.shuffle(predictions)
    assert metrics(predictions) == pytest.approx(expected, abs=1e-12)


# -- beside shapely ----------------------------------------------------------------------------------------------------


@unhurried
@given(st.lists(boxes(), min_size=1, max_size=4), st.lists(boxes(), min_size=1, max_size=4))
def test_boxes_as_shapely_has_them(truth: list[TextTarget], predicted: list[TextTarget]) -> None:
    costs = overlap_costs(*(np.array([t.points for t in side], dtype=float) for side in (truth, predicted)))
    for row, true in zip(costs, truth, strict=True):
        for cost, written in zip(row, predicted, strict=True):
            a, b = (shapely.box(*t.points[0], *t.points[1]) for t in (true, written))
            iou = a.intersection(b).area / a.union(b).area if a.union(b).area else float(true.points == written.points)
            assert 1 - cost == pytest.approx(iou, abs=1e-9)


@unhurried
@given(st.lists(boxes(), min_size=1, max_size=4), st.lists(boxes(), min_size=1, max_size=4))
def test_a_box_as_a_quad_has_the_same_iou(truth: list[TextTarget], predicted: list[TextTarget]) -> None:
    as_boxes = (np.array([t.points for t in side], dtype=float) for side in (truth, predicted))
    as_quads = (np.array([t.corners for t in side], dtype=float) for side in (truth, predicted))
    np.testing.assert_allclose(overlap_costs(*as_quads), overlap_costs(*as_boxes), atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(lines, min_size=1, max_size=3), st.lists(lines, min_size=1, max_size=3))
def test_lines_as_dense_points_have_them(truth: list[TextTarget], predicted: list[TextTarget]) -> None:
    def dense(drawn: shapely.LineString) -> list[shapely.Point]:
        return [drawn.interpolate(step / 2000, normalized=True) for step in range(2001)]

    costs = line_costs(*([np.array(t.points, dtype=float) for t in side] for side in (truth, predicted)))
    for row, true in zip(costs, truth, strict=True):
        for cost, written in zip(row, predicted, strict=True):
            a, b = shapely.LineString(true.points), shapely.LineString(written.points)
            if not a.length:
                assert cost == (0 if true.points == written.points else 1)
                continue
            there, back = (np.mean(shapely.distance(dense(one), other)) for one, other in ((a, b), (b, a)))
            assert cost == pytest.approx(min((there + back) / 2 / a.length, 1), abs=0.01)


# -- many objects ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_five_hundred_objects_of_one_label_find_their_partners(kind: Kind) -> None:
    random = Random(1)

    def draw(centre: Point, jitter: float) -> TextTarget:
        x, y = (value + random.uniform(-jitter, jitter) for value in centre)
        if kind == "bbox":
            return box(x, y, x + 20, y + 20)
        if kind == "quad":
            return quad((x, y + 10), (x + 10, y), (x + 20, y + 10), (x + 10, y + 20))
        if kind == "polygon":
            return polygon((x, y), (x + 20, y), (x + 10, y + 10), (x + 20, y + 20), (x, y + 20))
        if kind == "point":
            return point(x, y)
        return line((x, y), (x + 20, y + 20))

    centres = [(40 * (index % 25), 40 * (index // 25)) for index in range(500)]
    truth, predicted = [draw(c, 0) for c in centres], [draw(c, 0.5) for c in centres]
    random.shuffle(predicted)

    result = score(predicted, truth)

    assert result[f"{kind}_acc"] == result[f"{kind}_precision"] == 1.0
    assert not math.isclose(result.get(f"{kind}_iou", 0.5), 1.0)


@pytest.mark.parametrize("corners", [3, 20])
def test_the_longest_answer_of_polygons_is_scored_in_little_time(corners: int) -> None:
    """As many items as are read of an answer, all over the image; those of twenty corners cross themselves."""
    random = Random(1)

    def draw() -> TextTarget:
        return polygon(*((random.randint(0, 1000), random.randint(0, 1000)) for _ in range(corners)))

    truth, predicted = [draw()], [draw() for _ in range(MAX_ITEMS)]
    start = time.process_time()
    assert 0 < score(predicted, truth)["polygon_iou"] < 1
    assert time.process_time() - start < 60


def test_one_endless_polygon_is_scored_in_little_time() -> None:
    """Crossing itself everywhere, it has millions of lobes."""
    random = Random(1)
    endless = polygon(*((random.randint(0, 1000), random.randint(0, 1000)) for _ in range(MAX_CHARACTERS // 10)))
    start = time.process_time()
    assert score([endless], [polygon((0, 0), (1000, 0), (1000, 1000))])["polygon_iou"] == 0.0
    assert score([endless], [endless])["polygon_iou"] == 1.0
    assert time.process_time() - start < 30
