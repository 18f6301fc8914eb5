"""LabelMe: a JSON file beside each image.

    {"imagePath": "a.png", "imageWidth": 64, "imageHeight": 48, "imageData": null,
     "shapes": [{"label": "cup", "shape_type": "rectangle", "points": [[8, 8], [40, 30]]}]}

Rectangles (any two opposite corners, or four corners), polygons (four corners are a quad), oriented rectangles,
lines, line strips and points are taken; circles and masks are left out. An image without shapes has no objects.

References:
    https://github.com/wkentaro/labelme; the type "rotation" is that of https://github.com/CVHub520/X-AnyLabeling
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swiftalign.data.tools.reading import (
    OTHER_SHAPES,
    Images,
    Placed,
    Tool,
    any_head,
    box,
    fail,
    files_at,
    outline,
    pairs,
    read_json,
    size,
    target,
    typed,
)

_KEYS = re.compile(rb'\s*\{.*?"(?:shapes"\s*:\s*\[|imageData"|imagePath")', re.S)
_LEFT_OUT = {"circle": "circles", "mask": "masks"}


def read(path: Path, images: Path | None, left_out: Counter[str]) -> Iterator[Placed]:
    finder = Images(path if path.is_dir() else path.parent, images)
    for file in files_at(path, ".json"):
        root = typed(read_json(file), dict, file, "the file's content")
        shapes = typed(root.get("shapes"), list, file, "'shapes'")
        objects = [
            each
            for number, shape in enumerate(shapes, 1)
            for each in _objects(shape, f"{file}: shape {number}", left_out)
        ]
        image = finder.find(root.get("imagePath"), file)
        yield file, {"images": [image], "objects": objects, **size(root.get("imageWidth"), root.get("imageHeight"))}


def _objects(shape: Any, where: str, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    # The first releases wrote polygons only, and no type.
    label, kind = typed(shape, dict, where, "it").get("label"), shape.get("shape_type") or "polygon"
    values = pairs(shape.get("points"), where)
    match kind:
        case "rectangle" if len(values) == 8:
            target(label, "quad", values, where)  # numbers, before they are compared
            yield box(label, [min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])], where)
        case "rectangle":
            yield box(label, values, where)
        case "oriented_rectangle" | "rotation":
            yield target(label, "quad", values, where)
        case "polygon":
            yield outline(label, values, where)
        case "line" | "linestrip":
            yield target(label, "line", values, where)
        case "point" | "points":
            for start in range(0, len(values), 2):
                yield target(label, "point", values[start : start + 2], where)
        case str():
            left_out[_LEFT_OUT.get(kind, OTHER_SHAPES)] += 1
        case _:
            fail(where, "'shape_type' must be text")


LABELME = Tool("LabelMe", lambda path: any_head(path, ".json", _KEYS.match), read)
