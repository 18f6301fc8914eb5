"""The state of runs, read from their folders."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from swiftalign.checkpoint.choose import choose, number_of
from swiftalign.config.load import load_config
from swiftalign.data.metrics import as_number
from swiftalign.model.safetensors import read_json
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import SPOKEN, ModelError, SwiftalignError, printable
from swiftalign.runs.events import outcome, read_events
from swiftalign.runs.folder import CONFIG_FILE, LOCK_FILE, PLAN_FILE, holds_run, phase_folder

Status = Literal["running", "done", "stopped", "failed", "cut off"]


@dataclass(frozen=True)
class RunState:
    """The state of a run; of a run in phases, that of its current phase.

    Attributes:
        method: the tuning method; ``?`` where the plan can't be read.
        rank: the rank of its adapters, AdaLoRA's at the start; None where the method has none.
        rates: learning rate of each component that trains; empty where the optimizer makes its own.
        augmentation: the preset or the number of operations, in words; empty where the configuration can't be read.
        status: ``cut off`` means that the run ended without an event, for example by SIGKILL.
        reason: why it ended: ``early stopping``, the name of a signal, or the message of an error; else empty.
        step: the last step that was logged.
        steps: number of steps in the plan; None if unknown.
        loss: the last training loss that was logged.
        eval_loss: the last loss on the validation rows.
        best: the value of `best_metric` at the best checkpoint, which is that of `best_step`; None without one.
        accuracies: by name, from the last evaluation that measured them.
        updated: time of the last event, in seconds since 1970.
        damaged_lines: number of lines of the log that can't be read.
    """

    folder: Path
    method: str
    rank: int | None
    rates: dict[str, float]
    augmentation: str
    status: Status
    reason: str
    step: int
    steps: int | None
    loss: float | None
    eval_loss: float | None
    best: float | None
    best_metric: str | None
    best_step: int | None
    accuracies: dict[str, float]
    updated: float
    phase: str = ""
    damaged_lines: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder), "run_folder": str(self.folder)}


def find_runs(*folders: Path) -> list[RunState]:
    """The runs in folders and below them, the newest first.

    Raises:
        SwiftalignError: there is no such folder.
    """
    for folder in folders:
        if not folder.is_dir():
            raise SwiftalignError(f"{folder}: no such folder", "name a folder that contains runs, e.g. runs/")
    found = dict.fromkeys(run for folder in folders for run in run_folders(folder))
    return sorted((run_state(run) for run in found), key=lambda run: -run.updated)


def run_folders(folder: Path, depth: int = 3) -> Iterator[Path]:
    """Folders of runs, at most ``depth`` folders below this one; what can't be read is passed over.

    Links are followed, but no folder is looked at twice: a run is found where it is nearest.
    """
    level, seen = [folder], set[Path]()
    for _ in range(depth + 1):
        below: list[Path] = []
        for place in level:
            with suppress(OSError):
                if (real := place.resolve()) in seen:
                    continue
                seen.add(real)
                if holds_run(place):
                    yield place
                else:
                    inside = (child for child in place.iterdir() if child.is_dir() and not child.name.startswith("."))
                    below += sorted(inside, key=lambda child: (child.is_symlink(), child))
        level = below


def run_state(folder: Path) -> RunState:
    """Read a run's state from its configuration, plan and events; damaged parts are skipped."""
    inner, phase = current_phase(folder)
    plan, rates, config = None, dict[str, float](), None
    with suppress(ModelError, KeyError, TypeError, ValueError, AttributeError):
        read = TuningPlan.from_json(read_json(inner / PLAN_FILE))
        rates = {SPOKEN[name]: rate for name, rate in read.trained_rates.items() if as_number(rate) is not None}
        plan = read
    with suppress(SwiftalignError):
        config = load_config([inner / CONFIG_FILE])
    step, loss, eval_loss, updated, damaged = 0, None, None, 0.0, 0
    steps = as_number(plan.schedule.steps) if plan else None
    accuracies: dict[str, float] = {}
    for event in read_events(inner):
        values = event.values
        damaged += event.kind == "damaged"
        updated = as_number(values.get("time")) or updated
        step = int(as_number(values.get("step")) or step)
        steps = (as_number(values.get("steps")) or steps) if event.kind == "start" else steps
        loss = as_number(values["loss"]) if "loss" in values else loss
        eval_loss = as_number(values["eval_loss"]) if "eval_loss" in values else eval_loss
        logged = {name.removeprefix("eval_"): as_number(value) for name, value in values.items() if _is_accuracy(name)}
        accuracies = {name: value for name, value in logged.items() if value is not None} or accuracies
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
    reason = ""
    if ended and status == "done" and steps and step < steps:
        reason = "early stopping" if config and config.training.early_stopping else "before its last step"
    elif ended and status in ("stopped", "failed"):
        told = str(ended.values.get("signal" if status == "stopped" else "message") or "")
        reason = printable(" ".join(told.split()))[:_MOST_LETTERS]
    best = None
    with suppress(SwiftalignError):  # no checkpoint, or none with a value
        best = choose(inner, "best")
    method, rank = (printable(str(plan.method)), None) if plan else ("?", None)
    if plan and config and plan.adapted and config.tuner.method.size and config.tuner.method.size_name == "rank":
        rank = getattr(config.tuner.settings, config.tuner.method.size)
    return RunState(
        folder=folder,
        method=method,
        rank=rank,
        rates=rates,
        augmentation=config.custom.augmentation_in_words if config else "",
        status=status,
        reason=reason,
        step=step,
        steps=None if steps is None else int(steps),
        loss=loss,
        eval_loss=eval_loss,
        best=best.value if best else None,
        best_metric=best.metric if best else None,
        best_step=number_of(best.path) if best else None,
        accuracies={printable(name): value for name, value in accuracies.items()},
        updated=updated or (inner / PLAN_FILE).stat().st_mtime,
        phase=str(phase or ""),
        damaged_lines=damaged,
    )


_ENDS: dict[str, Status] = {"done": "done", "stopped": "stopped", "error": "failed"}
_MOST_LETTERS = 2000  # of a message


def current_phase(folder: Path) -> tuple[Path, int]:
    """The folder of a run's last phase that has begun, and its number; the run folder and 0 of a run without phases."""
    if (folder / PLAN_FILE).exists():
        return folder, 0
    number = 1
    while (phase_folder(folder, number + 1) / PLAN_FILE).exists():
        number += 1
    return phase_folder(folder, number), number


def _is_accuracy(name: str) -> bool:
    return name.startswith("eval_") and name.endswith("_acc")


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
