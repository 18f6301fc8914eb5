"""Real runs: the same rows in any layout train the model in the same way, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from layout_cases import LAYOUTS, SHAPES, in_answer
from swiftalign.cli import main
from swiftalign.config.sections import Kind
from swiftalign.data.records import PixelTarget
from swiftalign.data.text import Writing

pytestmark = pytest.mark.slow

# Coordinates are whole thousandths of the sides: all layouts hold them exactly.
SIZE, STEPS = (128, 96), 3
SHAPES_OF: dict[Kind, tuple[tuple[float, float], ...]] = {
    "bbox": ((16, 12), (96, 84)),
    "quad": ((16, 12), (96, 24), (112, 84), (32, 72)),
    "line": ((16, 12), (64, 48), (112, 24)),
    "polygon": ((32, 12), (80, 24), (112, 60), (64, 84), (16, 72)),
}


def rows(layout: str) -> list[dict[str, Any]]:
    """Four rows of the same targets in a layout."""
    made = []
    for number, (kind, points) in enumerate(SHAPES_OF.items()):
        targets = [PixelTarget(kind, f"shape {number}", points), PixelTarget("bbox", "cup", ((16, 24), (112, 84)))]
        if layout in SHAPES:
            items = [(each, Writing().numbers(each, SIZE)) for each in targets]
            row = SHAPES[layout](in_answer(items, Writing())) | {"coordinates": "relative1000"}
        else:
            row = LAYOUTS[layout].write(targets, SIZE, Writing())
        made.append(json.loads(json.dumps(row).replace("a.png", f"{number}.png")))
    return made


def write_lines(folder: Path, made: list[dict[str, Any]], name: str = "rows") -> Path:
    (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in made), encoding="utf-8")
    return folder / f"{name}.jsonl"


def write_array(folder: Path, made: list[dict[str, Any]]) -> Path:
    (folder / "rows.json").write_text(json.dumps(made, indent=1), encoding="utf-8")
    return folder / "rows.json"


def write_table(folder: Path, made: list[dict[str, Any]]) -> Path:
    """With the content of the images."""
    from datasets import Dataset

    for row in made:
        row["images"] = [{"bytes": (folder / name).read_bytes(), "path": None} for name in row["images"]]
    Dataset.from_list(made).to_parquet(str(folder / "rows.parquet"))
    return folder / "rows.parquet"


WAYS: dict[str, tuple[str, Callable[[Path, list[dict[str, Any]]], Path]]] = {
    "placeholders": ("placeholders-real", write_lines),
    "conversations": ("conversations", write_lines),
    "query-response": ("query-response", write_lines),
    "guide": ("guide", write_lines),
    "array": ("own", write_array),
    "parquet": ("messages", write_table),
}


def write_mixed(folder: Path) -> list[Path]:
    """Each row in a file and a layout of its own."""
    layouts = ("placeholders-real", "conversations", "guide", "query-response")
    made = [[row] for row in (rows(layout)[number] for number, layout in enumerate(layouts))]
    return [write_lines(folder, row, layout) for layout, row in zip(layouts, made, strict=True)]


def train(folder: Path, demo: Path, write: Callable[[Path], list[Path]]) -> list[float]:
    """The losses of a short run."""
    for number in range(len(SHAPES_OF)):
        Image.linear_gradient("L").resize(SIZE).rotate(90 * number).convert("RGB").save(folder / f"{number}.png")
    values = {
        "model": str(demo / "model"),
        "data": {"train": [str(path) for path in write(folder)]},
        "tuner": {"modules_to_save": ["model.visual.merger"]},
        "training": {
            "output_dir": "run",
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "max_steps": STEPS,
            "logging_steps": 1,
            "aligner_lr": 1e-3,
        },
        "custom": {"augmentation": {"ops": [{"hflip": {"prob": 0.5}}, {"rotate": {"max_deg": 5}}]}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert main(["train", str(folder / "config.yaml")]) == 0
    state = json.loads((folder / f"run/checkpoint-{STEPS}/trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> list[float]:
    losses = train(tmp_path_factory.mktemp("own"), demo, lambda folder: [write_lines(folder, rows("own"))])
    assert len(set(losses)) == STEPS
    return losses


def test_rows_of_several_layouts_train_as_the_own_one(tmp_path: Path, demo: Path, own: list[float]) -> None:
    assert train(tmp_path, demo, write_mixed) == own


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_a_layout_trains_as_the_own_one(way: str, tmp_path: Path, demo: Path, own: list[float]) -> None:
    layout, write = WAYS[way]
    assert train(tmp_path, demo, lambda folder: [write(folder, rows(layout))]) == own
