"""Run folders and evaluations: ``runs``, ``runs --compare``, ``verify-ckpt RUN``, what ``--resume`` checks, ``eval``.

A run that ``--resume`` goes on with must train the rows that its configuration names, from the plan that it began with.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from unittest.mock import patch

from rich.console import Console

from corruptions.files import WEIGHTS
from corruptions.sound import STEP, build_run
from fuzz.fuzz import show
from fuzz.mutations import in_bytes, in_json, in_lines, in_yaml
from scan_cases import BOX, draw_images, own
from swiftalign.checkpoint.verify import verify
from swiftalign.cli.evaluate import _print
from swiftalign.cli.show import print_verification
from swiftalign.cli.show_runs import print_comparison, print_runs
from swiftalign.config.load import load_config
from swiftalign.data.rows import Rows
from swiftalign.data.scan import read_data
from swiftalign.demo.model import build_model
from swiftalign.evaluation.evaluate import begin, read_settings
from swiftalign.evaluation.kept import PREDICTIONS, SETTINGS, SUMMARY, find_evaluation, stamps
from swiftalign.evaluation.predictions import Prediction, PredictionFile
from swiftalign.evaluation.questions import questions_of
from swiftalign.evaluation.report import Answered, Evaluation
from swiftalign.exports.card import metrics_table
from swiftalign.exports.training import read_training
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.runs import train
from swiftalign.runs.compare import compare
from swiftalign.runs.events import Event, EventWriter
from swiftalign.runs.folder import (
    Start,
    read_index,
    read_left_out,
    read_start,
    write_config,
    write_run_files,
    write_start,
)
from swiftalign.runs.history import find_runs
from swiftalign.runs.peers import Peers
from swiftalign.runs.picture import draw_runs
from swiftalign.runs.processes import ONE
from swiftalign.runs.train import Part
from swiftalign.speed.choices import Choices, read_choices

CHECKPOINT = f"checkpoint-{STEP}"
CONFIG = f"""
model: base
data: {{train: rows.jsonl, val: rows.jsonl}}
tuner: {{train_type: lora, target_regex: '^model\\.visual\\.(merger|deepstack_merger_list\\.\\d+)\\.linear_fc[12]$'}}
training: {{max_steps: {STEP}, eval_strategy: steps, eval_steps: 10, metric_for_best_model: bbox_acc, output_dir: run}}
"""

LABEL = "[/b] \x1b[2J"  # what a terminal and rich would obey
LOADED = ("plan.json", "config.yaml", f"{CHECKPOINT}/trainer_state.json", f"{CHECKPOINT}/adapter_config.json")
# What is done, and the files that are read for it.
ACTIONS: dict[str, tuple[str, ...]] = {
    "runs": ("events.jsonl", "data.json", "versions.json", *LOADED),
    "verify": LOADED,
    "resume": ("events.jsonl", "data.json", "versions.json", "left_out.json", ".start", *LOADED),
    "train": (".start", "left_out.json", "speed.json", "rows.npz"),
}
EVALUATION = (SETTINGS, PREDICTIONS, SUMMARY)


class RunFolders:
    """A run and an evaluation of it; each case damages a copy."""

    names_files = True

    def __init__(self, root: Path) -> None:
        self.folder, self.changed = root / "runs", ""
        base = self.folder / "base"
        build_model(base)
        draw_images(self.folder)
        named = [own(BOX, prompt="Find."), own({**BOX, "label": LABEL}, prompt="Find.")]
        (self.folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in named * 3))
        (self.folder / "config.yaml").write_text(CONFIG)
        self.run, self.sound, self.evaluation = (self.folder / name for name in ("run", "sound-run", "evaluation"))
        checkpoint = build_run("lora", base, self.sound)
        self.config = load_config([self.folder / "config.yaml"])
        data = read_data(self.config)
        self.plan = resolve(self.config, read_model(self.config), rows=data.rows)
        self.choices = Choices(self.plan.schedule.batch)
        self.part = Part(self.config, self.plan, data, self.choices)
        write_run_files(self.sound, self.config, self.plan, data, self.choices)
        write_start(self.sound, Start(checkpoint))
        self._events()
        state = {
            "global_step": STEP,
            "epoch": 5.0,
            "best_global_step": STEP,
            "best_metric": 0.5,
            "best_model_checkpoint": str(self.run / CHECKPOINT),
            "log_history": [{"step": 10, "loss": 0.7}, {"step": STEP, "eval_bbox_acc": 0.5, "eval_loss": 0.3}],
        }
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
        self.phased = self.folder / "phased"
        shutil.copytree(self.sound, self.phased / "phase-1")
        shutil.copytree(self.sound, self.phased / "phase-2")
        write_config(self.phased, self.config)
        (self.sound / "left_out.json").write_text(json.dumps({str(self.folder / "rows.jsonl"): [2]}))
        self.rows = Rows(self.config.data.sources("train"))
        self.questions = questions_of(self.rows)
        settings = {"name": "run", "files": stamps([checkpoint / WEIGHTS]), "limit": None, "rows": [], "url": None}
        begin(self.evaluation, settings)
        answers = [Prediction.of(question, question.answer, logprob=-1.5) for question in self.questions]
        PredictionFile(self.evaluation / PREDICTIONS).add(*answers)
        Evaluation(Answered("run", answers), None, 0, "").write(self.evaluation, self.rows, "rows.jsonl")
        draw_runs(self.folder / "runs.png", {"run": {"loss": {1: 0.5}}})  # matplotlib looks for fonts at first

    def _events(self) -> None:
        write = EventWriter(self.sound).write
        write("stage", name="loading the model")
        write("start", steps=STEP, parameters=10)
        for step in range(10, STEP + 1, 10):
            write("step", step=step)
            write("log", step=step, loss=0.9 / step, aligner_lr=1e-4)
            write("log", step=step, eval_loss=0.5, eval_bbox_acc=step / 100)
        path = str(self.run / CHECKPOINT)
        write("saved", step=STEP, path=path)
        write("done", step=STEP, tokens=9, tokens_per_second=1.0, peak_memory=1, checkpoint=path, best_checkpoint=path)

    def case(self, rng: Random) -> Iterator[str]:
        where = self.evaluation if rng.random() < 0.2 else self.run
        action = rng.choice(list(ACTIONS))
        shutil.copytree(self.sound, self.run)
        kept = dict[Path, bytes]()
        phased = where == self.run and rng.random() < 0.1
        try:
            files = EVALUATION if where == self.evaluation else ACTIONS[action]
            for file in rng.sample(files, rng.choice((1, 1, 2))):
                path = (self.phased / "phase-2" if phased else where) / file
                content = path.read_bytes() if path.exists() else b"{}"
                match path.suffix:
                    case ".jsonl":
                        content = in_lines(content, rng)
                    case ".yaml":
                        content = in_yaml(content, rng)
                    case ".npz":
                        content = in_bytes(content, rng)
                    case _:
                        content = in_json(content, rng) if content else b"{"
                self.changed = f"{file}: {content[:600]!r}"
                if phased or where == self.evaluation:
                    kept[path] = path.read_bytes() if path.exists() else b"{}"
                path.write_bytes(content)
            if where == self.evaluation:
                yield from self._evaluation()
            else:
                yield from self._runs(self.phased if phased else self.run, action, rng)
        finally:
            shutil.rmtree(self.run, ignore_errors=True)
            for path, before in kept.items():
                path.write_bytes(before)

    def _runs(self, run: Path, action: str, rng: Random) -> Iterator[str]:
        text = io.StringIO()
        consoles = [Console(file=text, width=width, highlight=False) for width in (160, 80)]
        if action == "runs":
            found = find_runs(run)
            print_runs(found, rng.choice(consoles))
            json.dumps([each.to_json() for each in found])
            compared = compare([self.sound, run])
            print_comparison(compared, rng.choice(consoles))
            json.dumps(compared.to_json())
            if rng.random() < 0.02:
                draw_runs(self.folder / "runs.png", dict(zip(compared.names, compared.curves, strict=True)))
        elif action == "verify":
            result = verify(run, deep=rng.random() < 0.5)
            json.dumps(result.to_json())
            print_verification(result, consoles[0])
            training = read_training(result.checkpoint)
            show(metrics_table(training.metrics))
            find_evaluation(run.glob(f"{CHECKPOINT}/{WEIGHTS}"), [self.folder])
        elif action == "train":
            read_start(run)
            read_choices(run / "speed.json")
            Rows(self.config.data.sources("train"), read_left_out(run), index=read_index(run))
        elif run == self.run:
            yield from self._resume(rng)
        show(text.getvalue())

    def _resume(self, rng: Random) -> Iterator[str]:
        """What ``--resume`` does before and after training, which is left out."""
        told: list[Event] = []
        if rng.random() < 0.7:  # as a run that was cut off
            lines = (self.run / "events.jsonl").read_bytes().splitlines(keepends=True)
            (self.run / "events.jsonl").write_bytes(b"".join(lines[:-1]))
        with patch("swiftalign.runs.train.follow_training", lambda *given, **named: iter(())), Peers(ONE) as peers:
            result = train._run(self.part, self.run, ONE, peers, told.append, allow=(), resume=True)
        json.dumps(result.to_json(), default=str)
        for event in told:
            show(*(value for value in event.values.values() if isinstance(value, str)))
        if any(event.kind == "begin" for event in told):
            rows = Rows(self.config.data.sources("train"), read_left_out(self.run), index=read_index(self.run))
            if len(rows) != self.part.data.rows.train:
                yield f"--resume trains {len(rows)} rows in place of {self.part.data.rows.train}"

    def _evaluation(self) -> Iterator[str]:
        settings = read_settings(self.evaluation)
        show(*(value for value in settings.values() if isinstance(value, str) and value.isprintable()))
        begin(self.evaluation, {**settings})
        read = PredictionFile(self.evaluation / PREDICTIONS, self.rows.writing).read(self.questions)
        found = [read.get(question.index) or Prediction.of(question, "") for question in self.questions]
        name = str(settings.get("name") or "x")
        evaluation = Evaluation(Answered(name, found), Answered("other", list(reversed(found))))
        json.dumps(evaluation.to_json())
        _print(evaluation, Console(file=(text := io.StringIO()), width=160, highlight=False))
        show(text.getvalue())
        for question in self.questions:
            one = read.get(question.index)
            if one and one.text == question.answer and one.answer.targets != question.truth:
                yield f"{one.text} is read as {one.answer.targets}"
        kept = find_evaluation([self.run / CHECKPOINT / WEIGHTS], [self.folder])
        if kept:
            show(metrics_table(kept.metrics), *kept.files)
