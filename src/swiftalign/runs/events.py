"""Events of a run. The training process appends them to the run folder's ``events.jsonl``, one JSON object per line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swiftalign.data.metrics import as_number
from swiftalign.files import naming

EVENTS_FILE = "events.jsonl"
_MOST_BYTES = 1 << 20  # of a line
_MOST_STEPS = 10**12

Curves = dict[str, dict[int, float]]  # the numbers of a run's logs, by name and step


@dataclass(frozen=True)
class Event:
    """One thing that happened in a run.

    Attributes:
        kind: from the training processes stage, note, finding, start, step, log, answers, saved, stopped, done or
            error; from the process that follows them stopping and signal; from `swiftalign.runs.train` progress,
            problems, phase, resume, begin, join, ended, finished-before and finished; from `read_events`
            damaged.
        values: the event's details, by name.
    """

    kind: str
    values: dict[str, Any] = field(default_factory=dict)


class EventWriter:
    """Appends events. Each line is written by one system call, so a reader never sees an incomplete line."""

    def __init__(self, run_folder: Path) -> None:
        self._path = run_folder / EVENTS_FILE
        self._file = self._path.open("a+b", buffering=0)
        if self._file.seek(0, os.SEEK_END) and self._file.seek(-1, os.SEEK_END) and self._file.read(1) != b"\n":
            self._file.write(b"\n")  # a full disk took only the beginning of the last line

    def write(self, kind: str, **values: Any) -> None:
        """Append an event.

        Raises:
            OSError: it can't be written.
        """
        line = json.dumps({"time": round(time.time(), 3), "kind": kind, **values}, default=str).encode() + b"\n"
        with naming(self._path):
            if (taken := self._file.write(line)) < len(line):
                self._file.write(line[taken:])  # raises the error why the disk took no more


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
            if event := _event_in(line):
                yield event


def read_events(run_folder: Path) -> Iterator[Event]:
    """All events of a run so far. A damaged line becomes an event ``damaged`` with its number."""
    path = run_folder / EVENTS_FILE
    if not path.is_file():
        return
    with path.open("rb") as file:
        for count, line in enumerate(iter(lambda: file.readline(_MOST_BYTES), b""), 1):
            if event := _event_in(line):
                yield event
            elif line.strip() and (line.endswith(b"\n") or len(line) == _MOST_BYTES):  # else it is being written
                yield Event("damaged", {"line": count})


def _event_in(line: bytes) -> Event | None:
    """The event of a line; None for a damaged one."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_event = isinstance(values, dict) and isinstance(values.get("kind"), str)
    return Event(values.pop("kind"), values) if is_event else None


def outcome(run_folder: Path) -> Event | None:
    """The event with which the last training of a run ended: done, stopped or error; None if it was killed.

    Of the errors of several processes, it is the first that does not follow from another one.
    """
    found: Event | None = None
    for event in read_events(run_folder):
        if event.kind in ("done", "stopped", "error"):
            if found is None or found.kind != "error" or found.values.get("follows"):
                found = event
        elif event.kind in ("stage", "start"):
            found = None
    return found


def curves_of(events: Iterable[Event]) -> Curves:
    """The finite numbers of all logs. If a resumed run logged a step again, the last log counts."""
    found: Curves = {}
    for event in events:
        step = event.values.get("step")
        if event.kind == "log" and type(step) is int and abs(step) < _MOST_STEPS:
            for name, value in event.values.items():
                if name not in ("step", "time") and (shown := as_number(value)) is not None:
                    found.setdefault(name, {})[step] = shown
    return found


def is_main_process() -> bool:
    """Whether this process has rank 0."""
    return int(os.environ.get("RANK", "0")) == 0
