"""The tensors that a Qwen3-VL config implies, so that a plan for a model without weight files needs no torch.

`tests/test_architectures.py` holds every name and shape against the real classes of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.tree import Architecture, Kind

Shape = tuple[int, ...]

_MAX_COUNT = 10_000  # layers of a stack: more is no model, and would take for ever to spell out
_MAX_SIDE = 2**40
_CHECKED_SIZES = {
    "text_config": ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    "vision_config": ("hidden_size", "intermediate_size", "patch_size", "temporal_patch_size", "out_hidden_size"),
}


def tensors_of_config(config: dict[str, Any]) -> list[TensorInfo]:
    """Name, shape and dtype of each weight, as transformers builds the model; a tied lm_head is left out.

    Args:
        config: of model_type qwen3_vl or qwen3_vl_moe, with all sizes written out.

    Raises:
        KeyError: the config leaves a size to transformers' defaults.
        TypeError: a size is no number, or larger than any model's.
    """
    text, vision = config["text_config"], config["vision_config"]
    _check_sizes(config)
    dtype = str(config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or "float32")
    weights = dict(_vision(vision)) | dict(_text(text))
    if not config.get("tie_word_embeddings", False):
        weights["lm_head.weight"] = (text["vocab_size"], text["hidden_size"])
    return [TensorInfo(name, shape, dtype) for name, shape in weights.items()]


def _check_sizes(config: dict[str, Any]) -> None:
    sides = [config[part][name] for part, names in _CHECKED_SIZES.items() for name in names]
    sides += [config["text_config"]["head_dim"], config["vision_config"]["num_position_embeddings"]]
    counts = [config["text_config"]["num_hidden_layers"], config["vision_config"]["depth"]]
    counts += [config["vision_config"]["spatial_merge_size"], config["text_config"].get("decoder_sparse_step", 1)]
    if not all(type(n) is int and 0 < n <= _MAX_SIDE for n in sides) or not all(
        type(n) is int and 0 < n <= _MAX_COUNT for n in counts
    ):
        raise TypeError("a size is no number, or out of range")


def _linear(name: str, inputs: int, outputs: int, *, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _layer_norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _vision(vision: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    kernel = (vision["temporal_patch_size"], patch, patch)
    yield "model.visual.patch_embed.proj.weight", (width, vision.get("in_channels", 3), *kernel)
    yield "model.visual.patch_embed.proj.bias", (width,)
    yield "model.visual.pos_embed.weight", (vision["num_position_embeddings"], width)
    for index in range(vision["depth"]):
        block = f"model.visual.blocks.{index}"
        yield from _layer_norm(f"{block}.norm1", width)
        yield from _layer_norm(f"{block}.norm2", width)
        yield from _linear(f"{block}.attn.qkv", width, 3 * width)
        yield from _linear(f"{block}.attn.proj", width, width)
        yield from _linear(f"{block}.mlp.linear_fc1", width, inner)
        yield from _linear(f"{block}.mlp.linear_fc2", inner, width)
    merged = width * vision["spatial_merge_size"] ** 2
    # The merger normalises before it joins neighbouring patches, the deepstack mergers after.
    yield from _merger("model.visual.merger", width, merged, vision["out_hidden_size"])
    for index in range(len(vision["deepstack_visual_indexes"])):
        yield from _merger(f"model.visual.deepstack_merger_list.{index}", merged, merged, vision["out_hidden_size"])


def _merger(name: str, norm: int, merged: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield from _layer_norm(f"{name}.norm", norm)
    yield from _linear(f"{name}.linear_fc1", merged, merged)
    yield from _linear(f"{name}.linear_fc2", merged, outputs)


def _text(text: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, head = text["hidden_size"], text["head_dim"]
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    bias = text.get("attention_bias", False)
    yield "model.language_model.embed_tokens.weight", (text["vocab_size"], width)
    yield "model.language_model.norm.weight", (width,)
    for index in range(text["num_hidden_layers"]):
        layer = f"model.language_model.layers.{index}"
        yield f"{layer}.input_layernorm.weight", (width,)
        yield f"{layer}.post_attention_layernorm.weight", (width,)
        yield f"{layer}.self_attn.q_norm.weight", (head,)
        yield f"{layer}.self_attn.k_norm.weight", (head,)
        yield from _linear(f"{layer}.self_attn.q_proj", width, queries, bias=bias)
        yield from _linear(f"{layer}.self_attn.k_proj", width, keys, bias=bias)
        yield from _linear(f"{layer}.self_attn.v_proj", width, keys, bias=bias)
        yield from _linear(f"{layer}.self_attn.o_proj", queries, width, bias=bias)
        yield from _experts(layer, text) if is_sparse(index, text) else _mlp(layer, width, text["intermediate_size"])


def is_sparse(index: int, text: dict[str, Any]) -> bool:
    """Whether a layer routes to experts; a dense model has none."""
    if not expert_count(text):
        return False
    return index not in text["mlp_only_layers"] and (index + 1) % text["decoder_sparse_step"] == 0


def expert_count(text: dict[str, Any]) -> Any:
    """transformers 5 writes ``num_local_experts``, the published configs hold ``num_experts``."""
    return text.get("num_experts") or text.get("num_local_experts")


def _mlp(layer: str, width: int, inner: int) -> Iterator[tuple[str, Shape]]:
    yield from _linear(f"{layer}.mlp.gate_proj", width, inner, bias=False)
    yield from _linear(f"{layer}.mlp.up_proj", width, inner, bias=False)
    yield from _linear(f"{layer}.mlp.down_proj", inner, width, bias=False)


def _experts(layer: str, text: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    experts, width, inner = expert_count(text), text["hidden_size"], text["moe_intermediate_size"]
    yield f"{layer}.mlp.gate.weight", (experts, width)
    yield f"{layer}.mlp.experts.gate_up_proj", (experts, 2 * inner, width)
    yield f"{layer}.mlp.experts.down_proj", (experts, width, inner)


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
