"""Settings of the section ``training`` against each other, and against what is installed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib.util import find_spec

from swiftalign.config.sections import WORKERS_ONLY, Config
from swiftalign.config.sharding import stage
from swiftalign.model.headers import text_config
from swiftalign.model.qwen3_5 import kinds_that_mix_rows
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import Problem, counted, names
from swiftalign.speed.choose import asks_for_padding_free

# The names that report_to may give -> the package that has to be installed; None for a service without one.
REPORTERS: dict[str, str | None] = {
    **{name: name for name in ("clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "mlflow", "neptune")},
    **{name: name for name in ("swanlab", "tensorboard", "trackio", "wandb")},
    "azure_ml": "azureml",
    "flyte": "flytekit",
    "kubeflow": None,
}
# Schedules of transformers that take the rate at the end of the run.
ENDS_AT_A_RATE = ("cosine_with_min_lr", "cosine_warmup_with_min_lr")


def rows_per_step(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Whether a step has as many rows as ``effective_batch_size`` says."""
    training, schedule = config.training, plan.schedule
    wanted, accumulation = training.effective_batch_size, training.gradient_accumulation_steps
    if wanted is None:
        return
    processes = "1 process" if schedule.processes == 1 else f"{schedule.processes} processes"
    rows = f"{schedule.batch} per batch x {schedule.accumulation} x {processes}"
    has = f"{counted(schedule.global_batch, 'row')} ({rows})"
    batch = 1 if training.per_device_train_batch_size == "auto" else schedule.batch
    needed = math.ceil(wanted / (batch * schedule.processes))
    if accumulation not in (None, needed):
        message = (
            f"effective_batch_size: {wanted}, but with gradient_accumulation_steps: {accumulation} a step has {has}"
        )
        hint = "remove gradient_accumulation_steps, which then follows from effective_batch_size, or correct it:"
        fix = {"training": {"gradient_accumulation_steps": needed}}
        where = config.where("training", "gradient_accumulation_steps")
        yield Problem("rows-per-step-contradicted", message, hint, fix, where)
    elif schedule.global_batch != wanted:
        message = f"effective_batch_size: {wanted} can't be divided into equal batches: a step has {has}"
        hint = f"set effective_batch_size: {schedule.global_batch}, or another per_device_train_batch_size"
        where = config.where("training", "effective_batch_size")
        yield Problem("rows-per-step-rounded", message, hint, where=where)


