"""Installed releases, against those that were tested."""

from __future__ import annotations

from collections.abc import Iterable

from swiftalign.config.sections import Config
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import Problem
from swiftalign.versions import TESTED_VERSIONS, installed


def versions(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    other = [
        f"{name} {here} (tested: {tested})"
        for name, tested in TESTED_VERSIONS.items()
        if (here := installed(name)).partition("+")[0] != tested
    ]
    if other:
        hint = "training still compares the running model with the plan before the first step"
        yield Problem("versions-untested", ", ".join(other), hint)
