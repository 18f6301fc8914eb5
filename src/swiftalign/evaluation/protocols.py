"""Numbers as public benchmarks count them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from swiftalign.data.polygons import Floats, box_iou
from swiftalign.data.targets import TextTarget
from swiftalign.data.words import label_key
from swiftalign.evaluation.predictions import Prediction
from swiftalign.problems import DataError, SwiftalignError


def refcoco(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """The share of phrases whose first predicted box has an IoU with the true one above 0.5, whatever its label.

    Rows count that have exactly one true target, a box; an answer without a box is wrong.

    Raises:
        DataError: no row has exactly one true box.

    References:
        Mao et al., Generation and comprehension of unambiguous object descriptions, CVPR 2016: precision at 1.
    """
    rows = [each for each in predictions if [target.kind for target in each.question.truth] == ["bbox"]]
    if not rows:
        raise DataError("--protocol refcoco: no row has exactly one true box", "leave --protocol out for other rows")
    overlaps = np.array([_overlap(each) for each in rows])
    return {
        "rows": len(rows),
        "left_out": len(predictions) - len(rows),
        "accuracy": float((overlaps > 0.5).mean()),
        "accuracy75": float((overlaps > 0.75).mean()),
        "mean_iou": float(overlaps.mean()),
    }


def _overlap(prediction: Prediction) -> float:
    first = next((target for target in prediction.answer.targets if target.kind == "bbox"), None)
    if first is None:
        return 0.0
    [truth] = prediction.question.truth
    return float(box_iou(*(np.array(each.points, dtype=np.float64) for each in (truth, first))))


def coco(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """COCO's mean average precision of boxes. Labels are categories, whatever their case.

    A box's score is the probability of the whole answer; 1 where the model did not give it for every row, and
    boxes of a row then count in the answer's order.

    Raises:
        DataError: no row has a true box.
        SwiftalignError: the package that counts is not installed.

    References:
        Lin et al., Microsoft COCO: common objects in context, ECCV 2014.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        hint = "pip install 'swiftalign[coco]'"
        raise SwiftalignError("--protocol coco needs the package faster-coco-eval", hint) from None
    boxes = [[t for t in each.question.truth if t.kind == "bbox"] for each in predictions]
    if not any(boxes):
        raise DataError("--protocol coco: no row has a true box", "leave --protocol out for other kinds")
    labels = sorted({label_key(target.label) for side in boxes for target in side})
    numbers = {label: number for number, label in enumerate(labels, 1)}
    scored = all(each.logprob is not None for each in predictions if each.text)
    images = [
        {"id": number, "width": each.question.size[0], "height": each.question.size[1]}
        for number, each in enumerate(predictions, 1)
    ]
    true = [
        {"image_id": number, "category_id": numbers[label_key(target.label)], **_box(target, each), "iscrowd": 0}
        for number, (each, side) in enumerate(zip(predictions, boxes, strict=True), 1)
        for target in side
    ]
    for number, annotation in enumerate(true, 1):
        annotation["id"] = number
    categories = [{"id": number, "name": label} for label, number in numbers.items()]
    found = [
        {
            "image_id": number,
            "category_id": numbers[label_key(target.label)],
            **_box(target, each),
            "score": float(np.exp(each.logprob)) if scored and each.logprob is not None else 1.0,
        }
        for number, each in enumerate(predictions, 1)
        for target in each.answer.targets
        if target.kind == "bbox" and label_key(target.label) in numbers
    ]
    values = dict.fromkeys(("map", "map50", "map75"), 0.0)
    if found:
        truth = COCO({"images": images, "annotations": true, "categories": categories})
        counted = COCOeval_faster(truth, truth.loadRes(found), iouType="bbox", print_function=lambda *text: None)
        counted.run()
        values = dict(zip(values, map(float, counted.stats[:3]), strict=True))
    return {
        "rows": len(predictions),
        "categories": len(labels),
        **values,
        "score": "the answer's probability" if scored else "1",
    }


def _box(target: TextTarget, prediction: Prediction) -> dict[str, Any]:
    """Left, top, width and height in pixels, and the area."""
    corners: Floats = np.array(target.in_pixels(*prediction.question.size).points, dtype=np.float64)
    (left, top), (wide, high) = corners[0].tolist(), (corners[1] - corners[0]).tolist()
    return {"bbox": [left, top, wide, high], "area": wide * high}


PROTOCOLS: dict[str, Callable[[Sequence[Prediction]], dict[str, Any]]] = {"refcoco": refcoco, "coco": coco}
