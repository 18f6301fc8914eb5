"""Crops, and canvases that grow: what they show, what becomes of targets and words, and that pixels move once."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from swiftalign.augment import geometry
from swiftalign.augment.crops import is_anchor, partly_shown
from swiftalign.augment.draws import Step, draw
from swiftalign.augment.geometry import Affine
from swiftalign.augment.pipeline import Pipeline, Placement, Replay, Sample, blank
from swiftalign.augment.rows import TrainingRows
from swiftalign.config.augmentation import EXAMPLES, PARAMETERS, AugmentationSection
from swiftalign.config.sections import GroundingTextSection
from swiftalign.data import polygons
from swiftalign.data.images import Pixels
from swiftalign.data.records import Record
from swiftalign.data.rows import Rows
from swiftalign.data.sizes import PixelLimits
from swiftalign.data.targets import PixelTarget
from swiftalign.data.text import Composed

SIZE = (320, 256)
CUP = PixelTarget("bbox", "cup", ((40.0, 30.0), (90.0, 70.0)))
CARD = PixelTarget("quad", "card", ((200.0, 40.0), (250.0, 50.0), (245.0, 100.0), (195.0, 90.0)))
WIRE = PixelTarget("line", "wire", ((10.0, 200.0), (80.0, 210.0), (300.0, 195.0)))
NUT = PixelTarget("point", "nut", ((150.0, 120.0),))
STAR = PixelTarget("polygon", "star", ((120.0, 130.0), (180.0, 140.0), (150.0, 160.0), (170.0, 190.0), (125.0, 180.0)))
EVERY_KIND = (CUP, CARD, WIRE, NUT, STAR)
ANY = {"min_objects": 1, "skip_if_line": False, "min_coverage": 0.0}
SMALL = PixelLimits(least=32 * 32)


def noise(width: int = SIZE[0], height: int = SIZE[1]) -> Pixels:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pipeline(*ops: Any, **rules: Any) -> Pipeline:
    return Pipeline(AugmentationSection(ops=list(ops), **rules), SMALL)


def record(*targets: PixelTarget, **words: Any) -> Record:
    return Record((Path("a.png"),), targets, Composed(**words))


def apply(made: Pipeline, of: Record, row: int = 0, image: Pixels | None = None) -> Sample:
    return made(noise() if image is None else image, of, epoch=0, row=row)


def names(replay: Replay) -> list[str]:
    return [step.name for step in replay.steps]


def replayed(*steps: Step, of: Record | None = None, image: Pixels | None = None, **rules: Any) -> Sample:
    return pipeline(**rules).replay(noise() if image is None else image, of or record(), Replay(steps))


def random_crop(scale: float = 0.5, aspect_ratio: float = 1.0, x: float = 0.0, y: float = 0.0, **rules: Any) -> Step:
    """A step as it is drawn."""
    section = AugmentationSection(ops=[{"random_crop": {**ANY, **rules}}])
    (step,) = draw(section.operations, seed=0, epoch=0, row=0)
    return Step("random_crop", {**step.values, "scale": scale, "aspect_ratio": aspect_ratio, "x": x, "y": y})


def box_of(step: Step, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop, from its values alone."""
    values = step.values
    wide = min(width, round(math.sqrt(values["scale"] * width * height * values["aspect_ratio"])))
    high = min(height, round(math.sqrt(values["scale"] * width * height / values["aspect_ratio"])))
    left, top = math.floor(values["x"] * (width - wide + 1)), math.floor(values["y"] * (height - high + 1))
    return left, top, left + wide, top + high


# -- pixels ------------------------------------------------------------------------------------------------------------


