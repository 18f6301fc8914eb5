"""The number of optimizer steps in a run, from rows, batches and epochs."""

from __future__ import annotations

import math

from swiftalign.config.sections import Config
from swiftalign.data.files import RowCounts
from swiftalign.plan.plan import Schedule
from swiftalign.problems import DataError

# ms-swift accumulates until this many rows make a step, unless the configuration says otherwise.
ROWS_PER_STEP = 16


def read_schedule(config: Config, rows: RowCounts, *, processes: int = 1, fitting: int = 1) -> Schedule:
    """Compute batches, steps and epochs.

    Args:
        rows: numbers of rows that the run uses.
        processes: number of processes that train.
        fitting: rows per batch that the GPU's memory holds, for ``per_device_train_batch_size: auto``.

    Raises:
        DataError: no row is left to use.
    """
    data, train, val = config.data, rows.train, rows.val
    for part, count in (("train", train), ("val", val)):
        if count == 0 and getattr(data, part):
            message = f"{config.where('data', part)}: data.{part}: every row is left out as too long, or there is none"
            raise DataError(message, "raise max_length")
    # Without evaluation ms-swift splits nothing off.
    if train and not data.val and data.split_dataset_ratio and evaluates(config):
        val = split_rows(train, data.split_dataset_ratio)
        train -= val
    training = config.training
    batch, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    rows_per_step = training.effective_batch_size or ROWS_PER_STEP
    if batch == "auto":  # a step has as many rows as with batches of one row
        most = accumulation or math.ceil(rows_per_step / processes)
        sizes = [size for size in range(1, most + 1) if most % size == 0 and size <= max(fitting, 1)]
        batch, accumulation = sizes[-1], most // sizes[-1]
    accumulation = accumulation or math.ceil(rows_per_step / (batch * processes))
    steps = training.max_steps if training.max_steps > 0 else None
    epochs = None if steps else training.num_train_epochs
    if train is not None:
        # As transformers' Trainer counts them: an epoch's last batch and step may be smaller.
        per_epoch = max(math.ceil(math.ceil(train / (batch * processes)) / accumulation), 1)
        epochs = steps / per_epoch if steps else training.num_train_epochs
        steps = steps or math.ceil(training.num_train_epochs * per_epoch)
    return Schedule(train, val, accumulation, batch * accumulation * processes, steps, epochs, processes, batch)


def evaluates(config: Config) -> bool:
    """Whether the run evaluates where it has validation rows: by default, evaluation follows saving."""
    return (config.training.eval_strategy or config.training.save_strategy) != "no"


def split_rows(rows: int, ratio: float) -> int:
    """The number of training rows that are split off for validation: at least one, never all."""
    return min(max(round(rows * ratio), 1), rows - 1)
