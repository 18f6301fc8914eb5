"""What fits on a card, and how fast it trains: predictions for every setting that a run may have."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from swiftalign.config.sections import Config
from swiftalign.config.sharding import Sharding
from swiftalign.model.families import find
from swiftalign.plan.plan import TuningPlan
from swiftalign.speed.cards import Card
from swiftalign.speed.choices import Choices, Kernels
from swiftalign.speed.choose import automatic, choose
from swiftalign.speed.predictor import Memory, Predictor

# The ways that are compared; the run's own is added.
_SHOWN: tuple[Sharding, ...] = ("ddp", "fsdp2", "fsdp2_offload", "zero2", "zero3")


@dataclass(frozen=True)
class Setting:
    """Predictions for one kind of kernels, with or without gradient checkpointing.

    Attributes:
        kernels: how the frozen layers run.
        gradient_checkpointing: whether the LLM's activations are computed twice.
        peak: bytes that the largest batch of the run takes, without CUDA's own context.
        largest_batch: the most rows per batch that fit; 0 where not even one row does.
        step_seconds: seconds per optimizer step; None where the card's speed is not known.
        epoch_seconds: seconds per pass over the data; None where the card's speed or the data are not known.
        chosen: whether a run on this card trains with this setting.
    """

    kernels: Kernels
    gradient_checkpointing: bool
    peak: int
    largest_batch: int
    step_seconds: float | None
    epoch_seconds: float | None
    chosen: bool


@dataclass(frozen=True)
class Way:
    """Predictions for one way of spreading the run over GPUs.

    Attributes:
        sharding: the way: a value of `swiftalign.config.sharding.Sharding`.
        memory: what the largest batch of the run takes on each GPU.
        peak: the bytes of it together, without CUDA's own context.
        largest_batch: the most rows per batch that fit; 0 where not even one row does.
        step_seconds: seconds per optimizer step; None where the card's speed is not known.
        rows_per_second: rows that all GPUs together train per second; None where the card's speed is not known.
        chosen: whether the run is spread in this way.
    """

    sharding: str
    memory: Memory
    peak: int
    largest_batch: int
    step_seconds: float | None
    rows_per_second: float | None
    chosen: bool


@dataclass(frozen=True)
class WhatFits:
    """Predictions for a run on one card, or on several of its kind.

    Attributes:
        card: the GPU that each process trains on.
        processes: number of GPUs.
        batch: rows per batch of the run.
        longest: tokens of the longest row.
        ways: predictions for ways of spreading the run, each with its best settings; empty for one GPU.
        auto: the way that ``sharding: auto`` takes.
        why: why it takes that way.
        settings: predictions for every setting, where the run is spread as chosen.
        estimates: sentences that say what in the predictions is an estimate, not compared with a measurement.
    """

    card: Card
    processes: int
    batch: int
    longest: int
    ways: tuple[Way, ...]
    auto: str
    why: str
    settings: tuple[Setting, ...]
    estimates: tuple[str, ...]


def what_fits(config: Config, plan: TuningPlan, choices: Choices, predictor: Predictor, *, assumed: bool) -> WhatFits:
    """Predict every setting of a run, and on several GPUs every way of spreading it.

    Args:
        choices: how the run is made fast.
        predictor: predicts the run where it is spread as chosen.
        assumed: whether the predictor's rows are assumed, not rows of the run's data.
    """
    schedule, rows, settings = plan.schedule, plan.schedule.train_rows, []
    kernels: tuple[Kernels, ...] = ("compiled", "liger", "plain")
    for kind, checkpointing in ((kind, checkpointing) for kind in kernels for checkpointing in (False, True)):
        setting = replace(choices, batch=schedule.batch, kernels=kind, gradient_checkpointing=checkpointing)
        step = predictor.step_seconds(setting, schedule.accumulation)
        epoch = (
            step * math.ceil(rows / schedule.batch / schedule.processes) / schedule.accumulation
            if step and rows
            else None
        )
        chosen = (kind, checkpointing) == (choices.kernels, choices.gradient_checkpointing)
        peak, largest = predictor.peak(setting), predictor.largest_batch(setting)
        settings.append(Setting(kind, checkpointing, peak, largest, step, epoch, chosen))
    ways = []
    for sharding in dict.fromkeys((*_SHOWN, choices.sharding)) if schedule.processes > 1 else ():
        there = predictor.spread(sharding, schedule.processes)
        setting = choose(config, plan, there, sharding)
        step, largest = there.step_seconds(setting, schedule.accumulation), there.largest_batch(setting)
        speed = schedule.global_batch / step if step else None
        memory, chosen = there.memory(setting), sharding == choices.sharding
        ways.append(Way(sharding, memory, memory.peak, largest, step, speed, chosen))
    longest = max(row.tokens for row in predictor.rows)
    family, trained, estimates = find(plan.model_type), predictor.trained, []
    if assumed:
        estimates.append("no data is given: every row is assumed to be a 1024x768 image and 350 tokens of text")
    if predictor.card.rate is None:
        estimates.append("times can only be predicted for a named card, e.g. --gpu H100")
    elif not predictor.card.measured:
        estimates.append(f"the speed of {predictor.card.name} is from its data sheet")
    measured = family.measured if family else {}
    spread = [each.sharding for each in ways] or ["one"]
    if unmeasured := [way for way in spread if predictor.sizes.width not in measured.get(way, ())]:
        what = f" for {', '.join(unmeasured)}: not measured on several GPUs" if ways else ": not measured"
        estimates.append(f"an estimate{what} with a model of this size")
    elif set(trained.parts) - {"aligner"} or trained.method != "modules_to_save":
        estimates.append("an estimate: measured with modules_to_save on the aligner")
    if predictor.sizes.state:
        estimates.append("linear attention is counted without flash-linear-attention, with which nothing was measured")
    auto, why = automatic(config, plan, predictor)
    return WhatFits(
        predictor.card,
        schedule.processes,
        schedule.batch,
        longest,
        tuple(ways),
        auto,
        why,
        tuple(settings),
        tuple(estimates),
    )
