"""Learning rates and optimizer groups, as ms-swift's optimizers make them."""

from __future__ import annotations

from collections.abc import Iterable

from swiftalign.config.sections import COMPONENTS, Config
from swiftalign.plan.plan import OptimizerGroup, Trainable


def learning_rates(config: Config) -> dict[str, float]:
    """The rate of each component; a component without one of its own takes learning_rate."""
    training = config.training
    default = 1e-5 if config.tuner.train_type == "full" else 1e-4  # ms-swift's own defaults
    general = training.learning_rate if training.learning_rate is not None else default
    if optimizer_name(config) != "multimodal":
        return dict.fromkeys(COMPONENTS, general)
    own = {"llm": None, "vit": training.vit_lr, "aligner": training.aligner_lr}
    return {name: general if rate is None else rate for name, rate in own.items()}


def optimizer_name(config: Config) -> str:
    """ms-swift's ``multimodal`` optimizer unless another is asked for: it alone gives each component its rate."""
    return config.training.optimizer or "multimodal"


def optimizer_groups(config: Config, trainables: tuple[Trainable, ...]) -> Iterable[OptimizerGroup]:
    """The groups that ms-swift's optimizer makes, in its order.

    References:
        ms-swift `swift/optimizers/multimodal.py`; transformers `Trainer.create_optimizer`.
    """
    name, rates, decay = optimizer_name(config), learning_rates(config), config.training.weight_decay
    if name == "multimodal":
        parts = [(part, [item for item in trainables if item.component == part]) for part in ("vit", "aligner", "llm")]
        order = (False, True)
    elif name == "default":
        parts, order = [("all", list(trainables))], (True, False)
    else:
        return
    for part, members in parts:
        for decays in order:
            parameters = tuple(item.parameter for item in members if item.decays is decays)
            if parameters:
                rate = rates["llm"] if part == "all" else rates[part]
                yield OptimizerGroup(part, rate, decay if decays else 0.0, parameters)
