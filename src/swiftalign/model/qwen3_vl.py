"""Qwen3-VL and its mixture-of-experts models: everything that this toolkit knows about them by name.

`tests/test_architectures.py` compares every module, name and shape with the real classes of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from swiftalign.model.family import Chat, Described, Family, Shape, Sizes, linear, swiglu, whole_number
from swiftalign.model.tree import Architecture, Kind


def _modules(config: dict[str, Any]) -> Iterator[Described]:
    text, vision = config["text_config"], config["vision_config"]
    for count in (text["num_hidden_layers"], vision["depth"], vision["spatial_merge_size"]):
        whole_number(count)
    yield from vit_and_aligner(vision, deepstack=len(vision["deepstack_visual_indexes"]))
    width, head, inner = text["hidden_size"], text["head_dim"], text["intermediate_size"]
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    bias = text.get("attention_bias", False)
    yield "model.language_model.embed_tokens", Kind.EMBEDDING, {"weight": (text["vocab_size"], width)}
    yield "model.language_model.norm", Kind.NORM, {"weight": (width,)}
    yield "model.language_model.rotary_emb", Kind.PLAIN, {}
    for index in range(text["num_hidden_layers"]):
        layer = f"model.language_model.layers.{index}"
        yield f"{layer}.input_layernorm", Kind.NORM, {"weight": (width,)}
        yield f"{layer}.post_attention_layernorm", Kind.NORM, {"weight": (width,)}
        yield f"{layer}.self_attn.q_norm", Kind.NORM, {"weight": (head,)}
        yield f"{layer}.self_attn.k_norm", Kind.NORM, {"weight": (head,)}
        for part, outputs in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            yield linear(f"{layer}.self_attn.{part}", width, outputs, bias=bias)
        yield linear(f"{layer}.self_attn.o_proj", queries, width, bias=bias)
        if _is_sparse(index, text):
            yield from experts(f"{layer}.mlp", _experts(text), width, text["moe_intermediate_size"])
        else:
            yield from swiglu(f"{layer}.mlp", width, inner)
    yield linear("lm_head", width, text["vocab_size"], bias=False)


def experts(name: str, number: int, width: int, inner: int) -> Iterator[Described]:
    """The router of a mixture of experts, and its experts as transformers 5 builds them, each one tensor for all."""
    yield f"{name}.gate", Kind.PARAMETERS, {"weight": (number, width)}
    gate_up, down = (number, 2 * inner, width), (number, width, inner)
    yield f"{name}.experts", Kind.PARAMETERS, {"gate_up_proj": gate_up, "down_proj": down}
    yield f"{name}.experts.act_fn", Kind.PLAIN, {}


def vit_and_aligner(vision: dict[str, Any], *, deepstack: int) -> Iterator[Described]:
    """The ViT and the mergers, of which ``deepstack`` take features from inside the ViT."""
    width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    kernel: Shape = (width, vision.get("in_channels", 3), vision["temporal_patch_size"], patch, patch)
    yield "model.visual.patch_embed.proj", Kind.CONV, {"weight": kernel, "bias": (width,)}
    yield "model.visual.pos_embed", Kind.EMBEDDING, {"weight": (vision["num_position_embeddings"], width)}
    yield "model.visual.rotary_pos_emb", Kind.PLAIN, {}
    for index in range(vision["depth"]):
        block = f"model.visual.blocks.{index}"
        yield _layer_norm(f"{block}.norm1", width)
        yield _layer_norm(f"{block}.norm2", width)
        yield linear(f"{block}.attn.qkv", width, 3 * width)
        yield linear(f"{block}.attn.proj", width, width)
        yield linear(f"{block}.mlp.linear_fc1", width, inner)
        yield linear(f"{block}.mlp.linear_fc2", inner, width)
        yield f"{block}.mlp.act_fn", Kind.PLAIN, {}
    merged = width * vision["spatial_merge_size"] ** 2
    for part in ("merger", *(f"deepstack_merger_list.{i}" for i in range(deepstack))):
        name = f"model.visual.{part}"
        # The merger normalises before it joins neighbouring patches, the deepstack mergers after.
        yield _layer_norm(f"{name}.norm", width if part == "merger" else merged)
        yield linear(f"{name}.linear_fc1", merged, merged)
        yield linear(f"{name}.linear_fc2", merged, vision["out_hidden_size"])
        yield f"{name}.act_fn", Kind.PLAIN, {}


def _layer_norm(name: str, width: int) -> Described:
    return name, Kind.LAYER_NORM, {"weight": (width,), "bias": (width,)}


def _is_sparse(index: int, text: dict[str, Any]) -> bool:
    """Whether a layer has experts; a dense model has none."""
    if not _experts(text):
        return False
    return index not in text["mlp_only_layers"] and (index + 1) % whole_number(text["decoder_sparse_step"]) == 0


def _experts(text: dict[str, Any]) -> Any:
    """The number of experts: transformers 5 writes ``num_local_experts``, the published configs ``num_experts``."""
    return text.get("num_experts") or text.get("num_local_experts")


def _sizes(config: dict[str, Any]) -> Sizes:
    text, vision = config["text_config"], config["vision_config"]
    width, layers, head = text["hidden_size"], text["num_hidden_layers"], text["head_dim"]
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    sparse = _is_sparse(layers - 1, text)
    inner = text["moe_intermediate_size"] * text["num_experts_per_tok"] if sparse else text["intermediate_size"]
    return Sizes(
        layers,
        width,
        inner,
        queries,
        # Queries and keys before and after their norms; values; and the attention's result with its sums.
        attention_kept=layers * 3 * (queries + keys),
        attention_layers=layers,
        matrix=layers * (2 * width * (queries + keys) + 3 * width * inner),
        vocabulary=text["vocab_size"],
        routed=text["num_experts_per_tok"] * width if sparse else 0,
        **vit_sizes(vision, deepstack=len(vision["deepstack_visual_indexes"])),
    )


def vit_sizes(vision: dict[str, Any], *, deepstack: int) -> dict[str, int]:
    """The part of `Sizes` that tells of the ViT and the mergers of `vit_and_aligner`."""
    width, inner, depth = vision["hidden_size"], vision["intermediate_size"], vision["depth"]
    merge = vision["spatial_merge_size"] ** 2
    merged, mergers = width * merge, 1 + deepstack
    return {
        "vit_layers": depth,
        "vit_width": width,
        "vit_inner": inner,
        "vit_matrix": depth * (4 * width**2 + 2 * width * inner),
        "merge": merge,
        "mergers": mergers,
        "aligner_matrix": mergers * (merged**2 + merged * vision["out_hidden_size"]),
    }


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
    depth, width, inner, deepstack = (27, 1152, 4304, [8, 16, 24]) if large_vit else (24, 1024, 4096, [5, 11, 17])
    model_type = "qwen3_vl_moe" if experts else "qwen3_vl"
    return {
        "model_type": model_type,
        "architectures": ["Qwen3VLMoeForConditionalGeneration" if experts else "Qwen3VLForConditionalGeneration"],
        "dtype": "bfloat16",
        "tie_word_embeddings": tied,
        "text_config": text,
        "vision_config": {
            "model_type": f"{model_type}_vision",
            "depth": depth,
            "hidden_size": width,
            "intermediate_size": inner,
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


def _published(*sizes: str) -> dict[str, dict[str, Any]]:
    return {f"Qwen/Qwen3-VL-{size}-{kind}": _SIZES[size] for kind in ("Instruct", "Thinking") for size in sizes}


QWEN3_VL = Family(
    model_type="qwen3_vl",
    architecture=Architecture(
        name="qwen3_vl",
        llm=("model.language_model", "lm_head"),
        vit=("model.visual",),
        aligner=("model.visual.merger", "model.visual.deepstack_merger_list"),
    ),
    describe=_modules,
    aligner_regex=r"^model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]$",
    merger=re.compile(r"(?:^|\.)(visual\.(?:merger|deepstack_merger_list\.\d{1,3}))\."),
    mergers=("visual.merger", *(f"visual.deepstack_merger_list.{index}" for index in range(3))),
    merger_layers=("linear_fc1", "linear_fc2"),
    published=_published("2B", "4B", "8B", "32B"),
    sizes=_sizes,
    measured={"one": (2560, 4096, 5120), "ddp": (4096,), "fsdp2": (4096, 5120), "zero2": (4096,)},  # 4B, 8B, 32B
    chat=Chat(("qwen3_vl",)),
    sync_free=True,
    compiles=True,
    fp8=True,
)

QWEN3_VL_MOE = replace(
    QWEN3_VL,
    model_type="qwen3_vl_moe",
    # Published as [experts, in, out]; transformers 5 builds [experts, out, in].
    transposed=re.compile(r"\.mlp\.experts\."),
    published=_published("30B-A3B", "235B-A22B"),
    measured={},
    compiles=False,
    fp8=False,
)
