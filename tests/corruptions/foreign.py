"""Sound adapters that peft alone has made: no run, no plan, and settings that this tool never writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForImageTextToText

ALIGNER = r"^model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]$"
# The form in which other trainers write their targets: lazy wildcards, and alternatives of parts.
ALTERNATIVES = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|mlp).*?(?:q_proj|up_proj).*?)"
    r"|(?:\bmodel\.visual\.merger\.(?:linear_fc[\d]{1,}))"
)


@dataclass(frozen=True)
class Foreign:
    """An adapter to build.

    Attributes:
        save: options of peft's `save_pretrained`.
        planned: whether what it must hold follows from its config and base.
    """

    config: type[peft.PeftConfig] = peft.LoraConfig
    settings: dict[str, Any] = field(default_factory=dict)
    base: str = "dense"
    save: dict[str, Any] = field(default_factory=dict)
    planned: bool = True


def _lora(*, base: str = "dense", planned: bool = True, **settings: Any) -> Foreign:
    return Foreign(settings={"target_modules": ALIGNER, **settings}, base=base, planned=planned)


FOREIGN: dict[str, Foreign] = {
    "peft-rank-pattern": _lora(
        rank_pattern={r"deepstack_merger_list\.[01]\.linear_fc1": 4, "merger.linear_fc2": 16},
        alpha_pattern={"linear_fc1": 3},
    ),
    "peft-rank-pattern-dora": _lora(rank_pattern={"fc1": 3, "linear_fc1": 4, "merger.linear_fc2": 2}, use_dora=True),
    "peft-rank-pattern-embedding": _lora(target_modules=["embed_tokens", "o_proj"], rank_pattern={"embed_tokens": 5}),
    "peft-frequencies": Foreign(
        peft.FourierFTConfig,
        {"target_modules": ALIGNER, "n_frequency": 90, "n_frequency_pattern": {"merger.linear_fc1": 40}},
    ),
    "peft-bias-all": _lora(bias="all"),
    "peft-bias-all-saved": _lora(target_modules=["q_proj"], modules_to_save=["model.visual.merger"], bias="all"),
    "peft-bias-lora-only": _lora(bias="lora_only"),
    "peft-bias-of-its-own": _lora(lora_bias=True),
    "peft-bias-both": _lora(lora_bias=True, bias="all"),
    "peft-bias-boft": Foreign(peft.BOFTConfig, {"target_modules": ALIGNER, "boft_block_size": 4, "bias": "all"}),
    "peft-bias-adalora": Foreign(peft.AdaLoraConfig, {"target_modules": ALIGNER, "total_step": 9, "bias": "all"}),
    "peft-exclude-regex": _lora(
        target_modules=["linear_fc1", "q_proj"], exclude_modules=r".*\.(?:blocks|layers\.0)\..*"
    ),
    "peft-exclude-names": _lora(target_modules=["linear_fc1"], exclude_modules=["mlp.linear_fc1"]),
    "peft-layers": _lora(target_modules=["q_proj", "linear_fc1"], layers_to_transform=0),
    "peft-layers-pattern": _lora(target_modules=["q_proj"], layers_to_transform=[0, 2], layers_pattern="layers"),
    "peft-all-linear": _lora(target_modules="all-linear"),
    "peft-alternatives": _lora(target_modules=ALTERNATIVES),
    "peft-part-of-the-aligner": _lora(target_modules=["merger.linear_fc1", "v_proj"]),
    "peft-rows": _lora(trainable_token_indices=[1, 2, 3]),
    "peft-rows-tied": _lora(trainable_token_indices=[4, 5], base="tied"),
    "peft-rows-of-the-head": _lora(trainable_token_indices={"lm_head": [7], "embed_tokens": [7, 8]}),
    "peft-embedding-by-name": _lora(target_modules=["language_model.embed_tokens"]),
    "peft-embeddings-kept": Foreign(settings={"target_modules": ALIGNER}, save={"save_embedding_layers": True}),
    "peft-experts": _lora(
        target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"], base="moe", planned=False
    ),
}


def build_foreign(foreign: Foreign, base: Path, folder: Path) -> Path:
    """Wrap the base, move everything that trains, and save; returns the adapter's folder."""
    torch.manual_seed(0)
    model: Any = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
    model = peft.get_peft_model(model, foreign.config(**foreign.settings))
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.01 * torch.randn_like(weight)
    model.save_pretrained(folder, **foreign.save)
    return folder
