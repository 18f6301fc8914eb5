"""How well a model's targets match the true ones.

Predicted and true objects of the same kind and label (as `label_key` compares them) are paired one to one, by the
assignment with the most hits and then the lowest cost. The cost of a pair lies between 0 and 1:

- box, quad, polygon: 1 - IoU; a hit has IoU >= 0.5;
- line: the distance between the two, relative to the true line's length; a hit is within 5%;
- point: the distance between the two, relative to the longer side of the image; a hit is within 5%.

A true object without a partner costs 1, so that means are over all true objects and a miss lowers them.

References:
    The share of points that are hit is the percentage of correct keypoints (Yang and Ramanan, Articulated human
    detection with flexible mixtures of parts, 2013). It is relative to the longer side of the image, not of the object,
    as the benchmark PF-PASCAL has it, because a point has no size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from swiftalign.data.metrics import BY_DISTANCE
from swiftalign.data.polygons import (
    Floats,
    box_gaps,
    box_iou,
    distances_to,
    evenly_along,
    polygon_iou,
    quad_iou,
    segment_lengths,
)
from swiftalign.data.targets import KINDS, Kind, TextTarget
from swiftalign.data.words import label_key

# Highest cost of a hit, the loosest first: IoU 0.5 and 0.75; 5% of the line's length or of the image's longer side.
HITS: dict[Kind, tuple[float, float]] = {kind: (0.05, 0.05) if kind in BY_DISTANCE else (0.5, 0.25) for kind in KINDS}

_SAMPLES = 32  # points on a line that its mean distance is taken over


class Pair(NamedTuple):
    """A true object and the predicted one that it is paired with.

    Attributes:
        true: number of the true object.
        predicted: number of the predicted one.
        cost: 0 where they are equal, at most 1; see the module.
    """

    true: int
    predicted: int
    cost: float


def pairs(truth: Sequence[TextTarget], predicted: Sequence[TextTarget], width: int, height: int) -> list[Pair]:
    """The one-to-one assignment of objects of the same kind and label with the most hits, and then the lowest cost.

    Args:
        width: width of the image in pixels, the unit that lines and points are measured in.
        height: height of the image, in pixels.
    """
    groups: dict[tuple[Kind, str], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, targets in enumerate((truth, predicted)):
        for number, target in enumerate(targets):
            groups[target.kind, label_key(target.label)][side].append(number)
    found = list[Pair]()
    for (kind, _), (true, written) in groups.items():
        if true and written:
            from scipy.optimize import linear_sum_assignment

            costs = _costs(kind, [truth[n] for n in true], [predicted[n] for n in written], width, height)
            # Most hits at the loosest limit come first, then most hits at the stricter limit, then the lowest total
            # cost. So no count depends on the order of the objects.
            weights, above = costs, min(costs.shape) + 1.0
            for level, limit in enumerate(reversed(HITS[kind]), 1):
                weights = weights - (costs <= limit) * above**level
            chosen = zip(*linear_sum_assignment(weights), strict=True)
            found += (Pair(true[row], written[column], float(costs[row, column])) for row, column in chosen)
    return sorted(found)


def _costs(kind: Kind, truth: Sequence[TextTarget], predicted: Sequence[TextTarget], width: int, height: int) -> Floats:
    """The costs of all pairs of targets of one kind -> (t, p)."""
    if kind in BY_DISTANCE:
        a, b = ([np.array(t.in_pixels(width, height).points) for t in side] for side in (truth, predicted))
        return line_costs(a, b) if kind == "line" else point_costs(a, b, max(width, height))
    if kind == "polygon":
        outlines = ([np.array(t.points, dtype=np.float64) for t in side] for side in (truth, predicted))
        return polygon_costs(*outlines)
    corners = (np.array([t.points for t in side], dtype=np.float64) for side in (truth, predicted))
    return overlap_costs(*corners)


def overlap_costs(truth: Floats, predicted: Floats) -> Floats:
    """1 - IoU of boxes, (t, 2, 2) and (p, 2, 2) corners, or of quads, (t, 4, 2) and (p, 4, 2) -> (t, p).

    It is 0 where all coordinates are equal: the same object even where it has no area.
    """
    boxes = truth.shape[1] == 2
    iou = box_iou(truth[:, None], predicted[None]) if boxes else quad_iou(truth, predicted)
    same = (truth[:, None] == predicted[None]).all((-1, -2))
    return np.asarray(np.where(same, 0.0, np.clip(1 - iou, 0, 1)))


def polygon_costs(truth: Sequence[Floats], predicted: Sequence[Floats]) -> Floats:
    """1 - IoU of polygons, arrays of (n, 2) corners -> (t, p); 0 where all coordinates are equal."""
    costs = np.clip(1 - polygon_iou(truth, predicted), 0, 1)
    for row, outline in enumerate(truth):
        costs[row, [np.array_equal(outline, other) for other in predicted]] = 0
    return costs


def point_costs(truth: Sequence[Floats], predicted: Sequence[Floats], side: float) -> Floats:
    """Distances of points relative to a side, at most 1: arrays of (1, 2) in the side's unit -> (t, p)."""
    apart = np.concatenate(truth)[:, None] - np.concatenate(predicted)[None]
    return np.asarray(np.minimum(np.linalg.norm(apart, axis=-1) / side, 1))


def line_costs(truth: Sequence[Floats], predicted: Sequence[Floats]) -> Floats:
    """Distances of polylines relative to the true one's length, at most 1: arrays of (n, 2) points in pixels -> (t, p).

    The distance of two lines is the mean of two means: the mean distance from points taken evenly along one line to the
    nearest point of the other, and the reverse. So neither a line's direction nor its number of points matters.
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
