"""Runs as tables for people: a list of them, and some of them side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from swiftalign.cli.terminal import fits, new_table, print_table, tell
from swiftalign.files import short_path
from swiftalign.problems import printable

if TYPE_CHECKING:
    from swiftalign.runs.compare import Comparison, Measured
    from swiftalign.runs.history import RunState


def print_runs(runs: Sequence[RunState], console: Console) -> None:
    """A row for each run, without columns that are empty for all; on a narrow terminal, a few lines for each."""
    rows = [_run_cells(run) for run in runs]
    shown = [name for name in rows[0] if any(row[name] for row in rows)]
    table = new_table(*shown)
    for row in rows:
        table.add_row(*(Text(row[name] or "-") for name in shown))
    is_table = fits(table, console)
    if is_table:
        print_table(table, console)
    for run, row in zip(runs, rows, strict=True):
        if not is_table:
            tell(console, row["run"], style="bold")
            for group in _GROUPS:
                words = (f"{name} {row[name]}" if name in _NAMED else row[name] for name in group if row[name])
                if line := ", ".join(words):
                    tell(console, line)
        if run.status == "failed" and run.reason:
            tell(console, f"{row['run']} failed: {run.reason}")


# The cells of a run on a narrow terminal, line by line; some have their name before them.
_GROUPS = (
    ("status", "step", "when"),
    ("method", "rank", "rates", "augmentation"),
    ("loss", "eval_loss", "best", "accuracies"),
)
_NAMED = ("step", "rank", "rates", "augmentation", "loss", "eval_loss", "best")


def _run_cells(run: RunState) -> dict[str, str]:
    place = printable(short_path(run.folder))
    best = f" at {run.best_step}" if run.best_step is not None else ""
    return {
        "run": f"{place} (phase {run.phase})" if run.phase else place,
        "method": run.method,
        "rank": "" if run.rank is None else str(run.rank),
        "rates": ", ".join(f"{name} {rate:g}" for name, rate in run.rates.items()),
        "augmentation": run.augmentation,
        "status": _status(run),
        "step": f"{run.step}/{run.steps}" if run.steps else str(run.step),
        "loss": "" if run.loss is None else f"{run.loss:.4f}",
        "eval_loss": "" if run.eval_loss is None else f"{run.eval_loss:.4f}",
        "best": "" if run.best is None else f"{run.best_metric} {run.best:.4f}{best}",
        "accuracies": ", ".join(f"{name} {value:.3f}" for name, value in run.accuracies.items()),
        "when": time.strftime("%Y-%m-%d %H:%M", time.localtime(run.updated)),
    }


def _status(run: RunState) -> str:
    return f"{run.status} ({run.reason})" if run.reason and run.status != "failed" else run.status


def print_comparison(found: Comparison, console: Console) -> None:
    """The settings that differ, the numbers that the runs reached, and what is to be known about them."""
    rows = [(key, [_setting(key, value) for value in values]) for key, values in found.differences.items()]
    if rows:
        tell(console, "Settings that differ", style="bold")
        _print_side_by_side("setting", found.names, rows, console)
    else:
        tell(console, "The runs have the same configuration." if found.same else "The settings can't be compared.")
    cells = [_run_cells(run) for run in found.runs]
    rows = [(name, [row[name] for row in cells]) for name in ("status", "step", "method", "rank", "rates", "best")]
    for name, values in found.metrics.items():
        rows.append((name, [_reached(each, best=name != "loss") for each in values]))
    tell(console, "\nWhat they reached", style="bold")
    _print_side_by_side("number", found.names, [row for row in rows if any(row[1])], console)
    for note in found.notes:
        tell(console, f"note  {note}")


def _print_side_by_side(
    heading: str, names: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], console: Console
) -> None:
    """A table with a column for each run; where it would not fit, the values of a row under each other."""
    rows, table = list(rows), new_table(heading, *names)
    for key, values in rows:
        table.add_row(Text(key), *(Text(value or "-") for value in values))
    if fits(table, console):
        print_table(table, console)
        return
    longest = max(map(len, names))
    for key, values in rows:
        tell(console, key, style="bold")
        for name, value in zip(names, values, strict=True):
            tell(console, f"  {name:{longest}}  {value or '-'}", hang=longest + 4)


def _setting(key: str, value: Any) -> str:
    """A setting as one would write it; a path or a digest short."""
    if isinstance(value, str) and key.startswith("sha256 of "):
        return printable(value[:12])
    if isinstance(value, str):
        return printable(short_path(value) if Path(value).is_absolute() else value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else printable(json.dumps(value, ensure_ascii=False))


def _reached(each: Measured | None, *, best: bool) -> str:
    """The last value, and the best one if it is another; the training loss is of other rows in each step."""
    if each is None:
        return ""
    other = f" (best {each.best:.4f} at {each.best_step})" if best and each.best != each.final else ""
    return f"{each.final:.4f}{other}"
