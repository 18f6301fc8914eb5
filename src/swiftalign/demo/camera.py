"""Simulate another camera (colour cast, blur, noise): the shift that the demo trains the aligner for."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageFilter


@dataclass(frozen=True)
class Camera:
    """How a camera turns the light of a scene into pixels.

    Attributes:
        colours: matrix [3, 3] from the scene's red, green and blue to the camera's, one row per camera colour.
        gamma: exponent of the tone curve ``gain * light ** gamma``, for light from 0 to 1.
        gain: factor of the tone curve; below 1 the image is darker.
        blur: radius of the Gaussian blur, in pixels.
        noise: standard deviation of the noise, for pixel values from 0 to 255.
    """

    colours: tuple[tuple[float, float, float], ...]
    gamma: float
    gain: float
    blur: float
    noise: float


# As in lamplight, with the white balance set to daylight.
NEW_CAMERA = Camera(
    colours=((1.00, 0.00, 0.00), (0.05, 0.60, 0.00), (0.00, 0.05, 0.40)), gamma=0.9, gain=1.0, blur=0.6, noise=4.0
)


def photograph(image: Image.Image, seed: int | str, camera: Camera) -> Image.Image:
    """The same scene as a camera sees it: with its colours and its tone curve, blurred edges, and noise.

    Args:
        seed: seed of the noise, the only thing that differs between images.
    """
    light = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    mixed = light @ np.array(camera.colours, dtype=np.float32).T
    toned = mixed**camera.gamma * camera.gain
    soft = Image.fromarray(np.uint8(np.clip(toned, 0, 1) * 255)).filter(ImageFilter.GaussianBlur(camera.blur))
    noise = np.random.default_rng(Random(f"noise:{seed}").getrandbits(64)).normal(0, camera.noise, light.shape)
    return Image.fromarray(np.uint8(np.clip(np.asarray(soft) + noise, 0, 255)))
