"""The layout of this toolkit: images, and the objects on them.

    {"images": ["images/1.png"],
     "prompt": "Find the red box.",
     "objects": [{"label": "red box", "bbox_2d": [8, 8, 40, 30]}]}

on one line, in pixels, or in another unit, e.g. with ``"coordinates": "relative1000"`` in thousandths of the image's
sides. Further names are understood: ``desc`` for the label, ``poly`` for a quad or a polygon, ``point``, ``quad_2d``
and so on; ``poly_points`` and the like must be right where they are given. An object on another image than the first
has its number, from 0: ``"image": 1``. ``width`` and ``height`` are held against the first image. ``summary``, a text
or a list with a text for each image, can be the answer (``data.text.answer: summary``).
"""

from __future__ import annotations

from typing import Any

from swiftalign.data.formats.swift import held_image, local_path
from swiftalign.data.records import Format, Reading, Row
from swiftalign.data.row_checks import NAMELESS, declared_size, near_keys
from swiftalign.data.targets import SPELLINGS, UNITS, Kind, RowTarget, flat, to_points
from swiftalign.data.text import Composed
from swiftalign.problems import Problem

_KINDS: dict[str, tuple[Kind, ...]] = (
    {spelling.row_key: (kind,) for kind, spelling in SPELLINGS.items()}
    | {spelling.text_key: (kind,) for kind, spelling in SPELLINGS.items()}
    | {"bbox": ("bbox",), "point": ("point",), "poly": ("quad", "polygon")}
)
_ROW_KEYS = {"images", "image", "objects", "prompt", "system", "summary", "coordinates", "width", "height"}
_ROW_KEYS |= {"id", "image_id", "source", "dataset", "split", "metadata"}
_COUNTS = {f"{key}_points": key for key in _KINDS}
_OBJECT_KEYS = {*_KINDS, *_COUNTS, "label", "desc", "image", "id", "image_id", "score", "area", "iscrowd", "attributes"}


def _read(row: Any, reading: Reading) -> Row:
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    images, objects = row.get("images", row.get("image", [])), row.get("objects")
    images = [held_image(image) for image in images] if isinstance(images, list) else [held_image(images)]
    if not all(isinstance(image, str | bytes) for image in images):
        raise ValueError("'images' must be a list of paths")
    if not images or not isinstance(objects, list):
        raise ValueError("needs 'images' and 'objects', or 'messages'")
    unit = row.get("coordinates") or reading.unit or "pixels"
    if not isinstance(unit, str) or unit not in UNITS:
        raise ValueError(f"'coordinates' must be one of {', '.join(UNITS)}")
    for key in ("prompt", "system"):
        if not isinstance(row.get(key), str | None):
            raise ValueError(f"'{key}' must be text")
    summaries = row.get("summary")
    if isinstance(summaries, list) and len(summaries) == len(images) and all(isinstance(t, str) for t in summaries):
        summaries = tuple(summaries)
    elif isinstance(summaries, str | None):
        summaries = () if summaries is None else (summaries,)
    else:
        raise ValueError("'summary' must be text, or a list with a text for each image")
    remarks = list[Problem]()
    targets = list[RowTarget]()
    for item in objects:
        label = item.get("label", item.get("desc")) if isinstance(item, dict) else None
        if not isinstance(label, str):
            raise ValueError("an object needs a 'label'")
        name, keys, number = f"object {label!r}", [key for key in item if key in _KINDS], item.get("image", 0)
        if not label.strip():
            remarks.append(NAMELESS)
        if type(number) is not int or not 0 <= number < len(images):
            raise ValueError(f"{name}: 'image' must be the number of one of {len(images)} images, from 0")
        points = {kind: to_points(kind, numbers) for kind, numbers in map(_kind_and_numbers, keys, map(item.get, keys))}
        if len(keys) != 1 and (len(keys) != 2 or points.keys() != {"bbox", "quad"}):
            few = ", ".join(spelling.row_key for spelling in SPELLINGS.values())
            raise ValueError(f"{name} needs one of {few} (a box may have its object's quad beside it)")
        for key, (kind, found) in zip(keys, points.items(), strict=True):
            if not found:
                _, _, least, most = SPELLINGS[kind]
                wanted = f"{2 * least} numbers" if most else f"an even count of {2 * least} numbers or more"
                raise ValueError(f"{name}: {key} must be {wanted}")
            if item.get(f"{key}_points", len(found)) != len(found):
                raise ValueError(
                    f"{name}: {key}_points is {item[f'{key}_points']!r}, but {key} has {len(found)} points"
                )
        main: Kind = "bbox" if len(points) == 2 else next(iter(points))  # a quad beside a box is its outline
        targets.append(UNITS[unit](main, label, points.pop(main), points.get("quad", ()), number))
    remarks += near_keys((row, _ROW_KEYS), *((item, _OBJECT_KEYS) for item in objects))
    wording = Composed(row.get("prompt"), row.get("system"), summaries, len(images))
    held = tuple(image if isinstance(image, bytes) else reading.images / local_path(image) for image in images)
    return Row(held, tuple(targets), wording, declared_size(row), tuple(remarks))


