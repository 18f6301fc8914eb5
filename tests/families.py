"""Tiny models of transformers' own vision-language classes: the families that the headers of weight files must tell.

A class's default config is made small: `SIZES` where it has such a key, then the settings of `FAMILIES`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, SiglipVisionConfig
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from swiftalign.model.safetensors import TensorInfo

# In every part of a config that has the key, and a number there.
SIZES = {
    "bos_token_id": 1,
    "d_model": 64,
    "depth": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "encoder_layers": 2,
    "eos_token_id": 2,
    "first_k_dense_replace": 1,
    "global_head_dim": 16,
    "head_dim": 16,
    "hidden_size": 64,
    "hidden_size_per_layer_input": 16,
    "intermediate_size": 96,
    "linear_key_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
    "max_position_embeddings": 512,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_global_key_value_heads": 2,
    "num_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_kv_shared_layers": 0,
    "num_local_experts": 4,
    "out_hidden_size": 64,
    "pad_token_id": 0,
    "projection_dim": 64,
    "shared_expert_intermediate_size": 32,
    "text_hidden_size": 64,
    "topk_group": 1,
    "vocab_size": 512,
    "vocab_size_per_layer_input": 512,
}


@dataclass(frozen=True)
class Tiny:
    """A family's type and class in transformers, and what `SIZES` does not make small or consistent.

    Attributes:
        settings: values by dotted key of the config; the key is added where the default config lacks it.
    """

    model_type: str
    model_class: str
    settings: dict[str, Any] = field(default_factory=dict)


_SMALL_IMAGE = {"vision_config.image_size": 28, "vision_config.patch_size": 14}
_MOE_LAYERS = ["dense", "sparse"]
_QWEN3_VISION = {
    "vision_config.hidden_size": 32,  # the class's merger has a width of its own
    "vision_config.num_position_embeddings": 64,
    "vision_config.deepstack_visual_indexes": [0, 1],
}
_QWEN3_5_VISION = _QWEN3_VISION | {"vision_config.deepstack_visual_indexes": []}
_HYBRID_LAYERS = {"text_config.layer_types": ["linear_attention", "full_attention"]}
_GEMMA4_TEXT = {
    "text_config.per_layer_config": {1: {"head_dim": 32}},
    "text_config.layer_types": ["sliding_attention", "full_attention"],
}
_GEMMA4_VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "intermediate_size": 96,
    "position_embedding_size": 64,
}

FAMILIES: dict[str, Tiny] = {
    "aria": Tiny("aria", "AriaForConditionalGeneration"),
    "aya_vision": Tiny("aya_vision", "AyaVisionForConditionalGeneration"),
    "cohere2_vision": Tiny(
        "cohere2_vision", "Cohere2VisionForConditionalGeneration", {"alignment_intermediate_size": 64}
    ),
    "deepseek_ocr2": Tiny(
        "deepseek_ocr2",
        "DeepseekOcr2ForConditionalGeneration",
        {
            "text_config.mlp_layer_types": _MOE_LAYERS,
            "vision_config.sam_config.mlp_dim": 64,
            "vision_config.sam_config.output_channels": 16,
            "vision_config.sam_config.image_size": 64,
            "vision_config.sam_config.global_attn_indexes": [1],
            "vision_config.sam_config.downsample_channels": [32, 64],
        },
    ),
    "deepseek_vl": Tiny("deepseek_vl", "DeepseekVLForConditionalGeneration"),
    "deepseek_vl_hybrid": Tiny(
        "deepseek_vl_hybrid",
        "DeepseekVLHybridForConditionalGeneration",
        {
            "high_res_vision_config.mlp_dim": 64,
            "high_res_vision_config.output_channels": 16,
            "high_res_vision_config.image_size": 64,
            "high_res_vision_config.global_attn_indexes": [1],
        },
    ),
    "diffusion_gemma": Tiny(
        "diffusion_gemma",
        "DiffusionGemmaForBlockDiffusion",
        _GEMMA4_TEXT
        | {
            "text_config.num_experts": 4,
            "text_config.top_k_experts": 2,
            "text_config.moe_intermediate_size": 32,
            "vision_config": _GEMMA4_VISION,
        },
    ),
    "ernie4_5_vl_moe": Tiny(
        "ernie4_5_vl_moe",
        "Ernie4_5_VLMoeForConditionalGeneration",
        {
            "text_config.hidden_size": 128,
            "text_config.num_attention_heads": 1,
            "text_config.num_key_value_heads": 1,
            "text_config.moe_intermediate_size": [32, 16],
            "text_config.moe_num_experts": 4,
            "text_config.moe_k": 2,
            "text_config.mlp_layer_types": _MOE_LAYERS,
            "text_config.rope_parameters.mrope_section": [22, 22, 20],
        },
    ),
    "gemma3": Tiny("gemma3", "Gemma3ForConditionalGeneration", _SMALL_IMAGE | {"mm_tokens_per_image": 1}),
    "gemma3n": Tiny(
        "gemma3n",
        "Gemma3nForConditionalGeneration",
        {
            "text_config.intermediate_size": 96,
            "text_config.activation_sparsity_pattern": [0.0, 0.0],
            "text_config.laurel_rank": 8,
            "text_config.layer_types": ["sliding_attention", "full_attention"],
            "audio_config.conf_num_hidden_layers": 1,
            "audio_config.conf_num_attention_heads": 4,
            "audio_config.vocab_size": 16,
            "audio_config.sscp_conv_channel_size": [8, 4],
            "vision_config.vocab_size": 16,
            "vision_config.hidden_size": 1024,
            "vision_config.architecture": "mobilenetv3_small_050",
            "vision_config.model_args": None,
        },
    ),
    "gemma4": Tiny(
        "gemma4",
        "Gemma4ForConditionalGeneration",
        _GEMMA4_TEXT
        | {
            "vision_config": _GEMMA4_VISION,
            "audio_config": {
                "model_type": "gemma4_audio",
                "hidden_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
            },
        },
    ),
    "gemma4_unified": Tiny(
        "gemma4_unified",
        "Gemma4UnifiedForConditionalGeneration",
        _GEMMA4_TEXT
        | {
            "vision_config": {"model_type": "gemma4_unified_vision", "mm_embed_dim": 64, "mm_posemb_size": 32},
            "audio_config": {"model_type": "gemma4_unified_audio", "audio_embed_dim": 64},
        },
    ),
    "glm4v": Tiny("glm4v", "Glm4vForConditionalGeneration"),
    "glm4v_moe": Tiny("glm4v_moe", "Glm4vMoeForConditionalGeneration"),
    "glm5_next": Tiny(
        "glm5_next",
        "Glm5NextForConditionalGeneration",
        _HYBRID_LAYERS
        | {
            "text_config.num_key_value_heads": 4,
            "text_config.kv_lora_rank": 16,
            "text_config.q_lora_rank": 16,
            "text_config.v_head_dim": 16,
            "text_config.qk_nope_head_dim": 16,
            "text_config.qk_head_dim": 16,
            "text_config.index_head_dim": 16,
            "text_config.index_n_heads": 2,
            "text_config.linear_head_dim": 16,
            "text_config.linear_num_heads": 4,
            "text_config.head_dim": 0,
            "text_config.indexer_types": ["full", "full"],
            "text_config.mlp_layer_types": _MOE_LAYERS,
            "vision_config.projection_intermediate_size": 96,
            "vision_config.image_size": 28,
        },
    ),
    "glm_ocr": Tiny("glm_ocr", "GlmOcrForConditionalGeneration"),
    "got_ocr2": Tiny(
        "got_ocr2",
        "GotOcr2ForConditionalGeneration",
        {
            "vision_config.image_size": 32,
            "vision_config.mlp_dim": 64,
            "vision_config.output_channels": 16,
            "vision_config.global_attn_indexes": [1],
        },
    ),
    "hunyuan_vl": Tiny(
        "hunyuan_vl",
        "HunYuanVLForConditionalGeneration",
        {
            "text_config.head_dim": 16,
            "vision_config.max_image_size": 64,
            "vision_config.img_max_token_num": 16,
        },
    ),
    "idefics3": Tiny("idefics3", "Idefics3ForConditionalGeneration", _SMALL_IMAGE),
    "internvl": Tiny(
        "internvl",
        "InternVLForConditionalGeneration",
        {"vision_config.image_size": [28, 28], "vision_config.patch_size": [14, 14]},
    ),
    "janus": Tiny(
        "janus",
        "JanusForConditionalGeneration",
        _SMALL_IMAGE
        | {
            "vq_config.base_channels": 32,
            "vq_config.latent_channels": 32,
            "vq_config.num_embeddings": 64,
            "vq_config.image_token_embed_dim": 64,
        },
    ),
    "kimi_k25": Tiny("kimi_k25", "Kimi_K25ForConditionalGeneration"),
    "llama4": Tiny(
        "llama4",
        "Llama4ForConditionalGeneration",
        {
            "vision_config.intermediate_size": 256,  # the adapter's input, which is four pixels of the ViT's output
            "vision_config.projector_input_dim": 64,
            "vision_config.projector_output_dim": 64,
            "vision_config.vision_output_dim": 64,
        },
    ),
    "llava": Tiny("llava", "LlavaForConditionalGeneration", _SMALL_IMAGE),
    "llava_next": Tiny("llava_next", "LlavaNextForConditionalGeneration", _SMALL_IMAGE),
    "llava_next_video": Tiny("llava_next_video", "LlavaNextVideoForConditionalGeneration", _SMALL_IMAGE),
    "llava_onevision": Tiny("llava_onevision", "LlavaOnevisionForConditionalGeneration", _SMALL_IMAGE),
    "minicpmv4_6": Tiny("minicpmv4_6", "MiniCPMV4_6ForConditionalGeneration"),
    "minicpmv4_7": Tiny("minicpmv4_7", "MiniCPMV4_7ForConditionalGeneration"),
    "minimax_m3_vl": Tiny(
        "minimax_m3_vl",
        "MiniMaxM3SparseForConditionalGeneration",
        {
            "projector_hidden_size": 64,
            "merged_hidden_size": 256,
            "text_config.dense_intermediate_size": 96,
            "text_config.shared_intermediate_size": 32,
            "text_config.rotary_dim": 8,
            "text_config.index_n_heads": 2,
            "text_config.index_head_dim": 16,
            "text_config.mlp_layer_types": _MOE_LAYERS,
        },
    ),
    "mistral3": Tiny("mistral3", "Mistral3ForConditionalGeneration", _SMALL_IMAGE),
    "mllama": Tiny("mllama", "MllamaForConditionalGeneration"),
    "muse_glimmer": Tiny("muse_glimmer", "MuseGlimmerForConditionalGeneration", {"projector_hidden_size": 64}),
    "ovis2": Tiny("ovis2", "Ovis2ForConditionalGeneration"),
    "paddleocr_vl": Tiny("paddleocr_vl", "PaddleOCRVLForConditionalGeneration"),
    "paligemma": Tiny("paligemma", "PaliGemmaForConditionalGeneration", _SMALL_IMAGE),
    "phi4_multimodal": Tiny("phi4_multimodal", "Phi4MultimodalForCausalLM"),
    "qwen2_5_omni": Tiny(
        "qwen2_5_omni",
        "Qwen2_5OmniForConditionalGeneration",
        {
            "thinker_config.audio_config.output_dim": 64,
            "thinker_config.vision_config.hidden_size": 32,
            "talker_config.embedding_size": 64,
            "token2wav_config.dit_config.num_embeds": 64,
            "token2wav_config.bigvgan_config.upsample_initial_channel": 64,
        },
    ),
    "qwen2_5_vl": Tiny(
        "qwen2_5_vl",
        "Qwen2_5_VLForConditionalGeneration",
        {"vision_config.hidden_size": 32, "vision_config.fullatt_block_indexes": [1]},
    ),
    "qwen2_audio": Tiny("qwen2_audio", "Qwen2AudioForConditionalGeneration"),
    "qwen2_vl": Tiny("qwen2_vl", "Qwen2VLForConditionalGeneration", {"vision_config.embed_dim": 32}),
    "qwen3_5": Tiny("qwen3_5", "Qwen3_5ForConditionalGeneration", _QWEN3_5_VISION),
    "qwen3_5_moe": Tiny("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", _QWEN3_5_VISION),
    "qwen3_asr": Tiny("qwen3_asr", "Qwen3ASRForConditionalGeneration"),
    "qwen3_omni_moe": Tiny(
        "qwen3_omni_moe",
        "Qwen3OmniMoeForConditionalGeneration",
        {f"thinker_config.{key}": value for key, value in _QWEN3_VISION.items()}
        | {
            "thinker_config.audio_config.output_dim": 64,
            "thinker_config.audio_config.downsample_hidden_size": 16,
            "thinker_config.audio_config.max_source_positions": 64,
            # Two keys that the class reads, and its default config lacks.
            "talker_config.text_config.shared_expert_intermediate_size": 32,
            "talker_config.spatial_merge_size": 2,
            "code2wav_config.decoder_dim": 64,
            "code2wav_config.codebook_size": 64,
        },
    ),
    "qwen3_vl": Tiny("qwen3_vl", "Qwen3VLForConditionalGeneration", _QWEN3_VISION),
    "qwen3_vl_moe": Tiny("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration", _QWEN3_VISION),
    "qwen4_exp": Tiny(
        "qwen4_exp",
        "Qwen4ExpForConditionalGeneration",
        _HYBRID_LAYERS
        | {
            "vision_config.hidden_size": 32,
            "vision_config.num_position_embeddings": 64,
            "text_config.hc_lowrank": 8,
            "text_config.indexer_budget": 64,
            "text_config.indexer_compress_ratio": 16,
            "text_config.indexer_head_dim": 16,
            "text_config.indexer_num_heads": 2,
            "text_config.indexer_n_heads": 2,
            "text_config.indexer_kv_heads": 1,
        },
    ),
    "smolvlm": Tiny("smolvlm", "SmolVLMForConditionalGeneration", _SMALL_IMAGE),
    "step3p7": Tiny("step3p7", "Step3p7ForConditionalGeneration"),
}

# Gemma 3n's vision tower is a model of timm. Where timm is not installed, a SigLIP stands in its place.
TIMM = importlib.util.find_spec("timm") is not None


def _shrink(values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _shrink(value)
        elif key in SIZES and isinstance(value, int) and not isinstance(value, bool):
            values[key] = SIZES[key]
        elif key in ("layer_types", "mlp_layer_types") and value:
            values[key] = value[-SIZES["num_hidden_layers"] :]
        elif key == "mrope_section":
            values[key] = [4, 2, 2]


def config_of(name: str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The config.json of a family's tiny model.

    Args:
        settings: further values by dotted key.
    """
    tiny = FAMILIES[name]
    values = CONFIG_MAPPING[tiny.model_type]().to_dict()
    _shrink(values)
    for key, value in {**tiny.settings, **(settings or {})}.items():
        *parts, last = key.split(".")
        place = values
        for part in parts:
            place = place[part]
        place[last] = value
    values |= {"architectures": [tiny.model_class], "dtype": "float32"}
    del values["transformers_version"]
    config: dict[str, Any] = json.loads(json.dumps(values))
    return config


