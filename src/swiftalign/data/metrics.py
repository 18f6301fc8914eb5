"""The names of the accuracies that training logs, as ``eval_NAME``."""

from __future__ import annotations

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
