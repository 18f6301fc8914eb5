"""Grounding records: boxes, quads and lines as rows of a JSONL file, and as the text that Qwen3-VL reads and writes.

A row of this toolkit names its images and objects::

    {"images": ["images/1.png"],
     "prompt": "Find the red box.",
     "objects": [{"label": "red box", "bbox_2d": [8, 8, 40, 30]}]}

on one line, with coordinates in pixels. Rows in ms-swift's own layout (``messages``) are taken as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from swiftalign.data.swift_rows import swift_images, swift_row_fault, with_absolute_images
from swiftalign.problems import DataError

Kind = Literal["bbox", "quad", "line"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Point = tuple[float, float]

# Key of a row -> kind of target.
ROW_KEYS: dict[str, Kind] = {"bbox_2d": "bbox", "quad": "quad", "line": "line"}

MAX_ROW_BYTES = 16_000_000

# What JSON may turn into half of a surrogate pair: an escape, or the bytes that UTF-8 forbids.
_SURROGATE = re.compile(rb"\\u[dD]|\xed")


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
        images: absolute paths; exactly one, unless the row is ms-swift's, whose images on the web or inline have none.
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
            for number, line in read_lines(file):
                yield number, parse_row(line, path, number)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def read_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1.

    Of a line longer than `MAX_ROW_BYTES`, that much and one byte: no more of it is ever in memory.
    """
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        rest = line
        while len(rest) > MAX_ROW_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_ROW_BYTES + 1)
        if not line.isspace():
            yield number, line


def parse_row(line: bytes, path: Path, number: int) -> Any:
    """One line as JSON, all of whose texts can be written as UTF-8.

    Raises:
        DataError: it is not JSON, or too long.
    """
    if len(line) > MAX_ROW_BYTES:
        raise DataError(f"{path}:{number}: longer than {MAX_ROW_BYTES // 1_000_000} MB")
    try:
        row = json.loads(line)
        if _SURROGATE.search(line):
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number}: not JSON: {error}", "a JSONL file has one JSON object a line") from None
    return row


def row_fault(row: Any, folder: Path) -> str | None:
    """What is wrong with a row, missing images included; None where nothing is."""
    fault = layout_fault(row)
    if fault:
        return fault
    missing = next((image for image in to_record(row, folder).images if not _is_file(image)), None)
    if missing is None:
        return None
    name = missing.relative_to(folder) if missing.is_relative_to(folder) else missing
    return f"image {name}: no such file (paths count from {folder})"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than a file's can be, or a folder that is closed to us
        return False


def layout_fault(row: Any) -> str | None:
    """What is wrong with a row as it stands, without looking at its images."""
    if not isinstance(row, dict):
        return "not a JSON object"
    return swift_row_fault(row) if "messages" in row else _own_row_fault(row)


def _own_row_fault(row: dict[str, Any]) -> str | None:
    images = row.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        return "'images' must be a list of paths"
    if not images or not isinstance(row.get("objects"), list):
        return "needs 'images' and 'objects', or 'messages'"
    if len(images) != 1:
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
    if "messages" in row:
        images = tuple(image for image in swift_images(row, folder) if image is not None)
        return Record(images, swift_row=with_absolute_images(row, folder))
    images = tuple(folder / image for image in row["images"])
    targets = tuple(_target(item) for item in row["objects"])
    relative = row.get("coordinates") == "relative1000"
    return Record(images, targets, row.get("prompt"), row.get("system"), relative)


def _target(item: dict[str, Any]) -> Target:
    key = next(key for key in ROW_KEYS if key in item)
    outline = _points(item["quad"]) if key == "bbox_2d" and "quad" in item else ()
    return Target(ROW_KEYS[key], item["label"], _points(item[key]), outline)


def _points(numbers: list[float]) -> tuple[Point, ...]:
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))
