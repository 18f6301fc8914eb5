"""Where the components of a model lie: each architecture with an aligner that ms-swift knows, and what is corrected.

The facts that it depends on: ms-swift's prefixes, and the names in transformers' classes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from families import FAMILIES, build, config_of, live
from swiftalign.checks.model_class import loadable
from swiftalign.config.sections import Config
from swiftalign.model import swift_map
from swiftalign.model.components import CORRECTIONS, Correction, architectures, correction
from swiftalign.model.meta import model_of
from swiftalign.model.read import read
from swiftalign.model.swift_map import architecture, types_of_class
from swiftalign.model.tree import NO_COMPONENTS, Architecture, Kind, Model, ModelSource, is_inside
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ModelError

# Each architecture of ms-swift that has an aligner -> the families of transformers' own classes that it describes.
OWN: dict[str, list[str]] = {
    "llava_hf": ["gemma3", "got_ocr2", "internvl", "llava", "llava_next", "llava_onevision", "mistral3", "paligemma"],
    "llava_next_video_hf": ["llava_next_video"],
    "qwen2_vl": ["qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_5_moe", "qwen4_exp"],
    "qwen3_vl": ["qwen3_vl", "qwen3_vl_moe"],
    "muse_glimmer": ["muse_glimmer"],
    "minicpmv4_6": ["minicpmv4_6", "minicpmv4_7"],
    "glm4v": ["glm4v", "glm4v_moe", "glm5_next", "glm_ocr"],
    "idefics3": ["idefics3"],
    "llama3_2_vision": ["mllama"],
    "llama4": ["llama4"],
    "gemma3n": ["gemma3n", "gemma4"],
    "gemma4_unified": ["gemma4_unified"],
    "diffusion_gemma": ["diffusion_gemma"],
    "paddleocr_vl": ["paddleocr_vl"],
    "minimax_m3_vl": ["minimax_m3_vl"],
    "ernie_vl": ["ernie4_5_vl_moe"],
    "qwen2_5_omni": ["qwen2_5_omni"],
    "qwen3_omni": ["qwen3_omni_moe"],
    "qwen3_asr": ["qwen3_asr"],
    "qwen2_audio": ["qwen2_audio"],
    "hunyuan_vl": ["hunyuan_vl"],
    # By transformers' own class, which ms-swift does not load; the model's own code is in `REMOTE`.
    "kimi_k25": ["kimi_k25"],
    "deepseek_vl": ["deepseek_vl", "deepseek_vl_hybrid"],
    "deepseek_janus": ["janus"],
    "deepseek_ocr2": ["deepseek_ocr2"],
    "phi4_multimodal": ["phi4_multimodal"],
}

# Types of Qwen3.5 for embeddings, which share its class and its prefixes: `model.type` asks for them.
BY_TYPE = {"qwen3_5": "qwen3_5_emb", "wemm_embedding": "wemm_embedding"}

# Classes of transformers for which ms-swift has no architecture with an aligner.
UNKNOWN = ["aria", "aya_vision", "cohere2_vision", "ovis2", "smolvlm", "step3p7"]

LINEAR, NORM = (8, 8), (8,)

# Architectures whose models run code of their own: ms-swift's type, the model class, and the tensors of the aligner.
# Written after public code, not read from a checkpoint; shapes are small.
WRITTEN_AFTER_PUBLIC_CODE: dict[str, tuple[str, str, dict[str, tuple[int, ...]]]] = {
    "llava_hf_legacy": (
        "kimi_vl",
        "KimiVLForConditionalGeneration",
        {
            f"multi_modal_projector.{name}": NORM if "norm" in name else LINEAR
            for name in ("pre_norm", "linear_1", "linear_2")
        },
    ),
    "kimi_k25": (
        "kimi_k25",
        "KimiK25ForConditionalGeneration",
        {"mm_projector.proj.0": LINEAR, "mm_projector.proj.2": LINEAR},
    ),
    "xcomposer": ("xcomposer2", "InternLMXComposer2ForCausalLM", {"vision_proj.0": LINEAR, "vision_proj.2": LINEAR}),
    "internvl": ("internvl_chat", "InternVLChatModel", {"mlp1.0": NORM, "mlp1.1": LINEAR, "mlp1.3": LINEAR}),
    "interns1": (
        "interns1",
        "InternS1ForConditionalGeneration",
        {
            f"model.multi_modal_projector.{name}": NORM if "norm" in name else LINEAR
            for name in ("layer_norm", "linear_1", "linear_2")
        },
    ),
    "minicpmv": (
        "minicpmv2_6",
        "MiniCPMV",
        {
            "resampler.kv_proj": LINEAR,
            "resampler.attn.out_proj": LINEAR,
            "resampler.ln_q": NORM,
            "resampler.ln_kv": NORM,
        },
    ),
    "minicpmo": ("minicpmo", "MiniCPMO", {"resampler.kv_proj": LINEAR, "resampler.ln_post": NORM}),
    "phi3_vision": (
        "phi3_vision",
        "Phi3VForCausalLM",
        {f"model.vision_embed_tokens.img_projection.{index}": LINEAR for index in (0, 2)},
    ),
    "phi4_multimodal": (
        "phi4_multimodal",
        "Phi4MMForCausalLM",
        {
            "model.embed_tokens_extend.image_embed.img_projection.0": LINEAR,
            "model.embed_tokens_extend.audio_embed.audio_projection.speech.0": LINEAR,
        },
    ),
    "deepseek_vl": ("deepseek_vl", "MultiModalityCausalLM", {"aligner.layers.0": LINEAR, "aligner.layers.2": LINEAR}),
    "deepseek_janus": (
        "deepseek_janus",
        "MultiModalityCausalLM",
        {"aligner.layers.0": LINEAR, "aligner.layers.2": LINEAR},
    ),
    "deepseek_vl2": (
        "deepseek_vl2",
        "DeepseekVLV2ForCausalLM",
        {"projector.layers.0": LINEAR, "projector.layers.2": LINEAR},
    ),
    "deepseek_ocr": ("deepseek_ocr", "DeepseekOCRForCausalLM", {"model.projector.layers": LINEAR}),
    "deepseek_ocr2": ("deepseek_ocr2", "DeepseekOCR2ForCausalLM", {"model.projector.layers": LINEAR}),
    "got_ocr2": ("got_ocr2", "GOTQwenForCausalLM", {"model.mm_projector_vary": LINEAR}),
    "molmo": (
        "molmo",
        "MolmoForCausalLM",
        {f"model.vision_backbone.image_projector.w{index}": LINEAR for index in (1, 2, 3)},
    ),
    "keye_vl": (
        "keye_vl",
        "KeyeForConditionalGeneration",
        {"mlp_AR.pre_norm": NORM, "mlp_AR.linear_1": LINEAR, "mlp_AR.linear_2": LINEAR},
    ),
    "llava_onevision1_5": (
        "llava_onevision1_5",
        "LLaVAOneVision1_5_ForConditionalGeneration",
        {"model.visual.merger.ln_q": NORM, "model.visual.merger.mlp.0": LINEAR, "model.visual.merger.mlp.2": LINEAR},
    ),
    "llava_mistral": (
        "llava1_6_mistral",
        "LlavaMistralForCausalLM",
        {"model.mm_projector.0": LINEAR, "model.mm_projector.2": LINEAR},
    ),
    "llava_llama": (
        "llama3_llava_next",
        "LlavaLlamaForCausalLM",
        {"model.mm_projector.0": LINEAR, "model.mm_projector.2": LINEAR},
    ),
    "llama3_1_omni": (
        "llama3_1_omni",
        "OmniSpeech2SLlamaForCausalLM",
        {"model.speech_projector.linear1": LINEAR, "model.speech_projector.linear2": LINEAR},
    ),
    "step_audio2_mini": (
        "step_audio2_mini",
        "StepAudio2ForCausalLM",
        {"adapter.linear1": LINEAR, "adapter.linear2": LINEAR},
    ),
    "ovis2_5": ("ovis2_5", "Ovis2_5", {"visual_tokenizer.head.0": LINEAR, "visual_tokenizer.head.1": NORM}),
    "step3_vl": ("step3_vl", "StepVLForConditionalGeneration", {"model.vit_large_projector": LINEAR}),
}

# As above, but of these the names below ms-swift's prefixes are not known: one layer stands for all.
OF_PREFIXES_ALONE: dict[str, tuple[str, str]] = {
    "mplug_owl3": ("mplug_owl3", "mPLUGOwl3Model"),
    "doc_owl2": ("doc_owl2", "mPLUGDocOwl2"),
    "unlimited_ocr": ("unlimited_ocr", "UnlimitedOCRForCausalLM"),
    "deepseek_v41": ("deepseek_v41", "DeepseekV41ForCausalLM"),
    "moss_vl": ("moss_vl", "MossVLForConditionalGeneration"),
    "midashenglm": ("midashenglm", "MiDashengLMModel"),
    "mimo_v2": ("mimo_v2", "MiMoV2ForCausalLM"),
}

# What lies in no component, by the reason.
IN_NO_COMPONENT = (
    "image_newline",  # separators between rows of an image
    "view_separator",
    "view_seperator",
    "sub_img_feature_extensor",
    "global_img_feature_extensor",
)


@cache
def model(name: str) -> Model:
    """A family's live model, without components."""
    return model_of(live(name), NO_COMPONENTS, source=name, config=config_of(name))


