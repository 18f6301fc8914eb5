"""The constraints of each tuning method."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from swiftalign.config import NO_TARGETS, Config
from swiftalign.findings import Finding
from swiftalign.methods import boft_fault, suggest_block_size
from swiftalign.modules import Modules
from swiftalign.targets import aligner_regex

if TYPE_CHECKING:
    from swiftalign.plan import TuningPlan


def dora(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    tuner = config.tuner
    if not tuner.use_dora:
        return
    where = config.where("tuner", "use_dora")
    if tuner.train_type != "lora":
        hint = "drop use_dora, or train with LoRA:"
        fix = {"tuner": {"train_type": "lora", "use_dora": True, "target_regex": aligner_regex(modules)}}
        yield Finding("dora-exclusive", f"use_dora does not work with train_type {tuner.train_type}", hint, fix, where)
    elif not plan.adapted:
        own: dict[str, Any] = {
            name: getattr(tuner, name) for name in ("lora_rank", "lora_alpha", "lora_dropout") if tuner.given(name)
        }
        fix = {"tuner": {"train_type": "lora", "use_dora": True, "target_regex": aligner_regex(modules), **own}}
        reason = "target_regex '^$' adapts none" if tuner.target_regex in NO_TARGETS else "no layer is adapted"
        message = f"use_dora has no layer to act on: {reason}, and DoRA does nothing for modules_to_save"
        yield Finding("dora-without-layers", message, "DoRA on the aligner's Linear layers:", fix, where)


def adalora(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    tuner, total = config.tuner, plan.schedule.adalora_steps
    if tuner.train_type != "adalora":
        return
    if tuner.adalora_target_r >= tuner.adalora_init_r:
        fix: dict[str, Any] = {"tuner": {"adalora_init_r": tuner.adalora_target_r * 3 // 2 + 1}}
        message = f"adalora_target_r {tuner.adalora_target_r} is not below adalora_init_r {tuner.adalora_init_r}"
        where = config.where("tuner", "adalora_target_r")
        yield Finding("adalora-ranks", message, "start higher:", fix, where)
    if total is not None and tuner.adalora_tinit >= total - tuner.adalora_tfinal:
        yield _adalora_schedule(config, total)
    if config.training.load_best_model_at_end or config.training.resume_from_checkpoint:
        key = "load_best_model_at_end" if config.training.load_best_model_at_end else "resume_from_checkpoint"
        message = f"{key} fails with AdaLoRA: ms-swift and the trainer can't load its pruned factors back"
        fix = {"training": {key: False if key == "load_best_model_at_end" else None}}
        yield Finding("adalora-reload", message, "train without it:", fix, config.where("training", key))


def _adalora_schedule(config: Config, total: int) -> Finding:
    """peft counts tfinal as the last steps of the run, not as the step at which pruning ends."""
    tuner = config.tuner
    tinit, tfinal = total // 10, total * 3 // 10
    message = (
        f"AdaLoRA prunes from step adalora_tinit ({tuner.adalora_tinit}) until adalora_tfinal ({tuner.adalora_tfinal}) "
        f"steps before the end: of {total} steps, that leaves none"
    )
    if total < 3:
        return Finding(
            "adalora-schedule", message, "train for more steps", where=config.where("tuner", "adalora_tinit")
        )
    fix = {
        "tuner": {
            "adalora_tinit": tinit,
            "adalora_tfinal": tfinal,
            "adalora_deltaT": max(1, min(tuner.adalora_deltaT, (total - tinit - tfinal) // 10)),
        }
    }
    return Finding("adalora-schedule", message, "a schedule that fits:", fix, config.where("tuner", "adalora_tinit"))


def boft(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    tuner = config.tuner
    if tuner.train_type != "boft":
        return
    widths = {name: modules.by_name[name].weight.shape[1] for name in plan.adapted}
    for name, width in widths.items():
        fault = boft_fault(width, tuner)
        if fault:
            size = suggest_block_size(sorted(set(widths.values())), tuner)
            fix = {"tuner": {"boft_block_size": size, "boft_block_num": 0}} if size else None
            hint = "a block size that divides every layer:" if size else "lower boft_n_butterfly_factor"
            key = "boft_block_size" if tuner.given("boft_block_size") else "boft_block_num"
            yield Finding("boft-blocks", f"{name}: {fault}", hint, fix, config.where("tuner", key))
            return


def fourierft(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    tuner = config.tuner
    if tuner.train_type != "fourierft" or not plan.adapted:
        return
    sizes = {name: modules.by_name[name].weight.numel for name in plan.adapted}
    name = min(sizes, key=lambda layer: sizes[layer])
    if tuner.fourier_n_frequency > sizes[name]:
        message = f"fourier_n_frequency {tuner.fourier_n_frequency} is more than the {sizes[name]} weights of {name}"
        fix = {"tuner": {"fourier_n_frequency": sizes[name] // 2}}
        where = config.where("tuner", "fourier_n_frequency")
        yield Finding("fourier-frequencies", message, "at most as many as the smallest layer has:", fix, where)
