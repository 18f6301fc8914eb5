"""Appearance operations against Pillow, imgaug and float64 references, to the bit where that is what they promise."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imgaug import augmenters as iaa
from PIL import Image, ImageEnhance, ImageOps

from swiftalign.augment.colours import OPERATIONS, apply_appearance

Array = npt.NDArray[np.uint8]
Step = tuple[str, dict[str, Any]]

# One pixel, one row, one column, below and at the 3 pixels of a smoothing kernel, odd sides, several strips of rows,
# and rows longer than a strip.
SHAPES = [(1, 1), (1, 7), (9, 1), (2, 2), (2, 50), (3, 3), (3, 41), (17, 31), (101, 203), (70, 1000), (3, 40_000)]
FACTORS = [-0.5, 0.0, 0.1, 0.6, 0.7, 0.99, 1.01, 1.1, 1.4, 1.8, 2.0, 3.7, 20.0]


def _images() -> dict[str, Array]:
    random = np.random.default_rng(7)
    images = {
        f"{height}x{width}": random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in SHAPES
    }
    images["saturated"] = random.choice(np.array([0, 255], np.uint8), (60, 80, 3))
    images["grey"] = np.repeat(random.integers(0, 256, (60, 80, 1), dtype=np.uint8), 3, axis=2)
    images["dark"] = random.integers(0, 4, (60, 80, 3), dtype=np.uint8)
    images["black"] = np.zeros((5, 5, 3), np.uint8)
    images["smooth"] = cv2.resize(random.integers(0, 256, (9, 12, 3), dtype=np.uint8), (120, 90))
    return images


IMAGES = _images()
for _image in IMAGES.values():
    _image.setflags(write=False)


def _pillow(image: Array, *edits: Callable[[Image.Image], Image.Image]) -> Array:
    pillow = Image.fromarray(image)
    for edit in edits:
        pillow = edit(pillow)
    return np.asarray(pillow)


def _pillow_jitter(image: Array, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0) -> Array:
    return _pillow(
        image,
        lambda i: ImageEnhance.Brightness(i).enhance(brightness),
        lambda i: ImageEnhance.Contrast(i).enhance(contrast),
        lambda i: ImageEnhance.Color(i).enhance(saturation),
    )


def _lab_clahe(image: Array, clip_limit: float, tile_grid_size: list[int]) -> Array:
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=tuple(tile_grid_size)).apply(lab[..., 0].copy())
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


# What an operation is equal to, to the bit.
EQUAL: dict[str, Callable[..., Array]] = {
    "color_jitter": _pillow_jitter,
    "gamma": lambda image, gamma: iaa.GammaContrast(float(gamma))(image=image.copy()),
    "clahe": _lab_clahe,
    "auto_contrast": lambda image, cutoff: _pillow(image, lambda i: ImageOps.autocontrast(i, cutoff)),
    "equalize": lambda image: _pillow(image, ImageOps.equalize),
    "sharpness": lambda image, factor: _pillow(image, lambda i: ImageEnhance.Sharpness(i).enhance(factor)),
    "solarize": lambda image, threshold: _pillow(image, lambda i: ImageOps.solarize(i, threshold)),
    "posterize": lambda image, bits: _pillow(image, lambda i: ImageOps.posterize(i, bits)),
}

EQUAL_STEPS: list[Step] = [
    *[("color_jitter", {key: factor}) for key in ("brightness", "contrast", "saturation") for factor in FACTORS],
    ("color_jitter", {"brightness": 0.6, "contrast": 1.4, "saturation": 1.3}),
    ("color_jitter", {"brightness": 1.4, "contrast": 0.6, "saturation": 0.7}),
    *[("gamma", {"gamma": gamma}) for gamma in (0.1, 0.6, 0.999, 1.5, 4.0)],
    *[("clahe", {"clip_limit": c, "tile_grid_size": g}) for c, g in ((4.0, [8, 8]), (0.5, [3, 5]), (40.0, [1, 1]))],
    *[("auto_contrast", {"cutoff": cutoff}) for cutoff in (0, 0.0, 1, 2.5, 10.0, 33.3, 49.99)],
    ("equalize", {}),
    *[("sharpness", {"factor": factor}) for factor in FACTORS],
    *[("solarize", {"threshold": threshold}) for threshold in (0, 1, 127.5, 128, 255)],
    *[("posterize", {"bits": bits}) for bits in range(1, 8)],
]


@pytest.mark.parametrize("step", EQUAL_STEPS, ids=str)
def test_equals_its_reference_to_the_bit(step: Step) -> None:
    name, values = step
    for key, image in IMAGES.items():
        np.testing.assert_array_equal(apply_appearance(image, [step]), EQUAL[name](image, **values), err_msg=key)


@pytest.mark.parametrize("saturation", [0.0, 0.7, 1.3])
def test_saturation_of_every_colour_equals_pillows(saturation: float) -> None:
    codes = np.arange(1 << 24, dtype=np.uint32).reshape(4096, 4096)
    colours = np.stack([codes >> 16, codes >> 8, codes], axis=-1).astype(np.uint8)
    result = apply_appearance(colours, [("color_jitter", {"saturation": saturation})])
    assert np.array_equal(result, _pillow_jitter(colours, saturation=saturation))


def test_random_factors_equal_pillows() -> None:
    random = np.random.default_rng(11)
    for _ in range(150):
        image = random.integers(0, 256, (*random.integers(1, 90, 2), 3), dtype=np.uint8)
        values = dict(zip(("brightness", "contrast", "saturation"), random.uniform(0, 2.5, 3).tolist(), strict=True))
        result = apply_appearance(image, [("color_jitter", values)])
        np.testing.assert_array_equal(result, _pillow_jitter(image, **values), err_msg=str(values))


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    levels=st.lists(st.integers(0, 255), min_size=1, max_size=12),
    bits=st.integers(1, 8),
    cutoff=st.floats(0, 49.99),
    seed=st.integers(0, 99),
)
@settings(max_examples=300, deadline=None)
def test_spreading_values_equals_pillows_on_any_histogram(
    height: int, width: int, levels: list[int], bits: int, cutoff: float, seed: int
) -> None:
    """One level is a constant image; channels differ, and tables are pending before and after."""
    image = np.random.default_rng(seed).choice(np.array(levels, np.uint8), (height, width, 3))
    image[..., 1] = np.sort(image[..., 1], axis=None).reshape(height, width) // 2
    steps: list[Step] = [
        ("posterize", {"bits": bits}),
        ("auto_contrast", {"cutoff": cutoff}),
        ("solarize", {"threshold": 100}),
        ("equalize", {}),
        ("color_jitter", {"saturation": 0.5}),
    ]
    for count in range(1, len(steps) + 1):
        expected = image
        for name, values in steps[:count]:
            expected = EQUAL[name](expected, **values)
        np.testing.assert_array_equal(apply_appearance(image, steps[:count]), expected)


@pytest.mark.parametrize("grid", [1, 3, 8])
def test_clahe_equals_imgaugs_whose_tile_size_is_a_count(grid: int) -> None:
    image = IMAGES["smooth"]
    augmenter = iaa.CLAHE(clip_limit=4.0, tile_grid_size_px=([grid], [grid]), tile_grid_size_px_min=1)
    result = apply_appearance(image, [("clahe", {"clip_limit": 4.0, "tile_grid_size": [grid, grid]})])
    if grid == 1:  # imgaug leaves the image alone
        assert not np.array_equal(result, augmenter(image=image))
    else:
        np.testing.assert_array_equal(result, augmenter(image=image))


IDENTITIES: list[Step] = [
    ("color_jitter", {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0}),
    ("color_jitter", {}),
    ("gamma", {"gamma": 1.0}),
    ("hsv", {"hue_deg": 0.0, "sat": 1.0, "val": 1.0}),
    ("hsv", {"hue_deg": -360.0}),
    ("sharpness", {"factor": 1.0}),
    ("solarize", {"threshold": 256}),
    ("posterize", {"bits": 8}),
]


@pytest.mark.parametrize("step", IDENTITIES, ids=str)
def test_identity_is_the_input_to_the_bit(step: Step) -> None:
    for key, image in IMAGES.items():
        np.testing.assert_array_equal(apply_appearance(image, [step]), image, err_msg=key)


def _hexcone(image: Array, hue_deg: float, sat: float, val: float) -> npt.NDArray[np.float64]:
    """colorsys' arithmetic over an image, in float64 and without rounding at the end."""
    rgb = image / 255
    value, spread = rgb.max(-1), np.ptp(rgb, axis=-1)
    safe = np.where(spread, spread, 1)
    red, green, blue = ((value - rgb[..., channel]) / safe for channel in range(3))
    by_green = np.where(rgb[..., 1] == value, 2 + red - blue, 4 + green - red)
    sector = np.where(rgb[..., 0] == value, blue - green, by_green)
    hue = np.where(spread, sector / 6 + hue_deg / 360, 0) % 1
    saturation = np.minimum(spread / np.where(value, value, 1) * sat, 1)
    value = np.minimum(value * val, 1)
    # f(n) = v - v s max(0, min(k, 4 - k, 1)) with k = (n + 6 h) mod 6, for n = 5, 3, 1
    k = (np.array([5, 3, 1]) + 6 * hue[..., None]) % 6
    return 255 * value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(k, 4 - k), 0, 1))


