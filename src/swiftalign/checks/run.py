"""The run around the plan: validation, resuming, distributed training, versions."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftalign.checkpoint import read_json
from swiftalign.config import Config, TrainingSection, TunerSection, best_metric_given
from swiftalign.errors import ModelError
from swiftalign.findings import Finding, counted
from swiftalign.grounding.metrics import LOWER_IS_BETTER, METRICS
from swiftalign.methods import ADAPTABLE
from swiftalign.modules import Modules
from swiftalign.peft_config import AdapterConfig, checked_adapter_config
from swiftalign.schedule import evaluates
from swiftalign.targets import names

if TYPE_CHECKING:
    from swiftalign.plan import TuningPlan

# The releases that the suite runs against; constraints.txt pins the same.
TESTED_VERSIONS = {"ms-swift": "4.6.0", "transformers": "5.19.0", "peft": "0.20.0", "torch": "2.14.1"}


# -- the best model ----------------------------------------------------------------------------------------------------


def best_model(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    training = config.training
    if not training.load_best_model_at_end and training.save_strategy != "best":
        return
    key = "load_best_model_at_end" if training.load_best_model_at_end else "save_strategy"
    asker = "load_best_model_at_end" if training.load_best_model_at_end else "save_strategy: best"
    where = config.where("training", key)
    if config.data.train and not plan.schedule.val_rows:
        message = f"{asker} needs validation data to tell the best model by"
        fix = {"data": _validation(config)}
        yield Finding("best-model-without-validation", message, "validate on rows of their own:", fix, where)
    fault = _strategies_fault(training)
    if fault:
        message, values = fault
        yield Finding("best-model-strategies", f"{asker}: {message}", "for example:", {"training": values}, where)


_EVALUATION: dict[str, Any] = {"training": {"eval_strategy": "epoch"}}


def grounding_eval(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    """Accuracies by kind: whether they are measured when they are needed, and read the right way round."""
    settings, metric, where = config.custom.grounding_eval, best_metric(config), metric_place(config)
    if settings and config.data.train and not (evaluates(config) and plan.schedule.val_rows):
        message, fix = "grounding_eval answers rows at each evaluation, and nothing is evaluated", _EVALUATION
        if evaluates(config):
            message, fix = "grounding_eval answers validation rows, and there are none", {"data": _validation(config)}
        place = config.where("custom", "grounding_eval")
        yield Finding("grounding-eval-without-validation", message, "for example:", fix, place)
    if metric not in METRICS:
        return
    if settings is None:
        message = f"metric_for_best_model: {metric} is not measured without custom.grounding_eval"
        fix = {"custom": {"grounding_eval": {"rows": 64}}}
        yield Finding("best-model-metric-unscored", message, "answer validation rows:", fix, where)
    elif settings.every > 1:
        message = f"{metric} is measured at each {settings.every}. evaluation only, and the best model is told at each"
        fix = {"custom": {"grounding_eval": {"every": 1}}}
        place = config.where("custom", "grounding_eval", "every")
        yield Finding("best-model-metric-unscored", message, "answer rows at each:", fix, place)
    less, told = metric in LOWER_IS_BETTER, config.handed_through.get("greater_is_better")
    if told is not None and bool(told) == less:
        message = (
            f"greater_is_better: {str(bool(told)).lower()}, but of {metric} {'less' if less else 'more'} is better"
        )
        fix = {"training": {"greater_is_better": not less}}
        yield Finding("best-model-direction", message, "leave it out, or:", fix, where)


def early_stopping(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    settings = config.training.early_stopping
    if settings is None:
        return
    named, where = config.handed_through.get("metric_for_best_model"), config.where("training", "early_stopping")
    if settings.metric and named and settings.metric.removeprefix("eval_") != named.removeprefix("eval_"):
        message = f"early_stopping watches {settings.metric}, and the best model is told by {named}"
        fix: dict[str, Any] = {"training": {"early_stopping": {"metric": named}}}
        yield Finding("early-stopping", message, "watch the same:", fix, where)
    if config.data.train and not evaluates(config):
        message = "early_stopping watches evaluations, and nothing is evaluated"
        yield Finding("early-stopping", message, "for example:", _EVALUATION, where)
    elif config.data.train and not plan.schedule.val_rows:
        message = "early_stopping needs validation data to watch"
        yield Finding("early-stopping", message, "validate on rows of their own:", {"data": _validation(config)}, where)


def best_metric(config: Config) -> str:
    """What the best model is told by, without transformers' prefix."""
    return (best_metric_given(config) or "loss").removeprefix("eval_")


