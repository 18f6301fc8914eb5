"""The plan, made from names and shapes alone, against what ms-swift and peft make of a real model.

The model is wrapped by ms-swift's own `TunerMixin.prepare_model`, from the arguments that the plan is lowered to, and
its optimizer comes from ms-swift's own callback.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper, get_peft_model_state_dict
from swift.model import MODEL_MAPPING, MultiModelKeys
from swift.pipelines.train.tuner import TunerMixin, get_modules_to_save, get_target_modules
from swift.utils import get_multimodal_target_regex
from transformers import AutoModelForImageTextToText

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
    swift_arguments,
    trainable,
)
from swiftalign.checks.preflight import preflight
from swiftalign.config.sections import Config
from swiftalign.demo.model import build_model
from swiftalign.methods.boft import Boft
from swiftalign.model.families import published_config
from swiftalign.model.meta import build_on_meta
from swiftalign.model.safetensors import read_stored
from swiftalign.model.tree import Architecture, Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve as resolve_plan
from swiftalign.problems import Problem
from swiftalign.runs.lowering import lower
from swiftalign.speed.choices import Choices

MERGERS = ["model.visual.merger", *(f"model.visual.deepstack_merger_list.{index}" for index in range(3))]
ALIGNER = r"model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]"
LLM_ATTENTION = r"model\.language_model\.layers\.\d+\.self_attn\.[qkvo]_proj"
VIT_LINEARS = r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])"
MODELS: dict[str, dict[str, Any]] = {
    "dense": {},
    "bf16": {"dtype": "bfloat16"},
    "fp16": {"dtype": "float16"},
    "tied": {"tied": True},
    "moe": {"moe": True},
}

_TINY_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 40,
}
# Families without a name table: their class is built on the meta device, and ms-swift says where its parts are.
OTHER_MODELS: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "text_config": {"model_type": "qwen2_5_vl_text", **_TINY_TEXT},
        "vision_config": {
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "out_hidden_size": 32,
        },
    },
    "llava_next": {
        "architectures": ["LlavaNextForConditionalGeneration"],
        "text_config": {"model_type": "llama", **_TINY_TEXT},
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
    },
}

Plans = Callable[..., tuple[Config, TuningPlan]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models, by the keys of `MODELS` and, without weights, of `OTHER_MODELS`."""
    root = tmp_path_factory.mktemp("models")
    for name, options in MODELS.items():
        build_model(root / name, **options)
    for name, values in OTHER_MODELS.items():
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps({"model_type": name, **values}))
    return {name: root / name for name in (*MODELS, *OTHER_MODELS)}


def problems(config: Config, plan: TuningPlan) -> list[Problem]:
    return preflight(config, modules_in(Path(plan.model)), plan)


@pytest.fixture(scope="module")
def resolve(models: dict[str, Path]) -> Plans:
    """The plan of some settings for one of the models, from the headers of its weight file."""

    def resolved(
        model: str, tuner: dict[str, Any], training: dict[str, Any] | None = None
    ) -> tuple[Config, TuningPlan]:
        sections = {"tuner": tuner, "training": training or {}}
        config = Config.model_validate({"model": {"path": str(models[model])}, **sections})
        return config, resolve_plan(config, modules_in(models[model]))

    return resolved


@cache
def modules_in(folder: Path) -> Model:
    return read_model(Config.model_validate({"model": {"path": str(folder)}}))


@cache
def meta_model(folder: Path) -> Any:
    model = build_on_meta(modules_in(folder).config)
    model.model_meta = swift_meta(modules_in(folder))
    return model


def swift_meta(modules: Model) -> Any:
    """ms-swift's entry of a model with this architecture."""
    metas = (meta for meta in MODEL_MAPPING.values() if meta.model_arch)
    return next(meta for meta in metas if meta.model_arch.arch_name == modules.architecture.name)


def base_model(plan: TuningPlan) -> Any:
    """A fresh copy of the plan's model; BOFT computes with its weights, so that it can't be on the meta device."""
    model = copy.deepcopy(meta_model(Path(plan.model)))
    if plan.train_type == "boft":
        model.to_empty(device="cpu").tie_weights()
    return model


