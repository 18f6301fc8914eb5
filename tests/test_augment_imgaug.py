"""imgaug's augmenters by name: which can be built, that a seed alone decides the result, and where points go."""

from __future__ import annotations

from typing import Any

import cv2
import imgaug
import numpy as np
import numpy.typing as npt
import pytest

from swiftalign.augment.imgaug_ops import apply, build, is_geometric, public_augmenters
from swiftalign.problems import ConfigError

# imgaug calls functions that imageio and scikit-image have deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Starting with ImageIO v3:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.* is deprecated:FutureWarning"),
]

RANDOM = np.random.default_rng(1)
IMAGE = RANDOM.integers(0, 256, (64, 96, 3), dtype=np.uint8)
IMAGE.setflags(write=False)
POINTS = RANDOM.uniform(0, 1, (6, 2)) * (96, 64)
POINTS.setflags(write=False)

GEOMETRIC = {
    "Affine", "ElasticTransformation", "Fliplr", "Flipud", "PerspectiveTransform", "PiecewiseAffine", "Resize",
    "Rot90", "Rotate", "ScaleX", "ScaleY", "ShearX", "ShearY", "TranslateX", "TranslateY",
}  # fmt: skip

# Values for arguments without a default.
NEEDED: dict[str, dict[str, Any]] = {
    "ChangeColorspace": {"to_colorspace": "HSV"},
    "CloudLayer": {
        "intensity_mean": [196, 255], "intensity_freq_exponent": [-2.5, -2.0], "intensity_coarse_scale": 10,
        "alpha_min": 0, "alpha_multiplier": [0.25, 0.75], "alpha_size_px_max": [2, 8],
        "alpha_freq_exponent": [-2.5, -2.0], "sparsity": [0.8, 1.0], "density_multiplier": [0.5, 1.0],
    },
    "RainLayer": {
        "density": [0.03, 0.14], "density_uniformity": [0.8, 1.0], "drop_size": [0.01, 0.02],
        "drop_size_uniformity": [0.2, 0.5], "angle": [-15, 15], "speed": [0.04, 0.2],
        "blur_sigma_fraction": [0.001, 0.001],
    },
    "ReplaceElementwise": {"mask": 0.1, "replacement": [0, 255]},
    "Resize": {"size": [0.5, 1.5]},
    "SnowflakesLayer": {
        "density": [0.05, 0.1], "density_uniformity": [0.95, 0.99], "flake_size": [0.3, 0.6],
        "flake_size_uniformity": [0.4, 0.8], "angle": [-30, 30], "speed": [0.01, 0.05],
        "blur_sigma_fraction": [0.0001, 0.001],
    },
}  # fmt: skip
SIZES = {"width": 32, "height": 32}
MULTIPLES = {"width_multiple": 32, "height_multiple": 32}
POWERS = {"width_base": 2, "height_base": 2}
for _family in ("Crop", "CenterCrop", "Pad", "CenterPad"):
    NEEDED |= {
        f"{_family}ToFixedSize": SIZES,
        f"{_family}ToMultiplesOf": MULTIPLES,
        f"{_family}ToPowersOf": POWERS,
        f"{_family}ToAspectRatio": {"aspect_ratio": 2.0},
    }

BY_NAME = {
    "AffineCv2", "AssertLambda", "AssertShape", "ClipCBAsToImagePlanes", "Jigsaw", "Lambda", "RandAugment",
    "RemoveCBAsByOutOfImageFraction", "SaveDebugImageEveryNBatches", "TotalDropout", "Voronoi",
}  # fmt: skip
META = {
    "KeepSizeByResize", "OneOf", "Sequential", "SomeOf", "Sometimes", "WithBrightnessChannels", "WithChannels",
    "WithColorspace", "WithHueAndSaturation", "WithPolarWarping",
}  # fmt: skip


def refusal(name: str) -> str | None:
    """Why a class is refused, as part of the message; None where it is not."""
    if name in BY_NAME:
        return f"imgaug.{name} can't be used: it"
    if name in META or name.startswith("Blend"):
        return f"imgaug.{name} can't be used: it takes other augmenters"
    if name.startswith(("Crop", "CenterCrop", "Pad", "CenterPad")):
        return f"imgaug.{name} fails with imgaug 0.5.0 and numpy {np.__version__}: TypeError: "
    return None


