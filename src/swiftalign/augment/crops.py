"""Crops: the part of an image that they keep, and what labels say of objects of which only a part is kept."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from swiftalign.augment.draws import Step
from swiftalign.augment.geometry import Box
from swiftalign.data.polygons import Floats, envelope
from swiftalign.data.sizes import Size
from swiftalign.data.targets import PixelTarget

CROPS = ("random_crop", "roi_crop")

_SEPARATORS = re.compile("([,，/])")  # noqa: RUF001  # the full-width comma is meant


def crop_box(step: Step, size: Size, targets: Sequence[PixelTarget], moved: Sequence[Floats]) -> Box | None:
    """The part of a canvas that a crop keeps, in whole pixels.

    Args:
        step: one of `CROPS`; its values are shares of this canvas, and the size of its smallest part in pixels.
        size: width and height of the canvas in pixels.
        targets: the targets that anchors are chosen from.
        moved: each target's ``corners`` on the canvas, [n, 2].

    Returns:
        None where no target on the canvas is an anchor.
    """
    values, (width, height) = step.values, size
    if step.name == "random_crop":
        side, stretch = math.sqrt(values["scale"] * width * height), math.sqrt(values["aspect_ratio"])
        wide, high = min(max(round(side * stretch), 1), width), min(max(round(side / stretch), 1), height)
        left, top = int(values["x"] * (width - wide + 1)), int(values["y"] * (height - high + 1))
    else:
        classes = values["anchor_classes"]
        anchors = [at for each, at in zip(targets, moved, strict=True) if is_anchor(each.label, classes)]
        boxes = [((x, y), (u, v)) for (x, y), (u, v) in map(envelope, anchors) if x < width and y < height]
        boxes = [((x, y), (u, v)) for (x, y), (u, v) in boxes if u > 0 and v > 0]
        if not boxes:
            return None
        (x, y), (u, v) = boxes[int(values["anchor"] * len(boxes))]
        wide, high = (max(round((b - a) * values["scale"]), values["min_crop_size"], 1) for a, b in ((x, u), (y, v)))
        wide, high = min(wide, width), min(high, height)
        left, top = round((x + u - wide) / 2), round((y + v - high) / 2)
        left, top = min(max(left, 0), width - wide), min(max(top, 0), height - high)
    return left, top, left + wide, top + high


def is_anchor(label: str, classes: Sequence[str]) -> bool:
    """Whether a label, a part of it between commas or slashes, or the value of such a part, is one of the classes.

    >>> is_anchor("type=device, brand=any", ["device"])
    True
    """
    parts = [part.strip() for part in _SEPARATORS.split(label)]
    names = {label, *parts, *(part.partition("=")[2].strip() for part in parts)}
    return not names.isdisjoint(classes)


def partly_shown(label: str, changes: Mapping[str, str]) -> str:
    """A label, or the parts of it that `is_anchor` compares, replaced by what ``changes`` gives instead.

    >>> partly_shown("cup/shown=whole", {"whole": "partly"})
    'cup/shown=partly'
    """
    if label in changes:
        return changes[label]
    parts = _SEPARATORS.split(label)
    for number, part in enumerate(parts):
        whole = part.strip()
        name, equals, value = whole.partition("=")
        new = changes.get(whole) or (equals and value.strip() in changes and f"{name}={changes[value.strip()]}")
        parts[number] = part.replace(whole, new) if new else part
    return "".join(parts)
