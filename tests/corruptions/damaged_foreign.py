"""Damage to adapters that peft alone has made, and bases that are not theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from corruptions.files import Damage, Harm, Tensor, both, first, read_tensors, renamed, tensors, values

ADAPTER = "adapter_config.json"
BASE = ("--base", "BASE")
Held = dict[str, Tensor]
SHAPE, MISSING, EXTRA = ("tensor-shape",), ("tensor-missing",), ("tensor-unexpected",)
ENDLESS = r"([\w.]|[\w.][\w.])*0\."
MALFORMED = ("adapter-config-malformed",)
BIAS = "merger_list.1.linear_fc2.base_layer.bias"


def _adapter(**changes: Any) -> Harm:
    return values(ADAPTER, **changes)


def _without(part: str) -> Harm:
    return tensors(lambda held: held.pop(first(held, part)) and None)


def _cut(part: str, rows: int = 1) -> Harm:
    """Take the first rows off a tensor."""

    def change(held: Held) -> None:
        tensor = held[first(held, part)]
        size = len(tensor.data) // tensor.shape[0]
        tensor.shape = [tensor.shape[0] - rows, *tensor.shape[1:]]
        tensor.data = tensor.data[size * rows :]

    return tensors(change)


def _half_rank(part: str) -> Harm:
    """Both factors of a layer at half of their rank."""

    def change(held: Held) -> None:
        for factor, side in (("lora_A", 0), ("lora_B", 1)):
            tensor = held[first(held, f"{part}.{factor}.weight")]
            tensor.shape[side] //= 2
            tensor.data = tensor.data[: len(tensor.data) // 2]

    return tensors(change)


def _from_base(part: str) -> Harm:
    """The base's own values again."""

    def harm(path: Path) -> None:
        named = json.loads((path / ADAPTER).read_text())["base_model_name_or_path"]
        base = read_tensors(Path(named, "model.safetensors"))

        def change(held: Held) -> None:
            name = first(held, part)
            held[name].data = base[name.removeprefix("base_model.model.").replace(".base_layer.", ".")].data

        tensors(change)(path)

    return harm


