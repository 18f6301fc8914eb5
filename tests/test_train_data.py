"""The data of real training runs: rows that are left out, and samples that do not depend on how they are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from swiftalign.checks.learned import sampled
from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.data.encoded import training_encoder
from swiftalign.data.rows import Rows
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


# -- what is told before training --------------------------------------------------------------------------------------


def told(config: Path, capsys: pytest.CaptureFixture[str], *sets: str, allow: str = "") -> tuple[int, str]:
    """Exit code and messages of a dry run."""
    options = [word for item in sets for word in ("--set", item)]
    options += ["--allow", allow] if allow else []
    return main(["train", str(config), "--dry-run", *options]), capsys.readouterr().err


def write_talk(folder: Path, *answers: str, image: bool = True) -> None:
    """A file of rows of ms-swift's layout, one for each answer."""
    write_dataset(folder / "drawn.jsonl", rows=1, seed=4)
    images = json.loads((folder / "drawn.jsonl").read_text().splitlines()[0])["images"] if image else []
    rows = [
        {"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": each}], "images": images}
        for each in answers
    ]
    with (folder / "rows.jsonl").open("a") as file:
        file.write("".join(f"{json.dumps(row)}\n" for row in rows))


CUP = '[{"bbox_2d": [100, 200, 300, 400], "label": "cup"}]'


def test_an_evaluation_without_an_answer_to_score_is_refused(
    tmp_path: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_training(tmp_path, demo, val="val/rows.jsonl", coordinates="relative1000")
    (tmp_path / "val").mkdir()
    write_talk(tmp_path / "val", "Here.", "[]")
    code, err = told(config, capsys, "custom.grounding_eval.rows=4")
    assert code == 1
    assert "[data-nothing-to-score]" in err
    assert "no validation row has objects, or an answer in JSON that can be read" in err
    write_talk(tmp_path / "val", CUP)
    code, err = told(config, capsys, "custom.grounding_eval.rows=4")
    assert (code, "data-nothing-to-score" in err) == (0, False)


def test_rows_without_an_image_teach_nothing_to_the_aligner(
    tmp_path: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").mkdir()
    write_talk(tmp_path / "text", "Here.", "There.", image=False)
    config = write_training(tmp_path, demo, train="text/rows.jsonl")
    code, err = told(config, capsys)
    assert code == 1
    assert "[data-nothing-to-train]" in err
    assert "2 training rows of 2 without an image" in err
    assert "data-nothing-to-train" not in told(config, capsys, "tuner.freeze_llm=false", "tuner.target_regex=q_proj")[1]
    both = f"data.train=[{tmp_path / 'text/rows.jsonl'}, {tmp_path / 'rows.jsonl'}]"
    code, err = told(config, capsys, both)
    assert code == 0
    assert "[data-rows-without-image]" in err
    assert "2 training rows of 10 without an image" in err


def test_rows_that_augmentation_can_not_move_are_counted(
    tmp_path: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_training(tmp_path, demo)
    write_talk(tmp_path, "At (10, 20).", "At (10, 30).", "Here.")
    code, err = told(config, capsys, "custom.augmentation={preset: conservative}")
    assert code == 0
    assert "only the colours of 2 rows change: its text mentions coordinates that are not understood" in err
    assert "only the colours of 1 row change: its text locates nothing" in err
    assert "data-geometry-kept" not in told(config, capsys)[1]
    for off in ("enabled: false", "bypass_prob: 1"):
        setting = f"custom.augmentation={{preset: conservative, {off}}}"
        assert "data-geometry-kept" not in told(config, capsys, setting)[1]
    phases = "curriculum: {phases: [{until_percent: 50, bypass_prob: 0}]}"
    rising = f"custom.augmentation={{preset: conservative, bypass_prob: 1, {phases}}}"
    assert "data-geometry-kept" in told(config, capsys, rising)[1]


def test_coordinates_of_another_unit_than_the_template_s_are_not_learned(
    tmp_path: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_training(tmp_path, demo)
    assert "data-not-learned" not in told(config, capsys)[1]
    code, err = told(config, capsys, "swift.norm_bbox=none")
    assert code == 1
    assert f"[data-not-learned] {tmp_path / 'rows.jsonl'}:1:" in err
    assert "ms-swift's template for this model writes resized, but the coordinates would be relative1000" in err
    assert told(config, capsys, "swift.norm_bbox=none", allow="data-not-learned")[0] == 0


def test_a_text_that_is_not_what_the_rows_say_is_not_learned(tmp_path: Path, demo: Path) -> None:
    config = load_config([write_training(tmp_path, demo)])
    rows, encoder = Rows(config.data.sources("train")), training_encoder(config)
    assert list(sampled(rows, encoder)) == []
    encode = encoder.template.encode

    def exchanged(row: dict[str, Any], **others: Any) -> Any:
        """Width and height are exchanged in the answer."""
        messages = [*row["messages"][:-1], {**row["messages"][-1]}]
        objects = json.loads(messages[-1]["content"])
        for item in objects:
            for key, value in item.items():
                if isinstance(value, list):
                    item[key] = [n for x, y in zip(value[::2], value[1::2], strict=True) for n in (y, x)]
        messages[-1]["content"] = json.dumps(objects)
        return encode({**row, "messages": messages}, **others)

    encoder.template.encode = exchanged
    found = list(sampled(rows, encoder))
    assert {problem.code for problem in found} == {"data-not-learned"}
    assert found[0].where == f"{tmp_path / 'rows.jsonl'}:1"
    assert len(found) == 3
    assert "but the learned text is" in found[0].message

    def refused(row: dict[str, Any], **others: Any) -> Any:
        raise RuntimeError("no such\ntoken")

    encoder.template.encode = refused
    assert [problem.message for problem in sampled(rows, encoder)] == ["ms-swift can't encode it: no such token"] * 3
