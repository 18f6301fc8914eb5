"""Supervisely: a project folder with a JSON file for each image.

    project/meta.json
    project/ds1/img/a.png
    project/ds1/ann/a.png.json    {"size": {"width": 64, "height": 48},
                                   "objects": [{"classTitle": "cup", "geometryType": "rectangle",
                                                "points": {"exterior": [[8, 8], [40, 30]], "interior": []}}]}

The project's folder stands for all of its data sets; one data set is named by its own folder. Polygons of four
corners are quads. Holes of polygons, bitmaps, cuboids and graphs are left out. An image without objects has none.

References:
    https://developer.supervisely.com/getting-started/supervisely-annotation-format
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swiftalign.data.tools.reading import (
    OTHER_SHAPES,
    Images,
    Placed,
    Tool,
    box,
    fail,
    files_at,
    outline,
    pairs,
    read_json,
    size,
    target,
    typed,
    walk,
)

_LEFT_OUT = {
    "bitmap": "masks (bitmaps)",
    "alpha_mask": "masks (bitmaps)",
    "cuboid": "cuboids",
    "cuboid_2d": "cuboids",
    "graph": "skeletons",
}


def _datasets(path: Path) -> Iterator[Path]:
    """The folders named ann, of a project or of one data set. Data sets may hold others."""
    if path.is_dir() and any((each / "meta.json").is_file() for each in (path, *path.absolute().parents[:2])):
        for folder, subfolders, _ in walk(path):
            if "ann" in subfolders:
                yield Path(folder, "ann")
                subfolders[:] = [name for name in subfolders if name not in ("ann", "img")]


def read(path: Path, images: Path | None, left_out: Counter[str]) -> Iterator[Placed]:
    for folder in _datasets(path):
        finder = Images(folder, images)
        for file in files_at(folder, ".json"):
            root, name = typed(read_json(file), dict, file, "the file's content"), os.path.basename(file)[:-5]
            objects = [
                each
                for number, item in enumerate(typed(root.get("objects"), list, file, "'objects'"), 1)
                for each in _objects(item, f"{file}: object {number}", left_out)
            ]
            # Old projects name the file after the image without its suffix.
            image = finder.find(name, file) if os.path.splitext(name)[1] else finder.of_stem(name, file)
            sides = typed(root.get("size", {}), dict, file, "'size'")
            yield file, {"images": [image], "objects": objects, **size(sides.get("width"), sides.get("height"))}


def _objects(item: Any, where: str, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    label, kind = typed(item, dict, where, "it").get("classTitle"), item.get("geometryType")
    if kind not in ("rectangle", "polygon", "line", "point"):
        if not isinstance(kind, str):
            fail(where, "'geometryType' must be text")
        left_out[_LEFT_OUT.get(kind, OTHER_SHAPES)] += 1
        return
    points = typed(item.get("points"), dict, where, "'points'")
    values = pairs(points.get("exterior"), where, "'exterior'")
    if kind == "rectangle":
        yield box(label, values, where)
    elif kind == "polygon":
        if holes := typed(points.get("interior") or [], list, where, "'interior'"):
            left_out["holes of polygons"] += len(holes)
        yield outline(label, values, where)
    else:
        yield target(label, kind, values, where)


SUPERVISELY = Tool("Supervisely", lambda path: next(_datasets(path), None) is not None, read)
