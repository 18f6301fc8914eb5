"""Label Studio: the tasks of a project exported as JSON (not as JSON-MIN).

    [{"data": {"image": "/data/upload/1/a.png"},
      "annotations": [{"result": [
          {"id": "x", "type": "rectanglelabels", "original_width": 64, "original_height": 48,
           "value": {"x": 12.5, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["cup"]}}]}]}]

Coordinates are percent of the image's sides. A rotation turns a rectangle clockwise about its top left corner, in
pixels; the rectangle becomes a quad. A shape and its labels may be two results with one id (types ``rectangle`` and
``labels``). A region with several labels is as many objects.

Of each task one annotation is taken: the one marked as ground truth, otherwise the first. One without shapes says
that the image has no objects; a task without an annotation that was not cancelled says nothing and is left out. Left
out and counted are brushes, ellipses, outlines that are not closed, regions without a label, and images that were
rotated in the tool.

References:
    https://labelstud.io/guide/export, https://labelstud.io/templates/image_bbox (rotation)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from swiftalign.data.tools.reading import (
    NO_LABEL,
    OTHER_SHAPES,
    Images,
    Placed,
    Tool,
    any_head,
    fail,
    is_image,
    numbers,
    outline,
    pairs,
    read_json,
    size,
    target,
    the_file,
    turned,
    typed,
)

_KEYS = re.compile(rb'\s*\[\s*\{.*?"(?:annotations|completions)"\s*:\s*\[', re.S)
_SHAPES = {"rectangle": "rectangle", "polygon": "polygon", "keypoint": "keypoint"}
_SHAPES |= {f"{name}labels": name for name in _SHAPES}
_LEFT_OUT = {"brush": "masks (brush)", "bitmask": "masks (brush)", "ellipse": "ellipses"}
# Results that say something about a region or the image, and locate nothing.
_ANSWERS = ("labels", "relation", "choices", "textarea", "rating", "number", "taxonomy", "datetime", "pairwise")


def read(path: Path, images: Path | None, left_out: Counter[str]) -> Iterator[Placed]:
    path = the_file(path, ".json", _KEYS.match)
    finder = Images(path.parent, images)
    for number, task in enumerate(typed(read_json(path), list, f"{path}", "the file's content"), 1):
        where = f"{path}: task {typed(task, dict, f'{path}: task {number}', 'it').get('id', number)}"
        made = typed(task.get("annotations", task.get("completions", [])), list, where, "'annotations'")
        done = [each for each in made if not typed(each, dict, where, "an annotation").get("was_cancelled")]
        if not done:
            left_out["tasks without an annotation"] += 1
            continue
        if len(done) > 1:
            left_out["further annotations of the same task"] += len(done) - 1
        chosen = next((each for each in done if each.get("ground_truth") is True), done[0])
        listed = typed(chosen.get("result"), list, where, "'result'")
        results = [typed(each, dict, where, "a result") for each in listed]
        file = _image(typed(task.get("data"), dict, where, "'data'"), where)
        objects = list(_objects(results, where, left_out))
        sides = [(each["original_width"], each.get("original_height")) for each in results if "original_width" in each]
        yield where, {"images": [finder.find(file, where)], "objects": objects, **(size(*sides[0]) if sides else {})}


def _image(data: dict[str, Any], where: str) -> str:
    """The path in a task's data: the one called image, otherwise the only one that ends like an image's."""
    paths = [each for each in data.values() if isinstance(each, str) and is_image(Path(each.partition("?")[0]).suffix)]
    found = data.get("image") or (paths[0] if len(paths) == 1 else None)
    if not isinstance(found, str):
        fail(where, "'data' names no image, or several", "call the path of the image 'image'")
    if "/data/local-files/" in found:
        return parse_qs(urlsplit(found).query).get("d", [found])[0]
    return found


def _objects(results: list[dict[str, Any]], where: str, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    values = [(each, typed(each.get("value", {}), dict, where, "'value'")) for each in results]
    by_id = {str(each.get("id")): value.get("labels") for each, value in values if each.get("type") == "labels"}
    for result, value in values:
        place, kind = f"{where}: region {result.get('id')}", str(result.get("type"))
        shape = _SHAPES.get(kind)
        if shape is None or result.get("image_rotation") or (shape == "polygon" and value.get("closed") is False):
            if kind not in _ANSWERS:
                left_out[_left_out(kind, shape, result)] += 1
            continue
        labels = by_id.get(str(result.get("id"))) if kind == shape else value.get(kind)
        if not labels:
            left_out[NO_LABEL] += 1
        for label in typed(labels or [], list, place, "the labels"):
            yield _object(shape, label, value, result, place)


def _left_out(kind: str, shape: str | None, result: dict[str, Any]) -> str:
    if shape:
        return "regions of rotated images" if result.get("image_rotation") else "outlines that are not closed"
    return _LEFT_OUT.get(kind.removesuffix("labels"), OTHER_SHAPES)


def _object(shape: str, label: Any, value: dict[str, Any], result: dict[str, Any], where: str) -> dict[str, Any]:
    sides = [result.get("original_width"), result.get("original_height")]
    x_factor, y_factor = (side / 100 for side in numbers(sides, 2, where, "'original_width' and 'original_height'"))
    if shape == "polygon":
        flat = pairs(value.get("points"), where)
        shares = enumerate(numbers(flat, len(flat), where, "'points'"))
        return outline(label, [each * (y_factor if index % 2 else x_factor) for index, each in shares], where)
    x, y = numbers([value.get("x"), value.get("y")], 2, where, "'x' and 'y'")
    x, y = x * x_factor, y * y_factor
    if shape == "keypoint":
        return target(label, "point", [x, y], where)
    names = "'width', 'height' and 'rotation'"
    parts = [value.get("width"), value.get("height"), value.get("rotation") or 0]
    width, height, degrees = numbers(parts, 3, where, names)
    edges = [x, y, x + width * x_factor, y + height * y_factor]
    return (
        target(label, "quad", turned(edges, (x, y), degrees), where)
        if degrees % 360
        else target(label, "bbox", edges, where)
    )


LABEL_STUDIO = Tool("Label Studio", lambda path: any_head(path, ".json", _KEYS.match), read)
