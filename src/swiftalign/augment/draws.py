"""Random values of the operations: they depend on the seed, the epoch and the row only, in every process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from swiftalign.config.augmentation import IMGAUG, Operation


class Step(NamedTuple):
    """One operation that is applied: its name and the values drawn for it."""

    name: str
    values: dict[str, Any]


def draw(operations: list[Operation], *, seed: int, epoch: int, row: int) -> list[Step]:
    """The operations that apply to a row in an epoch, with their values.

    Every operation takes its number of random numbers, whether it applies or not: a change of one operation's
    probability does not change the draws of the others.
    """
    generator = np.random.default_rng([seed, epoch, row])
    steps = []
    for operation in operations:
        applies, *numbers = generator.random(_NUMBERS.get(operation.name, 4)).tolist()  # the others are for values
        parameters = operation.params
        if applies >= parameters.prob:
            continue
        if is_imgaug(operation.name):
            values: dict[str, Any] = {"arguments": dict(parameters.model_extra or {}), "seed": int(numbers[0] * 2**31)}
        else:
            own_values = _OWN_VALUES.get(operation.name)
            values = own_values(parameters) if own_values else {n: v for n, v in parameters if n != "prob"}
            ranges = [name for name, value in values.items() if isinstance(value, tuple)]
            for name, number in zip(ranges, numbers, strict=False):
                low, high = values[name]
                values[name] = low + (high - low) * number
        steps.append(Step(operation.name, values))
    return steps


def bypassed(prob: float, *, seed: int, epoch: int, row: int) -> bool:
    """Whether a row is left as it is in an epoch, with this probability.

    The number comes from a generator of its own, so that the operations' draws do not depend on it. A row that is left
    as it is at one probability is so at every higher one.
    """
    if prob == 0:
        return False
    own = np.random.SeedSequence([seed, epoch, row], spawn_key=(1,))
    return np.random.default_rng(own).random() < prob


_NUMBERS = {"random_crop": 5}  # an operation's name -> how many random numbers it takes, if not four
# An operation's name -> its values, from its parameters, where they are not just these; a tuple is a range that the
# value is drawn from.
_OWN_VALUES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "rotate": lambda p: {"degrees": (-p.max_deg, p.max_deg)},
    "scale": lambda p: {"factor": (p.lo, p.hi)},
    "resize_by_scale": lambda p: {"factor": (p.lo, p.hi), "align_multiple": p.align_multiple},
    "hsv": lambda p: {"hue_deg": p.hue_delta_deg, "sat": p.sat, "val": p.val},
    "random_crop": lambda p: {"scale": p.scale, "aspect_ratio": p.aspect_ratio, "x": (0, 1), "y": (0, 1), **p.rules},
    "roi_crop": lambda p: {
        "anchor": (0, 1),
        "scale": p.scale_range,
        "anchor_classes": list(p.anchor_classes),
        "min_crop_size": p.min_crop_size,
        **p.rules,
    },
    "clahe": lambda p: {"clip_limit": p.clip_limit, "tile_grid_size": list(p.tile_grid_size)},
}


def is_imgaug(name: str) -> bool:
    return name.startswith(IMGAUG)
