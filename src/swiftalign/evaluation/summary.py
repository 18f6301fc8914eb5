"""What predictions come to: recall, precision and F1 by kind, label, size and file; labels that are mixed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from swiftalign.data.accuracy import HITS, pairs
from swiftalign.data.metrics import BY_DISTANCE
from swiftalign.data.polygons import Floats
from swiftalign.data.targets import KINDS, Kind, TextTarget
from swiftalign.data.words import label_key
from swiftalign.evaluation.predictions import Prediction
from swiftalign.evaluation.questions import Question

# By the area of the box around a target, in pixels: COCO's sizes.
SIZES = (("small", 32**2), ("medium", 96**2), ("large", float("inf")))
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

    @property
    def recall(self) -> float | None:
        """Share of the true targets that were hit."""
        return _ratio(self.hits, self.true)

    @property
    def recall75(self) -> float | None:
        """Share of the true targets that were hit at the stricter limit."""
        return _ratio(self.close, self.true)

    @property
    def precision(self) -> float | None:
        """Share of the predicted targets that are hits."""
        return _ratio(self.hits, self.predicted)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of recall and precision."""
        return _ratio(2 * self.hits, self.true + self.predicted)

    @property
    def f1_75(self) -> float | None:
        """Harmonic mean of recall and precision at the stricter limit."""
        return _ratio(2 * self.close, self.true + self.predicted)

    @property
    def mean_cost(self) -> float | None:
        """Mean over the true targets of 1 - IoU, or of the distance."""
        return _ratio(self.cost, self.true)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def counts_json(kind: Kind, count: Counts) -> dict[str, Any]:
    """The counts of a kind and their ratios; None for a ratio of nothing."""
    found: dict[str, Any] = {"kind": kind, "true": count.true, "predicted": count.predicted}
    found |= {name: getattr(count, name) for name in ("recall", "precision", "f1", "recall75", "f1_75")}
    mean = count.mean_cost
    if kind in BY_DISTANCE:
        return found | {"mean_distance": mean}
    return found | {"mean_iou": None if mean is None else 1 - mean}


Key = Callable[[Question, TextTarget], str]


def of_kind(question: Question, target: TextTarget) -> str:
    """One group for all targets of a kind."""
    return ""


def size_of(question: Question, target: TextTarget) -> str:
    """small, medium or large, by the area of the box around a target; "-" for lines and points, which have none."""
    if target.kind in BY_DISTANCE:
        return "-"
    wide, high = question.size
    xs, ys = zip(*target.points, strict=True)
    area = (max(xs) - min(xs)) * (max(ys) - min(ys)) * wide * high / 1e6
    return next(name for name, most in SIZES if area < most)


# What is told apart within each kind. The size of a predicted target is its own.
GROUPS: dict[str, Key] = {
    "kind": of_kind,
    "label": lambda question, target: label_key(target.label),
    "size": size_of,
    "source": lambda question, target: question.source,
}


def counts(predictions: Iterable[Prediction], key: Key = of_kind) -> dict[tuple[Kind, str], Counts]:
    """The counts by kind of target and by a key. Malformed items have a kind alone."""
    sums: dict[tuple[Kind, str], Counts] = {}

    def add(kind: Kind, group: str, more: Counts) -> None:
        sums[kind, group] = sums.get((kind, group), Counts()) + more

    for prediction in predictions:
        question, partner = prediction.question, {pair.true: pair.cost for pair in prediction.pairs}
        for number, target in enumerate(question.truth):
            cost = partner.get(number, 1.0)
            hits, close = (number in partner and cost <= most for most in HITS[target.kind])
            add(target.kind, key(question, target), Counts(1, 0, int(hits), int(close), cost))
        for target in prediction.answer.targets:
            add(target.kind, key(question, target), Counts(predicted=1))
        for kind in prediction.answer.malformed if key is of_kind else ():
            if kind:
                add(kind, "", Counts(predicted=1))
    return sums


def metrics(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Numbers 0..1 by the names of `METRICS`, for each kind that the truth has; nothing of no predictions.

    ``bbox_acc``, ``quad_acc`` and so on are shares of the true objects that were hit, ``..._precision`` of the
    predicted ones; for ``..._acc75`` a hit has IoU >= 0.75; ``..._iou`` and ``..._distance`` are means over the
    true objects, where a miss has IoU 0 or distance 1; ``malformed_answers`` is the share of answers that are not
    wholly well-formed.
    """
    values: dict[str, float] = {}
    found = counts(predictions)
    for kind in KINDS:
        count = found.get((kind, ""), Counts())
        if not count.true:
            continue
        values[f"{kind}_acc"] = count.hits / count.true
        values[f"{kind}_precision"] = count.precision or 0.0
        if kind in BY_DISTANCE:
            values[f"{kind}_distance"] = count.cost / count.true
        else:
            values[f"{kind}_acc75"] = count.close / count.true
            values[f"{kind}_iou"] = 1 - count.cost / count.true
    if predictions:
        values["malformed_answers"] = sum(not each.answer.sound for each in predictions) / len(predictions)
    return values


def confused(prediction: Prediction) -> list[tuple[int, int]]:
    """Numbers of a true target and of a predicted one that is where it is, of the same kind but of another label.

    Targets that were hit under their own label are not among them.
    """
    sides = prediction.question.truth, prediction.answer.targets
    hits = [pair for pair in prediction.pairs if pair.cost <= HITS[sides[0][pair.true].kind][0]]
    taken = {pair.true for pair in hits}, {pair.predicted for pair in hits}
    left = [[n for n in range(len(side)) if n not in own] for side, own in zip(sides, taken, strict=True)]
    bare, others = ([replace(side[n], label="") for n in numbers] for side, numbers in zip(sides, left, strict=True))
    found = [
        pair for pair in pairs(bare, others, *prediction.question.size) if pair.cost <= HITS[bare[pair.true].kind][0]
    ]
    return [(left[0][pair.true], left[1][pair.predicted]) for pair in found]


def confusion(predictions: Iterable[Prediction]) -> Counter[tuple[str, str]]:
    """How often an object of the first label was found, and called by the second."""
    return Counter(
        (each.question.truth[true].label, each.answer.targets[written].label)
        for each in predictions
        for true, written in confused(each)
    )


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
    drawn = np.random.default_rng(0).multinomial(len(mine), [1 / len(mine)] * len(mine), RESAMPLES)
    found: dict[Kind, Difference] = {}
    tables = [[counts([prediction]) for prediction in side] for side in (mine, theirs)]
    for kind in KINDS:
        if not any(target.kind == kind for prediction in mine for target in prediction.question.truth):
            continue
        each = [[row.get((kind, ""), Counts()) for row in rows] for rows in tables]
        ours, others = (np.array([(c.hits, c.true + c.predicted) for c in rows], dtype=np.float64) for rows in each)
        spread = _f1(drawn @ ours) - _f1(drawn @ others)
        low, high = np.nanpercentile(spread, (2.5, 97.5))
        found[kind] = Difference(float(_f1(ours.sum(0)) - _f1(others.sum(0))), float(low), float(high))
    return found


def _f1(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(2 * sums[..., 0] / sums[..., 1])
