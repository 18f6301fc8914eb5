"""The constraints of tuning methods; each method states its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from swiftalign.config.sections import NO_TARGETS, Config
from swiftalign.methods import settings_fields
from swiftalign.methods.base import Usage
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.selection import aligner_regex
from swiftalign.problems import Problem


def variant(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """The constraints of a variant that a setting asks for, as use_dora does, whatever the train_type."""
    asked = config.tuner.variant
    return () if asked is None else asked().problems(_usage(config, model, plan))


def method(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """The constraints of the train_type's method."""
    tuner = config.tuner
    return () if tuner.method is tuner.variant else tuner.settings.problems(_usage(config, model, plan))


def _usage(config: Config, model: Model, plan: TuningPlan) -> Usage:
    tuner, checkpoint = config.tuner, config.training.resume_from_checkpoint
    return Usage(
        train_type=tuner.train_type,
        given={name: getattr(tuner, name) for name in settings_fields() if tuner.given(name)},
        layers=tuple(model.by_name[name] for name in plan.adapted),
        targets_none=tuner.target_regex in NO_TARGETS,
        steps=plan.schedule.adalora_steps,
        resume_from=None if checkpoint is None else Path(checkpoint),
        aligner_regex=aligner_regex(model),
        where=config.where_given,
    )
