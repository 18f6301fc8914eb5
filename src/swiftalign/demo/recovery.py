"""Measure how much accuracy the training of the aligner recovered.

    python -m swiftalign.demo.recovery WORKSPACE EXPORTED [--json] [--picture FILE]

Scores the demo's model and the exported one, on images of the camera that the model knows and on images of the same
scenes by the new camera.
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

from swiftalign.data.answers import parse_answer
from swiftalign.data.images import open_image
from swiftalign.data.records import Record
from swiftalign.data.text import answer
from swiftalign.demo.score import Writer, read_sized, score_model
from swiftalign.previews.contact_sheet import render_sheet
from swiftalign.previews.strips import Panel, Shape, Strip

DRAWN = (0, 4)  # numbers of the rows that the picture shows
MOST_TOKENS = 250
PICTURES = (".png", ".jpg", ".jpeg")
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
        """The part of the mean accuracy lost to the new camera that training recovered; NaN where none was lost."""
        known, before, after = map(mean_accuracy, (self.known_before, self.new_before, self.new_after))
        return (after - before) / (known - before) if before < known else math.nan


def mean_accuracy(metrics: Accuracies) -> float:
    """Mean of the accuracies of boxes, quads and lines."""
    return statistics.mean(metrics[f"{kind}_acc"] for kind in KINDS)


def measure(workspace: Path, exported: Path, progress: Callable[[str], None] = lambda text: None) -> Recovery:
    """Score both models on images of both cameras; takes a minute on two cores.

    Args:
        progress: is called with a description of each scoring before it begins.
    """
    known, new = workspace / "data/original.jsonl", workspace / "data/val.jsonl"
    model = workspace / "model"
    metrics = []
    for folder, rows in ((model, known), (model, new), (exported, new), (exported, known)):
        progress(f"scoring {folder} on {rows}")
        metrics.append(score_model(folder, rows).metrics())
    return Recovery(*metrics)


def draw(workspace: Path, exported: Path) -> Image.Image:
    """A few scenes: the true targets, and where each model locates the objects in images of the new camera."""
    scenes = [[*read_sized(workspace / f"data/{name}.jsonl")] for name in ("original", "val")]
    (known, new) = ([rows[index] for index in DRAWN] for rows in scenes)
    written = [Writer(folder)(new, MOST_TOKENS) for folder in (workspace / "model", exported)]
    strips = []
    for number, index in enumerate(DRAWN):
        truth, width, height = known[number]
        texts = answer(truth.targets, [(width, height)]), written[0][number], written[1][number]
        images = _path(truth), *[_path(new[number][0])] * 2
        panels = []
        for title, image, text in zip(("as it is", "before", "after"), images, texts, strict=True):
            shapes = [Shape(each.kind, each.label, each.in_shares().points) for each in parse_answer(text).targets]
            panels.append(Panel(title, open_image(image), (width, height), tuple(shapes)))
        strips.append(Strip(index, images[1], tuple(panels)))
    heading = "through a new camera, before and after training the aligner"
    return render_sheet(strips, heading, title="Where the objects are", with_losses=False)


def _path(record: Record) -> Path:
    (path,) = record.images
    assert isinstance(path, Path)
    return path


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
        result = measure(workspace, exported, status.update)
        if picture:
            status.update("drawing")
            draw(workspace, exported).save(picture)
    if options.json:
        print(json.dumps({**asdict(result), "recovered": result.share}))
        return
    table = Table("images of", "model", box=None, pad_edge=False)
    for title in KINDS.values():
        table.add_column(title, justify="right")
    for camera, folder, metrics in (
        ("the known camera", workspace / "model", result.known_before),
        ("the new camera", workspace / "model", result.new_before),
        ("the new camera", exported, result.new_after),
        ("the known camera", exported, result.known_after),
    ):
        table.add_row(camera, str(folder), *(f"{metrics[f'{kind}_acc']:.0%}" for kind in KINDS))
    console = Console()
    console.print(table)
    console.print(f"recovered: {result.share:.0%} of the accuracy that the new camera cost")
    if picture:
        console.print(f"picture: {picture}")


if __name__ == "__main__":
    main()
