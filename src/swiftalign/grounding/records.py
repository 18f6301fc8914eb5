"""Grounding records: boxes, quads and lines as rows of a JSONL file, and as the text that Qwen3-VL reads and writes.

A row of this toolkit names its images and objects::

    {"images": ["images/1.png"],
     "prompt": "Find the red box.",
     "objects": [{"label": "red box", "bbox_2d": [8, 8, 40, 30]}]}

on one line, with coordinates in pixels. Rows in ms-swift's own layout (``messages``) are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from swiftalign.errors import DataError

Kind = Literal["bbox", "quad", "line"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Point = tuple[float, float]

# Key of a row -> kind of target.
ROW_KEYS: dict[str, Kind] = {"bbox_2d": "bbox", "quad": "quad", "line": "line"}

MAX_ROW_BYTES = 16_000_000


@dataclass(frozen=True)
class Target:
    """One object and where it is.

    Attributes:
        points: (x, y) in pixels, measured at pixel edges (the middle of the first pixel is 0.5, 0.5): the top left and
            the bottom right corner of a box, the four corners of a quad, the two or more points of a line.
        outline: of a box, the four corners of the object itself, where the row tells them; empty otherwise.
    """

    kind: Kind
    label: str
    points: tuple[Point, ...]
    outline: tuple[Point, ...] = ()

    @property
    def corners(self) -> tuple[Point, ...]:
        """The points that move with the image; a box's are clockwise from the top left."""
        if self.kind != "bbox":
            return self.points
        (left, top), (right, bottom) = self.points
        return self.outline or ((left, top), (right, top), (right, bottom), (left, bottom))


@dataclass(frozen=True)
class Record:
    """One row of a JSONL file.

    Attributes:
        images: absolute paths; exactly one, unless the row is ms-swift's.
        relative: whether the targets' coordinates are 0..1000 of the image's sides, and not pixels.
        swift_row: the whole row, where it is in ms-swift's own layout (``messages``): then there are no targets here.
    """

    images: tuple[Path, ...]
    targets: tuple[Target, ...] = ()
    prompt: str | None = None
    system: str | None = None
    relative: bool = False
    swift_row: dict[str, Any] | None = None

    def in_pixels(self, width: int, height: int) -> Record:
        """The same record with its coordinates in pixels of an image of this size."""
        if not self.relative:
            return self
        targets = tuple(_scaled(target, width / 1000, height / 1000) for target in self.targets)
        return replace(self, targets=targets, relative=False)


def _scaled(target: Target, x_factor: float, y_factor: float) -> Target:
    points = tuple((x * x_factor, y * y_factor) for x, y in target.points)
    return replace(target, points=points, outline=tuple((x * x_factor, y * y_factor) for x, y in target.outline))


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a JSONL file with their line numbers, in constant memory; blank lines are skipped.

    Raises:
        DataError: the file can't be read, or a line is not JSON.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield number, parse_row(line, path, number)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def parse_row(line: bytes, path: Path, number: int) -> Any:
    """One line as JSON."""
    if len(line) > MAX_ROW_BYTES:
        raise DataError(f"{path}:{number}: longer than {MAX_ROW_BYTES // 1_000_000} MB")
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number}: not JSON: {error}", "a JSONL file has one JSON object a line") from None


def check_rows(path: Path, *, limit: int = 5) -> int:
    """Hold every row of a file against the layout, without opening images.

    Returns:
        The number of rows.

    Raises:
        DataError: rows are malformed or name missing images; the first ``limit`` faults are listed by line.
    """
    faults: list[str] = []
    rows = 0
    for number, row in read_rows(path):
        rows += 1
        fault = row_fault(row, path.parent)
        if fault:
            faults.append(f"{path}:{number}: {fault}")
            if len(faults) == limit:
                break
    if faults:
        raise DataError("\n".join(faults), "mend or remove these rows")
    return rows


def row_fault(row: Any, folder: Path) -> str | None:
    """What is wrong with a row; None where nothing is."""
    if not isinstance(row, dict):
        return "not a JSON object"
    images = row.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        return "'images' must be a list of paths"
    missing = next((image for image in images if not (folder / image).is_file()), None)
    if missing is not None:
        return f"image {missing}: no such file (paths count from {folder})"
    if "messages" in row:
        sound = isinstance(row["messages"], list) and all(isinstance(m, dict) and "role" in m for m in row["messages"])
        return None if sound and row["messages"] else "'messages' must be a list of {role, content}"
    return _own_row_fault(row)


def _own_row_fault(row: dict[str, Any]) -> str | None:
    if not row.get("images") or not isinstance(row.get("objects"), list):
        return "needs 'images' and 'objects', or 'messages'"
    if len(row["images"]) != 1:
        return "needs exactly one image, or 'messages'"
    if row.get("coordinates", "pixels") not in ("pixels", "relative1000"):
        return "'coordinates' must be pixels or relative1000"
    if not all(isinstance(row.get(key), str | None) for key in ("prompt", "system")):
        return "'prompt' and 'system' must be text"
    return next((fault for item in row["objects"] if (fault := _object_fault(item))), None)


def _object_fault(item: Any) -> str | None:
    if not isinstance(item, dict) or not isinstance(item.get("label"), str):
        return "an object needs a 'label'"
    keys = [key for key in ROW_KEYS if key in item]
    if len(keys) != 1 and keys != ["bbox_2d", "quad"]:
        return f"object {item['label']!r} needs one of {', '.join(ROW_KEYS)} (a box may bring its object's quad along)"
    for key in keys:
        numbers = item[key]
        sound = isinstance(numbers, list) and all(type(n) in (int, float) and abs(n) < 1e9 for n in numbers)
        count = len(numbers) if sound else 0
        right = {"bbox_2d": count == 4, "quad": count == 8, "line": count >= 4 and count % 2 == 0}[key]
        if not right:
            wanted = {"bbox_2d": "4 numbers", "quad": "8 numbers", "line": "an even count of 4 numbers or more"}[key]
            return f"object {item['label']!r}: {key} must be {wanted}"
    return None


def to_record(row: dict[str, Any], folder: Path) -> Record:
    """A row without faults as a record.

    Args:
        folder: of the JSONL file, which image paths count from.
    """
    images = tuple(folder / image for image in row.get("images", []))
    if "messages" in row:
        return Record(images, swift_row={**row, "images": [str(path) for path in images]} if images else row)
    targets = tuple(_target(item) for item in row["objects"])
    relative = row.get("coordinates") == "relative1000"
    return Record(images, targets, row.get("prompt"), row.get("system"), relative)


def _target(item: dict[str, Any]) -> Target:
    key = next(key for key in ROW_KEYS if key in item)
    outline = _points(item["quad"]) if key == "bbox_2d" and "quad" in item else ()
    return Target(ROW_KEYS[key], item["label"], _points(item[key]), outline)


def _points(numbers: list[float]) -> tuple[Point, ...]:
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))
