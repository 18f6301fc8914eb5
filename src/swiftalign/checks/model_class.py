"""Whether ms-swift can load the class of the model."""

from __future__ import annotations

from collections.abc import Iterable

from swiftalign.config.sections import Config
from swiftalign.model.components import class_of, correction
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import Problem


def loadable(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Ms-swift would fail once training has begun."""
    if (fault := correction(model.config)) and fault.unloadable:
        message = f"ms-swift can't load a {class_of(model.config)}: {fault.unloadable}"
        hint = "train the model as its authors published it, in an environment with the packages that it needs"
        yield Problem("class-not-loadable", message, hint, where=config.source.where)
