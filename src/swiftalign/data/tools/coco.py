"""COCO: all images and annotations of a data set in one JSON file.

    {"images": [{"id": 7, "file_name": "a.png", "width": 64, "height": 48}],
     "categories": [{"id": 3, "name": "cup"}],
     "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [x, y, width, height],
                      "segmentation": [[x1, y1, x2, y2, ...]], "iscrowd": 0}]}

An annotation becomes its box, unless its segmentation is one outline of exactly four corners that differ from the
box's by more than half a pixel: that is how tools write turned boxes, and it becomes a quad. An outline of more
corners is the edge of a mask, which most data sets for detection have beside each box; `outlines=True` takes it
instead of the box. An image without annotations is an image without objects.

References:
    https://cocodataset.org/#format-data
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swiftalign.data.tools.reading import (
    Images,
    Placed,
    Tool,
    any_head,
    corners,
    fail,
    numbers,
    outline,
    read_bytes,
    read_json,
    size,
    target,
    text,
    the_file,
    typed,
)

_KEYS = re.compile(rb'"(?:images|annotations)"\s*:\s*\[\s*[{\]]')
_FIRST_KEYS = re.compile(rb'\{\s*"(?:info|licenses|categories|type)"\s*:')
_OTHERS = re.compile(rb'"(?:messages|shapes|regions|objects)"\s*:')


def _begins(start: bytes) -> bool:
    return start.lstrip().startswith(b"{") and bool(_KEYS.search(start)) and not _OTHERS.search(start)


def _recognise(path: Path) -> bool:
    if any_head(path, ".json", _begins):
        return True
    # Hundreds of categories may stand before the first image.
    return path.is_file() and any_head(path, ".json", _FIRST_KEYS.match) and bool(_KEYS.search(read_bytes(path)))


def read(path: Path, images: Path | None, left_out: Counter[str], *, outlines: bool = False) -> Iterator[Placed]:
    """The images of a COCO file with their objects.

    Args:
        outlines: take outlines of more than four corners too.
    """
    path = the_file(path, ".json", _begins)
    root = typed(read_json(path), dict, f"{path}", "the file's content")
    names = {key: text(each.get("name"), where, "'name'") for key, each, where in _by_id(root, "categories", path)}
    found = {key: each for key, each, _ in _by_id(root, "images", path)}
    of_image: dict[Any, list[dict[str, Any]]] = {key: [] for key in found}
    for annotation in _listed(root, "annotations", path):
        where = f"{path}: annotation {annotation.get('id')!r}"
        if _id(annotation.get("image_id"), where, "'image_id'") not in of_image:
            fail(where, f"no image has the id {annotation['image_id']!r}")
        of_image[annotation["image_id"]].append(annotation)
    part = path.stem.rpartition("_")[2]  # instances_val2017.json lies beside val2017/
    finder = Images(path.parent, images, f"../{part}", f"../images/{part}", f"images/{part}")
    for key, image in found.items():
        where = f"{path}: image {image.get('file_name', key)}"
        file = finder.find(image.get("file_name"), where)
        objects = [
            each for annotation in of_image.pop(key) for each in _object(annotation, names, path, outlines, left_out)
        ]
        yield where, {"images": [file], "objects": objects, **size(image.get("width"), image.get("height"))}


def _object(
    annotation: dict[str, Any], names: dict[Any, str], path: Path, outlines: bool, left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    where = f"{path}: annotation {annotation.get('id')!r}"
    if annotation.get("iscrowd") in (1, True):
        left_out["crowds"] += 1
        return
    if (category := _id(annotation.get("category_id"), where, "'category_id'")) not in names:
        fail(where, f"no category has the id {category!r}")
    x, y, width, height = numbers(annotation.get("bbox"), 4, where, "'bbox'")
    edges, rings = [x, y, x + width, y + height], annotation.get("segmentation") or []
    if annotation.get("keypoints"):
        left_out["skeletons"] += 1
    if isinstance(rings, dict):
        left_out["masks (RLE), whose boxes are taken"] += 1
    elif len(typed(rings, list, where, "'segmentation'")) > 1:
        left_out["masks of several parts, whose boxes are taken"] += 1
    elif rings:
        ring = corners(typed(rings[0], list, where, "a part of 'segmentation'"))
        if len(ring) == 8:
            shape = outline(names[category], ring, where)
            yield target(names[category], "bbox", edges, where) if _is_box(ring, edges) else shape
            return
        if outlines:
            yield outline(names[category], ring, where)
            return
        left_out["outlines of more than four corners, whose boxes are taken"] += 1
    yield target(names[category], "bbox", edges, where)


def _is_box(ring: list[float], edges: list[float]) -> bool:
    """Whether each of four corners lies within half a pixel of another corner of the box."""
    left, top, right, bottom = edges
    free = [(left, top), (right, top), (right, bottom), (left, bottom)]
    for x, y in zip(ring[::2], ring[1::2], strict=True):
        near = [each for each in free if abs(x - each[0]) <= 0.5 and abs(y - each[1]) <= 0.5]
        if not near:
            return False
        free.remove(near[0])
    return True


def _listed(root: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    entries = typed(root.get(key), list, f"{path}", f"{key!r}")
    return [typed(each, dict, f"{path}", f"entry {number} of {key!r}") for number, each in enumerate(entries, 1)]


def _by_id(root: dict[str, Any], key: str, path: Path) -> Iterator[tuple[Any, dict[str, Any], str]]:
    seen: set[Any] = set()
    for each in _listed(root, key, path):
        where = f"{path}: {key}: id {each.get('id')!r}"
        if _id(each.get("id"), where, "'id'") in seen:
            fail(where, "is there twice", "give each entry an id of its own")
        seen.add(each["id"])
        yield each["id"], each, where


def _id(value: Any, where: str, what: str) -> Any:
    return value if type(value) in (int, str) else fail(where, f"{what} must be a number or text")


COCO = Tool("COCO", _recognise, read)
