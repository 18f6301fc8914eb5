"""How much augmentation takes from the targets, by operation: computed on points alone, without reading images.

Drift is the share of the targets that comes to lie outside the image: of each target's area, or of a line's length,
averaged over all targets of all samples, dropped ones too. 0 is nothing, 1 is everything.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from swiftalign.augment.draws import Step
from swiftalign.augment.pipeline import Pipeline, Placement, blank, is_geometric
from swiftalign.augment.targets import Outcome
from swiftalign.config.augmentation import AugmentationSection, Operation
from swiftalign.data.formats.own import GroundingRow
from swiftalign.data.images import image_size, open_image
from swiftalign.data.records import KINDS, Kind, Record, Row
from swiftalign.data.tokens import PixelLimits

TIMED_ROWS = 8  # whose images are really augmented, to tell the seconds
INFLATED = 1.005  # from here on a box counts as larger than what it holds


@dataclass(frozen=True)
class Toll:
    """What one operation, or all together, took from the targets of one kind, or of all.

    Attributes:
        operation: its name; ``all`` for all together.
        kind: of the targets; ``all`` for every kind.
        samples: in which it was applied.
        targets: in those samples.
        clipped: kept, though a part lies outside the image.
        dropped: of which too little stayed.
        inflated: boxes that are larger than what they hold.
        mean_inflation: of the boxes not cut, their area over that of the outline that they wrap; None without boxes.
        max_inflation: likewise.
        drift: see the module; over the targets of all samples, so that operations can be compared.
    """

    operation: str
    kind: str
    samples: int
    targets: int
    clipped: int
    dropped: int
    inflated: int
    mean_inflation: float | None
    max_inflation: float | None
    drift: float


@dataclass(frozen=True)
class DriftReport:
    """What a configuration's augmentation does to targets.

    Attributes:
        rows: looked at.  samples: rows times epochs.
        passed_over: rows in ms-swift's own layout, of which nothing moves.
        tolls: each moving operation alone on the draws that it has in the pipeline, by kind; then all together.
        left_out: operation -> reason -> samples in which it was drawn and not applied.
        seconds_per_image: median to open and augment one image, over a few of the rows; None where there is none.
    """

    rows: int
    samples: int
    passed_over: int
    tolls: tuple[Toll, ...]
    left_out: dict[str, dict[str, int]]
    seconds_per_image: float | None

    @property
    def drift(self) -> float:
        """Of all operations together, over all kinds."""
        return next((toll.drift for toll in self.tolls if (toll.operation, toll.kind) == ("all", "all")), 0.0)

    @property
    def worst(self) -> Toll | None:
        """The operation that alone takes most; None where none takes anything."""
        single = [toll for toll in self.tolls if toll.operation != "all" and toll.kind == "all" and toll.drift > 0]
        return max(single, key=lambda toll: toll.drift, default=None)

    def to_json(self) -> dict[str, Any]:
        worst = self.worst
        return asdict(self) | {"drift": self.drift, "worst": worst and worst.operation}


def measure_drift(
    rows: Iterable[tuple[int, Row]],
    settings: AugmentationSection,
    limits: PixelLimits,
    epochs: Sequence[int],
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> DriftReport:
    """What the augmentation takes from the targets of rows; of images only headers are read, but for a few.

    Args:
        rows: each with its number, on which its draws depend.
        progress: told the number of rows done.

    Raises:
        DataError: an image can't be read.
    """
    single = {name: Pipeline(alone, limits) for name, alone in _alone(settings)}
    together, tallies = Pipeline(settings, limits), _Tallies()
    timed: list[float] = []
    count = passed_over = 0
    for count, (number, row) in enumerate(rows, 1):
        if isinstance(row, GroundingRow):
            size = image_size(row.images[0])
            record, image = row.record(*size), blank(size)
            for epoch in epochs:
                tallies.add("all", together.place(image, record, epoch=epoch, row=number))
                for name, alone in single.items():
                    tallies.add(name, alone.place(image, record, epoch=epoch, row=number))
            if len(timed) < TIMED_ROWS:
                timed.append(_seconds(together, record, epochs[0], number))
        else:
            passed_over += 1
        progress(count)
    names = (*single, "all")
    seconds = statistics.median(timed) if timed else None
    return DriftReport(count, count * len(epochs), passed_over, tallies.tolls(names), tallies.left_out(), seconds)


def _seconds(pipeline: Pipeline, record: Record, epoch: int, row: int) -> float:
    begin = time.perf_counter()
    pipeline(open_image(record.images[0]), record, epoch=epoch, row=row)
    return time.perf_counter() - begin


def _alone(settings: AugmentationSection) -> list[tuple[str, AugmentationSection]]:
    """Each operation that moves points, with settings under which only it applies, with unchanged draws."""
    operations, names = settings.operations, Counter[str]()
    found = []
    for index, operation in enumerate(operations):
        names[operation.name] += 1
        if is_geometric(Step(operation.name, {"arguments": operation.params.model_extra or {}})):
            name = operation.name if names[operation.name] == 1 else f"{operation.name} #{names[operation.name]}"
            others = [item if place == index else _never(item) for place, item in enumerate(operations)]
            found.append((name, settings.model_copy(update={"preset": None, "ops": others})))
    return found


def _never(operation: Operation) -> Operation:
    """The operation with probability 0: it takes its random numbers, and is not applied."""
    return operation.model_copy(update={"params": operation.params.model_copy(update={"prob": 0.0})})


@dataclass
class _Tally:
    """Of one operation and one kind."""

    samples: int = 0
    targets: int = 0
    clipped: int = 0
    dropped: int = 0
    inflations: list[float] = field(default_factory=list)
    lost: float = 0.0

    def add(self, kind: Kind, outcome: Outcome) -> None:
        self.targets += 1
        self.clipped += outcome.clipped and outcome.target is not None
        self.dropped += outcome.target is None
        self.lost += 1 - outcome.visible
        # A box that was cut says nothing about how tight it is.
        if kind == "bbox" and outcome.target is not None and outcome.target.kind == "bbox" and not outcome.clipped:
            self.inflations.append(outcome.inflation)


class _Tallies:
    """By operation and kind."""

    def __init__(self) -> None:
        self._by: dict[tuple[str, str], _Tally] = {}
        self._left_out: dict[str, Counter[str]] = {}

    def add(self, name: str, placement: Placement) -> None:
        if name == "all":
            for entry in placement.replay.left_out:
                operation, _, reason = entry.partition(": ")
                self._left_out.setdefault(operation, Counter())[reason] += 1
        elif all(step.name != name.partition(" ")[0] for step in placement.replay.steps):
            return  # not drawn, or left out
        kinds = {target.kind for target in placement.record.targets}
        for kind in ("all", *kinds):
            self._tally(name, kind).samples += 1
        for target, outcome in zip(placement.record.targets, placement.outcomes, strict=True):
            for kind in ("all", target.kind):
                self._tally(name, kind).add(target.kind, outcome)

    def _tally(self, name: str, kind: str) -> _Tally:
        return self._by.setdefault((name, kind), _Tally())

    def left_out(self) -> dict[str, dict[str, int]]:
        return {name: dict(reasons) for name, reasons in self._left_out.items()}

    def tolls(self, names: Sequence[str]) -> tuple[Toll, ...]:
        keys = [(name, kind) for name in names for kind in (*KINDS, "all")]
        return tuple(self._toll(*key, self._by[key]) for key in keys if key in self._by)

    def _toll(self, name: str, kind: str, tally: _Tally) -> Toll:
        values = tally.inflations
        return Toll(
            operation=name,
            kind=kind,
            samples=tally.samples,
            targets=tally.targets,
            clipped=tally.clipped,
            dropped=tally.dropped,
            inflated=sum(value > INFLATED for value in values),
            mean_inflation=statistics.fmean(values) if values else None,
            max_inflation=max(values, default=None),
            drift=tally.lost / self._by["all", kind].targets if tally.targets else 0.0,
        )