def metric_place(config: Config) -> str:
    stopping = config.training.early_stopping
    if stopping and stopping.metric:
        return config.where("training", "early_stopping", "metric")
    section = "swift" if "metric_for_best_model" in config.swift else "training"
    return config.where(section, "metric_for_best_model")


def _validation(config: Config) -> dict[str, Any]:
    """The val.jsonl beside the training data, where there is one."""
    neighbours = (Path(name).with_name("val.jsonl") for name in config.data.train)
    found = next((path for path in neighbours if path.is_file()), None)
    return {"val": [str(found)]} if found else {"split_dataset_ratio": 0.1}


def _strategies_fault(training: TrainingSection) -> tuple[str, dict[str, Any]] | None:
    """Why evaluation and saving give no best model, and settings that do.

    References:
        transformers `TrainingArguments._validate_args`; ms-swift `SftArguments._init_eval_strategy`.
    """
    saving, evaluation = training.save_strategy, training.eval_strategy or training.save_strategy
    save_steps, eval_steps = training.save_steps, training.eval_steps or training.save_steps
    together = saving == "epoch" or _is_multiple(save_steps, eval_steps)
    if saving == "no":
        return "nothing is saved (save_strategy: no)", {"save_strategy": "epoch", "eval_strategy": "epoch"}
    if evaluation == "best":  # ms-swift hands save_strategy on, and transformers does not know it as eval_strategy
        return "eval_strategy is not given", {"eval_strategy": "epoch"}
    if evaluation == "no":
        message = "nothing is evaluated (eval_strategy: no)"
    elif saving == "best" or (saving == evaluation and together):
        return None
    else:
        apart = f"saving {_rhythm(saving, save_steps)} and evaluation {_rhythm(evaluation, eval_steps)}"
        message = f"{apart} do not fall together"
    fix: dict[str, Any] = {"eval_strategy": "epoch" if saving == "best" else saving}
    if not together and saving == "steps":
        fix["eval_steps"] = int(save_steps) if save_steps == int(save_steps) else save_steps
    return message, fix


def _is_multiple(save_steps: float, eval_steps: float) -> bool:
    """As transformers tells it: below 1, steps are a share of the run."""
    if save_steps < 1 and eval_steps < 1:
        return (save_steps * 1_000_000) % (eval_steps * 1_000_000) == 0
    return save_steps % eval_steps == 0


def _rhythm(strategy: str, steps: float) -> str:
    if strategy == "epoch":
        return "after each epoch"
    return f"every {steps:g} steps" if steps >= 1 else f"every {steps:.4g} of the run"


# -- phases ------------------------------------------------------------------------------------------------------------


