"""Learning rates, optimizer groups and the precision of what trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from swiftalign.config.sections import Config
from swiftalign.model.tree import COMPONENTS, Component, Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import SPOKEN, Problem, about, counted

# The names of ms-swift's `swift/optimizers/mapping.py`; a plugin may add others.
SWIFT_OPTIMIZERS = ("default", "galore", "lorap", "muon", "muonclip", "multimodal")

_MULTIMODAL = {"training": {"optimizer": "multimodal"}}
_OWN_RATES = "use the optimizer that gives each component its own learning rate:"


def optimizer(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    name, where = plan.optimizer, config.where("training", "optimizer")
    if name not in SWIFT_OPTIMIZERS and not config.swift.get("external_plugins"):
        message = f"ms-swift has no optimizer {name!r}, only {', '.join(SWIFT_OPTIMIZERS)}"
        hint = "set training.optim to choose AdamW or the like, and take the parameter groups of:"
        yield Problem("optimizer-unknown", message, hint, _MULTIMODAL, where)
    elif name != "lorap" and config.handed_through.get("lorap_lr_ratio"):
        message = f"lorap_lr_ratio: no effect with optimizer {name}: both factors of an adapter have one rate"
        yield Problem("setting-unused", message, where=config.where("tuner", "lorap_lr_ratio"))
    elif name not in ("multimodal", "default"):
        message = (
            f"optimizer {name} makes its own parameter groups: the plan can't say which learning rate a parameter gets"
        )
        yield Problem("optimizer-unplanned", message, _OWN_RATES, _MULTIMODAL, where)


def rates(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    training, multimodal = config.training, plan.optimizer == "multimodal"
    ignored = [key for key in ("vit_lr", "aligner_lr") if getattr(training, key) is not None]
    if ignored and not multimodal:
        message = f"{' and '.join(ignored)} {_verb(ignored, 'has', 'have')} no effect with optimizer {plan.optimizer}"
        where = config.where("training", ignored[0])
        yield Problem("rate-needs-multimodal", message, _OWN_RATES, _MULTIMODAL, where)
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
    if unused and multimodal and plan.trainables:  # one problem: the guide's configs name all three rates
        idle = dict.fromkeys(SPOKEN[part] for parts in unused.values() for part in parts)
        keys = list(unused)
        message = (
            f"{' and '.join(keys)} {_verb(keys, 'is', 'are')} not used: nothing in the {' or the '.join(idle)} trains"
        )
        yield Problem("unused-learning-rate", message, where=config.where("training", keys[0]))
    for part, rate in plan.rates.items():
        if plan.components[part].trainable and rate == 0:
            own = f"{part}_lr" if part != "llm" and multimodal else "learning_rate"
            where = config.where_given("training", own, "learning_rate")
            message = f"the {SPOKEN[part]} trains at learning rate 0, so nothing in it changes"
            yield Problem("zero-learning-rate", message, f"raise {own}", where=where)


def _verb(items: list[str], one: str, many: str) -> str:
    return one if len(items) == 1 else many


def every_parameter_has_a_group(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Every trainable parameter must be in exactly one optimizer group."""
    if not plan.groups:
        return
    times = Counter(name for group in plan.groups for name in group.parameters)
    missing = [item.parameter for item in plan.trainables if not times[item.parameter]]
    twice = [name for name, count in times.items() if count > 1]
    code, hint, noun = "parameter-without-group", "report this as a bug, with your config", "trainable parameter"
    yield from about(code, missing, "would be in no optimizer group", hint, noun=noun, limit=2)
    yield from about(code, twice, "would be in two optimizer groups", hint, noun=noun, limit=2)


def precision(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    low = [item for item in plan.trainables if item.dtype in ("bfloat16", "float16")]
    if not low:
        return
    rate = min(plan.rate_of(item.component) for item in low)
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
