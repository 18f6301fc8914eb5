"""Time of the augmentation pipeline on one core, as ratios to imgaug and albumentations with the same draws.

    python -m pip install --no-deps albumentations==2.0.8 albucore==0.0.24 simsimd
    python benchmarks/augment.py

The guide's twelve operations run over images with 20 boxes, 10 quads and 5 lines: all of them on every image, and with
the guide's probabilities. Each library gets the same operations with the same values, made before the clock starts, and
moves image and targets. `--no-deps`, because albumentations asks for a second copy of OpenCV.

Times are of the processor, on one thread, since other work on the machine disturbs them less than the clock's. The
libraries run in turn; a ratio is the median over rounds.

`--crops` times a list with mirrors, an expanding canvas and both crops instead, as a ratio to the guide's twelve
operations; both lists are applied to every image.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import imgaug.augmenters as iaa
import numpy as np
from imgaug.augmentables import (
    BoundingBox,
    BoundingBoxesOnImage,
    LineString,
    LineStringsOnImage,
    Polygon,
    PolygonsOnImage,
)

from swiftalign.augment import conversions
from swiftalign.augment.draws import Step
from swiftalign.augment.pipeline import Pipeline
from swiftalign.config.augmentation import AugmentationSection
from swiftalign.data.records import Record
from swiftalign.data.targets import PixelTarget
from swiftalign.data.text import Composed

SIZES = ((1024, 768), (2048, 1536))
# How many times faster than each peer the pipeline is to be, with all operations and with the usual probabilities.
LIMITS = {"imgaug": {"all": 2.5, "usual": 2.5}, "albumentations": {"all": 1.5, "usual": 1.3}}
Run = Callable[[], Any]
# Every operation that the guide's list lacks, each applied; half of the boxes can be an anchor.
CROPS = [
    "vflip",
    {"rotate": {"max_deg": 25}},
    {"expand_to_fit_affine": {}},
    {"random_crop": {"scale": [0.7, 1.0], "aspect_ratio": [0.9, 1.1], "min_coverage": 0.3}},
    {"roi_crop": {"anchor_classes": ["even"], "scale_range": [1.25, 2.3], "min_crop_size": 384}},
    {"resize_by_scale": {"lo": 0.9, "hi": 1.2}},
    "auto_contrast",
    "equalize",
]


def picture(width: int, height: int) -> np.ndarray[Any, Any]:
    """Smooth noise: neither flat nor white, as photographs are."""
    small = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def targets(width: int, height: int) -> list[PixelTarget]:
    """20 boxes, 10 quads and 5 lines of four points, away from the edges."""
    random = np.random.default_rng(1)
    made = []
    for index in range(35):
        x, y = random.uniform(0.2, 0.6, 2) * (width, height)
        w, h = random.uniform(0.08, 0.15, 2) * min(width, height)
        if index < 20:
            made.append(PixelTarget("bbox", f"box {index}", ((x, y), (x + w, y + h))))
        elif index < 30:
            made.append(
                PixelTarget("quad", f"quad {index}", ((x, y), (x + w, y + 5), (x + w - 5, y + h), (x - 5, y + h - 5)))
            )
        else:
            made.append(PixelTarget("line", f"line {index}", ((x, y), (x + w, y), (x + w, y + h), (x + 2 * w, y + h))))
    return made


def our_run(pipeline: Pipeline, image: Any, record: Record, row: int) -> Run:
    return lambda: pipeline(image, record, epoch=0, row=row)


# -- imgaug ------------------------------------------------------------------------------------------------------------


def imgaug_run(image: Any, record: Record, steps: Sequence[Step], size: tuple[int, int]) -> Run:
    augmenter = iaa.Sequential([made for step in steps for made in _imgaug(step, size)])
    shape, by_kind = (
        image.shape,
        {kind: [t for t in record.targets if t.kind == kind] for kind in ("bbox", "quad", "line")},
    )
    boxes = BoundingBoxesOnImage([BoundingBox(*t.points[0], *t.points[1]) for t in by_kind["bbox"]], shape)
    polygons = PolygonsOnImage([Polygon(list(t.points)) for t in by_kind["quad"]], shape)
    lines = LineStringsOnImage([LineString(list(t.points)) for t in by_kind["line"]], shape)
    return lambda: augmenter(image=image, bounding_boxes=boxes, polygons=polygons, line_strings=lines)


def _imgaug(step: Step, size: tuple[int, int]) -> list[Any]:
    v = step.values
    match step.name:
        case "hflip":
            return [iaa.Fliplr(1.0)]
        case "rotate":
            return [iaa.Affine(rotate=v["degrees"])]
        case "scale":
            return [iaa.Affine(scale=v["factor"])]
        case "resize_by_scale":
            return [iaa.Resize({"width": size[0], "height": size[1]}, interpolation="linear")]
        case "color_jitter":
            pillike = iaa.pillike
            jitter = (pillike.EnhanceBrightness, pillike.EnhanceContrast, pillike.EnhanceColor)
            values = (v["brightness"], v["contrast"], v["saturation"])
            return [make((value, value)) for make, value in zip(jitter, values, strict=True)]
        case "gamma":
            return [iaa.GammaContrast(v["gamma"])]
        case "hsv":
            return [
                iaa.AddToHue(round(v["hue_deg"])),
                iaa.MultiplySaturation(v["sat"]),
                iaa.MultiplyBrightness(v["val"]),
            ]
        case "clahe":
            return [iaa.CLAHE(clip_limit=v["clip_limit"], tile_grid_size_px=8)]
        case "sharpness":
            return [iaa.pillike.EnhanceSharpness((v["factor"], v["factor"]))]
        case "solarize":
            return [iaa.Solarize(1.0, threshold=v["threshold"])]
        case "posterize":
            return [iaa.Posterize(nb_bits=v["bits"])]
        case "pad_to_multiple":
            return []  # imgaug's own raises with numpy 2; the sides are multiples by then, so nothing is left to pad
    raise ValueError(step.name)


# -- albumentations ----------------------------------------------------------------------------------------------------


def albumentations_run(image: Any, record: Record, steps: Sequence[Step], size: tuple[int, int]) -> Run:
    import albumentations as A  # noqa: N812  # its users' name for it

    boxes = [[*t.points[0], *t.points[1]] for t in record.targets if t.kind == "bbox"]
    points = [point for t in record.targets if t.kind != "bbox" for point in t.points]
    compose = A.Compose(
        [made for step in steps for made in _albumentations(A, step, size)],
        bbox_params=A.BboxParams(format="pascal_voc", label_fields=["labels"]),
        keypoint_params=A.KeypointParams(format="xy", remove_invisible=False),
    )
    labels = list(range(len(boxes)))
    return lambda: compose(image=image, bboxes=boxes, labels=labels, keypoints=points)


def _albumentations(A: Any, step: Step, size: tuple[int, int]) -> list[Any]:  # noqa: N803
    v = step.values
    match step.name:
        case "hflip":
            return [A.HorizontalFlip(p=1)]
        case "rotate":
            return [A.Rotate(limit=(-v["degrees"], -v["degrees"]), border_mode=cv2.BORDER_CONSTANT, p=1)]
        case "scale":
            return [A.Affine(scale=(v["factor"], v["factor"]), p=1)]
        case "resize_by_scale":
            return [A.Resize(height=size[1], width=size[0], p=1)]
        case "color_jitter":
            names = ("brightness", "contrast", "saturation")
            return [A.ColorJitter(**{name: (v[name], v[name]) for name in names}, hue=(0, 0), p=1)]
        case "gamma":
            return [A.RandomGamma(gamma_limit=(v["gamma"] * 100, v["gamma"] * 100), p=1)]
        case "hsv":
            shifts = (v["hue_deg"] / 2, (v["sat"] - 1) * 100, (v["val"] - 1) * 100)
            names = ("hue_shift_limit", "sat_shift_limit", "val_shift_limit")
            return [A.HueSaturationValue(**{n: (s, s) for n, s in zip(names, shifts, strict=True)}, p=1)]
        case "clahe":
            return [A.CLAHE(clip_limit=(v["clip_limit"], v["clip_limit"]), tile_grid_size=(8, 8), p=1)]
        case "sharpness":
            strength = min(abs(v["factor"] - 1), 1.0)
            return [A.Sharpen(alpha=(strength, strength), lightness=(1, 1), p=1)]
        case "solarize":
            return [A.Solarize(threshold_range=(v["threshold"] / 255, v["threshold"] / 255), p=1)]
        case "posterize":
            return [A.Posterize(num_bits=v["bits"], p=1)]
        case "pad_to_multiple":
            divisors = {"pad_height_divisor": v["multiple"], "pad_width_divisor": v["multiple"]}
            return [A.PadIfNeeded(min_height=None, min_width=None, **divisors, position="top_left", p=1)]
    raise ValueError(step.name)


# -- timing ------------------------------------------------------------------------------------------------------------


def time_all(runs: dict[str, list[Run]], rounds: int) -> dict[str, list[float]]:
    """Each library's mean milliseconds per image in each round, the libraries in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, calls in runs.items():
            begin = time.process_time()
            for call in calls:
                call()
            times[name].append((time.process_time() - begin) / len(calls) * 1000)
    return {name: found[1:] for name, found in times.items()}  # the first round warms up


