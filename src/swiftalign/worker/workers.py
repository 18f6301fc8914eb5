"""Keeping the GPU busy: how many processes have to read rows."""

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
    """The input side of a run.

    Attributes:
        row_seconds: decoding, augmenting and encoding one row, on one core.
        batch: rows.
        batch_seconds: what the GPU is predicted to take for a batch.
        needed: worker processes that keep it busy.
        workers: as many of them as there are cores for.
    """

    row_seconds: float
    batch: int
    batch_seconds: float
    needed: int
    workers: int

    @property
    def starves(self) -> bool:
        return self.needed > self.workers

    def __str__(self) -> str:
        return f"{1 / self.row_seconds:.0f} rows/s a core, {counted(self.workers, 'worker')}"

    @property
    def finding(self) -> Problem | None:
        """That the GPU will wait for rows, where it will."""
        if not self.starves:
            return None
        reads, asks = self.workers / self.row_seconds, self.batch / self.batch_seconds
        message = (
            f"a GPU trains {asks:.0f} rows/s, and {counted(self.workers, 'worker')} can read {reads:.0f}: it would "
            f"take {self.needed} to keep it busy"
        )
        return Problem("loader-starves", message, "more cores, fewer operations of augmentation, or smaller images")


def seconds_a_row(rows: Sequence[Any]) -> float:
    """The mean of a few rows, encoded in this process on one thread, as a worker does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows[0]  # imports, and opens what stays open
        begin = time.perf_counter()
        count = min(_ROWS_TIMED, len(rows))
        for index in range(count):
            rows[index]
        return (time.perf_counter() - begin) / count
    finally:
        torch.set_num_threads(threads)


def plan_loading(row_seconds: float, batch: int, batch_seconds: float, *, processes: int, cores: int) -> Loading:
    """How many workers each of the processes on this machine gets; one at least.

    >>> plan_loading(0.1, 4, 0.25, processes=1, cores=16).workers
    3
    """
    needed = max(math.ceil(_SPARE * row_seconds * batch / batch_seconds), 1)
    room = max(cores // processes - 1, 1)
    return Loading(row_seconds, batch, batch_seconds, needed, min(needed, room, _MOST))


def cores_here() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
