"""Geometry: points and pixels move alike, measured by markers found again in the moved image."""

from __future__ import annotations

import os
from collections.abc import Callable

import cv2
import imgaug as ia
import imgaug.augmenters as iaa
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl import image_processing_qwen2_vl

from swiftalign.augment import geometry
from swiftalign.augment.geometry import Affine
from swiftalign.data.images import Pixels
from swiftalign.data.polygons import Floats
from swiftalign.problems import DataError

os.environ.setdefault("FORCE_QWENVL_VIDEO_READER", "torchvision")
from qwen_vl_utils import vision_process

Operation = Callable[[Affine], Affine]

MIN_PIXELS, MAX_PIXELS = 4 * 32 * 32, 16384 * 32 * 32


def rotation(degrees: float) -> Operation:
    return lambda a: geometry.rotate(a, degrees)


def zoom(factor: float) -> Operation:
    return lambda a: geometry.scale(a, factor)


def by_scale(factor: float, multiple: int) -> Operation:
    return lambda a: geometry.resize_by_scale(a, factor, multiple)


def stretch(width: int, height: int) -> Operation:
    return lambda a: geometry.resize(a, (width, height))


def padding(multiple: int) -> Operation:
    return lambda a: geometry.pad_to_multiple(a, multiple)


operations = st.one_of(
    st.sampled_from([geometry.hflip, geometry.vflip]),
    st.floats(-180, 180).map(rotation),
    st.floats(0.3, 3).map(zoom),
    st.tuples(st.floats(0.3, 2), st.sampled_from([1, 32])).map(lambda args: by_scale(*args)),
    st.tuples(st.integers(1, 500), st.integers(1, 500)).map(lambda args: stretch(*args)),
    st.integers(1, 64).map(padding),
)
chains = st.lists(operations, max_size=6)
sizes = st.tuples(st.integers(1, 400), st.integers(1, 400))


def compose(size: tuple[int, int], chain: list[Operation]) -> Affine:
    affine = geometry.start(size)
    for operation in chain:
        affine = operation(affine)
    return affine


def noise(width: int, height: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(width: int, height: int) -> Pixels:
    """Gentle colour waves, which interpolation follows to a grey level or two."""
    y, x = np.mgrid[:height, :width] / 25
    waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=-1)
    return (127 + 100 * waves).astype(np.uint8)


