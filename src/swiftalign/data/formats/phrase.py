"""The layout of Qwen-VL's evaluation of RefCOCO: a phrase, and the box of the object that it means.

    {"image": "data/coco/train2014/COCO_train2014_000000581857.jpg", "sent": "lady with back to us",
     "bbox": [103.93, 299.99, 238.15, 477.41], "width": 640, "height": 480}

The box is left, top, right and bottom, in pixels. The phrase becomes its label.

References:
    Qwen-VL `eval_mm/EVALUATION.md`, `eval_mm/evaluate_grounding.py`.
"""

from __future__ import annotations

from typing import Any

from swiftalign.data.formats.own import OWN
from swiftalign.data.records import Format, Reading, Row
from swiftalign.data.targets import to_points

_KEYS = {"image", "sent", "bbox"}


def _read(row: dict[str, Any], reading: Reading) -> Row:
    if not isinstance(row["image"], str) or not isinstance(row["sent"], str) or not to_points("bbox", row["bbox"]):
        raise ValueError("needs 'image' and 'sent', each a text, and 'bbox', four numbers")
    target = {"label": row["sent"], "bbox_2d": row["bbox"]}
    others = {key: value for key, value in row.items() if key not in _KEYS}
    return OWN.read({**others, "images": row["image"], "objects": [target], "coordinates": "pixels"}, reading)


PHRASE = Format(recognise=lambda row: row.keys() >= _KEYS and "messages" not in row, read=_read)
