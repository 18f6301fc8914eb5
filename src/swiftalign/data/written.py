"""Conversations in a row's own words, and the places in them where they say where things are.

Without augmentation the words reach the model as they are, but for ms-swift's placeholders and declared conversions.
With augmentation, the numbers change with the image. What augmentation moved out of the image is cut out of the list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from swiftalign.config.sections import GroundingTextSection, Unit
from swiftalign.data.answers import find_items, find_keys, kind_of
from swiftalign.data.files import distinct
from swiftalign.data.mirror import NO_EXCHANGE, Exchange, mirror_words
from swiftalign.data.row_checks import near_key
from swiftalign.data.sizes import Size
from swiftalign.data.targets import SPELLINGS, Kind, PixelTarget, RowTarget, to_points
from swiftalign.data.text import Vocabulary, Writing
from swiftalign.data.words import shown
from swiftalign.problems import Problem

# Keys of coordinates that are understood in the text of a row: this toolkit's, and those of others with this meaning.
KEYS: Vocabulary = {spelling.text_key: (kind,) for kind, spelling in SPELLINGS.items()} | {
    "bbox": ("bbox",),
    "quad": ("quad",),
    "line": ("line",),
    "point": ("point",),
    "polygon": ("polygon",),
    "poly": ("quad", "polygon"),
}
_LABELS = ("label", "desc", "name", "ref", "caption", "category", "text")
# What says for sure that a text is meant as coordinates: a key of them, or a list that breaks off in its first key.
_NAMED = re.compile(r'"(?:' + "|".join(spelling.text_key for spelling in SPELLINGS.values()) + r')"|\[\s*\{\s*"[^"]*$')
# What says so beside other targets: an object that can't be read, with numbers or a placeholder under any key.
_LOST = re.compile(r'\{[^{}]*"\s*:\s*(?:\[\s*-?\d|"bbox")')

_OWN_KEYS = frozenset(spelling.text_key for spelling in SPELLINGS.values())
_KEY = re.compile(r'(?<!\\)"\s*:')
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_DECODER = json.JSONDecoder()
_MOST_JSON = 200  # pieces of JSON in a text

PLACEHOLDER = "<bbox>"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
# Two numbers or more in brackets, and the coordinate tokens of some models.
_COORDINATES = re.compile(
    r"[\[(]\s*-?\d+(?:\.\d+)?\s*[,;]\s*-?\d+(?:\.\d+)?|<\|box_start\|>|<(?:loc|box|quad|poly)[_>\d]"
)
NOT_UNDERSTOOD = "its text mentions coordinates that are not understood"


class Spot(NamedTuple):
    """Where a text says where a target is; places are counted in characters of the message.

    Attributes:
        message: number of the message.
        numbers: begin and end of the list of numbers, or of the placeholder.
        unit: the unit of the numbers; None for a placeholder, for which numbers are written.
        key: begin and end of the name of the key, if there is one.
        length: begin and end of the number of points that the object gives beside its coordinates, if it does.
        label: begin and end of the object's label with its quotation marks, if it has one.
        item: begin and end of the object in a JSON list, which can be cut out; None if it can't.
        assumed: whether neither the row nor the configuration says what the unit is.
    """

    message: int
    numbers: tuple[int, int]
    unit: Unit | None
    key: tuple[int, int] | None = None
    item: tuple[int, int] | None = None
    assumed: bool = False
    length: tuple[int, int] | None = None
    label: tuple[int, int] | None = None


@dataclass(frozen=True)
class Written:
    """The words of a row that has messages.

    Attributes:
        row: the row in ms-swift's layout; its contents are texts, but for tool calls and token ids.
        spots: where its texts give each of the row's targets.
        faults: what is wrong with the texts.
        fixed: why the targets must stay where they are; empty where they may move.
        dropped: targets to be cut out: their numbers among the spots.
        exchange: directions that are exchanged.
    """

    row: dict[str, Any]
    spots: tuple[Spot, ...] = ()
    faults: tuple[Problem, ...] = ()
    fixed: str = ""
    dropped: frozenset[int] = frozenset()
    exchange: Exchange = NO_EXCHANGE

    def to_swift(self, targets: Sequence[PixelTarget], sizes: Sequence[Size], writing: Writing) -> dict[str, Any]:
        row = self.row
        if not sizes or not (self.spots or any(self.exchange)):
            return row
        kept = [number for number in range(len(self.spots)) if number not in self.dropped]
        edits: dict[int, list[tuple[int, int, str]]] = {}  # by message: begin, end, and what is there instead
        for number, target in zip(kept, targets, strict=True):
            spot = self.spots[number]
            if spot.unit is None and not writing.own_boxes:
                continue
            text = row["messages"][spot.message]["content"]
            new = _rewritten(text, spot, target, sizes[target.image], writing)
            if spot.label and mirror_words(json.loads(text[slice(*spot.label)]), self.exchange) != target.label:
                label = mirror_words(target.label, self.exchange)  # all of the text is exchanged below
                new.append((*spot.label, json.dumps(label, ensure_ascii=False)))
            if new:
                edits.setdefault(spot.message, []).extend(new)
        for message in {self.spots[number].message for number in self.dropped}:
            gone = [self.spots[number] for number in self.dropped if self.spots[number].message == message]
            cuts = _cuts(row["messages"][message]["content"], sorted(spot.item for spot in gone if spot.item))
            edits.setdefault(message, []).extend((begin, end, "") for begin, end in cuts)
        messages = list(row["messages"])
        for index, changes in edits.items():
            text, end, parts = messages[index]["content"], 0, list[str]()
            for begin, stop, new_text in sorted(changes):
                parts += (text[end:begin], new_text)
                end = stop
            messages[index] = {**messages[index], "content": "".join((*parts, text[end:]))}
        if any(self.exchange):
            messages = [
                {**each, "content": mirror_words(text, self.exchange)} if isinstance(text, str) else each
                for each, text in ((each, each.get("content")) for each in messages)
            ]
        row = {**row, "messages": messages}
        if writing.own_boxes:
            row.pop("objects", None)
        elif row.get("objects"):  # in pixels, for ms-swift to write
            boxes = [
                [number for point in target.points for number in point]
                for number, target in zip(kept, targets, strict=True)
                if self.spots[number].unit is None
            ]
            row["objects"] = {**row["objects"], "bbox": boxes, "bbox_type": "real"}
            if row["objects"].get("ref"):
                row["objects"]["ref"] = [mirror_words(name, self.exchange) for name in row["objects"]["ref"]]
        return row

    def without(self, dropped: Sequence[int]) -> Written:
        kept = [number for number in range(len(self.spots)) if number not in self.dropped]
        return replace(self, dropped=self.dropped | {kept[number] for number in dropped})

    def mirrored(self, exchange: Exchange) -> Written:
        return replace(self, exchange=self.exchange.then(exchange))

    def names_sides(self, text: GroundingTextSection, exchange: Exchange) -> bool:
        texts = (message.get("content") for message in self.row["messages"])
        return any(isinstance(each, str) and mirror_words(each, exchange) != each for each in texts)

    def problems(self, targets: Sequence[RowTarget]) -> Iterator[Problem]:
        yield from self.faults

    def can_lose(self, number: int, text: GroundingTextSection) -> bool:
        return self.spots[number].item is not None

    def answered(self, number: int) -> bool:
        last = len(self.row["messages"]) - 1
        return self.spots[number].message == last and self.row["messages"][last]["role"] == "assistant"


def _rewritten(text: str, spot: Spot, target: PixelTarget, size: Size, writing: Writing) -> list[tuple[int, int, str]]:
    """The changes of a text that give a target where it is now: none where the text says so already."""
    begin, end = spot.numbers
    new, old = writing.numbers(target, size), text[begin:end]
    if spot.unit is None:
        return [(begin, end, str(new))]
    was = [float(number) for number in _NUMBER.findall(old)]
    wide, high = writing.grid(size)
    exact = [n for x, y in target.points for n in (x / size[0] * wide, y / size[1] * high)]
    same_length = len(was) == len(exact)
    edits = list[tuple[int, int, str]]()
    if spot.unit != writing.unit or not same_length or any(abs(a - b) > 0.5 for a, b in zip(was, exact, strict=True)):
        following, parts = iter(new), list(map(str, new))
        between = re.search(r"\d(\s*,\s*)-?\d", old)
        separator = between[1] if between else ", "
        if pairs := re.search(r"\](\s*,\s*)\[", old):
            parts = [f"[{x}{separator}{y}]" for x, y in zip(parts[::2], parts[1::2], strict=True)]
            separator = pairs[1]
        written = _NUMBER.sub(lambda _: str(next(following)), old) if same_length else f"[{separator.join(parts)}]"
        edits.append((begin, end, written))
    if spot.length and text[slice(*spot.length)] != str(len(target.points)):
        edits.append((*spot.length, str(len(target.points))))
    if spot.key and target.kind not in KEYS.get(text[slice(*spot.key)], (target.kind,)):
        edits.append((*spot.key, writing.key(target.kind)))
    return edits


_AFTER, _BEFORE = re.compile(r"\s*,\s*"), re.compile(r",\s*$")


def _cuts(text: str, items: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What to cut out of a text with items of a list: these, in their order, with the commas that go with them."""
    cuts = list[tuple[int, int]]()
    for begin, end in items:
        if after := _AFTER.match(text, end):
            cuts.append((begin, after.end()))
            continue
        while cuts and cuts[-1][1] == begin:  # the list ends here: what is left of it must not end with a comma
            begin = cuts.pop()[0]
        before = _BEFORE.search(text[:begin])
        cuts.append((before.start() if before else begin, end))
    return cuts