def spots(width: int, height: int, centres: Floats, sigma: float = 4.0) -> Pixels:
    """Coloured Gaussian markers at sub-pixel centres 24 pixels or more inside the image, in the corner convention."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    colours = np.array([(255, 128, 0), (0, 255, 128), (128, 0, 255)])
    window = np.arange(-24, 24) + 0.5
    for i, (x, y) in enumerate(centres):
        left, top = int(x) - 24, int(y) - 24
        across, down = (np.exp(-((window - part) ** 2) / (2 * sigma**2)) for part in (x % 1, y % 1))
        marker = (np.outer(down, across)[:, :, None] * colours[i % 3]).round()
        image[top : top + 48, left : left + 48] += marker.astype(np.uint8)
    return image


def found_spots(image: Pixels) -> Floats:
    """Centroids of the markers that lie wholly inside the image."""
    light = cv2.transform(image, np.ones((1, 3)) / 3)
    # What is fainter belongs to a marker's rim: grow the components over it.
    mask = cv2.dilate((light > 1).astype(np.uint8), np.ones((5, 5), np.uint8))
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask)
    height, width = light.shape
    centroids = []
    for label in range(1, count):
        x, y, w, h = boxes[label, :4]
        if x > 0 and y > 0 and x + w < width and y + h < height:
            window = image[y : y + h, x : x + w].sum(axis=-1)
            weight = np.where(labels[y : y + h, x : x + w] == label, window, 0).astype(np.float64)
            columns, rows = np.arange(x, x + w) + 0.5, np.arange(y, y + h) + 0.5
            centroids.append((weight.sum(axis=0) @ columns / weight.sum(), weight.sum(axis=1) @ rows / weight.sum()))
    return np.array(centroids).reshape(-1, 2)


def drawn_chain(rng: np.random.Generator) -> list[Operation]:
    """The whole pipeline, each operation in or out."""
    chain = [
        geometry.hflip,
        geometry.vflip,
        rotation(rng.uniform(-20, 20)),
        zoom(rng.uniform(0.7, 1.4)),
        by_scale(rng.uniform(0.5, 1.5), 32),
        padding(32),
        lambda a: geometry.fit(a, 32, 192 * 192, 640 * 640),
    ]
    return [operation for operation in chain if rng.random() < 0.7]


def test_markers_are_found_where_the_points_went() -> None:
    rng = np.random.default_rng(7)
    errors: list[float] = []
    for _ in range(500):
        width, height = (int(side) for side in rng.integers(200, 700, 2))
        grid = np.stack(np.meshgrid(np.arange(45, width - 30, 70), np.arange(45, height - 30, 70)), -1).reshape(-1, 2)
        centres = grid + rng.uniform(-8, 8, grid.shape)
        affine = compose((width, height), drawn_chain(rng))
        moved = geometry.transform(centres, affine.matrix)
        for spot in found_spots(geometry.warp(spots(width, height, centres), affine)):
            errors.append(float(np.linalg.norm(moved - spot, axis=1).min()))
    assert len(errors) > 10_000
    assert np.mean(errors) <= 0.02
    assert max(errors) <= 0.1


@given(sizes, chains)
def test_composed_equals_one_by_one(size: tuple[int, int], chain: list[Operation]) -> None:
    points = np.random.default_rng(0).uniform(-100, 500, (6, 2))
    composed = compose(size, chain)
    for operation in chain:
        step = operation(geometry.start(size))
        points, size = geometry.transform(points, step.matrix), step.size
    start_points = np.random.default_rng(0).uniform(-100, 500, (6, 2))
    assert composed.size == size
    np.testing.assert_allclose(geometry.transform(start_points, composed.matrix), points, rtol=1e-11, atol=1e-9)


@given(sizes, chains)
@settings(max_examples=100, deadline=None)
def test_a_warp_has_the_size_of_its_canvas(size: tuple[int, int], chain: list[Operation]) -> None:
    affine = compose(size, chain)
    moved = geometry.warp(noise(*size), affine)
    assert moved.shape == (affine.size[1], affine.size[0], 3)
    assert moved.dtype == np.uint8


@given(sizes, st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_flips_and_padding_are_exact_to_the_bit(size: tuple[int, int], multiple: int) -> None:
    image, plain = noise(*size), geometry.start(size)
    flip = geometry.hflip(plain)
    assert geometry.warp(image, plain) is image
    for mirror, expected in ((geometry.hflip, image[:, ::-1]), (geometry.vflip, image[::-1])):
        assert geometry.warp(image, mirror(mirror(plain))) is image
        assert np.array_equal(geometry.warp(image, mirror(plain)), expected)
        assert np.array_equal(geometry.warp(expected, mirror(plain)), image)
    assert np.array_equal(geometry.warp(image, geometry.vflip(flip)), image[::-1, ::-1])
    padded = geometry.pad_to_multiple(flip, multiple)
    moved = geometry.warp(image, padded, fill=(1, 2, 3))
    assert np.array_equal(moved[: size[1], : size[0]], image[:, ::-1])
    assert (moved[size[1] :] == (1, 2, 3)).all()
    assert (moved[:, size[0] :] == (1, 2, 3)).all()
    assert padded.size == tuple(-(-side // multiple) * multiple for side in size)


@given(sizes, st.lists(st.sampled_from([geometry.hflip, geometry.vflip, padding(32)]), max_size=5))
def test_flips_and_padding_in_any_order_move_whole_pixels(size: tuple[int, int], chain: list[Operation]) -> None:
    """Step by step on arrays, against the one composed move."""
    image = noise(*size)
    expected = image
    for operation in chain:
        expected = geometry.warp(expected, operation(geometry.start((expected.shape[1], expected.shape[0]))))
    assert np.array_equal(geometry.warp(image, compose(size, chain)), expected)


def stays(affine: Affine) -> bool:
    return np.array_equal(affine.matrix, np.eye(3))


def mirrors(affine: Affine) -> bool:
    return bool(np.linalg.det(affine.matrix) < 0)


def test_which_operations_move_points_and_which_mirror() -> None:
    plain = geometry.start((30, 20))
    assert stays(plain)
    assert not mirrors(plain)
    assert stays(geometry.pad_to_multiple(plain, 32))
    assert mirrors(geometry.hflip(plain))
    assert mirrors(geometry.vflip(plain))
    assert not mirrors(geometry.hflip(geometry.hflip(plain)))
    assert not mirrors(geometry.vflip(geometry.hflip(plain)))
    assert not mirrors(geometry.rotate(plain, 180))
    assert not stays(geometry.resize(plain, (31, 20)))


def test_operations_that_change_nothing_hand_back_what_they_got() -> None:
    affine = geometry.hflip(geometry.start((64, 32)))
    assert geometry.rotate(affine, 0) is affine
    assert geometry.scale(affine, 1) is affine
    assert geometry.resize(affine, (64, 32)) is affine
    assert stays(geometry.fit(geometry.start((320, 320)), 32, MIN_PIXELS, MAX_PIXELS))


def test_rotation_is_clockwise_on_screen_and_zoom_keeps_the_centre() -> None:
    centre_right = np.array([[50.0, 30.0], [60.0, 30.0]])
    quarter = geometry.rotate(geometry.start((100, 60)), 90)
    np.testing.assert_allclose(geometry.transform(centre_right, quarter.matrix), [[50, 30], [50, 40]], atol=1e-12)
    twice = geometry.scale(geometry.start((100, 60)), 2)
    np.testing.assert_allclose(geometry.transform(centre_right, twice.matrix), [[50, 30], [70, 30]], atol=1e-12)


@pytest.mark.parametrize(
    ("size", "factor", "multiple", "expected"),
    [
        ((100, 60), 0.5, 1, (50, 30)),
        ((100, 60), 1.0, 32, (96, 64)),
        ((8000, 8), 0.1, 32, (800, 32)),
        ((1, 1), 0.1, 1, (1, 1)),
    ],
)
def test_resized_sides_are_the_nearest_multiples(
    size: tuple[int, int], factor: float, multiple: int, expected: tuple[int, int]
) -> None:
    affine = geometry.resize_by_scale(geometry.start(size), factor, multiple)
    corner = geometry.transform(np.array([size], dtype=np.float64), affine.matrix)
    assert affine.size == expected
    np.testing.assert_allclose(corner, [expected], rtol=1e-12)


def test_whole_canvas_resizes_are_those_of_cv2() -> None:
    image = noise(120, 80)
    grown = geometry.warp(image, geometry.resize(geometry.start((120, 80)), (150, 90)))
    assert np.array_equal(grown, cv2.resize(image, (150, 90), interpolation=cv2.INTER_LINEAR))
    shrunk = geometry.warp(image, geometry.resize(geometry.start((120, 80)), (40, 20)))
    assert np.array_equal(shrunk, cv2.resize(image, (40, 20), interpolation=cv2.INTER_AREA))
    flipped = geometry.warp(image, geometry.hflip(geometry.resize(geometry.start((120, 80)), (40, 20))))
    assert np.array_equal(flipped, shrunk[:, ::-1])


@pytest.mark.parametrize("size", [(90, 60), (700, 60), (90, 500), (290, 210)])
@pytest.mark.parametrize("degrees", [0, 12, 90])
def test_shrinking_does_not_alias(size: tuple[int, int], degrees: float) -> None:
    """A fine chequerboard becomes grey, also where only one axis shrinks, or the image turns as well."""
    board = (np.indices((500, 700)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = np.repeat(board[:, :, None], 3, axis=2)
    affine = geometry.resize(geometry.rotate(geometry.start((700, 500)), degrees), size)
    thirds = np.s_[size[1] // 3 : -(size[1] // 3), size[0] // 3 : -(size[0] // 3)]
    middle = geometry.warp(image, affine)[thirds]
    assert abs(middle.mean() - 127.5) < 1.5
    assert middle.std() < 12


def test_a_quarter_turn_shrinks_along_the_axis_that_becomes_short() -> None:
    stripes = np.zeros((500, 700, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    affine = geometry.resize(geometry.rotate(geometry.start((700, 500)), 90), (700, 60))
    middle = geometry.warp(stripes, affine)[20:-20, 300:-300]
    assert abs(middle.mean() - 127.5) < 1.5
    assert middle.std() < 12


@pytest.mark.parametrize("degrees", [-20, -7.5, 3, 20])
@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
def test_equals_imgaug_where_that_is_exact(degrees: float, factor: float) -> None:
    """imgaug's Affine (without fit_output) after Fliplr: the same points, and the same pixels away from the rim."""
    width, height = 321, 200
    image = smooth(width, height)
    points = np.random.default_rng(1).uniform(40, 160, (20, 2))
    chain = iaa.Sequential([iaa.Fliplr(1.0), iaa.Affine(rotate=degrees, scale=factor, order=1, cval=0)])
    keypoints = ia.KeypointsOnImage([ia.Keypoint(x=x, y=y) for x, y in points], shape=image.shape)
    their_image, their_points = chain(image=image, keypoints=keypoints)
    affine = compose((width, height), [geometry.hflip, rotation(degrees), zoom(factor)])
    # imgaug keeps keypoints in float32.
    np.testing.assert_allclose(geometry.transform(points, affine.matrix), their_points.to_xy_array(), atol=1e-3)
    covered = geometry.warp(np.full_like(image, 255), affine)[:, :, 0] == 255
    interior = cv2.erode(covered.astype(np.uint8), np.ones((3, 3), np.uint8)) == 1
    assert interior.mean() > 0.5
    assert np.abs(geometry.warp(image, affine).astype(int) - their_image)[interior].max() <= 1


