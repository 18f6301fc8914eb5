"""How much of the targets augmentation moves out of the image, by operation: computed from points, without pixels.

Drift is the share of a target's area, or of a line's length, that lies outside the image after augmentation, averaged
over all targets of all samples, dropped ones included. 0 means nothing, 1 everything.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from swiftalign.augment.draws import Step
from swiftalign.augment.pipeline import Pipeline, Placement, blank, is_geometric
from swiftalign.config.augmentation import AugmentationSection
from swiftalign.data.images import image_size, open_image
from swiftalign.data.records import Row
from swiftalign.data.sizes import PixelLimits
from swiftalign.data.targets import KINDS

TIMED_ROWS = 8  # rows whose images are augmented, to measure the time
INFLATED = 1.005  # a box with a larger inflation counts as larger than its object
ALL = "all"


@dataclass(frozen=True)
class OperationEffect:
    """Effect of one operation, or of all together, on the targets of one kind, or of all kinds.

    Attributes:
        operation: name of the operation; ``all`` for all together.
        kind: kind of the targets; ``all`` for every kind.
        mean_inflation: mean inflation of the boxes that were not cut: a box's area over the area of the outline in it;
            None without boxes.
        max_inflation: highest inflation of the boxes that were not cut; None without boxes.
        drift: drift (see the module) over the targets of all samples, so that operations can be compared.
        samples: number of samples in which the operation was applied.
        targets: number of targets in those samples.
        clipped: number of targets that were kept although a part lies outside the image.
        dropped: number of targets that were dropped because too little of them was left.
        inflated: number of boxes that are larger than the outline in them.
    """

    operation: str
    kind: str
    mean_inflation: float | None
    max_inflation: float | None
    drift: float
    samples: int = 0
    targets: int = 0
    clipped: int = 0
    dropped: int = 0
    inflated: int = 0


@dataclass(frozen=True)
class DriftReport:
    """Effect of a configuration's augmentation on targets.

    Attributes:
        rows: number of rows.
        samples: number of samples: rows times epochs.
        passed_over: number of rows in which nothing moves, as in rows whose text can't be understood.
        bypassed: number of samples that are left as they are, because of bypass_prob.
        effects: effect of each operation that moves points, alone and with the draws that it has in the pipeline, by
            kind; then of all operations together.
        left_out: operation -> reason -> number of samples in which the operation was drawn but not applied.
        seconds_per_image: median time to open and augment one image, over a few of the rows; None if nothing was timed.
    """

    rows: int
    samples: int
    passed_over: int
    bypassed: int
    effects: tuple[OperationEffect, ...]
    left_out: dict[str, dict[str, int]]
    seconds_per_image: float | None

    @property
    def drift(self) -> float:
        """Drift of all operations together, over all kinds."""
        return next((effect.drift for effect in self.effects if (effect.operation, effect.kind) == (ALL, ALL)), 0.0)

    @property
    def worst(self) -> OperationEffect | None:
        """The operation with the highest drift alone; None where no operation has any."""
        single = [effect for effect in self.effects if effect.operation != ALL and effect.kind == ALL and effect.drift]
        return max(single, key=lambda effect: effect.drift, default=None)

    def to_json(self) -> dict[str, Any]:
        worst = self.worst
        return asdict(self) | {"drift": self.drift, "worst": worst and worst.operation}


@dataclass
class _Tally:
    """Sums over the targets of one operation and one kind.

    Attributes:
        counts: numbers of samples and targets, under their names in `OperationEffect`.
        lost: sum of the shares outside the image.
        inflations: inflation of each box that was not cut.
    """

    counts: Counter[str] = field(default_factory=Counter)
    lost: float = 0.0
    inflations: list[float] = field(default_factory=list)


def measure_drift(
    rows: Iterable[tuple[int, Row]],
    settings: AugmentationSection,
    limits: PixelLimits,
    epochs: Sequence[int],
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> DriftReport:
    """Measure the effect of augmentation on the targets of rows; except for a few, only image headers are read.

    Args:
        rows: rows with their numbers, on which the draws depend.
        settings: the augmentation.
        limits: limits of the size of the images that the model gets.
        epochs: epochs whose draws are measured.
        progress: called with the number of each row, counted from 1.

    Raises:
        DataError: an image can't be read.
    """
    together = Pipeline(settings, limits)
    pipelines = {name: Pipeline(alone, limits) for name, alone in _alone(settings)} | {ALL: together}
    tallies: dict[tuple[str, str], _Tally] = defaultdict(_Tally)  # by operation and kind
    left_out: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: list[float] = []
    count = passed_over = bypassed = 0
    for count, (number, row) in enumerate(rows, 1):
        progress(count)
        if row.wording.fixed:
            passed_over += 1
            continue
        images = [image for image in row.images if image is not None]
        sizes = [image_size(image) for image in images]
        record = row.record(sizes, limits)
        for epoch in epochs:
            for name, pipeline in pipelines.items():
                placements, _ = pipeline.places([*map(blank, sizes)], record, epoch=epoch, row=number)
                for placement in placements:
                    if name == ALL or any(step.name == name.partition(" ")[0] for step in placement.replay.steps):
                        _count(tallies, name, placement)
            bypassed += placements[0].replay.bypassed
            for entry in placements[0].replay.left_out:  # of all operations together
                operation, _, reason = entry.partition(": ")
                left_out[operation][reason] += 1
        if len(seconds) < TIMED_ROWS:
            begin = time.perf_counter()
            together.row([*map(open_image, images)], record, epoch=epochs[0], row=number)
            seconds.append(time.perf_counter() - begin)
    effects = []
    for name, kind in itertools.product(pipelines, (*KINDS, ALL)):
        if tally := tallies.get((name, kind)):
            targets = tallies[ALL, kind].counts["targets"]
            mean = statistics.fmean(tally.inflations) if tally.inflations else None
            most, drift = max(tally.inflations, default=None), tally.lost / targets if targets else 0.0
            effects.append(OperationEffect(name, kind, mean, most, drift, **tally.counts))
    reasons = {name: dict(counts) for name, counts in left_out.items()}
    median = statistics.median(seconds) if seconds else None
    return DriftReport(count, count * len(epochs), passed_over, bypassed, tuple(effects), reasons, median)


def _alone(settings: AugmentationSection) -> Iterator[tuple[str, AugmentationSection]]:
    """Each operation that moves points, with settings that apply only this operation, with unchanged draws."""
    # An operation with probability 0 takes its random numbers, but is not applied.
    never = [
        item.model_copy(update={"params": item.params.model_copy(update={"prob": 0.0})}) for item in settings.operations
    ]
    names = Counter[str]()
    for index, operation in enumerate(settings.operations):
        names[operation.name] += 1
        if is_geometric(Step(operation.name, {"arguments": operation.params.model_extra or {}})):
            name = operation.name if names[operation.name] == 1 else f"{operation.name} #{names[operation.name]}"
            ops = [*never[:index], operation, *never[index + 1 :]]
            yield name, settings.model_copy(update={"preset": None, "ops": ops})


def _count(tallies: dict[tuple[str, str], _Tally], name: str, placement: Placement) -> None:
    targets = placement.record.targets
    for kind in {ALL, *(target.kind for target in targets)}:
        tallies[name, kind].counts["samples"] += 1
    for target, outcome in zip(targets, placement.outcomes, strict=True):
        for tally in (tallies[name, ALL], tallies[name, target.kind]):
            kept = outcome.target is not None
            tally.counts.update(targets=1, clipped=int(outcome.clipped and kept), dropped=int(not kept))
            tally.lost += 1 - outcome.visible
            # Of a box that was cut, it is not known how tight it is.
            if target.kind == "bbox" and outcome.target and outcome.target.kind == "bbox" and not outcome.clipped:
                tally.inflations.append(outcome.inflation)
                tally.counts["inflated"] += outcome.inflation > INFLATED