def prepare(config: Config, plan: TuningPlan) -> Any:
    """The plan's model as it trains."""
    return as_trained(config, plan, base_model(plan))


COMBINATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "saved-aligner": ("dense", saved(*MERGERS)),
    "saved-aligner-bf16-as-float32": ("bf16", saved(*MERGERS)),
    "saved-aligner-bf16-as-base": ("bf16", saved(*MERGERS, trainable_dtype="base")),
    "saved-aligner-fp16-as-base": ("fp16", saved(*MERGERS, trainable_dtype="base")),
    "saved-module-list": ("dense", saved("model.visual.merger", "model.visual.deepstack_merger_list")),
    "saved-suffixes": ("dense", saved("merger", "deepstack_merger_list.0", "lm_head")),
    "saved-by-accident": ("dense", saved("norm")),
    "saved-all-norm": ("dense", saved("all-norm")),
    "saved-all-embedding": ("dense", saved("all-embedding")),
    "saved-head-and-embeddings": ("bf16", saved("lm_head", "embed_tokens")),
    "saved-whole-vit": ("dense", saved("model.visual")),
    "saved-whole-llm": ("moe", saved("model.language_model")),
    "saved-moe-experts-and-router": ("moe", saved("layers.0.mlp.experts", "layers.1.mlp.gate")),
    "saved-patch-embedding": ("dense", saved("patch_embed", "pos_embed")),
    "saved-by-adalora": ("dense", adalora("^$", modules_to_save=MERGERS)),
    "saved-by-boft": ("dense", boft("^$", modules_to_save=MERGERS)),
    "saved-by-fourierft": ("dense", fourierft("dummy-target-modules", modules_to_save=MERGERS)),
    "lora-aligner": ("dense", lora(ALIGNER)),
    "lora-aligner-bf16": ("bf16", lora(ALIGNER, lora_rank=3, use_rslora=True)),
    "lora-aligner-fp16": ("fp16", lora(ALIGNER, lora_dropout=0.0)),
    "lora-aligner-tied": ("tied", lora(ALIGNER, lora_rank=16)),
    "lora-aligner-moe": ("moe", lora(ALIGNER)),
    "lora-aligner-bf16-as-base": ("bf16", lora(ALIGNER, trainable_dtype="base")),
    "lora-llm-attention-moe": ("moe", lora(LLM_ATTENTION)),
    "lora-vit": ("bf16", lora(VIT_LINEARS)),
    "lora-all-names": ("dense", lora(".*")),
    "lora-all-names-moe": ("moe", lora(r".*layers\.[01]\..*")),
    "lora-embeddings": ("dense", lora(r".*(embed_tokens|pos_embed)")),
    "lora-head-and-embeddings-bf16": ("bf16", lora(r".*embed_tokens|lm_head")),
    "lora-convolution": ("dense", lora(r".*patch_embed\.proj")),
    "lora-suffixes": ("dense", lora(None, target_modules=["q_proj", "merger.linear_fc1"])),
    "lora-all-linear": ("dense", lora(None, target_modules=["all-linear"])),
    "lora-all-linear-and-embedding": ("dense", lora(None, target_modules=["all-linear", "all-embedding"])),
    "lora-suffix-and-embedding": ("dense", lora(None, target_modules=["q_proj", "all-embedding"])),
    "lora-no-suffix-but-saved": ("dense", lora(None, target_modules=[], modules_to_save=MERGERS)),
    "lora-llm-and-saved-aligner": ("bf16", lora(LLM_ATTENTION, modules_to_save=MERGERS)),
    "lora-all-and-saved-aligner": ("dense", lora(r".*linear_fc[12]", modules_to_save=MERGERS)),
    "lora-llm-and-saved-norms": ("bf16", lora(LLM_ATTENTION, modules_to_save=["all-norm"])),
    "lora-flags-all": ("dense", flags("lora", "llm", "vit", "aligner")),
    "lora-flags-llm-moe": ("moe", flags("lora", "llm")),
    "lora-flags-aligner-and-saved-norms": ("dense", flags("lora", "aligner", modules_to_save=["merger.norm"])),
    "lora-flags-none-and-saved": ("dense", flags("lora", modules_to_save=MERGERS)),
    "dora-aligner": ("dense", dora(ALIGNER)),
    "dora-aligner-bf16": ("bf16", dora(ALIGNER, lora_rank=4)),
    "dora-aligner-fp16": ("fp16", dora(ALIGNER)),
    "dora-head-and-embeddings": ("dense", dora(r".*embed_tokens|lm_head")),
    "dora-convolution": ("bf16", dora(r".*patch_embed\.proj")),
    "dora-everything": ("moe", dora(".*")),
    "dora-vit-and-saved-aligner": ("bf16", dora(VIT_LINEARS, modules_to_save=MERGERS)),
    "adalora-aligner": ("dense", adalora(ALIGNER, adalora_init_r=13, adalora_target_r=5)),
    "adalora-aligner-bf16": ("bf16", adalora(ALIGNER)),
    "adalora-flags-vit": ("dense", flags("adalora", "vit", "aligner")),
    "adalora-head-and-saved-aligner": ("dense", adalora("lm_head", modules_to_save=MERGERS)),
    "boft-aligner": ("dense", boft(ALIGNER)),
    "boft-aligner-bf16": ("bf16", boft(ALIGNER, boft_block_size=8)),
    "boft-block-number": ("dense", boft(ALIGNER, boft_block_size=0, boft_block_num=8)),
    "boft-llm-and-saved-aligner": ("moe", boft(LLM_ATTENTION, modules_to_save=MERGERS)),
    "boft-tied": ("tied", boft(ALIGNER, boft_dropout=0.1)),
    "fourierft-aligner": ("dense", fourierft(ALIGNER)),
    "fourierft-aligner-bf16": ("bf16", fourierft(ALIGNER, fourier_n_frequency=33, fourier_scaling=1.0)),
    "fourierft-everything": ("moe", fourierft(".*")),
    "fourierft-saved-norms": ("bf16", fourierft(ALIGNER, modules_to_save=["all-norm"])),
    "full-aligner": ("dense", flags("full", "aligner")),
    "full-aligner-bf16": ("bf16", flags("full", "aligner")),
    "full-aligner-fp16-as-base": ("fp16", flags("full", "aligner", trainable_dtype="base")),
    "full-vit": ("dense", flags("full", "vit")),
    "full-vit-and-aligner": ("dense", flags("full", "vit", "aligner")),
    "full-all": ("moe", flags("full", "llm", "vit", "aligner")),
    "full-all-tied": ("tied", flags("full", "llm", "vit", "aligner", trainable_dtype="base")),
    "other-saved-aligner": ("qwen2_5_vl", saved("model.visual.merger")),
    "other-dora-suffixes": ("qwen2_5_vl", dora(None, target_modules=["mlp.0", "mlp.2"])),
    "other-lora-flags": ("llava_next", flags("lora", "llm", "vit", "aligner")),
    "other-full-aligner": ("llava_next", flags("full", "aligner")),  # and a weight outside all its parts
    "other-full-llm": ("qwen2_5_vl", flags("full", "llm")),
}
FULL = [name for name, (model, tuner) in COMBINATIONS.items() if tuner["train_type"] == "full" and model in MODELS]