FOREIGN_DAMAGE: dict[str, Damage] = {
    "rank-pattern-of-another-rank": Damage(
        "peft-rank-pattern", _adapter(rank_pattern={"merger.linear_fc2": 16}), (*SHAPE, "adapter-rank")
    ),
    "rank-pattern-lost": Damage("peft-rank-pattern", _adapter(rank_pattern=None), (*SHAPE, "adapter-rank")),
    "rank-pattern-not-kept": Damage(
        "peft-rank-pattern", _half_rank("visual.merger.linear_fc2"), (*SHAPE, "adapter-rank")
    ),
    "rank-pattern-not-of-another-layer": Damage(
        "peft-rank-pattern", _half_rank("visual.merger.linear_fc1"), (*SHAPE, "adapter-rank")
    ),
    "rank-pattern-in-another-order": Damage(
        "peft-rank-pattern-dora",
        _adapter(rank_pattern={"linear_fc[12]": 4, "merger.linear_fc2": 2}),
        (*SHAPE, "adapter-rank"),
    ),
    "rank-pattern-without-base": Damage(
        "peft-rank-pattern",
        both(_adapter(base_model_name_or_path="some/where"), _half_rank("visual.merger.linear_fc2")),
        ("adapter-rank",),
    ),
    "rank-pattern-of-words": Damage("peft-rank-pattern", _adapter(rank_pattern={"fc1": "4"}), MALFORMED),
    "rank-pattern-broken": Damage("peft-rank-pattern", _adapter(rank_pattern={"(": 4}), MALFORMED),
    "rank-pattern-with-flags-inside": Damage("peft-rank-pattern", _adapter(rank_pattern={"(?i)fc1": 4}), MALFORMED),
    "rank-pattern-endless": Damage("peft-rank-pattern", _adapter(rank_pattern={ENDLESS: 4}), MALFORMED),
    "frequencies-of-another-number": Damage(
        "peft-frequencies", _adapter(n_frequency_pattern={"fc1": 40}), (*SHAPE, "adapter-rank")
    ),
    "bias-missing": Damage(
        "peft-bias-all",
        _without(BIAS),
        MISSING,
        message=f"1 tensor missing: base_model.model.model.visual.deepstack_{BIAS}",
    ),
    "bias-of-a-frozen-block-missing": Damage("peft-bias-all", _without("blocks.1.norm2.bias"), MISSING),
    "bias-too-short": Damage("peft-bias-all", _cut(BIAS), SHAPE),
    "biases-not-configured": Damage("peft-bias-all", _adapter(bias="none"), (*EXTRA, "adapter-saved")),
    "biases-lost": Damage("peft-bias-lora-only", _adapter(bias="all"), MISSING),
    "bias-of-its-own-missing": Damage("peft-bias-of-its-own", _without("merger.linear_fc1.lora_B.bias"), MISSING),
    "bias-of-its-own-not-configured": Damage("peft-bias-of-its-own", _adapter(lora_bias=False), EXTRA),
    "bias-of-its-own-too-short": Damage("peft-bias-of-its-own", _cut("merger.linear_fc1.lora_B.bias"), SHAPE),
    "bias-rounded-to-base": Damage("peft-bias-all", _from_base(BIAS), ("rounded-to-base",), BASE),
    "excluded-layer-is-there": Damage("peft-exclude-regex", _adapter(exclude_modules=r".*q_proj"), (*MISSING, *EXTRA)),
    "excluded-nothing": Damage("peft-exclude-names", _adapter(exclude_modules=None), MISSING),
    "excluded-a-number": Damage("peft-exclude-names", _adapter(exclude_modules=3), MALFORMED),
    "excluded-by-an-endless-regex": Damage("peft-exclude-names", _adapter(exclude_modules=ENDLESS), MALFORMED),
    "layers-of-another-number": Damage("peft-layers-pattern", _adapter(layers_to_transform=[0, 1]), (*MISSING, *EXTRA)),
    "layers-of-another-list": Damage(
        "peft-layers-pattern", _adapter(layers_pattern="blocks"), (*EXTRA, "adapter-targets")
    ),
    "layers-of-words": Damage("peft-layers-pattern", _adapter(layers_to_transform=["0"]), MALFORMED),
    "layers-with-flags-inside": Damage("peft-layers-pattern", _adapter(layers_pattern="(?i)layers"), MALFORMED),
    "layers-by-a-regex-with-a-group": Damage(
        "peft-layers-pattern", _adapter(layers_pattern="(layers)"), (*EXTRA, "adapter-targets")
    ),
    "layers-by-a-broken-regex": Damage("peft-layers-pattern", _adapter(layers_pattern=["["]), MALFORMED),
    "linear-layer-missing": Damage("peft-all-linear", _without("blocks.0.attn.proj.lora_B.weight"), MISSING),
    "merger-of-an-adapter-gone": Damage(
        "peft-part-of-the-aligner",
        tensors(lambda held: {name: tensor for name, tensor in held.items() if "merger" not in name}),
        ("tensor-missing", "aligner-part-missing"),
    ),
    "row-missing": Damage("peft-rows", _cut("trainable_tokens_delta"), SHAPE),
    "rows-not-configured": Damage("peft-rows", _adapter(trainable_token_indices=None), (*EXTRA, "adapter-saved")),
    "rows-of-words": Damage("peft-rows", _adapter(trainable_token_indices=["a"]), MALFORMED),
    "rows-lost": Damage("peft-rows-of-the-head", _without("lm_head.token_adapter.trainable_tokens_delta"), MISSING),
    "experts-under-another-prefix": Damage("peft-experts", renamed(lambda name: f"module.{name}"), ("prefix-wrong",)),
    "embedding-of-another-base": Damage(
        "peft-embeddings-kept",
        tensors(lambda held: held.update({first(held, "embed_tokens.weight"): held[first(held, "lm_head.weight")]})),
        ("changed-outside-plan",),
        BASE,
    ),
    "base-moved-and-renamed": Damage(
        "alone",
        _adapter(base_model_name_or_path="/gone/another-name"),
        ("base-renamed",),
        BASE,
    ),
    "base-quantised-by-its-name": Damage(
        "alone", _adapter(base_model_name_or_path="unsloth/dense-bnb-4bit"), ("base-quantised",), BASE
    ),
    "base-unnameable": Damage("alone", _adapter(base_model_name_or_path=f"/{'x' * 300}"), ("base-renamed",), BASE),
    "base-is-here-and-another-is-given": Damage("alone", lambda _: None, ("base-renamed",), ("--base", "OTHER")),
    "run-with-another-base": Damage("lora", lambda _: None, ("base-renamed",), ("--base", "OTHER")),
    "base-lacks-adapted-layers": Damage(
        "peft-all-linear",
        lambda _: None,
        (*EXTRA, "base-renamed", "base-mismatch"),
        ("--base", "MOE"),
    ),
    "layer-of-another-shape-than-the-base": Damage(
        "lora", _cut("linear_fc1.lora_B.weight"), (*SHAPE, "base-mismatch"), BASE
    ),
    "embedding-of-another-shape-than-the-base": Damage(
        "lora-embeddings", _cut("embed_tokens.lora_embedding_B"), (*SHAPE, "base-mismatch"), BASE
    ),
    "magnitude-of-another-shape-than-the-base": Damage(
        "dora", _cut("linear_fc1.lora_magnitude_vector"), (*SHAPE, "base-mismatch"), BASE
    ),
    "rotation-of-another-shape-than-the-base": Damage(
        "boft", _cut("linear_fc1.boft_s"), (*SHAPE, "base-mismatch"), BASE
    ),
}
