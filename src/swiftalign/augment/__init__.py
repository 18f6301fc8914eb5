"""Operations on images and targets, their random values, and where in a run a row stands."""

from __future__ import annotations

from swiftalign.problems import SwiftalignError

try:
    import cv2  # noqa: F401
except ImportError as error:
    raise SwiftalignError(
        f"OpenCV can't be loaded: {error}",
        "install the build of OpenCV without windows, which needs no libraries of a desktop: "
        "pip uninstall --yes opencv-python && pip install --force-reinstall opencv-python-headless",
    ) from None