@pytest.mark.parametrize(("model", "tuner"), COMBINATIONS.values(), ids=COMBINATIONS)
def test_what_trains_is_what_was_planned(model: str, tuner: dict[str, Any], resolve: Plans) -> None:
    config, plan = resolve(model, tuner)
    wrapped = prepare(config, plan)
    assert plan.trainables
    assert trainable(wrapped) == planned(plan)
    if plan.train_type != "full":
        assert described(get_peft_model_state_dict(wrapped).items()) == listed(plan.tensors)


@pytest.mark.parametrize("name", FULL)
def test_a_checkpoint_of_full_training_holds_the_planned_tensors(name: str, resolve: Plans, tmp_path: Path) -> None:
    config, plan = resolve(*COMBINATIONS[name])
    model = AutoModelForImageTextToText.from_pretrained(plan.model)
    model = TunerMixin.prepare_model(swift_arguments(config, plan, MODEL_MAPPING[plan.model_type]), model)
    for weight in model.parameters():
        if weight.requires_grad and config.tuner.trainable_dtype == "float32":
            weight.data = weight.data.float()
    model.save_pretrained(tmp_path)
    assert listed([tensor.info for tensor in read_stored(tmp_path / "model.safetensors")]) == listed(plan.tensors)


# -- Optimizer groups -------------------------------------------------------------------------------------------------

