"""Augmentations that change an image's colours and no coordinates, with values that are already drawn.

Operations on single values (brightness, contrast, gamma, solarize, posterize) are collected in one table of 256 entries
for all channels, which is applied when an operation needs the pixels. Operations on the values of each channel
(auto_contrast, equalize) make three tables of it; they need only the histogram of the image before the table.
Blends (saturation, sharpness) are tables of differences in 8 bits, where these give Pillow's floating-point result for
every pair of values. Floating-point operations run over strips of rows, in buffers that fit into the processor's cache:
new memory for each step would cost more time than the arithmetic.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import stringzilla

from swiftalign.augment.conversions import equalise_tiles, from_lab_planes, grey_of, lab_planes, smooth_of
from swiftalign.data.images import Pixels

Values: TypeAlias = npt.NDArray[Any]
"""An image or a strip of one, in uint8 or float32; cv2 declares no more than numbers."""

IDENTITY: Pixels = np.arange(256, dtype=np.uint8)
# Two images [256, 256] that together have every pair of values.
_PAIRS = np.meshgrid(IDENTITY, IDENTITY, indexing="ij")

_STRIP_PIXELS = 1 << 15


def apply_appearance(image: Pixels, steps: Sequence[tuple[str, Mapping[str, Any]]]) -> Pixels:
    """Apply operations in order.

    Args:
        image: RGB [h, w, 3] uint8; it is not changed.
        steps: names from ``OPERATIONS``, each with the values drawn for it.

    Returns:
        RGB [h, w, 3] uint8; ``image`` itself where no step changes it.

    Raises:
        KeyError: an operation is not one of ``OPERATIONS``.
        ValueError: ``image`` is not an RGB image of uint8.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"expected RGB [h, w, 3] of uint8, got {list(image.shape)} of {image.dtype}")
    pending = _Pending(np.ascontiguousarray(image))
    for name, values in steps:
        OPERATIONS[name](pending, **values)
    result = pending.pixels()
    return result.copy() if any(result is blank for blank in pending.blanks) else result


