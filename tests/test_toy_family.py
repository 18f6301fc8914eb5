"""A model family is one object: a toy family, made here alone, is read, planned, shown and lowered."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from swiftalign.cli.show import print_plan
from swiftalign.config.load import load_config
from swiftalign.model.families import find, in_aligner, published_ids, register, unregister
from swiftalign.model.family import Described, Family
from swiftalign.model.tree import Architecture, Kind, Model
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.plan.selection import aligner_regex
from swiftalign.problems import ModelError
from swiftalign.runs.lowering import lower
from swiftalign.speed.choices import Choices


def describe(config: dict[str, Any]) -> Iterator[Described]:
    width = config["width"]
    for index in range(config["layers"]):
        yield f"text.layers.{index}.dense", Kind.LINEAR, {"weight": (width, width)}
    yield "eyes.convolution", Kind.CONV, {"weight": (width, 3, 2, 2), "bias": (width,)}
    yield "bridge.norm", Kind.LAYER_NORM, {"weight": (width,), "bias": (width,)}
    yield "bridge.dense", Kind.LINEAR, {"weight": (width, width), "bias": (width,)}
    yield "bridge.activation", Kind.PLAIN, {}


TOY = Family(
    model_type="toy_vl",
    architecture=Architecture("toy", llm=("text",), vit=("eyes",), aligner=("bridge",)),
    describe=describe,
    published={"toys/Toy-1B": {"model_type": "toy_vl", "width": 8, "layers": 3}},
)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register(TOY)
    yield
    unregister("toy_vl")
    assert find("toy_vl") is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with the headers and values of every tensor, one tensor too many and one in another shape."""
    config = {"model_type": "toy_vl", "width": 8, "layers": 2, "dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = TOY.build(config)
    assert model is not None
    tensors = {weight.name: np.zeros(weight.shape, np.float32) for weight in model.parameters()}
    tensors |= {"text.layers.1.dense.weight": np.zeros((8, 9), np.float32), "spare.weight": np.zeros(1, np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def read(folder: Path | str, tuner: str = "{}") -> tuple[Any, Model]:
    path = (folder if isinstance(folder, Path) else Path.cwd()) / "config.yaml"
    path.write_text(f"model: {folder}\ntuner: {tuner}\ntraining: {{max_steps: 5, aligner_lr: 0.001}}\n")
    config = load_config([path])
    return config, read_model(config)


def test_a_toy_model_is_read_from_its_headers(folder: Path) -> None:
    _, model = read(folder)
    kinds = {module.name: module.kind for module in model}
    assert kinds["text.layers"] is Kind.MODULE_LIST
    assert kinds["bridge"] is Kind.CONTAINER
    assert model.totals == {"llm": 128, "vit": 104, "aligner": 88, "other": 0}
    assert model.mergers == ("bridge",)
    assert model.unbuilt == ("spare.weight",)
    assert model.missing == ("text.layers.1.dense.weight",)
    assert in_aligner("bridge.norm.bias")


@pytest.mark.parametrize("width", [0, -8, 8.0, "8", True, 2**60, None])
def test_an_impossible_size_is_an_error(folder: Path, width: Any) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "toy_vl", "width": width, "layers": 2}))
    with pytest.raises(ModelError, match="a size in its config is not a whole number"):
        read(folder)


def test_a_public_toy_model_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "toys/Toy-1B" in published_ids()
    assert len(read("toys/Toy-1B")[1].members("text.layers")) == 3


def test_a_toy_plan_is_resolved_shown_and_lowered(folder: Path) -> None:
    config, model = read(folder, "{target_regex: 'bridge\\.dense', lora_rank: 2, modules_to_save: [bridge.norm]}")
    plan = resolve(config, model)
    assert plan.adapted == ("bridge.dense",)
    assert plan.trainable_parameters == 2 * (8 + 8) + 16
    shown = io.StringIO()
    print_plan(plan, model, Console(file=shown, width=160))
    assert "toy_vl" in shown.getvalue()
    assert "bridge.dense" in shown.getvalue()
    arguments = lower(plan, config, folder / "run", Choices())
    assert arguments["model_type"] == "toy_vl"
    assert arguments["target_regex"] == r"bridge\.dense"
    assert arguments["modules_to_save"] == ["bridge.norm"]


def test_the_toy_s_aligner_layers_are_listed_one_by_one(folder: Path) -> None:
    assert aligner_regex(read(folder)[1]) == r"^(bridge\.dense)$"
