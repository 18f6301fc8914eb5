"""The tuning methods compared: each adapts the small pretrained Qwen3-VL to a camera that it has not seen.

    python benchmarks/methods.py --jobs 2

Trains with ``swiftalign train``, exports with ``swiftalign export``, and scores what was exported, on images of the new
camera and of the known one (what was forgotten). Each run adds a line to ``methods.jsonl`` beside this file; those that
stand there, of the same model, camera, dtype and steps, are not repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml

from common import SWIFTALIGN, accuracies
from swiftalign.demo.camera import NEW_CAMERA
from swiftalign.demo.data import write_dataset
from swiftalign.demo.recovery import mean_accuracy
from swiftalign.demo.workspace import DEMO_TRAINING, PRETRAINED
from swiftalign.methods import METHODS as KNOWN

HERE = Path(__file__).resolve().parent
LOG = HERE / "methods.jsonl"

DTYPE = "bfloat16"  # on a CPU too, where it takes a third longer than float32: runs of both are compared
STEPS, BATCH = DEMO_TRAINING["max_steps"], DEMO_TRAINING["per_device_train_batch_size"]
ROWS = {"small": 64, "large": 2048}
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
ORIGIN = ("model", "camera", "dtype", "steps")  # what a line shares with those that it is compared with
METHODS = tuple(FIRST_RATES)
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


Lines = list[dict[str, Any]]


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
            "data": {"train": str(data / f"{self.rows}-{self.seed}.jsonl")},
            "tuner": tuner_of(self.method),
            "training": {
                "output_dir": str(out),
                "learning_rate" if self.method == "lora-llm" else "aligner_lr": self.rate,
                "max_steps": STEPS,
                "per_device_train_batch_size": BATCH,
                "gradient_accumulation_steps": 1,
                "padding_free": True,
                "gradient_checkpointing": False,
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
    found: dict[str, Any] = yaml.safe_load(KNOWN[method].recipe_for(STEPS))
    return found


def make_data(folder: Path) -> None:
    """Rows to train on, others for each seed of a run, and rows to score."""
    write_dataset(folder / f"large-{TUNING_SEED}.jsonl", rows=ROWS["large"], seed=1, new_camera=True)
    for run_seed in SEEDS:
        for name, rows in ROWS.items():
            write_dataset(folder / f"{name}-{run_seed}.jsonl", rows=rows, seed=10 + run_seed, new_camera=True)
    for name, seed, new_camera in (("tuning", 2, True), ("shifted", 3, True), ("original", 3, False)):
        write_dataset(folder / f"{name}.jsonl", rows=SCORED[name], seed=seed, new_camera=new_camera)


def scores_of(folder: Path, data: Path, sets: Iterable[str]) -> dict[str, dict[str, float]]:
    return {name: accuracies(folder, data / f"{name}.jsonl") for name in sets}


def origin_of(model: Path) -> dict[str, str]:
    """What runs must share to be compared."""
    found = {"model": (model / "model.safetensors").read_bytes(), "camera": repr(NEW_CAMERA).encode()}
    digests = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in found.items()}
    return {**digests, "dtype": DTYPE, "steps": f"{STEPS} x {BATCH} rows"}


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def carry_out(run: Run, model: Path, data: Path) -> dict[str, Any]:
    """Train, export, score."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "run"
        file = Path(name) / "config.yaml"
        file.write_text(yaml.safe_dump(run.config(model, data, out)))
        begin, used = time.time(), _cpu_seconds()
        trained = _swiftalign("train", str(file), "--json", "--allow", "aligner-incomplete")
        seconds, cpu_seconds = time.time() - begin, _cpu_seconds() - used
        _swiftalign("export", str(out), "--output", str(Path(name) / "exported"))
        sets = ("tuning",) if run.seed == TUNING_SEED else ("shifted", "original")
        events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
        plan = json.loads((out / "plan.json").read_text())
        return {
            **asdict(run),
            "tuner": tuner_of(run.method),
            "scores": scores_of(Path(name) / "exported", data, sets),
            "losses": [event["loss"] for event in events if event["kind"] == "log" and "loss" in event],
            "parameters": sum(math.prod(item["shape"]) for item in plan["trainables"]),
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu_seconds, 1),
            "loss": json.loads(trained)["loss"],
            **origin_of(model),
            "device": _device(),
            "date": time.strftime("%Y-%m-%d"),
        }