def packing(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """What packing means for rows that are read only when they are needed."""
    key = config.packs
    if key is None:
        return
    step = counted(plan.schedule.global_batch, "row")
    if asks_for_padding_free(config, plan.model_type):
        message = f"packing: the rows of a batch are concatenated, as padding_free does; a step has {step}, not packs"
    elif config.training.padding_free is False:
        message = f"packing: no effect, since padding_free is false; a step has {step}"
    elif (config.data.sequence_parallel_size or 1) > 1:
        message = f"packing: no effect with sequence_parallel_size; a step has {step}"
    else:
        message = f"packing: no effect for a {plan.model_type}; a step has {step}"
    yield Problem("packing", message, where=config.where(*key))


def rows_kept_apart(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Whether every kind of layer in the LLM is known to keep concatenated rows apart.

    Where the config leaves the layers to its class, the training process finds it out before the first step.
    """
    text = text_config(model.config)
    kinds = kinds_that_mix_rows(text.get("model_type"), text.get("layer_types"))
    if kinds and asks_for_padding_free(config, plan.model_type):
        asked = None if config.training.padding_free else config.packs
        section, key = asked or ("training", "padding_free")
        message = f"{key}: this LLM has layers of the kind {names(kinds)}, which would mix the rows of a batch"
        fix = {section: {key: False}}
        yield Problem("padding-free-mixes-rows", message, "leave the rows padded:", fix, config.where(section, key))


def saving(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Whether the run is long enough to be saved, and whether ``save_steps`` is read."""
    training, schedule = config.training, plan.schedule
    ends = {"save_delay_steps": schedule.steps, "save_delay_epochs": schedule.epochs}
    for name, end in ends.items() if training.save_strategy != "no" and not training.save_last_epoch else ():
        if end is not None and end < (delay := getattr(training, name)):
            unit, where = name.removeprefix("save_delay_"), config.where("training", name)
            message = f"{name}: {delay:g}, but the run ends after {end:g} {unit}: nothing would be saved"
            fix = {"training": {"save_last_epoch": True}}
            yield Problem("save-delay", message, "lower it, or save the end of the run:", fix, where)
    evaluates_by_it = (training.eval_strategy or training.save_strategy) == "steps" and not training.eval_steps
    if training.given("save_steps") and training.save_strategy != "steps" and not evaluates_by_it:
        message = f"save_steps: no effect, since save_strategy is {training.save_strategy}"
        yield Problem("setting-unused", message, where=config.where("training", "save_steps"))


def resuming(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Whether a run that is stopped can be resumed."""
    if config.handed_through.get("save_only_model"):
        section = "swift" if "save_only_model" in config.swift else "training"
        message = "save_only_model: the run can't be resumed, not even after Ctrl-C: checkpoints hold weights only"
        yield Problem("run-not-resumable", message, where=config.where(section, "save_only_model"))


def scheduler(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Whether a schedule that ends above zero says where."""
    given = config.handed_through
    name, settings = given.get("lr_scheduler_type"), given.get("lr_scheduler_kwargs") or {}
    if name in ENDS_AT_A_RATE and not any(rate in settings for rate in ("min_lr", "min_lr_rate")):  # or in its JSON
        section = "swift" if "lr_scheduler_type" in config.swift else "training"
        message = f"lr_scheduler_type: {name} needs min_lr, the rate at the end, or min_lr_rate, its share of the first"
        fix, where = {section: {"lr_scheduler_kwargs": {"min_lr": 1e-6}}}, config.where(section, "lr_scheduler_type")
        yield Problem("scheduler-incomplete", message, "give one of them:", fix, where)


def reporting(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Whether transformers knows the services that report_to names."""
    for name in set(_reported_to(config)) - {*REPORTERS, "none", "all"}:
        section = "swift" if "report_to" in config.swift else "training"
        message = f"report_to: transformers can't report to {name!r}"
        hint = f"use {names(REPORTERS, len(REPORTERS))}, or none"
        yield Problem("report-to", message, hint, where=config.where(section, "report_to"))


def packages(config: Config) -> Iterable[Problem]:
    """Whether this machine has the packages that the run needs beyond those of this toolkit.

    It is not part of the pre-flight, which also looks at configurations for other machines.

    Raises:
        SwiftalignError: OpenCV is here, and can't be loaded; the training process could only fail.
    """
    import swiftalign.augment  # noqa: F401

    section = "swift" if "report_to" in config.swift else "training"
    needed: list[tuple[str | None, str, str, str, str | None]] = [
        (REPORTERS.get(name), section, "report_to", name, "none") for name in _reported_to(config)
    ]
    if setting := config.training.deepspeed:
        named = setting if isinstance(setting, str) else "its configuration"
        needed.append(("deepspeed", "training", "deepspeed", named, None))
    elif stage(sharding := config.training.sharding) is not None:
        needed.append(("deepspeed", "training", "sharding", sharding, "auto"))
    for package, section, key, value, without in needed:
        if package and find_spec(package) is None:
            message = f"{section}.{key}: {value} needs the package {package}, which is not installed"
            hint, where = f"pip install {package}; or do without:", config.where(section, key)
            yield Problem("package-missing", message, hint, {section: {key: without}}, where)


def _reported_to(config: Config) -> list[str]:
    given = config.handed_through.get("report_to")
    return given if isinstance(given, list) else [given or "tensorboard"]  # ms-swift's default


def loading(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Settings of data loader workers in a run without workers."""
    unused = [name for name in WORKERS_ONLY if config.handed_through.get(name)]
    if unused and config.training.dataloader_num_workers == 0:
        message = f"{names(unused)}: no effect, since dataloader_num_workers is 0"
        place = "swift" if unused[0] in config.swift else "training"
        yield Problem("setting-unused", message, where=config.where(place, unused[0]))
