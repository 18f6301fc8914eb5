"""The tuning methods compared: each adapts the small pretrained Qwen3-VL to a camera that it has not seen.

    python benchmarks/methods.py --model FOLDER --jobs 8

Trains with ``swiftalign train``, exports with ``swiftalign export``, and scores what was exported, on images of the new
camera and of the old one (what was forgotten). Each run adds a line to ``methods.jsonl`` beside this file; those that
stand there are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml

from startup import SWIFTALIGN
from swiftalign.demo.data import write_dataset
from swiftalign.demo.recovery import mean_accuracy
from swiftalign.demo.score import score_model
from swiftalign.recipes import RECIPES

HERE = Path(__file__).resolve().parent
LOG = HERE / "methods.jsonl"

# bfloat16 takes many times longer on a CPU, and padding-free attention takes nothing else on a GPU.
DTYPE = "bfloat16" if torch.cuda.is_available() else "float32"
STEPS, BATCH = 300, 8
ROWS = {"small": 64, "large": 2048}
SEEDS = range(5)
# Of these a method takes the one that serves it best on rows that nothing else sees, with another seed.
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
TUNING_SEED = 100
SCORED = 256  # rows of each set
LLM_LORA = {
    "train_type": "lora",
    "target_regex": r"^model\.language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj$",
    "lora_rank": 16,
    "lora_alpha": 32,
}
MERGER_ONLY = {"train_type": "lora", "target_regex": "^$", "modules_to_save": ["model.visual.merger"]}
METHODS = (*RECIPES, "lora-llm", "merger-only")
_APPEARANCE = [
    {"color_jitter": {"brightness": [0.6, 1.4], "contrast": [0.6, 1.4], "saturation": [0.6, 1.4], "prob": 0.8}},
    {"gamma": {"gamma": [0.6, 1.5], "prob": 0.5}},
    {"sharpness": {"factor": [0.5, 1.8], "prob": 0.4}},
]
# The guide's three rotations, one far beyond them, and its operations on colours alone.
AUGMENTATIONS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "appearance": _APPEARANCE,
    "rotate 5": [{"rotate": {"max_deg": 5.0, "prob": 0.15}}],
    "rotate 8": [{"rotate": {"max_deg": 8.0, "prob": 0.25}}],
    "rotate 12": [{"rotate": {"max_deg": 12.0, "prob": 0.3}}],
    "rotate 45": [{"rotate": {"max_deg": 45.0, "prob": 1.0}}],
}


@dataclass(frozen=True)
class Run:
    """One training: what is varied."""

    method: str
    rows: str
    augmentation: str
    rate: float
    seed: int

    def config(self, model: Path, data: Path, out: Path) -> dict[str, Any]:
        operations = AUGMENTATIONS[self.augmentation]
        return {
            "model": {"path": str(model), "dtype": DTYPE},
            "data": {"train": str(data / f"{self.rows}.jsonl")},
            "tuner": tuner_of(self.method),
            "training": {
                "output_dir": str(out),
                "learning_rate" if self.method == "lora-llm" else "aligner_lr": self.rate,
                "max_steps": STEPS,
                "per_device_train_batch_size": BATCH,
                "gradient_accumulation_steps": 1,
                "logging_steps": 10,
                "save_steps": STEPS,
                "save_only_model": True,
                "seed": self.seed,
                "data_seed": self.seed,
            },
            **({"custom": {"augmentation": {"enabled": True, "ops": operations}}} if operations else {}),
        }


def tuner_of(method: str) -> dict[str, Any]:
    if method == "lora-llm":
        return LLM_LORA
    if method == "merger-only":
        return MERGER_ONLY
    text = RECIPES[method].tuner.format(tinit=STEPS // 10, tfinal=STEPS * 3 // 10, delta=STEPS // 20)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def make_data(folder: Path) -> None:
    for name, rows in ROWS.items():
        write_dataset(folder / f"{name}.jsonl", rows=rows, seed=1, new_camera=True)
    write_dataset(folder / "tuning.jsonl", rows=SCORED, seed=2, new_camera=True)
    write_dataset(folder / "shifted.jsonl", rows=SCORED, seed=3, new_camera=True)
    write_dataset(folder / "original.jsonl", rows=SCORED, seed=3)


def scores_of(folder: Path, data: Path, sets: Iterable[str]) -> dict[str, dict[str, float]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {name: score_model(folder, data / f"{name}.jsonl", device=device, batch=128).metrics() for name in sets}


def carry_out(run: Run, model: Path, data: Path) -> dict[str, Any]:
    """Train, export, score."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "run"
        file = Path(name) / "config.yaml"
        file.write_text(yaml.safe_dump(run.config(model, data, out)))
        begin = time.time()
        trained = _swiftalign("train", str(file), "--json", "--allow", "aligner-incomplete")
        seconds = time.time() - begin
        _swiftalign("export", str(out), "--output", str(Path(name) / "exported"))
        sets = ("tuning",) if run.seed == TUNING_SEED else ("shifted", "original")
        events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
        plan = json.loads((out / "plan.json").read_text())
        return {
            **asdict(run),
            "scores": scores_of(Path(name) / "exported", data, sets),
            "losses": [event["loss"] for event in events if event["kind"] == "log" and "loss" in event],
            "parameters": sum(_numel(item) for item in plan["trainables"]),
            "seconds": round(seconds, 1),
            "loss": json.loads(trained)["loss"],
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            "date": time.strftime("%Y-%m-%d"),
        }


