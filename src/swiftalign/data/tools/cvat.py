"""CVAT for images 1.1: all images of a task in one XML file.

    <annotations>
      <image id="0" name="a.png" width="64" height="48">
        <box label="cup" xtl="8" ytl="8" xbr="40" ybr="30" rotation="15.0"/>
        <polygon label="cup" points="8,8;40,8;30,30"/>
      </image>
    </annotations>

A box with a rotation is turned clockwise about its middle, by degrees, and becomes a quad. Polygons of four corners
are quads too. Each of the ``points`` is a point of its own. Ellipses, masks, skeletons, cuboids, tags of whole images
and the tracks of videos are left out. An image without shapes has no objects.

References:
    https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swiftalign.data.tools.reading import (
    OTHER_SHAPES,
    Element,
    Images,
    Placed,
    Tool,
    any_head,
    box,
    fail,
    outline,
    read_xml,
    root_tag,
    size,
    target,
    the_file,
    to_number,
    turned,
)

_LEFT_OUT = {
    "ellipse": "ellipses",
    "mask": "masks",
    "skeleton": "skeletons",
    "cuboid": "cuboids",
    "tag": "tags of whole images",
}


def _begins(start: bytes) -> bool:
    return root_tag(start) == b"annotations"


def read(path: Path, images: Path | None, left_out: Counter[str]) -> Iterator[Placed]:
    path = the_file(path, ".xml", _begins)
    finder = Images(path.parent, images)
    for element in read_xml(path, level=1):
        if element.tag == "track":
            left_out["tracks of a video"] += 1
        if element.tag != "image":
            continue
        where = f"{path}:{element.line}"
        objects = [each for shape in element.children for each in _objects(shape, f"{path}:{shape.line}", left_out)]
        image, sides = finder.find(element.attributes.get("name"), where), element.attributes.get
        yield where, {"images": [image], "objects": objects, **size(sides("width"), sides("height"))}


def _objects(shape: Element, where: str, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    label = shape.attributes.get("label")
    match shape.tag:
        case "box":
            edges = [_number(shape, name, where) for name in ("xtl", "ytl", "xbr", "ybr")]
            degrees = _number(shape, "rotation", where) if "rotation" in shape.attributes else 0
            upright = box(label, edges, where)
            middle = (edges[0] + edges[2]) / 2, (edges[1] + edges[3]) / 2
            yield target(label, "quad", turned(edges, middle, degrees), where) if degrees % 360 else upright
        case "polygon":
            yield outline(label, _points(shape, where), where)
        case "polyline":
            yield target(label, "line", _points(shape, where), where)
        case "points":
            values = _points(shape, where)
            for start in range(0, len(values), 2):
                yield target(label, "point", values[start : start + 2], where)
        case _:
            left_out[_LEFT_OUT.get(shape.tag, OTHER_SHAPES)] += 1


def _number(shape: Element, name: str, where: str) -> float:
    return to_number(shape.attributes.get(name, ""), where, f"{name!r}")


def _points(shape: Element, where: str) -> list[float]:
    found: list[float] = []
    for point in shape.attributes.get("points", "").split(";"):
        x, comma, y = point.partition(",")
        if not comma:
            fail(where, "'points' must be 'x,y;x,y;...'")
        found += [to_number(x, where, "an x of 'points'"), to_number(y, where, "a y of 'points'")]
    return found


CVAT = Tool("CVAT", lambda path: any_head(path, ".xml", _begins), read)
