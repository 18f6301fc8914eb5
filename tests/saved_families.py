"""Runs of tiny models of many families, without training: what peft and transformers save once weights have moved."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from transformers.utils import logging

from families import FAMILIES, live
from swiftalign.config.load import load_config
from swiftalign.demo.model import byte_tokenizer, save_processors
from swiftalign.model.tree import Kind, Model, is_inside
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.runs.folder import write_run_files
from swiftalign.worker.weights import write_initial
from swiftalign.yaml12 import dump_yaml

logging.set_verbosity_error()
logging.disable_progress_bar()


@dataclass(frozen=True)
class SavedRun:
    """A run folder with one checkpoint, and the state of the model that it ought to make of its base.

    Attributes:
        state: the tensors of the merged model, by their names in the model.
    """

    base: Path
    folder: Path
    plan: TuningPlan
    state: dict[str, torch.Tensor]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint-1"


def build_base(family: str, folder: Path) -> Path:
    """A family's tiny model without a tensor of zeros, beside the files of a processor, which nothing opens here."""
    torch.manual_seed(0)
    model = live(family, device="cpu")
    for weight in model.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    save_processors(folder)
    torch.save({}, folder / "spk_dict.pt")  # the voices of Qwen-Omni, without which its class does not load
    return folder


def tuner_of(method: str, model: Model) -> dict[str, Any]:
    """The tuner section that trains a model's aligner by a method, or by ``full-all`` the whole model."""
    if method == "modules_to_save":
        return {"target_regex": "^$", "modules_to_save": list(model.mergers)}
    if method == "full":
        return {"train_type": "full", "freeze_llm": True, "freeze_vit": True, "freeze_aligner": False}
    if method == "full-all":
        return {"train_type": "full", "freeze_llm": False, "freeze_vit": False, "freeze_aligner": False}
    layers = [m.name for m in model if m.kind is Kind.LINEAR and is_inside(m.name, model.mergers)]
    return {"train_type": method, "target_regex": "|".join(layer.replace(".", r"\.") for layer in layers)}


def load(family: str, folder: Path) -> Any:
    """The real model of a folder, of which no tensor may be missing, unexpected or of another shape."""
    model_class = getattr(transformers, FAMILIES[family].model_class)
    with warnings.catch_warnings(action="ignore"):
        if family == "qwen2_5_omni":  # its from_pretrained can't return what it has found
            return model_class.from_pretrained(folder, dtype="auto")
        model, info = model_class.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model


def save_run(family: str, base: Path, method: str, folder: Path, target_regex: str | None = None) -> SavedRun:
    """Wrap the real model as ms-swift does, move what the plan trains, and save it as the Trainer does.

    Args:
        target_regex: the layers that carry an adapter, in place of the aligner's.
    """
    folder.mkdir(parents=True)
    sections: dict[str, Any] = {"model": str(base), "training": {"max_steps": 1}}
    config_file = folder / "config.yaml"
    config_file.write_text(dump_yaml(sections), encoding="utf-8")
    sections["tuner"] = tuner_of(method, read_model(load_config([config_file])))
    sections["tuner"] |= {"target_regex": target_regex} if target_regex else {}
    config_file.write_text(dump_yaml(sections), encoding="utf-8")
    config = load_config([config_file])
    plan = resolve(config, read_model(config))
    write_run_files(folder, config, plan)
    model = load(family, base)
    if plan.train_type != "full":
        settings = {"target_modules": plan.adapted_pattern, "modules_to_save": list(plan.saved) or None}
        own = config.tuner.settings
        lora = peft.LoraConfig(r=own.lora_rank, lora_alpha=own.lora_alpha, use_dora=own.use_dora, **settings)
        model = peft.get_peft_model(model, lora)
    planned = {item.parameter for item in plan.trainables}
    weights = {name: weight for name, weight in model.named_parameters() if name in planned}
    assert weights.keys() == planned
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in planned)
    write_initial(plan, model, folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(0.05 * torch.randn_like(weight))
    checkpoint = folder / "checkpoint-1"
    model.save_pretrained(checkpoint)
    if plan.train_type == "full":  # the Trainer saves the processor too
        shutil.copytree(
            base, checkpoint, ignore=shutil.ignore_patterns("config.json", "*.safetensors*"), dirs_exist_ok=True
        )
    state = {"global_step": 1, "max_steps": 1, "log_history": []}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({"state": {}}, checkpoint / name)
    merged = model.merge_and_unload() if plan.train_type != "full" else model
    return SavedRun(base, folder, plan, {name: tensor.clone() for name, tensor in merged.state_dict().items()})
