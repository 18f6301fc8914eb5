"""Opening images as they are shown."""

from __future__ import annotations

import io
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from swiftalign.files import require_fetched
from swiftalign.problems import DataError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
"""An RGB image [h, w, 3]."""

# Tried in this order. Pillow's other formats are not: some run programs (EPS), some accept any bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")

# Pillow itself refuses to decode more than this, unless another library has lifted its limit.
MAX_PIXELS = 178_956_970

# Of images with more pixels than this, only one is decoded at a time by `check_image`: it is all in memory.
_LARGE = 16_000_000
_one_large = threading.Lock()

# EXIF orientation, from 2 on -> the name in PIL.Image.Transpose of what turns the stored pixels upright.
_TURNS = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"]


def image_size(path: Path | bytes) -> tuple[int, int]:
    """Width and height in pixels, as the image is shown: EXIF orientation applied. Reads the header only.

    Args:
        path: the image's file, or what such a file holds.

    Raises:
        DataError: it is not a readable image.
    """
    with _opened(path) as image:
        return (image.height, image.width) if _orientation(image) >= 5 else image.size


def remembered_sizes() -> Callable[[Path | bytes], tuple[int, int]]:
    """`image_size`, which remembers the last few thousand images: several rows may share one."""
    of_file = lru_cache(4096)(image_size)
    return lambda image: of_file(image) if isinstance(image, Path) else image_size(image)


def open_image(path: Path | bytes) -> Pixels:
    """An image as it is shown, on white where it is transparent; of an animation, the first frame.

    Returns:
        [h, w, 3], RGB, of the size that `image_size` gives.

    Raises:
        DataError: it is not a readable image, or has 32 bits per channel.

    References:
        Transparency as in qwen_vl_utils' ``to_rgb``.
    """
    with _opened(path) as image:
        orientation = _orientation(image)
        _require_known_white(image, path)
        if image.mode.startswith("I;16"):
            # Pillow's convert would clip: everything above 255 would be white.
            wide = np.asarray(image).astype(np.uint32)
            shown = Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
        elif image.has_transparency_data:
            layer = image.convert("RGBA")
            shown = Image.new("RGB", image.size, "white")
            shown.paste(layer, mask=layer.getchannel("A"))
        else:
            shown = image.convert("RGB")
        if orientation > 1:
            shown = shown.transpose(Image.Transpose[_TURNS[orientation - 2]])
        return np.array(shown)


def check_image(path: Path | bytes) -> None:
    """Find out whether `open_image` would succeed, at a part of its cost; any number of threads may do so at once.

    A JPEG is read to its end, but its pixels are computed at an eighth of its size. Every other image is decoded.

    Raises:
        DataError: as `open_image` raises it.
    """
    with _opened(path) as image:
        _require_known_white(image, path)
        if isinstance(image, JpegImageFile):
            image.draft(image.mode, (1, 1))
            image.load()
        elif image.width * image.height > _LARGE:
            with _one_large:
                image.load()
        else:
            image.load()


def _name(image: Path | bytes) -> str:
    return "in the row" if isinstance(image, bytes) else str(image)


class NoSuchImageError(DataError):
    """An image file that does not exist."""


class _NeverTruncated:
    """While any thread is inside, an image that ends early is an error, even if another library lets Pillow fill it."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                ImageFile.LOAD_TRUNCATED_IMAGES = self._before


_never_truncated = _NeverTruncated()


def _require_known_white(image: Image.Image, path: Path | bytes) -> None:
    if image.mode in ("I", "F"):
        raise DataError(
            f"image {_name(path)}: 32 bits per channel, so that white is unknown", "save it with 8 or 16 bits"
        )


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    """An image whose header has been read; every error until the end of the block becomes a DataError."""
    name = _name(source)
    try:
        if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
            raise DataError(f"image {name}: not a file")
        opened = io.BytesIO(source) if isinstance(source, bytes) else source
        with _never_truncated, Image.open(opened, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except DataError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        _refuse_pointer(source)
        raise NoSuchImageError(f"image {name}: no such file") from None
    except UnidentifiedImageError:
        _refuse_pointer(source)
        message = f"image {name}: not an image, or of a format that is not supported"
        raise DataError(message, f"save it as one of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        message = f"image {name}: more than {MAX_PIXELS // 1_000_000} megapixels"
        raise DataError(message, "make it smaller") from None
    except Exception as error:  # Pillow's decoders raise errors of many types on damaged files
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"image {name}: {reason}", "copy the file again, or remove the row") from None


def _refuse_pointer(source: Path | bytes) -> None:
    """Raise where an image's file is a link or a pointer to content that was not fetched."""
    if isinstance(source, Path):
        require_fetched(source, DataError, "image ")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, of an image that is not decoded yet."""
    if image.format == "TIFF":
        return 1  # Pillow turns these itself: the size is already that of the shown image
    try:
        # A PNG's own getexif would decode the image, to look for EXIF data behind the pixels.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # damaged EXIF data; viewers then show the pixels as they are stored
        return 1


def image_format(image: Path | bytes) -> str:
    """The usual suffix of an image's format, without a dot.

    Raises:
        DataError: it is not a readable image.
    """
    with _opened(image) as opened:
        return {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}.get(opened.format or "", str(opened.format).lower())
