"""Geometric augmentation as one matrix: operations compose on points, and the image is resampled once.

Points are measured at pixel edges: the middle of the first pixel is (0.5, 0.5), the canvas spans 0..width, 0..height.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

from swiftalign.config.augmentation import Colour
from swiftalign.data.images import Pixels
from swiftalign.data.polygons import Floats, envelope, inside
from swiftalign.data.sizes import MAX_RATIO, Size, rounded_size
from swiftalign.data.targets import Point
from swiftalign.problems import DataError

Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom in whole pixels

# Shrinking by more than this factor with two-by-two interpolation would skip pixels: their mean is taken instead.
AREA_FROM = 1.5
# cv2.warpAffine keeps pixel positions in 16 bits.
MAX_WARP_SIDE = 32766
# Offsets and extents this near to whole pixels count as whole pixels: the difference is float error.
WHOLE_PIXEL = 1e-6


@dataclass(frozen=True, eq=False)
class Affine:
    """A map from the points of an input image to those of an output canvas.

    Attributes:
        matrix: [3, 3], maps input points (x, y, 1) to output points.
        size: width and height of the output canvas in pixels.
    """

    matrix: Floats
    size: Size


def start(size: Size) -> Affine:
    """The identity on an image of this size."""
    return Affine(np.eye(3), size)


def hflip(a: Affine) -> Affine:
    """Mirror left and right."""
    return _then(a, [[-1, 0, a.size[0]], [0, 1, 0]])


def vflip(a: Affine) -> Affine:
    """Mirror up and down."""
    return _then(a, [[1, 0, 0], [0, -1, a.size[1]]])


def rotate(a: Affine, degrees: float) -> Affine:
    """Turn clockwise, as seen on screen, about the centre of the canvas; corners that leave the canvas are cut off."""
    if degrees == 0:
        return a
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _about_centre(a, cos, -sin, sin, cos)


def scale(a: Affine, factor: float) -> Affine:
    """Zoom about the centre of the canvas, in above 1 and out below 1; the canvas keeps its size."""
    return a if factor == 1 else _about_centre(a, factor, 0, 0, factor)


def resize(a: Affine, size: Sequence[int]) -> Affine:
    """Stretch the whole canvas to another width and height, each axis by its own factor."""
    width, height = size
    if (width, height) == a.size:
        return a
    return _then(a, [[width / a.size[0], 0, 0], [0, height / a.size[1], 0]], (width, height))


def resize_by_scale(a: Affine, factor: float, align_multiple: int) -> Affine:
    """Resize by a factor, each side rounded to the nearest multiple of ``align_multiple``, at least to one multiple."""
    return resize(a, [max(align_multiple, round(side * factor / align_multiple) * align_multiple) for side in a.size])


def pad_to_multiple(a: Affine, multiple: int) -> Affine:
    """Grow the canvas at the right and the bottom to multiples of ``multiple``; points do not move.

    Parts of the image that an earlier rotation or zoom moved over these two edges show there, since the pixels are
    resampled only once, at the end.
    """
    width, height = (math.ceil(side / multiple) * multiple for side in a.size)
    return Affine(a.matrix, (width, height))


def expand(a: Affine, shown: tuple[Point, Point], multiple: int, max_pixels: int | None) -> Affine:
    """Make the canvas show the whole image; the result is still to be padded to multiples of ``multiple``.

    A canvas that shows all of the image stays as it is. Another one becomes the smallest around the image, in whole
    pixels. Where it would have more than ``max_pixels`` pixels with the padding, it is reduced to sides in multiples,
    each by its own factor.

    Args:
        shown: the top left and the bottom right corner of the image on the canvas, from `extent`.
    """
    (left, top), (right, bottom) = shown
    if not inside(np.array(shown), *a.size):
        size = max(1, math.ceil(right - left - WHOLE_PIXEL)), max(1, math.ceil(bottom - top - WHOLE_PIXEL))
        a = _then(a, [[1, 0, -left], [0, 1, -top]], size)
    if max_pixels is None or math.prod(pad_to_multiple(a, multiple).size) <= max_pixels:
        return a
    wide, high = (max(multiple, side) for side in rounded_size(*a.size, multiple, 0, max_pixels))
    # Of a long and flat canvas, the shorter side is one multiple, and the longer one has to make up for it.
    wide = max(multiple, min(wide, max_pixels // high // multiple * multiple))
    return resize(a, (wide, min(high, max_pixels // wide // multiple * multiple)))


def extent(a: Affine, size: Size) -> tuple[Point, Point]:
    """The top left and the bottom right corner of the upright box on the canvas around an image of this size."""
    return envelope(transform(corners_of(size), a.matrix))


def corners_of(size: Size) -> Floats:
    """The corners of a canvas, clockwise on screen from the top left: [4, 2]."""
    width, height = size
    return np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)


def crop(a: Affine, box: Box) -> Affine:
    """Reduce the canvas to a part of it."""
    left, top, right, bottom = box
    return _then(a, [[1, 0, -left], [0, 1, -top]], (right - left, bottom - top))


def cut_out(image: Pixels, a: Affine) -> tuple[Pixels, Affine] | None:
    """The part of the image that its canvas shows, and the map from this part to the canvas.

    Returns:
        a view of the pixels, which are not resampled; None where that is not possible, or no pixel is on the canvas.
    """
    (x_step, _, x_offset), (_, y_step, y_offset) = a.matrix[:2].tolist()
    if not np.array_equal(np.abs(a.matrix[:2, :2]), np.eye(2)) or x_offset % 1 or y_offset % 1:
        return None
    spans = []
    for step, offset, shown, side in zip(
        (x_step, y_step), (x_offset, y_offset), a.size, image.shape[1::-1], strict=True
    ):
        ends = sorted((-offset * step, (shown - offset) * step))
        spans.append((max(0, int(ends[0])), min(side, int(ends[1]))))
    (left, right), (top, bottom) = spans
    if left >= right or top >= bottom:
        return None
    moved = a.matrix.copy()
    moved[:2, 2] += (x_step * left, y_step * top)
    return image[top:bottom, left:right], Affine(moved, a.size)


FIT = "fit"  # the pipeline's own last operation: resize to a size that the image processor does not change
# An operation's name in a draw -> its function, whose further arguments are the values drawn for it.
OPERATIONS: dict[str, Callable[..., Affine]] = {
    function.__name__: function for function in (hflip, vflip, rotate, scale, resize_by_scale, pad_to_multiple)
} | {FIT: resize}


def fit(a: Affine, factor: int, min_pixels: int, max_pixels: int) -> Affine:
    """Resize to the size that the model's image processor would choose, so that it does not resize again.

    Raises:
        DataError: no size meets the limits (see ``smart_size``).
    """
    # Near the aspect ratio of 200, or with min_pixels near max_pixels, the processor's rule can change its own result.
    size = a.size
    for _ in range(8):
        size, before = smart_size(*size, factor, min_pixels, max_pixels), size
        if size == before:
            return resize(a, size)
    raise DataError(
        f"no size in multiples of {factor} for an image of {a.size[0]} x {a.size[1]} pixels "
        f"lies between {min_pixels} and {max_pixels} pixels",
        "set min_pixels and max_pixels further apart",
    )


def smart_size(width: int, height: int, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """The size that Qwen3-VL's processor gives an image: sides in multiples of ``factor``, pixel count within limits.

    Raises:
        DataError: one side is more than 200 times the other, or the limits contradict each other.

    References:
        ``smart_resize`` in qwen_vl_utils/vision_process.py; where it returns a side of 0, one multiple is taken, as in
        transformers' image_processing_qwen2_vl.py.
    """
    if min_pixels > max_pixels:
        raise DataError(f"min_pixels {min_pixels} is above max_pixels {max_pixels}", "exchange the two")
    ratio = max(width, height) / min(width, height)
    if ratio > MAX_RATIO:
        raise DataError(
            f"an image of {width} x {height} pixels has an aspect ratio of {ratio:.0f}; "
            f"Qwen3-VL accepts at most {MAX_RATIO}",
            "crop the image, or remove the row",
        )
    wide, high = rounded_size(width, height, factor, min_pixels, max_pixels)
    return max(factor, wide), max(factor, high)


def transform(points: Floats, matrix: Floats) -> Floats:
    """Map points [n, 2] with the matrix [3, 3] of an ``Affine``: [n, 2]."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def warp(image: Pixels, affine: Affine, fill: Colour = (0, 0, 0)) -> Pixels:
    """The image on the output canvas, resampled at most once after a shrink.

    Flips and padding keep every pixel's exact value, and the identity returns ``image`` itself.

    Args:
        image: [height, width, 3].
        fill: colour where the image does not cover the canvas.

    Returns:
        the canvas, [height, width, 3], of ``affine.size``.

    Raises:
        DataError: a rotated or zoomed image is longer than 32766 pixels.
    """
    matrix, (height, width) = affine.matrix, image.shape[:2]
    upright = matrix[0, 1] == 0 and matrix[1, 0] == 0
    if upright and (placed := _place(image, affine, fill)) is not None:
        return placed
    # A much smaller image is made by the mean of pixels first; the matrix does the rest.
    factors = zip((width, height), np.hypot(matrix[0, :2], matrix[1, :2]).tolist(), strict=True)
    size = [max(1, round(side * factor)) if factor * AREA_FROM < 1 else side for side, factor in factors]
    if size != [width, height]:
        image = _image(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        matrix = matrix @ np.diag([width / size[0], height / size[1], 1.0])
    if max(*image.shape[:2], *affine.size) > MAX_WARP_SIDE:
        raise DataError(
            f"an image of {image.shape[1]} x {image.shape[0]} pixels is too long to rotate or zoom: "
            f"OpenCV accepts at most {MAX_WARP_SIDE} pixels per side",
            "make the image smaller, or remove rotate and scale from the operations",
        )
    index_matrix = matrix[:2].copy()
    # cv2 counts from the middle of the first pixel, our points from its edge.
    index_matrix[:, 2] += matrix[:2, :2].sum(axis=1) / 2 - 0.5
    return _image(cv2.warpAffine(image, index_matrix, affine.size, borderMode=cv2.BORDER_CONSTANT, borderValue=fill))


def _then(a: Affine, rows: list[list[float]], size: Size | None = None) -> Affine:
    return Affine(np.array([*rows, [0, 0, 1]], dtype=np.float64) @ a.matrix, size or a.size)


def _about_centre(a: Affine, xx: float, xy: float, yx: float, yy: float) -> Affine:
    x, y = a.size[0] / 2, a.size[1] / 2
    return _then(a, [[xx, xy, x - xx * x - xy * y], [yx, yy, y - yx * x - yy * y]])


def _place(image: Pixels, affine: Affine, fill: Colour) -> Pixels | None:
    """The image resized, mirrored and padded; None where that needs fractions of pixels, or cuts the image."""
    height, width = image.shape[:2]
    (x_scale, _, x_offset), (_, y_scale, y_offset) = affine.matrix[:2].tolist()
    extents = [abs(x_scale) * width, abs(y_scale) * height]
    offsets = [x_offset + min(x_scale, 0) * width, y_offset + min(y_scale, 0) * height]
    if any(abs(value - round(value)) > WHOLE_PIXEL for value in (*extents, *offsets)):
        return None
    (new_width, new_height), (left, top) = map(round, extents), map(round, offsets)
    right, bottom = affine.size[0] - left - new_width, affine.size[1] - top - new_height
    if min(left, top, right, bottom) < 0 or min(new_width, new_height) < 1:
        return None
    # Each axis that shrinks much becomes the mean of its pixels, the other is interpolated; cv2 can't mix the two.
    new_size = new_width, new_height
    shrunk = [new if old > AREA_FROM * new else old for old, new in zip((width, height), new_size, strict=True)]
    if shrunk != [width, height]:
        image = _image(cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA))
    if shrunk != [*new_size]:
        image = _image(cv2.resize(image, new_size, interpolation=cv2.INTER_LINEAR))
    if x_scale < 0 or y_scale < 0:
        image = _image(cv2.flip(image, 1 if y_scale > 0 else 0 if x_scale > 0 else -1))
    if max(left, top, right, bottom) > 0:
        border = cv2.BORDER_CONSTANT
        image = _image(cv2.copyMakeBorder(image, top, bottom, left, right, border, value=fill))
    return image


def _image(array: cv2.typing.MatLike) -> Pixels:
    """Tell the type checker that cv2 keeps the dtype uint8."""
    return array  # type: ignore[return-value]
