"""How well a model's boxes, quads and lines meet the true ones.

Predicted and true objects are paired one to one within their kind and label (casefolded, stripped), by the assignment
with the most hits and then the least cost. The cost of a pair lies between 0 and 1:

- box, quad: 1 - IoU; a hit has IoU >= 0.5;
- line: the distance between the two, relative to the true line's length; a hit is within 5%.

Whatever stays without a partner costs 1, so means are over all true objects and a miss lowers them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from swiftalign.data.answers import Answer
from swiftalign.data.polygons import Floats, box_gaps, box_iou, distances_to, evenly_along, quad_iou, segment_lengths
from swiftalign.data.records import KINDS, Kind, TextTarget

# Highest cost of a hit, the loosest first: IoU 0.5 and 0.75; 5% of the line's length.
HITS: dict[Kind, tuple[float, ...]] = {"bbox": (0.5, 0.25), "quad": (0.5, 0.25), "line": (0.05,)}

_SAMPLES = 32  # points on a line that its mean distance is taken over


@dataclass(frozen=True)
class KindScore:
    """Sums over the objects of one kind.

    Attributes:
        truth: true objects.
        predicted: objects that the model wrote, malformed ones among them.
        hits: pairs within each of the kind's `HITS`.
        cost: over all true objects; 1 for a miss.
    """

    truth: int = 0
    predicted: int = 0
    hits: tuple[int, ...] = (0, 0)
    cost: float = 0.0

    def __add__(self, other: KindScore) -> KindScore:
        hits = tuple(a + b for a, b in zip(self.hits, other.hits, strict=True))
        return KindScore(self.truth + other.truth, self.predicted + other.predicted, hits, self.cost + other.cost)

    @property
    def recall(self) -> float:
        """Share of the true objects that were hit."""
        return self.hits[0] / self.truth if self.truth else 0.0

    @property
    def precision(self) -> float:
        """Share of the predicted objects that hit one."""
        return self.hits[0] / self.predicted if self.predicted else 0.0

    @property
    def mean_cost(self) -> float:
        return self.cost / self.truth if self.truth else 0.0


def _empty() -> dict[Kind, KindScore]:
    return {kind: KindScore(hits=(0,) * len(HITS[kind])) for kind in KINDS}


@dataclass
class Scores:
    """Sums over rows; those of several processes merge into what one would have counted."""

    kinds: dict[Kind, KindScore] = field(default_factory=_empty)
    rows: int = 0
    malformed: int = 0  # answers that were broken or held malformed items

    def add(self, predicted: Answer, truth: Sequence[TextTarget], width: int, height: int) -> None:
        """Count one row.

        Args:
            predicted: what the model wrote.
            truth: what it should have written.
            width: width of the image in pixels, the unit that lines are measured in.
            height: height of the image, in pixels.
        """
        self.rows += 1
        self.malformed += not predicted.sound
        for kind in KINDS:
            wrong = KindScore(predicted=predicted.malformed.count(kind), hits=(0,) * len(HITS[kind]))
            self.kinds[kind] += wrong
        for (kind, _), (true, written) in _by_label(truth, predicted.targets).items():
            self.kinds[kind] += _score(kind, true, written, width, height)

    def merge(self, other: Scores) -> None:
        """Add another's sums to these."""
        self.kinds = {kind: score + other.kinds[kind] for kind, score in self.kinds.items()}
        self.rows += other.rows
        self.malformed += other.malformed

    def metrics(self) -> dict[str, float]:
        """Numbers 0..1 by name, for each kind that the truth has; nothing where no row was counted.

        ``bbox_acc``, ``quad_acc``, ``line_acc`` are shares of the true objects that were hit, ``..._precision`` of the
        predicted ones; ``..._acc75`` asks for IoU >= 0.75; ``..._iou`` and ``line_distance`` are means over the true
        objects, where a miss has IoU 0 or distance 1; ``malformed_answers`` is the share of answers that are not
        wholly well-formed.
        """
        values: dict[str, float] = {}
        for kind, score in self.kinds.items():
            if not score.truth:
                continue
            values[f"{kind}_acc"] = score.recall
            values[f"{kind}_precision"] = score.precision
            if kind == "line":
                values["line_distance"] = score.mean_cost
            else:
                values[f"{kind}_acc75"] = score.hits[1] / score.truth
                values[f"{kind}_iou"] = 1 - score.mean_cost
        return {**values, "malformed_answers": self.malformed / self.rows} if self.rows else {}


