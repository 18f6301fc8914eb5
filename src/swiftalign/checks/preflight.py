"""Pre-flight: what a plan and its configuration would do wrong, silently or with a crash."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from swiftalign.checks import (
    base_model,
    best_model,
    data,
    methods,
    phases,
    rates,
    resume,
    selection,
    sharding,
    spellings,
    trained,
    training,
    versions,
)
from swiftalign.config.sections import Config
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import Problem

Check = Callable[[Config, Model, TuningPlan], Iterable[Problem]]

CHECKS: tuple[Check, ...] = (
    base_model.names_of_swift,
    base_model.type_and_template,
    base_model.remote_code,
    base_model.prefixes,
    base_model.loadable,
    selection.saved,
    selection.targets,
    selection.reloading,
    methods.variant,
    trained.something_trains,
    trained.whole_aligner,
    trained.vit_by_suffix,
    trained.head_and_embeddings,
    methods.method,
    rates.every_parameter_has_a_group,
    rates.optimizer,
    rates.rates,
    rates.precision,
    training.rows_per_step,
    training.packing,
    training.rows_kept_apart,
    training.saving,
    training.resuming,
    training.scheduler,
    training.reporting,
    training.loading,
    best_model.best_model,
    best_model.grounding_eval,
    best_model.early_stopping,
    phases.phases,
    sharding.asked,
    resume.resume,
    phases.curriculum,
    data.coordinates_told,
    data.imgaug_operations,
    data.curriculum_order,
    trained.freeze_flags,
    trained.unused_settings,
    trained.weights_missing,
    trained.unbuilt,
    spellings.without_effect,
    spellings.unknown_arguments,
    versions.versions,
)


def preflight(config: Config, model: Model, plan: TuningPlan) -> list[Problem]:
    """Look for problems of a configuration and its plan, before anything trains.

    The rows are not looked at: `train` checks each of them before it trains.

    Args:
        config: the configuration.
        model: its model, from `read_model`.
        plan: its plan, from `resolve`.

    Returns:
        Every problem that is found, in the order of the checks. None is raised: `train` refuses a
        configuration with a problem whose ``severity`` is ``error``.
    """
    return [problem for check in CHECKS for problem in check(config, model, plan)]
