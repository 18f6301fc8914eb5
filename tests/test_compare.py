"""The worker's comparison of model and optimizer with the plan: equal, or an error that names the difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn, optim

from swiftalign.config.sections import Config
from swiftalign.model.tree import Model
from swiftalign.plan.plan import OptimizerGroup, Trainable, TuningPlan
from swiftalign.plan.resolve import resolve
from swiftalign.problems import PlanMismatchError
from swiftalign.worker.compare import compare_model, compare_optimizer


@pytest.fixture
def plan(make_config: Callable[[str], Config], demo_modules: Model) -> TuningPlan:
    """The merger's weight and bias train, at 1e-4 and with decay for the weight."""
    trainables = tuple(
        Trainable(name, name, "merger", "aligner", "whole", shape, "float32", decays)
        for name, shape, decays in (("merger.weight", (3, 4), True), ("merger.bias", (3,), False))
    )
    groups = (
        OptimizerGroup("aligner", 1e-4, 0.0, ("merger.bias",)),
        OptimizerGroup("aligner", 1e-4, 0.1, ("merger.weight",)),
    )
    return replace(resolve(make_config(""), demo_modules), trainables=trainables, groups=groups)


@pytest.fixture
def model() -> nn.ModuleDict:
    model = nn.ModuleDict({"merger": nn.Linear(4, 3), "head": nn.Linear(3, 2)})
    model["head"].requires_grad_(False)
    return model


def compare(plan: TuningPlan, model: nn.ModuleDict, optimizer: optim.Optimizer) -> None:
    names = {weight: name for name, weight in model.named_parameters()}
    groups = optimizer.param_groups
    compare_optimizer(plan, [[names[weight] for weight in group["params"]] for group in groups], groups)


def adamw(model: nn.ModuleDict, *, rate: float = 1e-4, decay: float = 0.1) -> optim.AdamW:
    merger = model["merger"]
    groups = [{"params": [merger.bias], "weight_decay": 0.0}, {"params": [merger.weight], "weight_decay": decay}]
    return optim.AdamW(groups, lr=rate)


def test_equal_model_and_optimizer_pass(plan: TuningPlan, model: nn.ModuleDict) -> None:
    compare_model(plan, model)
    compare(plan, model, adamw(model))


def test_a_warming_schedule_is_compared_by_its_initial_rate(plan: TuningPlan, model: nn.ModuleDict) -> None:
    optimizer = adamw(model)
    optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert optimizer.param_groups[0]["lr"] == 0
    compare(plan, model, optimizer)


def freeze_bias(model: nn.ModuleDict) -> None:
    model["merger"].bias.requires_grad_(False)


def thaw_head(model: nn.ModuleDict) -> None:
    model["head"].weight.requires_grad_(True)


def cast_bias(model: nn.ModuleDict) -> None:
    model["merger"].bias.data = model["merger"].bias.data.bfloat16()


def widen(model: nn.ModuleDict) -> None:
    model["merger"].weight = nn.Parameter(torch.zeros(3, 5))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        pytest.param(freeze_bias, "1 planned but not there: merger.bias", id="missing"),
        pytest.param(thaw_head, "1 there but not planned: head.weight", id="extra"),
        pytest.param(
            cast_bias,
            "1 different: merger.bias is ((3,), 'bfloat16'), planned ((3,), 'float32')",
            id="dtype",
        ),
        pytest.param(
            widen,
            "1 different: merger.weight is ((3, 5), 'float32'), planned ((3, 4), 'float32')",
            id="shape",
        ),
    ],
)
def test_a_model_unlike_the_plan_is_refused(
    plan: TuningPlan, model: nn.ModuleDict, change: Callable[[nn.ModuleDict], None], difference: str
) -> None:
    change(model)
    with pytest.raises(PlanMismatchError) as caught:
        compare_model(plan, model)
    assert caught.value.message == f"the model differs from the plan: {difference}"


def test_every_kind_of_difference_is_listed(plan: TuningPlan, model: nn.ModuleDict) -> None:
    for change in (freeze_bias, thaw_head, widen):
        change(model)
    with pytest.raises(PlanMismatchError, match=r"1 planned but not there.*1 there but not planned.*1 different"):
        compare_model(plan, model)


def test_an_optimizer_with_another_rate_is_refused(plan: TuningPlan, model: nn.ModuleDict) -> None:
    with pytest.raises(PlanMismatchError, match=r"2 different: merger\.bias is \(0\.001, 0\.0\), planned \(0\.0001, "):
        compare(plan, model, adamw(model, rate=1e-3))


def test_an_optimizer_with_another_decay_is_refused(plan: TuningPlan, model: nn.ModuleDict) -> None:
    with pytest.raises(PlanMismatchError, match=r"1 different: merger\.weight is \(0\.0001, 0\.2\), planned"):
        compare(plan, model, adamw(model, decay=0.2))


def test_an_optimizer_without_a_planned_parameter_is_refused(plan: TuningPlan, model: nn.ModuleDict) -> None:
    optimizer = optim.AdamW([model["merger"].weight], lr=1e-4, weight_decay=0.1)
    with pytest.raises(PlanMismatchError, match=r"^the optimizer .*: 1 planned but not there: merger\.bias$"):
        compare(plan, model, optimizer)


def test_an_optimizer_with_a_further_parameter_is_refused(plan: TuningPlan, model: nn.ModuleDict) -> None:
    optimizer = adamw(model)
    optimizer.add_param_group({"params": [model["head"].weight], "weight_decay": 0.0})
    with pytest.raises(PlanMismatchError, match=r": 1 there but not planned: head\.weight$"):
        compare(plan, model, optimizer)


def test_an_optimizer_that_makes_its_own_groups_is_not_compared(plan: TuningPlan, model: nn.ModuleDict) -> None:
    compare(replace(plan, groups=()), model, optim.SGD(model["head"].parameters(), lr=1))
