"""Targets and records as the text that Qwen3-VL reads and writes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from swiftalign.config.sections import GroundingTextSection
from swiftalign.data.records import SPELLINGS, PixelTarget, Record

DEFAULT_TEXT = GroundingTextSection()


def answer(targets: Iterable[PixelTarget], width: int, height: int, text: GroundingTextSection = DEFAULT_TEXT) -> str:
    """What the model is to write for the targets of an image, in their order.

    Args:
        width: width of the image, in pixels.
        height: height of the image, in pixels.
        text: whether the answer is fenced.
    """
    items = []
    for target in (each.in_text(width, height) for each in targets):
        numbers = [number for point in target.points for number in point]
        items.append({SPELLINGS[target.kind].text_key: numbers, "label": target.label})
    written = json.dumps(items, ensure_ascii=False)
    return f"```json\n{written}\n```" if text.fenced else written


def to_messages(
    record: Record, width: int, height: int, text: GroundingTextSection = DEFAULT_TEXT
) -> list[dict[str, Any]]:
    """A record's conversation, in ms-swift's layout.

    Args:
        width: width of the image that the model sees, in pixels.
        height: height of the image that the model sees, in pixels.
        text: the words around the coordinates, where the record has none of its own.
    """
    labels = ", ".join(dict.fromkeys(target.label for target in record.targets))
    prompt = record.prompt if record.prompt is not None else text.prompt.replace("{labels}", labels)
    messages = [
        {"role": "user", "content": f"<image>{prompt}"},
        {"role": "assistant", "content": answer(record.targets, width, height, text)},
    ]
    system = record.system if record.system is not None else text.system
    return [{"role": "system", "content": system}, *messages] if system else messages