@given(
    scale=st.floats(0.05, 1),
    aspect_ratio=st.floats(0.2, 5),
    x=st.floats(0, 0.999),
    y=st.floats(0, 0.999),
    flips=st.lists(st.sampled_from(["hflip", "vflip"]), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_a_crop_is_pils_crop_to_the_bit(
    scale: float, aspect_ratio: float, x: float, y: float, flips: list[str]
) -> None:
    step = random_crop(scale, aspect_ratio, x, y)
    steps = [Step(name, {}) for name in flips]
    sample = replayed(*steps, step)
    expected = Image.fromarray(noise())
    for name in flips:
        turn = Image.Transpose.FLIP_LEFT_RIGHT if name == "hflip" else Image.Transpose.FLIP_TOP_BOTTOM
        expected = expected.transpose(turn)
    expected = expected.crop(box_of(step, *SIZE))
    assert np.array_equal(sample.image, np.asarray(expected))
    after = replayed(step, *steps)
    for name in flips:
        expected = expected.transpose(
            Image.Transpose.FLIP_LEFT_RIGHT if name == "hflip" else Image.Transpose.FLIP_TOP_BOTTOM
        )
    assert sample.image.shape == after.image.shape


def test_a_crop_of_padding_and_of_crops_is_exact() -> None:
    steps = [Step("pad_to_multiple", {"multiple": 300}), random_crop(0.8, 1.1, 0.99, 0.99), Step("hflip", {})]
    steps += [random_crop(0.3, 0.7, 0.5, 0.4)]
    sample = replayed(*steps, fill=[9, 8, 7])
    expected = np.full((300, 600, 3), (9, 8, 7), np.uint8)
    expected[: SIZE[1], : SIZE[0]] = noise()
    for step in (steps[1], None, steps[3]):
        if step is None:
            expected = expected[:, ::-1]
        else:
            left, top, right, bottom = box_of(step, expected.shape[1], expected.shape[0])
            expected = expected[top:bottom, left:right]
    assert np.array_equal(sample.image, expected)


def counting(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the calls of cv2's functions that resample."""
    calls: Counter[str] = Counter()
    for name in ("warpAffine", "resize", "remap", "warpPerspective"):
        real = getattr(cv2, name)

        def counted(*args: Any, _name: str = name, _real: Any = real, **options: Any) -> Any:
            calls[_name] += 1
            return _real(*args, **options)

        monkeypatch.setattr(cv2, name, counted)
    return calls


OCTOBER = [
    "vflip",
    {"rotate": {"max_deg": 25}},
    "expand_to_fit_affine",
    {"random_crop": {**ANY, "scale": [0.7, 0.9]}},
    {"resize_by_scale": {"lo": 0.9, "hi": 1.3}},
]
LATER = [
    "hflip",
    "vflip",
    {"roi_crop": {"anchor_classes": ["cup"], "min_crop_size": 100, "min_coverage": 0}},
    {"resize_by_scale": {"lo": 0.92, "hi": 1.1}},
    {"rotate": {"max_deg": 17}},
    {"gamma": {"gamma": 1.1}},
    {"expand_to_fit_affine": {"max_pixels": 2097152}},
]


@pytest.mark.parametrize("ops", [OCTOBER, LATER], ids=["crop last", "crop first"])
def test_the_usual_orders_resample_once(ops: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counting(monkeypatch)
    for row in range(8):
        sample = apply(pipeline(*ops, rotated_boxes="grow"), record(CUP, CARD, STAR), row)
        assert any(name.endswith("crop") for name in names(sample.replay))
        assert calls.total() == 1
        calls.clear()


def test_flips_and_crops_alone_resample_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counting(monkeypatch)
    steps = (Step("hflip", {}), random_crop(0.5, 1.0, 0.3, 0.7), Step("vflip", {}), random_crop(0.6))
    replayed(*steps, Step("pad_to_multiple", {"multiple": 32}))
    replayed(*steps, Step("expand_to_fit_affine", {"multiple": 32, "max_pixels": None}))
    assert calls.total() == 0


def one_by_one(image: Pixels, steps: list[Step], fill: tuple[int, int, int]) -> Pixels:
    """Each operation on the pixels that the one before it made."""
    for step in steps:
        height, width = image.shape[:2]
        start = geometry.start((width, height))
        if step.name == "random_crop":
            left, top, right, bottom = box_of(step, width, height)
            image = image[top:bottom, left:right]
        elif step.name == "expand_to_fit_affine":
            image = geometry.warp(image, geometry.pad_to_multiple(start, step.values["multiple"]), fill)
        else:
            image = geometry.warp(image, geometry.OPERATIONS[step.name](start, **step.values), fill)
    return image


def same_but_for_edges(ours: Pixels, expected: Pixels, levels: int) -> bool:
    """Whether two images differ by more than some grey levels only along thin lines."""
    different = (cv2.absdiff(ours, expected).max(axis=-1) > levels).astype(np.uint8)
    return not cv2.erode(different, np.ones((4, 4), np.uint8)).any()


MOVES = [
    Step("rotate", {"degrees": 33.0}),
    Step("scale", {"factor": 0.6}),
    Step("scale", {"factor": 1.3}),
    Step("resize_by_scale", {"factor": 0.8, "align_multiple": 1}),
    Step("pad_to_multiple", {"multiple": 150}),
    Step("expand_to_fit_affine", {"multiple": 64, "max_pixels": None}),
]


@pytest.mark.parametrize("before", MOVES, ids=lambda step: step.name)
@pytest.mark.parametrize("after", MOVES, ids=lambda step: step.name)
@pytest.mark.parametrize("flip", ["hflip", "vflip"])
def test_what_a_crop_cut_off_does_not_come_back(before: Step, after: Step, flip: str) -> None:
    """Around the crop, later operations show the fill colour, as if each had made an image of its own."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]] / 25
    image = (155 + 100 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=-1)).astype(np.uint8)
    for number in range(4):
        crop = random_crop(*np.random.default_rng(number).uniform([0.3, 0.6, 0, 0], [0.9, 1.6, 1, 1]).tolist())
        steps = [before, Step(flip, {}), crop, Step(flip, {}), after]
        assert same_but_for_edges(replayed(*steps, image=image).image, one_by_one(image, steps, (0, 0, 0)), 12)


def test_imgaugs_operations_get_no_more_than_the_crop() -> None:
    crop = random_crop(0.2, 1.0, 0.5, 0.5)
    left, top, right, bottom = box_of(crop, *SIZE)
    turned = np.rot90(noise()[top:bottom, left:right], -1)
    assert np.array_equal(replayed(crop, Step("imgaug.Rot90", {"arguments": {"k": 1}, "seed": 0})).image, turned)


# -- canvases that grow ------------------------------------------------------------------------------------------------


def expand(a: Affine, size: tuple[int, int], multiple: int = 32, max_pixels: int | None = None) -> Affine:
    return geometry.expand(a, geometry.extent(a, size), multiple, max_pixels)


@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    degrees=st.floats(-180, 180),
    factor=st.floats(0.3, 3),
    flip=st.booleans(),
    multiple=st.sampled_from([1, 7, 32]),
    max_pixels=st.sampled_from([None, 32 * 32, 5000, 40000]),
)
@settings(max_examples=200, deadline=None)
def test_an_expanded_canvas_shows_the_whole_image_within_its_limits(
    size: tuple[int, int], degrees: float, factor: float, flip: bool, multiple: int, max_pixels: int | None
) -> None:
    affine = geometry.scale(geometry.rotate(geometry.start(size), degrees), factor)
    affine = geometry.vflip(affine) if flip else affine
    grown = geometry.pad_to_multiple(expand(affine, size, multiple, max_pixels), multiple)
    corners = geometry.transform(geometry.corners_of(size), grown.matrix)
    assert polygons.inside(corners, *grown.size)
    assert all(side % multiple == 0 for side in grown.size)
    assert max_pixels is None or math.prod(grown.size) <= max_pixels
    visible = polygons.inside(geometry.transform(geometry.corners_of(size), affine.matrix), *affine.size)
    if max_pixels is None and visible:
        assert np.array_equal(grown.matrix, affine.matrix)
        assert grown.size == geometry.pad_to_multiple(affine, multiple).size
    elif max_pixels is None:
        # It moved only, and could not be smaller.
        assert np.array_equal(grown.matrix[:2, :2], affine.matrix[:2, :2])
        assert (np.array(grown.size) - corners.max(axis=0) < multiple).all()
        assert np.abs(corners.min(axis=0)).max() < 1e-9


def test_an_expanded_rotation_has_the_pixels_of_the_formula() -> None:
    """Each pixel of the new canvas is the mean of the four around the place that it comes from, by distance."""
    image, size = cv2.GaussianBlur(noise(200, 120), (0, 0), 3), (200, 120)
    for degrees in (-30.0, 12.5, 70.0, 160.0):
        angle = math.radians(degrees)
        cos, sin = math.cos(angle), math.sin(angle)
        wide, high = (abs(cos) * 200 + abs(sin) * 120, abs(sin) * 200 + abs(cos) * 120)
        columns, rows = np.meshgrid(
            np.arange(math.ceil(wide)) + 0.5 - wide / 2, np.arange(math.ceil(high)) + 0.5 - high / 2
        )
        x, y = cos * columns + sin * rows + 100 - 0.5, -sin * columns + cos * rows + 60 - 0.5
        left, top = np.floor(x).astype(int), np.floor(y).astype(int)
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0))).astype(float)
        expected = np.zeros((*x.shape, 3))
        for right, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
            weight = np.abs(1 - right - (x - left)) * np.abs(1 - down - (y - top))
            at = padded[np.clip(top + down + 1, 0, 121), np.clip(left + right + 1, 0, 201)]
            expected += weight[..., None] * at
        ours = geometry.warp(image, expand(geometry.rotate(geometry.start(size), degrees), size, 1))
        assert ours.shape == expected.shape
        assert np.abs(ours - expected).max() < 6  # cv2 rounds positions to 1/32 pixel


def test_a_canvas_that_did_not_move_is_only_padded() -> None:
    image = noise(100, 60)
    made = pipeline("vflip", "expand_to_fit_affine", {"color_jitter": {"contrast": 0.5}}, fill=[9, 8, 7])
    padded = pipeline("vflip", "pad_to_multiple", {"color_jitter": {"contrast": 0.5}}, fill=[9, 8, 7])
    assert np.array_equal(apply(made, record(), image=image).image, apply(padded, record(), image=image).image)


def test_expanding_undoes_what_rotating_and_zooming_cut_off() -> None:
    ops = [{"rotate": {"max_deg": 40}}, {"scale": {"lo": 1.5, "hi": 2}}, {"expand_to_fit_affine": {"max_pixels": None}}]
    edge = PixelTarget("line", "edge", ((0.0, 0.0), (320.0, 0.0), (320.0, 256.0), (0.0, 256.0)))
    for row in range(20):
        sample = apply(pipeline(*ops), record(edge), row)
        assert sample.outcomes[0].visible == 1
        assert not sample.outcomes[0].clipped
        assert len(sample.record.targets[0].points) == 4


def test_a_canvas_that_is_too_large_is_reduced_and_its_targets_with_it() -> None:
    made = pipeline({"expand_to_fit_affine": {"max_pixels": 128 * 128}})
    sample = apply(made, record(CUP))
    height, width = sample.image.shape[:2]
    assert width * height <= 128 * 128
    assert np.array_equal(sample.image, cv2.resize(noise(), (width, height), interpolation=cv2.INTER_AREA))
    (left, top), (right, bottom) = sample.record.targets[0].points
    assert (left, right) == pytest.approx((40 * width / 320, 90 * width / 320))
    assert (top, bottom) == pytest.approx((30 * height / 256, 70 * height / 256))


# -- targets -----------------------------------------------------------------------------------------------------------


def white_on_black(target: PixelTarget) -> Pixels:
    image = np.zeros((*SIZE[::-1], 3), np.uint8)
    cv2.fillPoly(image, [np.array(target.corners).round().astype(int)], (255, 255, 255))
    return image


@pytest.mark.parametrize("target", [CUP, CARD, STAR], ids=lambda target: target.kind)
@pytest.mark.parametrize("before", [[], [Step("rotate", {"degrees": 25.0})], [Step("vflip", {})]], ids=repr)
def test_visible_shares_are_those_of_the_pixels(target: PixelTarget, before: list[Step]) -> None:
    """Of a white object on black, the share of the white that a crop keeps."""
    image, shares = white_on_black(target), []
    for number in range(40):
        x, y = np.random.default_rng(number).random(2).tolist()
        step = random_crop(0.3, 1.3, x, y)
        sample = replayed(*before, step, of=record(target), image=image, min_side=0)
        assert sample.outcomes[0].visible == pytest.approx(sample.image.sum() / image.sum(), abs=0.04)
        shares.append(sample.outcomes[0].visible)
    assert min(shares) < 0.3
    assert max(shares) > 0.9


def test_shares_of_several_stages_multiply() -> None:
    room = PixelTarget("bbox", "room", ((0.0, 0.0), (320.0, 256.0)))
    sample = replayed(
        random_crop(0.5), random_crop(0.5), Step("scale", {"factor": 2.0}), of=record(room), min_visible=0
    )
    assert sample.outcomes[0].visible == pytest.approx(0.5 * 0.5 * 0.25, rel=0.02)
    assert sample.outcomes[0].clipped
    (begin, end) = sample.record.targets[0].points
    assert begin == (0, 0)
    assert end == (sample.image.shape[1], sample.image.shape[0])


def test_min_coverage_replaces_min_visible_at_the_crop() -> None:
    step = random_crop(0.25, 1.25, 0.0, 0.0, min_coverage=0.3)  # 160 x 128 from the top left
    third, less = (PixelTarget("bbox", "x", ((left, 20.0), (left + 60, 80.0))) for left in (138.0, 145.0))
    sample = replayed(step, Step("hflip", {}), of=record(CUP, third, less))
    assert [outcome.target is None for outcome in sample.outcomes] == [False, False, True]
    assert sample.outcomes[1].visible == pytest.approx(22 / 60)
    assert sample.outcomes[2].reason == "25% visible"
    assert sample.record.targets[1].points == ((0.0, 20.0), (22.0, 80.0))


def crops(*targets: PixelTarget, name: str = "random_crop", rows: int = 30, **values: Any) -> Iterator[Sample]:
    """Samples with a crop in which an operation was drawn."""
    for row in range(rows):
        yield apply(pipeline({name: values}), record(*targets), row)


def test_a_row_keeps_its_least_number_of_objects() -> None:
    scattered = [PixelTarget("bbox", "x", ((x, y), (x + 30, y + 30))) for x in (5, 140, 280) for y in (5, 110, 220)]
    done = left = 0
    for sample in crops(*scattered, scale=[0.2, 0.7], min_objects=4):
        done += bool(names(sample.replay))
        left += not names(sample.replay)
        assert len(sample.record.targets) >= 4
        if not names(sample.replay):
            assert sample.replay.left_out == ("random_crop: fewer than 4 objects would remain",)
            assert np.array_equal(sample.image, noise())
    assert done
    assert left
    for sample in crops(CUP, CARD, scale=0.9, min_objects=3, rows=3):
        assert sample.replay.left_out == ("random_crop: fewer than 3 objects would remain",)


def test_a_line_is_cut_only_where_that_is_allowed() -> None:
    short = PixelTarget("line", "short", ((150.0, 120.0), (170.0, 130.0)))
    reasons = Counter(each for s in crops(WIRE, CUP, scale=0.5, min_objects=1) for each in s.replay.left_out)
    assert reasons == {"random_crop: a line would be cut": 30}
    assert any(names(s.replay) for s in crops(short, scale=[0.6, 0.8], min_objects=1))
    allowed = list(crops(WIRE, CUP, scale=0.5, min_objects=1, skip_if_line=False, min_coverage=0.1))
    assert any(s.outcomes[0].clipped and s.outcomes[0].target for s in allowed)


def test_a_crop_that_would_lose_every_target_is_left_out() -> None:
    reasons = Counter(each for s in crops(CUP, scale=0.05, min_objects=1) for each in s.replay.left_out)
    assert reasons["random_crop: every target would be lost"] > 10


def test_a_crop_is_left_out_alone_where_it_and_others_lose_a_target() -> None:
    """The crop leaves the object at its edge, from where zooming moves it out of the canvas."""
    made = pipeline("vflip", {"random_crop": {"scale": 0.5, **ANY}}, {"scale": {"lo": 1.3, "hi": 1.3}}, min_visible=0.9)
    found: Counter[tuple[str, ...]] = Counter()
    for row in range(60):
        replay = apply(made, record(CUP), row).replay
        found[tuple(step for step in names(replay) if step != "fit")] += bool(replay.left_out)
    assert found["vflip", "scale"]
    assert not found[()]


def test_what_a_rows_own_text_needs_is_not_cropped_away() -> None:
    both = record(CUP, CARD, summaries=("One cup, one card.",))
    made = replace(pipeline({"random_crop": {"scale": 0.3, **ANY}}), text=GroundingTextSection(answer="summary"))
    reasons = Counter(each for row in range(20) for each in apply(made, both, row).replay.left_out)
    assert reasons["random_crop: a target would be lost that the row's text needs"] > 5
    assert all(len(apply(made, both, row).record.targets) == 2 for row in range(20))


# -- anchors and labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "matches"),
    [
        ("BBU设备", True),
        ("BBU设备/华为/显示完整", True),
        ("类别=BBU设备,品牌=华为", True),
        ("类别=BBU设备,品牌=华为".replace(",", "\N{FULLWIDTH COMMA}"), True),
        ("品牌=华为, 类别 = BBU设备 ", True),
        ("BBU设备接地线", False),
        ("类别=BBU设备安装螺丝", False),
        ("bbu设备", False),
        ("", False),
    ],
)
def test_an_anchor_matches_whole_labels_parts_and_values(label: str, matches: bool) -> None:
    assert is_anchor(label, ["机柜", "BBU设备"]) is matches


@pytest.mark.parametrize(
    ("label", "changed"),
    [
        ("BBU设备/华为/显示完整", "BBU设备/华为/只显示部分"),
        ("类别=螺丝,可见性=完整,备注=无法框选完整", "类别=螺丝,可见性=部分,备注=无法框选完整"),
        ("类别=螺丝, 可见性=显示完整", "类别=螺丝, 可见性=只显示部分"),
        ("备注=品牌未显示完整", "备注=品牌未显示完整"),
        ("cup", "cup"),
        ("", ""),
    ],
)
def test_labels_say_that_an_object_is_partly_shown(label: str, changed: str) -> None:
    (operation,) = AugmentationSection(ops=["random_crop"]).operations
    assert partly_shown(label, operation.params.rules["partly_shown"]) == changed  # type: ignore[attr-defined]


def test_only_objects_that_a_crop_cut_say_so() -> None:
    whole = replace(CUP, label="cup/显示完整")
    cut = PixelTarget("bbox", "card/显示完整", ((138.0, 20.0), (198.0, 80.0)))
    step = random_crop(0.25, 1.25, 0.0, 0.0)
    labels = [target.label for target in replayed(step, of=record(whole, cut)).record.targets]
    assert labels == ["cup/显示完整", "card/只显示部分"]
    almost = random_crop(0.25, 1.25, 0.0, 0.0, completeness_threshold=0.3)
    labels = [target.label for target in replayed(almost, of=record(whole, cut)).record.targets]
    assert labels == ["cup/显示完整", "card/显示完整"]


def test_a_roi_crop_lies_around_its_anchor() -> None:
    values = {"anchor_classes": ["cup"], "min_crop_size": 10, "min_coverage": 0.1}
    for sample in crops(CUP, CARD, name="roi_crop", scale_range=[1.5, 2.5], **values):
        (step, *_) = sample.replay.steps
        factor = step.values["scale"]
        wide, high = round(50 * factor), round(40 * factor)
        assert (sample.image.shape[1] // 32, sample.image.shape[0] // 32) == (round(wide / 32), round(high / 32))
        assert sample.outcomes[0].visible == 1
        assert sample.outcomes[1].target is None
    least = values | {"min_crop_size": 128}
    for sample in crops(CUP, name="roi_crop", scale_range=1, rows=2, **least):
        assert sample.image.shape == (128, 128, 3)
        assert np.array_equal(sample.image, noise()[0:128, 1:129])
    beyond = values | {"min_crop_size": 4000}
    for sample in crops(CUP, name="roi_crop", rows=2, **beyond):
        assert np.array_equal(sample.image, noise())


def test_every_anchor_has_its_turn_and_without_one_nothing_is_cropped() -> None:
    cups = [replace(CUP, points=((x, 30.0), (x + 30, 70.0))) for x in (20.0, 140.0, 270.0)]
    values = {"anchor_classes": ["cup"], "min_crop_size": 10}
    kept = Counter(
        s.outcomes.index(next(o for o in s.outcomes if o.target)) for s in crops(*cups, name="roi_crop", **values)
    )
    assert kept.keys() == {0, 1, 2}
    for sample in crops(CARD, name="roi_crop", rows=3, **values):
        assert sample.replay.left_out == ("roi_crop: no object matches anchor_classes",)


def test_two_crops_are_decided_one_by_one() -> None:
    cup, door = ({"roi_crop": {"anchor_classes": [name], "min_crop_size": 64}} for name in ("cup", "door"))
    sample = apply(pipeline(door, cup), record(CUP, CARD))
    assert names(sample.replay)[0] == "roi_crop"
    assert sample.replay.left_out == ("roi_crop: no object matches anchor_classes",)
    assert sample.outcomes[1].target is None


def test_every_operation_that_needs_parameters_has_an_example() -> None:
    for name, parameters in PARAMETERS.items():
        needed = {key for key, field in parameters.model_fields.items() if field.is_required()}
        assert needed <= EXAMPLES.get(name, {}).keys()


# -- draws and replays -------------------------------------------------------------------------------------------------


def test_a_crop_takes_its_numbers_whether_it_applies_or_not() -> None:
    def gammas(*ops: Any) -> list[Any]:
        section = AugmentationSection(ops=[*ops, {"gamma": {"gamma": [0.5, 2]}}])
        return [draw(section.operations, seed=0, epoch=0, row=row)[-1].values for row in range(20)]

    anchors = {"anchor_classes": ["cup"]}
    for name, values in (("random_crop", {}), ("roi_crop", anchors), ("vflip", {}), ("expand_to_fit_affine", {})):
        assert gammas({name: {**values, "prob": 0.0}}) == gammas({name: {**values, "prob": 0.5}})


any_op = st.one_of(
    st.sampled_from(["hflip", "vflip", {"pad_to_multiple": {"multiple": 48}}, "expand_to_fit_affine"]),
    st.sampled_from([{"expand_to_fit_affine": {"max_pixels": 40000}}, {"imgaug.Flipud": {"p": 1.0}}]),
    st.sampled_from([{"rotate": {"max_deg": 30}}, {"rotate": {"max_deg": 180}}, {"scale": {"lo": 0.6, "hi": 1.6}}]),
    st.just({"resize_by_scale": {"lo": 0.6, "hi": 1.5}}),
    st.sampled_from([{"random_crop": {"min_objects": 1}}, {"random_crop": {**ANY, "scale": [0.2, 0.9]}}]),
    st.sampled_from([{"roi_crop": {"anchor_classes": ["cup", "card"], "min_crop_size": size}} for size in (1, 150)]),
)


@given(
    ops=st.lists(any_op, max_size=7),
    row=st.integers(0, 10**6),
    policy=st.sampled_from(["skip", "quad", "grow"]),
    count=st.integers(0, 5),
)
@settings(max_examples=250, deadline=None)
def test_any_list_of_operations_keeps_its_promises(ops: list[Any], row: int, policy: str, count: int) -> None:
    made, of = pipeline(*ops, rotated_boxes=policy), record(*EVERY_KIND[:count])
    sample = apply(made, of, row)
    height, width = sample.image.shape[:2]
    assert sample.image.dtype == np.uint8
    assert len(sample.outcomes) == count
    assert [outcome.target for outcome in sample.outcomes if outcome.target] == list(sample.record.targets)
    for before, outcome in zip(of.targets, sample.outcomes, strict=True):
        assert 0 <= outcome.visible <= 1
        assert (outcome.target is None) == (outcome.reason is not None)
        for x, y in (*outcome.target.points, *outcome.target.outline) if outcome.target else ():
            assert -1e-6 <= x <= width + 1e-6
            assert -1e-6 <= y <= height + 1e-6
        assert outcome.target is None or outcome.target.label == before.label
        if outcome.target and outcome.target.kind in ("quad", "polygon"):
            assert polygons.signed_area(np.array(outcome.target.points)) > 0  # still clockwise
    assert not count or sample.record.targets
    placed = made.place(blank(SIZE), of, epoch=0, row=row)
    assert (placed.outcomes, placed.replay, placed.size) == (sample.outcomes, sample.replay, (width, height))
    written = json.loads(json.dumps(sample.replay.to_json()))
    steps = tuple(Step(step.pop("name"), step) for step in written["steps"])
    again = made.replay(noise(), of, Replay(steps, written["boxes_as_quads"], tuple(written["left_out"])))
    assert np.array_equal(again.image, sample.image)
    assert (again.record, again.outcomes, again.replay) == (sample.record, sample.outcomes, sample.replay)
    if sample.replay.steps and sample.replay.steps[-1].name == "expand_to_fit_affine":
        limit = sample.replay.steps[-1].values["max_pixels"]
        assert width * height <= limit
        assert width % 32 == height % 32 == 0


def test_points_move_as_their_pixels_do() -> None:
    """A white square around each point of a line is found around the point after any chain, crops in between."""
    dots = PixelTarget("line", "dots", ((60.0, 60.0), (250.0, 70.0), (240.0, 190.0), (80.0, 200.0)))
    image = np.zeros((*SIZE[::-1], 3), np.uint8)
    for x, y in dots.points:
        image[int(y) - 3 : int(y) + 3, int(x) - 3 : int(x) + 3] = 255
    found = 0
    for row in range(60):
        ops: list[Any] = [{"rotate": {"max_deg": 30}}, "vflip", {"expand_to_fit_affine": {"max_pixels": 60000}}]
        ops += [{"random_crop": {**ANY, "scale": [0.7, 1]}}, {"rotate": {"max_deg": 10}}, "expand_to_fit_affine"]
        sample = apply(
            pipeline(*ops), record(*(PixelTarget("point", "dot", (point,)) for point in dots.points)), row, image
        )
        for target in sample.record.targets:
            (x, y), *_ = target.points
            if 12 < x < sample.image.shape[1] - 12 and 12 < y < sample.image.shape[0] - 12:
                left, top = int(x) - 10, int(y) - 10
                window = sample.image[top : top + 21, left : left + 21, 0].astype(float)
                if window[[0, -1]].sum() + window[:, [0, -1]].sum():  # cut by the crop, or a neighbour
                    continue
                across = (window.sum(axis=0) @ (np.arange(21) + 0.5)) / window.sum() + left
                down = (window.sum(axis=1) @ (np.arange(21) + 0.5)) / window.sum() + top
                assert (across, down) == pytest.approx((x, y), abs=0.6)
                found += 1
    assert found > 100


# -- rows --------------------------------------------------------------------------------------------------------------


def rows_of(folder: Path, *lines: dict[str, Any]) -> Rows:
    for name in ("a.png", "b.png"):
        Image.fromarray(noise(256, 192)).save(folder / name)
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return Rows([folder / "rows.jsonl"])


LEFT = {"label": "cup/显示完整", "bbox_2d": [10, 20, 90, 120]}
RIGHT = {"label": "door", "bbox_2d": [150, 60, 250, 180]}


def test_an_anchor_on_one_image_only_crops_none(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, {"images": ["a.png", "b.png"], "objects": [LEFT, {**RIGHT, "image": 1}]})
    made = pipeline({"roi_crop": {"anchor_classes": ["cup"], "min_crop_size": 32}}, "vflip")
    of = rows.row(0).record([(256, 192)] * 2)
    placements, moved = made.places([blank((256, 192))] * 2, of, epoch=0, row=0)
    assert [names(placed.replay) for placed in placements] == [["vflip"], ["vflip"]]
    assert len(moved.targets) == 2
    assert placements[0].replay.left_out == ("roi_crop: left out for another image of the row",)
    both = pipeline({"roi_crop": {"anchor_classes": ["cup", "door"], "min_crop_size": 32}})
    placements, moved = both.places([blank((256, 192))] * 2, of, epoch=0, row=0)
    assert [names(placed.replay)[0] for placed in placements] == ["roi_crop"] * 2
    assert len(moved.targets) == 2


def test_images_of_a_row_are_cropped_at_the_same_shares(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, {"images": ["a.png", "b.png"], "objects": [LEFT, {**RIGHT, "image": 1}]})
    made = pipeline({"random_crop": {**ANY, "scale": [0.7, 0.9]}})
    of, cropped = rows.row(0).record([(256, 192), (512, 384)]), 0
    for row in range(10):
        placements, _ = made.places([blank((256, 192)), blank((512, 384))], of, epoch=0, row=row)
        steps = [[step for step in placed.replay.steps if step.name != "fit"] for placed in placements]
        assert steps[0] == steps[1]
        cropped += bool(steps[0])
    assert cropped


def spellings(width: int, height: int) -> list[dict[str, Any]]:
    """Rows of one picture: with objects, with thousandths in their text, and with ms-swift's placeholders."""
    asks = {"role": "user", "content": "<image>What is at the top?"}
    items = []
    for each in (LEFT, RIGHT):
        box = [n * 1000 / side for n, side in zip(each["bbox_2d"], (width, height) * 2, strict=True)]
        items.append({"bbox_2d": box, "label": each["label"]})
    placeholders = '[{"bbox_2d": <bbox>, "label": "<ref-object>"}, {"bbox_2d": <bbox>, "label": "<ref-object>"}]'
    objects = {"ref": [LEFT["label"], RIGHT["label"]], "bbox": [LEFT["bbox_2d"], RIGHT["bbox_2d"]]}
    answer = {"role": "assistant", "content": json.dumps(items)}
    return [
        {"images": ["a.png"], "prompt": "What is at the top?", "objects": [LEFT, RIGHT]},
        {"images": ["a.png"], "messages": [asks, answer]},
        {"images": ["a.png"], "messages": [asks, {**answer, "content": placeholders}], "objects": objects},
    ]


def test_rows_of_every_layout_are_cropped_alike(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, *spellings(256, 192))
    made = pipeline({"random_crop": {**ANY, "scale": 0.4, "min_coverage": 0.2}}, "vflip")
    seen: Counter[str] = Counter()
    for row in range(12):
        found = []
        for number in range(3):
            of = rows.row(number).record([(256, 192)])
            (image,), moved = made.row([noise(256, 192)], of, epoch=0, row=row)
            size = image.shape[1], image.shape[0]
            messages = moved.to_swift([size], rows.writing)["messages"]
            found.append((messages[0]["content"], json.loads(messages[1]["content"])))
        own, *others = found
        assert own[0] == "<image>What is at the bottom?"
        for asks, items in others:
            assert asks == own[0]
            assert [item["label"] for item in items] == [item["label"] for item in own[1]]
            for item, expected in zip(items, own[1], strict=True):
                assert np.abs(np.array(item["bbox_2d"]) - expected["bbox_2d"]).max() <= 1
        seen.update(item["label"] for item in own[1])
        seen[f"{len(own[1])} objects"] += 1
    assert {"cup/只显示部分", "1 objects"} <= seen.keys()


def test_a_fixed_row_is_not_cropped(tmp_path: Path) -> None:
    asks, says = {"role": "user", "content": "<image>Up?"}, {"role": "assistant", "content": "It is in the upper half."}
    rows = rows_of(tmp_path, {"images": ["a.png"], "messages": [asks, says]})
    made = Pipeline(AugmentationSection(ops=[{"random_crop": ANY}, "vflip", "expand_to_fit_affine"]))
    item = TrainingRows(rows, made)[0]
    assert item["messages"] == [asks, says]
    assert np.array_equal(np.asarray(item["images"][0]), noise(256, 192))


def test_a_row_that_would_become_too_long_is_not_cropped_either() -> None:
    made = replace(pipeline({"random_crop": ANY}, "expand_to_fit_affine"), fits=lambda of, sizes: sizes[0] == SIZE)
    placed: Placement = made.place(blank(SIZE), record(CUP), epoch=0, row=0)
    assert names(placed.replay) == []
    assert "random_crop: the row would be longer than max_length" in placed.replay.left_out
