"""Events of a run. The training process appends them to the run folder's ``events.jsonl``, one JSON object per line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True)
class Event:
    """One thing that happened in a run.

    Attributes:
        kind: from the training processes stage, note, finding, start, step, log, answers, saved, stopped, done or
            error; from the process that follows them stopping and signal; from `swiftalign.runs.train` progress,
            problems, phase, resume, begin, join, finished-before and finished.
        values: the event's details, by name.
    """

    kind: str
    values: dict[str, Any] = field(default_factory=dict)


class EventWriter:
    """Appends events. Each line is written by one system call, so a reader never sees an incomplete line."""

    def __init__(self, run_folder: Path) -> None:
        self._file = (run_folder / EVENTS_FILE).open("ab", buffering=0)

    def write(self, kind: str, **values: Any) -> None:
        line = json.dumps({"time": round(time.time(), 3), "kind": kind, **values}, default=str)
        self._file.write(line.encode() + b"\n")


class EventReader:
    """Reads the events that were appended since the last poll."""

    def __init__(self, run_folder: Path) -> None:
        self._path = run_folder / EVENTS_FILE
        self._offset = self._path.stat().st_size if self._path.exists() else 0

    def poll(self) -> Iterator[Event]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._offset += end
        for line in data[:end].splitlines():
            values = json.loads(line)
            yield Event(values.pop("kind"), values)


def read_events(run_folder: Path) -> Iterator[Event]:
    """All events of a run so far. Damaged lines are skipped."""
    path = run_folder / EVENTS_FILE
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                values = json.loads(line)
            except ValueError:
                continue
            if isinstance(values, dict) and isinstance(values.get("kind"), str):
                yield Event(values.pop("kind"), values)


def outcome(run_folder: Path) -> Event | None:
    """The event with which the last training of a run ended: done, stopped or error; None if it was killed."""
    found: Event | None = None
    for event in read_events(run_folder):
        if event.kind in ("done", "stopped", "error"):
            found = event
        elif event.kind in ("stage", "start"):
            found = None
    return found


def is_main_process() -> bool:
    """Whether this process has rank 0."""
    return int(os.environ.get("RANK", "0")) == 0
