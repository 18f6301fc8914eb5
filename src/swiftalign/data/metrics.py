"""The names of the accuracies that training logs, as ``eval_NAME``."""

from __future__ import annotations

from swiftalign.data.records import Kind

_NAMES: dict[Kind, tuple[str, ...]] = {
    "bbox": ("acc", "acc75", "iou", "precision"),
    "quad": ("acc", "acc75", "iou", "precision"),
    "line": ("acc", "distance", "precision"),
}

# Each metric, and the kind that validation rows must have for it; None where any will do.
METRICS: dict[str, Kind | None] = {
    **{f"{kind}_{name}": kind for kind, names in _NAMES.items() for name in names},
    "malformed_answers": None,
}

# Metrics of which less is better; of all others more is.
LOWER_IS_BETTER = ("line_distance", "malformed_answers")
