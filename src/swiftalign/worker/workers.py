"""How many data loader workers keep the GPU busy."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from swiftalign.problems import Problem, counted

_ROWS_TIMED = 8
_SPARE = 1.5  # rows differ, workers share memory and disk, and a batch goes from one process to another
_MOST = 32


def seconds_per_row(rows: Sequence[Any], collate: Callable[[list[Any]], Any] = list) -> float:
    """Mean seconds of a few rows, encoded in this process on one thread, as a data loader worker does it.

    Args:
        collate: makes a batch of rows, which takes time too.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        collate([rows[0]])  # imports packages, and opens what stays open
        begin = time.perf_counter()
        count = min(_ROWS_TIMED, len(rows))
        collate([rows[index] for index in range(count)])
        return (time.perf_counter() - begin) / count
    finally:
        torch.set_num_threads(threads)


def plan_loading(
    row_seconds: float, batch: int, batch_seconds: float, *, processes: int, cores: int | None = None
) -> tuple[int, Problem | None]:
    """The number of data loader workers per process that keep the GPU busy, as far as there are cores; at least 1.

    Args:
        row_seconds: seconds to decode, augment and encode one row on one core.
        batch: number of rows per batch.
        batch_seconds: predicted seconds that the GPU takes per batch.
        processes: number of training processes on this machine, which share its cores.
        cores: number of cores that they may use; None for all that this process may use.

    Returns:
        The number of workers; and that the GPU will wait for rows, where it will.

    >>> plan_loading(0.1, 4, 0.25, processes=1, cores=16)
    (3, None)
    """
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    needed = max(math.ceil(_SPARE * row_seconds * batch / batch_seconds), 1)
    workers = min(needed, max(cores // processes - 1, 1), _MOST)
    if needed <= workers:
        return workers, None
    message = (
        f"a GPU trains {batch / batch_seconds:.0f} rows/s, but {counted(workers, 'worker')} can read only "
        f"{workers / row_seconds:.0f}: {needed} would keep it busy"
    )
    hint = "use more cores, fewer augmentation operations or smaller images"
    return workers, Problem("loader-starves", message, hint)
