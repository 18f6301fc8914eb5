"""Keys of other tools that the configuration gives."""

from __future__ import annotations

from collections.abc import Iterable

from swiftalign.config.sections import Config
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import Problem


def without_effect(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    return config.notes
