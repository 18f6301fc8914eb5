"""How a run is spread over GPUs."""

from __future__ import annotations

from collections.abc import Iterable

from swiftalign.config.sections import Config
from swiftalign.config.sharding import GATHER, PRESETS, zero_section
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import ModelError, Problem


def deepspeed(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    setting, where = config.training.deepspeed, config.where("training", "deepspeed")
    if not setting:
        return
    try:
        values = zero_section(setting)
    except (ModelError, ValueError):
        message = f"training.deepspeed: {setting!r} is neither a preset of ms-swift nor a readable JSON file"
        yield Problem("deepspeed-unreadable", message, f"the presets are {', '.join(PRESETS)}", where=where)
        return
    if values.get("stage") != 3:
        return
    if not values.get(GATHER):
        fix = {"training": {"deepspeed": {"zero_optimization": {GATHER: True}}}} if isinstance(setting, dict) else None
        hint = "gather the weights when saving:" if fix else f"set it to true in {setting}"
        yield Problem("zero3-without-gather", f"ZeRO-3 without {GATHER} saves empty tensors", hint, fix, where)
    if any(module.name.endswith(".experts") for module in model):
        message = "a mixture-of-experts model can hang under ZeRO-3 when processes route tokens to different experts"
        hint = "use ZeRO-2; the aligner's optimizer state is small:"
        yield Problem("zero3-moe", message, hint, {"training": {"deepspeed": "zero2"}}, where)