VIT_NORMS = ["norm1", "norm2"]
LLM_NORMS = ["input_layernorm", "post_attention_layernorm", "q_norm", "k_norm", "model.language_model.norm"]
OWN_RATES = {"learning_rate": 1e-4, "vit_lr": 1e-6, "aligner_lr": 1e-5, "weight_decay": 0.05}

GROUPS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "saved-aligner": ("dense", saved(*MERGERS), {}),
    "saved-aligner-own-rate": ("bf16", saved(*MERGERS), {"aligner_lr": 2e-5}),
    "saved-vit-norms": ("dense", saved(*VIT_NORMS), {"vit_lr": 1e-5}),
    "saved-llm-norms": ("dense", saved(*LLM_NORMS), {"learning_rate": 3e-5}),
    "saved-all-norms": ("bf16", saved("all-norm"), OWN_RATES),
    "saved-embeddings": ("dense", saved("lm_head", "embed_tokens", "pos_embed", "patch_embed"), OWN_RATES),
    "saved-experts": ("moe", saved("layers.0.mlp.experts", "layers.0.mlp.gate"), {}),
    "lora-llm": ("dense", lora(LLM_ATTENTION), {"learning_rate": 2e-4}),
    "lora-llm-and-saved-aligner": ("dense", lora(LLM_ATTENTION, modules_to_save=MERGERS), OWN_RATES),
    "lora-everywhere": ("moe", lora(".*"), OWN_RATES),
    "dora-vit": ("dense", dora(VIT_LINEARS), OWN_RATES),
    "adalora-aligner": ("dense", adalora(ALIGNER), {}),
    "boft-aligner": ("dense", boft(ALIGNER), OWN_RATES),
    "fourierft-everywhere": ("dense", fourierft(".*"), OWN_RATES),
    "full-aligner": ("dense", flags("full", "aligner"), {}),
    "full-everything": ("tied", flags("full", "llm", "vit", "aligner"), OWN_RATES),
    "other-norms-that-decay": ("qwen2_5_vl", saved("model.visual.merger", "norm2"), OWN_RATES),
    "other-outside-all-parts": ("llava_next", flags("full", "aligner"), OWN_RATES),
    "no-decay": ("dense", saved(*MERGERS), {"weight_decay": 0.0}),
    "one-rate-for-all": ("dense", lora(LLM_ATTENTION, modules_to_save=MERGERS), {"optimizer": "default"}),
    "one-rate-for-all-full": ("dense", flags("full", "vit", "aligner"), {"optimizer": "default", "weight_decay": 0.2}),
}


@pytest.mark.parametrize(("model", "tuner", "training"), GROUPS.values(), ids=GROUPS)
def test_optimizer_groups_are_those_of_ms_swift(
    model: str, tuner: dict[str, Any], training: dict[str, Any], resolve: Plans
) -> None:
    config, plan = resolve(model, tuner, training)
    wrapped = prepare(config, plan)
    # ms-swift's own rate where none is given: `SftArguments._init_override`.
    defaults = {"optimizer": "multimodal", "learning_rate": 1e-5 if plan.train_type == "full" else 1e-4}
    assert plan.groups
    assert planned_groups(plan) == real_groups({**defaults, "weight_decay": 0.1, **training}, wrapped)
    assert planned_groups(plan) == real_groups(lower(plan, config, Path("runs"), Choices()), wrapped)


# -- What the settings select, where peft and ms-swift read them as they are ------------------------------------------