def of_ms_swift(name: str) -> Architecture:
    found = architecture(name)
    assert found
    return found


def test_every_architecture_with_an_aligner_resolves_in_a_test_here() -> None:
    known = {name for name, found in swift_map._architectures().items() if found.aligner}
    assert known == {*OWN, *BY_TYPE, *WRITTEN_AFTER_PUBLIC_CODE, *OF_PREFIXES_ALONE}
    assert len(known) == 54
    assert {*UNKNOWN, *(family for families in OWN.values() for family in families)} == set(FAMILIES)


@pytest.mark.parametrize(("name", "family"), [(name, family) for name, families in OWN.items() for family in families])
def test_a_class_of_transformers_has_all_components_of_its_architecture(name: str, family: str) -> None:
    found = architectures(config_of(family), family)[0]
    real = replace(model(family), architecture=found)
    assert found.name == name
    for component, prefixes in {"llm": found.llm, "vit": found.vit, "aligner": found.aligner}.items():
        absent = (family, component) == ("gemma4_unified", "vit")  # it has no encoder: pixels go to the aligner
        assert (real.totals[component] == 0) is absent  # type: ignore[index]
        for prefix in prefixes:
            assert any(is_inside(weight.name, [prefix]) for module in real for weight in module.weights), prefix
    outside = {weight.name for weight in real.parameters() if real.component(weight.name) == "other"}
    left = {weight for weight in outside if not is_inside(weight, found.generator)}
    assert {weight for weight in left if not weight.endswith(IN_NO_COMPONENT)} == set()


