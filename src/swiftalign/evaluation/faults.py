"""What is wrong with an answer, and which answers are the worst."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from swiftalign.data.accuracy import HITS
from swiftalign.evaluation.predictions import Prediction
from swiftalign.evaluation.summary import Counts, confused, counts

Fault = Literal["missed", "off", "extra", "label", "malformed", "failed"]
FAULTS: dict[Fault, str] = {
    "missed": "an object was not found",
    "off": "an object was found, but not where it is",
    "extra": "an object was found that is not there",
    "label": "an object has another label",
    "malformed": "the answer is not well-formed",
    "failed": "the model could not be asked",
}


@dataclass(frozen=True)
class Judged:
    """Which targets of an answer are right.

    Attributes:
        prediction: the answer.
        missed: numbers of the other true targets.
        off: numbers of true targets, and of the predicted ones that they are paired with, which are not hits.
        extra: numbers of the other predicted targets.
        label: numbers of true targets, and of predicted ones that are where they are but have another label.
        count: the counts of all kinds.
    """

    prediction: Prediction
    missed: frozenset[int]
    off: dict[int, int]
    extra: frozenset[int]
    label: dict[int, int]
    count: Counts

    @property
    def faults(self) -> list[Fault]:
        """The kinds of fault that the answer has."""
        if self.prediction.error:
            return ["failed"]
        malformed = not self.prediction.answer.sound
        found = {"missed": self.missed, "off": self.off, "extra": self.extra, "label": self.label}
        return [fault for fault in FAULTS if (malformed if fault == "malformed" else found.get(fault))]

    @property
    def badness(self) -> tuple[float, float, float]:
        """What answers are sorted by, the worst first: those not asked last; then the F1; then the mean cost."""
        f1 = 1.0 if self.count.f1 is None else self.count.f1
        if not self.prediction.answer.sound:
            f1 = min(f1, 0.999)
        return float(bool(self.prediction.error)), f1, -(self.count.mean_cost or 0.0)


def judge(prediction: Prediction) -> Judged:
    """Say which targets of an answer are right."""
    truth, written = prediction.question.truth, prediction.answer.targets
    label = dict(confused(prediction))
    far = [pair for pair in prediction.pairs if pair.cost > HITS[truth[pair.true].kind][0]]
    off = {pair.true: pair.predicted for pair in far if pair.true not in label and pair.predicted not in label.values()}
    hits = [pair for pair in prediction.pairs if pair not in far]
    known = {pair.true for pair in hits} | off.keys() | label.keys()
    used = {pair.predicted for pair in hits} | set(off.values()) | set(label.values())
    return Judged(
        prediction,
        frozenset(range(len(truth))) - known,
        off,
        frozenset(range(len(written))) - used,
        label,
        sum(counts([prediction]).values(), Counts()),
    )


def worst_first(predictions: Iterable[Prediction]) -> list[Judged]:
    """All answers, the worst first."""
    return sorted(map(judge, predictions), key=lambda each: each.badness)
