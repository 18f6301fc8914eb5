"""What comparisons of trainings share: a log of runs, the processes and GPUs that make them, intervals, and tables."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from itertools import accumulate, pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from scipy.stats import t as student

from common import SWIFTALIGN
from swiftalign.demo.camera import NEW_CAMERA
from swiftalign.demo.workspace import DEMO_TRAINING, PRETRAINED
from swiftalign.evaluation.session import Session
from swiftalign.evaluation.summary import metrics

DTYPE = "bfloat16"  # on a CPU too, where it takes a third longer than float32: runs of both are compared
STEPS, BATCH = DEMO_TRAINING["max_steps"], DEMO_TRAINING["per_device_train_batch_size"]
ROWS = {"small": 64, "large": 2048}
ORIGIN = ("model", "camera", "dtype", "steps")  # what a line shares with those that it is compared with
TRAINING: dict[str, Any] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": BATCH,
    "gradient_accumulation_steps": 1,
    "padding_free": True,
    "gradient_checkpointing": False,
    "logging_steps": 10,
    "save_steps": STEPS,
    "save_only_model": True,
}

Line = dict[str, Any]
Lines = list[Line]
AnyRun = TypeVar("AnyRun")


def scores_of(folder: Path, data: Path, sets: Collection[str]) -> dict[str, dict[str, float]]:
    """What a model's answers to these sets of rows come to; all are asked together, which takes a GPU hardly longer."""
    ends = list(accumulate(len((data / f"{name}.jsonl").read_text().splitlines()) for name in sets))
    with tempfile.TemporaryDirectory() as answers:
        session = Session.open(folder, [data / f"{name}.jsonl" for name in sets])
        found = session.answers(Path(answers))
    answered = [[each for each in found if begin <= each.question.index < end] for begin, end in pairwise((0, *ends))]
    return {name: metrics(predictions) for name, predictions in zip(sets, answered, strict=True)}


def origin_of(model: Path) -> dict[str, str]:
    """What runs must share to be compared."""
    found = {"model": (model / "model.safetensors").read_bytes(), "camera": repr(NEW_CAMERA).encode()}
    digests = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in found.items()}
    return {**digests, "dtype": DTYPE, "steps": f"{STEPS} x {BATCH} rows"}


def device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def cpu_seconds() -> float:
    """Of all processes that this one has waited for: what other work on the machine leaves alone."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def swiftalign(*words: str) -> str:
    """Run a command on the GPU of this process; returns what it prints."""
    environment = dict(os.environ)
    if torch.cuda.is_available():
        visible = environment.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[torch.cuda.current_device()]
    done = subprocess.run([*SWIFTALIGN, *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"swiftalign {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def logged(log: Path, origin: Mapping[str, str] | None = None) -> Lines:
    """Lines of one origin, by default that of the newest run; the first is of the model before training."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if origin is None:
        origin = {name: lines[-1][name] for name in ORIGIN} if lines else {}
    return [line for line in lines if all(line[name] == value for name, value in origin.items())]


