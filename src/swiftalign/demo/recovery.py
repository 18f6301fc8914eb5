"""Measure how much accuracy the training of the aligner recovered.

    python -m swiftalign.demo.recovery WORKSPACE EXPORTED [--json] [--picture FILE]

Evaluates the demo's model and the exported one, on images of the camera that the model knows and on images of the same
scenes by the new camera. The answers, and pages to look at them, are kept in WORKSPACE/eval.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from swiftalign.data.rows import Rows
from swiftalign.evaluation.kept import PAGE
from swiftalign.evaluation.pictures import draw_rows
from swiftalign.evaluation.report import Evaluation
from swiftalign.evaluation.session import Session
from swiftalign.evaluation.summary import metrics
from swiftalign.files import short_path
from swiftalign.previews.contact_sheet import PICTURES

DRAWN = (0, 4)  # numbers of the rows that the picture shows
KINDS = {"bbox": "boxes", "quad": "quads", "line": "lines"}

Accuracies = Mapping[str, float]  # as `metrics` names them


@dataclass(frozen=True)
class Recovery:
    """Accuracies before and after training, on images of the known and of the new camera."""

    known_before: Accuracies
    new_before: Accuracies
    new_after: Accuracies
    known_after: Accuracies

    @property
    def share(self) -> float:
        """The part of the mean accuracy lost to the new camera that training recovered; NaN where none was lost."""
        known, before, after = map(mean_accuracy, (self.known_before, self.new_before, self.new_after))
        return (after - before) / (known - before) if before < known else math.nan


def mean_accuracy(metrics: Accuracies) -> float:
    """Mean of the accuracies of boxes, quads and lines."""
    return statistics.mean(metrics[f"{kind}_acc"] for kind in KINDS)


CAMERAS = {"known": "data/original.jsonl", "new": "data/val.jsonl"}


def evaluate(
    workspace: Path, exported: Path, camera: str, progress: Callable[[str], None] = lambda text: None
) -> Evaluation:
    """Ask both models where the objects are in the images of a camera: ``known`` or ``new``."""

    def start(name: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(f"{name}, images of the {camera} camera: {done} of {total}")

    session = Session.open(exported, [workspace / CAMERAS[camera]])
    return session.evaluate(folder(workspace, camera), workspace / "model", progress=start, anew=True)


def folder(workspace: Path, camera: str) -> Path:
    """Where the evaluation on a camera's images is kept."""
    return workspace / "eval" / f"{camera}-camera"


def recovery(known: Evaluation, new: Evaluation) -> Recovery:
    """The accuracies of evaluations of the exported model against the one before training."""
    (known_after, known_before), (new_after, new_before) = (
        [metrics(model.predictions) for model in each.both] for each in (known, new)
    )
    return Recovery(known_before, new_before, new_after, known_after)


def draw(workspace: Path, new: Evaluation) -> Image.Image:
    """A few scenes: the true targets, and where each model locates the objects in images of the new camera."""
    after, before = ({each.question.index: each for each in model.predictions} for model in new.both)
    heading = "through a new camera, before and after training the aligner"
    rows, known = (Rows([workspace / CAMERAS[camera]]) for camera in ("new", "known"))
    return draw_rows(DRAWN, {"before": before, "after": after}, rows, heading, "Where the objects are", true_rows=known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path, help="workspace written by swiftalign init --demo")
    parser.add_argument("exported", type=Path, help="model folder written by swiftalign export")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--picture", type=Path, help="PNG or JPEG file to draw a few scenes into")
    options = parser.parse_args()
    workspace, exported, picture = options.workspace, options.exported, options.picture
    if not (workspace / "data/original.jsonl").exists():
        parser.error(f"{workspace} is not a workspace of the small model; 'swiftalign init --demo DIR' makes one")
    if not (exported / "config.json").exists():
        parser.error(f"{exported} is not a model folder; 'swiftalign export RUN --output DIR' makes one")
    if picture and (picture.suffix.lower() not in PICTURES or not picture.parent.is_dir()):
        parser.error(f"--picture {picture}: name a file in a folder that exists, ending in {', '.join(PICTURES)}")
    with warnings.catch_warnings(action="ignore"), Console(stderr=True).status("loading") as status:
        known, new = (evaluate(workspace, exported, camera, status.update) for camera in CAMERAS)
        result = recovery(known, new)
        if picture:
            status.update("drawing")
            draw(workspace, new).save(picture)
    if options.json:
        print(json.dumps({**asdict(result), "recovered": result.share}))
        return
    table = Table("images of", "model", box=None, pad_edge=False)
    for title in KINDS.values():
        table.add_column(title, justify="right")
    for camera, model, accuracies in (
        ("the known camera", workspace / "model", result.known_before),
        ("the new camera", workspace / "model", result.new_before),
        ("the new camera", exported, result.new_after),
        ("the known camera", exported, result.known_after),
    ):
        table.add_row(camera, str(model), *(f"{accuracies[f'{kind}_acc']:.0%}" for kind in KINDS))
    console = Console()
    console.print(table)
    console.print(f"recovered: {result.share:.0%} of the accuracy that the new camera cost")
    if picture:
        console.print(f"picture: {picture}")
    page = folder(workspace, "new") / PAGE
    console.print(f"the worst answers, to look at: {short_path(page)}")


if __name__ == "__main__":
    main()
