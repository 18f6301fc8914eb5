"""A model read from the headers of its weight files, held against the class of transformers that loads them.

The fact that all of it depends on: transformers' classes, their names and what they declare, in the tested release.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from families import FAMILIES, build, config_of, live, stored_from, stored_of
from swiftalign.model.components import architectures, class_of
from swiftalign.model.conversion import RulesError
from swiftalign.model.declared import declared
from swiftalign.model.headers import from_headers, kind_of
from swiftalign.model.meta import model_of
from swiftalign.model.read import read
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.tree import NO_COMPONENTS, Kind, Model, ModelSource, is_inside
from swiftalign.problems import ModelError

# Its rule asks the class whether matrices are stored transposed, so this family is read from its description.
BY_DESCRIPTION = "qwen3_vl_moe"
NAMES = [name for name in FAMILIES if name != BY_DESCRIPTION]

# What headers do not tell: modules of one kind look like another. All lie in generators, which never train.
NOT_TOLD = {
    "janus": {(Kind.NORM, Kind.LAYER_NORM)},  # GroupNorm has a weight and a bias, as LayerNorm
    "qwen3_omni_moe": {(Kind.PARAMETERS, Kind.CONV)},  # a transposed convolution with as many outputs as inputs
}


def both(name: str, settings: dict[str, Any] | None = None) -> tuple[Model, Model]:
    """A family's model from headers, and the live one."""
    built, config = live(name, settings), config_of(name, settings)
    found = from_headers(stored_from(built), config, source=name, dtype=None)
    [architecture, *_] = [*architectures(config, name), NO_COMPONENTS]
    real = model_of(built, architecture, source=name, config=config)
    return replace(found, architecture=architecture), real


pair = cache(both)


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {weight.name: weight.shape for module in model for weight in module.weights}


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_tied_weights_are_those_of_the_class(name: str) -> None:
    found, real = pair(name)
    assert shapes(found) == shapes(real)  # buffers among them would be names too many
    assert found.tied == real.tied
    assert found.totals == real.totals
    assert (found.unbuilt, found.missing) == ((), ())


@pytest.mark.parametrize("name", NAMES)
def test_kinds_are_those_of_the_class(name: str) -> None:
    found, real = pair(name)
    assert found.by_name.keys() <= real.by_name.keys()  # the class has activations and the like besides
    weighted = [module for module in real if module.weights]
    wrong = {m.name: (m.kind, found.by_name[m.name].kind) for m in weighted if found.by_name[m.name].kind is not m.kind}
    assert set(wrong.values()) == NOT_TOLD.get(name, set())
    assert all(is_inside(module, real.architecture.generator) for module in wrong)


@pytest.mark.parametrize("name", NAMES)
def test_lists_are_told_but_for_sequences_which_are_said_to_be_lists(name: str) -> None:
    found, real = pair(name)
    inner = [module for module in found if not module.weights]
    wrong = {(real.by_name[module.name].kind, module.kind) for module in inner} - {(kind, kind) for kind in Kind}
    assert wrong <= {(Kind.CONTAINER, Kind.MODULE_LIST)}


