"""Evaluation by generation inside real training: its numbers, and that training is the same with and without it."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from docs_examples import metrics_told
from swiftalign.cli import main
from swiftalign.cli.progress import RunProgress
from swiftalign.config.sections import DataSource
from swiftalign.data.rows import Rows
from swiftalign.demo.data import write_dataset
from swiftalign.demo.model import build_model
from swiftalign.evaluation.predictions import Prediction, PredictionFile
from swiftalign.evaluation.questions import choose_questions, require_kind, to_question, without_answer
from swiftalign.evaluation.summary import metrics
from swiftalign.problems import DataError
from swiftalign.runs.events import Event
from swiftalign.worker.grounding_eval import _random_kept, numbers, of_all, share

# Registers the evaluation, and a probe that writes down in which state it leaves model and template.
PLUGIN = """
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from swift.callbacks import callbacks_map
from swift.callbacks.base import TrainerCallback
from swiftalign.worker.grounding_eval import GroundingEval

ROWS = 3
EVERY = 1

class Probe(TrainerCallback):
    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.lengths = []
        layer = next(m for name, m in model.named_modules() if name.endswith("language_model.layers.0"))
        layer.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module, args, kwargs):
        if not module.training:
            hidden = args[0] if args else kwargs["hidden_states"]
            self.lengths.append(hidden.shape[1])

    def state(self):
        template = self.trainer.template
        model = self.trainer.model
        return {
            "training": sorted({module.training for module in model.modules()}),
            "mode": template.mode,
            "hooks": len(template._handles),
            "packing": [template.packing, template.padding_free],
            "inference": [name for name, weight in model.named_parameters() if weight.is_inference()],
        }

    def on_train_end(self, args, state, control, model=None, **kwargs):
        found = {"lengths": list(self.lengths)}
        model.train()
        self.trainer.template.set_mode("train")
        found["before"] = self.state()
        evaluation = GroundingEval(args, self.trainer, rows=ROWS)
        evaluation.answers()
        found["after"] = self.state()
        evaluation.questions[0] = replace(evaluation.questions[0], index=10**6)
        try:
            evaluation.answers()
        except Exception as error:
            found["error"] = type(error).__name__
        found["after_error"] = self.state()
        Path(args.output_dir, "probe.json").write_text(json.dumps(found))

callbacks_map["grounding"] = partial(GroundingEval, rows=ROWS, every=EVERY)
callbacks_map["probe"] = Probe
"""

ROWS = 3
# Three answers learned by heart, with dropout, so that training draws random numbers.
STEPS, EVAL_STEPS = 45, 15
TRAINING = f"""
data: {{train: [rows.jsonl], val: [rows.jsonl]}}
tuner:
  train_type: lora
  freeze_llm: false
  lora_rank: 32
  lora_dropout: 0.02
  modules_to_save: [model.visual.merger, model.visual.deepstack_merger_list]
training:
  learning_rate: 1.0e-2
  aligner_lr: 1.0e-3
  max_steps: {STEPS}
  per_device_train_batch_size: 3
  per_device_eval_batch_size: 3
  gradient_accumulation_steps: 1
  logging_steps: 1
  save_steps: {EVAL_STEPS}
  load_best_model_at_end: true
