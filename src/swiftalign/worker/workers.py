"""How many data loader workers keep the GPU busy."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from swiftalign.problems import Problem, counted

_ROWS_TIMED = 8
_SPARE = 1.3  # rows differ, and workers share memory and disk
_MOST = 32


@dataclass(frozen=True)
class Loading:
    """How the rows of a run are read.

    Attributes:
        row_seconds: seconds to decode, augment and encode one row on one core.
        batch: number of rows per batch.
        batch_seconds: predicted seconds that the GPU takes per batch.
        needed: number of data loader workers that keep the GPU busy.
        workers: number of data loader workers, of those that are needed, for which there are cores.
    """

    row_seconds: float
    batch: int
    batch_seconds: float
    needed: int
    workers: int

    def __str__(self) -> str:
        return f"{1 / self.row_seconds:.0f} rows/s per core, {counted(self.workers, 'worker')}"

    @property
    def problem(self) -> Problem | None:
        """That the GPU will wait for rows, where it will."""
        if self.needed <= self.workers:
            return None
        read, trained = self.workers / self.row_seconds, self.batch / self.batch_seconds
        message = (
            f"a GPU trains {trained:.0f} rows/s, but {counted(self.workers, 'worker')} can read only {read:.0f}: "
            f"{self.needed} would keep it busy"
        )
        return Problem("loader-starves", message, "use more cores, fewer augmentation operations or smaller images")


def seconds_per_row(rows: Sequence[Any]) -> float:
    """Mean seconds of a few rows, encoded in this process on one thread, as a data loader worker does it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows[0]  # imports packages, and opens what stays open
        begin = time.perf_counter()
        count = min(_ROWS_TIMED, len(rows))
        for index in range(count):
            rows[index]
        return (time.perf_counter() - begin) / count
    finally:
        torch.set_num_threads(threads)


def plan_loading(row_seconds: float, batch: int, batch_seconds: float, *, processes: int, cores: int) -> Loading:
    """The number of workers per process, at least 1.

    Args:
        processes: number of training processes on this machine, which share its cores.
        cores: number of cores that they may use.

    >>> plan_loading(0.1, 4, 0.25, processes=1, cores=16).workers
    3
    """
    needed = max(math.ceil(_SPARE * row_seconds * batch / batch_seconds), 1)
    available = max(cores // processes - 1, 1)
    return Loading(row_seconds, batch, batch_seconds, needed, min(needed, available, _MOST))


def cores_here() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
