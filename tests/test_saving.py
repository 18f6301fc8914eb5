"""Rows per step, and which checkpoints a run leaves: delayed, the best, the last, and when it is stopped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftalign.checkpoint.choose import checkpoints_of, choose
from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config, ModelSection, TrainingSection
from swiftalign.data.files import RowCounts
from swiftalign.init.recipes import write_config
from swiftalign.plan.schedule import read_schedule

# -- rows per step -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    rows=st.integers(1, 300),
    batch=st.one_of(st.just("auto"), st.integers(1, 40)),
    processes=st.integers(1, 9),
    fitting=st.integers(1, 50),
)
def test_a_step_has_the_rows_that_are_asked_for_or_fewer_than_a_batch_more(
    rows: int, batch: Any, processes: int, fitting: int
) -> None:
    training = TrainingSection(effective_batch_size=rows, per_device_train_batch_size=batch)
    config = Config(model=ModelSection(path="model"), training=training)
    schedule = read_schedule(config, RowCounts(1000, 0), processes=processes, fitting=fitting)
    smallest = processes if batch == "auto" else batch * processes
    assert rows <= schedule.global_batch < rows + smallest
    assert schedule.global_batch == schedule.batch * schedule.accumulation * processes
    assert batch != "auto" or schedule.batch <= fitting


# -- real runs ---------------------------------------------------------------------------------------------------------

# A metric that is best before step 3, and after it at step 4. In step 2 a file asks the run to stop, if there is one
# that says so. What the trainer was given is written down.
PLUGIN = """
import json
from pathlib import Path
from swift.callbacks import callbacks_map
from swift.callbacks.base import TrainerCallback
VALUES = [0.9, 0.8, 0.3, 0.5, 0.4, 0.45]
NAMES = "{names}".split()
class Known(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        given = {{name: getattr(args, name) for name in NAMES}}
        template = self.trainer.template
        given |= {{"padding_free": template.padding_free, "packing": template.packing}}
        Path(args.output_dir, "given.json").write_text(json.dumps(given, default=str))
    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics["eval_known"] = VALUES[state.global_step - 1]
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1 and Path("{stopping}").exists():
            Path(args.output_dir, ".stop").touch()
callbacks_map["known"] = Known
"""

# The trainer's arguments of the same names, as they stand in TRAINING.
HANDED_THROUGH = {
    "lr_scheduler_type": "cosine_warmup_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr": 1.0e-6},
    "max_grad_norm": 0.5,
    "seed": 17,
    "logging_first_step": True,
    "run_name": "tried",
    "log_level": "info",
    "save_only_model": False,
}
TRAINING = {
    **HANDED_THROUGH,
    "max_steps": 6,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 16,
    "effective_batch_size": 4,
    "packing": True,
    "logging_steps": 1,
    "report_to": "tensorboard",
    "callbacks": "known",
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "best",
    "save_total_limit": 1,
    "save_delay_steps": 3,
    "metric_for_best_model": "eval_known",
    "greater_is_better": True,
    "early_stopping": {"patience": 3},
    "dataloader_num_workers": 0,
    "dataloader_pin_memory": False,
    "dataloader_prefetch_factor": 2,
    "dataloader_persistent_workers": True,
}

Train = Callable[..., int]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Train:
    """Train the demo model in a run folder, with the options of the command line."""
    folder = tmp_path_factory.mktemp("saving")
    plugin, config = folder / "plugin.py", folder / "config.yaml"
    plugin.write_text(PLUGIN.format(names=" ".join(HANDED_THROUGH), stopping=folder / "stop"), encoding="utf-8")
    text = write_config(
        model=str(demo / "model"),
        method="modules_to_save",
        train=str(demo / "data/train.jsonl"),
        steps=6,
        training=TRAINING | {"logging_dir": str(folder / "logs")},
    )
    config.write_text(text, encoding="utf-8")
    sets = (
        f"data.val={demo / 'data/val.jsonl'}",
        "data.dataset_num_proc=2",
        f"swift={{external_plugins: {plugin}, create_checkpoint_symlink: true}}",
    )

    def run(run_folder: Path, *overrides: str, stop: bool = False, resume: bool = False) -> int:
        (folder / "stop").touch() if stop else (folder / "stop").unlink(missing_ok=True)
        words = [f"training.output_dir={run_folder}", *sets, *overrides]
        options = [word for item in words for word in ("--set", item)]
        with patch.dict(os.environ, TENSORBOARD_LOGGING_DIR=str(folder / "by-the-environment")):
            return main(["train", str(config), *options, *(["--resume"] if resume else [])])

    return run


def saved(run: Path) -> list[str]:
    return [checkpoint.name for checkpoint in checkpoints_of(run)]


@pytest.fixture(scope="module")
def run(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose best model after the delay is at step 4, and whose last step is saved too."""
    folder = tmp_path_factory.mktemp("best") / "run"
    assert train(folder, "training.save_last_epoch=true") == 0
    return folder


@pytest.mark.slow
def test_early_evaluations_do_not_count_and_the_end_is_saved_beside_the_best(run: Path) -> None:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["kind"] == "saved"] == [3, 4, 6]
    # Two evaluations without an improvement: counted from step 1, there would be three at step 4.
    assert saved(run) == ["checkpoint-4", "checkpoint-6"]
    assert (events[-1]["best_metric"], events[-1]["best_checkpoint"]) == (0.5, str(run / "checkpoint-4"))
    assert (run / "best").resolve() == run / "checkpoint-4"
    assert (run / "last").resolve() == run / "checkpoint-6"


