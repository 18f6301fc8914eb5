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


NEW_CAMERA = Camera(
    colours=((0.60, 0.35, 0.05), (0.10, 0.60, 0.30), (0.35, 0.05, 0.60)), gamma=1.3, gain=0.55, blur=1.0, noise=6.0
)


def photograph(image: Image.Image, seed: int | str, camera: Camera = NEW_CAMERA) -> Image.Image:
    """The same scene, as the new camera sees it: dark, with a colour cast, edges soft, and noise over all.

    Args:
        seed: of the noise, the only thing here that differs from image to image.
    """
    light = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    mixed = light @ np.array(camera.colours, dtype=np.float32).T
    toned = mixed**camera.gamma * camera.gain
    soft = Image.fromarray(np.uint8(np.clip(toned, 0, 1) * 255)).filter(ImageFilter.GaussianBlur(camera.blur))
    noise = np.random.default_rng(Random(f"noise:{seed}").getrandbits(64)).normal(0, camera.noise, light.shape)
    return Image.fromarray(np.uint8(np.clip(np.asarray(soft) + noise, 0, 255)))
