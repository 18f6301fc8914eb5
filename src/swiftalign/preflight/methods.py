"""The constraints of each tuning method."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from swiftalign.config.sections import NO_TARGETS, Config
from swiftalign.methods import boft_fault, suggest_block_size
from swiftalign.methods.keys import ADALORA_STATE
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.schedule import adalora_schedule
from swiftalign.plan.selection import aligner_regex
from swiftalign.problems import Problem


def dora(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    tuner = config.tuner
    if not tuner.use_dora:
        return
    where = config.where("tuner", "use_dora")
    if tuner.train_type != "lora":
        hint = "drop use_dora, or train with LoRA:"
        fix = {"tuner": {"train_type": "lora", "use_dora": True, "target_regex": aligner_regex(model)}}
        yield Problem("dora-exclusive", f"use_dora does not work with train_type {tuner.train_type}", hint, fix, where)
    elif not plan.adapted:
        own: dict[str, Any] = {
            name: getattr(tuner, name) for name in ("lora_rank", "lora_alpha", "lora_dropout") if tuner.given(name)
        }
        fix = {"tuner": {"train_type": "lora", "use_dora": True, "target_regex": aligner_regex(model), **own}}
        reason = "target_regex '^$' adapts none" if tuner.target_regex in NO_TARGETS else "no layer is adapted"
        message = f"use_dora has no layer to act on: {reason}, and DoRA does nothing for modules_to_save"
        yield Problem("dora-without-layers", message, "DoRA on the aligner's Linear layers:", fix, where)


def adalora(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    tuner, total = config.tuner, plan.schedule.adalora_steps
    if tuner.train_type != "adalora":
        return
    if tuner.adalora_target_r >= tuner.adalora_init_r:
        fix: dict[str, Any] = {"tuner": {"adalora_init_r": tuner.adalora_target_r * 3 // 2 + 1}}
        message = f"adalora_target_r {tuner.adalora_target_r} is not below adalora_init_r {tuner.adalora_init_r}"
        where = config.where_given("tuner", "adalora_target_r", "adalora_init_r")
        yield Problem("adalora-ranks", message, "start higher:", fix, where)
    if total is not None and tuner.adalora_tinit >= total - tuner.adalora_tfinal:
        yield _adalora_schedule(config, total)
    yield from _adalora_reload(config, plan)


def _adalora_schedule(config: Config, total: int) -> Problem:
    tuner = config.tuner
    tinit, tfinal, gap = adalora_schedule(total)
    message = (
        f"AdaLoRA prunes from step adalora_tinit ({tuner.adalora_tinit}) until adalora_tfinal ({tuner.adalora_tfinal}) "
        f"steps before the end: a run of {total} leaves no step for it"
    )
    fix = {
        "tuner": {
            "adalora_tinit": tinit,
            "adalora_tfinal": tfinal,
            "adalora_deltaT": min(tuner.adalora_deltaT, gap),
        }
    }
    where = config.where_given("tuner", "adalora_tinit", "adalora_tfinal")
    return Problem("adalora-schedule", message, "a schedule that fits:", fix, where)


def _adalora_reload(config: Config, plan: TuningPlan) -> Iterable[Problem]:
    checkpoint = config.training.resume_from_checkpoint
    if checkpoint is None or not plan.ranks_may_shrink or (Path(checkpoint) / ADALORA_STATE).is_file():
        return
    message = f"{checkpoint} has AdaLoRA's pruned factors without {ADALORA_STATE}: training can't go on from them"
    where, fix = config.where("training", "resume_from_checkpoint"), {"training": {"resume_from_checkpoint": None}}
    yield Problem("adalora-reload", message, "only checkpoints of this toolkit have it; start anew:", fix, where)


def boft(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    tuner = config.tuner
    if tuner.train_type != "boft":
        return
    widths = {name: model.by_name[name].weight.shape[1] for name in plan.adapted}
    faults = ((name, boft_fault(width, tuner)) for name, width in widths.items())
    name, fault = next(((name, fault) for name, fault in faults if fault), ("", None))
    if not fault:
        return
    every = sorted(set(widths.values()))
    fix: dict[str, Any] = {"boft_block_size": suggest_block_size(every, tuner), "boft_block_num": 0}
    hint = "a block size that divides every layer:"
    if fix["boft_block_size"] is None:
        plain = tuner.model_copy(update={"boft_n_butterfly_factor": 1})
        fix = {"boft_n_butterfly_factor": 1, "boft_block_size": suggest_block_size(every, plain), "boft_block_num": 0}
        hint = "blocks without butterfly factors, which fit every layer:"
    where = config.where_given("tuner", "boft_block_num", "boft_block_size", "boft_n_butterfly_factor")
    yield Problem("boft-blocks", f"{name}: {fault}", hint, {"tuner": fix}, where)


def fourierft(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    tuner = config.tuner
    if tuner.train_type != "fourierft" or not plan.adapted:
        return
    sizes = {name: model.by_name[name].weight.numel for name in plan.adapted}
    name = min(sizes, key=lambda layer: sizes[layer])
    if tuner.fourier_n_frequency > sizes[name]:
        message = f"fourier_n_frequency {tuner.fourier_n_frequency} is more than the {sizes[name]} weights of {name}"
        fix = {"tuner": {"fourier_n_frequency": sizes[name] // 2}}
        where = config.where("tuner", "fourier_n_frequency")
        yield Problem("fourier-frequencies", message, "at most as many as the smallest layer has:", fix, where)
