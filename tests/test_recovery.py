"""The model that the package ships, and the demo: what another camera costs, training the aligner brings back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from swiftalign.cli import main
from swiftalign.demo.recovery import mean_accuracy
from swiftalign.setup import PRETRAINED, DemoRequest, write_demo

BYTES = 12_000_000
RECOVERED = 0.6  # the README shows over 0.7; kernels of other processors round otherwise


def test_the_shipped_model_is_small_and_has_the_real_models_parts() -> None:
    config = json.loads((PRETRAINED / "config.json").read_text())
    assert config["model_type"] == "qwen3_vl"
    assert len(config["vision_config"]["deepstack_visual_indexes"]) == 3
    assert sum(path.stat().st_size for path in PRETRAINED.iterdir()) < BYTES
    card = (PRETRAINED / "README.md").read_text()
    assert "benchmarks/pretrain.py" in card


@pytest.mark.slow
def test_training_the_aligner_brings_back_what_a_new_camera_costs(tmp_path: Path) -> None:
    write_demo(DemoRequest(tmp_path))
    run, exported = tmp_path / "run", tmp_path / "exported"
    assert main(["train", str(tmp_path / "config.yaml"), "--set", f"training.output_dir={run}"]) == 0
    assert main(["export", str(run), "--output", str(exported)]) == 0
    command = [sys.executable, "-m", "swiftalign.demo.recovery", str(tmp_path), str(exported), "--json"]
    command += ["--picture", str(tmp_path / "recovery.jpg")]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    known, before, after = (mean_accuracy(found[name]) for name in ("known_before", "new_before", "new_after"))
    assert before < known / 2
    assert after > before + RECOVERED * (known - before)
    with Image.open(tmp_path / "recovery.jpg") as picture:
        assert picture.format == "JPEG"
    assert found["recovered"] == pytest.approx((after - before) / (known - before))