# Llama 4 is not among them: its head is of a sub-model, which no published model ties.
TIES = [
    "qwen3_5",
    "llava",
    "gemma3",
    "idefics3",
    "glm4v",
    "hunyuan_vl",
    "internvl",
    "qwen2_5_vl",
    "janus",
    "minicpmv4_6",
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", TIES)
def test_tied_weights_follow_the_config(name: str, tied: bool) -> None:
    found, real = both(name, {"tie_word_embeddings": tied, "text_config.tie_word_embeddings": tied})
    assert found.tied == real.tied
    assert shapes(found) == shapes(real)
    assert bool(found.tied) is tied


@pytest.mark.parametrize("name", NAMES)
def test_what_a_class_declares_is_read_from_its_source(name: str) -> None:
    model, config = live(name), config_of(name)
    found = declared(config, class_of(config))
    assert set(found.unbuilt) == set(model._keys_to_ignore_on_load_unexpected)
    assert set(found.float32) == set(model._keep_in_fp32_modules_strict)
    assert set(found.float32_in_float16) == set(model._keep_in_fp32_modules)


def test_a_head_that_the_files_lack_and_the_config_does_not_tie_is_missing() -> None:
    stored, config = stored_of("qwen3_5"), config_of("qwen3_5")
    del stored["lm_head.weight"]
    model = from_headers(stored, config | {"tie_word_embeddings": False}, source="", dtype=None)
    assert (model.missing, model.tied) == (("lm_head.weight",), frozenset())


def test_an_embedding_that_only_its_head_has_in_the_files_is_counted_once() -> None:
    stored, config = stored_of("qwen3_5"), config_of("qwen3_5") | {"tie_word_embeddings": True}
    both = from_headers(stored, config, source="", dtype=None)
    del stored["model.language_model.embed_tokens.weight"]
    one = from_headers(stored, config, source="", dtype=None)
    assert one.tied == both.tied == {"lm_head.weight"}
    assert shapes(one) == shapes(both)


# Tensors as published files hold them besides those that the class builds.
UNBUILT: dict[str, tuple[dict[str, Any], list[str]]] = {
    "qwen3_5": ({}, ["mtp.fc.weight", "mtp.layers.0.self_attn.q_proj.weight"]),
    "qwen3_5_moe": ({}, ["mtp.layers.0.mlp.gate.weight"]),
    "minimax_m3_vl": ({}, ["model.mtp.fc.weight"]),
    "paddleocr_vl": (
        {},
        ["visual.vision_model.head.probe", "visual.vision_model.embeddings.packing_position_embedding.weight"],
    ),
    "glm_ocr": ({}, ["model.language_model.layers.2.eh_proj.weight", "model.language_model.layers.16.enorm.weight"]),
    "glm4v_moe": ({}, ["model.language_model.layers.2.shared_head.norm.weight"]),
    "gemma3n": (
        {"text_config.num_kv_shared_layers": 1, "text_config.layer_types": ["full_attention"] * 2},
        [f"model.language_model.layers.1.self_attn.{part}.weight" for part in ("k_proj", "v_proj", "k_norm")],
    ),
    "gemma4": (
        {
            "text_config.num_kv_shared_layers": 1,
            "text_config.layer_types": ["full_attention"] * 2,
            "text_config.per_layer_config": None,
        },
        [f"model.language_model.layers.1.self_attn.{part}.weight" for part in ("k_proj", "v_proj", "k_norm")],
    ),
    "qwen2_5_omni": ({"enable_audio_output": False}, ["talker.codec_head.weight", "token2wav.a.weight"]),
}


@pytest.mark.parametrize("name", UNBUILT)
def test_tensors_that_the_class_does_not_build_are_listed_and_not_counted(name: str) -> None:
    settings, extra = UNBUILT[name]
    built = live(name, settings)
    stored = stored_from(built) | {file: TensorInfo(file, (8, 8), "float32") for file in extra}
    model = from_headers(stored, config_of(name, settings), source=name, dtype=None)
    assert set(model.unbuilt) == set(extra)
    assert shapes(model) == shapes(model_of(built, NO_COMPONENTS, source=name, config=model.config))
    assert not set(extra) & model.files.keys()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["ernie4_5_vl_moe", "glm4v_moe", "glm5_next", "qwen3_5", "llava"])
def test_dtypes_are_those_of_the_loaded_model(name: str, dtype: str, tmp_path: Path) -> None:
    folder = build(name, tmp_path)
    real = getattr(transformers, FAMILIES[name].model_class).from_pretrained(folder, dtype=getattr(torch, dtype))
    expected = {key: str(weight.dtype).removeprefix("torch.") for key, weight in real.named_parameters()}
    model = read(ModelSource(str(folder), dtype=dtype))
    # `glm5_next` and the like are float32 in part; what ms-swift keeps so in Qwen3.5, transformers by itself does not.
    kept = {
        key for key in expected if name == "qwen3_5" and key.endswith(("linear_attn.A_log", "linear_attn.norm.weight"))
    }
    assert {w.name: w.dtype for w in model.parameters()} == expected | dict.fromkeys(kept, "float32")


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "mixed"])
def test_ms_swift_keeps_the_same_weights_of_qwen3_5_in_float32(stored: str, tmp_path: Path) -> None:
    from swift.model.models.qwen import _get_qwen3_5_keep_in_fp32_modules

    build("qwen3_5", tmp_path)
    weights = {key: weight.to(torch.bfloat16) for key, weight in load_file(tmp_path / "model.safetensors").items()}
    for key in weights:
        if ".A_log" in key and stored != "bfloat16":
            weights[key] = weights[key].float()
        if ".linear_attn.norm." in key and stored == "float32":
            weights[key] = weights[key].float()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    kept = _get_qwen3_5_keep_in_fp32_modules(str(tmp_path), config)
    model = read(ModelSource(str(tmp_path), dtype="bfloat16"))
    float32 = {weight.name for weight in model.parameters() if weight.dtype == "float32"}
    assert float32 == {weight.name for weight in model.parameters() if weight.name.endswith(kept)}
    assert len(kept) == {"float32": 2, "bfloat16": 0, "mixed": 1}[stored]


