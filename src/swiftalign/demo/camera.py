"""A camera that sees otherwise than the one the demo's model learnt with: what an aligner is to be trained for."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageFilter


@dataclass(frozen=True)
class Camera:
    """What becomes of a scene's light.

    Attributes:
        colours: red, green and blue of this camera in rows, from those of the scene.
        gamma, gain: of the tone curve, ``gain * light ** gamma``; a gain below 1 sees little light.
        blur: radius, in pixels.
        noise: standard deviation, of 255.
    """

    colours: tuple[tuple[float, float, float], ...]
    gamma: float
    gain: float
    blur: float
    noise: float


# By lamplight, its white balance left on daylight.
NEW_CAMERA = Camera(
    colours=((1.00, 0.00, 0.00), (0.05, 0.60, 0.00), (0.00, 0.05, 0.40)), gamma=0.9, gain=1.0, blur=0.6, noise=4.0
)


def photograph(image: Image.Image, seed: int | str, camera: Camera = NEW_CAMERA) -> Image.Image:
    """The same scene, as the new camera sees it: with a warm cast, edges soft, and noise over all.

    Args:
        seed: of the noise, the only thing here that differs from image to image.
    """
    light = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    mixed = light @ np.array(camera.colours, dtype=np.float32).T
    toned = mixed**camera.gamma * camera.gain
    soft = Image.fromarray(np.uint8(np.clip(toned, 0, 1) * 255)).filter(ImageFilter.GaussianBlur(camera.blur))
    noise = np.random.default_rng(Random(f"noise:{seed}").getrandbits(64)).normal(0, camera.noise, light.shape)
    return Image.fromarray(np.uint8(np.clip(np.asarray(soft) + noise, 0, 255)))