def _kind_and_numbers(key: str, numbers: Any) -> tuple[Kind, Any]:
    kinds, numbers = _KINDS[key], flat(numbers)
    return kinds[0] if len(kinds) == 1 or (isinstance(numbers, list) and len(numbers) == 8) else kinds[1], numbers


OWN = Format(recognise=lambda row: "objects" in row and "messages" not in row, read=_read)

_PLAIN_ROW = {"images", "objects", "prompt"}
PLAIN_KINDS: dict[str, Kind] = {spelling.row_key: kind for kind, spelling in SPELLINGS.items()}


def _are_numbers(values: list[Any]) -> bool:
    """Whether JSON values are all numbers, and none of them is NaN."""
    return set(map(type, values)) <= {int, float} and (total := sum(values)) == total


def glance(row: Any, width: int, height: int) -> tuple[float, list[str]] | None:
    """The largest coordinate of a row that evidently has no fault, and the keys of its kinds; None for any other row.

    Most rows of most files are such, and this takes a tenth of the time that reading and checking them takes.

    Args:
        row: a JSON object with one image.
        width: width of the image, in pixels.
        height: height of the image, in pixels.
    """
    largest, keys = 0.0, list[str]()
    try:
        prompt = row.get("prompt", "")
        if not row.keys() <= _PLAIN_ROW or type(prompt) is not str or "<" in prompt or not row["objects"]:
            return None
        for item in row["objects"]:
            label = item["label"]
            if len(item) != 2 or "<" in label or not label.strip():
                return None
            if "bbox_2d" in item:
                key = "bbox_2d"
                left, top, right, bottom = numbers = item[key]
                whole = type(left) is type(top) is type(right) is type(bottom) is int
                if not (whole or _are_numbers(numbers)) or not (
                    0 <= left < right <= width and 0 <= top < bottom <= height
                ):
                    return None
                largest = max(largest, right, bottom)
            else:
                key = "quad" if "quad" in item else "line"
                numbers = item[key]
                if not _are_numbers(numbers):
                    return None
                xs, ys = numbers[::2], numbers[1::2]
                right, bottom = max(xs), max(ys)
                if min(xs) < 0 or min(ys) < 0 or right > width or bottom > height:
                    return None
                largest = max(largest, right, bottom)
                if key == "line":
                    if len(xs) < 2 or len(xs) != len(ys) or xs[0] == xs[1]:
                        return None
                else:
                    a, b, c, d, e, f, g, h = numbers
                    turns = (
                        (c - a) * (f - b) - (d - b) * (e - a),
                        (e - c) * (h - d) - (f - d) * (g - c),
                        (g - e) * (b - f) - (h - f) * (a - e),
                        (a - g) * (d - h) - (b - h) * (c - g),
                    )
                    if min(turns) <= 0 <= max(turns):  # not convex
                        return None
            keys.append(key)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return (largest, keys) if largest > 1 else None
