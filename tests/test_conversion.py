"""Transformers' rules for the names in weight files, run without torch, held against transformers itself.

The facts that it depends on are private to transformers: the modules `core_model_loading` and `conversion_mapping`, and
the operations of torch that they use.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file

from families import FAMILIES, build, config_of, stored_of
from swiftalign.model import conversion
from swiftalign.model.conversion import RulesError, loaded, natural
from swiftalign.model.read import read
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.tree import ModelSource

# Families with each kind of rule: prefixes, renamed layers, merged and split experts, rules of sub-models.
VALUES = [
    "llava",
    "qwen2_5_vl",
    "internvl",
    "hunyuan_vl",
    "qwen3_5_moe",
    "ernie4_5_vl_moe",
    "glm4v_moe",
    "qwen2_audio",
    "mllama",
    "paddleocr_vl",
]


@pytest.fixture
def rules_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def unloadable() -> None:
        raise RulesError("another layout")

    monkeypatch.setattr(conversion, "_rules", unloadable)


def test_the_rules_of_the_installed_transformers_can_be_loaded() -> None:
    core, rules = conversion._rules()
    needed = {
        core: ("WeightRenaming", "WeightConverter", "rename_source_key"),
        rules: ("get_checkpoint_conversion_mapping",),
    }
    lacking = [
        f"{module.__name__}.{name}" for module, names in needed.items() for name in names if not hasattr(module, name)
    ]
    assert lacking == [], (
        f"transformers {transformers.__version__} has no {lacking}: bring `_transforms` and `loaded` in "
        "model/conversion.py to its new layout. Until then, models without a description of their own are built on the "
        "meta device, which is slower, and does not tell the names in their weight files"
    )


@pytest.mark.parametrize("name", VALUES)
def test_a_tensor_that_is_only_renamed_has_the_bytes_of_the_stored_one(name: str, tmp_path: Path) -> None:
    build(name, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    real = getattr(transformers, FAMILIES[name].model_class).from_pretrained(tmp_path).state_dict()
    shapes = {key: TensorInfo(key, tuple(value.shape), "float32") for key, value in stored.items()}
    made = loaded(shapes, json.loads((tmp_path / "config.json").read_text()))
    assert any(key != tensor.files[0] or not tensor.renamed for key, tensor in made.items())
    assert {file for tensor in made.values() for file in tensor.files} == stored.keys()
    for key, tensor in made.items():
        assert tensor.info.shape == tuple(real[key].shape)
        if tensor.renamed:
            assert len(tensor.files) == 1
            assert real[key].equal(stored[tensor.files[0]])


def test_a_merged_tensor_names_all_that_it_is_made_of() -> None:
    made = loaded(stored_of("qwen3_5_moe"), config_of("qwen3_5_moe"))
    experts = made["model.language_model.layers.0.mlp.experts.gate_up_proj"]
    assert not experts.renamed
    assert len(experts.files) == 2 * 4
    assert experts.info.shape == (4, 2 * 32, 64)


def test_names_are_in_natural_order() -> None:
    assert sorted(["a.10.b", "a.2.b", "a.b", "a"], key=natural) == ["a", "a.2.b", "a.10.b", "a.b"]


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "auto_map": {"AutoModel": "a.B"}},
        {"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]},  # of a git repository, with the same type
        {"model_type": "no_such_type", "architectures": ["NoSuchModel"]},
    ],
    ids=["auto-map", "another-package", "unknown"],
)
def test_code_that_is_not_transformers_keeps_the_names_of_its_files(config: dict[str, object]) -> None:
    stored = {
        name: TensorInfo(name, (2, 2), "float32") for name in ("language_model.model.norm.weight", "vision_tower.a")
    }
    made = loaded(stored, config)
    assert {name: (tensor.info, tensor.files) for name, tensor in made.items()} == {
        name: (info, (name,)) for name, info in stored.items()
    }


def test_tensors_that_no_rule_can_merge_are_an_error() -> None:
    stored = stored_of("qwen3_5_moe")
    name = "model.language_model.layers.0.mlp.experts.0.gate_proj.weight"
    stored[name] = TensorInfo(name, (), "float32")
    with pytest.raises(RulesError, match="transformers' rules for its weight files fail"):
        loaded(stored, config_of("qwen3_5_moe"))


def test_without_the_rules_a_model_is_built_from_its_config(
    rules_that_cannot_be_loaded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ModelSource(str(build("llava", tmp_path)))
    built = read(source)
    assert built.files == {}
    monkeypatch.undo()
    from_files = read(source)
    assert from_files.files
    assert from_files.totals == built.totals
    assert from_files.mergers == built.mergers


LEAN = """
import sys
from swiftalign.model.conversion import _rules

_rules()
print(*sorted({"torch", "transformers"} & set(sys.modules)))
"""


def test_the_rules_are_loaded_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