def test_kinds_by_name_and_shape() -> None:
    def kind(name: str, **shapes: tuple[int, ...]) -> Kind:
        return kind_of(name, {last: TensorInfo(f"{name}.{last}", shape, "float32") for last, shape in shapes.items()})

    assert kind("mlp1.1", weight=(8, 4), bias=(8,)) is Kind.LINEAR
    assert kind("codec_embedding.3", weight=(8, 4)) is Kind.EMBEDDING
    assert kind("embed_vision.embedding_projection", weight=(8, 4)) is Kind.LINEAR
    assert kind("layers.0.mlp.gate", weight=(8, 4)) is Kind.PARAMETERS
    assert kind("layers.0.mlp.gate", weight=(8, 4), bias=(8,)) is Kind.LINEAR
    assert kind("resampler.query", weight=(), bias=(4,)) is Kind.PARAMETERS
    assert kind("experts", weight=(4, 8, 8)) is Kind.PARAMETERS
    assert kind("experts", weight=(4, 8, 8), bias=(4, 8)) is Kind.PARAMETERS
    assert kind("spk_encoder.fc", weight=(8, 4, 1), bias=(8,)) is Kind.CONV
    assert kind("upsample", weight=(8, 4, 2), bias=(4,)) is Kind.PARAMETERS  # a transposed convolution
    assert kind("patch_embed.proj", weight=(8, 3, 2, 14, 14)) is Kind.CONV


def test_a_batch_norm_and_a_part_of_multi_head_attention_are_not_what_they_look_like() -> None:
    """Headers hold the running statistics of the one, and the input projection of the other beside `out_proj`."""

    class Remote(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(4)
            self.attn = torch.nn.MultiheadAttention(4, 2)

    state = Remote().state_dict()
    stored = {key: TensorInfo(key, tuple(value.shape), "float32") for key, value in state.items()}
    config = {"model_type": "remote", "auto_map": {"AutoModel": "m.Remote"}}
    found, real = (
        from_headers(stored, config, source="", dtype=None),
        model_of(Remote(), NO_COMPONENTS, source="", config=config),
    )
    assert {module.name: module.kind for module in found} == {module.name: module.kind for module in real}
    assert (found.by_name["norm"].kind, found.by_name["attn.out_proj"].kind) == (Kind.NORM, Kind.PARAMETERS)


LEAN = """
import sys
from swiftalign.model.read import read
from swiftalign.model.tree import ModelSource

read(ModelSource(sys.argv[1]))
print(*sorted({"torch", "transformers", "swift"} & set(sys.modules)))
"""


def test_headers_are_read_without_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LEAN, str(build("internvl", tmp_path))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == []


HOSTILE: list[Any] = [None, [], {}, "x", -1, 1e30, [1, 2], {"a": {"b": []}}, True, [None], {"model_type": []}]
HOSTILE += [{"model_type": "../../x"}, {"model_type": "a" * 5000}]
HOSTILE_NAMES = [
    "",
    "." * 50,
    "a" * 3000,
    "experts.99999999999999999999.weight",
    "layers.9" * 2000,
    f"model.layers.{'9' * 5000}.a.weight",
    "(",
    "layers.٣.x",
    "²",
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["qwen3_5_moe", "ernie4_5_vl_moe", "diffusion_gemma", "kimi_k25", "gemma4", "llava"])
def test_hostile_files_end_in_a_model_or_in_an_error(name: str, seed: int) -> None:
    draw, sound = random.Random(seed), stored_of(name)
    for _ in range(10):
        config, stored = config_of(name), dict(sound)
        for _ in range(draw.randint(1, 3)):
            part = draw.choice([config, *(value for value in config.values() if isinstance(value, dict) and value)])
            part[draw.choice(list(part))] = draw.choice(HOSTILE)
            tensor = stored.pop(draw.choice(list(stored)))
            other = draw.choice([tensor.name, *HOSTILE_NAMES, tensor.name[: len(tensor.name) // 2], f"{tensor.name}\n"])
            shape = draw.choice([tensor.shape, (), (0,), (1,) * 40, (10**15, 10**15), tensor.shape[:1]])
            stored[other] = TensorInfo(other, shape, tensor.dtype)
        with suppress(RulesError):  # then the model is built from its config instead
            model = from_headers(stored, config, source=name, dtype=None)
            architectures(config, name)
            assert sum(model.totals.values()) >= 0


def test_a_malformed_model_in_a_folder_is_an_error(tmp_path: Path) -> None:
    build("llava", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for broken in ({"architectures": {"a": 1}, "model_type": "no_such"}, {"text_config": [], "vision_config": 3}):
        (tmp_path / "config.json").write_text(json.dumps(config | broken))
        save_file({"a.b.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
        with pytest.raises(ModelError):
            read(ModelSource(str(tmp_path)))


def test_thousands_of_experts_are_merged() -> None:
    config, stored = config_of("qwen3_5_moe", {"text_config.num_hidden_layers": 2}), stored_of("qwen3_5_moe")
    for expert in range(4, 4_000):
        for part, shape in {"gate": (32, 64), "up": (32, 64), "down": (64, 32)}.items():
            for layer in range(2):
                name = f"model.language_model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"
                stored[name] = TensorInfo(name, shape, "float32")
    model = from_headers(stored, config, source="", dtype=None)
    assert shapes(model)["model.language_model.layers.1.mlp.experts.gate_up_proj"] == (4_000, 64, 64)
