"""Configurations in the shape of the project that the guide comes from: its base file and four stages, as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swiftalign.cli import main
from swiftalign.config.load import load_config

STAGES = (1, 2, 3, 4)
# Of Qwen3-VL-4B: parameters that train in the LLM, the ViT and the aligner, by hand from the shapes of its layers.
# A LoRA of rank r on a layer of n inputs and m outputs has r (n + m) parameters, a DoRA m more.
HIDDEN, HEADS, KEYS, INNER, VIT, VIT_INNER = 2560, 4096, 1024, 9728, 1024, 4096
LLM_LAYER = (
    (HIDDEN, HEADS),
    (HIDDEN, KEYS),
    (HIDDEN, KEYS),
    (HEADS, HIDDEN),
    (HIDDEN, INNER),
    (HIDDEN, INNER),
    (INNER, HIDDEN),
)
VIT_BLOCK = ((VIT, 3 * VIT), (VIT, VIT), (VIT, VIT_INNER), (VIT_INNER, VIT))
# Norm, first and second matrix of a merger; the first one normalises before it merges four patches.
MERGERS = sum(2 * norm + 4096 * 4096 + 4096 + 4096 * HIDDEN + HIDDEN for norm in (VIT, 4096, 4096, 4096))


def adapted(layers: tuple[tuple[int, int], ...], rank: int, *, dora: bool = False) -> int:
    return sum(rank * (inputs + outputs) + outputs * dora for inputs, outputs in layers)


TRAINS = {
    1: (0, 0, MERGERS),
    2: (36 * adapted(LLM_LAYER, 8), 0, MERGERS),
    3: (2 * adapted(LLM_LAYER, 16), 4 * adapted(VIT_BLOCK, 16), MERGERS),
    4: (4 * adapted(LLM_LAYER, 16, dora=True), 12 * adapted(VIT_BLOCK, 16, dora=True), MERGERS),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: ``configs/`` and ``data/``, whose paths are relative to it."""
    shutil.copytree(Path(__file__).with_name("guide_project"), tmp_path / "configs")
    (tmp_path / "data").mkdir()
    random = np.random.default_rng(1)
    for name, count in (("train", 8), ("val", 6)):
        rows = []
        for number in range(count):
            path = tmp_path / "data" / f"{name}-{number}.png"
            Image.fromarray(random.integers(0, 256, (192, 256, 3), dtype=np.uint8)).save(path)
            objects = [
                {"bbox_2d": [10 + number, 20, 90 + number, 80], "desc": "type=lamp,visibility=whole"},
                {"quad": [100, 20, 180, 30, 175, 90, 95, 80], "desc": "type=shelf,visibility=whole"},
                {"line": [10, 100, 60, 150, 200, 160], "line_points": 3, "desc": "type=cable"},
                {"poly": [200, 20, 240, 40, 235, 90, 210, 85, 190, 50], "poly_points": 5, "desc": "type=lamp"},
                {"bbox_2d": [20, 110, 80, 180], "desc": "type=shelf"},
            ]
            rows.append({"images": [path.name], "objects": objects, "width": 256, "height": 192, "summary": "lamp x 2"})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inspected(stage: int, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["inspect-params", f"configs/stage_{stage}.yaml", "--json", *options]) == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    return shown


@pytest.mark.parametrize("stage", STAGES)
def test_stage_is_planned_as_it_means(stage: int, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = inspected(stage, capsys, "--set", "model.model=Qwen/Qwen3-VL-4B-Instruct")
    trained = {name: part["trainable"] for name, part in shown["components"].items()}
    assert tuple(trained[name] for name in ("llm", "vit", "aligner")) == TRAINS[stage]
    assert {finding["severity"] for finding in shown["findings"]} == {"note"}


@pytest.mark.parametrize("stage", STAGES)
def test_stage_reads_every_setting(stage: int, project: Path) -> None:
    config = load_config(project / f"configs/stage_{stage}.yaml")
    assert (config.model.dtype, config.model.attention) == ("bfloat16", "sdpa")
    assert (config.data.max_length, config.data.max_pixels, config.training.deepspeed) == (4096, 1572864999, "zero2")
    assert config.handed_through["report_to"] == ("tensorboard" if stage == 4 else ["tensorboard"])
    assert [source.path for source in config.data.train] == [str(project / "data/train.jsonl")]
    assert config.data.val[0].limit == (4 if stage == 4 else None)
    assert config.training.output_dir == str(project / f"configs/output/stage_{stage}")


# The last layers of the tiny model.
TINY = (
    r"^(?:model\.)?(?:language_model\.layers\.(?:2|3)\.(?:self_attn\.(?:q_proj|k_proj|v_proj|o_proj)"
    r"|mlp\.(?:gate_proj|up_proj|down_proj))|visual\.blocks\.(?:[2-3])\.(?:attn\.(?:qkv|proj)"
    r"|mlp\.(?:linear_fc1|linear_fc2)))$"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=[pytest.mark.long] if stage < 4 else []) for stage in STAGES]
)
def test_stage_trains_a_tiny_model(stage: int, project: Path, demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = ["model.model=" + str(demo / "model"), "deepspeed.enabled=false", "training.num_train_epochs=2"]
    changed += [
        "training.eval_steps=2",
        "training.save_steps=2",
        "training.logging_steps=1",
        "training.save_delay_steps=2",
    ]
    changed += ["data.dataset_num_proc=1", "training.output_dir=run"]
    changed += [f"tuner.target_regex='{TINY}'"] if stage > 2 else []
    assert main(["train", f"configs/stage_{stage}.yaml", *(word for text in changed for word in ("--set", text))]) == 0
    shown = capsys.readouterr()
    assert main(["verify-ckpt", "run"]) == 0, shown
    config = load_config(project / "run/config.yaml")
    assert config.model_dump()["training"]["save_strategy"] == "best"
    assert len(list((project / "run").glob("checkpoint-*"))) >= 1
    assert main(["export", "run", "--output", "merged"]) == 0
