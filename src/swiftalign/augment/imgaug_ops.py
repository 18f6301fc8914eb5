"""imgaug's augmenters by name, for operations that the pipeline does not have itself."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import imgaug
import numpy as np
from imgaug import augmenters

from swiftalign.augment.draws import Step
from swiftalign.config.augmentation import IMGAUG
from swiftalign.data.images import Pixels
from swiftalign.data.polygons import Floats
from swiftalign.problems import ConfigError, config_problem

# Arguments that only the pipeline sets, and arguments that would be augmenters themselves.
_OWN_ARGUMENTS = {"self", "seed", "name", "random_state", "deterministic"}
_CHILDREN = {"children", "foreground", "background", "then_list", "else_list"}

_REFUSED = {
    "AffineCv2": "it is deprecated for imgaug.Affine",
    "AssertLambda": "it takes functions",
    "AssertShape": "it only checks images",
    "ClipCBAsToImagePlanes": "it drops coordinates, and the pipeline clips by itself",
    "Jigsaw": "it cuts objects apart",
    "Lambda": "it takes functions",
    "RandAugment": "it is several augmenters in one, with geometric ones among them",
    "RemoveCBAsByOutOfImageFraction": "it drops coordinates, and the pipeline clips by itself",
    "SaveDebugImageEveryNBatches": "it writes files",
    "TotalDropout": "it blanks the image",
    "Voronoi": "it takes a sampler object",
}


def public_augmenters() -> dict[str, type[Any]]:
    """The classes of ``imgaug.augmenters`` that can be used as augmenters, by name."""
    return {
        name: value
        for name, value in inspect.getmembers(augmenters, inspect.isclass)
        if issubclass(value, augmenters.Augmenter) and not inspect.isabstract(value) and not name.startswith("_")
    }


def build(name: str, params: Mapping[str, Any]) -> Any:
    """An augmenter, tried on a small image.

    Args:
        name: "imgaug." and the name of a class of ``imgaug.augmenters``, such as "imgaug.MotionBlur".
        params: arguments of the class. A list of exactly two numbers is a range to draw from, a longer list is a
            choice; everything else is passed on unchanged.

    Returns:
        An ``imgaug.augmenters.Augmenter``, for ``apply``.

    Raises:
        ConfigError: there is no such class, it can't be used here, or its arguments are wrong.
    """
    known, short = public_augmenters(), name.removeprefix(IMGAUG)
    if short not in known:
        near = difflib.get_close_matches(short, known, n=1, cutoff=0.5)
        hint = f"did you mean {IMGAUG}{near[0]}?" if near else "see the classes of imgaug.augmenters"
        raise _error(f"imgaug has no augmenter {short!r}", hint)
    takes = {key: arg for key, arg in inspect.signature(known[short]).parameters.items() if key not in _OWN_ARGUMENTS}
    if short in _REFUSED:
        raise _error(f"{name} can't be used: {_REFUSED[short]}")
    if _CHILDREN & takes.keys():
        raise _error(f"{name} can't be used: it takes other augmenters; list those as operations of their own")
    hint = f"it takes {', '.join(takes) or 'none'}"
    if unknown := [repr(key) for key in params if key not in takes]:
        raise _error(f"{name} has no parameter {', '.join(unknown)}", hint)
    if missing := [repr(k) for k, arg in takes.items() if arg.default is inspect.Parameter.empty and k not in params]:
        raise _error(f"{name} needs {', '.join(missing)}", hint)
    with _global_generator_kept():
        try:
            augmenter = known[short](seed=0, **{key: _argument(value) for key, value in params.items()})
        except Exception as error:  # imgaug raises AssertionError, TypeError, ValueError and bare Exception
            raise _error(f"{name}: {_words(error)}", f"look at {dict(params)}") from None
    # With numpy 2, all augmenters that crop or pad fail here.
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    points = np.array([[10.0, 10.0], [50.0, 40.0]])
    for seed in range(3):
        try:
            result, moved = apply(augmenter, image, points, seed)
        except Exception as error:  # any error here would end the training
            message = f"{name} fails with imgaug {imgaug.__version__} and numpy {np.__version__}: {_words(error)}"
            hint = "use another augmenter; some need whole numbers written as decimals (20.0)"
            raise _error(message, hint) from None
        if result.dtype != np.uint8 or result.ndim != 3 or result.shape[2] != 3 or not result.size:
            raise _error(f"{name} makes {list(result.shape)} of {result.dtype} from an RGB image")
        if moved.shape != points.shape or not np.isfinite(moved).all():
            raise _error(f"{name} loses coordinates")
    return augmenter


@functools.lru_cache(maxsize=64)
def _built(name: str, arguments: str) -> Any:
    return build(name, json.loads(arguments))


def augmenter(step: Step) -> Any:
    """The augmenter of a drawn operation, built once for equal arguments."""
    return _built(step.name, json.dumps(step.values["arguments"], sort_keys=True))


def is_geometric(augmenter: Any) -> bool:
    """Whether an augmenter moves points; the others do not change them."""
    return type(augmenter).__module__.removeprefix("imgaug.augmenters.") in ("flip", "geometric", "size")


def apply(augmenter: Any, image: Pixels, points: Floats, seed: int) -> tuple[Pixels, Floats]:
    """Augment an image and the points on it; equal arguments give equal results, whatever was drawn before.

    Two threads must not share an augmenter.

    Args:
        augmenter: augmenter from ``build``.
        image: RGB [h, w, 3] uint8; it is not changed.
        points: (x, y) [n, 2] in pixels, measured at pixel edges; they are not changed.
        seed: seed of the augmenter, 0 or more.

    Returns:
        the image, whose size some augmenters change, and the points on it [n, 2], which may lie outside it.
    """
    with _global_generator_kept():
        augmenter.seed_(seed)
        if not is_geometric(augmenter):
            return np.ascontiguousarray(augmenter(image=image)), points.copy()
        keypoints = imgaug.KeypointsOnImage([imgaug.Keypoint(x, y) for x, y in points.tolist()], shape=image.shape)
        image, keypoints = augmenter(image=image, keypoints=keypoints)
    moved = np.array([(keypoint.x, keypoint.y) for keypoint in keypoints], np.float64)
    return np.ascontiguousarray(image), moved.reshape(-1, 2)


@contextmanager
def _global_generator_kept() -> Iterator[None]:
    """Restore imgaug's global generator afterwards: some augmenters draw from it although they have their own."""
    generator = imgaug.random.get_global_rng()
    state = generator.state
    try:
        yield
    finally:
        generator.state = state


def _argument(value: Any) -> Any:
    """A value from a YAML file in the form that imgaug expects."""
    if isinstance(value, dict):
        return {key: _argument(item) for key, item in value.items()}
    if isinstance(value, list) and len(value) == 2 and all(type(item) in (int, float) for item in value):
        return tuple(value)
    return value


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _error(message: str, hint: str | None = None) -> ConfigError:
    return ConfigError([config_problem("", message, hint)])
