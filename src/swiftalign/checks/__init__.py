"""Pre-flight: what a plan and its configuration would do wrong, silently or with a crash."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from swiftalign.checks import data, methods, rates, run, trained
from swiftalign.config import Config
from swiftalign.findings import Finding
from swiftalign.modules import Modules

if TYPE_CHECKING:
    from swiftalign.plan import TuningPlan

Check = Callable[[Config, Modules, "TuningPlan"], Iterable[Finding]]

CHECKS: tuple[Check, ...] = (
    methods.dora,
    trained.something_trains,
    trained.whole_aligner,
    trained.vit_by_suffix,
    trained.head_and_embeddings,
    methods.adalora,
    methods.boft,
    methods.fourierft,
    rates.every_parameter_has_a_group,
    rates.optimizer,
    rates.rates,
    rates.precision,
    run.best_model,
    run.grounding_eval,
    run.early_stopping,
    run.phases,
    run.deepspeed,
    run.resume,
    run.curriculum,
    data.imgaug_operations,
    trained.freeze_flags,
    trained.unused_settings,
    trained.weights_missing,
    trained.unbuilt,
    run.versions,
)


def check(config: Config, modules: Modules, plan: TuningPlan) -> list[Finding]:
    """Every finding of the checks, in their order."""
    return [finding for rule in CHECKS for finding in rule(config, modules, plan)]