def ratio(one: list[float], other: list[float]) -> float:
    """How many times as long as the second the first took: the median over rounds."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def time_crops(images: int, rounds: int) -> int:
    print(f"{'image':10} {'guide, ms':>9} {'crops, ms':>9} {'ratio':>6}")
    for width, height in SIZES:
        named = [replace(each, label="even" if n % 2 else "odd") for n, each in enumerate(targets(width, height))]
        image, record = picture(width, height), Record((Path("x.png"),), tuple(named), Composed())
        guide = [op.model_dump() for op in AugmentationSection(preset="guide").operations]
        for op in guide:
            op["params"]["prob"] = 1.0
        rules = {"rotated_boxes": "grow", "min_side": 0, "min_visible": 0}
        lists = {
            name: Pipeline(AugmentationSection(ops=ops, **rules)) for name, ops in (("guide", guide), ("crops", CROPS))
        }
        runs = {name: [our_run(made, image, record, row) for row in range(images)] for name, made in lists.items()}
        found = time_all(runs, rounds)
        guide_ms, crops_ms = statistics.median(found["guide"]), statistics.median(found["crops"])
        print(f"{width}x{height:<5} {guide_ms:9.1f} {crops_ms:9.1f} {ratio(found['crops'], found['guide']):5.2f}x")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=20, help="draws a round")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of the table")
    parser.add_argument("--crops", action="store_true", help="the operations that the guide's list lacks")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.crops:
        return time_crops(options.images, options.rounds)
    machine = {
        "cores": os.cpu_count(),
        "OpenCV": cv2.__version__,
        "numpy": np.__version__,
        **{name: importlib.metadata.version(name) for name in ("pyimgaug", "albumentations", "stringzilla")},
        "extension": conversions._pixels is not None,
    }
    if options.json:
        print(json.dumps(machine))
    else:
        print(*(f"{name} {value}" for name, value in machine.items()), sep=", ")
        print(
            f"{'image':10} {'operations':10} {'ours, ms':>9}" + "".join(f"{name:>16} {'ratio':>6}" for name in LIMITS)
        )
    kept = True
    for width, height in SIZES:
        image = picture(width, height)
        record = Record((Path("x.png"),), tuple(targets(width, height)), Composed())
        for label in ("all", "usual"):
            ops = [op.model_dump() for op in AugmentationSection(preset="guide").operations]
            for op in ops if label == "all" else []:
                op["params"]["prob"] = 1.0
            pipeline = Pipeline(AugmentationSection(ops=ops, rotated_boxes="grow", min_side=0, min_visible=0))
            runs: dict[str, list[Run]] = {"ours": [], "imgaug": [], "albumentations": []}
            for row in range(options.images):
                sample = pipeline(image, record, epoch=0, row=row)
                size = sample.image.shape[1], sample.image.shape[0]
                runs["ours"].append(our_run(pipeline, image, record, row))
                runs["imgaug"].append(imgaug_run(image, record, sample.replay.steps, size))
                runs["albumentations"].append(albumentations_run(image, record, sample.replay.steps, size))
            found = time_all(runs, options.rounds)
            ms = {name: statistics.median(times) for name, times in found.items()}
            ratios = {name: ratio(found[name], found["ours"]) for name in LIMITS}
            kept = kept and all(ratios[name] >= LIMITS[name][label] for name in LIMITS)
            if options.json:
                print(json.dumps({"image": f"{width}x{height}", "operations": label, "ms": ms, "ratio": ratios}))
                continue
            line = f"{width}x{height:<5} {label:10} {ms['ours']:9.1f}"
            for name in LIMITS:
                line += f"{ms[name]:16.1f} {ratios[name]:5.2f}x" + " BELOW" * (ratios[name] < LIMITS[name][label])
            print(line, flush=True)
    return 0 if kept else 1


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
