"""The tensors that a Qwen3-VL config implies, so that a plan for a model without weight files needs no torch.

`tests/test_architectures.py` holds every name and shape against the real classes of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from swiftalign.checkpoint import TensorInfo

Shape = tuple[int, ...]

_MAX_COUNT = 10_000  # layers of a stack: more is no model, and would take for ever to spell out
_MAX_SIDE = 2**40
_SIZES = {
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
    sides = [config[part][name] for part, names in _SIZES.items() for name in names]
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
