"""A workspace to try everything in: a small Qwen3-VL, drawn data and a configuration."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from swiftalign.init.recipes import write_config
from swiftalign.init.write import choose_method, write_schema, writing
from swiftalign.methods import offered
from swiftalign.problems import SwiftalignError

PRETRAINED = Path(__file__).parent / "pretrained"

TINY_TRAINING: dict[str, Any] = {
    "aligner_lr": "1.0e-3",
    "max_steps": 12,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": "false",
    "logging_steps": 4,
}

DEMO_TRAINING: dict[str, Any] = {
    "max_steps": 160,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "padding_free": "true",  # saves a third of the time
    "gradient_checkpointing": "false",  # saves a further fifth; such a small model needs little memory
    "logging_steps": 10,
}


def write_demo(folder: Path, *, method: str = "modules_to_save", force: bool = False, tiny: bool = False) -> list[str]:
    """Make a workspace: a small Qwen3-VL, drawn grounding data, and a configuration that trains it in two minutes.

    The model has learnt to ground, and the training and validation images are of a camera that it has not seen;
    ``data/original.jsonl`` holds the validation scenes as seen by the camera that it knows.

    Args:
        method: the tuning method of the configuration.
        force: overwrite what the folder holds.
        tiny: make a random model and few rows instead, to see in seconds that everything runs.

    Raises:
        SwiftalignError: the folder holds something already, or the demo has no such method.
    """
    from swiftalign.demo.camera import NEW_CAMERA
    from swiftalign.demo.data import write_dataset
    from swiftalign.demo.model import build_model

    if choose_method(method) not in offered():
        raise SwiftalignError(f"--demo has no learning rates for {method}", f"choose one of {', '.join(offered())}")
    training = TINY_TRAINING if tiny else {"aligner_lr": offered()[method].demo_lr, **DEMO_TRAINING}
    config, model, data = folder / "config.yaml", folder / "model", folder / "data"
    with writing(folder, force=force, folder=True):
        if tiny:
            contents = "a tiny random Qwen3-VL, 64 training and 16 validation rows"
            build_model(model)
            for left in (data / "original.jsonl", model / "README.md"):  # of a demo that this one is written over
                left.unlink(missing_ok=True)
            write_dataset(data / "train.jsonl", rows=64, seed=1)
            write_dataset(data / "val.jsonl", rows=16, seed=2)
        else:
            contents = "a small Qwen3-VL that can ground, and 1,024 training rows of a camera that it has not seen"
            shutil.copytree(PRETRAINED, model, dirs_exist_ok=True)
            write_dataset(data / "train.jsonl", rows=1024, seed=1, camera=NEW_CAMERA)
            write_dataset(data / "val.jsonl", rows=128, seed=2, camera=NEW_CAMERA)
            write_dataset(data / "original.jsonl", rows=128, seed=2)
        text = write_config(
            model="./model",
            dtype=None if tiny else "float32",
            method=method,
            train="data/train.jsonl",
            steps=training["max_steps"],
            training=training,
        )
        config.write_text(text, encoding="utf-8")
        write_schema(folder)
    return [
        f"wrote {folder}: {contents}, config.yaml",
        f"next: swiftalign inspect-params {config}",
        f"then: swiftalign train {config}",
    ]
