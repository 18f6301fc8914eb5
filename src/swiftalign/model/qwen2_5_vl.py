"""Qwen2.5-VL: everything that this toolkit knows about it by name.

`tests/test_architectures.py` compares every module, name and shape with the real class of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from swiftalign.model.family import Chat, Described, Family, Sizes, linear, swiglu, whole_number
from swiftalign.model.tree import Architecture, Kind

# What the published configs leave to transformers, which has a default for it.
_VISION = {
    "depth": 32,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}


def _parts(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the LLM, which the published configs have at their top, and those of the ViT."""
    text, vision = config.get("text_config") or config, _VISION | config["vision_config"]
    for count in (
        text["num_hidden_layers"],
        text["num_attention_heads"],
        vision["depth"],
        vision["spatial_merge_size"],
    ):
        whole_number(count)
    return text, vision


def _modules(config: dict[str, Any]) -> Iterator[Described]:
    text, vision = _parts(config)
    wide, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    kernel = (wide, vision["in_channels"], vision["temporal_patch_size"], patch, patch)
    yield "model.visual.patch_embed.proj", Kind.CONV, {"weight": kernel}
    yield "model.visual.rotary_pos_emb", Kind.PLAIN, {}
    for index in range(vision["depth"]):
        block = f"model.visual.blocks.{index}"
        yield f"{block}.norm1", Kind.NORM, {"weight": (wide,)}
        yield f"{block}.norm2", Kind.NORM, {"weight": (wide,)}
        yield linear(f"{block}.attn.qkv", wide, 3 * wide)
        yield linear(f"{block}.attn.proj", wide, wide)
        yield from swiglu(f"{block}.mlp", wide, inner, bias=True)
    merged = wide * vision["spatial_merge_size"] ** 2
    yield "model.visual.merger.ln_q", Kind.NORM, {"weight": (wide,)}
    yield "model.visual.merger.mlp", Kind.CONTAINER, {}
    yield linear("model.visual.merger.mlp.0", merged, merged)
    yield "model.visual.merger.mlp.1", Kind.PLAIN, {}
    yield linear("model.visual.merger.mlp.2", merged, vision["out_hidden_size"])
    width, heads = text["hidden_size"], text["num_attention_heads"]
    keys = width // heads * text["num_key_value_heads"]
    yield "model.language_model.embed_tokens", Kind.EMBEDDING, {"weight": (text["vocab_size"], width)}
    yield "model.language_model.norm", Kind.NORM, {"weight": (width,)}
    yield "model.language_model.rotary_emb", Kind.PLAIN, {}
    for index in range(text["num_hidden_layers"]):
        layer = f"model.language_model.layers.{index}"
        yield f"{layer}.input_layernorm", Kind.NORM, {"weight": (width,)}
        yield f"{layer}.post_attention_layernorm", Kind.NORM, {"weight": (width,)}
        for part, outputs in (("q_proj", width), ("k_proj", keys), ("v_proj", keys)):
            yield linear(f"{layer}.self_attn.{part}", width, outputs)
        yield linear(f"{layer}.self_attn.o_proj", width, width, bias=False)
        yield from swiglu(f"{layer}.mlp", width, text["intermediate_size"])
    yield linear("lm_head", width, text["vocab_size"], bias=False)


def _sizes(config: dict[str, Any]) -> Sizes:
    text, vision = _parts(config)
    width, layers, inner = text["hidden_size"], text["num_hidden_layers"], text["intermediate_size"]
    keys = width // text["num_attention_heads"] * text["num_key_value_heads"]
    wide, vit_inner, depth = vision["hidden_size"], vision["intermediate_size"], vision["depth"]
    merge = vision["spatial_merge_size"] ** 2
    merged = wide * merge
    return Sizes(
        layers,
        width,
        inner,
        width,
        attention_kept=layers * 2 * (width + keys),  # no norms of queries and keys
        attention_layers=layers,
        matrix=layers * (2 * width * (width + keys) + 3 * width * inner),
        vocabulary=text["vocab_size"],
        vit_layers=depth,
        vit_width=wide,
        vit_inner=vit_inner,
        vit_matrix=depth * (4 * wide**2 + 3 * wide * vit_inner),
        merge=merge,
        mergers=1,
        aligner_matrix=merged**2 + merged * vision["out_hidden_size"],
        window=(vision["window_size"] // vision["patch_size"]) ** 2,
        window_layers=depth - len(vision["fullatt_block_indexes"]),
    )


def _config(
    hidden: int, layers: int, heads: int, kv_heads: int, inter: int, *, vit_inter: int, vocab: int = 152064
) -> dict[str, Any]:
    return {
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "torch_dtype": "bfloat16",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inter,
        "vocab_size": vocab,
        "tie_word_embeddings": hidden == 2048,  # of the 3B
        "vision_config": _VISION | {"hidden_size": 1280, "intermediate_size": vit_inter, "out_hidden_size": hidden},
    }


QWEN2_5_VL = Family(
    model_type="qwen2_5_vl",
    architecture=Architecture(
        name="qwen2_vl",  # ms-swift's name
        llm=("model.language_model", "lm_head"),
        vit=("model.visual",),
        aligner=("model.visual.merger",),
    ),
    describe=_modules,
    aligner_regex=r"^model\.visual\.merger\.mlp\.[02]$",
    merger=re.compile(r"(?:^|\.)(visual\.merger)\."),
    mergers=("visual.merger",),
    merger_layers=("mlp.0", "mlp.2"),
    patch=14,
    coordinates="resized",
    published={
        "Qwen/Qwen2.5-VL-3B-Instruct": _config(2048, 36, 16, 2, 11008, vit_inter=3420, vocab=151936),
        "Qwen/Qwen2.5-VL-7B-Instruct": _config(3584, 28, 28, 4, 18944, vit_inter=3420),
        "Qwen/Qwen2.5-VL-32B-Instruct": _config(5120, 64, 40, 8, 27648, vit_inter=3456),
        "Qwen/Qwen2.5-VL-72B-Instruct": _config(8192, 80, 64, 8, 29568, vit_inter=3456),
    },
    sizes=_sizes,
    sync_free=True,
    chat=Chat(("qwen2_5_vl",), system="You are a helpful assistant."),
)
