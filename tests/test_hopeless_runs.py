"""Runs that can't learn end with the reason, and leave the last good checkpoint alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swiftalign.checkpoint.choose import checkpoints_of
from swiftalign.cli import main
from swiftalign.init.recipes import write_config

pytestmark = pytest.mark.slow

# A plugin that spoils the merger's features: from a step on, or from the beginning. It counts forward passes.
PLUGIN = """
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen
whole, passes = qwen.Qwen3VLVisionPatchMerger.forward, []
def forward(self, *args, **kwargs):
    features = whole(self, *args, **kwargs)
    passes.append(1)
    return {spoilt}
qwen.Qwen3VLVisionPatchMerger.forward = forward
"""
CUT_OFF = "features.detach()"
CUT_TO_ZERO = "features.detach() + 0 * features"
# Each step calls the merger and three deepstack mergers once. ms-swift leaves out a step whose gradients are NaN.
NOT_FINITE = "features * (1 if len(passes) <= 3 * 4 else float('nan'))"
# Weights become NaN in the fourth step, and with them the loss of the fifth.
SPOILT_WEIGHTS = "(features, len(passes) == 4 * 4 and self.norm.weight.data.fill_(float('nan')))[0]"

Train = Callable[..., int]


@pytest.fixture
def train(tmp_path: Path, demo: Path) -> Train:
    def run(spoilt: str, *sets: str) -> int:
        plugin = tmp_path / "plugin.py"
        plugin.write_text(PLUGIN.format(spoilt=spoilt), encoding="utf-8")
        training = {"aligner_lr": 1e-3, "max_steps": 30, "per_device_train_batch_size": 2, "logging_steps": 1}
        text = write_config(
            model=str(demo / "model"),
            method="modules_to_save",
            train=str(demo / "data/train.jsonl"),
            training={**training, "gradient_accumulation_steps": 1, "save_steps": 2, "save_total_limit": 1},
        )
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
        words = [f"training.output_dir={tmp_path / 'run'}", f"swift.external_plugins=[{plugin}]", *sets]
        return main(["train", str(tmp_path / "config.yaml"), *(word for each in words for word in ("--set", each))])

    return run


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param(CUT_OFF, marks=pytest.mark.long, id="no gradient"),
        pytest.param(CUT_TO_ZERO, id="a gradient of zero"),
    ],
)
def test_a_run_without_a_gradient_stops_after_its_first_step(
    spoilt: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(spoilt) == 1
    err = capsys.readouterr().err
    assert "error: no gradient reaches what trains: " in err
    assert "hint: something between the loss and these tensors cuts the gradient off" in err
    assert "Traceback" not in err
    assert not checkpoints_of(tmp_path / "run")


@pytest.mark.parametrize(
    ("logging", "said"),
    [
        pytest.param(1, "the loss is nan at step 5, and was not a finite number in the log before", id="two logs"),
        pytest.param(30, "the loss has not been a finite number since step 4", marks=pytest.mark.long, id="ten steps"),
    ],
)
def test_a_loss_that_stays_nan_ends_the_run_and_the_last_good_checkpoint_stays(
    logging: int, said: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [f"training.logging_steps={logging}", "training.logging_first_step=false", "training.save_steps=3"]
    assert train(NOT_FINITE, *sets) == 1
    err = capsys.readouterr().err
    assert f"error: {said}; checkpoint-3 is the last one" in err
    assert "hint: start a new run with lower rates" in err
    assert [path.name for path in checkpoints_of(tmp_path / "run")] == ["checkpoint-3"]
    assert main(["verify-ckpt", str(tmp_path / "run"), "--deep"]) == 0


@pytest.mark.long
def test_a_first_step_that_is_nan_is_not_taken_for_one_without_gradient(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("features * float('nan')", "training.logging_steps=2") == 1
    assert "error: the loss is nan at step 2, and was not" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_not_saved(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(SPOILT_WEIGHTS, "training.logging_steps=30") == 1
    said = "what trains holds NaN or infinity after step 4; checkpoint-2 is the last one"
    assert f"error: {said}" in capsys.readouterr().err
    assert [path.name for path in checkpoints_of(tmp_path / "run")] == ["checkpoint-2"]
