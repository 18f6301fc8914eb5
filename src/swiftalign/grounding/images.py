"""Opening images as they are shown."""

from __future__ import annotations

from pathlib import Path

from swiftalign.errors import DataError


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, as the image is shown: EXIF orientation applied.

    Raises:
        DataError: it is no readable image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # the orientations that swap the sides
            return (image.height, image.width) if turned else image.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"image {path}: {error}") from None
