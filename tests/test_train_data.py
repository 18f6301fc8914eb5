"""The data of real training runs: rows that are left out, and samples that do not depend on how they are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from swiftalign.cli import main
from swiftalign.demo.data import write_dataset
from swiftalign.plan.plan import read_plan

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parent / "guide/06_augmentation.yaml"


def write_training(folder: Path, demo: Path, **data: Any) -> Path:
    """A configuration with the guide's augmentation, 8 rows and 4 steps an epoch."""
    if not (folder / "rows.jsonl").exists():
        write_dataset(folder / "rows.jsonl", rows=8, seed=4)
    values = {
        "model": str(demo / "model"),
        "data": {"train": "rows.jsonl", **data},
        "tuner": {  # with dropout, whose draws must not depend on the loader either
            "target_regex": r"^model\.visual\.deepstack_merger_list\.\d+\.linear_fc1$",
            "lora_dropout": 0.1,
            "modules_to_save": ["model.visual.merger"],
        },
        "training": {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 2,
            "max_steps": 6,
            "save_steps": 1,
            "logging_steps": 1,  # else the loss of a resumed run is the mean over fewer steps
            "aligner_lr": 1e-3,
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "config.yaml"


def train(config: Path, run: Path, *sets: str, overlays: tuple[Path, ...] = (GUIDE,)) -> Path:
    options = [word for item in (f"training.output_dir={run}", *sets) for word in ("--set", item)]
    assert main(["train", str(config), *map(str, overlays), *options]) == 0
    return run


def weights(run: Path, step: int = 6) -> bytes:
    return (run / f"checkpoint-{step}/adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    return write_training(tmp_path_factory.mktemp("data"), demo)


@pytest.fixture(scope="module")
def straight(config: Path) -> Path:
    return train(config, config.parent / "straight")


def test_augmentation_changes_what_is_learned(config: Path, straight: Path) -> None:
    plain = train(config, config.parent / "plain", overlays=())
    assert weights(plain) != weights(straight)


def test_workers_make_no_difference(config: Path, straight: Path) -> None:
    run = train(
        config,
        config.parent / "workers",
        "training.dataloader_num_workers=2",
        "training.dataloader_persistent_workers=true",
    )
    assert weights(run) == weights(straight)


@pytest.mark.parametrize("step", [3, 5])  # in the first epoch, and in the second
def test_a_resumed_run_sees_the_same_samples(step: int, config: Path, straight: Path) -> None:
    run = train(
        config,
        config.parent / f"from-{step}",
        f"training.resume_from_checkpoint={straight / f'checkpoint-{step}'}",
        "training.dataloader_num_workers=2",
    )
    assert weights(run) == weights(straight)
    losses = [
        {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}
        for state in (json.loads((each / "checkpoint-6/trainer_state.json").read_text()) for each in (run, straight))
    ]
    assert losses[0] == losses[1]


def test_rows_that_are_too_long_are_left_out(tmp_path: Path, demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ms-swift would end the run at the first of them."""
    write_dataset(tmp_path / "rows.jsonl", rows=8, seed=4)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for index in (2, 5):
        rows[index]["prompt"] = "Find everything. " * 400
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    write_training(tmp_path, demo, too_long="drop", max_length=1200)

    run = train(tmp_path / "config.yaml", tmp_path / "run", "training.max_steps=0", "training.num_train_epochs=1")

    assert json.loads((run / "left_out.json").read_text()) == {str(tmp_path / "rows.jsonl"): [3, 6]}
    schedule = read_plan(run / "plan.json").schedule
    assert (schedule.train_rows, schedule.steps) == (6, 3)
    state = json.loads((run / "checkpoint-3/trainer_state.json").read_text())
    assert (state["global_step"], state["epoch"]) == (3, 1.0)
    assert "rows longer than max_length are left out" in capsys.readouterr().err


def test_a_run_without_a_row_that_is_short_enough_is_refused(
    tmp_path: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_training(tmp_path, demo, too_long="drop", max_length=20)
    assert main(["train", str(config)]) == 2
    assert "every row is left out as too long" in capsys.readouterr().err


def test_the_best_model_is_not_told_by_a_kind_that_validation_lacks(
    tmp_path: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_training(tmp_path, demo, val="rows.jsonl")
    boxes = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for row in boxes:
        row["objects"] = [item for item in row["objects"] if "bbox_2d" in item]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in boxes), encoding="utf-8")
    sets = ["training.metric_for_best_model=line_acc", "custom.grounding_eval.rows=4"]
    assert main(["train", str(config), *(word for item in sets for word in ("--set", item))]) == 1
    err = capsys.readouterr().err
    assert "metric_for_best_model: line_acc, but no validation row holds a line" in err
    assert "choose one that the rows have: bbox_acc" in err