class _Memory(threading.local):
    """Buffers that stay for the next image, in each thread its own: new memory costs more time than most operations."""

    def __init__(self) -> None:
        self._kept: dict[Any, npt.NDArray[Any]] = {}

    def take(self, dtype: type[np.generic], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The buffer of a dtype, with any values."""
        size = math.prod(shape)
        if dtype not in self._kept or self._kept[dtype].size < size:
            self._kept[dtype] = np.empty(size, dtype)
        return self._kept[dtype][:size].reshape(shape)


_memory = _Memory()


class _Pending:
    """An image, the table of values that is still to be applied to it, and work buffers."""

    def __init__(self, image: Pixels) -> None:
        self.image, self.table = image, IDENTITY
        height, width = image.shape[:2]
        self.step = min(height, max(1, _STRIP_PIXELS // width))  # rows per strip
        self.blanks = [*_memory.take(np.uint8, (3, *image.shape))]
        self._strips = _memory.take(np.float32, (2, self.step, width, 3))

    def look_up(self, table: npt.NDArray[Any]) -> None:
        """Apply one more table after the pending one.

        Args:
            table: values for 0..255, which are rounded down: [256], or [256, 3] where channels differ.
        """
        table = table.astype(np.uint8)
        if table.ndim == 1:
            self.table = table[self.table]
        else:
            pending = np.broadcast_to(self.table.reshape(256, -1), (256, 3))
            self.table = np.take_along_axis(table, pending, axis=0)

    def histogram(self) -> npt.NDArray[np.int64]:
        """How often each channel has each value after the pending table: [256, 3]."""
        counts = np.zeros((256, 3), np.int64)
        table = np.broadcast_to(self.table.reshape(256, -1), (256, 3))
        for channel in range(3):
            # cv2 counts in float32, which is exact up to 2^24.
            for part in np.array_split(self.image, 1 + self.image[..., 0].size // (1 << 24)):
                found = cv2.calcHist([part], [channel], None, [256], [0, 256])
                np.add.at(counts[:, channel], table[:, channel], found.ravel().astype(np.int64))
        return counts

    def pixels(self) -> Pixels:
        """The image with the pending table applied; the table is the identity afterwards."""
        if self.table.ndim == 2:
            self.replace(cv2.LUT(self.image, self.table[None], dst=self.blank()))
        elif not np.array_equal(self.table, IDENTITY):
            self.replace(_looked_up(self.image, self.table, out=self.blank()))
        return self.image

    def blank(self, but: Values | None = None) -> Pixels:
        """An image to overwrite, which is neither the image itself nor ``but``."""
        return next(each for each in self.blanks if each is not self.image and each is not but)

    def replace(self, image: npt.NDArray[Any]) -> None:
        self.image, self.table = image, IDENTITY

    def strips(self) -> Iterator[tuple[slice, Values, Values]]:
        """The image in strips of rows, without the table, as float32.

        Yields:
            the range of rows, their pixels [rows, w, 3] and a buffer [rows, w, 3]; both may be overwritten.
        """
        for top in range(0, len(self.image), self.step):
            rows = slice(top, min(top + self.step, len(self.image)))
            colour, other = self._strips[:, : rows.stop - top]
            np.copyto(colour, self.image[rows])
            yield rows, colour, other

    def blend(self, degenerate: Values, factor: float) -> None:
        """Replace the pixels by `_blend` with another image, which is overwritten, rounded down."""
        one, other = _PAIRS
        exact = _blend(one.astype(np.float32), other.astype(np.float32), factor).astype(np.uint8)
        # What a difference adds to black, and what it takes from white.
        above, below = exact[0], np.ascontiguousarray(255 - exact[255, ::-1])
        if np.array_equal(_shifted(one.copy(), other, above, below, spare=np.empty_like(exact)), exact):
            _shifted(degenerate, self.pixels(), above, below, spare=self.blank(but=degenerate))
        else:  # the sum with other values is rounded up to the next whole number: so for one factor in several hundred
            self.pixels()
            for rows, colour, other in self.strips():
                np.copyto(other, degenerate[rows])
                degenerate[rows] = _blend(other, colour, factor)
        self.replace(degenerate)


def color_jitter(pending: _Pending, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0) -> None:
    """Change brightness, then contrast, then saturation.

    A factor of 1 changes nothing; 0 gives a black image, an image of one grey, and a greyscale image.

    References:
        Bit-identical to ``PIL.ImageEnhance`` Brightness, Contrast and Color.
    """
    _fade(pending, 0, brightness)
    if contrast != 1:
        grey = grey_of(pending.pixels())
        _fade(pending, int(cv2.sumElems(grey)[0] / grey.size + 0.5), contrast)
    if saturation != 1:
        grey = grey_of(pending.pixels())
        pending.blend(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB, dst=pending.blank()), saturation)


def gamma(pending: _Pending, gamma: float) -> None:
    """Map each value v to 255 (v / 255)^gamma, rounded down; a gamma above 1 darkens.

    References:
        Bit-identical to ``imgaug.augmenters.GammaContrast``.
    """
    if gamma != 1:
        shares = np.linspace(0, 1, 256, dtype=np.float32)
        pending.look_up(np.clip(shares ** np.float32(gamma) * 255, 0, 255))


def hsv(pending: _Pending, hue_deg: float = 0.0, sat: float = 1.0, val: float = 1.0) -> None:
    """Turn the hue, multiply saturation and value, and clip both at their full scale.

    The hue is a float32 in degrees, so that a shift below the 1.4 degrees of an 8-bit hue is not lost, and only the
    result is rounded.

    Args:
        hue_deg: turn of the hue in degrees; 120 makes red green.
        sat: factor of the saturation, 0 or more.
        val: factor of the value, 0 or more.

    References:
        The hexcone model, A. R. Smith 1978; ``colorsys.rgb_to_hsv``.
    """
    if hue_deg % 360 == 0 and sat == val == 1:
        return
    factors = np.array([[1, 0, 0, hue_deg % 360], [0, sat, 0, 0], [0, 0, val, 0]], np.float32)
    # Highest hue (below 360 degrees, plus a turn below 360), saturation and value.
    most = np.full((pending.step, pending.image.shape[1], 3), (720, 1, 255), np.float32)
    pending.pixels()
    result = pending.blank()
    for rows, colour, changed in pending.strips():
        cv2.transform(cv2.cvtColor(colour, cv2.COLOR_RGB2HSV, dst=colour), factors, dst=changed)
        if max(sat, val) > 1:
            np.minimum(changed, most[: len(changed)], out=changed)
        cv2.cvtColor(changed, cv2.COLOR_HSV2RGB, dst=colour)
        cv2.convertScaleAbs(colour, dst=result[rows])
    pending.replace(result)


def clahe(pending: _Pending, clip_limit: float, tile_grid_size: Sequence[int]) -> None:
    """Equalise the histogram of Lab lightness in tiles.

    Args:
        clip_limit: limit of a tile's histogram bins, in multiples of the bins of a flat histogram.
        tile_grid_size: number of tiles across and down.

    References:
        Zuiderveld, Graphics Gems IV, 1994; bit-identical to ``cv2.createCLAHE`` and ``imgaug.augmenters.CLAHE``.
    """
    image = pending.pixels()
    result = pending.blank()
    planes = lab_planes(image, out=pending.blank(but=result).reshape(3, *image.shape[:2]))
    equalise_tiles(planes[0], clip_limit, *tile_grid_size)
    pending.replace(from_lab_planes(planes, out=result))


def auto_contrast(pending: _Pending, cutoff: float) -> None:
    """Stretch the values of each channel, so that its darkest becomes 0 and its lightest 255.

    Args:
        cutoff: percent of a channel's darkest and of its lightest values that do not count, 0 to below 50.

    References:
        Bit-identical to ``PIL.ImageOps.autocontrast``.
    """
    counts = pending.histogram()
    table = np.repeat(IDENTITY[:, None].astype(np.float64), 3, axis=1)
    left_out = int(counts[:, 0].sum() * cutoff // 100)
    for channel, values in enumerate(counts.T):
        low = int(np.argmax(np.cumsum(values) > left_out))
        high = 255 - int(np.argmax(np.cumsum(values[::-1]) > left_out))
        if high > low:
            scale = 255 / (high - low)
            table[:, channel] = IDENTITY * scale + -low * scale  # in Pillow's order of rounding
    pending.look_up(np.clip(table, 0, 255))


def equalize(pending: _Pending) -> None:
    """Spread the values of each channel over 0..255 by how often they occur.

    References:
        Bit-identical to ``PIL.ImageOps.equalize``.
    """
    counts = pending.histogram()
    table = np.repeat(IDENTITY[:, None].astype(np.int64), 3, axis=1)
    for channel, values in enumerate(counts.T):
        step = (values.sum() - values[np.flatnonzero(values)[-1]]) // 255
        if step:
            table[:, channel] = (step // 2 + np.cumsum(values) - values) // step
    pending.look_up(np.minimum(table, 255))


def sharpness(pending: _Pending, factor: float) -> None:
    """Blend with a smoothed image: 0 gives the smoothed image, 1 changes nothing, 2 sharpens.

    The outermost pixels do not change, nor does an image with a side below 3 pixels.

    References:
        Bit-identical to ``PIL.ImageEnhance.Sharpness`` with ``PIL.ImageFilter.SMOOTH``.
    """
    if factor == 1 or min(pending.image.shape[:2]) < 3:
        return
    pending.blend(smooth_of(pending.pixels(), out=pending.blank()), factor)


def solarize(pending: _Pending, threshold: float) -> None:
    """Invert the values from ``threshold`` on; 256 changes nothing.

    References:
        Bit-identical to ``PIL.ImageOps.solarize``.
    """
    pending.look_up(np.where(threshold > IDENTITY, IDENTITY, 255 - IDENTITY))


def posterize(pending: _Pending, bits: int) -> None:
    """Keep the highest ``bits`` of the 8 bits of each value.

    References:
        Bit-identical to ``PIL.ImageOps.posterize``.
    """
    pending.look_up((IDENTITY >> (8 - bits)) << (8 - bits))


# An operation's name in a configuration -> its function, whose further arguments are the values drawn for it.
OPERATIONS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (color_jitter, gamma, hsv, clahe, auto_contrast, equalize, sharpness, solarize, posterize)
}


def _fade(pending: _Pending, level: int, factor: float) -> None:
    """Blend with one level of grey."""
    if factor != 1:
        pending.look_up(_blend(np.float32(level), IDENTITY.astype(np.float32), factor))


def _blend(degenerate: Values | np.float32, colour: Values, factor: float) -> Values:
    """Overwrite ``colour`` with degenerate + factor (colour - degenerate), clipped to 0..255 and not yet rounded down.

    Each step is rounded to float32 as in Pillow's ``ImagingBlend``.
    """
    colour -= degenerate
    colour *= np.float32(factor)
    colour += degenerate
    return colour if 0 <= factor <= 1 else np.clip(colour, 0, 255, out=colour)


def _looked_up(image: Values, table: Values, out: Values) -> Values:
    """A table [256] of an image's values, written to ``out``, which may be the image itself."""
    stringzilla.translate(image.data, table.data, out=out.data)
    return out


def _shifted(degenerate: Values, colour: Values, above: Values, below: Values, spare: Values) -> Values:
    """Overwrite ``degenerate`` with itself plus ``above[colour - degenerate]`` minus ``below[degenerate - colour]``.

    Differences and results are clipped to 0..255.
    """
    added = _looked_up(cv2.subtract(colour, degenerate, dst=spare), above, out=spare)
    cv2.add(degenerate, added, dst=added)
    taken = _looked_up(cv2.subtract(degenerate, colour, dst=degenerate), below, out=degenerate)
    return cv2.subtract(added, taken, dst=degenerate)