RAW: dict[str, tuple[str, dict[str, Any]]] = {
    "regex-aligner": ("dense", {"target_regex": ALIGNER}),
    "regex-alternation-without-group": ("dense", {"target_regex": r"lm_head|.*merger\.linear_fc1|merger\.linear_fc2"}),
    "regex-part-of-a-name": ("dense", {"target_regex": r".*visual.*linear_fc[12]"}),
    "regex-that-matches-other-names-in-part": ("dense", {"target_regex": r"lm_head|model\.visual\.merger\.linear"}),
    "regex-unescaped-dots": ("moe", {"target_regex": "model.language_model.layers.[0-2].self_attn.(q|v)_proj"}),
    "regex-lookahead": ("dense", {"target_regex": r"(?!model\.visual\.blocks).*\.linear_fc[12]"}),
    "regex-ignoring-case": ("dense", {"target_regex": r"(?i).*Q_PROJ"}),
    "suffixes": ("dense", {"target_modules": ["q_proj", "v_proj"]}),
    "suffixes-that-hit-the-vit": ("dense", {"target_modules": ["linear_fc1", "linear_fc2"]}),
    "suffix-of-two-parts": ("dense", {"target_modules": ["merger.linear_fc1", "attn.proj"]}),
    "suffix-that-is-a-whole-name": ("dense", {"target_modules": ["lm_head", "model.visual.merger.linear_fc2"]}),
    "suffix-needs-a-dot": ("dense", {"target_modules": ["proj", "qkv", "embed_tokens"]}),
    "saved-whole-names": ("dense", {"target_regex": "dummy-target-modules", "modules_to_save": MERGERS}),
    "saved-suffix": ("dense", {"target_regex": "dummy-target-modules", "modules_to_save": ["merger"]}),
    "saved-suffix-without-dot": ("dense", {"target_regex": "dummy-target-modules", "modules_to_save": ["norm"]}),
    "saved-part-of-a-word": ("dense", {"target_regex": "dummy-target-modules", "modules_to_save": ["fc1", "_head"]}),
    "saved-nothing-but-adapted": ("dense", {"target_modules": ["q_proj"], "modules_to_save": ["no_such_module"]}),
    "saved-inside-target": ("dense", {"target_modules": ["linear_fc1"], "modules_to_save": ["merger"]}),
    "saved-layers-that-are-targeted": ("dense", {"target_regex": r".*\.(k|q)_proj", "modules_to_save": ["k_proj"]}),
    "saved-experts": ("moe", {"target_modules": ["o_proj"], "modules_to_save": ["experts"]}),
}


@pytest.mark.parametrize(("model", "tuner"), RAW.values(), ids=RAW)
def test_the_selection_is_what_peft_makes_of_the_same_settings(
    model: str, tuner: dict[str, Any], resolve: Plans
) -> None:
    _, plan = resolve(model, tuner)
    target = tuner.get("target_regex", tuner.get("target_modules"))
    config = peft.LoraConfig(target_modules=target, modules_to_save=tuner.get("modules_to_save"))
    wrapped = peft.get_peft_model(base_model(plan), config).get_base_model()
    found = [(name, module) for name, module in wrapped.named_modules()]
    assert {name for name, module in found if isinstance(module, BaseTunerLayer)} == set(plan.adapted)
    assert {name for name, module in found if isinstance(module, ModulesToSaveWrapper)} == set(plan.saved)


UNFROZEN = [
    tuple(part for bit, part in enumerate(("llm", "vit", "aligner")) if number >> bit & 1) for number in range(1, 8)
]


@pytest.mark.parametrize("embeddings", [False, True], ids=["linear", "linear-and-embedding"])
@pytest.mark.parametrize("model", ["dense", "moe", *OTHER_MODELS])
@pytest.mark.parametrize("unfrozen", UNFROZEN, ids="-".join)
def test_freeze_flags_expand_as_in_ms_swift(
    unfrozen: tuple[str, ...], model: str, embeddings: bool, resolve: Plans
) -> None:
    tuner = flags("lora", *unfrozen)
    target = ["all-linear", "all-embedding"] if embeddings else None
    _, plan = resolve(model, {**tuner, "target_modules": target})
    real, frozen = base_model(plan), {name: value for name, value in tuner.items() if name.startswith("freeze_")}
    pattern = get_multimodal_target_regex(real, **frozen, include_embedding=embeddings)
    assert {name for name, _ in real.named_modules() if re.fullmatch(pattern, name)} == set(plan.adapted)