@pytest.mark.parametrize("name", BY_TYPE)
def test_a_type_for_embeddings_is_asked_for(name: str) -> None:
    [found] = architectures(config_of("qwen3_5"), "", BY_TYPE[name])
    assert (found.name, found.aligner) == (name, ("model.visual.merger",))


@pytest.mark.parametrize("family", UNKNOWN)
def test_a_class_that_ms_swift_does_not_know_has_no_architecture(family: str, tmp_path: Path) -> None:
    assert architectures(config_of(family), family) == []
    (tmp_path / "config.json").write_text(json.dumps(config_of(family)))
    with pytest.raises(ModelError, match=f"ms-swift knows no aligner in a {FAMILIES[family].model_class} model"):
        read(ModelSource(str(tmp_path)))


@pytest.mark.parametrize(
    ("family", "fault"), [(f, CORRECTIONS[t.model_class]) for f, t in FAMILIES.items() if t.model_class in CORRECTIONS]
)
def test_a_correction_changes_what_ms_swift_would_take(family: str, fault: Correction) -> None:
    """Fails once ms-swift has mended its prefixes: then the correction goes."""
    found = architectures(config_of(family), family)[0]
    theirs = of_ms_swift(found.name)
    names = [weight.name for weight in model(family).parameters()]
    assert [theirs.component(name) for name in names] != [found.component(name) for name in names]
    for component in ("llm", "vit", "aligner"):
        given, before = getattr(fault, component), getattr(theirs, component)
        assert given is None or given != before


def test_corrections_are_of_classes_that_are_tested_here() -> None:
    assert CORRECTIONS.keys() <= {tiny.model_class for tiny in FAMILIES.values()}


@pytest.mark.parametrize("name", CORRECTIONS)
def test_a_class_that_ms_swift_does_not_register_can_not_be_loaded_by_it(name: str) -> None:
    fault = CORRECTIONS[name]
    assert bool(fault.architecture) == (not types_of_class(name))
    assert not fault.architecture or fault.unloadable


