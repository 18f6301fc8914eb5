"""Keys of ms-swift that the configuration gives."""

from __future__ import annotations

from collections.abc import Iterable

from swiftalign.config.arguments import HARMLESS, PLANNED
from swiftalign.config.sections import Config, section_fields
from swiftalign.config.spellings import home
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import Problem

_CLASSED = {name for listed in (PLANNED, *HARMLESS.values()) for name in listed.split()}


def without_effect(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    return config.notes


def unknown_arguments(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Arguments that came into ms-swift after the tested release."""
    for name in config.handed_through:
        section = str(home(name))
        if name not in _CLASSED and name not in section_fields(section):
            message = f"{name}: an argument of a later ms-swift, which is handed through; it may change what trains"
            where = config.where(section, name) or config.where("swift", name)
            yield Problem("argument-unknown", message, "compare the run's result with one without it", where=where)