@pytest.mark.parametrize("name", sorted(public_augmenters()))
def test_every_augmenter_is_deterministic_or_refused_with_a_reason(name: str) -> None:
    reason = refusal(name)
    if reason is not None:
        with pytest.raises(ConfigError) as caught:
            build(f"imgaug.{name}", NEEDED.get(name, {}))
        assert caught.value.message.startswith(reason)
        return
    results = []
    for seed_of_imgaug in (1, 2):
        imgaug.seed(seed_of_imgaug)
        np.random.seed(seed_of_imgaug)
        before = _global_states()
        augmenter = build(f"imgaug.{name}", NEEDED.get(name, {}))
        apply(augmenter, IMAGE, POINTS, seed=seed_of_imgaug)  # what ran before must not matter
        results.append(apply(augmenter, IMAGE, POINTS, seed=5))
        assert _global_states() == before
    (image, points), (image_again, points_again) = results
    np.testing.assert_array_equal(image, image_again)
    np.testing.assert_array_equal(points, points_again)
    assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
    assert (points.dtype, points.shape) == (np.float64, POINTS.shape)
    assert is_geometric(augmenter) == (name in GEOMETRIC)
    if name not in GEOMETRIC:
        _check_points_stay(augmenter, image)


def _global_states() -> tuple[str, str]:
    return str(imgaug.random.get_global_rng().state), str(np.random.get_state())


def _check_points_stay(augmenter: Any, expected: npt.NDArray[np.uint8]) -> None:
    """imgaug itself leaves points alone, and changes the image as it does without them."""
    keypoints = imgaug.KeypointsOnImage([imgaug.Keypoint(x, y) for x, y in POINTS.tolist()], shape=IMAGE.shape)
    for seed in (0, 1, 5):
        augmenter.seed_(seed)
        image, moved = augmenter(image=IMAGE, keypoints=keypoints)
        assert image.shape == IMAGE.shape
        assert [(keypoint.x, keypoint.y) for keypoint in moved] == [tuple(point) for point in POINTS.tolist()]
    np.testing.assert_array_equal(image, expected)


def test_another_seed_gives_another_result() -> None:
    augmenter = build("imgaug.Rotate", {"rotate": [-20, 20]})
    (image, points), (other_image, other_points) = (apply(augmenter, IMAGE, POINTS, seed) for seed in (0, 1))
    assert not np.array_equal(image, other_image)
    assert not np.allclose(points, other_points)


def test_large_and_numpy_seeds_are_taken() -> None:
    augmenter = build("imgaug.AdditiveGaussianNoise", {"scale": 20})
    image, _ = apply(augmenter, IMAGE, POINTS, seed=2**31 - 1)
    again, _ = apply(augmenter, IMAGE, POINTS, seed=np.int64(2**31 - 1))
    np.testing.assert_array_equal(image, again)


# Each with how far, in pixels, a blob may end up from its point.
MOVES: list[tuple[str, dict[str, Any], float]] = [
    ("Affine", {"rotate": 15, "scale": 0.8, "translate_px": {"x": 3, "y": -4}, "shear": 5}, 0.05),
    ("Affine", {"translate_percent": {"x": [0.05, 0.1], "y": [-0.1, -0.05]}}, 0.05),
    ("Fliplr", {"p": 1}, 0.02),
    ("Flipud", {"p": 1}, 0.02),
    ("Rot90", {"k": 1, "keep_size": False}, 0.02),
    ("Rotate", {"rotate": -20}, 0.05),
    ("ScaleX", {"scale": 1.2}, 0.05),
    ("ShearY", {"shear": 10}, 0.05),
    ("TranslateX", {"px": 7}, 0.05),
    ("PerspectiveTransform", {"scale": 0.05}, 0.6),
    ("Resize", {"size": {"height": 200, "width": 150}}, 0.05),
    ("ElasticTransformation", {"alpha": 20.0, "sigma": 8.0}, 1.0),
    ("PiecewiseAffine", {"scale": 0.02}, 1.0),
]


