"""Comparing the running model and its optimizer with the plan, name by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import PlanMismatchError


def compare_model(plan: TuningPlan, model: nn.Module) -> None:
    """Raise unless exactly the plan's parameters require gradients, with the plan's shapes and dtypes.

    Raises:
        PlanMismatchError: there are differences; the message names the first of each kind.
    """
    planned = {item.parameter: (item.shape, item.dtype) for item in plan.trainables}
    real = {
        name: (tuple(weight.shape), str(weight.dtype).removeprefix("torch."))
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    _raise_on_difference("the model", planned, real)


def compare_optimizer(plan: TuningPlan, names: Sequence[Sequence[str]], groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise unless an optimizer's groups hold the plan's parameters at the plan's rates and decays.

    Args:
        names: the names of each group's parameters.
        groups: the groups, in the same order.

    Raises:
        PlanMismatchError: there are differences; the message names the first of each kind.
    """
    if not plan.groups:  # the optimizer makes its own groups
        return
    planned = {name: (group.learning_rate, group.weight_decay) for group in plan.groups for name in group.parameters}
    real = {
        name: (group.get("initial_lr", group["lr"]), group["weight_decay"])
        for members, group in zip(names, groups, strict=True)
        for name in members
    }
    _raise_on_difference("the optimizer", planned, real)


def _raise_on_difference(what: str, planned: Mapping[str, object], real: Mapping[str, object]) -> None:
    missing = [name for name in planned if name not in real]
    extra = [name for name in real if name not in planned]
    other = [f"{n} is {real[n]}, planned {planned[n]}" for n in planned if n in real and real[n] != planned[n]]
    parts = [
        f"{len(items)} {label}: {'; '.join(items[:3])}"
        for label, items in (("planned but not there", missing), ("there but not planned", extra), ("different", other))
        if items
    ]
    if parts:
        raise PlanMismatchError(
            f"{what} differs from the plan: " + "; ".join(parts),
            "nothing was trained; please report this with the run folder's plan.json and versions.json",
        )
