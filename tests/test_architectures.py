"""What this toolkit knows of model families by name, held against the classes of transformers and ms-swift's map."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from swift.model import MODEL_ARCH_MAPPING, MODEL_MAPPING
from transformers import AutoModelForImageTextToText

from families import swap_experts
from swiftalign.config.sections import Config
from swiftalign.demo.model import build_model
from swiftalign.model.families import find, published_config, published_ids
from swiftalign.model.meta import build_on_meta, model_of
from swiftalign.model.qwen3_vl import QWEN3_VL
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.tree import Kind, Model
from swiftalign.plan.read import read_model
from swiftalign.problems import ModelError

MODELS: dict[str, dict[str, Any]] = {
    "dense": {},
    "tied": {"tied": True},
    "moe": {"moe": True},
    "moe-tied-bf16": {"moe": True, "tied": True, "dtype": "bfloat16"},
}

# All parameters and the aligner's. Source: the classes of transformers, built from the public config.json files.
PUBLIC_SIZES = {
    "2B": (2_127_532_032, 100_714_496),
    "4B": (4_437_815_808, 109_105_152),
    "8B": (8_767_123_696, 160_496_896),
    "32B": (33_357_390_064, 179_375_360),
    "30B-A3B": (31_070_754_032, 122_739_968),
    "235B-A22B": (235_670_022_896, 160_496_896),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models, by the keys of `MODELS`."""
    root = tmp_path_factory.mktemp("models")
    for name, options in MODELS.items():
        build_model(root / name, **options)
    return {name: root / name for name in MODELS}


def modules_at(path: Path | str, **model: Any) -> Model:
    return read_model(Config.model_validate({"model": {"path": str(path), **model}}))


def built(model: Any, modules: Model) -> Model:
    """The modules of a model that transformers has built, in the architecture of those that are held against it."""
    return model_of(model, modules.architecture, source=modules.source, config=modules.config)


def comparable(modules: Model) -> dict[str, tuple[Kind, set[TensorInfo]]]:
    """Kind and weights by name; files list the weights of a module in another order than the class does."""
    return {module.name: (module.kind, set(module.weights)) for module in modules}


def assert_same(modules: Model, real: Model) -> None:
    assert comparable(modules) == comparable(real)
    assert modules.tied == real.tied
    assert modules.totals == real.totals
    assert modules.dtype == real.dtype
    assert modules.mergers == real.mergers


@pytest.mark.parametrize("name", MODELS)
def test_headers_give_the_modules_of_the_real_class(name: str, models: dict[str, Path]) -> None:
    modules = modules_at(models[name])
    assert_same(modules, built(build_on_meta(modules.config), modules))
    assert modules.unbuilt == ()


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16"])
def test_headers_give_the_modules_of_the_loaded_model(dtype: str | None, models: dict[str, Path]) -> None:
    modules = modules_at(models["moe-tied-bf16"], dtype=dtype)
    loaded = AutoModelForImageTextToText.from_pretrained(models["moe-tied-bf16"], dtype=dtype or "auto")
    assert_same(modules, built(loaded, modules))