def test_freeze_flags_reach_nothing_outside_the_parts_of_the_architecture(
    resolve: Plans, models: dict[str, Path]
) -> None:
    config, plan = resolve(
        "dense", flags("lora", "llm", "vit", "aligner", target_modules=["all-linear", "all-embedding"])
    )
    parts = {"language_model": "model.language_model.layers", "aligner": "model.visual.merger"}
    keys = MultiModelKeys("part_of_qwen3_vl", vision_tower="model.visual.blocks", **parts)
    architecture = Architecture(keys.arch_name, *map(tuple, (keys.language_model, keys.vision_tower, keys.aligner)))
    modules = replace(modules_in(models["dense"]), architecture=architecture)
    real = base_model(plan)
    real.model_meta = SimpleNamespace(model_arch=keys)
    pattern = get_multimodal_target_regex(
        real, freeze_llm=False, freeze_vit=False, freeze_aligner=False, include_embedding=True
    )
    adapted = {name for name, _ in real.named_modules() if re.fullmatch(pattern, name)}
    assert adapted == set(resolve_plan(config, modules).adapted)
    assert adapted < set(plan.adapted)


def test_everything_frozen_trains_nothing_where_ms_swift_asserts(resolve: Plans) -> None:
    config, plan = resolve("dense", flags("lora"))
    assert {problem.code for problem in problems(config, plan)} - {"versions-untested"} == {"nothing-trains"}
    with pytest.raises(AssertionError):
        get_multimodal_target_regex(base_model(plan), freeze_llm=True, freeze_vit=True, freeze_aligner=True)


@pytest.mark.parametrize("model", ["dense", "moe"])
@pytest.mark.parametrize("entries", [["all-norm"], ["all-embedding"], ["all-norm", "all-embedding", "lm_head"]])
def test_shorthands_in_modules_to_save_expand_as_in_ms_swift(entries: list[str], model: str, resolve: Plans) -> None:
    config, plan = resolve(model, saved(*entries))
    real = base_model(plan)
    suffixes = get_modules_to_save(SimpleNamespace(modules_to_save=config.tuner.modules_to_save), real)
    assert {name for name, _ in real.named_modules() if name.endswith(tuple(suffixes))} == set(plan.saved)


def test_all_embedding_beside_target_suffixes_expands_as_in_ms_swift(resolve: Plans) -> None:
    config, plan = resolve("dense", lora(None, target_modules=["q_proj", "all-embedding"]))
    suffixes = get_target_modules(SimpleNamespace(target_modules=config.tuner.target_modules), base_model(plan))
    wrapped = peft.get_peft_model(base_model(plan), peft.LoraConfig(target_modules=suffixes)).get_base_model()
    adapted = {name for name, module in wrapped.named_modules() if isinstance(module, BaseTunerLayer)}
    assert adapted == set(plan.adapted)
    assert {"model.visual.pos_embed", "model.language_model.embed_tokens"} < adapted


def test_all_linear_outweighs_the_names_beside_it_and_says_so(resolve: Plans) -> None:
    config, plan = resolve("dense", flags("lora", "aligner", target_modules=["all-linear", "q_proj"]))
    _, alone = resolve("dense", flags("lora", "aligner"))
    frozen = {"freeze_llm": True, "freeze_vit": True, "freeze_aligner": False}
    args = SimpleNamespace(target_modules=["all-linear", "q_proj"], **frozen)
    assert plan.adapted == alone.adapted
    assert "q_proj" not in get_target_modules(args, base_model(plan))
    assert [problem.message for problem in problems(config, plan) if problem.code == "setting-unused"] == [
        "target_modules: q_proj: no effect beside all-linear, for which the freeze flags decide"
    ]


def test_a_public_size_trains_what_was_planned() -> None:
    config = Config.model_validate({"model": {"path": "Qwen/Qwen3-VL-235B-A22B-Instruct"}, "tuner": lora(".*_proj")})
    plan = resolve_plan(config, read_model(config))
    model = build_on_meta(published_config(config.model.path) or {})
    model.model_meta = MODEL_MAPPING[plan.model_type]
    args = swift_arguments(config, plan, model.model_meta)
    assert len(plan.adapted) == 94 * 4
    assert trainable(TunerMixin.prepare_model(args, model)) == planned(plan)