"""


def write_rows(path: Path) -> None:
    """One object of each kind, on an image of its own."""
    places = {"bbox_2d": [8, 8, 40, 30], "quad": [10, 8, 40, 8, 40, 30, 10, 30], "line": [4, 4, 30, 30, 60, 4]}
    with path.open("w") as file:
        for key, numbers in places.items():
            Image.new("RGB", (64, 64), (len(key) * 20, 50, 50)).save(path.with_name(f"{key}.png"))
            row = {"images": [f"{key}.png"], "prompt": key, "objects": [{"label": "a", key: numbers}]}
            file.write(json.dumps(row) + "\n")


def train(folder: Path, name: str, *sets: str, every: int = 1) -> Path:
    """A run with the plugin loaded; returns its folder."""
    (folder / "plugin.py").write_text(PLUGIN.replace("EVERY = 1", f"EVERY = {every}"), encoding="utf-8")
    run = folder / name
    options = [f"training.output_dir={run}", f"swift.external_plugins=[{folder / 'plugin.py'}]", *sets]
    assert main(["train", str(folder / "config.yaml"), *(word for item in options for word in ("--set", item))]) == 0
    return run


def history(run: Path) -> list[dict[str, Any]]:
    state: dict[str, Any] = json.loads((last_checkpoint(run) / "trainer_state.json").read_text())
    return list(state["log_history"])


def last_checkpoint(run: Path) -> Path:
    return max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """Its model samples wildly unless told otherwise, as published models sample mildly."""
    folder = tmp_path_factory.mktemp("grounding")
    write_rows(folder / "rows.jsonl")
    shutil.copytree(demo / "model", folder / "model")
    generation = folder / "model/generation_config.json"
    sampling = {"do_sample": True, "temperature": 10.0, "top_k": 0}
    generation.write_text(json.dumps(json.loads(generation.read_text()) | sampling))
    (folder / "config.yaml").write_text(f"model: ./model\n{TRAINING}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def scored(workspace: Path) -> Path:
    """A run that is scored at each evaluation and keeps the best by its boxes."""
    sets = ["training.callbacks=[probe]", "training.metric_for_best_model=eval_bbox_acc"]
    return train(workspace, "scored", f"custom.grounding_eval.rows={ROWS}", *sets)


# -- in training -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_answers_learned_by_heart_are_hits_in_the_log(scored: Path) -> None:
    entries = [entry for entry in history(scored) if "eval_bbox_acc" in entry]
    assert [entry["step"] for entry in entries] == [15, 30, 45]
    names = {name for name in entries[-1] if name.startswith("eval_")}
    assert names >= {"eval_bbox_iou", "eval_quad_acc75", "eval_line_distance", "eval_malformed_answers"}
    last = {name: entries[-1][f"eval_{name}"] for name in ("bbox_acc", "quad_acc", "line_acc", "malformed_answers")}
    assert last == {"bbox_acc": 1.0, "quad_acc": 1.0, "line_acc": 1.0, "malformed_answers": 0.0}


@pytest.mark.slow
def test_the_scores_reach_the_events(scored: Path) -> None:
    events = [json.loads(line) for line in (scored / "events.jsonl").read_text().splitlines()]
    assert sum("eval_bbox_acc" in event for event in events if event["kind"] == "log") == 3


@pytest.mark.slow
def test_the_answers_are_kept_and_the_worst_shown_in_tensorboard(scored: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = [15, 30, 45]
    rows = Rows([scored.parent / "rows.jsonl"])
    for step, entry in zip(steps, [e for e in history(scored) if "eval_bbox_acc" in e], strict=True):
        lines = (scored / f"predictions/step-{step}.jsonl").read_text(encoding="utf-8").splitlines()
        assert {json.loads(line)["row"] for line in lines} == set(range(ROWS))
        kept = PredictionFile(scored / f"predictions/step-{step}.jsonl").read(choose_questions(rows, ROWS))
        found = metrics(list(kept.values()))
        assert found == {name: pytest.approx(entry[f"eval_{name}"], abs=1e-5) for name in found}
    [file] = (scored / "runs").glob("events.out.*")
    board = EventAccumulator(str(file)).Reload()
    assert [image.step for image in board.Images("eval/worst_answers")] == steps


@pytest.mark.slow
def test_every_name_that_a_run_logs_is_on_the_page_of_metrics(scored: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = [json.loads(line) for line in (scored / "events.jsonl").read_text().splitlines()]
    written = [event for event in events if event["kind"] == "log"]
    lines = [json.loads(line) for line in (scored / "logging.jsonl").read_text().splitlines()][:-1]  # a summary is last
    logged = {name for each in (*written, *lines) for name in each} - {"time", "kind", "step"}
    [file] = (scored / "runs").glob("events.out.*")
    tags = EventAccumulator(str(file)).Reload().Tags()["scalars"]
    shown = {tag.removeprefix("train/").replace("eval/", "eval_") for tag in tags}
    rates, progress = {name for name in logged if name.startswith("rate_")}, lines[0].keys() - written[0].keys()
    assert shown == logged - rates - progress
    told = {
        name
        for heading in ("Training", "Evaluation by loss", "Evaluation by answers")
        for name in metrics_told(heading)
    }
    assert logged - told == set()
    unmeasured = {name for name in told - logged if name.startswith(("eval_point_", "eval_polygon_"))}
    assert told - logged - unmeasured - {"memory(GiB)"} == {"rate_vit"}  # the ViT is frozen; there may be no GPU
    assert metrics_told("At the end") - events[-1].keys() == {"loss", "seconds"}


def test_malformed_answers_are_told_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    progress = RunProgress(Console(width=160))
    progress.show(Event("start", {"steps": 30, "step": 0}))
    progress.show(Event("answers", {"step": 15, "rows": 64, "malformed": 0, "path": "a"}))
    example = {"where": "val.jsonl:7", "text": "[{\n  no"}
    progress.show(Event("answers", {"step": 30, "rows": 64, "malformed": 2, "path": "a", **example}))
    assert capsys.readouterr().out == "step 30/30  2 of 64 answers are malformed, e.g. val.jsonl:7: [{ no\n"


def test_the_scores_are_printed_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    progress = RunProgress(Console(width=160))
    progress.show(Event("start", {"steps": 30, "step": 0}))
    progress.show(Event("log", {"step": 15, "eval_bbox_acc": 0.5, "eval_line_acc": 1.0, "eval_token_acc": 0.1}))
    assert capsys.readouterr().out == "step 15/30  bbox_acc 0.500  line_acc 1.000\n"


@pytest.mark.slow
def test_the_best_model_is_the_first_with_the_best_score_not_the_one_with_the_least_loss(scored: Path) -> None:
    scores = {entry["step"]: entry["eval_bbox_acc"] for entry in history(scored) if "eval_bbox_acc" in entry}
    losses = {entry["step"]: entry["eval_loss"] for entry in history(scored) if "eval_loss" in entry}
    state = json.loads((last_checkpoint(scored) / "trainer_state.json").read_text())
    best = max(scores, key=lambda step: scores[step])
    assert state["best_metric"] == scores[best]
    assert state["best_model_checkpoint"] == str(scored / f"checkpoint-{best}")
    assert best != min(losses, key=lambda step: losses[step])


@pytest.mark.slow
def test_training_is_the_same_without_it(scored: Path, workspace: Path) -> None:
    """A callback's generation draws no random number that training would have drawn."""
    plain = train(workspace, "plain")

    losses = [
        [
            (entry["step"], name, entry[name])
            for entry in history(run)
            for name in ("loss", "eval_loss")
            if name in entry
        ]
        for run in (scored, plain)
    ]
    assert len(losses[0]) == STEPS + STEPS // EVAL_STEPS
    assert losses[0] == losses[1]
    weights = [(last_checkpoint(run) / "adapter_model.safetensors").read_bytes() for run in (scored, plain)]
    assert weights[0] == weights[1]


