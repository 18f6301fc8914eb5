"""Sessions of many families: inspect, train by the real ms-swift, verify, export, load the result, evaluate it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from families import FAMILIES
from saved_families import load, tuner_of
from sessions import SESSIONS, build_session, write_rows
from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.plan.read import read_model
from swiftalign.yaml12 import dump_yaml

pytestmark = pytest.mark.slow

QUICK = "qwen3_5_moe"
METHODS = {family: "lora" if number % 2 else "modules_to_save" for number, family in enumerate(SESSIONS)}
# Gemma 3's aligner has no Linear layer, and a part of GLM-4V's is a convolution.
METHODS |= {"gemma3": "modules_to_save", "glm4v": "modules_to_save", "qwen2_5_vl": "lora", QUICK: "modules_to_save"}
CASES = [
    pytest.param(family, method, marks=() if family == QUICK else pytest.mark.long, id=f"{family}-{method}")
    for family, method in METHODS.items()
]
CASES += [
    pytest.param("qwen2_5_vl", "full", marks=pytest.mark.long),
    pytest.param("qwen3_5_moe", "full-all", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_family_is_trained_verified_exported_and_loaded(
    family: str, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session, base = SESSIONS[family], build_session(family, tmp_path / "base")
    sections: dict[str, Any] = {
        "model": {"path": str(base), "type": session.model_type},
        "data": {"train": str(write_rows(tmp_path / "data")), "template": session.template},
        "training": {"max_steps": 2, "per_device_train_batch_size": 2, "aligner_lr": 0.01, "learning_rate": 0.01},
    }
    if session.template is None:
        del sections["data"]["template"]
    config, run, out = tmp_path / "config.yaml", tmp_path / "run", tmp_path / "out"
    config.write_text(dump_yaml(sections), encoding="utf-8")
    sections["tuner"] = tuner_of(method, read_model(load_config([config])))
    config.write_text(dump_yaml(sections), encoding="utf-8")
    assert main(["inspect-params", str(config)]) == 0, capsys.readouterr().out
    capsys.readouterr()
    assert main(["train", str(config), "--set", f"training.output_dir={run}"]) == 0, capsys.readouterr().err
    for options in ([], ["--base", str(base), "--deep"]):
        capsys.readouterr()
        assert main(["verify-ckpt", str(run), "--json", *options]) == 0, capsys.readouterr().out
    report = json.loads(capsys.readouterr().out)
    changes = [tensor["max_change"] for tensor in report["tensors"] if "max_change" in tensor]
    assert method == "lora" or any(changes)
    capsys.readouterr()
    assert main(["export", str(run), "--output", str(out), "--json"]) == 0, capsys.readouterr().out
    changed = set(json.loads(capsys.readouterr().out)["changed"])
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    assert {name for name in after if not torch.equal(after[name], before[name])} == changed
    transformers.AutoProcessor.from_pretrained(out)
    exported, checkpoint = load(family, out).state_dict(), next(run.glob("checkpoint-*"))
    model_class = getattr(transformers, FAMILIES[family].model_class)
    if method.startswith("full"):
        expected = model_class.from_pretrained(checkpoint, dtype="auto")
    else:
        trained = peft.PeftModel.from_pretrained(model_class.from_pretrained(base, dtype="auto"), checkpoint)
        expected = trained.merge_and_unload()
    assert {name for name, tensor in expected.state_dict().items() if not torch.equal(tensor, exported[name])} == set()
    # Its answers are nonsense; what counts is that it can be asked.
    assert (
        main(["eval", str(out), str(tmp_path / "data/train.jsonl"), "-o", str(tmp_path / "eval"), "--limit", "2"]) == 0
    )
    summary = json.loads((tmp_path / "eval/summary.json").read_text())
    assert (summary["rows"], summary["failed"]) == (2, 0)