def test_equals_imgaug_flips_to_the_bit() -> None:
    image = noise(33, 20)
    points = np.array([[0.0, 0.0], [3.25, 7.5], [33.0, 20.0]])
    keypoints = ia.KeypointsOnImage([ia.Keypoint(x=x, y=y) for x, y in points], shape=image.shape)
    for theirs, ours in ((iaa.Fliplr(1.0), geometry.hflip), (iaa.Flipud(1.0), geometry.vflip)):
        their_image, their_points = theirs(image=image, keypoints=keypoints)
        affine = ours(geometry.start((33, 20)))
        assert np.array_equal(geometry.warp(image, affine), their_image)
        assert np.array_equal(geometry.transform(points, affine.matrix), their_points.to_xy_array())


def test_one_resampling_stays_sharper_than_three() -> None:
    original = cv2.GaussianBlur(noise(400, 300), (0, 0), 1.2)
    there = [rotation(9), zoom(1.1), rotation(-4)]
    chain = [*there, rotation(4), zoom(1 / 1.1), rotation(-9)]
    once = geometry.warp(original, compose((400, 300), chain))
    stepwise = original
    for operation in chain:
        stepwise = geometry.warp(stepwise, operation(geometry.start((400, 300))))
    middle = (slice(80, -80), slice(80, -80))
    error_once, error_stepwise = (
        np.abs(result[middle].astype(int) - original[middle]).mean() for result in (once, stepwise)
    )
    assert error_once < 0.5 * error_stepwise


