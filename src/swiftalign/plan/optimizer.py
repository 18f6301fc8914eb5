"""Learning rates and optimizer groups, as ms-swift's optimizers make them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from swiftalign.config.sections import Config
from swiftalign.model.tree import COMPONENTS, Component
from swiftalign.plan.plan import OptimizerGroup, Trainable

# An optimizer's name -> the components of its groups, and whether weight decay applies to the groups of each.
_ORDERS: dict[str, tuple[tuple[Component | Literal["all"], ...], tuple[bool, ...]]] = {
    "multimodal": (("vit", "aligner", "llm"), (False, True)),
    "default": (("all",), (True, False)),
}


def learning_rates(config: Config) -> dict[Component, float]:
    """The learning rate of each component; a component without one of its own takes learning_rate."""
    training = config.training
    default = 1e-5 if config.tuner.train_type == "full" else 1e-4  # ms-swift's own defaults
    general = training.learning_rate if training.learning_rate is not None else default
    if optimizer_name(config) != "multimodal":
        return dict.fromkeys(COMPONENTS, general)
    own: dict[Component, float | None] = {"llm": None, "vit": training.vit_lr, "aligner": training.aligner_lr}
    return {name: general if rate is None else rate for name, rate in own.items()}


def optimizer_name(config: Config) -> str:
    """ms-swift's ``multimodal`` optimizer unless another is asked for: it alone gives each component its rate."""
    return config.training.optimizer or "multimodal"


def optimizer_groups(
    config: Config, rates: dict[Component, float], trainables: tuple[Trainable, ...]
) -> Iterable[OptimizerGroup]:
    """The groups that ms-swift's optimizer makes, in its order; none for an optimizer that makes its own.

    What lies in no component trains at the rate of the LLM, in its groups.

    References:
        ms-swift `swift/optimizers/multimodal.py`; transformers `Trainer.create_optimizer`.
    """
    parts, order = _ORDERS.get(optimizer_name(config), ((), ()))
    for part in parts:
        for decays in order:
            parameters = tuple(
                item.parameter
                for item in trainables
                if part in ("all", "llm" if item.component == "other" else item.component) and item.decays is decays
            )
            if parameters:
                rate = rates["llm" if part == "all" else part]
                yield OptimizerGroup(part, rate, config.training.weight_decay if decays else 0.0, parameters)
