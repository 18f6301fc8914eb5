"""Writing what ``swiftalign init`` writes: a configuration, or a demo workspace."""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftalign.errors import SwiftalignError
from swiftalign.findings import counted
from swiftalign.recipes import PROBLEMS, RECIPES, SCHEMA_FILE, write_config
from swiftalign.schedule import ROWS_PER_STEP, count_rows

PRETRAINED = Path(__file__).parent / "demo" / "pretrained"
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
# What the search of docs/methods.md found.
DEMO_RATES = {
    "modules_to_save": "1.0e-3",
    "lora": "1.0e-2",
    "dora": "1.0e-2",
    "adalora": "3.0e-2",
    "boft": "3.0e-2",
    "fourierft": "1.0",
}


@dataclass(frozen=True)
class InitRequest:
    """What a configuration is asked to be; see the options of ``init``."""

    path: Path
    model: str | None
    method: str | None = None
    problem: str | None = None
    train: str | None = None
    val: str | None = None
    force: bool = False


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


def write_init(request: InitRequest) -> list[str]:
    """Write a configuration and its schema; returns lines that say what was written and what to type next.

    Raises:
        SwiftalignError: something is missing or unknown, or a file is there already.
    """
    method = _method(request)
    if request.model is None:
        raise SwiftalignError("no model is named", "e.g. --model Qwen/Qwen3-VL-4B-Instruct, or the folder of a model")
    path = request.path
    if path.exists() and not request.force:
        raise SwiftalignError(f"{path} exists already", "name another file, or pass --force to overwrite it")
    folder = path.absolute().parent
    text = write_config(
        model=_from_folder(request.model, folder) if Path(request.model).is_dir() else request.model,
        method=method,
        train=request.train and _from_folder(request.train, folder),
        val=request.val and _from_folder(request.val, folder),
        problem=request.problem,
        steps=_steps(request.train),
        name=path.name,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        _write_schema(folder)
    except OSError as error:
        raise SwiftalignError(f"{path}: can't write it: {error.strerror or error}") from None
    advice = PROBLEMS.get(request.problem or "")
    told = [f"measured (docs/methods.md): {advice.measured}"] if advice else []
    return [f"wrote {path}: {method}", *told, f"next: swiftalign inspect-params {path}"]


def write_curriculum(path: Path, source: Path, *, force: bool, progress: Callable[[int], None]) -> list[str]:
    """Split a JSONL file by objects an image, and write a config of three phases, to be laid over a method.

    Raises:
        SwiftalignError: the source can't be split, or a file is there already.
    """
    from swiftalign.curriculum import EPOCHS, split

    if path.exists() and not force:
        raise SwiftalignError(f"{path} exists already", "name another file, or pass --force to overwrite it")
    found = split(source, force=force, progress=progress)
    folder, names = path.absolute().parent, ("simple", "medium", "full")
    phases = zip(names, (found.simple, found.medium, found.full), found.rows, EPOCHS, strict=True)
    text = CURRICULUM_HEAD + "".join(
        f"  - name: {name}   # {counted(rows, 'row')}\n"
        f"    data: {{train: {json.dumps(_from_folder(str(file), folder))}}}\n"
        f"    training: {{num_train_epochs: {epochs}}}\n"
        for name, file, rows, epochs in phases
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SwiftalignError(f"{path}: can't write it: {error.strerror or error}") from None
    rows = ", ".join(f"{name} {count:,}" for name, count in zip(names, found.rows, strict=True))
    return [
        f"wrote {path}, {found.simple} and {found.medium}: {rows} rows",
        f"next: swiftalign inspect-params METHOD.yaml {path}",
    ]


CURRICULUM_HEAD = """\
# A curriculum, to be laid over a method: 'swiftalign train METHOD.yaml THIS.yaml'.
# Weights are carried from phase to phase; optimizer and schedule begin afresh. Rows come in the order of the file.
data: {dataset_shuffle: false}
training: {train_dataloader_shuffle: false, save_strategy: epoch}
phases:
"""


def _method(request: InitRequest) -> str:
    for name, value, known in (("--method", request.method, RECIPES), ("--problem", request.problem, PROBLEMS)):
        if value is not None and value not in known:
            near = difflib.get_close_matches(value, list(known), n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}? " if near else ""
            raise SwiftalignError(f"{name} {value}: not one of {', '.join(known)}", hint.strip() or None)
    if request.method is not None and request.problem is not None:
        raise SwiftalignError("--method and --problem both choose the method", "keep one of the two")
    if request.method is not None:
        return request.method
    if request.problem is not None:
        return PROBLEMS[request.problem].method
    raise SwiftalignError("no method is named", f"--method {'|'.join(RECIPES)}, or --problem {'|'.join(PROBLEMS)}")


def _from_folder(path: str, folder: Path) -> str:
    """A path as the config file is to spell it: from its own folder, where that is shorter than the absolute path."""
    absolute = str(Path(path).expanduser().absolute())
    relative = os.path.relpath(absolute, folder)
    if relative.startswith(os.path.join("..", "..")):  # noqa: PTH118  # a prefix, not a path
        return absolute
    return relative if relative.startswith("..") or "/" in relative else f"./{relative}"


def _steps(train: str | None) -> int | None:
    """Steps of the recipe's three epochs, where the data is there."""
    if train is None or not Path(train).expanduser().is_file():
        return None
    return 3 * max(1, -(-count_rows(Path(train).expanduser()) // ROWS_PER_STEP))


def _write_schema(folder: Path) -> None:
    from swiftalign.schema import config_schema

    (folder / SCHEMA_FILE).write_text(json.dumps(config_schema(), indent=1) + "\n", encoding="utf-8")


def write_demo(request: DemoRequest) -> list[str]:
    """Make a workspace: a small Qwen3-VL, drawn grounding data, and a configuration that trains it in two minutes.

    The model has learnt to ground, and the data is of a camera that it has not seen; ``data/original.jsonl`` holds the
    validation scenes as the camera that it knows sees them.

    Raises:
        SwiftalignError: the folder holds something already, or the method is unknown.
    """
    method = _method(InitRequest(request.folder, None, request.method))
    folder = request.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not request.force:
        raise SwiftalignError(f"{folder} exists and is not empty", "name another folder, or pass --force")
    training = TINY_TRAINING if request.tiny else {"aligner_lr": DEMO_RATES[method], **DEMO_TRAINING}
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
        _write_schema(folder)
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
