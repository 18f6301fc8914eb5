"""Random values of the operations: they depend on the seed, the epoch and the row only, in every process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from swiftalign.config.augmentation import IMGAUG, Operation, Range


@dataclass(frozen=True)
class Step:
    """One operation that is applied: its name and the values drawn for it."""

    name: str
    values: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, **self.values}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Step:
        return cls(value["name"], {name: item for name, item in value.items() if name != "name"})


def draw(operations: list[Operation], *, seed: int, epoch: int, row: int) -> list[Step]:
    """The operations that apply to a row in an epoch, with their values.

    Every operation takes the same number of random numbers, whether it applies or not: a change of one operation's
    probability does not change the draws of the others.
    """
    generator = np.random.default_rng([seed, epoch, row])
    steps = []
    for operation in operations:
        applies, *numbers = generator.random(_NUMBERS).tolist()
        parameters = operation.params
        if applies >= parameters.prob:
            continue
        if is_imgaug(operation.name):
            values = {"arguments": dict(parameters.model_extra or {}), "seed": int(numbers[0] * 2**31)}
        else:
            values = _VALUES[operation.name](parameters, numbers)
        steps.append(Step(operation.name, values))
    return steps


_NUMBERS = 4  # random numbers per operation: one for whether it applies, and up to three for values


def _within(interval: Range, number: float) -> float:
    low, high = interval
    return low + (high - low) * number


# An operation's name -> its values, from its parameters and three random numbers.
_VALUES: dict[str, Callable[[Any, list[float]], dict[str, Any]]] = {
    "hflip": lambda p, n: {},
    "rotate": lambda p, n: {"degrees": _within((-p.max_deg, p.max_deg), n[0])},
    "scale": lambda p, n: {"factor": _within((p.lo, p.hi), n[0])},
    "resize_by_scale": lambda p, n: {"factor": _within((p.lo, p.hi), n[0]), "align_multiple": p.align_multiple},
    "pad_to_multiple": lambda p, n: {"multiple": p.multiple},
    "color_jitter": lambda p, n: {
        "brightness": _within(p.brightness, n[0]),
        "contrast": _within(p.contrast, n[1]),
        "saturation": _within(p.saturation, n[2]),
    },
    "gamma": lambda p, n: {"gamma": _within(p.gamma, n[0])},
    "hsv": lambda p, n: {
        "hue_deg": _within(p.hue_delta_deg, n[0]),
        "sat": _within(p.sat, n[1]),
        "val": _within(p.val, n[2]),
    },
    "clahe": lambda p, n: {"clip_limit": _within(p.clip_limit, n[0]), "tile_grid_size": list(p.tile_grid_size)},
    "sharpness": lambda p, n: {"factor": _within(p.factor, n[0])},
    "solarize": lambda p, n: {"threshold": p.threshold},
    "posterize": lambda p, n: {"bits": p.bits},
}


def is_imgaug(name: str) -> bool:
    return name.startswith(IMGAUG)
