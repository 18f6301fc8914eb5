"""A workspace to try everything in: a small Qwen3-VL, drawn data and a configuration."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftalign.init.recipes import write_config
from swiftalign.init.write import InitRequest, choose_method, write_schema
from swiftalign.methods import offered
from swiftalign.problems import SwiftalignError

PRETRAINED = Path(__file__).parent / "pretrained"


TINY_TRAINING: dict[str, Any] = {
    "aligner_lr": "1.0e-3",
    "max_steps": 30,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "logging_steps": 5,
}


DEMO_TRAINING: dict[str, Any] = {
    "max_steps": 160,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "padding_free": "true",  # a third less time
    "gradient_checkpointing": "false",  # and a fifth less again, of a model for which memory is no matter
    "logging_steps": 10,
}


@dataclass(frozen=True)
class DemoRequest:
    """Where to make a demo workspace, and for which method.

    Attributes:
        tiny: with random weights and few rows, to see in seconds that everything runs.
    """

    folder: Path
    method: str = "modules_to_save"
    force: bool = False
    tiny: bool = False


def write_demo(request: DemoRequest) -> list[str]:
    """Make a workspace: a small Qwen3-VL, drawn grounding data, and a configuration that trains it in two minutes.

    The model has learnt to ground, and the data is of a camera that it has not seen; ``data/original.jsonl`` holds the
    validation scenes as the camera that it knows sees them.

    Raises:
        SwiftalignError: the folder holds something already, or the method is unknown.
    """
    method = choose_method(InitRequest(request.folder, None, request.method))
    folder = request.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not request.force:
        raise SwiftalignError(f"{folder} exists and is not empty", "name another folder, or pass --force")
    training = TINY_TRAINING if request.tiny else {"aligner_lr": offered()[method].demo_lr, **DEMO_TRAINING}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        told = _write_tiny(folder) if request.tiny else _write_pretrained(folder)
        text = write_config(
            model="./model",
            dtype=None if request.tiny else "float32",
            method=method,
            train="data/train.jsonl",
            steps=training["max_steps"],
            training=training,
        )
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        write_schema(folder)
    except OSError as error:
        raise SwiftalignError(f"{folder}: can't write the demo: {error.strerror or error}") from None
    return [
        f"wrote {folder}: {told}, config.yaml",
        f"next: swiftalign inspect-params {folder / 'config.yaml'}",
        f"then: swiftalign train {folder / 'config.yaml'}",
    ]


def _write_tiny(folder: Path) -> str:
    from swiftalign.demo.data import write_dataset
    from swiftalign.demo.model import build_model

    build_model(folder / "model")
    for left in ("data/original.jsonl", "model/README.md"):  # of a workspace that this one is written over
        (folder / left).unlink(missing_ok=True)
    for name, rows, seed in (("train", 64, 1), ("val", 16, 2)):
        write_dataset(folder / "data" / f"{name}.jsonl", rows=rows, seed=seed)
    return "a tiny random Qwen3-VL, 64 training and 16 validation rows"


def _write_pretrained(folder: Path) -> str:
    from swiftalign.demo.data import write_dataset

    shutil.copytree(PRETRAINED, folder / "model", dirs_exist_ok=True)
    for name, rows, seed, new_camera in (("train", 1024, 1, True), ("val", 128, 2, True), ("original", 128, 2, False)):
        write_dataset(folder / "data" / f"{name}.jsonl", rows=rows, seed=seed, new_camera=new_camera)
    return "a small Qwen3-VL that can ground, and 1,024 training rows of a camera that it has not seen"
