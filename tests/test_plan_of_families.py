"""Plans of every family, made from the headers of weight files, against what ms-swift and peft make of its own class.

The models are tiny, and on the meta device. The method is that of test_plan_against_peft.py, with fewer settings.
"""

from __future__ import annotations

import copy
import json
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from peft.utils import get_peft_model_state_dict
from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING
from swift.model import MODEL_MAPPING, MultiModelKeys
from swift.model.models.qwen import _get_qwen3_5_keep_in_fp32_modules
from swift.model.utils import use_submodel_func

from against_peft import (
    adalora,
    as_trained,
    boft,
    described,
    dora,
    flags,
    fourierft,
    listed,
    lora,
    planned,
    planned_groups,
    real_groups,
    saved,
    trainable,
)
from families import FAMILIES, config_of, live, stored_of
from swiftalign.checks.preflight import preflight
from swiftalign.checks.selection import REWRITTEN_TYPES
from swiftalign.checks.trained import expect_aligner
from swiftalign.config.sections import Config
from swiftalign.model.components import correction, swift_types
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ModelError
from swiftalign.runs.lowering import lower
from swiftalign.speed.choices import Choices

# Their classes are in transformers, and ms-swift has no architecture with an aligner for them.
NOT_IN_MS_SWIFT = {"aria", "aya_vision", "cohere2_vision", "ovis2", "smolvlm", "step3p7"}
# Their classes are read, but ms-swift loads no model of them: there is nothing that a plan could equal.
UNLOADABLE = [name for name in FAMILIES if (fault := correction(config_of(name))) and fault.unloadable]
PLANNED = [name for name in FAMILIES if name not in {*NOT_IN_MS_SWIFT, *UNLOADABLE}]
# One for each way of differing from Qwen3-VL: names in files, experts, a bare aligner, convolutions, no component.
QUICK = ("qwen2_5_vl", "qwen3_5", "glm4v_moe", "gemma3", "llava_next")

EVERYTHING = ("llm", "vit", "aligner")
Settings = Callable[[Model], dict[str, Any]]
SETTINGS: dict[str, Settings] = {
    "saved-aligner": lambda model: saved(*model.mergers),
    "saved-norms": lambda model: saved("all-norm"),
    "saved-embeddings": lambda model: saved("all-embedding"),
    "lora-aligner": lambda model: flags("lora", "aligner"),
    "lora-vit": lambda model: flags("lora", "vit"),
    "lora-everything": lambda model: flags("lora", *EVERYTHING),
    "lora-and-embeddings": lambda model: flags("lora", *EVERYTHING, target_modules=["all-linear", "all-embedding"]),
    "lora-all-names": lambda model: lora(".*"),
    "lora-llm-and-saved-aligner": lambda model: lora(r".*\.q_proj", modules_to_save=list(model.mergers)),
    "dora-aligner": lambda model: flags("lora", "aligner", use_dora=True),
    "dora-all-names": lambda model: dora(".*"),
    "adalora-aligner": lambda model: flags("adalora", "aligner"),
    "adalora-all-names": lambda model: adalora(".*"),
    "boft-aligner": lambda model: flags("boft", "aligner", boft_block_size=2),
    "boft-attention": lambda model: boft(r".*\.q_proj", boft_block_size=2),
    "fourierft-aligner": lambda model: flags("fourierft", "aligner", fourier_n_frequency=10),
    "fourierft-all-names": lambda model: fourierft(".*", fourier_n_frequency=2),
    "full-aligner": lambda model: flags("full", "aligner"),
    "full-vit": lambda model: flags("full", "vit"),
    "full-llm": lambda model: flags("full", "llm"),
    "full-everything": lambda model: flags("full", *EVERYTHING),
}
CASES = [
    pytest.param(name, settings, id=f"{name}-{settings}", marks=() if name in QUICK else pytest.mark.long)
    for name in PLANNED
    for settings in SETTINGS
]

_TYPES = {"float32": ("F32", 4), "bfloat16": ("BF16", 2), "float16": ("F16", 2), "int64": ("I64", 8)}


def write_headers(folder: Path, config: dict[str, Any], stored: dict[str, TensorInfo]) -> Path:
    """A model folder whose weight file holds these tensors, all zeros that take no room on the disk."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, tensor in stored.items():
        dtype, width = _TYPES[tensor.dtype]
        start, end = end, end + math.prod(tensor.shape) * width
        header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + end)
    return folder


def read_folder(folder: Path) -> Model:
    return read_model(Config.model_validate({"model": {"path": str(folder)}}))


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """A family's tiny model, from a config and a weight file."""
    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: read_folder(write_headers(root / name, config_of(name), stored_of(name))))