class Placed(NamedTuple):
    """A target that a message locates.

    Attributes:
        kind: None outside JSON.
        label: None where the text gives none beside it.
        numbers: None for a placeholder.
    """

    spot: Spot
    kind: Kind | None
    label: str | None
    numbers: Any


def find_spots(text: str, message: int, *, unit: Unit, assumed: bool) -> tuple[list[Placed], list[Problem], bool]:
    """The targets that a text locates.

    Args:
        text: a message; placeholders stand in it.
        message: its number.
        unit: the unit of its coordinates.
        assumed: whether neither the row nor the configuration says what the unit is.

    Returns:
        The targets, in the order of the text; those of placeholders have no numbers, and outside JSON no kind. What is
        wrong with its JSON. And whether the text holds other coordinates, which are not understood.
    """
    placed, faults, rest, unclear = list[Placed](), list[Problem](), list(text), False
    # JSON has no placeholders: a text of equal length takes their place.
    json_text, position, broken = text.replace(PLACEHOLDER, '"bbox"'), 0, False
    outside = list(json_text)  # of all objects
    for _ in range(_MOST_JSON if "{" in text else 0):
        found = find_items(json_text, KEYS, position)
        if found.start < 0:
            break
        for item in found.items:
            outside[item.start : item.end] = " " * (item.end - item.start)
            kind, numbers = kind_of(item.value, KEYS)
            if kind is None:
                faults += _near_coordinates(item.value)
                continue
            if len(_KEY.findall(json_text, item.start, item.end)) > len(item.value):
                try:
                    json.loads(json_text[item.start : item.end], object_pairs_hook=distinct)
                except ValueError as error:
                    faults.append(_malformed(str(error)))
            key = next(key for key in KEYS if key in item.value)
            keys = find_keys(json_text, item.start, item.end)
            (name_begin, name_end), begin = keys[key]
            named = next((name for name in _LABELS if isinstance(item.value.get(name), str)), None)
            label = item.value[named] if named else None
            cut = (item.start, item.end) if json_text[found.start] == "[" and not item.nested else None
            spot = Spot(message, (begin, begin), unit, (name_begin, name_end), cut, assumed)
            if named and label and (string := _STRING.match(json_text, keys[named][1])):
                spot = spot._replace(label=string.span())
            if type(item.value.get(f"{key}_points")) is int:
                count = keys[f"{key}_points"][1]
                if (points := to_points(kind, numbers)) and len(points) != item.value[f"{key}_points"]:
                    told = item.value[f"{key}_points"]
                    faults.append(_malformed(f"{key}_points is {told}, but {key} has {len(points)} points"))
                spot = spot._replace(length=(count, count + len(str(item.value[f"{key}_points"]))))
            if numbers == "bbox" and text.startswith(PLACEHOLDER, begin):
                spot = spot._replace(numbers=(begin, begin + len(PLACEHOLDER)), unit=None, assumed=False)
                placed.append(Placed(spot, kind, label, None))
            elif to_points(kind, numbers):
                spot = spot._replace(numbers=(begin, _DECODER.raw_decode(json_text, begin)[1]))
                placed.append(Placed(spot, kind, label, numbers))
            else:
                if key in _OWN_KEYS:
                    faults.append(_malformed(f"{key} of {shown(label or '')} is {shown(str(numbers))}"))
                unclear |= isinstance(numbers, list | dict)
                continue
            # Other numbers of the object, such as a center or the boxes of its parts, stay: they are not understood.
            for start, end in (spot.numbers, *(match.span() for match in _STRING.finditer(text, item.start, item.end))):
                rest[start:end] = " " * (end - start)
        if found.items and not found.complete:
            broken = True
            break
        position = max(found.end if found.complete else 0, found.start + 1)
    unread = "".join(outside)
    meant = _NAMED.search(unread)
    if not meant and (placed or PLACEHOLDER in text):
        meant = _LOST.search(unread)
    if broken or (meant and not faults):
        shows = shown(text[max(meant.start() - 20, 0) : meant.end() + 20] if meant else text[-60:])
        faults.append(_malformed(f"its JSON breaks off or is damaged: {shows}"))
    taken = {each.spot.numbers[0] for each in placed}
    for match in re.finditer(PLACEHOLDER, text):
        if match.start() not in taken:
            placed.append(Placed(Spot(message, match.span(), None), None, None, None))
    placed.sort(key=lambda each: each.spot.numbers)
    return placed, faults, unclear or bool(_COORDINATES.search("".join(rest)))


def _malformed(message: str) -> Problem:
    return Problem("data-answer-malformed", message, "correct the JSON of the answer")


def _near_coordinates(item: Any) -> Iterator[Problem]:
    """That an object of an answer has coordinates under a misspelt key."""
    for key, value in item.items() if isinstance(item, dict) else ():
        near = None if key in KEYS else near_key(key, _OWN_KEYS)
        if near and (value == "bbox" or any(to_points(kind, value) for kind in KEYS[near])):
            yield Problem("data-key-unknown", f"{shown(key)} (is {near!r} meant?)", "correct the key, or remove it")
