"""Choices and predictions, as lines and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from swiftalign.plan.plan import TuningPlan
from swiftalign.speed.cards import Card
from swiftalign.speed.choices import Choices, Outlook
from swiftalign.speed.memory import How, Kernels


@dataclass(frozen=True)
class Setting:
    """What a batch takes with some kernels, with or without checkpointing.

    Attributes:
        peak: bytes that the largest batch of the run takes, without CUDA's own context.
        largest_batch: rows; 0 where not even one fits.
        step_seconds: of an optimizer step; None where the card's speed is not known.
        epoch_seconds: of a pass over the data; None likewise, or without data.
        chosen: whether a run on this card trains so.
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
        batch: rows of the run's batches.
        longest: tokens of the longest row.
        estimates: what of this was not measured.
    """

    card: Card
    batch: int
    longest: int
    settings: tuple[Setting, ...]
    estimates: tuple[str, ...]

    @classmethod
    def of(cls, outlook: Outlook, plan: TuningPlan, choices: Choices, *, assumed: bool) -> WhatFits:
        """
        Args:
            assumed: the rows are not of the run's data.
        """
        settings = tuple(
            _setting(outlook, plan, choices, kernels, checkpointing=checkpointing)
            for kernels in ("compiled", "liger", "plain")
            for checkpointing in (False, True)
        )
        longest = max(row.tokens for row in outlook.rows)
        return cls(outlook.card, plan.schedule.batch, longest, settings, tuple(_estimates(outlook, plan, assumed)))


def _setting(outlook: Outlook, plan: TuningPlan, choices: Choices, kernels: Kernels, *, checkpointing: bool) -> Setting:
    how = How(checkpointing, choices.padding_free, kernels, choices.frozen_fp8)
    schedule = plan.schedule
    seconds, rows = outlook.seconds(schedule.batch, how), schedule.train_rows
    return Setting(
        kernels,
        checkpointing,
        outlook.peak(schedule.batch, how),
        outlook.largest_batch(how),
        seconds and seconds * schedule.accumulation,
        seconds * math.ceil(rows / schedule.batch) if seconds and rows else None,
        (kernels, checkpointing) == (choices.kernels, choices.gradient_checkpointing),
    )


_MEASURED_WIDTHS = (2560, 4096)  # of the LLM: the 4B's and the 8B's


def _estimates(outlook: Outlook, plan: TuningPlan, assumed: bool) -> Iterator[str]:
    """What the figures rest on, where that is not a measurement."""
    if assumed:
        yield "no data: each row is taken for a 1024x768 image and 350 tokens of text"
    if outlook.card.rate is None:
        yield "times need the card's name, as --gpu H100"
    elif not outlook.card.measured:
        yield f"the speed of {outlook.card.name} is from its data sheet"
    if plan.model_type != "qwen3_vl" or outlook.sizes.width not in _MEASURED_WIDTHS:
        yield "an estimate: measured with the 4B and the 8B on one H100"
    elif outlook.trained.llm or outlook.trained.vit or outlook.trained.method != "modules_to_save":
        yield "an estimate: measured with modules_to_save on the aligner"
