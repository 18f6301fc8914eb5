"""Which checkpoint of a run is meant: its best one, its newest one, or that of a step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from swiftalign.config.load import load_config
from swiftalign.config.sections import TrainingSection, best_metric
from swiftalign.data.metrics import as_number, is_lower_better, spoken
from swiftalign.files import not_fetched
from swiftalign.model.safetensors import read_json
from swiftalign.problems import ModelError, SwiftalignError

_RUN_FILES = ("plan.json", "args.json")  # of this tool, and of ms-swift


@dataclass(frozen=True)
class Chosen:
    """A checkpoint, and why it is taken.

    Attributes:
        path: the checkpoint; the path as it was given, if that is no run folder.
        why: ``named`` where the user named the checkpoint or its step.
        metric: the name of the metric by which it is the best.
        value: the value of that metric at the checkpoint's step.
        note: what else a reader should know about the choice.
    """

    path: Path
    why: Literal["best", "newest", "named"]
    metric: str | None = None
    value: float | None = None
    note: str = ""

    @property
    def reason(self) -> str:
        """Why it is taken, in words, e.g. ``the best by bbox_acc: 0.9300``; empty where the user named it."""
        if self.why == "named":
            return ""
        value = "" if self.value is None else f": {self.value:.4f}"
        reason = "the newest" if self.why == "newest" else f"the best by {self.metric}{value}"
        return f"{reason}; {self.note}" if self.note else reason

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def choose(path: Path, which: str | int | None = None) -> Chosen:
    """The checkpoint that a path means; of a run folder with phases, one of the last phase that has any.

    Args:
        path: a run folder, or what holds the weights itself, which is then taken as it is.
        which: ``best``, ``last`` or the number of a step. By default, the best checkpoint of a run that keeps the best
            model, and the newest one of any other run.

    Raises:
        ModelError: the path does not exist or is a folder of several runs, or it has no such checkpoint.
    """
    found = checkpoints_of(path)
    if not found and which is None:
        place = path  # a link is followed to the run that its checkpoint belongs to
        while place.is_symlink() and not any((place.parent / name).is_file() for name in _RUN_FILES):
            place = place.parent / place.readlink()
        return Chosen(place if number_of(place) is not None else path, "named")
    if not found:
        run = f"its run folder, {path.parent}" if number_of(path) is not None else "a run folder"
        message = f"{path}: no run folder with checkpoints, so --checkpoint {which} has nothing to choose from"
        raise ModelError(message, f"leave out --checkpoint, or name {run}")
    training, metric = TrainingSection(), "loss"
    with suppress(SwiftalignError):  # a run whose config can't be read keeps no best checkpoint
        config = load_config([found[-1].parent / "config.yaml"])
        training, metric = config.training, best_metric(config)
    newest = Chosen(found[-1], "newest")
    steps = ", ".join(str(number_of(each)) for each in found)
    if which is None or which == "best":
        best = _best(found, metric, training)
        if which is None:
            lacking = Chosen(found[-1], "newest", note=f"no checkpoint has a value of {spoken(metric)}")
            return (best or lacking) if training.keeps_best else newest
        if best is None:
            message = f"{path}: keeps no best checkpoint: at none of its steps ({steps}) was {spoken(metric)} measured"
            hint = "take --checkpoint last or one of these steps; in a new run, set load_best_model_at_end: true"
            raise ModelError(message, hint)
        return best
    if which == "last":
        return newest
    if not re.fullmatch(r"\d{1,18}", str(which)):
        raise ModelError(f"--checkpoint {which}: must be best, last or the number of a step", f"of {path}: {steps}")
    named = next((each for each in found if number_of(each) == int(which)), None)
    if named is None:
        raise ModelError(f"{path}: has no checkpoint of step {which}", f"it has those of these steps: {steps}")
    return Chosen(named, "named")


def _best(found: Sequence[Path], metric: str, training: TrainingSection) -> Chosen | None:
    """The best of a run's checkpoints; None where nothing says which it is.

    The trainer keeps the step and the value of the best evaluation. Where that step was not saved, the best of the
    checkpoints is known by what was logged at their steps.

    References:
        transformers `Trainer._determine_best_metric` and `_save_checkpoint`.
    """
    state: dict[str, Any] = {}
    for checkpoint in reversed(found):  # the newest knows of all before it, unless its file is missing or damaged
        with suppress(ModelError):
            if isinstance(read := read_json(checkpoint / "trainer_state.json"), dict):
                state = read
                break
    named, value = state.get("best_model_checkpoint"), as_number(state.get("best_metric"))
    recorded = number_of(Path(named)) if isinstance(named, str) else None
    step = state.get("best_global_step", recorded)  # older releases of transformers do not keep the step
    by_step = {number: each for each in found if (number := number_of(each)) is not None}
    if isinstance(step, int) and step in by_step:
        return Chosen(by_step[step], "best", spoken(metric), value)
    note = ""
    if isinstance(step, int) and value is not None:
        note = f"step {step} had {value:.4f}, and is not among the checkpoints"
    logs, values = state.get("log_history"), dict[int, float]()
    for log in logs if isinstance(logs, list) else ():
        at, logged = (log.get("step"), as_number(log.get(f"eval_{metric}"))) if isinstance(log, dict) else (None, None)
        if isinstance(at, int) and at in by_step and logged is not None:
            values[at] = logged
    if values:
        lower = is_lower_better(metric) if training.greater_is_better is None else not training.greater_is_better
        best = (min if lower else max)(values, key=lambda each: values[each])
        return Chosen(by_step[best], "best", spoken(metric), values[best], note)
    return Chosen(by_step[recorded], "best", spoken(metric), note=note) if recorded in by_step else None


def checkpoints_of(path: Path) -> list[Path]:
    """The checkpoints of a run folder's last phase that has any, the newest last; empty if it is not a run folder.

    Raises:
        ModelError: the path does not exist, or is a folder of several runs.
    """
    if not path.exists():
        hint = "name a checkpoint-N folder, a run folder or a weight file"
        what, hint = not_fetched(path) or ("no such file or folder", hint)
        raise ModelError(f"{path}: {what}", hint)
    if not path.is_dir():
        return []
    found = _checkpoints(path)
    if not found and not any(path.glob("*config.json")):
        runs = [child for child in path.iterdir() if child.is_dir() and _checkpoints(child)]
        if runs:
            newest = max(runs, key=lambda run: run.stat().st_mtime)
            raise ModelError(f"{path}: holds runs, but is not a run itself", f"name one of them, e.g. {newest}")
    return found


def _checkpoints(path: Path) -> list[Path]:
    places = (path, *reversed(_numbered(path, "phase")))
    return next((found for place in places if (found := _numbered(place, "checkpoint"))), [])


def _numbered(folder: Path, kind: str) -> list[Path]:
    """The folders of this name with a number, in the order of their numbers."""
    found = [(number_of(child, kind), child) for child in folder.iterdir()]
    return [child for number, child in sorted((n, child) for n, child in found if n is not None) if child.is_dir()]


def number_of(folder: Path, kind: str = "checkpoint") -> int | None:
    """The number N in the folder's name ``checkpoint-N``; None for any other name."""
    match = re.fullmatch(rf"{kind}-(\d+)", folder.name)
    return int(match[1]) if match else None
