"""Where the components of a model lie: ms-swift's prefixes, corrected where they do not fit the model's class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from swiftalign.model.declared import has_own_code
from swiftalign.model.swift_map import SwiftType, architecture, type_named, type_of_model, types_of_class
from swiftalign.model.tree import Architecture


@dataclass(frozen=True)
class Correction:
    """What is wrong with ms-swift's prefixes for a class of transformers, and the right ones.

    Attributes:
        reason: what ms-swift's own flags would do to a model of the class.
        llm: the right prefixes of the LLM; None where ms-swift's are right. The same for the other components.
        architecture: ms-swift's architecture of the class, where ms-swift does not register the class.
        unloadable: why ms-swift can't load a model of the class, so that it can be read but not trained.
    """

    reason: str
    llm: tuple[str, ...] | None = None
    vit: tuple[str, ...] | None = None
    aligner: tuple[str, ...] | None = None
    generator: tuple[str, ...] | None = None
    architecture: str | None = None
    unloadable: str = ""

    def applied(self, to: Architecture) -> Architecture:
        """The architecture with the right prefixes."""
        parts = {name: getattr(self, name) for name in ("llm", "vit", "aligner", "generator")}
        return replace(to, **{name: prefixes for name, prefixes in parts.items() if prefixes is not None})


_LLM = ("model.language_model", "lm_head")
_HEAD = "ms-swift's prefixes of the LLM leave out `lm_head`, which would train although the LLM is frozen"
_OLD = "ms-swift's prefixes are those of the model's own code; in transformers' class, they match nothing"
_OTHER_CLASS = "ms-swift loads this family by {} alone, and not by transformers' class"

_GLM = Correction(
    "ms-swift counts `model.visual.downsample` to the ViT; it makes the LLM's width, after the ViT's last layer",
    aligner=("model.visual.downsample", "model.visual.merger"),
)
_MINICPM = Correction(_HEAD, llm=_LLM)  # `vit_merger` stays in the ViT: layers of the ViT follow it

# By class of transformers. Where ms-swift's aligner is narrower than a projection between encoder and LLM, it is
# widened: what follows an encoder's last layer and leads to the LLM's width. Not so the last layers that belong to the
# encoder as it is published for itself, as `audio_tower.output_proj` of Gemma 4, and the necks of SAM encoders.
CORRECTIONS: dict[str, Correction] = {
    "Ernie4_5_VLMoeForConditionalGeneration": Correction(
        "ms-swift's prefixes are those of the hub's own code: in transformers, `vision_model` is `model.vision_tower`, "
        "and `model`, as the LLM, holds the ViT too",
        llm=_LLM,
        vit=("model.vision_tower",),
        unloadable="its loader needs `modeling_ernie4_5_vl.py` in the model's folder, and the class that it defines",
    ),
    "HunYuanVLForConditionalGeneration": Correction(
        "ms-swift's `vit` is `model.vision_tower` in transformers' class, and `model`, as the LLM, holds it: the "
        "flags for ViT and aligner do nothing",
        llm=_LLM,
        vit=("model.vision_tower",),
        aligner=("model.vision_tower.patch_merger",),
    ),
    "Qwen2AudioForConditionalGeneration": Correction(
        "ms-swift's prefixes lack the `model.` of transformers' class: its flags do nothing",
        llm=_LLM,
        vit=("model.audio_tower",),
        aligner=("model.multi_modal_projector",),
    ),
    "Qwen3ASRForConditionalGeneration": Correction(
        "ms-swift's prefixes are those of the package qwen-asr; in transformers' class, they match nothing",
        llm=_LLM,
        vit=("model.audio_tower",),
        aligner=("model.multi_modal_projector",),
        unloadable="it loads Qwen3-ASR by the package qwen-asr, which needs transformers 4.57.6",
    ),
    "Glm4vForConditionalGeneration": _GLM,
    "Glm4vMoeForConditionalGeneration": _GLM,
    "GlmOcrForConditionalGeneration": _GLM,
    "Glm5NextForConditionalGeneration": _GLM,
    "Llama4ForConditionalGeneration": Correction(
        "ms-swift counts `vision_model.vision_adapter` to the ViT; it is the first of the two projections after it",
        aligner=("vision_model.vision_adapter", "multi_modal_projector"),
    ),
    "Idefics3ForConditionalGeneration": Correction(_HEAD, llm=("model.text_model", "lm_head")),
    "MiniCPMV4_6ForConditionalGeneration": _MINICPM,
    "MiniCPMV4_7ForConditionalGeneration": _MINICPM,
    "Kimi_K25ForConditionalGeneration": Correction(
        _OLD,
        llm=_LLM,
        vit=("model.vision_tower",),
        aligner=("model.mm_projector",),
        architecture="kimi_k25",
        unloadable=_OTHER_CLASS.format("the model's own code, which needs transformers 4"),
    ),
    "DeepseekOcr2ForConditionalGeneration": Correction(
        _OLD,
        llm=_LLM,
        vit=("model.vision_tower",),
        aligner=("model.multi_modal_projector",),
        architecture="deepseek_ocr2",
        unloadable=_OTHER_CLASS.format("the model's own code, which needs transformers 4.46.3"),
    ),
    "Phi4MultimodalForCausalLM": Correction(
        _OLD,
        llm=("model.embed_tokens", "model.layers", "model.norm", "lm_head"),
        aligner=tuple(
            f"model.embed_tokens_extend.{part}"
            for part in (
                "image_embed.img_projection_up",
                "image_embed.img_projection_down",
                "audio_embed.up_proj_for_speech",
                "audio_embed.down_proj_for_speech",
                "audio_embed.up_proj_for_vision_speech",
                "audio_embed.down_proj_for_vision_speech",
            )
        ),
        architecture="phi4_multimodal",
        unloadable=_OTHER_CLASS.format("the model's own code, which needs transformers before 4.49"),
    ),
    "DeepseekVLForConditionalGeneration": Correction(
        _OLD,
        llm=_LLM,
        vit=("model.vision_model",),
        aligner=("model.aligner",),
        architecture="deepseek_vl",
        unloadable=_OTHER_CLASS.format("the code of github.com/deepseek-ai/DeepSeek-VL"),
    ),
    "DeepseekVLHybridForConditionalGeneration": Correction(
        _OLD,
        llm=_LLM,
        vit=("model.vision_model", *(f"model.high_res_vision_{part}" for part in ("model", "neck", "proj", "alpha"))),
        aligner=("model.aligner",),
        architecture="deepseek_vl",
        unloadable=_OTHER_CLASS.format("the code of github.com/deepseek-ai/DeepSeek-VL"),
    ),
    "JanusForConditionalGeneration": Correction(
        _OLD,
        llm=_LLM,
        vit=("model.vision_model",),
        aligner=("model.aligner",),
        generator=tuple(
            f"model.{part}" for part in ("vqmodel", "generation_embeddings", "generation_aligner", "generation_head")
        ),
        architecture="deepseek_janus",
        unloadable=_OTHER_CLASS.format("the code of github.com/deepseek-ai/Janus"),
    ),
}


def corrected(found: Architecture, config: Mapping[str, Any]) -> Architecture:
    """An architecture of ms-swift, with this toolkit's correction for the class that a config names."""
    fault = correction(config)
    return fault.applied(found) if fault else found


