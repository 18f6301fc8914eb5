"""Where LLM, ViT and aligner live in a model, and what kind of layer each Qwen3-VL name is.

Qwen3-VL is described here by name, so that a plan needs nothing but the headers of its weight files. Tests hold the
description against the real classes of transformers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What a module is, as far as the tuning methods care."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    CONV = "conv"
    LAYER_NORM = "layer_norm"  # torch's own LayerNorm, which weight decay skips by its class
    NORM = "norm"  # any other normalisation
    PARAMETERS = "parameters"  # holds weights of its own and is none of the above, e.g. MoE experts
    MODULE_LIST = "module_list"
    CONTAINER = "container"
    PLAIN = "plain"  # neither weights nor children, e.g. an activation


@dataclass(frozen=True)
class Architecture:
    """Which name prefixes make up each component; the aligner may lie inside the ViT's prefix.

    References:
        ms-swift `swift/model/model_arch.py`, `MultiModelKeys`.
    """

    name: str
    llm: tuple[str, ...]
    vit: tuple[str, ...]
    aligner: tuple[str, ...]

    def component(self, name: str) -> str:
        """``aligner``, ``vit`` or ``llm``; like ms-swift, what lies outside all prefixes counts with the LLM."""
        for component, prefixes in (("aligner", self.aligner), ("vit", self.vit)):
            if any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes):
                return component
        return "llm"

    def covers(self, name: str) -> bool:
        """Whether a name lies in one of the prefixes: ms-swift's freeze flags reach no other."""
        prefixes = (*self.llm, *self.vit, *self.aligner)
        return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


@dataclass(frozen=True)
class NameTable:
    """The modules of one model class, by name.

    Attributes:
        kinds: pattern of a module's whole name -> kind, for the modules that hold weights.
        plain: pattern of a module's whole name -> the module without weights that comes with it, as a template.
    """

    architecture: Architecture
    kinds: tuple[tuple[re.Pattern[str], Kind], ...]
    plain: tuple[tuple[re.Pattern[str], str], ...] = field(default=())

    def kind(self, name: str) -> Kind | None:
        """The kind of a module that holds weights; None for a name that the class does not build."""
        return next((kind for pattern, kind in self.kinds if pattern.fullmatch(name)), None)


def _table(architecture: Architecture, kinds: dict[str, Kind], plain: dict[str, str]) -> NameTable:
    return NameTable(
        architecture,
        tuple((re.compile(pattern), kind) for pattern, kind in kinds.items()),
        tuple((re.compile(pattern), template) for pattern, template in plain.items()),
    )


QWEN3_VL = Architecture(
    name="qwen3_vl",
    llm=("model.language_model", "lm_head"),
    vit=("model.visual",),
    aligner=("model.visual.merger", "model.visual.deepstack_merger_list"),
)

_MERGER = r"model\.visual\.(?:merger|deepstack_merger_list\.\d+)"
_BLOCK = r"model\.visual\.blocks\.\d+"
_LAYER = r"model\.language_model\.layers\.\d+"

_DENSE_KINDS = {
    rf"{_LAYER}\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)": Kind.LINEAR,
    rf"{_LAYER}\.(?:input_layernorm|post_attention_layernorm|self_attn\.[qk]_norm)": Kind.NORM,
    rf"{_BLOCK}\.(?:attn\.(?:qkv|proj)|mlp\.linear_fc[12])": Kind.LINEAR,
    rf"{_BLOCK}\.norm[12]": Kind.LAYER_NORM,
    rf"{_MERGER}\.linear_fc[12]": Kind.LINEAR,
    rf"{_MERGER}\.norm": Kind.LAYER_NORM,
    r"model\.visual\.patch_embed\.proj": Kind.CONV,
    r"model\.visual\.pos_embed|model\.language_model\.embed_tokens": Kind.EMBEDDING,
    r"model\.language_model\.norm": Kind.NORM,
    r"lm_head": Kind.LINEAR,
}
_DENSE_PLAIN = {
    rf"({_MERGER}|{_BLOCK}\.mlp|{_LAYER}\.mlp\.experts)": r"\1.act_fn",
    rf"({_LAYER}\.mlp)\.gate_proj": r"\1.act_fn",  # a layer of experts has its activation inside them alone
    r"(model\.visual)": r"\1.rotary_pos_emb",
    r"(model\.language_model)": r"\1.rotary_emb",
}

# By the model_type of the config.
NAME_TABLES: dict[str, NameTable] = {
    "qwen3_vl": _table(QWEN3_VL, _DENSE_KINDS, _DENSE_PLAIN),
    "qwen3_vl_moe": _table(
        QWEN3_VL, {**_DENSE_KINDS, rf"{_LAYER}\.mlp\.(?:experts|gate)": Kind.PARAMETERS}, _DENSE_PLAIN
    ),
}
MODULE_LISTS = re.compile(r"model\.visual\.(?:blocks|deepstack_merger_list)|model\.language_model\.layers")


def _config(
    hidden: int, layers: int, heads: int, kv_heads: int, inter: int, *, tied: bool, large_vit: bool, experts: int = 0
) -> dict[str, Any]:
    text: dict[str, Any] = {
        "model_type": "qwen3_vl_text",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inter,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5_000_000,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    }
    if experts:
        text |= {
            "model_type": "qwen3_vl_moe_text",
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": experts,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    depth, vit_hidden, vit_inter, deepstack = (
        (27, 1152, 4304, [8, 16, 24]) if large_vit else (24, 1024, 4096, [5, 11, 17])
    )
    model_type = "qwen3_vl_moe" if experts else "qwen3_vl"
    return {
        "model_type": model_type,
        "architectures": ["Qwen3VLMoeForConditionalGeneration" if experts else "Qwen3VLForConditionalGeneration"],
        "dtype": "bfloat16",
        "tie_word_embeddings": tied,
        "text_config": text,
        "vision_config": {
            "model_type": model_type + "_vision" if not experts else "qwen3_vl_moe_vision",
            "depth": depth,
            "hidden_size": vit_hidden,
            "intermediate_size": vit_inter,
            "num_heads": 16,
            "out_hidden_size": hidden,
            "deepstack_visual_indexes": deepstack,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 2304,
        },
    }


# The public sizes, so that a plan for them needs no network.
_SIZES: dict[str, dict[str, Any]] = {
    "2B": _config(2048, 28, 16, 8, 6144, tied=True, large_vit=False),
    "4B": _config(2560, 36, 32, 8, 9728, tied=True, large_vit=False),
    "8B": _config(4096, 36, 32, 8, 12288, tied=False, large_vit=True),
    "32B": _config(5120, 64, 64, 8, 25600, tied=False, large_vit=True),
    "30B-A3B": _config(2048, 48, 32, 4, 6144, tied=False, large_vit=True, experts=768),
    "235B-A22B": _config(4096, 94, 64, 4, 12288, tied=False, large_vit=True, experts=1536),
}


def known_config(model_id: str) -> dict[str, Any] | None:
    """The config of a public Qwen3-VL by its hub id, e.g. ``Qwen/Qwen3-VL-8B-Instruct``; None for any other id."""
    match = re.fullmatch(r"Qwen/Qwen3-VL-([\w-]+?)-(?:Instruct|Thinking)", model_id)
    return _SIZES.get(match.group(1)) if match else None


def known_ids() -> list[str]:
    return [f"Qwen/Qwen3-VL-{size}-Instruct" for size in _SIZES]
