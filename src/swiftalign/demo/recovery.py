"""What training the aligner brought back: ``python -m swiftalign.demo.recovery WORKSPACE EXPORTED``.

Scores the demo's model and the exported one, on scenes as the camera that the model knows sees them, and on the same
scenes as the new camera sees them.
"""

from __future__ import annotations

import json
import statistics
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from swiftalign.demo.score import score_model

KINDS = {"bbox": "boxes", "quad": "quads", "line": "lines"}

Accuracies = Mapping[str, float]  # the metrics of `Scores`


@dataclass(frozen=True)
class Recovery:
    """Accuracies before and after training, on images of the known and of the new camera."""

    known_before: Accuracies
    new_before: Accuracies
    new_after: Accuracies
    known_after: Accuracies

    @property
    def share(self) -> float:
        """Of the mean accuracy that the new camera cost, how much came back."""
        known, before, after = map(mean_accuracy, (self.known_before, self.new_before, self.new_after))
        return (after - before) / (known - before)


def mean_accuracy(metrics: Accuracies) -> float:
    """Of boxes, quads and lines."""
    return statistics.mean(metrics[f"{kind}_acc"] for kind in KINDS)


def measure(workspace: Path, exported: Path) -> Recovery:
    """Score both models on both cameras' images; a minute on two cores."""
    known, new = workspace / "data/original.jsonl", workspace / "data/val.jsonl"
    model = workspace / "model"
    pairs = ((model, known), (model, new), (exported, new), (exported, known))
    return Recovery(*(score_model(folder, rows).metrics() for folder, rows in pairs))


def main() -> None:
    workspace, exported = map(Path, sys.argv[1:3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = measure(workspace, exported)
    if "--json" in sys.argv:
        print(json.dumps({**asdict(found), "recovered": found.share}))
        return
    table = Table("images of", "model", box=None, pad_edge=False)
    for title in KINDS.values():
        table.add_column(title, justify="right")
    for camera, folder, metrics in (
        ("the known camera", workspace / "model", found.known_before),
        ("the new camera", workspace / "model", found.new_before),
        ("the new camera", exported, found.new_after),
        ("the known camera", exported, found.known_after),
    ):
        table.add_row(camera, str(folder), *(f"{metrics[f'{kind}_acc']:.0%}" for kind in KINDS))
    console = Console()
    console.print(table)
    console.print(f"recovered: {found.share:.0%} of the accuracy that the new camera cost")


if __name__ == "__main__":
    main()
