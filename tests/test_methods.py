"""The comparison of methods: its page is what its log says, and `init --problem` says no more than that."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import methods
import methods_report
from swiftalign.recipes import PROBLEMS, RECIPES
from swiftalign.setup import DEMO_RATES

LINES = methods.logged()
BEFORE, RUNS = methods_report.split(LINES)
ALIGNER = tuple(RECIPES)


def accuracy(method: str, rows: str, kinds: Sequence[str] = ("bbox", "quad", "line"), camera: str = "shifted") -> float:
    """Mean over the seeds, in percent."""
    found = methods_report.by_method(RUNS, method, rows)
    return 100 * statistics.mean(line["scores"][camera][f"{kind}_acc"] for line in found for kind in kinds)


def forgotten(method: str, rows: str) -> float:
    """Of the accuracy with the known camera, in points."""
    before = 100 * statistics.mean(BEFORE["scores"]["original"][f"{kind}_acc"] for kind in ("bbox", "quad", "line"))
    return before - accuracy(method, rows, camera="original")


def augmented(name: str, rows: str, kinds: Sequence[str] = ("bbox", "quad", "line")) -> float:
    """What an augmentation costs, in points of accuracy."""
    runs = methods_report.paired(RUNS)
    with_it, without = (
        statistics.mean(
            line["scores"]["shifted"][f"{kind}_acc"]
            for line in methods_report.by_augmentation(runs, each, rows)
            for kind in kinds
        )
        for each in (name, "none")
    )
    return 100 * (without - with_it)


def test_what_init_says_was_measured_is_what_the_runs_show() -> None:
    def best(kind: str, rows: str) -> set[str]:
        """The method that is ahead of the five others, with those that are within a point of it."""
        found = {method: -forgotten(method, rows) if kind == "kept" else accuracy(method, rows) for method in ALIGNER}
        return {method for method in ALIGNER if found[method] > max(found.values()) - 1}

    # overfitting
    assert "modules_to_save" in best("recovered", "small")
    assert {m for m in ALIGNER if forgotten(m, "small") < forgotten("modules_to_save", "small")} == {"adalora"}
    # capacity
    assert best("kept", "small") == best("kept", "large") == {"adalora"}
    assert all(accuracy("adalora", rows) < accuracy("modules_to_save", rows) - 3 for rows in methods.ROWS)
    # optimization
    assert all(abs(accuracy("dora", rows) - accuracy("lora", rows)) < 3 for rows in methods.ROWS)
    assert max(accuracy(method, "large") for method in ("lora", "dora")) < accuracy("modules_to_save", "large") - 3
    # coordinate-space
    adapters = [method for method in ALIGNER if method != "modules_to_save"]
    assert max(adapters, key=lambda method: accuracy(method, "large")) == "boft"
    assert accuracy("boft", "large", ["line"]) > accuracy("modules_to_save", "large", ["line"]) - 2
    assert max(ALIGNER, key=lambda method: forgotten(method, "large")) == "boft"
    assert max(ALIGNER, key=lambda method: forgotten(method, "small")) == "boft"
    # spatial-patterns
    assert min(ALIGNER, key=lambda method: accuracy(method, "large")) == "fourierft"
    assert min(ALIGNER, key=lambda method: accuracy(method, "small")) == "fourierft"


@pytest.mark.parametrize("rows", methods.ROWS)
def test_rotation_costs_more_the_further_it_turns_and_lines_most(rows: str) -> None:
    costs = [augmented(f"rotate {degrees}", rows) for degrees in (5, 8, 12, 45)]
    assert costs == sorted(costs)
    assert costs[0] > 0
    assert augmented("rotate 12", rows, ["line"]) > augmented("rotate 12", rows, ["bbox"])


def test_changed_colours_cost_something_where_rows_are_many() -> None:
    assert augmented("appearance", "small") < 2 < augmented("appearance", "large")


def test_every_problem_names_a_recipe_and_says_what_was_measured() -> None:
    assert all(advice.method in RECIPES and advice.measured for advice in PROBLEMS.values())


def test_the_page_is_made_from_the_log() -> None:
    page = methods_report.PAGE.read_text()
    assert methods_report.filled(page, LINES) == page


def test_every_method_has_runs_of_several_seeds_and_both_sizes() -> None:
    for rows in methods.ROWS:
        for method in methods.METHODS:
            assert len({line["seed"] for line in methods_report.by_method(RUNS, method, rows)}) >= 3, (method, rows)


def test_the_model_that_was_compared_is_the_one_that_ships() -> None:
    origin = methods.origin_of(methods.PRETRAINED)
    assert (BEFORE["model"], BEFORE["camera"]) == (origin["model"], origin["camera"])


def test_the_demo_trains_each_method_at_the_rate_that_the_search_found() -> None:
    for method in RECIPES:
        rate = DEMO_RATES[method]
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
