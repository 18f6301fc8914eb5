"""What augmentation, replay and averaging do to the camera trained on, to the known one and to those never seen.

    python benchmarks/cameras.py --jobs 2

The aligner of the small pretrained Qwen3-VL is trained on lamplight images by ``swiftalign train``, in the variants of
`VARIANTS`, and what ``swiftalign.export`` makes of it is scored: on lamplight, on the known camera (what it forgot),
on other cameras, and on lamplight images of turned scenes. Each run adds a line to ``cameras.jsonl`` beside this file;
those that stand there, of the same model, camera, dtype and steps, are not repeated.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from comparison import DTYPE, ROWS, STEPS, Line, Lines, compare, scores_of, trained
from swiftalign import export
from swiftalign.data.sizes import Size
from swiftalign.demo.camera import NEW_CAMERA, Camera
from swiftalign.demo.data import draw_row, write_dataset

LOG = Path(__file__).resolve().parent / "cameras.jsonl"

AS_IS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
# Cameras that no run trains on; before training, the model is between 25 and 80% right on their images.
OTHERS = {
    "dusk": Camera(AS_IS, gamma=1.0, gain=0.5, blur=0.6, noise=5.0),
    "cold": Camera(
        ((0.40, 0.05, 0.00), (0.00, 0.60, 0.05), (0.00, 0.00, 1.00)), gamma=0.9, gain=1.0, blur=0.6, noise=4.0
    ),
    "neon": Camera(
        ((0.55, 0.00, 0.10), (0.00, 1.00, 0.00), (0.10, 0.00, 0.60)), gamma=1.0, gain=0.95, blur=0.6, noise=4.0
    ),
    "faded": Camera(
        ((0.50, 0.30, 0.20), (0.20, 0.60, 0.20), (0.20, 0.30, 0.50)), gamma=0.9, gain=1.0, blur=0.6, noise=4.0
    ),
}
LAMPLIGHT, KNOWN, TURNED, TURNED_KNOWN = "lamplight", "known", "turned", "turned known"
SCORED = {LAMPLIGHT: 256, KNOWN: 128, **dict.fromkeys(OTHERS, 128), TURNED: 128}  # rows
BEFORE = {**SCORED, TURNED_KNOWN: 128}  # rows that the model before training answers
HELD_OUT = {"held out lamplight": 128, "held out known": 128}  # rows that early stopping looks at

RATE = 1e-3
_ROTATE = {"rotate": {"max_deg": 12.0, "prob": 0.3}}
_GROW: dict[str, Any] = {"expand_to_fit_affine": {"multiple": 32}}
_JITTER = {name: [0.6, 1.4] for name in ("brightness", "contrast", "saturation")}
_COLOURS = [
    {"color_jitter": {**_JITTER, "prob": 0.8}},
    {"gamma": {"gamma": [0.6, 1.5], "prob": 0.5}},
    {"sharpness": {"factor": [0.5, 1.8], "prob": 0.4}},
]
_MILD_JITTER = {name: [0.8, 1.2] for name in ("brightness", "contrast", "saturation")}
# By name, what differs from `PLAIN`: the guide's strongest rotation with each way to fill what lies outside the image;
# colours, strongly and mildly; the guide's list for any data; small changes of everything; rows of the known camera
# among the others, a share of all rows; and lower rates.
PLAIN = "plain"
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "rotate 12, black": {"augmentation": {"ops": [_ROTATE], "fill": "black"}},
    "rotate 12, grey": {"augmentation": {"ops": [_ROTATE], "fill": "grey"}},
    "rotate 12, mean": {"augmentation": {"ops": [_ROTATE], "fill": "mean"}},
    "rotate 12, grown, black": {"augmentation": {"ops": [_ROTATE, _GROW], "fill": "black"}},
    "rotate 12, grown, mean": {"augmentation": {"ops": [_ROTATE, _GROW], "fill": "mean"}},
    "colours": {"augmentation": {"ops": _COLOURS}},
    "mild colours": {
        "augmentation": {
            "ops": [
                {"color_jitter": {**_MILD_JITTER, "prob": 0.5}},
                {"gamma": {"gamma": [0.8, 1.25], "prob": 0.3}},
            ]
        }
    },
    "guide's list": {"augmentation": {"preset": "progressive-2"}},
    "small changes": {
        "augmentation": {
            "ops": [
                {"rotate": {"max_deg": 3, "prob": 0.2}},
                {"scale": {"lo": 0.97, "hi": 1.05, "prob": 0.2}},
                {"resize_by_scale": {"lo": 0.95, "hi": 1.05, "align_multiple": 32, "prob": 0.3}},
                {"color_jitter": {"brightness": [0.9, 1.1], "contrast": [0.9, 1.1], "prob": 0.5}},
            ]
        }
    },
    "replay 10%": {"replay": 0.10},
    "replay 25%": {"replay": 0.25},
    "replay 25%, longer": {"replay": 0.25, "steps": 212},  # as many new rows as without
    "rate 0.0003": {"rate": 3e-4},
    "rate 0.0001": {"rate": 1e-4},
}
# Of these, parts of the way from the base to the trained aligner are scored too, and the checkpoints before the last.
FRONTIER = (PLAIN, "replay 10%")
SCALES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CHECKPOINTS = tuple(range(STEPS // 4, STEPS, STEPS // 4))
MANY_SEEDS, FEW_SEEDS = range(10), range(5)  # the former of these variants, with many rows
MANY = (PLAIN, "rotate 12, black", "rotate 12, grey", "rotate 12, mean", "rotate 12, grown, mean", "colours")
ONLY_LARGE = ("mild colours", "replay 25%, longer", "rate 0.0003", "rate 0.0001")


@dataclass(frozen=True)
class Run:
    """One training."""

    variant: str
    rows: str
    seed: int

    def config(self, model: Path, data: Path) -> dict[str, Any]:
        settings = VARIANTS[self.variant]
        rows = [{"path": str(data / f"{self.rows}-{self.seed}.jsonl"), "name": LAMPLIGHT}]
        if share := settings.get("replay"):
            weight = share / (1 - share) * ROWS[self.rows] / ROWS["large"]
            rows.append({"path": str(data / "replayed.jsonl"), "name": KNOWN, "weight": weight})
        augmentation, steps = settings.get("augmentation"), settings.get("steps", STEPS)
        return {
            "model": {"path": str(model), "dtype": DTYPE},
            "data": {"train": rows},
            "tuner": {
                "train_type": "lora",
                "target_regex": "^$",
                "modules_to_save": ["model.visual.merger", "model.visual.deepstack_merger_list"],
            },
            "training": {
                "aligner_lr": settings.get("rate", RATE),
                "seed": self.seed,
                "data_seed": self.seed,
                "max_steps": steps,
                "save_steps": steps // 4,
                "save_total_limit": 4,
            },
            **({"custom": {"augmentation": {**augmentation, "seed": self.seed}}} if augmentation else {}),
        }


def turned_scene(random: Random, size: Size) -> tuple[Image.Image, list[dict[str, Any]]]:
    """A scene that is turned by 6 to 12 degrees in either direction, and its objects, as `draw_row` returns them.

    It is made so small that nothing is cut, on paper of the background's colour, so that there is no corner to fill.
    Discs are left out: a turned box's upright box is that of its corners, a turned ellipse's is not.
    """
    image, objects = draw_row(random, size, shapes=("box", "slab", "wire"))
    angle = math.radians(random.choice((-1, 1)) * random.uniform(6, 12))
    cos, sin = math.cos(angle), math.sin(angle)
    scale = min(side / (side * cos + other * abs(sin)) for side, other in (size, size[::-1]))
    there = np.array([[cos, -sin], [sin, cos]]) * scale
    back, centre = np.linalg.inv(there), np.array(size) / 2
    matrix = np.column_stack([back, centre - back @ centre])  # Pillow takes the way from the result to the source
    paper = image.getpixel((0, 0))
    bicubic = Image.Resampling.BICUBIC
    image = image.transform(size, Image.Transform.AFFINE, matrix.ravel().tolist(), bicubic, fillcolor=paper)
    for item in objects:
        (kind,) = item.keys() - {"label"}
        numbers: Any = item[kind]
        if kind == "bbox_2d":
            left, top, right, bottom = numbers
            numbers = left, top, right, top, right, bottom, left, bottom
        points = (np.reshape(numbers, (-1, 2)) - centre) @ there.T + centre
        moved = np.concatenate([points.min(0), points.max(0)]) if kind == "bbox_2d" else points.ravel()
        item[kind] = moved.round(1).tolist()
    return image, objects


write_turned = partial(write_dataset, draw=turned_scene)


def make_data(folder: Path, jobs: int) -> None:
    """Rows to train on, others for each seed of a run, rows of the known camera to mix in, and rows to score."""
    write = partial(write_dataset, camera=NEW_CAMERA)
    cameras: dict[str, Camera | None] = {LAMPLIGHT: NEW_CAMERA, KNOWN: None, **OTHERS}
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        made = [
            pool.submit(write_turned, folder / f"{name}.jsonl", rows=BEFORE[name], seed="turned:3", camera=camera)
            for name, camera in ((TURNED, NEW_CAMERA), (TURNED_KNOWN, None))
        ]
        made.append(pool.submit(write_dataset, folder / "replayed.jsonl", rows=ROWS["large"], seed=1000))
        for seed in MANY_SEEDS:
            for name, rows in ROWS.items():
                made.append(pool.submit(write, folder / f"{name}-{seed}.jsonl", rows=rows, seed=10 + seed))
        for name, camera in cameras.items():
            made.append(pool.submit(write_dataset, folder / f"{name}.jsonl", rows=SCORED[name], seed=3, camera=camera))
        for (name, rows), camera in zip(HELD_OUT.items(), (NEW_CAMERA, None), strict=True):
            made.append(pool.submit(write_dataset, folder / f"{name}.jsonl", rows=rows, seed=2, camera=camera))
        for future in made:
            future.result()


def carry_out(run: Run, model: Path, data: Path) -> Line:
    """Train, export, score."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        line = trained(run.config(model, data), folder)

        def scores(sets: Collection[str], scale: float = 1.0, step: int | None = None) -> dict[str, dict[str, float]]:
            export(folder / "run", folder / "exported", force=True, scale=scale, which=step)
            return scores_of(folder / "exported", data, sets)

        found: Line = {"scores": scores(SCORED)}
        if run.variant in FRONTIER and run.rows == "large" and run.seed in FEW_SEEDS:
            both = (LAMPLIGHT, KNOWN)
            found["held_out"] = scores_of(folder / "exported", data, HELD_OUT)
            found["scaled"] = {f"{scale}": scores(both, scale=scale) for scale in SCALES}
            found["stopped"] = {f"{step}": scores((*both, *HELD_OUT), step=step) for step in CHECKPOINTS}
        return {**asdict(run), "settings": VARIANTS[run.variant], **found, **line}


def wanted_runs(lines: Lines, failed: Collection[Run] = ()) -> Iterator[Run]:
    """What the log lacks: with many rows first, seed by seed."""
    done = {*failed, *(Run(line["variant"], line["rows"], line["seed"]) for line in lines if is_of_today(line))}
    for rows, seed, variant in product(("large", "small"), MANY_SEEDS, VARIANTS):
        seeds = MANY_SEEDS if rows == "large" and variant in MANY else FEW_SEEDS
        run = Run(variant, rows, seed)
        if seed in seeds and run not in done and not (rows == "small" and variant in ONLY_LARGE):
            yield run


def is_of_today(line: Line) -> bool:
    """Whether a line's variant is still what it was, and still compared with so many rows."""
    compared = line["rows"] == "large" or line["variant"] not in ONLY_LARGE
    return bool(line["settings"] == VARIANTS.get(line["variant"])) and compared


if __name__ == "__main__":
    compare(__doc__, LOG, make_data, BEFORE, wanted_runs, carry_out)