meta_model = cache(live)


def as_loaded(name: str, model: Model) -> Any:
    """A family's tiny model with what ms-swift's loader makes of it, as far as that concerns tuning."""
    real = copy.deepcopy(meta_model(name))
    meta = MODEL_MAPPING[next(each.name for each in swift_types(model.config, model.source) if each.architecture)]
    if correction(model.config):  # as the worker corrects it
        parts = model.architecture
        keys = MultiModelKeys(
            parts.name,
            language_model=list(parts.llm),
            vision_tower=list(parts.vit),
            aligner=list(parts.aligner),
            generator=list(parts.generator),
        )
        meta = SimpleNamespace(model_arch=keys, is_multimodal=True)
    real.model_meta = meta
    if hasattr(real, "thinker"):
        use_submodel_func(real, "thinker")
    elif name == "diffusion_gemma":
        real.prepare_inputs_for_generation = None
    return real


def plan_of(model: Model, tuner: dict[str, Any]) -> tuple[Config, TuningPlan]:
    config = Config.model_validate({"model": {"path": model.source}, "tuner": tuner})
    return config, resolve(config, model)


def codes(model: Model, tuner: dict[str, Any]) -> set[str]:
    config, plan = plan_of(model, tuner)
    return {problem.code for problem in preflight(config, model, plan)}


def assert_trains_as_planned(config: Config, plan: TuningPlan, real: Any) -> None:
    trained = as_trained(config, plan, real)
    assert trainable(trained) == planned(plan)
    assert planned_groups(plan) == real_groups(lower(plan, config, Path("runs"), Choices()), trained)
    if plan.train_type != "full":
        assert described(get_peft_model_state_dict(trained).items()) == listed(plan.tensors)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_what_trains_is_what_was_planned(name: str, settings: str, headers: Callable[[str], Model]) -> None:
    model = headers(name)
    tuner = SETTINGS[settings](model)
    config, plan = plan_of(model, tuner)
    if not plan.trainables:
        assert codes(model, tuner) & {"nothing-trains", "dora-without-layers", "target-matches-nothing"}
        return
    real = as_loaded(name, model)
    if plan.train_type == "boft":  # it computes with the weights
        real.to_empty(device="cpu").tie_weights()
    assert_trains_as_planned(config, plan, real)


@pytest.mark.parametrize("name", sorted(NOT_IN_MS_SWIFT))
def test_a_class_without_an_aligner_in_ms_swift_is_refused(name: str, headers: Callable[[str], Model]) -> None:
    with pytest.raises(ModelError, match="ms-swift knows no aligner"):
        headers(name)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) for name in UNLOADABLE])
def test_a_plan_for_a_class_that_ms_swift_cannot_load_is_refused(name: str, headers: Callable[[str], Model]) -> None:
    model = headers(name)
    assert "class-not-loadable" in codes(model, saved(*model.mergers))


# -- Dtypes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", ["full-llm", "saved-norms", "lora-everything"])
@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5_moe"])
def test_weights_that_ms_swift_keeps_in_float32_are_planned_so(name: str, settings: str, tmp_path: Path) -> None:
    stored = {
        key: replace(info, dtype="float32" if "A_log" in key or "linear_attn.norm" in key else "bfloat16")
        for key, info in stored_of(name).items()
    }
    folder = write_headers(tmp_path / name, config_of(name) | {"dtype": "bfloat16"}, stored)
    model = read_folder(folder)
    tuner = SETTINGS[settings](model) | {"trainable_dtype": "base"}
    config, plan = plan_of(model, tuner)
    real = as_loaded(name, model).to(torch.bfloat16)
    kept = _get_qwen3_5_keep_in_fp32_modules(str(folder), real.config)
    assert len(kept) == 2
    for key, weight in real.named_parameters():
        weight.data = weight.data.float() if key.endswith(kept) else weight.data
    assert_trains_as_planned(config, plan, real)
    whole = [item for item in plan.trainables if item.how == "whole"]
    assert {item.dtype for item in whole} == ({"float32", "bfloat16"} if whole else set())


# -- peft's own rules for mixtures of experts -------------------------------------------------------------------------


def test_peft_rewrites_the_targets_of_these_types_alone() -> None:
    """A new release may add types or rules; `worker/targets.py` keeps peft from all of them, for a run."""
    rewritten = [
        tiny.model_type
        for tiny in FAMILIES.values()
        if _MODEL_TO_CONVERSION_PATTERN.get(tiny.model_type) in _MOE_TARGET_MODULE_MAPPING
    ]
    assert sorted(rewritten) == sorted(REWRITTEN_TYPES)


