"""Which checkpoint of a run is taken, and why; the trainer's files are as transformers writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from swiftalign.checkpoint.choose import choose
from swiftalign.cli import main
from swiftalign.problems import ModelError

BEST = "training: {load_best_model_at_end: true, save_steps: 10, eval_steps: 10}\n"
BY_BOXES = "training: {load_best_model_at_end: true, metric_for_best_model: bbox_acc}\n"
BY_MALFORMED = "training: {load_best_model_at_end: true, metric_for_best_model: malformed_answers}\n"


def make_run(folder: Path, training: str, saved: list[int], **state: Any) -> Path:
    """A run folder with these checkpoints, of which the newest keeps the trainer's state."""
    for step in saved:
        (folder / f"checkpoint-{step}").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"model: /nowhere/model\n{training}")
    (folder / f"checkpoint-{saved[-1]}/trainer_state.json").write_text(json.dumps(state))
    return folder


def recorded(step: int, value: float, saved: int | None = None) -> dict[str, Any]:
    folder = f"/moved/run/checkpoint-{saved or step}"
    return {"best_global_step": step, "best_metric": value, "best_model_checkpoint": folder}


def logs(name: str, **values: float) -> list[dict[str, Any]]:
    return [{"step": int(step[1:]), name: value, "epoch": 1.0} for step, value in values.items()]


@pytest.mark.parametrize(
    ("training", "state", "step", "reason"),
    [
        pytest.param("", {}, 30, "the newest", id="keeps no best"),
        pytest.param("", recorded(20, 0.5), 30, "the newest", id="a best that the run was not asked to keep"),
        pytest.param(BEST, recorded(20, 0.5), 20, "the best by eval_loss: 0.5000", id="the trainer's best"),
        pytest.param(BY_BOXES, recorded(10, 0.9), 10, "the best by bbox_acc: 0.9000", id="by an accuracy"),
        pytest.param(BEST, {}, 30, "the newest; no checkpoint has a value of eval_loss", id="before any evaluation"),
        pytest.param(
            BY_BOXES,
            recorded(25, 0.9, saved=10) | {"log_history": logs("eval_bbox_acc", s10=0.5, s20=0.7, s25=0.9, s30=0.6)},
            20,
            "the best by bbox_acc: 0.7000; step 25 had 0.9000, and is not among the checkpoints",
            id="the best evaluation was not saved",
        ),
        pytest.param(
            BY_MALFORMED,
            recorded(25, 0.0) | {"log_history": logs("eval_malformed_answers", s10=0.5, s20=0.1, s30=0.3)},
            20,
            "the best by malformed_answers: 0.1000; step 25 had 0.0000, and is not among the checkpoints",
            id="less is better",
        ),
        pytest.param(
            BEST,
            {"best_metric": 0.5, "best_model_checkpoint": "checkpoint-10"},
            10,
            "the best by eval_loss: 0.5000",
            id="an older transformers",
        ),
        pytest.param(
            BEST,
            {
                "best_global_step": [],
                "best_metric": "x",
                "log_history": [3, {"step": []}, {"step": 20, "eval_loss": float("nan")}],
            },
            30,
            "the newest; no checkpoint has a value of eval_loss",
            id="a damaged state",
        ),
    ],
)
def test_the_best_is_taken_where_the_run_keeps_it(
    training: str, state: dict[str, Any], step: int, reason: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", training, [10, 20, 30], **state)
    chosen = choose(run)
    assert (chosen.path, chosen.reason) == (run / f"checkpoint-{step}", reason)


def test_an_incomplete_newest_checkpoint_does_not_hide_the_best(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", BEST, [10, 20], **recorded(10, 0.5))
    (run / "checkpoint-30").mkdir()  # killed before the trainer's state was written
    assert choose(run).path == run / "checkpoint-10"
    assert choose(run, "last").path == run / "checkpoint-30"


def test_a_checkpoint_can_be_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "", [10, 20, 30], **recorded(20, 0.5))
    assert choose(run, "best").reason == "the best by eval_loss: 0.5000"
    assert choose(run, "last").reason == "the newest"
    for named in (choose(run, 10), choose(run, "10"), choose(run / "checkpoint-10")):
        assert (named.path, named.why, named.reason) == (run / "checkpoint-10", "named", "")


@pytest.mark.parametrize(
    ("place", "which", "message", "hint"),
    [
        ("run", "25", "run: has no checkpoint of step 25", "it has those of these steps: 10, 20, 30"),
        ("run", "newest", "--checkpoint newest: must be best, last or the number of a step", "run: 10, 20, 30"),
        ("run", "best", "at none of its steps (10, 20, 30) was eval_loss measured", "set load_best_model_at_end: true"),
        (
            "run/checkpoint-10",
            "best",
            "no run folder with checkpoints, so --checkpoint best has nothing",
            "its run folder, ",
        ),
    ],
)
def test_what_is_not_there_is_told(place: str, which: str, message: str, hint: str, tmp_path: Path) -> None:
    make_run(tmp_path / "run", "", [10, 20, 30])
    with pytest.raises(ModelError) as raised:
        choose(tmp_path / place, which)
    assert message in raised.value.message
    assert hint in (raised.value.hint or "")


def test_of_a_run_in_phases_the_last_phase_counts(tmp_path: Path) -> None:
    make_run(tmp_path / "run/phase-1", BEST, [10, 20], **recorded(10, 0.5))
    last = make_run(tmp_path / "run/phase-2", "", [5, 20])
    assert choose(tmp_path / "run").path == last / "checkpoint-20"
    assert choose(tmp_path / "run", 5).path == last / "checkpoint-5"
    shutil.rmtree(last / "checkpoint-5")
    shutil.rmtree(last / "checkpoint-20")
    assert choose(tmp_path / "run").path == tmp_path / "run/phase-1/checkpoint-10"


def test_commands_take_the_option_and_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", "", [10, 20])
    for command in (["verify-ckpt", str(run)], ["export", str(run), "-o", str(tmp_path / "model")]):
        assert main([*command, "--checkpoint", "15"]) == 2
        assert f"error: {run}: has no checkpoint of step 15\nhint: it has those" in capsys.readouterr().err
    assert main(["verify-ckpt", str(run), "--all", "--checkpoint", "10"]) == 2
    assert "--all and --checkpoint exclude each other" in capsys.readouterr().err