def phases(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    """Whether a phase leaves weights that the next one can begin with."""
    if config.phase is None:
        return
    if plan.ranks_may_shrink:
        message = "AdaLoRA prunes once, to the end of its run: another phase would begin with pruned ranks"
        fix: dict[str, Any] = {"tuner": {"train_type": "lora", "target_regex": plan.target_regex}}
        place = config.where("tuner", "train_type")
        yield Finding("phases-uncarried", message, "train one run, or phases with LoRA:", fix, place)
    if config.training.save_strategy == "no":
        message = f"{config.phase}: nothing is saved (save_strategy: no) for the next phase to begin with"
        fix = {"training": {"save_strategy": "epoch"}}
        place = config.where("training", "save_strategy")
        yield Finding("phases-uncarried", message, "for example:", fix, place)


# -- order and distribution --------------------------------------------------------------------------------------------


def curriculum(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    flags = {
        ("data", "dataset_shuffle"): config.data.dataset_shuffle,
        ("training", "train_dataloader_shuffle"): config.training.train_dataloader_shuffle,
    }
    if len(set(flags.values())) == 1:
        return
    (on,) = (key for key, value in flags.items() if value)
    (off,) = (key for key, value in flags.items() if not value)
    message = f"{'.'.join(off)} is false, but {'.'.join(on)} is true: the rows do not come in the order of the file"
    fix = {on[0]: {on[1]: False}}
    yield Finding("curriculum-shuffle", message, "for the file's order switch both off:", fix, config.where(*off))


_GATHER = "stage3_gather_16bit_weights_on_model_save"
# ms-swift's presets; its ZeRO-3 gathers.
_PRESETS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("zero0", "zero1", "zero2", "zero2_offload")},
    **{name: {"stage": 3, _GATHER: True} for name in ("zero3", "zero3_offload")},
}


