"""Phases, and the order of rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from swiftalign.config.sections import Config
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import Problem


def phases(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Whether a phase leaves weights that the next one can begin with."""
    if config.phase is None:
        return
    if plan.ranks_may_shrink:
        message = "AdaLoRA prunes ranks until the end of its run: the next phase would begin with pruned ranks"
        fix: dict[str, Any] = {"tuner": {"train_type": "lora", "target_regex": plan.adapted_pattern}}
        place = config.where("tuner", "train_type")
        yield Problem("phases-uncarried", message, "train a single run, or train the phases with LoRA:", fix, place)
    if config.training.save_strategy == "no" and not config.training.save_last_epoch:
        message = f"{config.phase}: nothing is saved (save_strategy: no) for the next phase to begin with"
        fix = {"training": {"save_strategy": "epoch"}}
        place = config.where("training", "save_strategy")
        yield Problem("phases-uncarried", message, "for example:", fix, place)


def curriculum(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    if config.data.dataset_shuffle == config.training.train_dataloader_shuffle:
        return
    on, off = ("data", "dataset_shuffle"), ("training", "train_dataloader_shuffle")
    if config.training.train_dataloader_shuffle:
        on, off = off, on
    message = f"{'.'.join(off)} is false, but {'.'.join(on)} is true: the rows are not read in the order of the file"
    fix = {on[0]: {on[1]: False}}
    yield Problem(
        "curriculum-shuffle",
        message,
        "switch both off to read the rows in the order of the file:",
        fix,
        config.where(*off),
    )