def _has_loss(entry: dict[str, Any]) -> bool:
    return "loss" in entry or "eval_loss" in entry


@pytest.mark.slow
def test_each_token_after_the_first_reuses_the_cache(scored: Path) -> None:
    """ms-swift trains with use_cache off; generation takes it on."""
    lengths = json.loads((scored / "probe.json").read_text())["lengths"]
    assert lengths.count(1) > 3 * 40
    assert len([length for length in lengths if length > 1]) == 3 * 2  # the loss and the prompts, at each evaluation


@pytest.mark.slow
def test_model_and_template_are_left_as_they_were_even_by_an_error(scored: Path) -> None:
    found = json.loads((scored / "probe.json").read_text())
    assert found["before"]["training"] == [True]
    assert found["before"]["mode"] == "train"
    assert found["before"]["inference"] == []
    assert found["after"] == found["before"]
    assert found["error"]
    assert found["after_error"] == found["before"]


@pytest.mark.slow
def test_a_bf16_base_writes_under_the_autocast_of_training(workspace: Path) -> None:
    """peft generates past the forward that the trainer wraps: float32 trainables would meet bf16 activations."""
    build_model(workspace / "bf16", dtype="bfloat16")
    sets = [f"model.path={workspace / 'bf16'}", "training.max_steps=1", "training.save_steps=1"]
    run = train(workspace, "run-bf16", "training.callbacks=[grounding]", *sets)
    assert sum("eval_quad_acc" in entry for entry in history(run)) == 1


@pytest.mark.slow
def test_every_second_evaluation_is_scored_also_after_a_resume(workspace: Path) -> None:
    sets = ["training.callbacks=[grounding]", "training.save_steps=1", "training.load_best_model_at_end=false"]
    first = train(workspace, "first", *sets, "training.max_steps=3", every=2)
    assert scored_steps(first) == [1, 3]

    resumed = train(
        workspace,
        "resumed",
        *sets,
        "training.max_steps=6",
        f"training.resume_from_checkpoint={first / 'checkpoint-2'}",
        every=2,
    )
    assert scored_steps(resumed) == [1, 3, 5]


def scored_steps(run: Path) -> list[int]:
    return [entry["step"] for entry in history(run) if "eval_malformed_answers" in entry]


# -- rows and counts ---------------------------------------------------------------------------------------------------


@pytest.fixture
def demo_rows(tmp_path: Path) -> Rows:
    write_dataset(tmp_path / "val.jsonl", rows=40, seed=5)
    return Rows([tmp_path / "val.jsonl"])