@pytest.mark.parametrize(
    ("name", "target"),
    [("glm4v_moe", r"model\.visual\.merger\.proj"), ("qwen3_omni_moe", r"thinker\.model\..*\.q_proj")],
)
def test_an_adapter_that_peft_would_load_elsewhere_is_reported(
    name: str, target: str, headers: Callable[[str], Model]
) -> None:
    model, tuner = headers(name), lora(target)
    _, plan = plan_of(model, tuner)
    wrapped = peft.get_peft_model(as_loaded(name, model), peft.LoraConfig(target_modules=plan.adapted_pattern))
    adapted = {key.partition(".lora_")[0] for key in trainable(wrapped)}
    assert {f"base_model.model.{layer}" for layer in plan.adapted} < adapted
    code = "adapter-not-reloadable"
    assert code in codes(model, tuner)
    assert code not in codes(model, saved(*model.mergers))
    assert code not in codes(model, flags("full", "aligner"))
    assert code not in codes(model, flags("adalora", "aligner"))
    assert code not in codes(headers("qwen3_5_moe"), tuner)


# -- What no method can adapt -----------------------------------------------------------------------------------------


def passed_over(model: Model, tuner: dict[str, Any]) -> str:
    config, plan = plan_of(model, tuner)
    return next(problem.message for problem in preflight(config, model, plan) if problem.code == "passed-over")


def test_lora_passes_over_convolutions_that_read_one_channel_per_filter(headers: Callable[[str], Model]) -> None:
    """peft: `Targeting a Conv1d with groups=128 and rank 8` is an error."""
    model, layer = headers("qwen3_5"), "model.language_model.layers.0.linear_attn.conv1d"
    assert f"{layer} (depthwise_conv)" in passed_over(model, lora(r".*\.linear_attn\.(conv1d|out_proj)"))
    assert "target-matches-nothing" in codes(model, lora(r".*\.conv1d"))
    with pytest.raises(ValueError, match="groups=128 and rank 8"):
        peft.get_peft_model(as_loaded("qwen3_5", model), peft.LoraConfig(target_modules=[layer]))


def test_lora_passes_over_a_part_of_multihead_attention(headers: Callable[[str], Model]) -> None:
    model = headers("gemma3")
    text = passed_over(model, lora(r".*\.head\.(attention\.out_proj|mlp\.fc1)"))
    assert "model.vision_tower.head.attention.out_proj" in text


# -- Generators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2_5_omni", "qwen3_omni_moe"])
def test_what_generates_speech_never_trains(name: str, headers: Callable[[str], Model]) -> None:
    model = headers(name)
    for tuner in (lora(".*"), saved("all-norm"), flags("full", *EVERYTHING)):
        _, plan = plan_of(model, tuner)
        assert plan.trainables
        assert all(item.module.startswith("thinker.") for item in plan.trainables)
    assert "talker." in passed_over(model, lora(r"(talker|thinker)\..*\.q_proj"))
    assert "target-matches-nothing" in codes(model, lora(r"talker\..*"))
    assert "saved-matches-nothing" in codes(model, saved("talker", *model.mergers))


# -- Aligners of several parts, and of none that LoRA can adapt -------------------------------------------------------


def test_the_part_of_an_aligner_for_sound_need_not_train(headers: Callable[[str], Model]) -> None:
    model = headers("qwen2_5_omni")
    assert len(model.mergers) == 2
    tuner = saved("thinker.visual.merger")
    assert not {"aligner-incomplete", "aligner-untouched"} & codes(model, tuner)
    assert not list(expect_aligner(plan_of(model, tuner)[1], model))
    assert "aligner-untouched" in codes(model, saved("thinker.audio_tower.proj"))


@pytest.mark.parametrize("train_type", ["lora", "adalora", "boft", "fourierft"])
def test_an_aligner_without_linear_layers_is_trained_whole_by_the_fix(
    train_type: str, headers: Callable[[str], Model]
) -> None:
    model = headers("gemma3")
    tuner = flags(train_type, "aligner")
    config, plan = plan_of(model, tuner)
    problem = next(problem for problem in preflight(config, model, plan) if problem.code == "nothing-trains")
    assert problem.fix is not None
    _, cured = plan_of(model, tuner | problem.fix["tuner"])
    assert {item.component for item in cured.trainables} == {"aligner"}