def test_uncovered_canvas_has_the_fill_colour() -> None:
    white = np.full((60, 100, 3), 255, dtype=np.uint8)
    turned = geometry.warp(white, geometry.rotate(geometry.start((100, 60)), 20), fill=(9, 8, 7))
    assert turned[0, 0].tolist() == [9, 8, 7]
    assert turned[30, 50].tolist() == [255, 255, 255]
    away = Affine(np.array([[1.0, 0, 1000], [0, 1, 0], [0, 0, 1]]), (100, 60))
    assert (geometry.warp(white, away, fill=(9, 8, 7)) == (9, 8, 7)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (8000, 8), (2, 3)])
def test_odd_sizes_go_through_every_operation(size: tuple[int, int]) -> None:
    image = noise(*size)
    for chain in (
        [geometry.hflip],
        [geometry.vflip],
        [rotation(12)],
        [zoom(0.4)],
        [zoom(3)],
        [by_scale(0.3, 1)],
        [by_scale(1.7, 32)],
    ):
        affine = compose(size, [*chain, padding(32)])
        moved = geometry.warp(image, affine)
        assert moved.shape == (affine.size[1], affine.size[0], 3)
        assert all(side % 32 == 0 for side in affine.size)


def test_one_pixel_keeps_its_colour() -> None:
    image = np.array([[[10, 20, 30]]], dtype=np.uint8)
    assert (geometry.warp(image, geometry.resize(geometry.start((1, 1)), (32, 32))) == (10, 20, 30)).all()


