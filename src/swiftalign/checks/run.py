"""The run around the plan: validation, resuming, distributed training, versions."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftalign.checkpoint import read_json
from swiftalign.config import Config
from swiftalign.errors import ModelError
from swiftalign.findings import Finding
from swiftalign.modules import Modules
from swiftalign.targets import names

if TYPE_CHECKING:
    from swiftalign.plan import TuningPlan

# The releases that the suite runs against; constraints.txt pins the same.
TESTED_VERSIONS = {"ms-swift": "4.6.0", "transformers": "5.19.0", "peft": "0.20.0", "torch": "2.14.1"}


def best_model(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    training = config.training
    if not training.load_best_model_at_end:
        return
    where = config.where("training", "load_best_model_at_end")
    if config.data.train and not plan.schedule.val_rows:
        neighbour = next((Path(f).with_name("val.jsonl") for f in config.data.train), None)
        fix: dict[str, Any] = {"data": {"split_dataset_ratio": 0.1}}
        if neighbour is not None and neighbour.is_file():
            fix = {"data": {"val": [str(neighbour)]}}
        message = "load_best_model_at_end needs validation data to tell the best model by"
        yield Finding("best-model-without-validation", message, "validate on rows of their own:", fix, where)
    evaluation = training.eval_strategy or training.save_strategy
    steps, eval_steps = training.save_steps, training.eval_steps or training.save_steps
    apart = training.save_strategy not in (evaluation, "best") or (
        training.save_strategy == "steps" and steps % eval_steps != 0
    )
    if apart:
        message = (
            f"saving ({training.save_strategy}, every {steps:g}) and evaluation ({evaluation}, every {eval_steps:g}) "
            "do not fall together"
        )
        fix = {"training": {"eval_strategy": training.save_strategy, "eval_steps": steps}}
        yield Finding("best-model-strategies", message, "evaluate whenever a checkpoint is saved:", fix, where)


def curriculum(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    rows, loader = config.data.dataset_shuffle, config.training.train_dataloader_shuffle
    if rows != loader:
        on, off = (
            ("data.dataset_shuffle", "training.train_dataloader_shuffle")
            if rows
            else (
                "training.train_dataloader_shuffle",
                "data.dataset_shuffle",
            )
        )
        section, key = on.split(".")
        message = f"{off} is false, but {on} is true: the rows do not come in the order of the file"
        where = config.where(*off.split("."))
        yield Finding(
            "curriculum-shuffle", message, "for the file's order switch both off:", {section: {key: False}}, where
        )


def deepspeed(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    setting = config.training.deepspeed
    values = _deepspeed_values(setting)
    if values.get("stage") != 3:
        return
    where = config.where("training", "deepspeed")
    if not values.get("stage3_gather_16bit_weights_on_model_save"):
        message = "ZeRO-3 without stage3_gather_16bit_weights_on_model_save saves empty tensors"
        yield Finding("zero3-without-gather", message, "set it to true in the DeepSpeed config", where=where)
    if modules.is_moe:
        message = "a mixture-of-experts model under ZeRO-3 hangs when processes route to different experts"
        yield Finding("zero3-moe", message, "use zero2: the aligner's optimizer state is small", where=where)


def _deepspeed_values(setting: str | dict[str, Any] | None) -> dict[str, Any]:
    """The zero_optimization section, of ms-swift's presets too (its zero3 gathers)."""
    if isinstance(setting, str):
        if setting.startswith("zero3"):
            return {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}
        if not Path(setting).is_file():
            return {}
        setting = read_json(Path(setting))
    section = setting.get("zero_optimization") if isinstance(setting, dict) else None
    return section if isinstance(section, dict) else {}


def resume(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    checkpoint = config.training.resume_from_checkpoint
    if checkpoint is None:
        return
    where = config.where("training", "resume_from_checkpoint")
    try:
        adapter = {} if plan.train_type == "full" else read_json(Path(checkpoint) / "adapter_config.json")
        state = read_json(Path(checkpoint) / "trainer_state.json")
    except ModelError as error:
        yield Finding("resume-mismatch", str(error), "name a checkpoint-N folder of a run", where=where)
        return
    differences = _resume_differences(adapter, plan) if adapter else []
    if differences:
        message = f"{checkpoint} differs from this config: {'; '.join(differences)}"
        yield Finding("resume-mismatch", message, "resume with the run's own config", where=where)
    step = state.get("global_step") if isinstance(state, dict) else None
    total = plan.schedule.steps
    if isinstance(step, int) and total is not None and step >= total:
        message = f"{checkpoint} is at step {step}, and the run ends at step {total}: nothing is left to train"
        yield Finding("resume-finished", message, "raise num_train_epochs or max_steps", where=where)


def _resume_differences(adapter: dict[str, Any], plan: TuningPlan) -> list[str]:
    differences = []
    kind = str(adapter.get("peft_type", "")).lower()
    method = "dora" if kind == "lora" and adapter.get("use_dora") else kind
    expected = plan.method if plan.method != "modules_to_save" else plan.train_type
    if method != expected:
        differences.append(f"method {method}, here {plan.method}")
    saved = sorted(adapter.get("modules_to_save") or [])
    if saved != sorted(plan.saved):
        differences.append(f"modules_to_save {names(saved) or 'none'}, here {names(plan.saved) or 'none'}")
    targets = adapter.get("target_modules")
    if isinstance(targets, str) and targets != plan.target_regex:
        differences.append("other target layers")
    base = adapter.get("base_model_name_or_path")
    if isinstance(base, str) and base != plan.model and Path(base).name != Path(plan.model).name:
        differences.append(f"base {base}, here {plan.model}")
    return differences


def augmentation(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    augmentation = config.custom.augmentation
    if augmentation is not None and augmentation.enabled and augmentation.ops:
        message = f"{len(augmentation.ops)} augmentation operations are configured, and this release applies none"
        where = config.where("custom", "augmentation")
        fix = {"custom": {"augmentation": {"enabled": False}}}
        yield Finding("augmentation-unavailable", message, "to train without it:", fix, where)


def versions(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    installed = {name: importlib.metadata.version(name) for name in TESTED_VERSIONS}
    other = [
        f"{name} {installed[name]} (tested: {tested})"
        for name, tested in TESTED_VERSIONS.items()
        if _differs(installed[name], tested)
    ]
    if other:
        yield Finding(
            "versions-untested", ", ".join(other), "the worker still compares plan and model before it trains"
        )


def _differs(installed: str, tested: str) -> bool:
    return installed.partition("+")[0] != tested
