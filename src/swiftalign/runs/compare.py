"""Runs side by side: the settings that differ, the numbers that they reached, and their curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swiftalign.checkpoint.choose import number_of
from swiftalign.config.load import load_config
from swiftalign.data.metrics import is_lower_better, spoken
from swiftalign.model.safetensors import read_json
from swiftalign.problems import ModelError, RunFolderError, SwiftalignError, counted, printable
from swiftalign.runs.events import Curves, curves_of, read_events
from swiftalign.runs.folder import CONFIG_FILE, DATA_FILE, EXPORT_FILE, VERSIONS_FILE, holds_run, phase_folder
from swiftalign.runs.history import RunState, current_phase, run_folders, run_state

MOST_RUNS = 10  # a picture has a colour for each
_NOT_COMPARED = ("training.output_dir",)
_SPEEDS = ("_runtime", "_per_second")


@dataclass(frozen=True)
class Measured:
    """A curve in short: its last value and its best one, each with its step."""

    final: float
    final_step: int
    best: float
    best_step: int


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        names: a short name for each run.
        same: whether all configurations, data and package versions are known to be the same.
        differences: each setting, data file or package version that is not the same in all runs, and its value in each:
            None where a run does not give it, ``?`` where its file can't be read.
        metrics: each loss or metric, and what each run reached; None where it was not measured.
        curves: the numbers of each run's logs; the steps of a run in phases are counted through.
        notes: what is missing or damaged, in words.
    """

    runs: tuple[RunState, ...]
    names: tuple[str, ...]
    same: bool
    differences: dict[str, tuple[Any, ...]]
    metrics: dict[str, tuple[Measured | None, ...]]
    curves: tuple[Curves, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": [{"name": name, **run.to_json()} for name, run in zip(self.names, self.runs, strict=True)],
            "same": self.same,
            "differences": [{"key": key, "values": list(values)} for key, values in self.differences.items()],
            "metrics": [
                {"name": name, "values": [asdict(each) if each else None for each in values]}
                for name, values in self.metrics.items()
            ],
            "notes": list(self.notes),
        }


def compare(folders: Sequence[Path]) -> Comparison:
    """Compare runs by what their folders hold.

    Raises:
        RunFolderError: a folder holds no run, a run is named twice, or there are too few or too many.
    """
    if not 2 <= len(folders) <= MOST_RUNS:
        raise RunFolderError(f"two to {MOST_RUNS} runs can be compared, not {len(folders)}", _EXAMPLE)
    seen: dict[Path, Path] = {}
    for folder in folders:
        _require_run(folder)
        if (real := folder.resolve()) in seen:
            raise RunFolderError(f"{folder} is named twice", _EXAMPLE)
        seen[real] = folder
    last = [real.name for real in seen]
    names = last if len(set(last)) == len(last) else [str(folder) for folder in folders]
    states, curves, notes = [run_state(folder) for folder in folders], [_curves(folder) for folder in folders], []
    differences, faults = _differences(folders)
    for name, state, fault, logged in zip(names, states, faults, curves, strict=True):
        told = [fault] if fault else []
        if state.status == "failed" and state.reason:
            told.append(f"failed: {state.reason}")
        if state.damaged_lines:
            told.append(f"{counted(state.damaged_lines, 'line')} of its log can't be read")
        if not logged:
            told.append("nothing is logged yet, so there is nothing to draw")
        notes += [printable(f"{name}: {each}") for each in told]
    measured = [name for name in dict.fromkeys(name for each in curves for name in each) if _is_metric(name)]
    measured.sort(key=lambda name: ("loss", "eval_loss").index(name) if name in ("loss", "eval_loss") else 2)
    metrics = {
        name if name == "loss" else printable(spoken(name)): tuple(_measured(name, each) for each in curves)
        for name in measured
    }
    return Comparison(
        runs=tuple(states),
        names=tuple(map(printable, names)),
        same=not differences and not any(faults),
        differences=differences,
        metrics=metrics,
        curves=tuple(curves),
        notes=tuple(notes),
    )


_EXAMPLE = "for example: swiftalign runs --compare runs/stage4 runs/stage4-2"


def _require_run(folder: Path) -> None:
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such folder", "'swiftalign runs' lists the runs")
    if holds_run(folder):
        return
    hint = "'swiftalign runs' lists the runs"
    if (folder / EXPORT_FILE).exists():
        hint = "it holds an exported model; name the run that it was made of"
    elif number_of(folder) is not None:
        hint = f"it is a checkpoint; name its run, {folder.parent}"
    elif below := next(run_folders(folder), None):
        hint = f"there are runs below it; name them, e.g. {below}"
    raise RunFolderError(f"{folder}: holds no run", hint)


def _differences(folders: Sequence[Path]) -> tuple[dict[str, tuple[Any, ...]], list[str]]:
    """What is not the same in all runs, as in `Comparison`; and for each run why its settings can't be read, or ""."""
    full, faults = list[dict[str, Any] | None](), list[str]()
    given: dict[str, None] = {}
    for folder in folders:
        try:
            config = load_config([folder / CONFIG_FILE])
        except SwiftalignError as error:
            full.append(None)
            faults.append(f"its settings are not compared: {error.message}")
            continue
        full.append(dict(_flat(config.model_dump(mode="json"))))
        faults.append("")
        given |= dict.fromkeys(key for key, _ in _flat(config.model_dump(mode="json", exclude_defaults=True)))
    found = {key: tuple("?" if values is None else values.get(key) for values in full) for key in given}
    for kind, file in (("sha256 of", DATA_FILE), ("version of", VERSIONS_FILE)):
        read = [_mapping(current_phase(folder)[0] / file) for folder in folders]
        common = [name for name in read[0] if all(name in each for each in read)]
        found |= {f"{kind} {name}": tuple(str(each[name]) for each in read) for name in common}
    differ = {}
    for key, values in found.items():
        known = [value for value, fault in zip(values, faults, strict=True) if not fault]
        if key not in _NOT_COMPARED and any(value != known[0] for value in known):
            differ[printable(key)] = values
    return differ, faults


def _flat(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings and of lists of mappings, by dotted keys."""
    parts: list[tuple[Any, Any]] = []
    if isinstance(values, dict):
        parts = list(values.items())
    elif isinstance(values, list) and any(isinstance(each, dict) for each in values):
        parts = list(enumerate(values))
    else:
        yield key, values
    for name, value in parts:
        yield from _flat(value, f"{key}.{name}" if key else str(name))


def _mapping(path: Path) -> dict[str, Any]:
    """What a JSON file maps; empty where it can't be read."""
    with suppress(ModelError):
        if isinstance(values := read_json(path), dict):
            return values
    return {}


def _curves(folder: Path) -> Curves:
    """The numbers of a run's logs; the steps of phases are counted through."""
    _, phases = current_phase(folder)
    found: Curves = {}
    before = 0
    for place in [phase_folder(folder, number) for number in range(1, phases + 1)] or [folder]:
        own = curves_of(read_events(place))
        for name, points in own.items():
            found.setdefault(name, {}).update({before + step: value for step, value in points.items()})
        before += max((step for points in own.values() for step in points), default=0)
    return found


def _is_metric(name: str) -> bool:
    return name == "loss" or (name.startswith("eval_") and not name.endswith(_SPEEDS))


def _measured(name: str, curves: Curves) -> Measured | None:
    if not (points := curves.get(name)):
        return None
    last = max(points)
    best = (min if is_lower_better(name) else max)(sorted(points), key=lambda step: points[step])
    return Measured(points[last], last, points[best], best)
