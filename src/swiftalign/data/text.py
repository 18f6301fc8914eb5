"""Targets as the text that the model reads and writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from swiftalign.config.sections import GroundingTextSection
from swiftalign.data.mirror import NO_EXCHANGE, Exchange, mirror_words
from swiftalign.data.sizes import DEFAULT_LIMITS, PixelLimits, Size, model_size
from swiftalign.data.targets import OUTLINES, SPELLINGS, Kind, PixelTarget, Point, RowTarget, rounded
from swiftalign.data.words import special_text
from swiftalign.problems import Problem

Vocabulary = dict[str, tuple[Kind, ...]]
"""The kinds that a key of an answer's JSON may stand for; the number of points decides between several."""


@dataclass(frozen=True)
class Writing:
    """How the model of a run writes coordinates, and the words around them.

    Attributes:
        text: question and answer of rows that give objects instead of messages.
        unit: 0..1000 of the image's sides, or pixels of the image as it reaches the model.
        limits: how large the images reach the model.
        own_boxes: whether this toolkit writes the placeholders of ms-swift's layout as JSON; otherwise ms-swift writes
            them as its template for the model does.
    """

    text: GroundingTextSection = field(default_factory=GroundingTextSection)
    unit: Literal["relative1000", "resized"] = "relative1000"
    limits: PixelLimits = DEFAULT_LIMITS
    own_boxes: bool = True

    def grid(self, size: Size) -> Size:
        """The numbers that stand for the width and height of an image of this size in pixels."""
        return (1000, 1000) if self.unit == "relative1000" else model_size(*size, self.limits)

    def numbers(self, target: PixelTarget, size: Size) -> list[int]:
        """A target's coordinates as the model writes them: rounded, and clamped to the image."""
        return [number for point in rounded(target.points, size, self.grid(size)) for number in point]

    def key(self, kind: Kind) -> str:
        return self.text.keys.get(kind) or SPELLINGS[kind].text_key

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The keys that answers of this writing have."""
        kinds: Vocabulary = {}
        for kind in SPELLINGS:
            kinds[self.key(kind)] = (*kinds.get(self.key(kind), ()), kind)
        return kinds


DEFAULT_WRITING = Writing()


@dataclass(frozen=True)
class Composed:
    """The words of a row that gives objects: a question, and the answer that lists them.

    Attributes:
        prompt: the request; None for that of the configuration.
        system: the system message; None for that of the configuration.
        summaries: what the row says of its images in words: one text for each, or one for all, or none.
        images: number of images.
        exchange: directions that are exchanged: here they are already, in the configuration's words not yet.
    """

    prompt: str | None = None
    system: str | None = None
    summaries: tuple[str, ...] = ()
    images: int = 1
    exchange: Exchange = NO_EXCHANGE

    fixed = ""

    def to_swift(self, targets: Sequence[PixelTarget], sizes: Sequence[Size], writing: Writing) -> dict[str, Any]:
        text = writing.text
        labels = ", ".join(dict.fromkeys(target.label for target in targets))
        prompt = self.prompt
        if prompt is None:
            prompt = mirror_words(text.prompt, self.exchange).replace("{labels}", labels)
        told = self._summary(text) if text.answer == "summary" and self.summaries else answer(targets, sizes, writing)
        messages = [
            {"role": "user", "content": "<image>" * self.images + prompt},
            {"role": "assistant", "content": f"{text.first_line}\n{told}" if text.first_line else told},
        ]
        system = self.system if self.system is not None else text.system and mirror_words(text.system, self.exchange)
        return {"messages": [{"role": "system", "content": system}, *messages] if system else messages}

    def _summary(self, text: GroundingTextSection) -> str:
        """The summaries as the answer: the only one as it is, unless the answer names the images."""
        if len(self.summaries) == 1 and (text.shape != "by_image" or self.images > 1):
            return self.summaries[0]
        return _as_json(_numbered(self.summaries, text.image_key), text)

    def without(self, dropped: Sequence[int]) -> Composed:
        return self

    def mirrored(self, exchange: Exchange) -> Composed:
        prompt, system = (text and mirror_words(text, exchange) for text in (self.prompt, self.system))
        summaries = tuple(mirror_words(summary, exchange) for summary in self.summaries)
        return Composed(prompt, system, summaries, self.images, self.exchange.then(exchange))

    def names_sides(self, text: GroundingTextSection, exchange: Exchange) -> bool:
        prompt = text.prompt if self.prompt is None else self.prompt
        system = text.system if self.system is None else self.system
        return any(each and mirror_words(each, exchange) != each for each in (prompt, system, *self.summaries))

    def problems(self, targets: Sequence[RowTarget]) -> Iterator[Problem]:
        for text in (self.prompt, self.system, *self.summaries, *(target.label for target in targets)):
            if text and "<" in text:
                yield from special_text(text)
        if not targets:
            yield Problem("data-no-objects", "", "the model learns to answer [] there")

    def can_lose(self, number: int, text: GroundingTextSection) -> bool:
        return text.answer == "objects" or not self.summaries

    def answered(self, number: int) -> bool:
        return True


def answer(targets: Sequence[PixelTarget], sizes: Sequence[Size], writing: Writing = DEFAULT_WRITING) -> str:
    """What the model is to write for the targets of a row.

    Args:
        sizes: width and height of each image, in pixels.
        writing: keys, shape and order of the answer, and whether it is fenced.
    """
    text, targets = writing.text, ordered(targets, writing)
    value: Any = [_item(target, sizes, writing) for target in targets]
    if text.shape == "numbered":
        value = _numbered(value, text.object_key)
    elif text.shape == "by_image":
        images: list[list[Any]] = [[] for _ in sizes]
        for target, item in zip(targets, value, strict=True):
            images[target.image].append(item)
        value = _numbered([_numbered(items, text.object_key) for items in images], text.image_key)
    return _as_json(value, text)


def _as_json(value: Any, text: GroundingTextSection) -> str:
    written = json.dumps(value, ensure_ascii=False)
    return f"```json\n{written}\n```" if text.fenced else written


def _item(target: PixelTarget, sizes: Sequence[Size], writing: Writing) -> dict[str, Any]:
    text, key = writing.text, writing.key(target.kind)
    item: dict[str, Any] = {text.label_key: target.label} if text.label_first else {}
    counted = OUTLINES if text.point_counts is True else text.point_counts or ()
    if target.kind in counted:
        item[f"{key}_points"] = len(target.points)
    numbers = writing.numbers(target, sizes[target.image])
    pairs = text.point_pairs and target.kind in OUTLINES
    item[key] = [list(pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)] if pairs else numbers
    return item if text.label_first else {**item, text.label_key: target.label}


def ordered(targets: Sequence[PixelTarget], writing: Writing) -> list[PixelTarget]:
    """Targets in the order of the answer, and each with its points in that order."""
    turned = _turned_as(targets, writing)
    return [turned[number] for number in answer_order(targets, writing)]


def answer_order(targets: Sequence[PixelTarget], writing: Writing) -> list[int]:
    """The numbers of the targets, in the order of the answer."""
    if writing.text.order == "as_given":
        return [*range(len(targets))]
    key, turned = _KEYS[writing.text.order], _turned_as(targets, writing)
    return sorted(range(len(targets)), key=lambda number: (turned[number].image, *key(turned[number])))


def _turned_as(targets: Sequence[PixelTarget], writing: Writing) -> list[PixelTarget]:
    way = writing.text.point_order
    if way == "as_given":
        return [*targets]
    return [replace(each, points=_turned(each, way)) if each.kind in OUTLINES else each for each in targets]


def _turned(target: PixelTarget, way: Literal["clockwise", "counterclockwise"]) -> tuple[Point, ...]:
    """The points of a line, quad or polygon in an order that does not depend on how the row gives them.

    A line begins at its left end, and where both are equally far left, at the upper one. A quad or polygon goes this
    way round on the screen from its topmost corner, and of equally high ones from the left one.
    """
    points = target.points
    if target.kind == "line":
        return points[::-1] if points[-1] < points[0] else points
    # Twice the area: positive for clockwise corners, as y points down.
    turn = sum(a * d - b * c for (a, b), (c, d) in zip(points, (*points[1:], points[0]), strict=True))
    if (turn < 0) == (way == "clockwise"):
        points = points[::-1]
    first = min(range(len(points)), key=lambda number: points[number][::-1])
    return points[first:] + points[:first]


def _first_seen(target: PixelTarget) -> tuple[float, ...]:
    """Top and left of a target: what is higher comes first, and of equally high ones what is further left."""
    return min(y for _, y in target.points), min(x for x, _ in target.points)


def _reference(target: PixelTarget) -> tuple[float, ...]:
    """The leftmost point of a line, the first point of any other target: its y, then its x."""
    x, y = min(target.points) if target.kind == "line" else target.points[0]
    return y, x


def _centre(target: PixelTarget) -> tuple[float, ...]:
    """The centre of the upright box around a target: its y, then its x; then the kind, and the reference point."""
    xs, ys = zip(*target.points, strict=True)
    return (min(ys) + max(ys)) / 2, (min(xs) + max(xs)) / 2, _RANKS[target.kind], *_reference(target)


# What comes first of targets with one centre.
_RANKS: dict[Kind, int] = {"bbox": 0, "quad": 1, "polygon": 1, "line": 2, "point": 3}
_KEYS: dict[str, Callable[[PixelTarget], tuple[float, ...]]] = {
    "top_to_bottom": _first_seen,
    "reference_top_to_bottom": _reference,
    "centre_top_to_bottom": _centre,
}


def _numbered(items: Sequence[Any], key: str) -> dict[str, Any]:
    return {key.replace("{n}", str(number)): item for number, item in enumerate(items, 1)}
