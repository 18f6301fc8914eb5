"""Writing what ``swiftalign init`` writes: a configuration, or a demo workspace."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swiftalign.init.recipes import PROBLEMS, SCHEMA_FILE, write_config
from swiftalign.methods import offered
from swiftalign.plan.schedule import ROWS_PER_STEP, count_rows
from swiftalign.problems import SwiftalignError, counted


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


def write_init(request: InitRequest) -> list[str]:
    """Write a configuration and its schema; returns lines that say what was written and what to type next.

    Raises:
        SwiftalignError: something is missing or unknown, or a file is there already.
    """
    method = choose_method(request)
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
        write_schema(folder)
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
    from swiftalign.init.curriculum import EPOCHS, split

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


def choose_method(request: InitRequest) -> str:
    for name, value, known in (("--method", request.method, offered()), ("--problem", request.problem, PROBLEMS)):
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
    raise SwiftalignError("no method is named", f"--method {'|'.join(offered())}, or --problem {'|'.join(PROBLEMS)}")


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


def write_schema(folder: Path) -> None:
    from swiftalign.config.schema import config_schema

    (folder / SCHEMA_FILE).write_text(json.dumps(config_schema(), indent=1) + "\n", encoding="utf-8")
