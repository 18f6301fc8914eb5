"""Damage to what lies beside the weights: configs, trainer state, optimizer, tokenizer and processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from corruptions.files import Damage, Harm, tensors, text, values, without, zeroed

ADAPTER = "adapter_config.json"
STATE = "trainer_state.json"
MODEL = "model.safetensors"


def _adapter(**changes: Any) -> Harm:
    return values(ADAPTER, **changes)


def _renamed_folder(path: Path) -> Path:
    return path.rename(path.with_name("checkpoint-31"))


def _optimizer_of_less(path: Path) -> None:
    held = torch.load(path / "optimizer.pt")
    held["state"].popitem()
    torch.save(held, path / "optimizer.pt")


def _tied_to_another(path: Path) -> None:
    tensors(lambda held: zeroed(held["lm_head.weight"]), MODEL)(path)


def _plain_tokenizer(path: Path) -> None:
    """No template in any of its places."""
    for file in ("chat_template.jinja", "chat_template.json"):
        (path / file).unlink(missing_ok=True)
    held = json.loads((path / "tokenizer_config.json").read_text())
    held.pop("chat_template", None)
    (path / "tokenizer_config.json").write_text(json.dumps(held))


def _no_tokenizer(path: Path) -> None:
    for file in ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model"):
        (path / file).unlink(missing_ok=True)


BESIDE: dict[str, Damage] = {
    "adapter-config-missing": Damage(
        "saved", without(ADAPTER), ("adapter-config-missing",), message="PATH: has no adapter_config.json"
    ),
    "adapter-config-cut": Damage("saved", text(ADAPTER, '{"peft_type": "LO'), ("adapter-config-malformed",)),
    "adapter-config-a-list": Damage("saved", text(ADAPTER, "[]"), ("adapter-config-malformed",)),
    "adapter-config-without-method": Damage(
        "saved",
        _adapter(peft_type=None),
        ("adapter-config-malformed",),
        message="PATH/adapter_config.json: has no peft_type",
    ),
    "adapter-config-broken-regex": Damage("lora", _adapter(target_modules="("), ("adapter-config-malformed",)),
    "adapter-config-endless-regex": Damage(
        "lora",
        _adapter(target_modules=r"([\w.]|[\w.][\w.])*0\."),
        ("adapter-config-malformed",),
        message="PATH/adapter_config.json: one of its regular expressions takes too long to match",
    ),
    "adapter-config-imports-a-module": Damage(
        "lora",
        _adapter(megatron_config={"a": 1}, megatron_core="planted"),
        ("adapter-config-malformed",),
        message=f"PATH/{ADAPTER}: megatron_config makes peft import a module that the file names",
    ),
    "adapter-config-rank-of-letters": Damage(
        "lora",
        _adapter(r="eight"),
        ("adapter-config-malformed",),
        message=f"PATH/{ADAPTER}: 'eight' is not a rank or a number of frequencies",
    ),
    "adapter-config-ranks-of-letters": Damage(
        "adalora",
        _adapter(rank_pattern={"model.visual.merger.linear_fc1.lora_E": [True, "true"]}),
        ("adapter-config-malformed",),
        message=f"PATH/{ADAPTER}: rank_pattern does not say by true and false which ranks each layer keeps",
    ),
    "adapter-config-targets-a-number": Damage("lora", _adapter(target_modules=7), ("adapter-config-malformed",)),
    "adapter-config-saved-a-number": Damage("saved", _adapter(modules_to_save=[1]), ("adapter-config-malformed",)),
    "adapter-of-another-method": Damage("lora", _adapter(peft_type="BOFT"), ("adapter-method",)),
    "adapter-of-an-unknown-method": Damage("lora", _adapter(peft_type="LOHA"), ("adapter-method",)),
    "adapter-of-no-dora": Damage(
        "dora",
        _adapter(use_dora=False),
        ("adapter-method",),
        message="PATH/adapter_config.json: use_dora is false, but there are magnitude vectors",
    ),
    "adapter-of-dora": Damage("lora", _adapter(use_dora=True), ("adapter-method",)),
    "adapter-of-another-rank": Damage("lora", _adapter(r=16), ("adapter-rank",)),
    "adapter-of-a-lower-rank": Damage("adalora", _adapter(init_r=2), ("adapter-rank",)),
    "adapter-of-other-targets": Damage("lora", _adapter(target_modules=["q_proj"]), ("adapter-targets",)),
    "adapter-of-no-targets": Damage("lora", _adapter(target_modules=None), ("adapter-targets",)),
    "adapter-of-another-regex": Damage(
        "lora", _adapter(target_modules=r"model\.visual\.merger\..*"), ("adapter-targets",)
    ),
    "adapter-saves-another-module": Damage(
        "saved", _adapter(modules_to_save=["model.visual.merger", "lm_head"]), ("adapter-saved",)
    ),
    "adapter-saves-nothing": Damage("saved", _adapter(modules_to_save=None), ("adapter-saved",)),
    "adapter-saves-more": Damage(
        "mixed",
        _adapter(modules_to_save=["model.visual.merger", "model.visual.deepstack_merger_list", "lm_head"]),
        ("adapter-saved",),
        message="PATH/adapter_config.json: 1 module of modules_to_save without a tensor: lm_head",
    ),
    "adapter-of-another-base": Damage("saved", _adapter(base_model_name_or_path="other/model"), ("adapter-base",)),
    "state-missing": Damage("saved", without(STATE), ("state-missing",), message="PATH: has no trainer_state.json"),
    "state-of-a-model-missing": Damage("full", without(STATE), ("state-missing",)),
    "state-cut": Damage("saved", text(STATE, '{"global_step": 3'), ("state-malformed",)),
    "state-without-step": Damage("saved", text(STATE, "{}"), ("state-malformed",)),
    "state-a-list": Damage("saved", text(STATE, "[]"), ("state-malformed",)),
    "state-of-another-step": Damage(
        "saved",
        values(STATE, global_step=20),
        ("state-step",),
        message="PATH/trainer_state.json: its step is 20, but the folder's name says 30",
    ),
    "folder-renamed": Damage("saved", _renamed_folder, ("state-step",)),
    "optimizer-missing": Damage("saved", without("optimizer.pt"), ("optimizer-missing",)),
    "scheduler-missing": Damage("full", without("scheduler.pt"), ("optimizer-missing",)),
    "both-states-missing": Damage(
        "lora",
        without("optimizer.pt", "scheduler.pt"),
        ("optimizer-missing",),
        message="PATH: has no optimizer.pt and no scheduler.pt",
    ),
    "optimizer-of-another-size": Damage("lora", _optimizer_of_less, ("optimizer-size",), ("--deep",)),
    "config-missing": Damage("merged", without("config.json"), ("config-malformed",)),
    "config-cut": Damage("merged", text("config.json", "{"), ("config-malformed",)),
    "config-without-type": Damage("merged", values("config.json", model_type=None), ("config-malformed",)),
    "config-a-list": Damage("full", text("config.json", "[]"), ("config-malformed",)),
    "head-missing": Damage(
        "merged",
        tensors(lambda held: held.pop("lm_head.weight") and None, MODEL),
        ("tensor-missing", "tied-head"),
    ),
    "tied-by-mistake": Damage("merged", values("config.json", tie_word_embeddings=True), ("tied-head",)),
    "untied-by-mistake": Damage(
        "merged-tied",
        values("config.json", tie_word_embeddings=False),
        ("tensor-missing", "tied-head"),
        message="PATH/config.json: tie_word_embeddings is false, but the weights hold no lm_head",
    ),
    "tied-head-of-its-own": Damage("merged-tied-with-head", _tied_to_another, ("tied-head",)),
    "processor-missing": Damage("merged", without("preprocessor_config.json"), ("processor-missing",)),
    "tokenizer-missing": Damage("full", _no_tokenizer, ("tokenizer-missing",)),
    "chat-template-missing": Damage(
        "merged", _plain_tokenizer, ("chat-template-missing",), message="PATH: has no chat template"
    ),
}
