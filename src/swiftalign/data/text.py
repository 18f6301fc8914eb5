"""Grounding records as the text that Qwen3-VL reads and writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from swiftalign.config.sections import GroundingTextSection
from swiftalign.data.records import Kind, Point, Record, Target
from swiftalign.model.qwen3_vl import QWEN3_VL

# Kind of target -> key in the model's text, in the naming of Qwen3-VL.
TEXT_KEYS: dict[Kind, str] = {"bbox": "bbox_2d", "quad": "quad_2d", "line": "line_2d"}

DEFAULT_TEXT = GroundingTextSection()


def relative(points: Sequence[Point], width: int, height: int) -> list[int]:
    """Coordinates as Qwen3-VL writes them.

    Args:
        points: (x, y) in pixels.
        width: of the image, in pixels.  height: likewise.

    Returns:
        x and y in turn as integers 0..1000, relative to the image's sides, rounded and clamped.

    >>> relative([(0, 32), (63.9, 130)], width=64, height=128)
    [0, 250, 998, 1000]
    """
    sides, most = (width, height), QWEN3_VL.coordinates
    return [
        min(max(round(value / side * most), 0), most)
        for point in points
        for value, side in zip(point, sides, strict=True)
    ]


def answer(targets: Iterable[Target], width: int, height: int, text: GroundingTextSection = DEFAULT_TEXT) -> str:
    """What the model is to write for an image's targets, in the record's order."""
    items = [{TEXT_KEYS[t.kind]: relative(t.points, width, height), "label": t.label} for t in targets]
    written = json.dumps(items, ensure_ascii=False)
    return f"```json\n{written}\n```" if text.fenced else written


def to_messages(
    record: Record, width: int, height: int, text: GroundingTextSection = DEFAULT_TEXT
) -> list[dict[str, Any]]:
    """A record's conversation, in ms-swift's layout.

    Args:
        record: with coordinates in pixels.
        width: of the image that the model sees, in pixels.  height: likewise.
    """
    labels = ", ".join(dict.fromkeys(target.label for target in record.targets))
    prompt = record.prompt if record.prompt is not None else text.prompt.replace("{labels}", labels)
    messages = [
        {"role": "user", "content": f"<image>{prompt}"},
        {"role": "assistant", "content": answer(record.targets, width, height, text)},
    ]
    system = record.system if record.system is not None else text.system
    return [{"role": "system", "content": system}, *messages] if system else messages
