"""How large an image reaches the model, and how many tokens it becomes.

References:
    qwen_vl_utils' ``smart_resize``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import NamedTuple

from swiftalign.model.qwen3_vl import QWEN3_VL
from swiftalign.problems import DataError

Size = tuple[int, int]
"""Width and height of an image as it is shown, in pixels."""

FACTOR = QWEN3_VL.patch * QWEN3_VL.merge
MAX_RATIO = 200  # of an image's sides; qwen_vl_utils refuses more


class PixelLimits(NamedTuple):
    """How large an image reaches the model.

    Attributes:
        least: lowest number of pixels; a smaller image is enlarged.
        most: highest number of pixels; a larger image is reduced.
        before: ms-swift's ``max_pixels``, to which a larger image is reduced first; None for no such limit.
        factor: the sides are multiples of this many pixels, the side of a visual token.
    """

    least: int = 4 * FACTOR**2
    most: int = 16384 * FACTOR**2
    before: int | None = None
    factor: int = FACTOR

    @property
    def most_unreduced(self) -> int:
        """The most pixels that reach the model as they are."""
        return max(min(self.most, self.before or self.most), self.least)


DEFAULT_LIMITS = PixelLimits()


def pixel_limits(
    max_pixels: int | None = None, environment: Mapping[str, str] = os.environ, factor: int = FACTOR
) -> PixelLimits:
    """The limits of a run: qwen_vl_utils' own, or those of the environment variables that ms-swift reads.

    Args:
        max_pixels: ms-swift's argument of this name.
        factor: the side of a visual token, in pixels.

    Raises:
        DataError: a variable is not a whole number.
    """
    limits = []
    for name, default in (("MIN", 4), ("MAX", 16384)):
        count, pixels = f"IMAGE_{name}_TOKEN_NUM", f"{name}_PIXELS"
        try:
            tokens = int(environment.get(count) or int(environment.get(pixels) or 0) // factor**2 or default)
        except ValueError:
            raise DataError(f"environment variable {count} or {pixels}: not a whole number") from None
        limits.append(tokens * factor**2)
    return PixelLimits(limits[0], limits[1], max_pixels, factor)


def model_size(width: int, height: int, limits: PixelLimits = DEFAULT_LIMITS) -> Size:
    """Width and height at which an image reaches the model, in pixels: multiples of the factor within the limits.

    Raises:
        DataError: one side is more than 200 times the other.

    >>> model_size(1000, 700)
    (992, 704)
    """
    if limits.before and width * height > limits.before:
        ratio = width / height
        reduced = math.sqrt(limits.before / ratio)
        width, height = int(reduced * ratio), int(reduced)
    if not min(width, height) or max(width, height) / min(width, height) > MAX_RATIO:
        raise DataError(f"{width}x{height}: one side is more than {MAX_RATIO} times the other", "crop or pad the image")
    return rounded_size(width, height, limits.factor, limits.least, limits.most)


def rounded_size(width: int, height: int, factor: int, least: int, most: int) -> Size:
    """Sides rounded to multiples of ``factor``, enlarged or reduced to between ``least`` and ``most`` pixels.

    A long and flat image may be reduced to a side of 0.

    References:
        ``smart_resize`` of qwen_vl_utils/vision_process.py, which checks the sides' ratio before.
    """
    wide, high = (max(factor, round(side / factor) * factor) for side in (width, height))
    if wide * high > most:
        shrink = math.sqrt(width * height / most)
        return math.floor(width / shrink / factor) * factor, math.floor(height / shrink / factor) * factor
    if wide * high < least:
        grow = math.sqrt(least / (width * height))
        return math.ceil(width * grow / factor) * factor, math.ceil(height * grow / factor) * factor
    return wide, high


def visual_tokens(width: int, height: int, limits: PixelLimits = DEFAULT_LIMITS) -> int:
    """The number of tokens of an image of this size in pixels.

    Raises:
        DataError: as `model_size`.

    >>> visual_tokens(1024, 768)
    768
    """
    return math.prod(model_size(width, height, limits)) // limits.factor**2