def carry_out_all(
    log: Path,
    model: Path,
    jobs: int,
    wanted: Callable[[Lines, Collection[AnyRun]], Iterable[AnyRun]],
    carry_out: Callable[[AnyRun], Line],
) -> None:
    """Log what the log lacks; a run that fails is told and left out.

    Args:
        wanted: the runs that are to be made next, by the lines that are there and the runs that failed.
        carry_out: makes a run in a process of its own, and returns its line.
    """
    os.environ["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // jobs, 1))  # of each run
    context = get_context("spawn")  # a forked process could not use the GPU that its parent has used
    numbers = context.Queue()
    for number in range(jobs):
        numbers.put(number)
    pending: dict[Future[Line], AnyRun] = {}
    lines, failed = logged(log, origin_of(model))[1:], set[AnyRun]()
    count = 0
    with ProcessPoolExecutor(jobs, context, _take_gpu, (numbers,)) as pool, log.open("a") as file:
        while True:
            for run in wanted(lines, failed):
                if run not in pending.values() and len(pending) < jobs:
                    pending[pool.submit(carry_out, run)] = run
            if not pending:
                break
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                run = pending.pop(future)
                count += 1
                try:
                    line = {**future.result(), **origin_of(model), "date": time.strftime("%Y-%m-%d")}
                except Exception as error:  # hours of other runs wait behind it
                    failed.add(run)
                    print(f"{count}: {run}: {error!r}", flush=True)
                    continue
                file.write(json.dumps(line) + "\n")
                file.flush()
                lines.append(line)
                print(f"{count}: {run}: {line['seconds']} s", flush=True)


def compare(
    description: str | None,
    log: Path,
    make_data: Callable[[Path, int], None],
    sets: Collection[str],
    wanted: Callable[[Lines, Collection[AnyRun]], Iterable[AnyRun]],
    carry_out: Callable[..., Line],
) -> None:
    """The command of a comparison: make its data, score the model before training, and make the runs that it lacks.

    Args:
        make_data: fills a folder, by so many processes.
        sets: names of the rows that the model before training answers.
        wanted: as of `carry_out_all`.
        carry_out: makes a run; the model and the folder of data are its arguments ``model`` and ``data``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PRETRAINED, help="a model folder; by default the demo's")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error("--jobs: one run at a time is the least")
    model = options.model.resolve()
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        make_data(data, options.jobs)
        score_before(log, model, data, sets)
        carry_out_all(log, model, options.jobs, wanted, partial(carry_out, model=model, data=data))


def _take_gpu(numbers: Any) -> None:
    """Spread processes over the GPUs of the machine."""
    if torch.cuda.is_available():
        torch.cuda.set_device(numbers.get() % torch.cuda.device_count())


def score_before(log: Path, model: Path, data: Path, sets: Collection[str]) -> None:
    """Log the scores of the model before training, once."""
    origin = origin_of(model)
    if not logged(log, origin):
        line = {**origin, "device": device(), "scores": scores_of(model, data, sets)}
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")


def trained(config: Mapping[str, Any], folder: Path) -> Line:
    """Train by ``swiftalign train``; returns what a line holds of any run.

    Args:
        folder: for the configuration, and for the run, which is in its folder ``run``.
    """
    file, out = folder / "config.json", folder / "run"
    training = {**TRAINING, **config["training"], "output_dir": str(out)}
    file.write_text(json.dumps({**config, "training": training}))  # JSON is YAML
    begin, used = time.time(), cpu_seconds()
    done = json.loads(swiftalign("train", str(file), "--json", "--allow", "aligner-incomplete"))
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return {
        "losses": [event["loss"] for event in events if event["kind"] == "log" and "loss" in event],
        "loss": done["loss"],
        "seconds": round(time.time() - begin, 1),
        "cpu_seconds": round(cpu_seconds() - used, 1),
        "device": device(),
    }


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% interval; nan of one or two values, for which it says nothing."""
    found = list(values)
    if len(found) < 3:
        return statistics.mean(found), float("nan")
    width = float(student.ppf(0.975, len(found) - 1))
    return statistics.mean(found), width * statistics.stdev(found) / len(found) ** 0.5


def is_sure(values: Iterable[float]) -> bool:
    """Whether their mean's interval is on one side of zero."""
    mean, half = interval(values)
    return abs(mean) > half


def told(values: Iterable[float], sign: str = "") -> str:
    """In percent, as ``87.1 ± 1.2``."""
    mean, half = interval(values)
    return f"{100 * mean:{sign}.1f}" if half != half else f"{100 * mean:{sign}.1f} ± {100 * half:.1f}"


def told_difference(values: Iterable[float]) -> str:
    """In points, in bold where the interval excludes zero."""
    found = list(values)
    return f"**{told(found, '+')}**" if is_sure(found) else told(found, "+")


def select(lines: Lines, **wanted: Any) -> Lines:
    return [line for line in lines if all(line[name] == value for name, value in wanted.items())]


def differences(runs: Lines, others: Lines, values_of: Callable[[Line], list[float]]) -> list[list[float]]:
    """Of each value, the differences seed by seed, for the seeds that both have."""
    mine, theirs = ({line["seed"]: values_of(line) for line in lines} for lines in (runs, others))
    pairs = [zip(mine[seed], theirs[seed], strict=True) for seed in sorted(mine.keys() & theirs.keys())]
    return [list(column) for column in zip(*([one - other for one, other in pair] for pair in pairs), strict=True)]
