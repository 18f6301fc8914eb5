"""Python code that comes with a model runs only where the user allows it, and reading names and shapes runs none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.data.encoded import training_encoder
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ModelError

# Where a model may name code, or hold it unnamed; each adds to a folder what a user would not see.
AUTO_MAPS: dict[str, tuple[str, Any]] = {
    "model": ("config.json", {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own"}),
    "tokenizer": ("tokenizer_config.json", {"AutoTokenizer": ["own.Own", "own.Own"]}),
    "processor": ("processor_config.json", {"AutoProcessor": "own.Own"}),
    "image_processor": ("preprocessor_config.json", {"AutoImageProcessor": "own.Own"}),
    "other_repository": ("tokenizer_config.json", {"AutoTokenizer": ["someone/else--own.Own", None]}),
}
MODULES = {"generate": "custom_generate/generate.py", "unnamed": "modeling_own.py"}
WAYS = [*AUTO_MAPS, *MODULES]

Folder = Callable[[str], tuple[Path, Path]]


@pytest.fixture
def folder(demo: Path, tmp_path: Path) -> Folder:
    """A configuration of the demo's model with code of its own, and the file that the code would write."""

    def make(way: str) -> tuple[Path, Path]:
        model, mark = tmp_path / "model", tmp_path / "it-ran"
        shutil.copytree(demo / "model", model)
        module = model / MODULES.get(way, "own.py")
        module.parent.mkdir(exist_ok=True)
        if way != "other_repository":
            module.write_text(f"open({str(mark)!r}, 'w').close()\n\n\nclass Own:\n    pass\n", encoding="utf-8")
        if way in AUTO_MAPS:
            name, auto_map = AUTO_MAPS[way]
            file = model / name
            values = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            file.write_text(json.dumps(values | {"auto_map": auto_map}), encoding="utf-8")
        config = tmp_path / "config.yaml"
        config.write_text(
            f"model: ./model\ndata: {{train: {demo / 'data/train.jsonl'}}}\ntraining: {{max_steps: 1}}\n",
            encoding="utf-8",
        )
        return config, mark

    return make


PLACES = {
    **{way: f"auto_map in {file}" for way, (file, _) in AUTO_MAPS.items()},
    **MODULES,
}


@pytest.mark.parametrize("way", WAYS)
def test_inspect_params_shows_the_plan_and_what_training_would_run(
    way: str, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    config, mark = folder(way)
    assert main(["inspect-params", str(config), "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["trainable_parameters"] > 0
    [problem] = [each for each in shown["findings"] if each["code"] == "remote-code"]
    model = config.with_name("model")
    assert problem["message"] == f"model {model} has Python code of its own ({PLACES[way]}): training would run it"
    assert problem["where"] == f"{config}:1"
    assert problem["fix"] == {"model": {"path": str(model), "trust_remote_code": True}}
    assert not mark.exists()
    trusted = ["inspect-params", str(config), "--set", "model.trust_remote_code=true"]
    assert main([*trusted, "--set", f"model.path={model}", "--json"]) == 0
    assert not mark.exists()


def test_a_model_without_code_of_its_own_is_not_reported(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect-params", str(demo / "config.yaml")]) == 0
    assert "remote-code" not in capsys.readouterr().out


@pytest.mark.parametrize("way", WAYS)
def test_training_and_previews_refuse_code_before_anything_is_loaded(
    way: str, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    config, mark = folder(way)
    assert main(["train", str(config)]) == 1
    assert "[remote-code]" in capsys.readouterr().err
    with pytest.raises(ModelError, match="has Python code of its own"):
        training_encoder(load_config([config]))
    assert not mark.exists()


@pytest.mark.long  # starts ms-swift
def test_allowing_the_finding_is_not_the_users_word(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """The training process asks again: --allow lets a problem pass, but trusts nothing."""
    config, mark = folder("generate")
    assert main(["train", str(config), "--allow", "remote-code"]) == 2
    told = "has Python code of its own (custom_generate/generate.py), which loading it would run"
    assert told in capsys.readouterr().err
    assert not mark.exists()


def test_verify_ckpt_and_export_work_and_run_no_code(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    config, mark = folder("model")
    base, adapter, output = (config.with_name(name) for name in ("model", "adapter", "out"))
    settings = load_config([config], ["tuner.modules_to_save=[model.visual.merger]", "tuner.target_regex=^$"])
    plan, random = resolve(settings, read_model(settings)), np.random.default_rng(0)
    adapter.mkdir()
    values = {each.name: random.normal(size=each.shape).astype(np.float32) for each in plan.tensors}
    save_file(values, adapter / "adapter_model.safetensors")
    saved = {"peft_type": "LORA", "target_modules": "dummy-target-modules", "modules_to_save": list(plan.saved)}
    text = json.dumps(saved | {"base_model_name_or_path": str(base)})
    (adapter / "adapter_config.json").write_text(text, encoding="utf-8")
    assert main(["verify-ckpt", str(base)]) == 0, capsys.readouterr()
    assert main(["verify-ckpt", str(adapter), "--base", str(base), "--deep"]) == 0, capsys.readouterr()
    assert main(["export", str(adapter), "--output", str(output)]) == 0, capsys.readouterr()
    assert main(["inspect-params", str(config), "--set", f"model.path={output}"]) == 1
    assert not mark.exists()


def test_with_the_users_word_the_code_runs(folder: Folder) -> None:
    """So the code of these tests would run if it were let to."""
    config, mark = folder("model")
    config.write_text(config.read_text().replace("./model", "{path: ./model, trust_remote_code: true}"))
    with pytest.raises(ModelError, match="can't be loaded"):  # it defines no config
        training_encoder(load_config([config]))
    assert mark.exists()