@pytest.mark.parametrize(("name", "params", "tolerance"), MOVES, ids=lambda value: str(value))
def test_points_stay_on_what_they_mark(name: str, params: dict[str, Any], tolerance: float) -> None:
    """In the corner convention: the middle of the first pixel is (0.5, 0.5)."""
    augmenter = build(f"imgaug.{name}", params)
    for x, y in ((60.0, 50.0), (41.3, 77.8), (90.5, 60.25)):
        rows, columns = np.mgrid[:120, :150] + 0.5
        blob = 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)
        image = np.repeat(np.rint(blob).astype(np.uint8)[..., None], 3, axis=2)
        moved_image, moved = apply(augmenter, image, np.array([[x, y]]), seed=3)
        moments = cv2.moments(moved_image[..., 0])
        found = np.array([moments["m10"], moments["m01"]]) / moments["m00"] + 0.5
        assert np.abs(found - moved[0]).max() <= tolerance


def test_size_may_change() -> None:
    image, points = apply(build("imgaug.Resize", {"size": 0.5}), IMAGE, POINTS, seed=0)
    assert image.shape == (32, 48, 3)
    np.testing.assert_allclose(points, POINTS / 2)


@pytest.mark.parametrize("name", ["Fliplr", "MotionBlur"])
def test_no_points_are_no_trouble(name: str) -> None:
    _, points = apply(build(f"imgaug.{name}", {}), IMAGE, np.empty((0, 2)), seed=0)
    assert points.shape == (0, 2)


def test_results_are_the_callers_own() -> None:
    for name in ("imgaug.Identity", "imgaug.Fliplr"):
        image, points = apply(build(name, {}), IMAGE, POINTS, seed=0)
        assert not np.shares_memory(image, IMAGE)
        assert not np.shares_memory(points, POINTS)


@pytest.mark.parametrize(("value", "drawn"), [([1, 4], {1, 2, 3, 4}), ([1, 5, 9], {1, 5, 9}), (7, {7})], ids=str)
def test_two_numbers_are_a_range_and_more_a_choice(value: Any, drawn: set[int]) -> None:
    augmenter = build("imgaug.Add", {"value": value})
    black = np.zeros((4, 4, 3), np.uint8)
    assert {int(apply(augmenter, black, POINTS, seed)[0][0, 0, 0]) for seed in range(60)} == drawn


def test_ranges_are_found_within_mappings() -> None:
    augmenter = build("imgaug.Affine", {"translate_px": {"x": [1, 3], "y": 0}})
    shifts = {tuple(np.round(apply(augmenter, IMAGE, POINTS, seed)[1] - POINTS, 3)[0].tolist()) for seed in range(40)}
    assert shifts == {(1.0, 0.0), (2.0, 0.0), (3.0, 0.0)}


@pytest.mark.parametrize(
    ("name", "params", "message", "hint"),
    [
        ("imgaug.MotionBlurr", {}, "imgaug has no augmenter 'MotionBlurr'", "did you mean imgaug.MotionBlur?"),
        ("imgaug.motionblur", {}, "imgaug has no augmenter 'motionblur'", "did you mean imgaug.MotionBlur?"),
        ("imgaug.Qqqqq", {}, "imgaug has no augmenter 'Qqqqq'", "see the classes of imgaug.augmenters"),
        ("imgaug.cv2", {}, "imgaug has no augmenter 'cv2'", "see the classes of imgaug.augmenters"),
        ("imgaug.Augmenter", {}, "imgaug has no augmenter 'Augmenter'", None),
        ("imgaug.MotionBlur", {"sigma": 3}, "imgaug.MotionBlur has no parameter 'sigma'",
         "it takes k, angle, direction, order"),
        ("imgaug.Fliplr", {"seed": 3}, "imgaug.Fliplr has no parameter 'seed'", "it takes p"),
        ("imgaug.Resize", {}, "imgaug.Resize needs 'size'", "it takes size, interpolation"),
        ("imgaug.MotionBlur", {"k": "x"}, "imgaug.MotionBlur: AssertionError: ", "look at {'k': 'x'}"),
        ("imgaug.Crop", {"px": 2}, "imgaug.Crop fails with ",
         "use another augmenter; some need whole numbers written as decimals (20.0)"),
        ("imgaug.ElasticTransformation", {"alpha": 20}, "imgaug.ElasticTransformation fails with ",
         "use another augmenter; some need whole numbers written as decimals (20.0)"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(name: str, params: dict[str, Any], message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, params)
    assert caught.value.message.startswith(message)
    assert hint is None or caught.value.hint == hint


def test_a_refused_operation_leaves_imgaugs_generator_alone() -> None:
    before = _global_states()
    with pytest.raises(ConfigError):
        build("imgaug.Crop", {"px": [1, 9]})
    assert _global_states() == before