@pytest.mark.slow
def test_a_run_that_keeps_the_best_is_verified_and_exported_by_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose(run).path == run / "checkpoint-4"
    assert main(["verify-ckpt", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(run / "checkpoint-4")
    assert main(["export", str(run), "-o", str(tmp_path / "model")]) == 0
    assert f"from        {run / 'checkpoint-4'}  (the best by known: 0.5000)" in capsys.readouterr().out
    card = (tmp_path / "model/README.md").read_text(encoding="utf-8")
    assert "| checkpoint | `checkpoint-4` of the run `run`, the best by known: 0.5000 |" in card
    chosen = json.loads((tmp_path / "model/export.json").read_text(encoding="utf-8"))["chosen"]
    assert (chosen["why"], chosen["metric"], chosen["value"]) == ("best", "known", 0.5)
    other = tmp_path / "other"
    shutil.copytree(run, other, symlinks=True)
    config = (other / "config.yaml").read_text(encoding="utf-8")
    (other / "config.yaml").write_text(config.replace("save_strategy: best", "save_strategy: steps"), encoding="utf-8")
    assert choose(other).path == other / "checkpoint-6"
    (other / "config.yaml").write_text("training: {unknown: 1}", encoding="utf-8")
    assert choose(other).path == other / "checkpoint-6"


@pytest.mark.slow
def test_settings_reach_the_trainer(run: Path) -> None:
    given = json.loads((run / "given.json").read_text(encoding="utf-8"))
    arguments = json.loads((run / "args.json").read_text(encoding="utf-8"))
    expected = {**HANDED_THROUGH, "lr_scheduler_type": given["lr_scheduler_type"]}  # an enum there
    assert {name: given[name] for name in HANDED_THROUGH} == expected
    assert "warmup_with_min_lr" in given["lr_scheduler_type"].lower()
    assert given["padding_free"]
    assert not given["packing"]
    assert not arguments["packing"]
    assert (arguments["report_to"], arguments["gradient_accumulation_steps"]) == (["tensorboard"], 2)
    logs = Path(arguments["logging_dir"])  # as configured, whatever the environment says
    assert logs.name == "logs"
    assert list(logs.glob("events.out.tfevents.*"))
    assert not logs.with_name("by-the-environment").exists()


@pytest.mark.slow
@pytest.mark.long
def test_a_stopped_run_saves_before_the_delay_is_over_and_resumes_within_it(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train(folder, "training.logging_dir=null", stop=True) == 0
    assert saved(folder) == ["checkpoint-2"]  # an evaluation that is not the best, of two that do not count
    state = json.loads((folder / "checkpoint-2/trainer_state.json").read_text(encoding="utf-8"))
    assert state["best_metric"] is None
    assert train(folder, "training.logging_dir=null", resume=True) == 0
    assert saved(folder) == ["checkpoint-4"]  # without save_last_epoch, the last step is not saved
    assert (folder / "last").resolve() == (folder / "best").resolve() == folder / "checkpoint-4"
    logs = Path(json.loads((folder / "args.json").read_text(encoding="utf-8"))["logging_dir"])
    assert logs.name == "by-the-environment"
    assert len(list(logs.glob("events.out.tfevents.*"))) == 2  # one more by the resumed run


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("save_strategy=no", "save_last_epoch=true"), ["checkpoint-6"]),
        (("save_strategy=no",), []),
        (("save_strategy=steps", "save_steps=4", "save_total_limit=9"), ["checkpoint-4", "checkpoint-6"]),
        # Without a delay the first evaluation is the best, and the third after it ends the run.
        (("save_strategy=steps", "save_steps=3", "save_delay_steps=0"), ["checkpoint-3"]),
        (("save_strategy=steps", "save_steps=3", "save_delay_steps=0", "save_last_epoch=true"), ["checkpoint-4"]),
        (("save_strategy=epoch", "save_delay_steps=0", "save_delay_epochs=0.1", "max_steps=3"), ["checkpoint-3"]),
        (
            ("save_strategy=epoch", "save_delay_epochs=2", "save_delay_steps=0", "save_last_epoch=true"),
            ["checkpoint-6"],
        ),
    ],
)
def test_the_end_of_a_run_is_saved_as_configured(
    train: Train, tmp_path: Path, overrides: tuple[str, ...], expected: list[str]
) -> None:
    assert train(tmp_path / "run", *(f"training.{item}" for item in overrides)) == 0
    assert saved(tmp_path / "run") == expected


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("metric", "greater"), [("eval_loss", False), ("eval_token_acc", True)])
def test_the_best_model_is_chosen_by_what_ms_swift_measures(
    train: Train, tmp_path: Path, metric: str, *, greater: bool
) -> None:
    run = tmp_path / "run"
    overrides = (f"metric_for_best_model={metric}", f"greater_is_better={str(greater).lower()}", "save_only_model=true")
    assert train(run, *(f"training.{item}" for item in overrides)) == 0
    state = json.loads((checkpoints_of(run)[-1] / "trainer_state.json").read_text(encoding="utf-8"))
    measured = [log[metric] for log in state["log_history"] if metric in log and log["step"] >= 3]
    assert state["best_metric"] == pytest.approx((max if greater else min)(measured), rel=1e-6)
    assert not (checkpoints_of(run)[-1] / "optimizer.pt").exists()
    assert load_config([run / "config.yaml"]).training.keeps_best
