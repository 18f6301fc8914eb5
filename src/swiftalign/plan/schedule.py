"""How many optimizer steps a run takes: rows, batches and epochs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

from swiftalign.config.sections import Config
from swiftalign.plan.plan import Schedule
from swiftalign.problems import DataError

# ms-swift accumulates until this many rows make a step, unless told otherwise.
ROWS_PER_STEP = 16


LeftOut = Mapping[Path, Collection[int]]
"""Line numbers of rows that are not used, by file."""


def read_schedule(config: Config, *, processes: int = 1, left_out: LeftOut | None = None, fitting: int = 1) -> Schedule:
    """Count the data's rows and compute the steps.

    Args:
        fitting: rows of a batch that the GPU's memory holds, for ``per_device_train_batch_size: auto``.
        left_out: rows not to count.

    Raises:
        DataError: a named data file is missing, or holds no row; or all rows are left out.
    """
    data = config.data
    batch, accumulation = _batches(config, processes, fitting)
    rows = _count_all(config, "train", left_out or {}) if data.train else None
    val_rows = _count_all(config, "val", left_out or {}) if data.val else 0
    # Without evaluation ms-swift splits nothing off.
    if rows is not None and not data.val and data.split_dataset_ratio and evaluates(config):
        val_rows = split_rows(rows, data.split_dataset_ratio)
        rows -= val_rows
    steps, epochs = _steps(config, rows, batch * processes, accumulation)
    return Schedule(rows, val_rows, accumulation, batch * accumulation * processes, steps, epochs, processes, batch)


def _batches(config: Config, processes: int, fitting: int) -> tuple[int, int]:
    """Rows of a batch, and batches of a step, in each process."""
    batch, accumulation = config.training.per_device_train_batch_size, config.training.gradient_accumulation_steps
    if batch == "auto":  # the rows of a step are those of batches of one
        rows = accumulation or math.ceil(ROWS_PER_STEP / processes)
        chosen = max(size for size in range(1, rows + 1) if rows % size == 0 and size <= max(fitting, 1))
        return chosen, rows // chosen
    return batch, accumulation or max(1, math.ceil(ROWS_PER_STEP / batch / processes))


def evaluates(config: Config) -> bool:
    """Whether the run evaluates, data permitting: evaluation follows saving unless told otherwise."""
    return (config.training.eval_strategy or config.training.save_strategy) != "no"


def _steps(config: Config, rows: int | None, batch: int, accumulation: int) -> tuple[int | None, float | None]:
    """Steps and epochs, as transformers' Trainer counts them: an epoch's last batch and last step may be smaller."""
    limit = config.training.max_steps if config.training.max_steps > 0 else None
    if rows is None:
        return limit, None if limit else config.training.num_train_epochs
    per_epoch = max(math.ceil(math.ceil(rows / batch) / accumulation), 1)
    if limit:
        return limit, limit / per_epoch
    return math.ceil(config.training.num_train_epochs * per_epoch), config.training.num_train_epochs


def split_rows(rows: int, ratio: float) -> int:
    """How many of the training rows validate, when they are split off by ratio: at least one, never all."""
    return min(max(round(rows * ratio), 1), rows - 1)


def _count_all(config: Config, part: str, left_out: LeftOut) -> int:
    counts = []
    for index, name in enumerate(getattr(config.data, part)):
        path = Path(name)
        where = config.where("data", part, index)
        if not path.is_file():
            fault = "a folder, not a file" if path.is_dir() else "no such file"
            raise DataError(f"{where}: data.{part}: {path}: {fault}", _elsewhere(config, path, where))
        count = count_rows(path)
        if not count:
            raise DataError(f"{where}: data.{part}: {path} holds no row", "a JSONL file has one JSON object a line")
        counts.append(count - len(left_out.get(path, ())))
    if not sum(counts):
        raise DataError(f"{config.where('data', part)}: data.{part}: every row is left out as too long", _LONGER)
    return sum(counts)


_LONGER = "raise max_length"


def _elsewhere(config: Config, path: Path, where: str) -> str:
    """Paths count from the config file's folder: say so where the file lies under the current folder instead."""
    if where.startswith("--set "):
        return "in --set, paths count from the current folder"
    folder = Path(where.rpartition(":")[0]).absolute().parent
    try:
        relative = path.relative_to(folder)
    except ValueError:
        return "check the path"
    here = Path.cwd() / relative
    if here != path and here.is_file():
        return f"paths count from the config's own folder, {folder}; to use the file here write {here}"
    return f"paths count from the config's own folder, {folder}"


def count_rows(path: Path) -> int:
    """Lines that are not blank, counted in constant memory."""
    try:
        with path.open("rb") as file:
            return sum(1 for line in file if not line.isspace())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
