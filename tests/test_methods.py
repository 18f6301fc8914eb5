"""The comparison of methods: its page is what its log says, and `init --problem` says no more than that."""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import methods
import methods_report
from swiftalign.init.recipes import PROBLEMS
from swiftalign.methods import offered

LINES = methods.logged()
BEFORE, RUNS = methods_report.split(LINES)
ALIGNER = tuple(offered())
MEAN, KNOWN = "mean", "known camera"


def surely(method: str, other: str, rows: str, column: str) -> int:
    """1 or -1 where the paired difference's interval is on that side of zero, else 0."""
    return _sign(_differences(methods_report.by_method, method, other, rows, column))


def changes(augmentation: str, rows: str, column: str = MEAN) -> list[float]:
    """What an augmentation changes, seed by seed."""
    return _differences(methods_report.by_augmentation, augmentation, "none", rows, column)


def _differences(find: methods_report.Finder, name: str, reference: str, rows: str, column: str) -> list[float]:
    found = methods_report.differences(find(RUNS, name, rows), find(RUNS, reference, rows))
    return found[methods_report.COLUMNS.index(column)]


def _sign(values: list[float]) -> int:
    return (1 if statistics.mean(values) > 0 else -1) if methods_report.is_sure(values) else 0


def accuracy(method: str, rows: str, column: str) -> float:
    """Mean over the seeds."""
    index = methods_report.COLUMNS.index(column)
    return statistics.mean(
        methods_report.accuracies_of(line)[index] for line in methods_report.by_method(RUNS, method, rows)
    )


@pytest.mark.parametrize("rows", methods.ROWS)
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


@pytest.mark.parametrize("rows", methods.ROWS)
def test_rotation_costs_quads_and_lines_most(rows: str) -> None:
    def cost(name: str, column: str) -> float:
        return -statistics.mean(changes(name, rows, column))

    assert _sign(changes("rotate 12", rows)) < 0
    assert _sign(changes("rotate 45", rows)) < 0
    costs = [cost(f"rotate {degrees}", MEAN) for degrees in (5, 8, 12, 45)]
    assert costs == sorted(costs)
    assert cost("rotate 45", "boxes") < min(cost("rotate 45", "quads"), cost("rotate 45", "lines"))


def test_changed_colours_cost_something_where_rows_are_many() -> None:
    assert _sign(changes("appearance", "small")) == 0
    assert _sign(changes("appearance", "large")) < 0


def test_every_problem_names_a_recipe_and_says_what_was_measured() -> None:
    assert all(advice.method in offered() and advice.measured for advice in PROBLEMS.values())


def test_the_page_is_made_from_the_log() -> None:
    page = methods_report.PAGE.read_text()
    assert methods_report.filled(page, LINES) == page


def test_every_method_and_augmentation_has_runs_of_all_seeds_and_both_sizes() -> None:
    for rows in methods.ROWS:
        for method in methods.METHODS:
            seeds = {line["seed"] for line in methods_report.by_method(RUNS, method, rows)}
            assert seeds == set(methods.SEEDS), (method, rows)
        for name in methods.AUGMENTATIONS:
            seeds = {line["seed"] for line in methods_report.by_augmentation(RUNS, name, rows)}
            assert seeds == set(methods.SEEDS), (name, rows)


def test_what_was_compared_is_what_ships_and_what_the_script_would_run() -> None:
    origin = methods.origin_of(methods.PRETRAINED)
    assert {name: BEFORE[name] for name in methods.ORIGIN} == origin


def test_the_demo_trains_each_method_at_the_rate_that_the_search_found() -> None:
    for method in offered():
        rate = offered()[method].demo_lr
        best = methods.best_of(methods.rates_tried(LINES, method))
        assert float(rate) == best, method


def _line(rate: float, accuracy: float) -> dict[str, Any]:
    scores = {f"{kind}_acc": accuracy for kind in ("bbox", "quad", "line")}
    run = methods.Run("lora", "large", "none", rate, methods.TUNING_SEED)
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
    done = methods.Run("lora", "small", "none", 1e-2, 0)
    lines.append({**asdict(done), "scores": {}})
    wanted = [*methods.wanted_runs(lines)]
    searched = [run for run in wanted if run.seed == methods.TUNING_SEED]
    compared = wanted[len(searched) :]
    assert {run.method for run in searched} == set(methods.METHODS) - {"lora"}
    assert {(run.method, run.rate) for run in compared} == {("lora", 1e-2)}
    assert len(compared) == len(methods.SEEDS) * len(methods.ROWS) - 1
    assert done not in compared


def test_intervals_are_students_t() -> None:
    mean, half = methods_report.interval([0.5, 0.6, 0.7])
    assert mean == pytest.approx(0.6)
    assert half == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    assert methods_report.told([0.5, 0.6]) == "55.0"


def test_differences_are_of_the_seeds_that_both_have_and_sure_beyond_their_interval() -> None:
    def line(seed: int, accuracy: float) -> dict[str, Any]:
        scores = {f"{kind}_acc": accuracy for kind in ("bbox", "quad", "line")}
        return {"seed": seed, "scores": {"shifted": scores, "original": scores}}

    found = methods_report.differences(
        [line(0, 0.5), line(1, 0.7), line(2, 0.6)], [line(3, 0.1), line(2, 0.4), line(1, 0.6)]
    )
    assert found == [[pytest.approx(0.1), pytest.approx(0.2)]] * len(methods_report.COLUMNS)
    assert not methods_report.is_sure([0.1, 0.2])
    assert methods_report.is_sure([0.1, 0.12, 0.11])
    assert not methods_report.is_sure([-0.1, 0.2, 0.1])