def test_a_model_that_writes_the_true_answers_scores_one(demo_rows: Rows) -> None:
    questions = choose_questions(demo_rows, 40)
    assert len(questions) == 40
    found = metrics([Prediction.of(question, question.answer) for question in questions])
    assert {found[name] for name in ("bbox_acc", "quad_acc", "line_acc", "bbox_iou", "quad_iou")} == {1.0}
    assert found["line_distance"] == found["malformed_answers"] == 0.0


def test_a_question_has_no_answer_in_it(demo_rows: Rows) -> None:
    row = demo_rows[3]
    question = to_question(demo_rows, 3)
    assert question is not None
    assert [message["role"] for message in without_answer(row)["messages"]] == ["user"]
    assert question.index == 3
    assert question.answer == row["messages"][-1]["content"]
    assert question.size == Image.open(demo_rows.row(3).images[0]).size


def test_the_same_rows_are_chosen_again_and_not_only_the_first(demo_rows: Rows) -> None:
    first, second = (choose_questions(demo_rows, 8) for _ in range(2))
    assert first == second
    indices = {question.index for question in first}
    assert indices != set(range(8))
    assert len(indices) == 8


def test_rows_without_a_grounding_answer_are_left_out(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    asked = {"role": "user", "content": "<image>Where is it?"}
    answer = {"role": "assistant", "content": '[{"bbox_2d": [1, 2, 300, 400], "label": "cup"}]'}

    def row(*messages: dict[str, Any], images: list[str] | None = None) -> dict[str, Any]:
        return {"messages": list(messages), "images": ["a.png"] if images is None else images}

    others = [
        row({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, images=[]),
        row({"role": "user", "content": "Where is it?"}, answer, images=[]),
        row({"role": "user", "content": "<image><image>Where?"}, answer, images=["a.png", "a.png"]),
        row(asked, answer, images=["https://example.org/1.png"]),
        row(asked, {"role": "assistant", "content": '[{"bbox_2d": [1, 2'}),
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(each)}\n" for each in [*others, row(asked, answer)]), encoding="utf-8")
    rows = Rows([file])
    assert choose_questions(rows, 5) == [to_question(rows, len(others))]
    file.write_text("".join(f"{json.dumps(each)}\n" for each in others), encoding="utf-8")
    with pytest.raises(DataError, match="no validation row asks where something is"):
        choose_questions(Rows([file]), 5)


def test_a_metric_of_a_kind_that_no_question_asks_for_is_refused(demo_rows: Rows) -> None:
    boxes = [question for question in choose_questions(demo_rows, 40) if {t.kind for t in question.truth} == {"bbox"}]
    for metric in ("eval_bbox_acc", "bbox_iou", "eval_loss", "malformed_answers", None):
        require_kind(metric, boxes)
    with pytest.raises(DataError, match=f"none of the {len(boxes)} rows to answer holds a quad"):
        require_kind("eval_quad_acc", boxes)


@pytest.mark.parametrize(("count", "processes"), [(1, 1), (1, 4), (3, 2), (8, 2), (10, 4)])
def test_processes_take_equally_many_and_every_row(count: int, processes: int) -> None:
    shares = [share(count, rank, processes) for rank in range(processes)]
    assert len({len(part) for part in shares}) == 1
    assert {index for part in shares for index in part} == set(range(count))


def _answer_in_process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    texts = of_all({index: f"{index} by {rank}" for index in share(5, rank, 2)}, 2)
    torch.distributed.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(texts))


@pytest.mark.slow
def test_two_processes_have_the_same_answers(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_answer_in_process, (str(tmp_path),), nprocs=2)
    expected = {"0": "0 by 0", "1": "1 by 1", "2": "2 by 0", "3": "3 by 1", "4": "4 by 0"}
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [expected, expected]


def test_each_of_several_files_has_numbers_of_its_own(demo_rows: Rows, tmp_path: Path) -> None:
    write_dataset(tmp_path / "other.jsonl", rows=3, seed=6)
    other = DataSource(path=str(tmp_path / "other.jsonl"), name="others")
    questions = choose_questions(Rows([demo_rows.files[0].path, other]), 43)
    assert sorted(question.source for question in questions) == ["others"] * 3 + ["val"] * 40
    answers = [Prediction.of(each, "no answer" if each.source == "others" else each.answer) for each in questions]
    told = {
        name: value for name, value in numbers(answers, by_source=True).items() if name.endswith("malformed_answers")
    }
    assert told == {
        "eval_malformed_answers": pytest.approx(3 / 43),
        "eval_val_malformed_answers": 0.0,
        "eval_others_malformed_answers": 1.0,
    }


def test_what_is_drawn_during_an_evaluation_is_drawn_again_after_it() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(1))

    with _random_kept():
        within = draw()
    assert draw() == within