def _cpu_seconds() -> float:
    """Of all processes that this one has waited for: what other work on the machine leaves alone."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _swiftalign(*words: str) -> str:
    environment = dict(os.environ)
    if torch.cuda.is_available():
        visible = environment.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[torch.cuda.current_device()]
    done = subprocess.run([*SWIFTALIGN, *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"swiftalign {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def logged(origin: dict[str, str] | None = None) -> Lines:
    """Lines of one origin, by default that of the newest run; the first is of the model before training."""
    lines = [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []
    if origin is None:
        origin = {name: lines[-1][name] for name in ORIGIN} if lines else {}
    return [line for line in lines if all(line[name] == value for name, value in origin.items())]


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
                yield Run(method, "large", "none", rate, TUNING_SEED)


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
    """With each method's best rate: the methods seed by seed, then the augmentations."""
    best = best_rates(lines)
    for seed in SEEDS:
        for rows in ROWS:
            yield from (Run(method, rows, "none", best[method], seed) for method in best)
    if "modules_to_save" in best:
        augmentations = [name for name in AUGMENTATIONS if name != "none"]
        for seed in SEEDS:
            for rows in ROWS:
                yield from (Run("modules_to_save", rows, name, best["modules_to_save"], seed) for name in augmentations)


def carry_out_all(model: Path, data: Path, jobs: int) -> None:
    """Log what the log lacks; a run that fails is told and left out."""
    context = get_context("spawn")  # a forked process could not use the GPU that its parent has used
    numbers = context.Queue()
    for number in range(jobs):
        numbers.put(number)
    pending: dict[Future[dict[str, Any]], Run] = {}
    lines, failed = _runs_of(model), set[Run]()
    count = 0
    with ProcessPoolExecutor(jobs, context, _take_gpu, (numbers,)) as pool, LOG.open("a") as log:
        while True:
            for run in wanted_runs(lines, failed):
                if run not in pending.values() and len(pending) < jobs:
                    pending[pool.submit(carry_out, run, model, data)] = run
            if not pending:
                break
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                run = pending.pop(future)
                count += 1
                try:
                    line = future.result()
                except Exception as error:  # hours of other runs wait behind it
                    failed.add(run)
                    print(f"{count}: {run}: {error!r}", flush=True)
                    continue
                log.write(json.dumps(line) + "\n")
                log.flush()
                lines.append(line)
                told = {name: round(mean_accuracy(scores), 3) for name, scores in line["scores"].items()}
                print(f"{count}: {run} {told} {line['seconds']} s", flush=True)


def _take_gpu(numbers: Any) -> None:
    """Spread processes over the GPUs of the machine."""
    if torch.cuda.is_available():
        torch.cuda.set_device(numbers.get() % torch.cuda.device_count())


def _runs_of(model: Path) -> Lines:
    return [line for line in logged(origin_of(model)) if "method" in line]


def score_before(model: Path, data: Path) -> None:
    """Log the scores of the model before training, once."""
    origin = origin_of(model)
    if not logged(origin):
        line = {**origin, "device": _device(), "scores": scores_of(model, data, SCORED)}
        with LOG.open("a") as log:
            log.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PRETRAINED, help="a model folder; by default the demo's")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error("--jobs: one run at a time is the least")
    os.environ["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // options.jobs, 1))  # of each run
    model, jobs = options.model.resolve(), options.jobs
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        make_data(data)
        score_before(model, data)
        carry_out_all(model, data, jobs)


if __name__ == "__main__":
    main()
