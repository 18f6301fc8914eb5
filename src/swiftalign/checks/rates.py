"""Learning rates, optimizer groups and the precision of what trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from swiftalign.config.sections import Config
from swiftalign.model.tree import COMPONENTS, Component, Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import SPOKEN, Problem, counted, names

# The names of ms-swift's `swift/optimizers/mapping.py`; a plugin may add others.
SWIFT_OPTIMIZERS = ("default", "galore", "lorap", "muon", "muonclip", "multimodal")


def optimizer(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    name, where = plan.optimizer, config.where("training", "optimizer")
    fix = {"training": {"optimizer": "multimodal"}}
    if name not in SWIFT_OPTIMIZERS and not config.swift.get("external_plugins"):
        message = f"ms-swift has no optimizer {name!r}, only {', '.join(SWIFT_OPTIMIZERS)}"
        yield Problem(
            "optimizer-unknown",
            message,
            "set training.optim to choose AdamW or the like, and take the parameter groups of:",
            fix,
            where,
        )
    elif name not in ("multimodal", "default"):
        message = (
            f"optimizer {name} makes its own parameter groups: the plan can't say which learning rate a parameter gets"
        )
        yield Problem(
            "optimizer-unplanned",
            message,
            "use the optimizer that gives each component its own learning rate:",
            fix,
            where,
        )


def rates(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    training, name = config.training, plan.optimizer
    ignored = [key for key in ("vit_lr", "aligner_lr") if getattr(training, key) is not None]
    if name != "multimodal" and ignored:
        message = f"{' and '.join(ignored)} {_verb(ignored, 'has', 'have')} no effect with optimizer {name}"
        fix = {"training": {"optimizer": "multimodal"}}
        where = config.where("training", ignored[0])
        yield Problem(
            "rate-needs-multimodal",
            message,
            "use the optimizer that gives each component its own learning rate:",
            fix,
            where,
        )
    yield from _unused_rates(config, plan)
    for part, rate in plan.rates.items():
        if plan.components[part].trainable and rate == 0:
            own = f"{part}_lr" if part != "llm" and name == "multimodal" else "learning_rate"
            where = config.where_given("training", own, "learning_rate")
            message = f"the {SPOKEN[part]} trains at learning rate 0, so nothing in it changes"
            yield Problem("zero-learning-rate", message, f"raise {own}", where=where)


def _unused_rates(config: Config, plan: TuningPlan) -> Iterable[Problem]:
    """Rates of components that do not train, in one finding: the guide's configs name all three."""
    training = config.training
    if plan.optimizer != "multimodal" or not plan.trainables:
        return
    users: dict[str, list[Component]] = {
        "learning_rate": [part for part in COMPONENTS if part == "llm" or getattr(training, f"{part}_lr") is None],
        "vit_lr": ["vit"],
        "aligner_lr": ["aligner"],
    }
    unused = {
        key: parts
        for key, parts in users.items()
        if getattr(training, key) is not None and not any(plan.components[part].trainable for part in parts)
    }
    if unused:
        idle = dict.fromkeys(SPOKEN[part] for parts in unused.values() for part in parts)
        keys = list(unused)
        message = (
            f"{' and '.join(keys)} {_verb(keys, 'is', 'are')} not used: nothing in the {' or the '.join(idle)} trains"
        )
        yield Problem("unused-learning-rate", message, where=config.where("training", keys[0]))


def _verb(items: list[str], one: str, many: str) -> str:
    return one if len(items) == 1 else many


def every_parameter_has_a_group(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Every trainable parameter must be in exactly one optimizer group."""
    if not plan.groups:
        return
    times = Counter(name for group in plan.groups for name in group.parameters)
    missing = [item.parameter for item in plan.trainables if not times[item.parameter]]
    twice = [name for name, count in times.items() if count > 1]
    for faulty, what in ((missing, "in no optimizer group"), (twice, "in two optimizer groups")):
        if faulty:
            message = f"{counted(len(faulty), 'trainable parameter')} would be {what}: {names(faulty, 2)}"
            yield Problem("parameter-without-group", message, "report this as a bug, with your config")


def precision(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    low = [item for item in plan.trainables if item.dtype in ("bfloat16", "float16")]
    if not low:
        return
    rate = min(plan.rates[item.component] for item in low)
    what = f"{counted(len(low), 'tensor')} would train in {low[0].dtype} at learning rate {rate:g}"
    fix = {"tuner": {"trainable_dtype": "float32"}}
    where = config.where("tuner", "trainable_dtype")
    yield Problem(
        "low-precision-trainables",
        f"{what}: small updates are rounded away",
        "train float32 copies under autocast:",
        fix,
        where,
    )