def correction(config: Mapping[str, Any]) -> Correction | None:
    """The correction for the class that a config names; a model with code of its own is as ms-swift expects it."""
    return None if has_own_code(config, class_of(config)) else CORRECTIONS.get(class_of(config))


def class_of(config: Mapping[str, Any]) -> str:
    """The model class that a config names; empty if it names none."""
    classes = config.get("architectures")
    return str(classes[0]) if isinstance(classes, list) and classes else ""


def swift_types(config: Mapping[str, Any], path: str, given: str | None = None) -> list[SwiftType]:
    """The types of ms-swift that a model may be of: one where anything decides it.

    Args:
        path: folder or hub id of the model; ms-swift knows published models by the last part.
        given: ms-swift's ``model_type``, as the user gives it.
    """
    if given:
        return [each] if (each := type_named(given)) else []
    if published := type_of_model(path):
        return [published[0]]
    found = types_of_class(class_of(config)) if class_of(config) else []
    if not found:
        return [each] if (each := type_named(str(config.get("model_type")))) else []
    same = [each for each in found if each.name == config.get("model_type")]
    return same or found


def architectures(config: Mapping[str, Any], path: str, given: str | None = None) -> list[Architecture]:
    """The architectures with an aligner that a model may have, corrected for its class; the likeliest first."""
    types = swift_types(config, path, given)
    if not given and class_of(config):  # a published model's name may stand for an older class than that of its files
        types = [*types, *types_of_class(class_of(config))]
    fault = correction(config)
    names = dict.fromkeys(each.architecture for each in types if each.architecture)
    if fault and fault.architecture and not given:
        names = {fault.architecture: None}
    found = [corrected(each, config) for name in names if (each := architecture(name))]
    return [each for each in found if each.aligner]