Group = tuple[list[TextTarget], list[TextTarget]]


def _by_label(truth: Iterable[TextTarget], predicted: Iterable[TextTarget]) -> dict[tuple[Kind, str], Group]:
    groups: dict[tuple[Kind, str], Group] = defaultdict(lambda: ([], []))
    for side, targets in enumerate((truth, predicted)):
        for target in targets:
            groups[target.kind, target.label.strip().casefold()][side].append(target)
    return groups


def _score(kind: Kind, truth: list[TextTarget], predicted: list[TextTarget], width: int, height: int) -> KindScore:
    score = KindScore(len(truth), len(predicted), (0,) * len(HITS[kind]), float(len(truth)))
    if not truth or not predicted:
        return score
    true, written = ([np.array(t.points, dtype=np.float64) for t in side] for side in (truth, predicted))
    if kind == "line":
        true, written = ([np.array(t.in_pixels(width, height).points) for t in side] for side in (truth, predicted))
        costs = line_costs(true, written)
    else:
        measure = box_costs if kind == "bbox" else quad_costs
        costs = measure(np.stack(true), np.stack(written))
    matched = _matched(costs, HITS[kind])
    hits = tuple(int((matched <= most).sum()) for most in HITS[kind])
    return replace(score, hits=hits, cost=len(truth) - len(matched) + float(matched.sum()))


def _matched(costs: Floats, limits: tuple[float, ...]) -> Floats:
    """Costs of the pairs of the best assignment.

    Each limit, from the strictest to the loosest, outweighs all that was before: the most hits at the loosest come
    first, then those at the stricter, then the least total. So no count hangs on the order of the objects.

    Args:
        costs: (true, predicted), each 0..1.
    """
    from scipy.optimize import linear_sum_assignment

    weights, above = costs, min(costs.shape) + 1.0
    for level, limit in enumerate(reversed(limits), 1):
        weights = weights - (costs <= limit) * above**level
    return np.asarray(costs[linear_sum_assignment(weights)])


def box_costs(truth: Floats, predicted: Floats) -> Floats:
    """1 - IoU of boxes: (t, 2, 2) and (p, 2, 2) corners -> (t, p)."""
    return _overlap_costs(box_iou(truth[:, None], predicted[None]), truth, predicted)


def quad_costs(truth: Floats, predicted: Floats) -> Floats:
    """1 - IoU of quads: (t, 4, 2) and (p, 4, 2) corners -> (t, p)."""
    return _overlap_costs(quad_iou(truth, predicted), truth, predicted)


def _overlap_costs(iou: Floats, truth: Floats, predicted: Floats) -> Floats:
    """1 - IoU, and 0 where all coordinates are equal: the same object even where it has no area."""
    same = (truth[:, None] == predicted[None]).all((-1, -2))
    return np.asarray(np.where(same, 0.0, np.clip(1 - iou, 0, 1)))


def line_costs(truth: Sequence[Floats], predicted: Sequence[Floats]) -> Floats:
    """Distances of polylines relative to the true one's length, at most 1: arrays of (n, 2) points in pixels -> (t, p).

    The distance of two lines is the mean of two means: of the points of either, taken evenly along it, to the nearest
    point of the other. So neither the direction of a line nor how many points draw it counts.
    """
    gaps, costs = box_gaps(truth, predicted), np.ones((len(truth), len(predicted)))
    samples = np.stack([evenly_along(line, _SAMPLES) for line in predicted])
    for row, line in enumerate(truth):
        length = segment_lengths(line).sum()
        near = np.nonzero(gaps[row] <= length)[0]
        if len(near) and length:
            there = distances_to(samples[near].reshape(-1, 2), [line]).reshape(len(near), -1).mean(1)
            back = distances_to(evenly_along(line, _SAMPLES), [predicted[column] for column in near.tolist()]).mean(0)
            costs[row, near] = np.minimum((there + back) / 2 / length, 1)
        costs[row, [np.array_equal(line, other) for other in predicted]] = 0
    return costs
