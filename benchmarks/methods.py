"""The tuning methods compared: each adapts the small pretrained Qwen3-VL to a camera that it has not seen.

    python benchmarks/methods.py --jobs 2

Trains with ``swiftalign train``, exports with ``swiftalign export``, and scores what was exported, on images of the new
camera and of the known one (what was forgotten). Each run adds a line to ``methods.jsonl`` beside this file; those that
stand there, of the same model, camera, dtype and steps, are not repeated.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from comparison import DTYPE, ROWS, STEPS, Line, Lines, compare, scores_of, swiftalign, trained
from swiftalign.demo.camera import NEW_CAMERA
from swiftalign.demo.data import write_dataset
from swiftalign.demo.recovery import mean_accuracy
from swiftalign.methods import METHODS as KNOWN

LOG = Path(__file__).resolve().parent / "methods.jsonl"

SEEDS = range(5)
# A method takes the rate that serves it best on rows that nothing else sees, with another seed. The search begins at a
# first guess and its neighbours, and goes on until both neighbours of the best are worse, or there is none.
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
FIRST_RATES = {
    "modules_to_save": 3e-3,
    "lora": 1e-2,
    "dora": 3e-3,
    "adalora": 3e-2,
    "boft": 3e-2,
    "fourierft": 3e-1,
    "lora-llm": 3e-3,
    "merger-only": 1e-2,
}
TUNING_SEED = 100
SCORED = {"tuning": 256, "shifted": 256, "original": 128}  # rows
LLM_LORA = {
    "train_type": "lora",
    "target_regex": r"^model\.language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj$",
    "lora_rank": 16,
    "lora_alpha": 32,
}
MERGER_ONLY = {"train_type": "lora", "target_regex": "^$", "modules_to_save": ["model.visual.merger"]}
METHODS = tuple(FIRST_RATES)


@dataclass(frozen=True)
class Run:
    """One training: what is varied."""

    method: str
    rows: str
    rate: float
    seed: int

    def config(self, model: Path, data: Path) -> dict[str, Any]:
        return {
            "model": {"path": str(model), "dtype": DTYPE},
            "data": {"train": str(data / f"{self.rows}-{self.seed}.jsonl")},
            "tuner": tuner_of(self.method),
            "training": {
                "learning_rate" if self.method == "lora-llm" else "aligner_lr": self.rate,
                "seed": self.seed,
                "data_seed": self.seed,
            },
        }


def tuner_of(method: str) -> dict[str, Any]:
    if method == "lora-llm":
        return LLM_LORA
    if method == "merger-only":
        return MERGER_ONLY
    found: dict[str, Any] = yaml.safe_load(KNOWN[method].recipe_for(STEPS))
    return found


def make_data(folder: Path, jobs: int) -> None:
    """Rows to train on, others for each seed of a run, and rows to score."""
    write_dataset(folder / f"large-{TUNING_SEED}.jsonl", rows=ROWS["large"], seed=1, camera=NEW_CAMERA)
    for run_seed in SEEDS:
        for name, rows in ROWS.items():
            write_dataset(folder / f"{name}-{run_seed}.jsonl", rows=rows, seed=10 + run_seed, camera=NEW_CAMERA)
    for name, seed, camera in (("tuning", 2, NEW_CAMERA), ("shifted", 3, NEW_CAMERA), ("original", 3, None)):
        write_dataset(folder / f"{name}.jsonl", rows=SCORED[name], seed=seed, camera=camera)


def carry_out(run: Run, model: Path, data: Path) -> Line:
    """Train, export, score."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        line = trained(run.config(model, data), folder)
        swiftalign("export", str(folder / "run"), "--output", str(folder / "exported"))
        sets = ("tuning",) if run.seed == TUNING_SEED else ("shifted", "original")
        plan = json.loads((folder / "run/plan.json").read_text())
        return {
            **asdict(run),
            "tuner": tuner_of(run.method),
            "scores": scores_of(folder / "exported", data, sets),
            "parameters": sum(math.prod(item["shape"]) for item in plan["trainables"]),
            **line,
        }


def wanted_runs(lines: Lines, failed: Collection[Run] = ()) -> Iterator[Run]:
    """What the log lacks: the search of each method's rate, and of those whose search is over the comparison.

    Args:
        failed: runs that are not wanted again; a rate with which training fails is as good as a worse one.
    """
    searched = [run for run in search_of_rates(lines) if run not in failed]
    yield from searched
    open_ = {run.method for run in searched}
    done = {*failed, *map(run_of, lines)}
    yield from (run for run in compared_runs(lines) if run.method not in open_ and run not in done)


def run_of(line: dict[str, Any]) -> Run:
    return Run(**{name: line[name] for name in Run.__dataclass_fields__})


def search_of_rates(lines: Lines) -> Iterator[Run]:
    """The runs that the search for each method's rate wants next; none where it is over."""
    for method in METHODS:
        tried = rates_tried(lines, method)
        best = RATES.index(best_of(tried) if tried else FIRST_RATES[method])
        for rate in RATES[max(best - 1, 0) : best + 2]:
            if rate not in tried:
                yield Run(method, "large", rate, TUNING_SEED)


def rates_tried(lines: Lines, method: str) -> dict[float, float]:
    """Of the search: the mean accuracy of each rate."""
    runs = [line for line in lines if line.get("seed") == TUNING_SEED and line["method"] == method]
    return {line["rate"]: mean_accuracy(line["scores"]["tuning"]) for line in runs}


def best_of(tried: dict[float, float]) -> float:
    return max(tried, key=lambda rate: tried[rate])


def best_rates(lines: Lines) -> dict[str, float]:
    """Of the methods for which the search has found any."""
    tried = {method: rates_tried(lines, method) for method in METHODS}
    return {method: best_of(rates) for method, rates in tried.items() if rates}


def compared_runs(lines: Lines) -> Iterator[Run]:
    """Each method at its best rate, seed by seed."""
    best = best_rates(lines)
    for seed in SEEDS:
        for rows in ROWS:
            yield from (Run(method, rows, best[method], seed) for method in best)


if __name__ == "__main__":
    compare(__doc__, LOG, make_data, SCORED, wanted_runs, carry_out)
