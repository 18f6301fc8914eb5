"""The model that the package ships, and the demo: what another camera costs, training the aligner brings back."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from swiftalign.cli import main
from swiftalign.demo import recovery
from swiftalign.demo.recovery import Recovery, mean_accuracy
from swiftalign.demo.workspace import PRETRAINED, write_demo

BYTES = 12_000_000
RECOVERED = 0.7  # the README shows over 0.8; kernels of other processors round otherwise


def test_the_shipped_model_is_small_and_has_the_real_models_parts() -> None:
    config = json.loads((PRETRAINED / "config.json").read_text())
    assert config["model_type"] == "qwen3_vl"
    assert len(config["vision_config"]["deepstack_visual_indexes"]) == 3
    assert sum(path.stat().st_size for path in PRETRAINED.iterdir()) < BYTES
    card = (PRETRAINED / "README.md").read_text()
    assert "benchmarks/pretrain.py" in card


@pytest.mark.slow
def test_training_the_aligner_brings_back_what_a_new_camera_costs(tmp_path: Path) -> None:
    write_demo(tmp_path)
    run, exported = tmp_path / "run", tmp_path / "exported"
    assert main(["train", str(tmp_path / "config.yaml"), "--set", f"training.output_dir={run}"]) == 0
    assert main(["export", str(run), "--output", str(exported)]) == 0
    command = [sys.executable, "-m", "swiftalign.demo.recovery", str(tmp_path), str(exported), "--json"]
    command += ["--picture", str(tmp_path / "recovery.jpg")]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    known, before, after = (mean_accuracy(found[name]) for name in ("known_before", "new_before", "new_after"))
    assert min(found["known_before"][f"{kind}_acc"] for kind in ("bbox", "quad", "line")) >= 0.98
    assert before < known / 2
    assert after > before + RECOVERED * (known - before)
    with Image.open(tmp_path / "recovery.jpg") as picture:
        assert picture.format == "JPEG"
    assert found["recovered"] == pytest.approx((after - before) / (known - before))
    # `eval` takes the answers that are there, and comes to the same numbers.
    kept, val = tmp_path / "eval/new-camera", str(tmp_path / "data/val.jsonl")
    asked = (kept / "predictions.jsonl").read_bytes()
    assert main(["eval", str(exported), val, "--against", str(tmp_path / "model"), "-o", str(kept)]) == 0
    assert (kept / "predictions.jsonl").read_bytes() == asked
    summary = json.loads((kept / "summary.json").read_text())
    assert summary["metrics"] == found["new_after"]
    assert summary["against"]["metrics"] == found["new_before"]
    # Of the run, whose weights the export rounds to bfloat16, a few answers differ.
    assert main(["eval", str(run), val, "--against", str(kept), "-o", str(tmp_path / "of-run")]) == 0
    of_run = json.loads((tmp_path / "of-run/summary.json").read_text())
    assert mean_accuracy(of_run["metrics"]) == pytest.approx(after, abs=0.02)
    assert all(abs(each["value"]) < 0.03 for each in of_run["differences"])


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
