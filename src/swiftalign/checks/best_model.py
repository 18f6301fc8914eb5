"""The best model, early stopping and accuracies: whether what they need is evaluated, measured and saved."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from swiftalign.config.sections import Config, best_metric
from swiftalign.data.metrics import LOWER_IS_BETTER, METRICS
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.schedule import evaluates
from swiftalign.problems import Problem, counted, ordinal


def best_model(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """The best model needs validation data, and evaluation and saving at the same steps.

    References:
        transformers `TrainingArguments._validate_args`; ms-swift `SftArguments._init_eval_strategy`.
    """
    training = config.training
    if not training.keeps_best:
        return
    asker = "load_best_model_at_end" if training.load_best_model_at_end else "save_strategy: best"
    where = config.where("training", asker.partition(":")[0])
    if config.data.train and plan.schedule.val_rows == 0:
        message = f"{asker} needs validation data to choose the best model"
        fix = {"data": _validation(config)}
        yield Problem("best-model-without-validation", message, "validate on separate rows:", fix, where)
    saving, evaluation = training.save_strategy, training.eval_strategy or training.save_strategy
    save_steps, eval_steps = training.save_steps, training.eval_steps or training.save_steps
    # Whether saving falls on evaluations, as transformers decides it; below 1, steps are a share of the run.
    unit = 1_000_000 if save_steps < 1 and eval_steps < 1 else 1
    together = saving == "epoch" or (save_steps * unit) % (eval_steps * unit) == 0
    values: dict[str, Any] = {"eval_strategy": "epoch" if saving == "best" else saving}
    if not together and saving == "steps":
        values["eval_steps"] = int(save_steps) if save_steps == int(save_steps) else save_steps
    if saving == "no":
        fault, values = "nothing is saved (save_strategy: no)", {"save_strategy": "epoch", "eval_strategy": "epoch"}
    elif evaluation == "best":  # ms-swift hands save_strategy on, and transformers does not know it as eval_strategy
        fault = "eval_strategy is not given"
    elif evaluation == "no":
        fault = "nothing is evaluated (eval_strategy: no)"
    elif saving == "best" or (saving == evaluation and together):
        return
    else:
        apart = f"saving {_rhythm(saving, save_steps)} and evaluation {_rhythm(evaluation, eval_steps)}"
        fault = f"{apart} never happen at the same step"
    fix = {"training": values}
    yield Problem("best-model-strategies", f"{asker}: {fault}", "evaluate and save together:", fix, where)


_EVALUATION: dict[str, Any] = {"training": {"eval_strategy": "epoch"}}


def grounding_eval(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Accuracies by kind must be measured when the best model is chosen by one, and compared in the right direction."""
    settings, metric, where = config.custom.grounding_eval, best_metric(config), metric_place(config)
    if settings and config.data.train and not (evaluates(config) and plan.schedule.val_rows != 0):
        message, fix = "grounding_eval answers rows at each evaluation, but nothing is evaluated", _EVALUATION
        if evaluates(config):
            message, fix = "grounding_eval answers validation rows, but there are none", {"data": _validation(config)}
        place = config.where("custom", "grounding_eval")
        yield Problem("grounding-eval-without-validation", message, "for example:", fix, place)
    if metric not in METRICS:
        return
    if settings is None:
        message = f"metric_for_best_model: {metric} is not measured without custom.grounding_eval"
        fix = {"custom": {"grounding_eval": {"rows": 64}}}
        yield Problem("best-model-metric-unscored", message, "let the model answer validation rows:", fix, where)
    elif settings.every > 1:
        rhythm = f"every {ordinal(settings.every)} evaluation only"
        message = f"{metric} is measured at {rhythm}, but the best model is chosen at every one"
        fix = {"custom": {"grounding_eval": {"every": 1}}}
        place = config.where("custom", "grounding_eval", "every")
        yield Problem("best-model-metric-unscored", message, "measure it at every evaluation:", fix, place)
    lower = metric in LOWER_IS_BETTER
    if config.training.greater_is_better == lower:
        message = f"greater_is_better: {str(lower).lower()}, but a {'lower' if lower else 'higher'} {metric} is better"
        fix = {"training": {"greater_is_better": not lower}}
        yield Problem("best-model-direction", message, "remove greater_is_better, or correct it:", fix, where)


def early_stopping(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    settings = config.training.early_stopping
    if settings is None:
        return
    named, where = config.training.metric_for_best_model, config.where("training", "early_stopping")
    if settings.metric and named and settings.metric.removeprefix("eval_") != named.removeprefix("eval_"):
        message = f"early_stopping watches {settings.metric}, but the best model is chosen by {named}"
        fix: dict[str, Any] = {"training": {"early_stopping": {"metric": named}}}
        yield Problem("early-stopping", message, "watch the same metric:", fix, where)
    if config.data.train and not evaluates(config):
        message = "early_stopping watches evaluations, but nothing is evaluated"
        yield Problem("early-stopping", message, "for example:", _EVALUATION, where)
    elif config.data.train and plan.schedule.val_rows == 0:
        message = "early_stopping needs validation data to watch"
        yield Problem("early-stopping", message, "validate on separate rows:", {"data": _validation(config)}, where)


def metric_place(config: Config) -> str:
    stopping = config.training.early_stopping
    if stopping and stopping.metric:
        return config.where("training", "early_stopping", "metric")
    section = "swift" if "metric_for_best_model" in config.swift else "training"
    return config.where(section, "metric_for_best_model")


def _validation(config: Config) -> dict[str, Any]:
    """The val.jsonl beside the training data, where there is one."""
    neighbours = (Path(source.path).with_name("val.jsonl") for source in config.data.train)
    found = next((path for path in neighbours if path.is_file()), None)
    return {"val": [str(found)]} if found else {"split_dataset_ratio": 0.1}


def _rhythm(strategy: str, steps: float) -> str:
    if strategy == "epoch":
        return "after each epoch"
    return f"every {steps:g} steps" if steps >= 1 else f"every {steps:.4g} of the run"


def metric_without_value(config: Config, measured: Collection[float]) -> Iterable[Problem]:
    """Whether the metric that chooses the best model was 0 in every evaluation of a run, so that it chose nothing."""
    training, metric = config.training, best_metric(config)
    if (training.keeps_best or training.early_stopping) and measured and not any(measured):
        often = counted(len(measured), "evaluation")
        message = f"{metric} was 0.000 in {often}: it does not tell which checkpoint is the best"
        hint = "choose by another metric, e.g. metric_for_best_model: eval_loss, or train for longer"
        where = config.where_given("training", "metric_for_best_model", "early_stopping")
        yield Problem("best-metric-zero", message, hint, where=where)
