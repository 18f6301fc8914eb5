"""What fits on a card, and how fast it trains: predictions for every setting that a run may have."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from swiftalign.model.families import find
from swiftalign.plan.plan import TuningPlan
from swiftalign.speed.cards import Card
from swiftalign.speed.choices import Choices, Kernels
from swiftalign.speed.predictor import Predictor


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
class WhatFits:
    """Predictions for a run on a card.

    Attributes:
        card: the GPU that each process trains on.
        batch: rows per batch of the run.
        longest: tokens of the longest row.
        settings: predictions for every setting.
        estimates: sentences that say what in the predictions is an estimate, not compared with a measurement.
    """

    card: Card
    batch: int
    longest: int
    settings: tuple[Setting, ...]
    estimates: tuple[str, ...]


def what_fits(predictor: Predictor, plan: TuningPlan, choices: Choices, *, assumed: bool) -> WhatFits:
    """Predict every setting of a run.

    Args:
        assumed: whether the predictor's rows are assumed, not rows of the run's data.
    """
    schedule, rows, settings = plan.schedule, plan.schedule.train_rows, []
    kernels: tuple[Kernels, ...] = ("compiled", "liger", "plain")
    for kind, checkpointing in ((kind, checkpointing) for kind in kernels for checkpointing in (False, True)):
        setting = replace(choices, batch=schedule.batch, kernels=kind, gradient_checkpointing=checkpointing)
        peak, largest, seconds = predictor.peak(setting), predictor.largest_batch(setting), predictor.seconds(setting)
        step = seconds and seconds * schedule.accumulation
        epoch = seconds * math.ceil(rows / schedule.batch) if seconds and rows else None
        chosen = (kind, checkpointing) == (choices.kernels, choices.gradient_checkpointing)
        settings.append(Setting(kind, checkpointing, peak, largest, step, epoch, chosen))
    longest = max(row.tokens for row in predictor.rows)
    family, trained, estimates = find(plan.model_type), predictor.trained, []
    if assumed:
        estimates.append("no data is given: every row is assumed to be a 1024x768 image and 350 tokens of text")
    if predictor.card.rate is None:
        estimates.append("times can only be predicted for a named card, e.g. --gpu H100")
    elif not predictor.card.measured:
        estimates.append(f"the speed of {predictor.card.name} is from its data sheet")
    if family is None or predictor.sizes.width not in family.measured_widths:
        estimates.append("an estimate: measured with the 4B and the 8B on one H100")
    elif set(trained.parts) - {"aligner"} or trained.method != "modules_to_save":
        estimates.append("an estimate: measured with modules_to_save on the aligner")
    return WhatFits(predictor.card, schedule.batch, longest, tuple(settings), tuple(estimates))