def test_a_layer_of_experts_may_stand_beside_a_dense_one(models: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((models["moe"] / "config.json").read_text())
    config["text_config"]["mlp_only_layers"] = [1]
    model = build_on_meta(config).to_empty(device="cpu")
    model.save_pretrained(tmp_path)
    modules = modules_at(tmp_path)
    assert modules.by_name["model.language_model.layers.1.mlp.gate_proj"].kind is Kind.LINEAR
    assert_same(modules, built(model, modules))


def test_expert_matrices_in_the_layout_of_the_hub_are_read_in_that_of_the_runtime(
    models: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(models["moe"], tmp_path / "model")
    swap_experts(folder)
    modules = modules_at(folder)
    experts = modules.by_name["model.language_model.layers.0.mlp.experts"].weights
    assert {weight.name.rpartition(".")[2]: weight.shape for weight in experts} == {
        "gate_up_proj": (4, 2 * 48, 64),
        "down_proj": (4, 64, 48),
    }
    assert_same(modules, built(AutoModelForImageTextToText.from_pretrained(folder), modules))
    assert modules.unswapped == ()
    assert len(modules_at(models["moe"]).unswapped) == 2 * 4  # two tensors in each layer


def test_transformers_swaps_the_axes_of_experts_whose_shape_is_not_known() -> None:
    """ZeRO-3 leaves parameters without elements, so that experts in the layout of the runtime would be swapped."""
    from torch import nn
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    [swap] = {type(op) for each in get_checkpoint_conversion_mapping("qwen3_vl_moe") for op in each.operations}
    stored, model = torch.zeros(4, 96, 64), nn.Module()
    for shape, expected in (((4, 96, 64), (4, 96, 64)), ((0,), (4, 64, 96))):
        model.experts = nn.Parameter(torch.zeros(shape))
        names = {"model": model, "full_layer_name": "experts"}
        [loaded] = swap(1, 2, check_dims=True).convert({"experts": stored}, ["experts"], ["experts"], **names).values()
        assert tuple(loaded.shape) == expected


def test_tensors_that_the_class_does_not_build_are_listed_and_not_counted(
    models: dict[str, Path], tmp_path: Path
) -> None:
    weights = load_file(models["dense"] / "model.safetensors")
    extra = {"mtp.fc.weight": torch.zeros(8, 8), "mtp.layers.0.self_attn.q_proj.weight": torch.zeros(8, 8)}
    save_file(weights | extra, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((models["dense"] / "config.json").read_bytes())
    modules = modules_at(tmp_path)
    assert set(modules.unbuilt) == set(extra)
    assert modules.totals == modules_at(models["dense"]).totals
    assert not [module for module in modules if module.name.startswith("mtp")]


def test_weight_files_of_another_model_are_an_error(models: dict[str, Path], tmp_path: Path) -> None:
    save_file({"transformer.wte.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((models["dense"] / "config.json").read_bytes())
    with pytest.raises(ModelError, match="its weight files hold no tensor of a qwen3_vl model"):
        modules_at(tmp_path)


@pytest.mark.parametrize(("size", "total", "aligner"), [(k, *v) for k, v in PUBLIC_SIZES.items()], ids=PUBLIC_SIZES)
def test_a_public_size_has_the_published_number_of_parameters(size: str, total: int, aligner: int) -> None:
    modules = modules_at(f"Qwen/Qwen3-VL-{size}-Instruct")
    assert sum(modules.totals.values()) == total
    assert modules.totals["aligner"] == aligner
    assert len(modules.mergers) == 4


# The parameters that the hub's pages give, noted from memory; of Qwen3.5 without those of the MTP head, which the class
# does not build.
OTHER_PUBLIC_SIZES = {
    "Qwen/Qwen3.5-2B": (2_274_069_824 - 60_828_160, 25_174_016),
    "Qwen/Qwen2.5-VL-3B-Instruct": (3_754_622_976, 36_708_608),
    "Qwen/Qwen2.5-VL-7B-Instruct": (8_292_166_656, 44_574_464),
    "Qwen/Qwen2.5-VL-32B-Instruct": (33_452_718_336, 52_440_320),
    "Qwen/Qwen2.5-VL-72B-Instruct": (73_410_777_344, 68_172_032),
}


@pytest.mark.parametrize(("model_id", "total", "aligner"), [(k, *v) for k, v in OTHER_PUBLIC_SIZES.items()])
def test_a_public_model_has_the_published_number_of_parameters(model_id: str, total: int, aligner: int) -> None:
    modules = modules_at(model_id)
    assert sum(modules.totals.values()) == total
    assert modules.totals["aligner"] == aligner
    assert modules.mergers == ("model.visual.merger",)


# One id of each config.
ONE_OF_EACH = {json.dumps(published_config(model_id)): model_id for model_id in published_ids()}


@pytest.mark.parametrize("model_id", ONE_OF_EACH.values())
def test_a_public_size_has_the_modules_of_the_real_class(model_id: str) -> None:
    modules = modules_at(model_id)
    assert_same(modules, built(build_on_meta(published_config(model_id) or {}), modules))


VARIANTS: dict[str, dict[str, Any]] = {
    "as-published": {},
    "some-layers-dense": {"mlp_only_layers": [0, 2]},
    "every-second-layer-of-experts": {"decoder_sparse_step": 2},
    "attention-bias": {"attention_bias": True},
}
QWEN3_5_VARIANTS: dict[str, dict[str, Any]] = {
    "another-interval": {"full_attention_interval": 2},
    "layers-named": {"layer_types": ["full_attention", "linear_attention", "linear_attention", "full_attention"]},
    "attention-bias": {"attention_bias": True},
    "other-heads": {"linear_num_key_heads": 4, "linear_num_value_heads": 12, "linear_conv_kernel_dim": 3},
}
OF_MODELS = [
    *(
        (model_id, each)
        for model_id in ("Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-30B-A3B-Instruct")
        for each in VARIANTS
    ),
    *((model_id, each) for model_id in ("Qwen/Qwen3.5-4B", "Qwen/Qwen3.5-35B-A3B") for each in QWEN3_5_VARIANTS),
]


@pytest.mark.parametrize(("model_id", "variant"), OF_MODELS)
def test_a_config_implies_the_tensors_of_the_real_class(model_id: str, variant: str) -> None:
    config = copy.deepcopy(published_config(model_id) or {})
    config["text_config"] |= {"num_hidden_layers": 4, **(VARIANTS | QWEN3_5_VARIANTS)[variant]}
    real = build_on_meta(config).named_parameters()
    family = find(config["model_type"])
    model = family.build(config) if family else None
    assert model is not None
    assert {tensor.name: (tensor.shape, tensor.dtype) for tensor in model.parameters()} == {
        name: (tuple(weight.shape), str(weight.dtype).removeprefix("torch.")) for name, weight in real
    }


@pytest.mark.parametrize("text_first", [True, False])
def test_a_qwen2_5_vl_may_leave_its_vit_to_the_defaults(text_first: bool) -> None:
    """As the published config of the 3B does; transformers 5 writes the LLM's settings into text_config."""
    config = copy.deepcopy(published_config("Qwen/Qwen2.5-VL-3B-Instruct") or {})
    config["vision_config"] = {name: config["vision_config"][name] for name in ("hidden_size", "out_hidden_size")}
    if text_first:
        config = build_on_meta(config).config.to_dict()
    family = find("qwen2_5_vl")
    model = family.build(config) if family else None
    assert model is not None
    assert_same(model, built(build_on_meta(config), model))


@pytest.mark.parametrize("model_id", ["Qwen/Qwen3-VL-8B-Thinking", "Qwen/Qwen3-VL-8B", "qwen/Qwen3-VL-8B-Instruct"])
def test_only_the_published_ids_are_known(model_id: str) -> None:
    assert (published_config(model_id) is not None) == model_id.endswith("-Thinking")


@pytest.mark.parametrize("model_type", ["qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen2_5_vl"])
def test_the_components_are_those_of_ms_swift(model_type: str) -> None:
    family = find(model_type)
    assert family is not None
    theirs = MODEL_ARCH_MAPPING[MODEL_MAPPING[model_type].model_arch.arch_name]
    assert family.architecture.name == theirs.arch_name
    ours = family.architecture
    assert (ours.llm, ours.vit, ours.aligner) == (
        tuple(theirs.language_model),
        tuple(theirs.vision_tower),
        tuple(theirs.aligner),
    )


COMPONENTS = {
    "model.visual": "vit",
    "model.visual.blocks.0.attn.qkv": "vit",
    "model.visual.merger": "aligner",
    "model.visual.merger.norm.weight": "aligner",
    "model.visual.merger_of_another_kind": "vit",
    "model.visual.deepstack_merger_list.2.linear_fc1": "aligner",
    "model.language_model.norm": "llm",
    "lm_head": "llm",
    "score": "other",
}


@pytest.mark.parametrize(("name", "component"), COMPONENTS.items(), ids=COMPONENTS)
def test_the_longest_matching_part_owns_a_name(name: str, component: str) -> None:
    assert QWEN3_VL.architecture.component(name) == component


_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 40,
}
_CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
# model_type -> (class, text model, vision config, aligner, its Linear layers)
OTHER_FAMILIES: dict[str, tuple[str, str, dict[str, Any], str, list[str]]] = {
    "qwen2_vl": (
        "Qwen2VLForConditionalGeneration",
        "qwen2_vl_text",
        {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2},
        "model.visual.merger",
        ["mlp.0", "mlp.2"],
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLForConditionalGeneration",
        "qwen2_5_vl_text",
        {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32},
        "model.visual.merger",
        ["mlp.0", "mlp.2"],
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        "llama",
        _CLIP,
        "model.multi_modal_projector",
        ["linear_1", "linear_2"],
    ),
}


def write_config_of(family: str, folder: Path) -> None:
    class_name, text_type, vision, _, _ = OTHER_FAMILIES[family]
    parts = {"text_config": {"model_type": text_type, **_TEXT}, "vision_config": vision}
    config = {"model_type": family, "architectures": [class_name], **parts}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_another_family_is_mapped_by_ms_swift(family: str, tmp_path: Path) -> None:
    write_config_of(family, tmp_path)
    _, _, _, aligner, layers = OTHER_FAMILIES[family]
    modules = modules_at(tmp_path)
    linear = [m.name for m in modules if m.kind is Kind.LINEAR and modules.component(m.name) == "aligner"]
    assert modules.mergers == (aligner,)
    assert linear == [f"{aligner}.{layer}" for layer in layers]
    assert [part for part, count in modules.totals.items() if not count] == ["other"]


@pytest.mark.parametrize("layers", [1_001, 10_000])
def test_more_layers_than_any_model_has_are_an_error(layers: int, demo: Path, tmp_path: Path) -> None:
    config = json.loads((demo / "model/config.json").read_text())
    config["text_config"]["num_hidden_layers"] = layers
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="a size in its config is not a whole number, or is larger than any model's"):
        modules_at(tmp_path)


def test_a_type_of_ms_swift_whose_aligner_the_model_lacks_is_an_error(tmp_path: Path) -> None:
    write_config_of("qwen2_vl", tmp_path)
    assert modules_at(tmp_path, type="qwen2_5_vl").mergers == ("model.visual.merger",)
    with pytest.raises(
        ModelError, match=r"it has no aligner: no name in the model begins with model\.multi_modal_projector"
    ):
        modules_at(tmp_path, type="llava1_5_hf")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
            "ms-swift knows no aligner in a Qwen3ForCausalLM model",
        ),
        ({"model_type": "gpt2"}, "ms-swift knows no aligner in a gpt2 model"),
        ({"model_type": "no_such_model", "architectures": ["NoSuchModel"]}, "knows no aligner in a NoSuchModel model"),
    ],
    ids=["text-only", "names-no-class", "unknown"],
)
def test_a_model_without_a_known_aligner_is_an_error(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        modules_at(tmp_path)


LEAN = """
import sys
from swiftalign.config.sections import Config
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve

config = Config.model_validate({"model": {"path": sys.argv[1]}})
model = read_model(config)
tuner = {"target_regex": "^$", "modules_to_save": list(model.architecture.aligner)}
plan = resolve(Config.model_validate({"model": {"path": sys.argv[1]}, "tuner": tuner}), model)
print(len(plan.trainables), *sorted({"torch", "transformers", "swift", "peft"} & set(sys.modules)))
"""


LEAN_MODELS = {
    **dict.fromkeys([*MODELS, "Qwen/Qwen3-VL-30B-A3B-Instruct"], 24),
    **dict.fromkeys(["Qwen/Qwen3.5-4B", "Qwen/Qwen3.6-35B-A3B"], 6),
    "Qwen/Qwen2.5-VL-7B-Instruct": 5,
}


@pytest.mark.parametrize(("name", "trained"), LEAN_MODELS.items())
def test_a_plan_for_a_known_family_loads_no_heavy_package(name: str, trained: int, models: dict[str, Path]) -> None:
    command = [sys.executable, "-c", LEAN, str(models.get(name, name))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(trained)]