def live(name: str, settings: Mapping[str, Any] | None = None, *, device: str = "meta") -> PreTrainedModel:
    """A family's tiny model, as transformers builds it."""
    made = CONFIG_MAPPING[FAMILIES[name].model_type].from_dict(config_of(name, settings))
    if name == "gemma3n" and not TIMM:
        small = {key: value for key, value in SIZES.items() if hasattr(SiglipVisionConfig(), key)}
        tower = SiglipVisionConfig(**small | {"vocab_size": 16, "vocab_offset": 0, "rms_norm_eps": 1e-6})
        vars(made)["vision_config"] = tower  # past the config's check of its type
    with torch.device(device):
        model: PreTrainedModel = getattr(transformers, FAMILIES[name].model_class)(made)
    model.tie_weights()
    return model


def build(name: str, folder: Path) -> Path:
    """Write a family's tiny model with random weights, under the names of published files, and return its folder.

    Transformers loads it again, except for Gemma 3n where timm is not installed.
    """
    torch.manual_seed(0)
    live(name, device="cpu").save_pretrained(folder)
    return folder


def swap_experts(folder: Path) -> None:
    """Swap the axes of a Qwen3-VL's experts in its weight file, which then holds them as the hub does: [., in, out]."""
    file = folder / "model.safetensors"
    swapped = {name: value.mT.contiguous() if ".experts." in name else value for name, value in load_file(file).items()}
    save_file(swapped, file, metadata={"format": "pt"})


def stored_of(name: str, settings: Mapping[str, Any] | None = None) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes in the weight files that `build` would write, made without weights."""
    return stored_from(live(name, settings))


def stored_from(model: PreTrainedModel) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes in the weight files that a model would be saved to.

    References:
        transformers `modeling_utils.py`, `PreTrainedModel.save_pretrained`.
    """
    ignored: Iterable[str] = model._keys_to_ignore_on_save or ()
    state = {key: value for key, value in model.state_dict().items() if key not in ignored}
    state = revert_weight_conversion(model, remove_tied_weights_from_state_dict(state, model))
    return {
        key: TensorInfo(key, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for key, value in state.items()
    }