def test_read_only_images_and_views_are_taken() -> None:
    image = noise(80, 60)
    image.flags.writeable = False
    for view in (image, image[5:50, 7:70], image[:, :, ::-1]):
        size = (view.shape[1], view.shape[0])
        for operation in (geometry.hflip, rotation(10), by_scale(0.5, 1), padding(32)):
            affine = operation(geometry.start(size))
            assert np.array_equal(geometry.warp(view, affine), geometry.warp(view.copy(), affine))


def test_images_too_long_for_cv2_flip_and_shrink_but_do_not_turn() -> None:
    image = noise(40_000, 3)
    plain = geometry.start((40_000, 3))
    assert np.array_equal(geometry.warp(image, geometry.hflip(plain)), image[:, ::-1])
    assert geometry.warp(image, geometry.resize(geometry.rotate(plain, 1), (2000, 10))).shape == (10, 2000, 3)
    with pytest.raises(DataError, match="40000 x 3 pixels is too long to rotate"):
        geometry.warp(image, geometry.rotate(plain, 1))


@given(
    st.integers(1, 20_000), st.integers(1, 20_000), st.sampled_from([28, 32]), st.integers(1, 4), st.integers(8, 20_000)
)
@settings(max_examples=2000)
def test_smart_size_is_what_the_processor_makes(
    width: int, height: int, factor: int, min_tokens: int, max_tokens: int
) -> None:
    limits = {"factor": factor, "min_pixels": min_tokens * factor**2, "max_pixels": max_tokens * factor**2}
    if max(width, height) / min(width, height) > 200:
        with pytest.raises(ValueError, match="aspect ratio"):
            vision_process.smart_resize(height, width, **limits)
        with pytest.raises(DataError, match=r"aspect ratio of \d+; Qwen3-VL accepts at most 200"):
            geometry.smart_size(width, height, **limits)
        return
    theirs = vision_process.smart_resize(height, width, **limits)[::-1]
    assert geometry.smart_size(width, height, **limits) == tuple(max(factor, side) for side in theirs)


def test_smart_size_never_gives_an_empty_side() -> None:
    """qwen_vl_utils gives this image a height of 0, and then fails on it; transformers gives it one multiple."""
    limits = {"factor": 32, "min_pixels": 4096, "max_pixels": 32 * 32 * 32}
    assert vision_process.smart_resize(40, 8000, **limits)[0] == 0
    assert geometry.smart_size(8000, 40, **limits) == image_processing_qwen2_vl.smart_resize(40, 8000, **limits)[::-1]


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 8), st.integers(8, 20_000))
@settings(max_examples=1000)
def test_what_fits_is_not_resized_again(width: int, height: int, min_tokens: int, max_tokens: int) -> None:
    limits = {"factor": 32, "min_pixels": min_tokens * 1024, "max_pixels": max_tokens * 1024}
    try:
        affine = geometry.fit(geometry.start((width, height)), **limits)
    except DataError:
        assume(False)
    assert vision_process.smart_resize(affine.size[1], affine.size[0], **limits) == affine.size[::-1]


@pytest.mark.parametrize(("width", "height"), [(1024, 768), (31, 2000), (5000, 4000), (20, 20), (1, 150)])
def test_usual_images_fit(width: int, height: int) -> None:
    affine = geometry.fit(geometry.start((width, height)), 32, MIN_PIXELS, MAX_PIXELS)
    assert affine.size == geometry.smart_size(width, height, 32, MIN_PIXELS, MAX_PIXELS)


def test_images_that_the_processor_would_refuse_do_not_fit() -> None:
    """9400 x 47 is rounded to 9408 x 32, whose aspect ratio the processor then refuses."""
    with pytest.raises(DataError, match="9408 x 32 pixels has an aspect ratio of 294"):
        geometry.fit(geometry.start((9400, 47)), 32, MIN_PIXELS, MAX_PIXELS)
    with pytest.raises(DataError, match="between 5120 and 5120 pixels") as caught:
        geometry.fit(geometry.start((100, 100)), 32, 5120, 5120)
    assert caught.value.hint == "set min_pixels and max_pixels further apart"
    with pytest.raises(DataError, match="min_pixels 9 is above max_pixels 8"):
        geometry.smart_size(10, 10, 32, 9, 8)
