"""The names of what training measures: the accuracies, which it logs as ``eval_NAME``, and the losses."""

from __future__ import annotations

import math
from typing import Any

from swiftalign.data.targets import KINDS, Kind

# Kinds whose error is a distance; that of the others is measured as an overlap.
BY_DISTANCE: tuple[Kind, ...] = ("line", "point")

# Each metric, and the kind of target that validation rows must have for it; None for any kind.
METRICS: dict[str, Kind | None] = {
    f"{kind}_{name}": kind
    for kind in KINDS
    for name in (("acc", "distance", "precision") if kind in BY_DISTANCE else ("acc", "acc75", "iou", "precision"))
} | {"malformed_answers": None}

# A lower value of these metrics is better; of all others, a higher value.
LOWER_IS_BETTER = (*(f"{kind}_distance" for kind in BY_DISTANCE), "malformed_answers")


def is_lower_better(metric: str) -> bool:
    """Whether a lower value of a metric is better.

    References:
        ms-swift `SftArguments._init_metric_for_best_model`, for the metrics that are not this toolkit's.
    """
    return metric.endswith(LOWER_IS_BETTER) or "loss" in metric


def spoken(metric: str) -> str:
    """The name of a metric for people: without ``eval_``, but for the loss, which is not the training loss."""
    plain = metric.removeprefix("eval_")
    return "eval_loss" if plain == "loss" else plain


def as_number(value: Any) -> float | None:
    """A finite number among values that were read from a file; None for anything else."""
    finite = type(value) is int or (isinstance(value, float) and math.isfinite(value))
    return float(value) if finite and abs(value) < _LARGEST else None


_LARGEST = 1e300  # JSON has integers that no float can hold