HSV = [
    {"hue_deg": 1.0, "sat": 1.0, "val": 1.0},
    {"hue_deg": -25.0, "sat": 1.0, "val": 1.0},
    {"hue_deg": 180.0, "sat": 0.0, "val": 1.0},
    {"hue_deg": 0.0, "sat": 1.5, "val": 1.0},
    {"hue_deg": 0.0, "sat": 1.0, "val": 1.5},
    {"hue_deg": 25.0, "sat": 0.6, "val": 0.6},
    {"hue_deg": 359.5, "sat": 1.5, "val": 1.5},
    {"hue_deg": 777.25, "sat": 30.0, "val": 30.0},
]


@pytest.mark.parametrize("values", HSV, ids=str)
def test_hsv_is_the_exact_result_rounded(values: dict[str, float]) -> None:
    """Within 0.5 of a grey level, and 0.01 for float32, at every pixel."""
    for key, image in IMAGES.items():
        result = apply_appearance(image, [("hsv", values)])
        assert np.abs(result - _hexcone(image, **values)).max() <= 0.51, key


def test_the_exact_result_is_colorsys() -> None:
    image = IMAGES["17x31"]
    for pixel, exact in zip(image.reshape(-1, 3), _hexcone(image, 100.0, 1.3, 1.2).reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        changed = colorsys.hsv_to_rgb((hue + 100 / 360) % 1, min(saturation * 1.3, 1), min(value * 1.2, 1))
        np.testing.assert_allclose(exact, np.multiply(changed, 255), atol=1e-9)


def test_a_hue_of_a_third_of_a_turn_moves_the_channels_on() -> None:
    for key, image in IMAGES.items():
        result = apply_appearance(image, [("hsv", {"hue_deg": 120.0})])
        np.testing.assert_array_equal(result, image[..., [2, 0, 1]], err_msg=key)


# How far imgaug's 8-bit hue and saturation are from ours: the largest and the mean difference in grey levels.
IMGAUG_HSV = [
    (iaa.MultiplySaturation(1.5), {"sat": 1.5}, 16, 2.0),
    (iaa.MultiplySaturation(0.6), {"sat": 0.6}, 10, 1.2),
    (iaa.MultiplyHueAndSaturation(mul_saturation=1.5), {"sat": 1.5}, 16, 2.0),
    (iaa.MultiplyHueAndSaturation(1.0), {}, 15, 1.7),  # not imgaug's identity
    (iaa.AddToHue((64, 64)), {"hue_deg": 90.0}, 7, 0.7),
    (iaa.AddToHue((-64, -64)), {"hue_deg": -90.0}, 7, 0.7),
]


@pytest.mark.parametrize(("augmenter", "values", "most", "mean"), IMGAUG_HSV)
def test_hsv_is_near_imgaugs(augmenter: iaa.Augmenter, values: dict[str, float], most: float, mean: float) -> None:
    for key in ("70x1000", "smooth", "saturated", "grey", "101x203"):
        image = IMAGES[key]
        difference = np.abs(apply_appearance(image, [("hsv", values)]).astype(int) - augmenter(image=image.copy()))
        assert difference.max() <= most, key
        assert difference.mean() <= mean, key


def test_imgaug_loses_a_turn_of_one_degree_and_hsv_does_not() -> None:
    red = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    np.testing.assert_array_equal(apply_appearance(red, [("hsv", {"hue_deg": 1.0})])[0, 0], (255, 4, 0))
    np.testing.assert_array_equal(iaa.AddToHue((1, 1))(image=red.copy()), red)


def _draw(random: np.random.Generator) -> Step:
    """An operation with values of the kind that a configuration yields."""
    jitter = dict(zip(("brightness", "contrast", "saturation"), random.uniform(0.4, 1.7, 3).tolist(), strict=True))
    hsv = {"hue_deg": random.uniform(-40, 40), "sat": random.uniform(0.5, 1.6), "val": random.uniform(0.5, 1.6)}
    grid = random.integers(1, 9, 2).tolist()
    choices: list[Step] = [
        ("color_jitter", {key: jitter[key] for key in jitter if random.random() < 0.7}),
        ("gamma", {"gamma": random.uniform(0.5, 1.7)}),
        ("hsv", hsv),
        ("clahe", {"clip_limit": random.uniform(1, 5), "tile_grid_size": grid}),
        ("auto_contrast", {"cutoff": random.uniform(0, 20)}),
        ("equalize", {}),
        ("sharpness", {"factor": random.uniform(0, 2)}),
        ("solarize", {"threshold": int(random.integers(0, 257))}),
        ("posterize", {"bits": int(random.integers(1, 9))}),
    ]
    return choices[random.integers(len(choices))]


def test_a_chain_equals_its_operations_one_by_one() -> None:
    random = np.random.default_rng(3)
    for _ in range(200):
        image = random.integers(0, 256, (*random.integers(1, 300, 2), 3), dtype=np.uint8)
        if random.random() < 0.5:
            image = cv2.GaussianBlur(image, (0, 0), 3)
        steps = [_draw(random) for _ in range(random.integers(1, 9))]
        expected = image
        for name, values in steps:
            reference = EQUAL.get(name) or (lambda image, **hsv: apply_appearance(image, [("hsv", hsv)]))
            expected = reference(expected, **values)
        np.testing.assert_array_equal(apply_appearance(image, steps), expected, err_msg=str(steps))


EVERY: list[Step] = [
    ("color_jitter", {"brightness": 1.2, "contrast": 0.8, "saturation": 1.3}),
    ("gamma", {"gamma": 1.3}),
    ("hsv", {"hue_deg": 20.0, "sat": 1.3, "val": 0.9}),
    ("clahe", {"clip_limit": 4.0, "tile_grid_size": [8, 8]}),
    ("auto_contrast", {"cutoff": 5.0}),
    ("equalize", {}),
    ("sharpness", {"factor": 1.5}),
    ("solarize", {"threshold": 128}),
    ("posterize", {"bits": 4}),
]


@pytest.mark.parametrize("steps", [EVERY, *[[step] for step in EVERY]], ids=lambda steps: steps[-1][0])
def test_the_input_stays_as_it_is(steps: list[Step]) -> None:
    image = IMAGES["101x203"].copy()
    before = image.copy()
    result = apply_appearance(image, steps)
    assert not np.shares_memory(result, image)
    assert not np.array_equal(result, before)
    np.testing.assert_array_equal(image, before)


def test_a_view_gives_the_same_as_its_copy() -> None:
    image = IMAGES["101x203"]
    for view in (image[:, ::-1], image[::2, 5:90], image[..., ::-1], image.transpose(1, 0, 2)):
        np.testing.assert_array_equal(apply_appearance(view, EVERY), apply_appearance(view.copy(), EVERY))


def test_no_steps_give_the_image_itself() -> None:
    image = IMAGES["17x31"]
    assert apply_appearance(image, []) is image


def test_every_operation_is_tested() -> None:
    assert list(OPERATIONS) == [name for name, _ in EVERY]


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
    ids=["grey", "with alpha", "float", "empty"],
)
def test_other_arrays_are_refused(image: npt.NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="expected RGB"):
        apply_appearance(image, EVERY)


def test_a_result_stays_when_the_next_image_is_augmented() -> None:
    """Work buffers are kept between images; what is returned is not one of them."""
    image = IMAGES["101x203"]
    for step in EVERY:
        first = apply_appearance(image, [step])
        expected = first.copy()
        for other in EVERY:
            apply_appearance(255 - image, [other, step])
        np.testing.assert_array_equal(first, expected, err_msg=str(step))


def test_threads_do_not_share_buffers() -> None:
    images = [np.roll(IMAGES["smooth"], shift) for shift in range(40)]
    expected = [apply_appearance(image, EVERY) for image in images]
    with ThreadPoolExecutor(4) as threads:
        results = [*threads.map(lambda image: apply_appearance(image, EVERY), images)]
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)
