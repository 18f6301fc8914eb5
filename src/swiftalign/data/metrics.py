"""The names of the accuracies that training logs, as ``eval_NAME``."""

from __future__ import annotations

from swiftalign.data.records import KINDS, Kind

# Each metric, and the kind of target that validation rows must have for it; None for any kind.
METRICS: dict[str, Kind | None] = {
    f"{kind}_{name}": kind
    for kind in KINDS
    for name in (("acc", "distance", "precision") if kind == "line" else ("acc", "acc75", "iou", "precision"))
} | {"malformed_answers": None}

# A lower value of these metrics is better; of all others, a higher value.
LOWER_IS_BETTER = ("line_distance", "malformed_answers")
