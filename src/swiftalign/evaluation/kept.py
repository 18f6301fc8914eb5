"""Evaluations that `swiftalign eval` has left in folders, found again by the weights that were asked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftalign.model.safetensors import read_json
from swiftalign.problems import ModelError

# The files of an evaluation's folder: what was asked, the answers, and what they come to: numbers, page and picture.
SETTINGS, PREDICTIONS = "eval.json", "predictions.jsonl"
RESULTS = SUMMARY, PAGE, SHEET = "summary.json", "eval.html", "worst.png"


def stamps(files: Iterable[Path]) -> list[list[Any]]:
    """By what files are known again: path, size in bytes, and time of the last change in nanoseconds."""
    return [[str(file.resolve()), (about := file.stat()).st_size, about.st_mtime_ns] for file in files]


@dataclass(frozen=True)
class KeptEvaluation:
    """The numbers of an evaluation.

    Attributes:
        rows: number of rows that were answered.
        files: names of the files that the rows are from.
        metrics: as `summary.metrics` names them.
    """

    rows: int
    files: tuple[str, ...]
    metrics: dict[str, float]


def find_evaluation(weights: Iterable[Path], places: Iterable[Path]) -> KeptEvaluation | None:
    """The newest evaluation of a model with these weight files, in folders of these places; None if there is none.

    Folders whose files are not those of an evaluation are passed over.
    """
    own, found = stamps(weights), list[tuple[int, KeptEvaluation]]()
    for settings in {file.resolve() for place in places for file in place.glob(f"*/{SETTINGS}")}:
        with suppress(OSError, ModelError, KeyError, TypeError, ValueError, AttributeError):
            asked, summary = read_json(settings), read_json(settings.with_name(SUMMARY))
            if not own or not all(stamp in asked["files"] for stamp in own) or asked["limit"]:
                continue
            metrics = {str(name): float(value) for name, value in summary["metrics"].items()}
            files = tuple(Path(path).name for path, _, _ in asked["rows"])
            rows = int(summary["rows"]) - int(summary["failed"])
            json.dumps(metrics, allow_nan=False)
            found.append((settings.stat().st_mtime_ns, KeptEvaluation(rows, files, metrics)))
    return max(found, key=lambda each: each[0])[1] if found else None
