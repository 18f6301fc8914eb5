"""Reading a model's answer: JSON with boxes, quads, lines, points and polygons, as targets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from swiftalign.data.sizes import Size
from swiftalign.data.targets import Kind, Point, TextTarget, to_points
from swiftalign.data.text import DEFAULT_WRITING, Vocabulary, Writing

# An answer is cut off beyond these: no working model writes so much, and scoring time grows with the square of objects.
MAX_CHARACTERS = 400_000
MAX_ITEMS = 2_000

# Where a list of objects or a lone object begins; words may stand in brackets before it.
_START = re.compile(r"\[\s*(?=\{)|(?=\{)")
# A comma too many or too few between complete items is forgiven.
_BETWEEN = re.compile(r"[\s,]*")
_DECODER = json.JSONDecoder()
# What gives JSON its structure.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
_COLON = re.compile(r"\s*:\s*")
# Coordinates alone, as an answer to "where is ...?".
_BARE = re.compile(r"\[\s*(-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){3,7})\s*\]")
_BARE_KINDS: dict[int, Kind] = {4: "bbox", 8: "quad"}


class Answer(NamedTuple):
    """A model's answer, as it was read.

    Attributes:
        targets: the well-formed objects, in the answer's order.
        malformed: an entry for each other item: the kind of its only coordinate key, or None.
        complete: whether the JSON was found and has its end; of a broken or cut-off answer, the items before the break
            are kept.
    """

    targets: tuple[TextTarget, ...] = ()
    malformed: tuple[Kind | None, ...] = ()
    complete: bool = True

    @property
    def sound(self) -> bool:
        """Whether the answer is complete and all its items are well-formed."""
        return self.complete and not self.malformed


class Item(NamedTuple):
    """A JSON value of an answer that should be an object with coordinates.

    Attributes:
        start: where it begins in the text.
        end: where it ends.
        nested: whether it is a value of another object.
    """

    start: int
    end: int
    value: Any
    nested: bool = False


class Found(NamedTuple):
    """The first JSON of a text that holds objects.

    Attributes:
        start: where it begins; -1 where the text holds no object.
        end: where it ends, or where reading stopped.
        complete: whether it has its end.
    """

    items: list[Item]
    start: int
    end: int
    complete: bool


def find_items(text: str, vocabulary: Vocabulary, position: int = 0) -> Found:
    """The first list of objects, or the first object outside a list, from a position on.

    Objects may also be values of other objects, such as numbered ones.
    """
    start = _START.search(text, position)
    if start is None:
        return Found([], -1, len(text), complete=False)
    position, listed, complete = start.end(), start.group() != "", False
    items = list[Item]()
    while not complete and len(items) < MAX_ITEMS:
        if gap := _BETWEEN.match(text, position):
            position = gap.end()
        if listed and text.startswith("]", position):
            position, complete = position + 1, True
            break
        begin = position
        try:
            value, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):  # also a number of thousands of digits, and deep nesting
            items += _inner(text, begin, len(text), vocabulary)
            break
        nested = isinstance(value, dict) and value.keys().isdisjoint(vocabulary)
        inner = list(_inner(text, begin, position, vocabulary)) if nested else []
        empty = not listed and isinstance(value, dict) and all(isinstance(each, dict) for each in value.values())
        items += inner or ([] if empty else [Item(begin, position, value)])
        complete = not listed
    return Found(items[:MAX_ITEMS], start.start(), position, complete)


def _inner(text: str, start: int, end: int, vocabulary: Vocabulary) -> Iterator[Item]:
    """The objects with coordinates within another one, which may be cut off."""
    opened: list[int] = []
    innermost = False
    for match in _STRUCTURE.finditer(text, start, end):
        sign = match[0]
        if sign == "{":
            opened.append(match.start())
            innermost = True
        elif sign == "}":
            if not opened:
                return
            begin = opened.pop()
            if innermost and opened:
                try:
                    value = json.loads(text[begin : match.end()])
                except (ValueError, RecursionError):
                    return
                if not value.keys().isdisjoint(vocabulary):
                    yield Item(begin, match.end(), value, nested=True)
            innermost = False
            if not opened:
                return


def find_keys(text: str, start: int, end: int) -> dict[str, tuple[tuple[int, int], int]]:
    """The keys of a JSON object, without those of objects in it: where each key's name begins and ends, and its value.

    Args:
        start: where the object begins in the text.
        end: where it ends.
    """
    found, depth = dict[str, tuple[tuple[int, int], int]](), 0
    for match in _STRUCTURE.finditer(text, start, end):
        if match[0] in ("{", "["):
            depth += 1
        elif match[0] in ("}", "]"):
            depth -= 1
        elif depth == 1 and (colon := _COLON.match(text, match.end())):
            found[json.loads(match[0])] = (match.start() + 1, match.end() - 1), colon.end()
    return found


def parse_answer(text: str, writing: Writing = DEFAULT_WRITING, size: Size | None = None) -> Answer:
    """Read a model's answer, in time and memory bounded by its length.

    Takes the first list of objects, or the first object outside a list, with or without a ```json fence and words
    around it; objects may be values of other objects. Without any object, lists of 4 or 8 numbers are boxes and quads
    without a label. Coordinates are not corrected: an item is malformed if numbers lie outside the grid,
    their count is wrong, or the second corner of a box lies left of or above the first. Never raises.

    Args:
        writing: keys and grid of the answer.
        size: width and height of the image in pixels, which a grid of the resized image depends on.

    Returns:
        Targets in thousandths of the image's sides, also where the model writes another unit.

    >>> parse_answer('```json\\n[{"bbox_2d": [1, 2, 30, 40], "label": "cup"}]\\n```').targets
    (TextTarget(kind='bbox', label='cup', points=((1, 2), (30, 40)), outline=(), image=0),)
    """
    text = text[:MAX_CHARACTERS]
    grid = (1000, 1000) if size is None else writing.grid(size)
    found = find_items(text, writing.vocabulary)
    targets, malformed = list[TextTarget](), list[Kind | None]()
    if found.start < 0:
        for match in _BARE.finditer(text):
            numbers = [float(part) if "." in part else int(part) for part in match[1].split(",")]
            kind = _BARE_KINDS.get(len(numbers))
            points = to_points(kind, numbers, 0, max(grid)) if kind else ()
            if kind and _on_grid(kind, points, grid):
                targets.append(TextTarget(kind, "", _thousandths(points, grid)))
        return Answer(tuple(targets), complete=bool(targets) or re.search(r"\[\s*\]|\{\s*\}", text) is not None)
    for item in found.items:
        kind, numbers = kind_of(item.value, writing.vocabulary)
        label = item.value.get(writing.text.label_key) if kind else None
        points = to_points(kind, numbers, 0, max(grid)) if kind else ()
        if kind and isinstance(label, str) and _on_grid(kind, points, grid):
            targets.append(TextTarget(kind, label, _thousandths(points, grid)))
        else:
            malformed.append(kind)
    return Answer(tuple(targets), tuple(malformed), found.complete)


def kind_of(value: Any, vocabulary: Vocabulary) -> tuple[Kind | None, Any]:
    """The kind of an answer's object and its numbers; None unless exactly one key stands for coordinates."""
    keys = [key for key in vocabulary if key in value] if isinstance(value, dict) else []
    if len(keys) != 1:
        return None, None
    numbers, kinds = value[keys[0]], vocabulary[keys[0]]
    return next((kind for kind in kinds if to_points(kind, numbers)), kinds[0]), numbers


def _on_grid(kind: Kind, points: tuple[Point, ...], grid: Size) -> bool:
    in_order = kind != "bbox" or all(first <= last for first, last in zip(*points, strict=True))
    return bool(points) and in_order and all(x <= grid[0] and y <= grid[1] for x, y in points)


def _thousandths(points: tuple[Point, ...], grid: Size) -> tuple[Point, ...]:
    wide, high = grid
    return points if grid == (1000, 1000) else tuple((x / wide * 1000, y / high * 1000) for x, y in points)
