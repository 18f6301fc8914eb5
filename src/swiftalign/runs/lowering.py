"""The plan as arguments of ``swift sft``. Nothing is decided here: what the plan says is spelled out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swiftalign.config.sections import COMPONENTS, Config, best_metric_given
from swiftalign.data.metrics import LOWER_IS_BETTER
from swiftalign.model.template import swift_model_type
from swiftalign.plan.optimizer import learning_rates, optimizer_name
from swiftalign.plan.plan import TuningPlan
from swiftalign.speed.choices import Choices

CALLBACK = "swiftalign"  # the worker's own trainer callback, registered under this name
GROUNDING_CALLBACK = "swiftalign_grounding"
STOPPING_CALLBACK = "swiftalign_early_stopping"

_TRAINING_SETTINGS = (
    "weight_decay",
    "warmup_ratio",
    "num_train_epochs",
    "max_steps",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "load_best_model_at_end",
    "eval_strategy",
    "eval_steps",
    "train_dataloader_shuffle",
    "dataloader_num_workers",
    "deepspeed",
    "resume_from_checkpoint",
)


def lower(config: Config, plan: TuningPlan, run_folder: Path, choices: Choices) -> dict[str, Any]:
    """ms-swift's arguments by name, in the order in which they are shown.

    Args:
        run_folder: where checkpoints go.
        choices: what the run does to be fast; `swiftalign.training.fast` does what ms-swift has no argument for.
    """
    arguments: dict[str, Any] = {
        **_model(config, plan),
        **_tuner(config, plan),
        **_training(config, plan, choices),
        **_data(config),
        "output_dir": str(run_folder),
        "add_version": False,  # the run folder is the one that was named
        **config.handed_through,
    }
    metric = best_metric_given(config)
    if metric:
        arguments["metric_for_best_model"] = metric
    if metric and metric.removeprefix("eval_") in LOWER_IS_BETTER:  # transformers would take more for better
        arguments.setdefault("greater_is_better", False)
    own = [GROUNDING_CALLBACK] if config.custom.grounding_eval else []
    if config.training.early_stopping:
        own.append(STOPPING_CALLBACK)  # after the accuracies that it may watch
        arguments["restore_callback_states_from_checkpoint"] = True
    arguments["callbacks"] = [*_as_list(arguments.get("callbacks")), *own, CALLBACK]
    return {name: value for name, value in arguments.items() if value is not None and value != []}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _model(config: Config, plan: TuningPlan) -> dict[str, Any]:
    model = config.model
    return {
        "model": model.path,
        "model_type": swift_model_type(config, plan.model_type),
        "model_revision": model.revision,
        "use_hf": config.hub == "huggingface",
        "torch_dtype": plan.dtype,
        "attn_impl": model.attention,
        # ms-swift turns fp16 on for a float32 model, unless told.
        "bf16": plan.dtype == "bfloat16",
        "fp16": plan.dtype == "float16",
        "check_model": False,  # asks a hub whether the model is its latest
    }


def _tuner(config: Config, plan: TuningPlan) -> dict[str, Any]:
    tuner = config.tuner
    if tuner.train_type == "full":
        flags = {f"freeze_{part}": getattr(tuner, f"freeze_{part}") for part in COMPONENTS}
        return {"tuner_type": "full", **flags}
    return {
        "tuner_type": tuner.train_type,
        "target_regex": plan.target_regex,
        "modules_to_save": list(plan.saved),
        **tuner.settings.model_dump(),
    }


def _training(config: Config, plan: TuningPlan, choices: Choices) -> dict[str, Any]:
    rates = learning_rates(config)
    own_rates = {"vit_lr": rates["vit"], "aligner_lr": rates["aligner"]}
    return {
        "optimizer": optimizer_name(config),
        "learning_rate": rates["llm"],
        **(own_rates if optimizer_name(config) == "multimodal" else {}),
        "per_device_train_batch_size": plan.schedule.batch,
        "gradient_accumulation_steps": plan.schedule.accumulation,
        "gradient_checkpointing": choices.gradient_checkpointing,
        "vit_gradient_checkpointing": choices.vit_checkpointing,
        "use_liger_kernel": choices.kernels == "liger",
        "logging_nan_inf_filter": False,  # it waits for the GPU in each step, and leaves NaN out of the logged loss
        **{name: getattr(config.training, name) for name in _TRAINING_SETTINGS},
        "max_steps": config.training.max_steps if config.training.max_steps > 0 else -1,  # 0 would train one step
    }


def _data(config: Config) -> dict[str, Any]:
    data = config.data
    return {
        "dataset": list(data.train),
        "val_dataset": list(data.val),
        "split_dataset_ratio": data.split_dataset_ratio if not data.val else 0.0,
        "dataset_shuffle": data.dataset_shuffle,
        "strict": True,  # a bad row is an error, not silently another row
        "lazy_tokenize": True,  # rows are read, and images opened, when their turn comes
    }


def to_argv(arguments: dict[str, Any]) -> list[str]:
    """Arguments as ``swift sft`` takes them on a command line."""
    argv: list[str] = []
    for name, value in arguments.items():
        argv.append(f"--{name}")
        argv.extend(_word(item) for item in value) if isinstance(value, list) else argv.append(_word(value))
    return argv


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value) if isinstance(value, dict) else str(value)