def deepspeed(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    setting, where = config.training.deepspeed, config.where("training", "deepspeed")
    if not setting:
        return
    try:
        values = zero_section(setting)
    except (ModelError, ValueError):
        message = f"training.deepspeed: {setting!r} is neither a preset of ms-swift nor a readable JSON file"
        yield Finding("deepspeed-unreadable", message, f"the presets are {', '.join(_PRESETS)}", where=where)
        return
    if values.get("stage") != 3:
        return
    if not values.get(_GATHER):
        fix = {"training": {"deepspeed": {"zero_optimization": {_GATHER: True}}}} if isinstance(setting, dict) else None
        hint = "gather them:" if fix else f"set it to true in {setting}"
        yield Finding("zero3-without-gather", f"ZeRO-3 without {_GATHER} saves empty tensors", hint, fix, where)
    if any(module.name.endswith(".experts") for module in modules):
        message = "a mixture-of-experts model can hang under ZeRO-3, when processes route to different experts"
        hint = "the aligner's optimizer state is small:"
        yield Finding("zero3-moe", message, hint, {"training": {"deepspeed": "zero2"}}, where)


def zero_section(setting: str | dict[str, Any]) -> dict[str, Any]:
    """The zero_optimization section of a preset, a JSON text, a JSON file or a mapping.

    Raises:
        ModelError: there is no such file, or it is no JSON.
        ValueError: the text is no JSON, or the value is no mapping.
    """
    if isinstance(setting, str):
        if setting in _PRESETS:
            return _PRESETS[setting]
        setting = json.loads(setting) if setting.startswith("{") else read_json(Path(setting))
    if not isinstance(setting, dict) or not isinstance(setting.get("zero_optimization", {}), dict):
        raise ValueError("not a mapping")
    return dict(setting.get("zero_optimization", {}))


# -- resuming ----------------------------------------------------------------------------------------------------------


def resume(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    checkpoint = config.training.resume_from_checkpoint
    if checkpoint is None:
        return
    where = config.where("training", "resume_from_checkpoint")
    try:
        adapter = None if plan.train_type == "full" else _read_adapter(checkpoint)
        state = _read_mapping(checkpoint, "trainer_state.json")
    except ModelError as error:
        yield Finding("resume-mismatch", error.message, "name a checkpoint-N folder of a run", where=where)
        return
    differences = _differences(adapter, config, modules, plan) if adapter else []
    if differences:
        message = f"{checkpoint} differs from this config: {'; '.join(differences)}"
        yield Finding("resume-mismatch", message, "resume with the run's own config", where=where)
    step, total = state.get("global_step"), plan.schedule.steps
    if isinstance(step, int) and total is not None and step >= total:
        message = f"{checkpoint} is at step {step}, and the run ends at step {total}: nothing is left to train"
        yield Finding("resume-finished", message, "raise num_train_epochs or max_steps", where=where)


def _read_adapter(checkpoint: str) -> AdapterConfig:
    name = "adapter_config.json"
    return checked_adapter_config(Path(checkpoint) / name, _read_mapping(checkpoint, name))


def _read_mapping(checkpoint: str, name: str) -> dict[str, Any]:
    path = Path(checkpoint) / name
    if not Path(checkpoint).is_dir():
        raise ModelError(f"{checkpoint}: no such folder")
    if not path.is_file():
        raise ModelError(f"{checkpoint} is no checkpoint of such a run: it has no {name}")
    values = read_json(path)
    if not isinstance(values, dict):
        raise ModelError(f"{path}: not a mapping")
    return values


def _differences(adapter: AdapterConfig, config: Config, modules: Modules, plan: TuningPlan) -> list[str]:
    method = "dora" if adapter.kind == "lora" and adapter.values.get("use_dora") else adapter.kind
    expected = plan.method if plan.method != "modules_to_save" else plan.train_type
    if method != expected:
        return [f"method {method}, here {plan.method}"]
    differences = []
    saved = [module.name for module in modules if module.name.endswith(tuple(adapter.saved))]
    if set(saved) != set(plan.saved):
        differences.append(f"modules_to_save {names(saved) or 'none'}, here {names(plan.saved) or 'none'}")
    layers = _targeted(adapter, saved, modules, plan)
    if set(layers) != set(plan.adapted):
        differences.append(f"adapters on {counted(len(layers), 'layer')}, here on {len(plan.adapted)} or on others")
    elif layers:
        differences += _setting_differences(adapter.values, config.tuner)
    if adapter.base and Path(adapter.base).name != Path(plan.model).name:
        differences.append(f"base {adapter.base}, here {plan.model}")
    return differences


def _targeted(adapter: AdapterConfig, saved: list[str], modules: Modules, plan: TuningPlan) -> list[str]:
    """The layers that a checkpoint's adapter is on."""
    matched = [m.name for m in modules if m.kind in ADAPTABLE[plan.train_type] and adapter.adapts(m.name)]
    return [name for name in matched if not any(f"{name}.".startswith(f"{outer}.") for outer in saved)]


# What a checkpoint brings along, by the names of peft and of the config: the config's value would not count.
_CHECKPOINT_SETTINGS = {
    "lora": {"r": "lora_rank", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "use_rslora": "use_rslora"},
    "boft": {name: name for name in ("boft_block_size", "boft_block_num", "boft_n_butterfly_factor", "boft_dropout")},
    "fourierft": {"n_frequency": "fourier_n_frequency", "scaling": "fourier_scaling"},
}


def _setting_differences(adapter: dict[str, Any], tuner: TunerSection) -> list[str]:
    return [
        f"{ours} {_spelled(adapter[theirs])}, here {_spelled(getattr(tuner, ours))}"
        for theirs, ours in _CHECKPOINT_SETTINGS.get(tuner.train_type, {}).items()
        if theirs in adapter and adapter[theirs] != getattr(tuner, ours)
    ]


def _spelled(value: object) -> str:
    """As YAML has it: true, and 32 for 32.0."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


# -- this release, and others ------------------------------------------------------------------------------------------


def versions(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    installed = {name: _installed(name) for name in TESTED_VERSIONS}
    other = [
        f"{name} {installed[name]} (tested: {tested})"
        for name, tested in TESTED_VERSIONS.items()
        if installed[name].partition("+")[0] != tested
    ]
    if other:
        hint = "the worker still compares plan and model before it trains"
        yield Finding("versions-untested", ", ".join(other), hint)


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
