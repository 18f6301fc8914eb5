"""The comparison of methods: its page is what its log says, and `init --problem` says no more than that."""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import comparison
import methods
import methods_report
from common import with_tables
from swiftalign.init.recipes import PROBLEMS
from swiftalign.methods import offered

LINES = comparison.logged(methods.LOG)
BEFORE, RUNS = methods_report.split(LINES)
ALIGNER = tuple(offered())
MEAN, KNOWN = "mean", "known camera"


def surely(method: str, other: str, rows: str, column: str) -> int:
    """1 or -1 where the paired difference's interval is on that side of zero, else 0."""
    runs, others = (methods_report.by_method(RUNS, name, rows) for name in (method, other))
    found = comparison.differences(runs, others, methods_report.accuracies_of)
    values = found[methods_report.COLUMNS.index(column)]
    return (1 if statistics.mean(values) > 0 else -1) if comparison.is_sure(values) else 0


def accuracy(method: str, rows: str, column: str) -> float:
    """Mean over the seeds."""
    index = methods_report.COLUMNS.index(column)
    return statistics.mean(
        methods_report.accuracies_of(line)[index] for line in methods_report.by_method(RUNS, method, rows)
    )


@pytest.mark.parametrize("rows", comparison.ROWS)
def test_what_init_says_was_measured_is_what_the_runs_show(rows: str) -> None:
    many = rows == "large"
    others = [method for method in methods.METHODS if method != "modules_to_save"]
    # overfitting
    assert many or all(surely(method, "modules_to_save", rows, MEAN) <= 0 for method in others)
    assert many or all(surely(method, "modules_to_save", rows, KNOWN) <= 0 for method in others)
    # capacity
    assert max(ALIGNER, key=lambda method: accuracy(method, rows, KNOWN)) == "adalora"
    assert surely("adalora", "modules_to_save", rows, MEAN) < 0
    # optimization
    assert surely("dora", "lora", rows, MEAN) == 0
    assert not many or surely("dora", "modules_to_save", rows, MEAN) < 0
    # coordinate-space
    adapters = ("lora", "dora", "adalora", "boft", "fourierft")
    assert all(surely(method, "boft", rows, MEAN) <= 0 for method in adapters)
    assert many or surely("boft", "modules_to_save", rows, KNOWN) < 0
    # spatial-patterns
    assert surely("fourierft", "modules_to_save", rows, MEAN) < 0


def test_every_problem_names_a_recipe_and_says_what_was_measured() -> None:
    assert all(advice.method in offered() and advice.measured for advice in PROBLEMS.values())


def test_the_page_is_made_from_the_log() -> None:
    page = methods_report.PAGE
    assert with_tables(page.read_text(), methods_report.tables(LINES)) == page.read_text()


def test_every_method_has_runs_of_all_seeds_and_both_sizes() -> None:
    for rows in comparison.ROWS:
        for method in methods.METHODS:
            seeds = {line["seed"] for line in methods_report.by_method(RUNS, method, rows)}
            assert seeds == set(methods.SEEDS), (method, rows)


def test_what_was_compared_is_what_ships_and_what_the_script_would_run() -> None:
    origin = comparison.origin_of(comparison.PRETRAINED)
    assert {name: BEFORE[name] for name in comparison.ORIGIN} == origin


def test_the_demo_trains_each_method_at_the_rate_that_the_search_found() -> None:
    for method in offered():
        rate = offered()[method].demo_lr
        best = methods.best_of(methods.rates_tried(LINES, method))
        assert float(rate) == best, method


def _line(rate: float, accuracy: float) -> dict[str, Any]:
    scores = {f"{kind}_acc": accuracy for kind in ("bbox", "quad", "line")}
    run = methods.Run("lora", "large", rate, methods.TUNING_SEED)
    return {**asdict(run), "scores": {"tuning": scores}}


@pytest.mark.parametrize(
    ("tried", "wanted"),
    [
        ({}, {3e-3, 1e-2, 3e-2}),
        ({3e-3: 0.5, 1e-2: 0.6}, {3e-2}),
        ({3e-3: 0.6, 1e-2: 0.5}, {1e-3}),
        ({3e-3: 0.5, 1e-2: 0.6, 3e-2: 0.4}, set()),
        ({3e-1: 0.5, 1.0: 0.6}, set()),
    ],
    ids=["none", "up", "down", "bracketed", "at the end"],
)
def test_the_search_of_a_rate_ends_when_its_neighbours_are_worse(tried: dict[float, float], wanted: set[float]) -> None:
    runs = methods.search_of_rates([_line(rate, accuracy) for rate, accuracy in tried.items()])
    assert {run.rate for run in runs if run.method == "lora"} == wanted


def test_a_method_is_compared_at_its_best_rate_once_its_search_is_over() -> None:
    lines = [_line(rate, accuracy) for rate, accuracy in ((3e-3, 0.5), (1e-2, 0.6), (3e-2, 0.4))]
    done = methods.Run("lora", "small", 1e-2, 0)
    lines.append({**asdict(done), "scores": {}})
    wanted = [*methods.wanted_runs(lines)]
    searched = [run for run in wanted if run.seed == methods.TUNING_SEED]
    compared = wanted[len(searched) :]
    assert {run.method for run in searched} == set(methods.METHODS) - {"lora"}
    assert {(run.method, run.rate) for run in compared} == {("lora", 1e-2)}
    assert len(compared) == len(methods.SEEDS) * len(comparison.ROWS) - 1
    assert done not in compared


def test_intervals_are_students_t() -> None:
    mean, half = comparison.interval([0.5, 0.6, 0.7])
    assert mean == pytest.approx(0.6)
    assert half == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    assert comparison.told([0.5, 0.6]) == "55.0"


def test_differences_are_of_the_seeds_that_both_have_and_sure_beyond_their_interval() -> None:
    def line(seed: int, accuracy: float) -> dict[str, Any]:
        scores = {f"{kind}_acc": accuracy for kind in ("bbox", "quad", "line")}
        return {"seed": seed, "scores": {"shifted": scores, "original": scores}}

    found = comparison.differences(
        [line(0, 0.5), line(1, 0.7), line(2, 0.6)],
        [line(3, 0.1), line(2, 0.4), line(1, 0.6)],
        methods_report.accuracies_of,
    )
    assert found == [[pytest.approx(0.1), pytest.approx(0.2)]] * len(methods_report.COLUMNS)
    assert not comparison.is_sure([0.1, 0.2])
    assert comparison.is_sure([0.1, 0.12, 0.11])
    assert not comparison.is_sure([-0.1, 0.2, 0.1])
