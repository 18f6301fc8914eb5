"""Reading a model's answer, Qwen3-VL's JSON list of boxes, quads and lines, as targets."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from swiftalign.data.records import SPELLINGS, Kind, TextTarget, to_points

# An answer is cut off beyond these: no working model writes so much, and scoring time grows with the square of objects.
MAX_CHARACTERS = 400_000
MAX_ITEMS = 2_000

# Where a list of objects or a lone object begins; words may stand in brackets before it.
_START = re.compile(r"\[\s*(?=\{)|(?=\{)")
# A comma too many or too few between complete items is forgiven.
_BETWEEN = re.compile(r"[\s,]*")
_KINDS: dict[str, Kind] = {spelling.text_key: kind for kind, spelling in SPELLINGS.items()}
_DECODER = json.JSONDecoder()


class Answer(NamedTuple):
    """A model's answer, as it was read.

    Attributes:
        targets: the well-formed objects, in the answer's order.
        malformed: an entry for each other item: the kind of its only coordinate key, or None.
        complete: whether the JSON was found and has its end; of a broken or cut-off answer, the items before the break
            are kept.
    """

    targets: tuple[TextTarget, ...] = ()
    malformed: tuple[Kind | None, ...] = ()
    complete: bool = True

    @property
    def sound(self) -> bool:
        """Whether the answer is complete and all its items are well-formed."""
        return self.complete and not self.malformed


def parse_answer(text: str) -> Answer:
    """Read a model's answer, in time and memory bounded by its length.

    Takes the first list of objects, or the first object outside a list, with or without a ```json fence and words
    around it. Coordinates are not corrected: an item is malformed if numbers lie outside 0..1000, their count is wrong,
    or the second corner of a box lies left of or above the first. Never raises.

    >>> parse_answer('```json\\n[{"bbox_2d": [1, 2, 30, 40], "label": "cup"}]\\n```').targets
    (TextTarget(kind='bbox', label='cup', points=((1, 2), (30, 40)), outline=(), image=0),)
    """
    text = text[:MAX_CHARACTERS]
    start = _START.search(text)
    if start is None:
        return Answer(complete=re.search(r"\[\s*\]", text) is not None)
    position, listed, complete = start.end(), start.group() != "", False
    targets, malformed = list[TextTarget](), list[Kind | None]()
    while not complete and len(targets) + len(malformed) < MAX_ITEMS:
        if gap := _BETWEEN.match(text, position):
            position = gap.end()
        if listed and text.startswith("]", position):
            complete = True
            break
        try:
            item, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):  # also a number of thousands of digits, and deep nesting
            break
        complete = not listed
        kinds = [kind for key, kind in _KINDS.items() if key in item] if isinstance(item, dict) else []
        kind = kinds[0] if len(kinds) == 1 else None
        label = item.get("label") if kind else None
        points = to_points(kind, item[SPELLINGS[kind].text_key], 0, 1000) if kind else ()
        in_order = kind != "bbox" or all(first <= last for first, last in zip(*points, strict=True))
        if kind and isinstance(label, str) and points and in_order:
            targets.append(TextTarget(kind, label, points))
        else:
            malformed.append(kind)
    return Answer(tuple(targets), tuple(malformed), complete)
