"""The state of runs, read from their folders."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from swiftalign.config.load import load_config
from swiftalign.model.safetensors import read_json
from swiftalign.problems import ModelError, SwiftalignError
from swiftalign.runs.events import outcome, read_events
from swiftalign.runs.folder import CONFIG_FILE, LOCK_FILE, PLAN_FILE, holds_run, phase_folder

Status = Literal["running", "done", "stopped", "failed", "cut off"]


@dataclass(frozen=True)
class RunState:
    """The state of a run.

    Attributes:
        status: ``cut off`` means that the run ended without an event, for example by SIGKILL.
        step: the last step that was logged; for a run in phases, of the current phase.
        steps: number of steps in the plan; None if unknown.
        loss: the last training loss that was logged.
        best: the best value of the metric by which the best model is chosen.
        accuracies: by name, from the last evaluation that measured them.
        updated: time of the last event, in seconds since 1970.
    """

    folder: Path
    method: str
    status: Status
    step: int
    steps: int | None
    loss: float | None
    best: float | None
    accuracies: dict[str, float]
    updated: float
    phase: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}


def find_runs(folder: Path) -> list[RunState]:
    """The runs in a folder and below it, the newest first.

    Raises:
        SwiftalignError: there is no such folder.
    """
    if not folder.is_dir():
        raise SwiftalignError(f"{folder}: no such folder", "name a folder that contains runs, e.g. runs/")
    return sorted((run_state(run) for run in _run_folders(folder)), key=lambda run: -run.updated)


def _run_folders(folder: Path, depth: int = 3) -> Iterator[Path]:
    """Folders of runs, at most ``depth`` folders below this one."""
    if holds_run(folder):
        yield folder
    elif depth:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
                yield from _run_folders(child, depth - 1)


def run_state(folder: Path) -> RunState:
    """Read a run's state from its plan and events; damaged parts are skipped."""
    phase = 0 if (folder / PLAN_FILE).exists() else 1
    while phase and (phase_folder(folder, phase + 1) / PLAN_FILE).exists():
        phase += 1
    inner = phase_folder(folder, phase) if phase else folder
    try:
        plan = read_json(inner / PLAN_FILE)
    except ModelError:
        plan = None
    plan = plan if isinstance(plan, dict) else {}
    step, loss, best, updated = 0, None, None, 0.0
    accuracies: dict[str, float] = {}
    for event in read_events(inner):
        values = event.values
        updated = _number(values.get("time")) or updated
        step = int(_number(values.get("step")) or step)
        loss = _number(values.get("loss")) if "loss" in values else loss
        best = _number(values.get("best_metric")) if "best_metric" in values else best
        found = {name.removeprefix("eval_"): value for name, value in values.items() if _is_accuracy(name, value)}
        accuracies = found or accuracies
    schedule = plan.get("schedule")
    planned = _number(schedule.get("steps")) if isinstance(schedule, dict) else None
    steps = None if planned is None else int(planned)
    ended = outcome(inner)
    status: Status = _ENDS[ended.kind] if ended else "cut off"
    # A run in phases that finished one phase, but did not begin the next one, was cut off.
    if _locked(folder):
        status = "running"
    elif phase and status == "done":
        try:
            status = "done" if phase == len(load_config([folder / CONFIG_FILE]).phases) else "cut off"
        except SwiftalignError:
            status = "cut off"
    updated = updated or (inner / PLAN_FILE).stat().st_mtime
    method = str(plan.get("method", "?"))
    return RunState(folder, method, status, step, steps, loss, best, accuracies, updated, str(phase or ""))


_ENDS: dict[str, Status] = {"done": "done", "stopped": "stopped", "error": "failed"}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _is_accuracy(name: str, value: Any) -> bool:
    return name.startswith("eval_") and name.endswith("_acc") and isinstance(value, (int, float))


def _locked(folder: Path) -> bool:
    """Whether a running process holds the lock of the folder."""
    try:
        lock = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