@pytest.mark.parametrize(("family", "found"), [("janus", True), ("qwen2_audio", False)])
def test_a_class_that_ms_swift_can_not_load_is_a_finding(family: str, found: bool, tmp_path: Path) -> None:
    config = Config.model_validate({"model": {"path": str(build(family, tmp_path))}})
    modules = read_model(config)
    codes = [problem.code for problem in loadable(config, modules, resolve(config, modules))]
    assert codes == ["class-not-loadable"] * found


def test_a_model_with_code_of_its_own_is_as_ms_swift_expects_it() -> None:
    config = config_of("ernie4_5_vl_moe")
    assert correction(config)
    assert correction(config | {"auto_map": {"AutoModel": "a.B"}}) is None


def test_the_name_of_a_published_model_does_not_hide_the_class_of_its_files() -> None:
    """PaddleOCR-VL was published with code of its own, whose prefixes ms-swift has for that name."""
    names = [found.name for found in architectures(config_of("paddleocr_vl"), "PaddlePaddle/PaddleOCR-VL")]
    assert names == ["keye_vl", "paddleocr_vl"]


def remote(folder: Path, name: str, model_class: str, layers: dict[str, tuple[int, ...]], *, auto_map: bool) -> Path:
    """A model of an architecture: the given layers of the aligner, and one layer below each other prefix."""
    found = of_ms_swift(name)
    aligner = [prefix for prefix in found.aligner if not any(is_inside(layer, [prefix]) for layer in layers)]
    prefixes = [*found.llm, *found.vit, *found.generator, *aligner]
    weights = {f"{prefix}.layer.weight": torch.zeros(LINEAR) for prefix in prefixes}
    weights |= {f"{layer}.weight": torch.zeros(shape) for layer, shape in layers.items()}
    weights |= {f"{layer}.bias": torch.zeros(shape[0]) for layer, shape in layers.items()}
    if any(layer.endswith(".out_proj") for layer in layers):
        weights["resampler.attn.in_proj_weight"] = torch.zeros(24, 8)
    config: dict[str, Any] = {"model_type": "of_its_own", "architectures": [model_class]}
    (folder / "config.json").write_text(json.dumps(config | ({"auto_map": {"AutoModel": "m.M"}} if auto_map else {})))
    (folder / "m.py").write_text("raise AssertionError('this code must not run')")
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("auto_map", [True, False], ids=["auto-map", "of-a-repository"])
@pytest.mark.parametrize("name", [*WRITTEN_AFTER_PUBLIC_CODE, *OF_PREFIXES_ALONE])
def test_a_model_with_code_of_its_own_is_read_without_running_it(name: str, auto_map: bool, tmp_path: Path) -> None:
    known = {**{key: (*value, {}) for key, value in OF_PREFIXES_ALONE.items()}, **WRITTEN_AFTER_PUBLIC_CODE}
    swift_type, model_class, layers = known[name]
    found = read(ModelSource(str(remote(tmp_path, name, model_class, layers, auto_map=auto_map)), type=swift_type))
    assert found.architecture == of_ms_swift(name)
    assert all(found.totals[component] for component in ("llm", "vit", "aligner"))
    assert set(found.files) == {weight.name for weight in found.parameters()}
    kinds = {LINEAR: Kind.LINEAR, NORM: Kind.LAYER_NORM}
    for layer, shape in layers.items():
        assert found.component(layer) == "aligner"
        expected = Kind.PARAMETERS if layer == "resampler.attn.out_proj" else kinds[shape]
        assert found.by_name[layer].kind is expected


@pytest.mark.parametrize("name", [*WRITTEN_AFTER_PUBLIC_CODE, *OF_PREFIXES_ALONE])
def test_the_class_of_a_model_with_code_of_its_own_tells_its_architecture(name: str) -> None:
    swift_type, model_class = {**WRITTEN_AFTER_PUBLIC_CODE, **OF_PREFIXES_ALONE}[name][:2]
    config = {"model_type": "of_its_own", "architectures": [model_class]}
    registered = {found.architecture for found in types_of_class(model_class)} - {None}
    assert {found.name for found in architectures(config, "")} == registered
    assert name in registered or name in ("deepseek_janus", "deepseek_vl2")  # ms-swift knows these by model.type alone
    assert [found.name for found in architectures(config, "", swift_type)] == [name]
