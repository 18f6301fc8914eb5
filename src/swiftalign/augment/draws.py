"""Drawing an operation's values: from the seed, the epoch and the row alone, whatever process asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from swiftalign.config.augmentation import (
    IMGAUG,
    Clahe,
    ColorJitter,
    Gamma,
    Hsv,
    ImgaugParameters,
    Operation,
    PadToMultiple,
    Parameters,
    Posterize,
    Range,
    ResizeByScale,
    Rotate,
    Scale,
    Sharpness,
    Solarize,
)


@dataclass(frozen=True)
class Step:
    """One operation as it is applied: its name and the values that were drawn."""

    name: str
    values: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, **self.values}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Step:
        return cls(value["name"], {name: item for name, item in value.items() if name != "name"})


def draw(operations: list[Operation], *, seed: int, epoch: int, row: int) -> list[Step]:
    """The operations that apply to a row in an epoch, with their values.

    Every operation takes the same count of random numbers, whether it applies or not: changing one operation's
    probability leaves the other draws as they were.
    """
    generator = np.random.default_rng([seed, epoch, row])
    steps = []
    for operation in operations:
        applies, *numbers = generator.random(_NUMBERS).tolist()
        if applies < operation.params.prob:
            steps.append(Step(operation.name, _values(operation, numbers)))
    return steps


_NUMBERS = 4  # whether it applies, and up to three values


def _within(interval: Range, number: float) -> float:
    low, high = interval
    return low + (high - low) * number


def _values(operation: Operation, numbers: list[float]) -> dict[str, Any]:
    parameters = operation.params
    if isinstance(parameters, ImgaugParameters):
        arguments = dict(parameters.model_extra or {})
        return {"arguments": arguments, "seed": int(numbers[0] * 2**31)}
    return _DRAWN[type(parameters)](parameters, numbers) if type(parameters) in _DRAWN else {}


def _colour(p: ColorJitter, n: list[float]) -> dict[str, Any]:
    names = ("brightness", "contrast", "saturation")
    return {name: _within(getattr(p, name), number) for name, number in zip(names, n, strict=True)}


_DRAWN: dict[type[Parameters], Callable[[Any, list[float]], dict[str, Any]]] = {
    Rotate: lambda p, n: {"degrees": _within((-p.max_deg, p.max_deg), n[0])},
    Scale: lambda p, n: {"factor": _within((p.lo, p.hi), n[0])},
    ResizeByScale: lambda p, n: {"factor": _within((p.lo, p.hi), n[0]), "align_multiple": p.align_multiple},
    PadToMultiple: lambda p, n: {"multiple": p.multiple},
    ColorJitter: _colour,
    Gamma: lambda p, n: {"gamma": _within(p.gamma, n[0])},
    Hsv: lambda p, n: {
        "hue_deg": _within(p.hue_delta_deg, n[0]),
        "sat": _within(p.sat, n[1]),
        "val": _within(p.val, n[2]),
    },
    Clahe: lambda p, n: {"clip_limit": _within(p.clip_limit, n[0]), "tile_grid_size": list(p.tile_grid_size)},
    Sharpness: lambda p, n: {"factor": _within(p.factor, n[0])},
    Solarize: lambda p, n: {"threshold": p.threshold},
    Posterize: lambda p, n: {"bits": p.bits},
}


def is_imgaug(name: str) -> bool:
    return name.startswith(IMGAUG)
