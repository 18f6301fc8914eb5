"""Grounding records: boxes, quads and lines as rows of a JSONL file, and as the text that Qwen3-VL reads and writes.

A row of this toolkit names its images and objects::

    {"images": ["images/1.png"],
     "prompt": "Find the red box.",
     "objects": [{"label": "red box", "bbox_2d": [8, 8, 40, 30]}]}

on one line, with coordinates in pixels. Rows in ms-swift's own layout (``messages``) are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from swiftalign.errors import DataError

DEFAULT_PROMPT = "Locate every object in the image. Answer in JSON."

# Key of a row -> key in the model's text, in the naming of Qwen3-VL.
TARGETS = {"bbox_2d": "bbox_2d", "quad": "quad_2d", "line": "line_2d"}

MAX_ROW_BYTES = 16_000_000


def relative(points: Sequence[float], width: int, height: int) -> list[int]:
    """Coordinates as Qwen3-VL writes them.

    Args:
        points: x and y in turn, in pixels.
        width: of the image, in pixels.  height: likewise.

    Returns:
        The same points as integers 0..1000, relative to the image's sides, rounded and clamped.

    >>> relative([0, 32, 63.9, 130], width=64, height=128)
    [0, 250, 998, 1000]
    """
    sides = (width, height)
    return [min(max(round(value / sides[i % 2] * 1000), 0), 1000) for i, value in enumerate(points)]


def answer(objects: Sequence[dict[str, Any]], width: int, height: int) -> str:
    """The text that the model is to write for an image's objects, in the record's order."""
    items = []
    for item in objects:
        kind = next(key for key in TARGETS if key in item)
        items.append({TARGETS[kind]: relative(item[kind], width, height), "label": item["label"]})
    return json.dumps(items, ensure_ascii=False)


def to_messages(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A row as ms-swift's messages, with image paths made absolute.

    Args:
        row: one JSON object of the file.
        folder: of the JSONL file, which image paths count from.

    Raises:
        DataError: an image can't be opened.
    """
    images = [str(folder / image) for image in row.get("images", [])]
    if "messages" in row:
        return {**row, "images": images} if images else row
    width, height = image_size(Path(images[0]))
    messages = [
        {"role": "user", "content": "<image>" * len(images) + row.get("prompt", DEFAULT_PROMPT)},
        {"role": "assistant", "content": answer(row["objects"], width, height)},
    ]
    if row.get("system"):
        messages.insert(0, {"role": "system", "content": row["system"]})
    return {"messages": messages, "images": images}


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, as the image is shown: EXIF orientation applied.

    Raises:
        DataError: it is no readable image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # the orientations that swap the sides
            return (image.height, image.width) if turned else image.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"image {path}: {error}") from None


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
    if not images or not isinstance(row.get("objects"), list):
        return "needs 'images' and 'objects', or 'messages'"
    return next((fault for item in row["objects"] if (fault := _object_fault(item))), None)


def _object_fault(item: Any) -> str | None:
    if not isinstance(item, dict) or not isinstance(item.get("label"), str):
        return "an object needs a 'label'"
    kinds = [key for key in TARGETS if key in item]
    if len(kinds) != 1:
        return f"object {item['label']!r} needs exactly one of {', '.join(TARGETS)}"
    points = item[kinds[0]]
    numbers = isinstance(points, list) and all(type(p) in (int, float) and abs(p) < 1e9 for p in points)
    count = len(points) if isinstance(points, list) else 0
    right = {"bbox_2d": count == 4, "quad": count == 8, "line": count >= 4 and count % 2 == 0}[kinds[0]]
    if not numbers or not right:
        wanted = {"bbox_2d": "4 numbers", "quad": "8 numbers", "line": "an even count of 4 numbers or more"}[kinds[0]]
        return f"object {item['label']!r}: {kinds[0]} must be {wanted}"
    return None
