"""What a run's files say about the training of a checkpoint, for the card of an export."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swiftalign.checkpoint.choose import number_of
from swiftalign.checkpoint.read import Checkpoint
from swiftalign.model.safetensors import read_json
from swiftalign.problems import ModelError

# The trainer's measurements of an evaluation that are about its speed, not about the model.
_SPEED = re.compile(r"_(runtime|per_second|time|compilation_time)$")


@dataclass(frozen=True)
class Training:
    """How far a checkpoint was trained, on what, and what was measured; what the files do not say is empty.

    Attributes:
        step: optimizer steps of the checkpoint; in a run of phases, of its own phase.
        epochs: passes over the training data until then.
        phase: number of the phase, counted from 1; None for a run without phases.
        data: name and SHA-256 of each training and validation file, of earlier phases too.
        evaluated: step of the last evaluation that the checkpoint knows of.
        metrics: what that evaluation measured, by name.
        best: whether the run found no better model than this one, as far as the checkpoint knows.
    """

    step: int | None = None
    epochs: float | None = None
    phase: int | None = None
    data: tuple[tuple[str, str], ...] = ()
    evaluated: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    best: bool = False


def read_training(checkpoint: Checkpoint) -> Training:
    """Read `trainer_state.json` of a checkpoint, and `data.json` of its run; parts of another form are left out."""
    run = checkpoint.folder.parent
    phase = number_of(run, "phase")
    runs = [run.with_name(f"phase-{number}") for number in range(1, phase + 1)] if phase else [run]
    digests = dict(item for folder in runs for item in _mapping(folder / "data.json").items())
    data = tuple((Path(name).name, value) for name, value in digests.items() if isinstance(value, str))
    state = _mapping(checkpoint.folder / "trainer_state.json")
    step = state.get("global_step") if isinstance(state.get("global_step"), int) else number_of(checkpoint.folder)
    history = state.get("log_history")
    entries = history if isinstance(history, list) else []
    evaluations = [entry for entry in entries if isinstance(entry, dict) and any(_measured(entry))]
    last = evaluations[-1] if evaluations else {}
    return Training(
        step=step,
        epochs=_number(state.get("epoch")),
        phase=phase,
        data=data,
        evaluated=last["step"] if isinstance(last.get("step"), int) else None,
        metrics=dict(_measured(last)),
        best=step is not None and state.get("best_global_step") == step,
    )


def _measured(entry: dict[str, Any]) -> list[tuple[str, float]]:
    """The measurements of an evaluation in an entry of the trainer's log."""
    named = ((name, _number(value)) for name, value in entry.items() if re.fullmatch(r"eval_[\w./ -]+", name))
    return [(name, value) for name, value in named if value is not None and not _SPEED.search(name)]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _mapping(path: Path) -> dict[str, Any]:
    with suppress(ModelError, OSError):
        if isinstance(values := read_json(path), dict):
            return values
    return {}
