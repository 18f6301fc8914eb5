"""VIA 2, the VGG Image Annotator: a project, or its annotations exported as JSON.

    {"a.png1234": {"filename": "a.png", "size": 1234, "file_attributes": {},
                   "regions": [{"shape_attributes": {"name": "rect", "x": 8, "y": 8, "width": 32, "height": 22},
                                "region_attributes": {"label": "cup"}}]}}

A project has these entries under ``_via_img_metadata``. A region's label is its attribute called label, name, class
or type, in that order, whatever the case; otherwise its only attribute. Circles and ellipses are left out, and so are
regions without a label. An image without regions has no objects.

References:
    https://www.robots.ox.ac.uk/~vgg/software/via/
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swiftalign.data.tools.reading import (
    NO_LABEL,
    OTHER_SHAPES,
    Images,
    Placed,
    Tool,
    any_head,
    fail,
    numbers,
    outline,
    read_json,
    target,
    the_file,
    typed,
)

_KEYS = re.compile(rb'\s*\{\s*"(?:_via_|(?:[^"\\]|\\.)*"\s*:\s*\{\s*"(?:filename|fileref|regions)"\s*:)')
_LABELS = ("label", "name", "class", "type")
_LEFT_OUT = {"circle": "circles", "ellipse": "ellipses"}


def read(path: Path, images: Path | None, left_out: Counter[str]) -> Iterator[Placed]:
    path = the_file(path, ".json", _KEYS.match)
    root = typed(read_json(path), dict, f"{path}", "the file's content")
    entries = typed(root.get("_via_img_metadata", root), dict, f"{path}", "'_via_img_metadata'")
    finder = Images(path.parent, images)
    for key, entry in entries.items():
        name = typed(entry, dict, f"{path}: image {key}", "the entry").get("filename")
        where = f"{path}: image {name}"
        regions = entry.get("regions", [])
        if isinstance(regions, dict):  # as VIA 1 wrote them, by their numbers
            regions = list(regions.values())
        objects = [
            each
            for number, region in enumerate(typed(regions, list, where, "'regions'"), 1)
            for each in _object(region, f"{where}: region {number}", left_out)
        ]
        yield where, {"images": [finder.find(name, where)], "objects": objects}


def _object(region: Any, where: str, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    shape = typed(typed(region, dict, where, "it").get("shape_attributes"), dict, where, "'shape_attributes'")
    kind = shape.get("name")
    if kind not in ("rect", "polygon", "polyline", "point"):
        left_out[_LEFT_OUT.get(str(kind), OTHER_SHAPES)] += 1
        return
    label = _label(typed(region.get("region_attributes", {}), dict, where, "'region_attributes'"), where)
    if label == "":
        left_out[NO_LABEL] += 1
    elif kind == "rect":
        x, y, width, height = numbers([shape.get(key) for key in ("x", "y", "width", "height")], 4, where, "a rect")
        yield target(label, "bbox", [x, y, x + width, y + height], where)
    elif kind == "point":
        yield target(label, "point", [shape.get("cx"), shape.get("cy")], where)
    else:
        xs, ys = (typed(shape.get(key), list, where, f"{key!r}") for key in ("all_points_x", "all_points_y"))
        if len(xs) != len(ys):
            fail(where, "'all_points_x' and 'all_points_y' must be equally many")
        values = [value for point in zip(xs, ys, strict=True) for value in point]
        yield target(label, "line", values, where) if kind == "polyline" else outline(label, values, where)


def _label(attributes: dict[str, Any], where: str) -> Any:
    """The region's label; empty text if it has none."""
    by_name = {name.lower(): value for name, value in attributes.items()}
    for name in _LABELS:
        if name in by_name:
            return by_name[name]
    if len(attributes) > 1:
        fail(
            where,
            f"no attribute is called {', '.join(_LABELS)}",
            "rename the attribute that holds the label to 'label'",
        )
    return next(iter(attributes.values()), "")


VIA = Tool("VIA", lambda path: any_head(path, ".json", _KEYS.match), read)
