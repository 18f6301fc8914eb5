"""Qwen3.5, Qwen3.6 and Qwen3.8, dense and with experts: everything that this toolkit knows about them by name.

Three of four layers of the LLM have linear attention: a memory of fixed size, updated with each token. The aligner is
one merger. `tests/test_architectures.py` compares every module, name and shape with the real classes of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from swiftalign.model.family import Chat, Described, Family, Sizes, linear, swiglu, whole_number
from swiftalign.model.qwen3_vl import experts, vit_and_aligner, vit_sizes
from swiftalign.model.tree import Architecture, Kind

# `model_type` of the LLMs whose linear attention `swiftalign.worker.linear_attention` computes.
_LINEAR_ATTENTION = ("qwen3_5_text", "qwen3_5_moe_text")
CHUNK = 64  # tokens that linear attention processes at a time: more make fewer steps, with larger triangular systems


def kinds_that_mix_rows(model_type: str | None, layer_types: Iterable[Any] | None) -> list[str]:
    """The kinds of layers in an LLM that are not known to keep concatenated rows apart; other models have this LLM too.

    Args:
        model_type: that of the LLM's config.
        layer_types: the kind of each layer; None where the config does not say it.
    """
    known = {"full_attention"} | ({"linear_attention"} if model_type in _LINEAR_ATTENTION else set())
    return sorted({str(kind) for kind in layer_types or ()} - known)


def _modules(config: dict[str, Any]) -> Iterator[Described]:
    text, vision = config["text_config"], config["vision_config"]
    for count in (text["num_hidden_layers"], vision["depth"], vision["spatial_merge_size"]):
        whole_number(count)
    yield from vit_and_aligner(vision, deepstack=0)
    width = text["hidden_size"]
    yield "model.language_model.embed_tokens", Kind.EMBEDDING, {"weight": (text["vocab_size"], width)}
    yield "model.language_model.norm", Kind.NORM, {"weight": (width,)}
    yield "model.language_model.rotary_emb", Kind.PLAIN, {}
    for index, is_linear in enumerate(_linear_layers(text)):
        layer = f"model.language_model.layers.{index}"
        yield f"{layer}.input_layernorm", Kind.NORM, {"weight": (width,)}
        yield f"{layer}.post_attention_layernorm", Kind.NORM, {"weight": (width,)}
        yield from (_linear_attention if is_linear else _attention)(layer, text)
        if "num_experts" in text:
            yield from experts(f"{layer}.mlp", text["num_experts"], width, text["moe_intermediate_size"])
            yield from swiglu(f"{layer}.mlp.shared_expert", width, text["shared_expert_intermediate_size"])
            yield linear(f"{layer}.mlp.shared_expert_gate", width, 1, bias=False)
        else:
            yield from swiglu(f"{layer}.mlp", width, text["intermediate_size"])
    yield linear("lm_head", width, text["vocab_size"], bias=False)


def _attention(layer: str, text: dict[str, Any]) -> Iterator[Described]:
    width, head, bias = text["hidden_size"], text["head_dim"], text.get("attention_bias", False)
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    yield f"{layer}.self_attn.q_norm", Kind.NORM, {"weight": (head,)}
    yield f"{layer}.self_attn.k_norm", Kind.NORM, {"weight": (head,)}
    yield linear(f"{layer}.self_attn.q_proj", width, 2 * queries, bias=bias)  # the second half gates the result
    yield linear(f"{layer}.self_attn.k_proj", width, keys, bias=bias)
    yield linear(f"{layer}.self_attn.v_proj", width, keys, bias=bias)
    yield linear(f"{layer}.self_attn.o_proj", queries, width, bias=bias)


def _linear_attention(layer: str, text: dict[str, Any]) -> Iterator[Described]:
    width, name, heads = text["hidden_size"], f"{layer}.linear_attn", text["linear_num_value_heads"]
    keys, values = _linear_widths(text)
    yield name, Kind.PARAMETERS, {"dt_bias": (heads,), "A_log": (heads,)}
    yield f"{name}.conv1d", Kind.DEPTHWISE_CONV, {"weight": (2 * keys + values, 1, text["linear_conv_kernel_dim"])}
    yield f"{name}.norm", Kind.NORM, {"weight": (text["linear_value_head_dim"],)}
    for part, outputs in (("qkv", 2 * keys + values), ("z", values), ("b", heads), ("a", heads)):
        yield linear(f"{name}.in_proj_{part}", width, outputs, bias=False)
    yield linear(f"{name}.out_proj", values, width, bias=False)


def _linear_widths(text: dict[str, Any]) -> tuple[int, int]:
    """The width of all key heads of linear attention together, and that of all value heads."""
    keys = text["linear_num_key_heads"] * text["linear_key_head_dim"]
    return keys, text["linear_num_value_heads"] * text["linear_value_head_dim"]


def _linear_layers(text: dict[str, Any]) -> list[bool]:
    """Whether each layer has linear attention."""
    if kinds := text.get("layer_types"):
        return [kind == "linear_attention" for kind in kinds]
    interval = whole_number(text.get("full_attention_interval", 4))  # transformers' default
    return [(index + 1) % interval != 0 for index in range(text["num_hidden_layers"])]


def _sizes(config: dict[str, Any]) -> Sizes:
    text, vision = config["text_config"], config["vision_config"]
    width, layers, head = text["hidden_size"], text["num_hidden_layers"], text["head_dim"]
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    memory_keys, values = _linear_widths(text)
    recurrent = sum(_linear_layers(text))
    full, heads = layers - recurrent, text["linear_num_value_heads"]
    inner = text.get("intermediate_size")
    if "num_experts" in text:
        routed = text["moe_intermediate_size"] * text["num_experts_per_tok"]
        inner = routed + text["shared_expert_intermediate_size"]
    # Listed by torch's hooks for saved tensors, in compiled layers. Full attention keeps queries and keys before and
    # after their norms, values, the gate, and the result. Linear attention keeps queries, keys and values before and
    # after SiLU, the result and the gate z; the rule between them is computed again.
    full_kept = 4 * queries + 3 * keys
    linear_kept = 2 * (2 * memory_keys + values) + 2 * values
    full_matrix = width * (3 * queries + 2 * keys)
    linear_matrix = width * (2 * memory_keys + 3 * values + 2 * heads)
    return Sizes(
        layers,
        width,
        inner,
        queries,
        attention_kept=full * full_kept + recurrent * linear_kept,
        attention_layers=full,
        matrix=full * full_matrix + recurrent * linear_matrix + layers * 3 * width * inner,
        vocabulary=text["vocab_size"],
        state=recurrent * values * text["linear_key_head_dim"],
        # Of each chunk: eight tensors like the values, five of tokens by tokens, and eight like the states.
        linear_work=8 * values + 5 * heads * CHUNK + 8 * values * text["linear_key_head_dim"] // CHUNK,
        plain_kept=1.68,
        routed=text.get("num_experts_per_tok", 0) * width,
        **vit_sizes(vision, deepstack=0),
    )


# Depth, width, inner width and heads of the ViTs.
_SMALL, _MIDDLE, _LARGE = (12, 768, 3072, 12), (24, 1024, 4096, 16), (27, 1152, 4304, 16)


def _config(
    vit: tuple[int, int, int, int],
    hidden: int,
    layers: int,
    heads: tuple[int, int],
    value_heads: int,
    inter: int,
    *,
    tied: bool = False,
    experts: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """The config of a published size.

    Args:
        heads: numbers of query heads, and of key and value heads, of full attention.
        value_heads: number of value heads of linear attention; it always has 16 key heads.
        inter: intermediate size of the LLM, or of each expert.
        experts: number of experts, and of those that process one token.
    """
    name = "qwen3_5_moe" if experts else "qwen3_5"
    text: dict[str, Any] = {
        "model_type": f"{name}_text",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": 256,
        "full_attention_interval": 4,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": value_heads,
        "vocab_size": 248320,
        "tie_word_embeddings": tied,
    }
    if experts:
        number, active = experts
        text |= {"num_experts": number, "num_experts_per_tok": active}
        text |= {"moe_intermediate_size": inter, "shared_expert_intermediate_size": inter}
    else:
        text["intermediate_size"] = inter
    depth, width, inner, vit_heads = vit
    return {
        "model_type": name,
        "architectures": ["Qwen3_5MoeForConditionalGeneration" if experts else "Qwen3_5ForConditionalGeneration"],
        "dtype": "bfloat16",
        "tie_word_embeddings": tied,
        "text_config": text,
        "vision_config": {
            "model_type": f"{name}_vision",
            "depth": depth,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_heads": vit_heads,
            "out_hidden_size": hidden,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 2304,
        },
    }


_08B = _config(_SMALL, 1024, 24, (8, 2), 16, 3584, tied=True)
_2B = _config(_MIDDLE, 2048, 24, (8, 2), 16, 6144, tied=True)
_4B = _config(_MIDDLE, 2560, 32, (16, 4), 32, 9216, tied=True)
_9B = _config(_LARGE, 4096, 32, (16, 4), 32, 12288)
_27B = _config(_LARGE, 5120, 64, (24, 4), 48, 17408)
_35B = _config(_LARGE, 2048, 40, (16, 2), 32, 512, experts=(256, 8))

QWEN3_5 = Family(
    model_type="qwen3_5",
    architecture=Architecture(
        name="qwen2_vl",  # ms-swift's name
        llm=("model.language_model", "lm_head"),
        vit=("model.visual",),
        aligner=("model.visual.merger",),
    ),
    describe=_modules,
    aligner_regex=r"^model\.visual\.merger\.linear_fc[12]$",
    merger=re.compile(r"(?:^|\.)(visual\.merger)\."),
    mergers=("visual.merger",),
    merger_layers=("linear_fc1", "linear_fc2"),
    published={
        "Qwen/Qwen3.5-0.8B": _08B,
        "Qwen/Qwen3.5-0.8B-Base": _08B,
        "Qwen/Qwen3.5-2B": _2B,
        "Qwen/Qwen3.5-2B-Base": _2B,
        "Qwen/Qwen3.5-4B": _4B,
        "Qwen/Qwen3.5-4B-Base": _4B,
        "Qwen/Qwen3.5-9B": _9B,
        "Qwen/Qwen3.5-9B-Base": _9B,
        "Qwen/Qwen3.5-27B": _27B,
        "Qwen/Qwen3.6-27B": _27B,
        "Qwen/Qwen3.8-27B": _27B,
    },
    sizes=_sizes,
    measured={"one": (1024, 2048, 2560, 4096, 5120)},  # 0.8B, 2B, 4B, 9B, 27B
    sync_free=True,
    compiles=True,
    chat=Chat(("qwen3_5", "qwen3_8"), answer="<think>\n\n</think>\n\n", strips=True),
)

QWEN3_5_MOE = replace(
    QWEN3_5,
    model_type="qwen3_5_moe",
    measured={},
    compiles=False,
    published={
        "Qwen/Qwen3.5-35B-A3B": _35B,
        "Qwen/Qwen3.5-35B-A3B-Base": _35B,
        "Qwen/Qwen3.5-122B-A10B": _config(_LARGE, 3072, 48, (32, 2), 64, 1024, experts=(256, 8)),
        "Qwen/Qwen3.5-397B-A17B": _config(_LARGE, 4096, 60, (32, 2), 64, 1024, experts=(512, 10)),
        "Qwen/Qwen3.6-35B-A3B": _35B,
    },
)
