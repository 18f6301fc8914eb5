"""What predictions come to: recall, precision and F1 by kind, label, size and file; labels that are mixed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from swiftalign.data.accuracy import HITS, pairs
from swiftalign.data.metrics import BY_DISTANCE
from swiftalign.data.polygons import Floats
from swiftalign.data.targets import Kind, TextTarget
from swiftalign.evaluation.predictions import Prediction

# By the area of the box around a target, in pixels: COCO's sizes.
SIZES = (("small", 32**2), ("medium", 96**2), ("large", float("inf")))
EXAMPLES = 3  # malformed answers that are shown
RESAMPLES = 2000  # of the rows, for an interval


@dataclass(frozen=True)
class Counts:
    """Sums over targets.

    Attributes:
        true: number of true targets.
        predicted: number of predicted ones, malformed ones among them.
        hits: number of pairs that are hits at the looser of `HITS`.
        close: number of pairs that are hits at the stricter one.
        cost: sum over true targets of 1 - IoU, or of the distance; 1 for a target without a partner.
    """

    true: int = 0
    predicted: int = 0
    hits: int = 0
    close: int = 0
    cost: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.true + other.true,
            self.predicted + other.predicted,
            self.hits + other.hits,
            self.close + other.close,
            self.cost + other.cost,
        )

    def to_json(self, *, distance: bool = False, precision: bool = True) -> dict[str, Any]:
        """The counts and their ratios; None for a ratio of nothing.

        Args:
            distance: whether the cost is a distance.
            precision: whether the predicted targets of this group can be told from others.
        """
        mean = None if not self.true else self.cost / self.true if distance else 1 - self.cost / self.true
        found = {"true": self.true, "recall": _ratio(self.hits, self.true), "recall75": _ratio(self.close, self.true)}
        if precision:
            found |= {
                "predicted": self.predicted,
                "precision": _ratio(self.hits, self.predicted),
                "f1": _ratio(2 * self.hits, self.true + self.predicted),
                "f1_75": _ratio(2 * self.close, self.true + self.predicted),
            }
        return found | {"mean_distance" if distance else "mean_iou": mean}


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


Key = Callable[[Prediction, TextTarget], str]


def of_kind(prediction: Prediction, target: TextTarget) -> str:
    """One group for all targets of a kind."""
    return ""


# What is told apart within each kind. The size of a predicted target is its own.
GROUPS: dict[str, Key] = {
    "kind": of_kind,
    "label": lambda prediction, target: target.label.strip().casefold(),
    "size": lambda prediction, target: size_of(prediction, target),
    "source": lambda prediction, target: prediction.source,
}


def size_of(prediction: Prediction, target: TextTarget) -> str:
    """small, medium or large, by the area of the box around a target; lines and points have none."""
    if target.kind in BY_DISTANCE:
        return target.kind
    wide, high = prediction.size
    xs, ys = zip(*target.points, strict=True)
    area = (max(xs) - min(xs)) * (max(ys) - min(ys)) * wide * high / 1e6
    return next(name for name, most in SIZES if area < most)


def counts(predictions: Iterable[Prediction], key: Key = of_kind) -> dict[tuple[Kind, str], Counts]:
    """The counts by kind of target and by a key. Malformed items have a kind alone."""
    sums: dict[tuple[Kind, str], Counts] = {}

    def add(kind: Kind, group: str, more: Counts) -> None:
        sums[kind, group] = sums.get((kind, group), Counts()) + more

    for prediction in predictions:
        partner = {pair.true: pair.cost for pair in prediction.pairs}
        for number, target in enumerate(prediction.truth):
            cost = partner.get(number, 1.0)
            hits, close = (number in partner and cost <= most for most in HITS[target.kind])
            add(target.kind, key(prediction, target), Counts(1, 0, int(hits), int(close), cost))
        for target in prediction.answer.targets:
            add(target.kind, key(prediction, target), Counts(predicted=1))
        for kind in prediction.answer.malformed if key is of_kind else ():
            if kind:
                add(kind, "", Counts(predicted=1))
    return sums


def confusion(predictions: Iterable[Prediction]) -> Counter[tuple[str, str]]:
    """Of objects that are where a true one is: the true label and the predicted one, where they differ."""
    found: Counter[tuple[str, str]] = Counter()
    for prediction in predictions:
        paired = {pair.true for pair in prediction.pairs}, {pair.predicted for pair in prediction.pairs}
        truth, written = (
            [target for number, target in enumerate(targets) if number not in taken]
            for targets, taken in zip((prediction.truth, prediction.answer.targets), paired, strict=True)
        )
        bare, others = ([replace(target, label="") for target in side] for side in (truth, written))
        for pair in pairs(bare, others, *prediction.size):
            if pair.cost <= HITS[truth[pair.true].kind][0]:
                found[truth[pair.true].label, written[pair.predicted].label] += 1
    return found


@dataclass(frozen=True)
class Difference:
    """How much better one model is than another on the same rows.

    Attributes:
        value: the difference of the two F1.
        low: lower end of the interval that holds 95% of the differences of resampled rows.
        high: its upper end.
    """

    value: float
    low: float
    high: float


def difference(mine: Sequence[Prediction], theirs: Sequence[Prediction]) -> dict[Kind, Difference]:
    """The difference of the F1 of each kind, paired by row: rows are drawn anew, with both models' answers.

    Args:
        mine: answers of one model.
        theirs: answers of the other to the same rows, in the same order.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993: the percentile interval.
    """
    kinds = sorted({target.kind for prediction in mine for target in prediction.truth})
    drawn = np.random.default_rng(0).multinomial(len(mine), [1 / len(mine)] * len(mine), RESAMPLES)
    found = {}
    for kind in kinds:
        ours, others = (_per_row(side, kind) for side in (mine, theirs))
        spread = _f1(drawn @ ours) - _f1(drawn @ others)
        value = _f1(ours.sum(0)) - _f1(others.sum(0))
        low, high = np.nanpercentile(spread, (2.5, 97.5))
        found[kind] = Difference(float(value), float(low), float(high))
    return found


def _per_row(predictions: Sequence[Prediction], kind: Kind) -> Floats:
    """Hits, and true and predicted targets, of each row: [rows, 2]."""
    rows = [counts([prediction]) for prediction in predictions]
    each = [row.get((kind, ""), Counts()) for row in rows]
    return np.array([(count.hits, count.true + count.predicted) for count in each], dtype=np.float64)


def _f1(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(2 * sums[..., 0] / sums[..., 1])


def malformed(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """The predictions whose text is not wholly a grounding answer."""
    return (each for each in predictions if not each.answer.sound)
