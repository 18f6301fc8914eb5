"""The model that the package ships, and what is said of its accuracies; tests/test_start.py measures them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from swiftalign.demo import recovery
from swiftalign.demo.recovery import Recovery
from swiftalign.demo.workspace import PRETRAINED

BYTES = 12_000_000


def test_the_shipped_model_is_small_and_has_the_real_models_parts() -> None:
    config = json.loads((PRETRAINED / "config.json").read_text())
    assert config["model_type"] == "qwen3_vl"
    assert len(config["vision_config"]["deepstack_visual_indexes"]) == 3
    assert sum(path.stat().st_size for path in PRETRAINED.iterdir()) < BYTES
    card = (PRETRAINED / "README.md").read_text()
    assert "benchmarks/pretrain.py" in card


def test_nothing_is_recovered_where_nothing_was_lost() -> None:
    same = {"bbox_acc": 0.5, "quad_acc": 0.5, "line_acc": 0.5}
    assert math.isnan(Recovery(same, same, same, same).share)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "model"], "nowhere is not a workspace of the small model; 'swiftalign init --demo DIR' makes one"),
        (["space", "nowhere"], "nowhere is not a model folder; 'swiftalign export RUN --output DIR' makes one"),
        (
            ["space", "model", "--picture", "a.gif"],
            "--picture a.gif: name a file in a folder that exists, ending in .png",
        ),
        (["space", "model", "--picture", "no/a.png"], "--picture no/a.png: name a file in a folder that exists"),
    ],
    ids=["no workspace", "no model", "no picture", "no folder"],
)
def test_what_is_missing_is_said_before_anything_is_scored(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for needed in ("space/data/original.jsonl", "model/config.json"):
        (tmp_path / needed).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / needed).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["recovery", *words])
    with pytest.raises(SystemExit, match="2"):
        recovery.main()
    assert message in capsys.readouterr().err
