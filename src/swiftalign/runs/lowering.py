"""The plan as arguments of ``swift sft``: what the plan says is spelled out, and nothing is decided here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swiftalign.config.sections import WORKERS_ONLY, Config, best_metric_given
from swiftalign.config.sharding import GATHER, deepspeed_settings, stage
from swiftalign.data.metrics import LOWER_IS_BETTER
from swiftalign.model.tree import COMPONENTS
from swiftalign.plan.plan import TuningPlan
from swiftalign.speed.choices import Choices

CALLBACK = "swiftalign"  # name under which the worker registers its own trainer callback
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
    "resume_from_checkpoint",
)


def lower(plan: TuningPlan, config: Config, run_folder: Path, choices: Choices) -> dict[str, Any]:
    """ms-swift's arguments by name, in the order in which they are shown.

    Args:
        run_folder: folder for the checkpoints.
        choices: how the run is made fast; `swiftalign.worker.apply_choices` applies what ms-swift has no argument for.
    """
    model, tuner, training, data = config.model, config.tuner, config.training, config.data
    if plan.train_type == "full":
        tuning = {"tuner_type": "full", **{f"freeze_{part}": tuner.frozen[part] for part in COMPONENTS}}
    else:
        tuning = {
            "tuner_type": plan.train_type,
            "target_regex": plan.adapted_pattern,
            "modules_to_save": list(plan.saved),
            **tuner.settings.model_dump(),
        }
    own_rates = {"vit_lr": plan.rates["vit"], "aligner_lr": plan.rates["aligner"]}
    arguments: dict[str, Any] = {
        "model": model.path,
        "model_type": plan.swift.model_type,
        "template": plan.swift.template,
        "model_revision": model.revision,
        "use_hf": config.hub == "huggingface",
        "torch_dtype": plan.dtype,
        "attn_impl": model.attention,
        # ms-swift enables fp16 for a float32 model unless it is set.
        "bf16": plan.dtype == "bfloat16",
        "fp16": plan.dtype == "float16",
        "check_model": False,  # asks a hub whether the model is its latest
        **tuning,
        "optimizer": plan.optimizer,
        "learning_rate": plan.rates["llm"],
        **(own_rates if plan.optimizer == "multimodal" else {}),
        "per_device_train_batch_size": plan.schedule.batch,
        "gradient_accumulation_steps": plan.schedule.accumulation,
        "gradient_checkpointing": choices.gradient_checkpointing,
        "vit_gradient_checkpointing": choices.vit_checkpointing,
        "use_liger_kernel": choices.kernels == "liger",
        "logging_nan_inf_filter": False,  # the filter waits for the GPU in each step, and hides NaN in the log
        **{name: getattr(training, name) for name in _TRAINING_SETTINGS},
        "max_steps": training.max_steps if training.max_steps > 0 else -1,  # 0 would train one step
        "dataset": [source.path for source in data.train],
        "val_dataset": [source.path for source in data.val],
        "split_dataset_ratio": data.split_dataset_ratio if not data.val else 0.0,
        "dataset_shuffle": data.dataset_shuffle,
        "strict": True,  # a malformed row is an error, and is not replaced by another row
        "lazy_tokenize": True,  # rows are read and images opened only when they are needed
        "output_dir": str(run_folder),
        "add_version": False,  # the run folder is the one that was named
        **config.handed_through,
    }
    if metric := best_metric_given(config):
        arguments["metric_for_best_model"] = metric
        if metric.removeprefix("eval_") in LOWER_IS_BETTER:  # transformers would prefer the higher value
            arguments.setdefault("greater_is_better", False)
    if arguments.get("report_to") == []:
        arguments["report_to"] = ["none"]  # an empty list would be left out, and ms-swift's default taken
    if training.dataloader_num_workers == 0:  # transformers refuses what only workers can do
        for name in WORKERS_ONLY:
            arguments.pop(name, None)
    if stage(choices.sharding) is not None:
        arguments |= _deepspeed(plan, config, choices)
    own = [GROUNDING_CALLBACK] if config.custom.grounding_eval else []
    if training.early_stopping:
        own.append(STOPPING_CALLBACK)  # after the callback that measures the accuracies
        arguments["restore_callback_states_from_checkpoint"] = True
    arguments["callbacks"] = [*_as_list(arguments.get("callbacks")), *own, CALLBACK]
    return {name: value for name, value in arguments.items() if value is not None and value != []}


def _deepspeed(plan: TuningPlan, config: Config, choices: Choices) -> dict[str, Any]:
    """The arguments that start DeepSpeed, so that what trains keeps the dtype that is planned."""
    settings = deepspeed_settings(config.training.deepspeed or choices.sharding)
    settings.setdefault("zero_force_ds_cpu_optimizer", False)  # with offload, torch's AdamW needs no C++ compiler
    if stage(choices.sharding) == 3:
        settings["zero_optimization"][GATHER] = True  # checkpoints would hold empty tensors
    if plan.dtype == "float32" or all(item.dtype != "float32" for item in plan.trainables):
        return {"deepspeed": settings}
    # DeepSpeed's own 16-bit modes cast the whole model. Here it runs under autocast, and sums gradients in float32.
    settings |= {"bf16": {"enabled": False}, "fp16": {"enabled": False}}
    settings["torch_autocast"] = {"enabled": True, "dtype": plan.dtype, "lower_precision_safe_modules": []}
    return {"deepspeed": settings, "bf16": False, "fp16": False}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def to_argv(arguments: dict[str, Any]) -> list[str]:
    """Arguments as ``swift sft`` takes them on a command line."""
    argv: list[str] = []
    for name, value in arguments.items():
        argv.append(f"--{name}")
        for item in _as_list(value):
            if isinstance(item, float) and item.is_integer():
                item = int(item)
            argv.append(json.dumps(item) if isinstance(item, bool | dict) else str(item))
    return argv
