"""Lab, CLAHE, grey and smoothing against OpenCV and Pillow to the bit, by the C extension and without it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter

from swiftalign.augment import conversions

Array = npt.NDArray[np.uint8]
SOURCE = Path(conversions.__file__).with_name("_pixels.c")
# Sides below the 3 pixels of the filter, and lengths around those of vectors.
SHAPES = [(1, 1), (2, 5), (3, 3), (1, 31), (4, 64), (1, 65), (101, 203)]


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The extension, built from its source as it is now."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler: the package is installed without the extension")
    built = tmp_path_factory.mktemp("extension") / "_pixels.abi3.so"
    include = sysconfig.get_paths()["include"]
    subprocess.run(
        [compiler, "-O3", "-ffp-contract=off", "-shared", "-fPIC", f"-I{include}", SOURCE, "-o", built], check=True
    )
    spec = importlib.util.spec_from_file_location("_pixels", built)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["extension", "OpenCV"], autouse=True)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    built = request.getfixturevalue("extension") if request.param == "extension" else None
    monkeypatch.setattr(conversions, "_pixels", built)


def _every_colour() -> Array:
    codes = np.arange(1 << 24, dtype=np.uint32).reshape(4096, 4096)
    return np.stack([codes >> 16, codes >> 8, codes], axis=-1).astype(np.uint8)


def test_every_colour_has_the_lab_values_of_opencv() -> None:
    image = _every_colour()
    planes = conversions.lab_planes(image, out=np.empty((3, 4096, 4096), np.uint8))
    for plane, expected in zip(planes, cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2Lab)), strict=True):
        assert np.array_equal(plane, expected)


def test_every_lab_value_has_the_colour_of_opencv() -> None:
    """Also those that no colour has: CLAHE changes lightness alone."""
    lab = _every_colour()
    result = conversions.from_lab_planes(np.ascontiguousarray(lab.transpose(2, 0, 1)), out=np.empty_like(lab))
    assert np.array_equal(result, cv2.cvtColor(lab, cv2.COLOR_Lab2RGB))


def test_every_colour_has_the_grey_of_pillow() -> None:
    image = _every_colour()
    assert np.array_equal(conversions.grey_of(image), np.asarray(Image.fromarray(image).convert("L")))


def test_tiles_of_any_number_are_equalised_as_by_opencv() -> None:
    """Also where the tiles do not divide the sides, and where there are more tiles than pixels."""
    random = np.random.default_rng(0)
    for number in range(300):
        plane = random.integers(0, 256, random.integers(1, 140, 2), dtype=np.uint8)
        plane = cv2.GaussianBlur(plane, (0, 0), 3).astype(np.uint8) if number % 2 else plane
        limit, (columns, rows) = float(random.choice([0, 0.5, 1.7, 4, 40])), random.integers(1, 12, 2).tolist()
        expected = cv2.createCLAHE(limit, (columns, rows)).apply(plane)
        conversions.equalise_tiles(plane, limit, columns, rows)
        np.testing.assert_array_equal(plane, expected, err_msg=f"{plane.shape}, {limit}, {columns} x {rows}")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_of_any_shape(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image.setflags(write=False)
    planes = conversions.lab_planes(image, out=np.empty((3, *shape), np.uint8))
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2Lab)
    np.testing.assert_array_equal(planes, lab.transpose(2, 0, 1))
    result = conversions.from_lab_planes(planes, out=np.empty_like(image))
    np.testing.assert_array_equal(result, cv2.cvtColor(lab, cv2.COLOR_Lab2RGB))
    np.testing.assert_array_equal(conversions.grey_of(image), np.asarray(Image.fromarray(image).convert("L")))
    if min(shape) >= 3:
        smooth = conversions.smooth_of(image, out=np.empty_like(image))
        np.testing.assert_array_equal(smooth, np.asarray(Image.fromarray(image).filter(ImageFilter.SMOOTH)))


@pytest.mark.parametrize(
    ("name", "size", "more"), [("to_lab", 12, ()), ("from_lab", 8, ()), ("grey", 9, ()), ("smooth", 9, (2,))]
)
def test_the_extension_refuses_a_result_of_another_size(
    extension: Any, name: str, size: int, more: tuple[int, ...]
) -> None:
    call: Callable[..., None] = getattr(extension, name)
    with pytest.raises(ValueError, match="do not fit"):
        call(np.zeros(9, np.uint8), np.zeros(size, np.uint8), *more)
