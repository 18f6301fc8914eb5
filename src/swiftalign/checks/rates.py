"""Learning rates, optimizer groups and the precision of what trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from swiftalign.config import COMPONENTS, Config
from swiftalign.findings import Finding
from swiftalign.modules import Modules
from swiftalign.optimizer import learning_rates, optimizer_name
from swiftalign.targets import names

if TYPE_CHECKING:
    from swiftalign.plan import TuningPlan


def rates(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    training, optimizer = config.training, optimizer_name(config)
    if optimizer not in ("multimodal", "default"):
        message = f"the {optimizer} optimizer makes its own groups: the plan can't say which rate a parameter gets"
        where = config.where("training", "optimizer")
        yield Finding(
            "optimizer-unplanned", message, "optimizer: multimodal gives each component its rate", where=where
        )
    for key in ("vit_lr", "aligner_lr"):
        if optimizer != "multimodal" and getattr(training, key) is not None:
            message = f"{key} has no effect with optimizer {optimizer}"
            fix = {"training": {"optimizer": "multimodal"}}
            yield Finding("rate-needs-multimodal", message, "", fix, config.where("training", key))
    yield from _unused_rates(config, plan)
    for part, rate in learning_rates(config).items():
        if plan.components[part].trainable and rate == 0:
            yield Finding(
                "zero-learning-rate", f"the {part} trains at rate 0, so nothing in it moves", "raise its rate"
            )


def _unused_rates(config: Config, plan: TuningPlan) -> Iterable[Finding]:
    training = config.training
    own = {"vit": training.vit_lr, "aligner": training.aligner_lr}
    users = {
        "learning_rate": [part for part in COMPONENTS if own.get(part) is None],
        "vit_lr": ["vit"],
        "aligner_lr": ["aligner"],
    }
    for key, parts in users.items():
        rate = getattr(training, key)
        if rate is not None and not any(plan.components[part].trainable for part in parts):
            message = f"{key} {rate:g} is not used: nothing in the {' or the '.join(parts)} trains"
            yield Finding("unused-learning-rate", message, "", where=config.where("training", key))


def every_parameter_has_a_group(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    yield from check_groups(plan)


def check_groups(plan: TuningPlan) -> Iterable[Finding]:
    """Every trainable parameter must be in exactly one optimizer group."""
    if not plan.groups:
        return
    grouped = [name for group in plan.groups for name in group.parameters]
    missing = [item.parameter for item in plan.trainables if item.parameter not in set(grouped)]
    if missing:
        message = f"{len(missing)} trainable parameters are in no optimizer group: {names(missing, 2)}"
        yield Finding(
            "parameter-without-group", message, "they would get gradients and never move; use optimizer: multimodal"
        )


def precision(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    low = [item for item in plan.trainables if item.dtype in ("bfloat16", "float16")]
    if not low:
        return
    rates = learning_rates(config)
    rate = min(rates[item.component] for item in low)
    message = f"{len(low)} trainable tensors are {low[0].dtype} and learn at {rate:g}: small updates are rounded away"
    fix = {"tuner": {"trainable_dtype": "float32"}}
    yield Finding("low-precision-trainables", message, "", fix, config.where("tuner", "trainable_dtype"))
