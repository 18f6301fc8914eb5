"""A camera that sees otherwise than the one the demo's model learnt with: what an aligner is to be trained for."""

from __future__ import annotations

from random import Random

import numpy as np
from PIL import Image, ImageFilter

# Rows: red, green and blue of the new camera, from those of the old one.
_COLOURS = ((0.60, 0.35, 0.05), (0.10, 0.60, 0.30), (0.35, 0.05, 0.60))
_GAMMA, _GAIN = 1.3, 0.55  # of the tone curve: it sees little light
_BLUR = 1.0  # pixels
_NOISE = 6.0  # of 255, the standard deviation


def photograph(image: Image.Image, seed: int | str) -> Image.Image:
    """The same scene, as the new camera sees it: dark, colours mixed, edges soft, and noise over all.

    Args:
        seed: of the noise, the only thing here that differs from image to image.
    """
    light = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    mixed = light @ np.array(_COLOURS, dtype=np.float32).T
    toned = mixed**_GAMMA * _GAIN
    soft = Image.fromarray(np.uint8(np.clip(toned, 0, 1) * 255)).filter(ImageFilter.GaussianBlur(_BLUR))
    noise = np.random.default_rng(Random(f"noise:{seed}").getrandbits(64)).normal(0, _NOISE, light.shape)
    return Image.fromarray(np.uint8(np.clip(np.asarray(soft) + noise, 0, 255)))
