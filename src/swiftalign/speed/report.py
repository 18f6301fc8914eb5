"""Choices and predictions, as lines and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, get_args

from swiftalign.plan import TuningPlan
from swiftalign.speed.cards import GIB
from swiftalign.speed.choices import Choices, Outlook
from swiftalign.speed.memory import How, Kernels


def choice_lines(choices: Choices) -> Iterator[str]:
    """Every choice, with its reason."""
    for name, reason in choices.reasons.items():
        value = getattr(choices, name)
        yield f"{name}: {str(value).lower() if isinstance(value, bool) else value} ({reason})"
    if choices.peak is not None:
        seconds = f", {choices.seconds:.2f} s a batch" if choices.seconds else ""
        yield f"predicted: {choices.peak / GIB:.1f} GiB at most{seconds}"


@dataclass(frozen=True)
class Setting:
    """One line of what fits.

    Attributes:
        peak: bytes that the run's own largest batch takes, with the CUDA context left out.
        largest_batch: rows; 0 where not even one fits.
        step_seconds: of an optimizer step at the run's own batch.
        epoch_seconds: of a pass over the data.
    """

    kernels: Kernels
    gradient_checkpointing: bool
    peak: int
    largest_batch: int
    step_seconds: float | None
    epoch_seconds: float | None


def settings(outlook: Outlook, plan: TuningPlan, *, padding_free: bool) -> list[Setting]:
    """What fits, and how long it takes, with and without checkpointing."""
    found = []
    for kernels in reversed(get_args(Kernels)):
        for checkpointing in (False, True):
            how = How(checkpointing, padding_free, kernels)
            batch, rows = plan.schedule.batch, plan.schedule.train_rows
            seconds = outlook.seconds(batch, how)
            each = seconds / plan.schedule.processes if seconds else None
            found.append(
                Setting(
                    kernels,
                    checkpointing,
                    outlook.peak(batch, how),
                    outlook.largest_batch(how),
                    seconds * plan.schedule.accumulation if seconds else None,
                    each * math.ceil(rows / batch) if each and rows else None,
                )
            )
    return found


def outlook_json(outlook: Outlook, found: list[Setting], estimates: list[str]) -> dict[str, Any]:
    """What ``inspect-params --gpu --json`` adds."""
    return {
        "gpu": {"name": outlook.card.name, "memory_bytes": outlook.card.memory},
        "settings": [asdict(each) for each in found],
        "estimates": estimates,
    }


def estimates(outlook: Outlook, plan: TuningPlan, *, assumed: bool) -> list[str]:
    """What of the predictions was not measured."""
    told = []
    if assumed:
        told.append("no rows were counted: each is taken for a 1024x768 image and 350 tokens of text")
    if outlook.card.rate is None:
        told.append("the card's speed is not known from its memory: name it (--gpu H100) to see times")
    elif not outlook.card.measured:
        told.append(f"the speed of {outlook.card.name} is taken from its data sheet")
    if plan.model_type != "qwen3_vl" or outlook.parameters > 10e9:
        told.append("models other than the dense ones up to 8B were not measured")
    if plan.schedule.processes > 1 or outlook.shards > 1:
        told.append("several GPUs were not measured")
    if outlook.trained.llm or outlook.trained.vit:
        told.append("training more than the aligner was not measured")
    return told