def _numel(item: dict[str, Any]) -> int:
    count = 1
    for side in item["shape"]:
        count *= side
    return count


def _swiftalign(*words: str) -> str:
    done = subprocess.run([*SWIFTALIGN, *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"swiftalign {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def logged() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []


def tuning_runs() -> Iterator[Run]:
    for method in METHODS:
        for rate in RATES:
            yield Run(method, "large", "none", rate, TUNING_SEED)


def compared_runs() -> Iterator[Run]:
    """With each method's best rate."""
    best = best_rates()
    for seed in SEEDS:
        for rows in ROWS:
            for method in METHODS:
                yield Run(method, rows, "none", best[method], seed)
            for augmentation in AUGMENTATIONS:
                if augmentation != "none":
                    yield Run("modules_to_save", rows, augmentation, best["modules_to_save"], seed)


def best_rates() -> dict[str, float]:
    found: dict[str, dict[float, float]] = {}
    for line in logged():
        if line.get("seed") == TUNING_SEED:
            found.setdefault(line["method"], {})[line["rate"]] = mean_accuracy(line["scores"]["tuning"])
    return {method: max(rates, key=lambda rate: rates[rate]) for method, rates in found.items()}


def carry_out_all(runs: Iterable[Run], model: Path, data: Path, jobs: int) -> None:
    done = {tuple(line[name] for name in Run.__dataclass_fields__) for line in logged() if "method" in line}
    wanted = [run for run in runs if tuple(asdict(run).values()) not in done]
    # A forked process could not use the GPU that its parent has used.
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool, LOG.open("a") as log:
        pending = {pool.submit(carry_out, run, model, data): run for run in wanted}
        for number, future in enumerate(as_completed(pending), 1):
            run = pending[future]
            try:
                line = future.result()
            except RuntimeError as error:
                print(f"{run}: {error}", flush=True)
                continue
            log.write(json.dumps(line) + "\n")
            log.flush()
            told = {name: round(mean_accuracy(scores), 3) for name, scores in line["scores"].items()}
            print(f"{number}/{len(wanted)} {run} {told} {line['seconds']} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--only", choices=("tuning", "compared"), help="a part of the runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        make_data(data)
        if not any(line.get("base") for line in logged()):
            with LOG.open("a") as log:
                scores = scores_of(options.model, data, ("tuning", "shifted", "original"))
                log.write(json.dumps({"base": str(options.model.name), "scores": scores}) + "\n")
        if options.only != "compared":
            carry_out_all(tuning_runs(), options.model, data, options.jobs)
        if options.only != "tuning":
            carry_out_all(compared_runs(), options.model, data, options.jobs)


if __name__ == "__main__":
    main()