# -- BOFT's constraints -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [0, 3, 64])
@pytest.mark.parametrize("size", [0, 3, 32, 100])
def test_boft_blocks_are_refused_exactly_where_peft_refuses_them(size: int, blocks: int) -> None:
    sizes = {"boft_block_size": size, "boft_block_num": blocks}
    fault = Boft(**sizes).blocks_problem("layer", 96)
    layer = torch.nn.Sequential(torch.nn.Linear(96, 8))
    with pytest.raises(ValueError, match="boft") if fault else nullcontext():
        peft.get_peft_model(layer, peft.BOFTConfig(**sizes, target_modules=["0"]))


def test_boft_butterflies_are_refused_since_peft_takes_one_without_its_cuda_extension(resolve: Plans) -> None:
    config, plan = resolve("dense", boft(ALIGNER, boft_block_size=8, boft_n_butterfly_factor=2))
    assert [problem.code for problem in problems(config, plan) if problem.severity == "error"] == ["boft-blocks"]
    shapes = {shape for name, (shape, _) in trainable(prepare(config, plan)).items() if "boft_R" in name}
    assert {shape[0] for shape in shapes} == {1}


# -- Any settings -----------------------------------------------------------------------------------------------------

PLACES = [
    r"model\.visual\.merger",
    r"model\.visual\.deepstack_merger_list\.\d+",
    r"model\.visual\.blocks\.[13]\.(attn|mlp)",
    r"model\.language_model\.layers\.\d+\.self_attn",
    r"model\.language_model",
    r".*",
]
LEAVES = [".*", "linear_fc[12]", "(q_proj|v_proj)", "norm", "lm_head", "qkv", "embed_tokens", "act_fn"]
REGEXES = st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(LEAVES)), min_size=1, max_size=3).map(
    lambda parts: "|".join(rf"{place}\.{leaf}" for place, leaf in parts)
)
NAMES = st.sampled_from(
    (
        *(*MERGERS, "model.visual.deepstack_merger_list", "model.visual.blocks.0", "model.language_model.layers.1"),
        *("merger", "merger.norm", "norm", "norm1", "k_proj", "qkv", "fc1", "layers.2.mlp"),
        *("patch_embed", "lm_head", "all-norm"),
    )
)
SUFFIXES = st.lists(st.sampled_from(["q_proj", "linear_fc1", "merger.linear_fc2", "attn.proj", "lm_head", "gate"]))
TUNERS = st.fixed_dictionaries(
    {
        "train_type": st.sampled_from(["lora", "adalora", "boft", "fourierft", "full"]),
        "target_regex": st.none() | REGEXES | st.just("^$"),
    },
    optional={
        "target_modules": st.just(["all-linear"]) | SUFFIXES,
        "modules_to_save": st.lists(NAMES, max_size=3, unique=True),
        "freeze_llm": st.booleans(),
        "freeze_vit": st.booleans(),
        "freeze_aligner": st.booleans(),
        "trainable_dtype": st.sampled_from(["float32", "base"]),
        "use_dora": st.booleans(),
        "lora_rank": st.integers(1, 20),
        "adalora_init_r": st.integers(9, 20),
        "boft_block_size": st.sampled_from([2, 4, 8]),
        "fourier_n_frequency": st.integers(1, 500),
    },
)
# These say that a setting can't be carried out; the other errors ask whether it is meant, and can be let through.
IMPOSSIBLE = {"dora-exclusive", "saved-nested", "boft-blocks", "fourier-frequencies"}


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(list(MODELS)), TUNERS)
def test_any_plan_that_can_be_carried_out_is_what_trains(resolve: Plans, model: str, tuner: dict[str, Any]) -> None:
    config, plan = resolve(model, tuner)
    assume(plan.trainables and not IMPOSSIBLE & {problem.code for problem in problems(config, plan)})
    wrapped = prepare(config, plan)
    assert trainable(wrapped) == planned(plan)
    assert planned_groups(plan) == real_groups(lower(plan, config, Path("runs"), Choices()), wrapped)
    if plan.train_type != "full":
        assert described(get_peft_model_state_dict(wrapped).items()) == listed(plan.tensors)
