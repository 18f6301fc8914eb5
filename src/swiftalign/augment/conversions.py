"""Lab, CLAHE, grey and a smoothed image of 8-bit RGB: by the C extension, or by OpenCV with the same bits.

The extension takes a third to a half of OpenCV's time. `pip install` builds it where it finds a C compiler.
"""

from __future__ import annotations

import cv2
import numpy as np

from swiftalign.data.images import Pixels

try:
    from swiftalign.augment import _pixels
except ImportError:
    _pixels = None  # type: ignore[assignment]

# Pillow's grey, (19595 r + 38470 g + 7471 b + 32768) >> 16: every sum is below 2^24, so that float32 holds it exactly.
_GREY = np.array([[19595, 38470, 7471, 32768]], np.float32) / 65536
# Pillow's SMOOTH filter. A sum of thirteenths never ends in one half, so float errors can't change how it is rounded.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
_STRIP_PIXELS = 1 << 15  # in float32, they fit into the processor's cache
_EDGES = np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]


def lab_planes(image: Pixels, out: Pixels) -> Pixels:
    """Lightness, a and b of RGB [h, w, 3], written to ``out`` [3, h, w], as of ``cv2.COLOR_RGB2Lab``."""
    if _pixels:
        _pixels.to_lab(image, out)
    else:
        cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2Lab), [*out])
    return out


def from_lab_planes(planes: Pixels, out: Pixels) -> Pixels:
    """RGB of lightness, a and b [3, h, w], written to ``out`` [h, w, 3], as of ``cv2.COLOR_Lab2RGB``."""
    if _pixels:
        _pixels.from_lab(planes, out)
    else:
        cv2.cvtColor(cv2.merge([*planes]), cv2.COLOR_Lab2RGB, dst=out)
    return out


def equalise_tiles(plane: Pixels, clip_limit: float, columns: int, rows: int) -> None:
    """Equalise the histogram of a plane [h, w] in tiles and in place, as ``cv2.createCLAHE``.

    Args:
        clip_limit: limit of a tile's histogram bins, in multiples of the bins of a flat histogram.
        columns: number of tiles across.
        rows: number of tiles down.
    """
    if hasattr(_pixels, "equalise"):  # it is built for x86 alone
        _pixels.equalise(plane, plane.shape[1], clip_limit, columns, rows)
    else:
        cv2.createCLAHE(clip_limit, (columns, rows)).apply(plane, dst=plane)


def grey_of(image: Pixels) -> Pixels:
    """Pillow's mode L of RGB [h, w, 3]: [h, w]."""
    grey = np.empty(image.shape[:2], np.uint8)
    if _pixels:
        _pixels.grey(image, grey)
    else:
        rows = max(1, _STRIP_PIXELS // image.shape[1])
        for top in range(0, len(image), rows):
            sums = cv2.transform(image[top : top + rows].astype(np.float32), _GREY)
            grey[top : top + rows] = sums.reshape(-1, image.shape[1])  # rounded down
    return grey


def smooth_of(image: Pixels, out: Pixels) -> Pixels:
    """RGB [h, w, 3] after Pillow's filter SMOOTH, which keeps the outermost pixels, written to ``out``."""
    if _pixels:
        _pixels.smooth(image, out, image.shape[1])
    else:
        cv2.filter2D(image, -1, _SMOOTH, dst=out)
        for edge in _EDGES:
            out[edge] = image[edge]
    return out
