"""ms-swift's own layout, ``messages`` with images and ``objects``, and the layouts that are conversations as well.

    {"messages": [{"role": "user", "content": "<image>Find the <ref-object>."},
                  {"role": "assistant", "content": "[{\"bbox_2d\": <bbox>, \"label\": \"<ref-object>\"}]"}],
     "images": ["1.png"],
     "objects": {"ref": ["red box"], "bbox": [[8, 8, 40, 30]]}}

Others are turned into it: ``conversations`` of ``from`` and ``value`` (LLaVA, ShareGPT, Qwen's official scripts),
``query`` and ``response``, and a content that is a list of parts.

References:
    ms-swift's ``template/template_inputs.py``, ``template/base.py`` and ``dataset/preprocessor/core.py``.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from swiftalign.config.sections import Unit
from swiftalign.data.media import missing_media, with_absolute_media
from swiftalign.data.records import Format, Reading, Row
from swiftalign.data.row_checks import NAMELESS, declared_size, near_keys
from swiftalign.data.targets import UNITS, Kind, RowTarget, to_points
from swiftalign.data.words import special_message, special_text
from swiftalign.data.written import NOT_UNDERSTOOD, PLACEHOLDER, Spot, Written, find_spots
from swiftalign.problems import Problem

_TOOL_ROLES = ("tool", "tool_call", "tool_response")
_ROLES = ("system", "user", "assistant", *_TOOL_ROLES)
_LONGEST_PATH = 2000  # characters; ms-swift takes a longer text for the image itself, in base64
_ADDRESSES = ("http://", "https://")
_INLINE = re.compile(r"<img>(.+?)</img>")

# Other names for what a conversation is made of.
_TALKS = ("conversations", "conversation")
_QUESTIONS = ("query", "question", "instruction", "prompt", "problem")
_ANSWERS = ("response", "answer", "output", "solution")
_SPEAKERS = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant"}

_KNOWN = {"messages", "images", "image", "objects", "system", "tools", "videos", "video", "audios", "audio"}
_KNOWN |= {"coordinates", "width", "height", *_TALKS, *_QUESTIONS, *_ANSWERS, "history", "input"}
_KNOWN |= {"rejected_response", "rejected_messages", "rejected_images", "label", "channel", "margin", "loss_scale"}
_KNOWN |= {"chat_template_kwargs", "add_eos", "teacher_prompt", "source", "id", "image_id", "dataset", "split"}


def _recognise(row: dict[str, Any]) -> bool:
    if "messages" in row or isinstance(next((row[key] for key in _TALKS if key in row), None), list):
        return True
    return "objects" not in row and _question(row) is not None and any(isinstance(row.get(k), str) for k in _ANSWERS)


def _question(row: dict[str, Any]) -> str | None:
    return next((row[key] for key in _QUESTIONS if isinstance(row.get(key), str)), None)


def _read(row: dict[str, Any], reading: Reading) -> Row:
    faults = list(near_keys((row, _KNOWN)))
    row = _as_messages(row)
    _check_messages(row["messages"])
    listed, inside, messages = _split(row)
    if not all(isinstance(image, str | bytes) for image in listed):
        raise ValueError("'images' must be a list of paths")
    if listed and inside:
        raise ValueError("images both in 'images' and in the messages")
    sources = inside or listed
    images = tuple(_image(source, reading.images) for source in sources)
    declared = row.get("coordinates") or reading.unit
    if declared not in (None, *UNITS):
        raise ValueError(f"'coordinates' must be one of {', '.join(UNITS)}")
    objects = _objects(row.get("objects"), len(images))
    labels, boxes = objects.get("ref") or [], objects.get("bbox") or []
    faults += _placeholder_faults(messages, labels, len(boxes), len(images))
    faults += [problem for label in labels for problem in special_text(label)]
    if reading.own_boxes:
        names = iter(labels)
        for message in messages:
            if isinstance(message.get("content"), str):
                message["content"] = re.sub("<ref-object>", lambda tag: next(names, tag[0]), message["content"])

    box_unit: Unit = _BOX_UNITS.get(objects.get("bbox_type") or "", declared or "pixels")
    ids = [*(objects.get("image_id") or []), *[0] * len(boxes)]
    named = labels if len(labels) == len(boxes) else [""] * len(boxes)
    given = zip(boxes, named, ids, strict=False)
    targets, spots, unclear = list[RowTarget](), list[Spot](), False
    for number, message in enumerate(messages):
        text = message.get("content")
        if not isinstance(text, str):
            continue
        learned = message["role"] == "assistant"
        faults += special_message(text, answer=learned)
        unit = declared or reading.text_unit
        found, wrong, other = find_spots(text, number, unit=unit, assumed=declared is None and learned)
        unclear |= other
        if learned:
            faults += wrong
            if other and not declared and len(images) == 1:
                faults.append(
                    Problem("data-unchecked", "the unit of coordinates in its answer that are not understood")
                )
            if other and declared and declared != reading.text_unit and len(images) == 1:
                fault = "coordinates that are not understood can't be converted"
                faults.append(Problem("data-coordinates-foreign", fault, "write them in the model's unit"))
        for placed in found:
            if placed.spot.unit and len(images) > 1:  # it is not known on which of them
                unclear = True
                if learned and unit != reading.text_unit:
                    fault = "coordinates of a row with several images can't be converted"
                    faults.append(Problem("data-coordinates-foreign", fault, "write them in the model's unit"))
                continue
            numbers, label, image = (placed.numbers, "", 0) if placed.spot.unit else next(given, ([], "", 0))
            kind = placed.kind or _KINDS_BY_LENGTH.get(len(numbers), "polygon")
            points = to_points(kind, numbers)
            if not points or (images and image >= len(images)):
                faults.append(Problem("data-placeholders", f"a {kind} of {len(numbers)} numbers", _PLACEHOLDERS))
                continue
            if learned and placed.label is not None and not placed.label.strip():
                faults.append(NAMELESS)
            targets.append(UNITS[placed.spot.unit or box_unit](kind, placed.label or label, points, (), image))
            # ms-swift fills its placeholders from lists, which then have to keep all their entries.
            keeps = placed.spot.unit is None and not reading.own_boxes
            spots.append(placed.spot._replace(item=None) if keeps else placed.spot)

    written = {key: value for key, value in row.items() if key not in ("coordinates", "image")}
    written["messages"] = messages
    if objects:
        written["objects"] = objects
    if images:
        paths = [str(image) if isinstance(image, Path) else None for image in images]
        written["images"] = [path or source for path, source in zip(paths, sources, strict=True)]
    hint = "paths of videos and sounds are relative to the data file's folder"
    faults += [Problem("data-media-missing", str(path), hint) for path in missing_media(written, reading.images)]
    written = with_absolute_media(written, reading.images)
    fixed = NOT_UNDERSTOOD if unclear else "" if targets else "its text locates nothing"
    if not images or None in images:
        fixed = "it has no image file"
        faults += [Problem("data-unchecked", "an image is on the web")] if images else []
    if not images:
        targets, spots = [], []
    return Row(images, tuple(targets), Written(written, tuple(spots), tuple(faults), fixed), declared_size(row))


_BOX_UNITS: dict[str, Unit] = {"norm1": "relative1", "real": "pixels"}
_KINDS_BY_LENGTH: dict[int, Kind] = {2: "point", 4: "bbox", 8: "quad"}
_PLACEHOLDERS = "write <image> and <bbox> once for each image and box"


def _as_messages(row: dict[str, Any]) -> dict[str, Any]:
    """A conversation of another layout with ``messages``."""
    if "messages" in row:
        return row
    talk = next((row[key] for key in _TALKS if key in row), None)
    messages: list[Any]
    if talk is not None:
        messages = [_turn(turn) for turn in talk] if isinstance(talk, list) else [None]
    else:
        history = row.get("history") or []
        if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
            raise ValueError("'history' must be a list of [question, answer]")
        question, more = _question(row) or "", row.get("input")
        question = f"{question}\n{more}" if isinstance(more, str) and more else question
        answer = next(row[key] for key in _ANSWERS if isinstance(row.get(key), str))
        messages = [
            {"role": role, "content": text}
            for pair in [*history, (question, answer)]
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
    if isinstance(row.get("system"), str) and row["system"]:
        messages = [{"role": "system", "content": row["system"]}, *messages]
    gone = (*_TALKS, *_QUESTIONS, *_ANSWERS, "history", "input", "system")
    return {**{key: value for key, value in row.items() if key not in gone}, "messages": messages}


def _turn(turn: Any) -> Any:
    if not isinstance(turn, dict) or "role" in turn or "from" not in turn:
        return turn
    speaker = turn["from"]
    role = _SPEAKERS.get(speaker, speaker) if isinstance(speaker, str) else speaker
    return {"role": role, "content": turn.get("value", turn.get("content"))}


def _check_messages(messages: Any) -> None:
    learned = False
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise ValueError("'messages' must be a list of {role, content}")
    for number, message in enumerate(messages):
        role, content = message["role"], message.get("content")
        if role not in _ROLES:
            raise ValueError(f"a message's role must be one of {', '.join(_ROLES)}")
        if role == "system" and (number or not isinstance(content, str)):
            raise ValueError("the system message must come first, and be text")
        if role not in _TOOL_ROLES and not _content_is_sound(message):
            raise ValueError(f"a message of {role} has no text, or a part that is not text, image, video or audio")
        learned |= role == "tool_call" or (role == "assistant" and bool(content or message.get("tool_calls")))
    if not learned:
        raise ValueError("no message of assistant that could be learned")


def _content_is_sound(message: dict[str, Any]) -> bool:
    content, answers = message.get("content"), message["role"] == "assistant"
    if content is None:
        calls = message.get("tool_calls") if answers else None
        return isinstance(calls, list) and bool(calls) and all(isinstance(call, dict) for call in calls)
    if answers and isinstance(content, dict | list):
        ids = content.get("token_ids") if isinstance(content, dict) else content
        if isinstance(ids, list) and ids and all(type(item) is int for item in ids):
            return True
    return isinstance(content, str) or (isinstance(content, list) and bool(content) and flat_text(content) is not None)


def flat_text(content: Any) -> str | None:
    """A message's content as ms-swift flattens it, ``<image>`` in an image's place; None for tokens and tool calls."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(map(_part_is_sound, content)):
        return None
    return "".join(part["text"] if part["type"] == "text" else f"<{_medium(part)}>" for part in content)


def _part_is_sound(part: Any) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return False
    if part["type"] == "text":
        return isinstance(part.get("text"), str)
    # Of another kind of part, ms-swift would write the name into the text.
    return _medium(part) == "video" or (_medium(part) in ("image", "audio") and isinstance(_value(part), str | None))


def _value(part: dict[str, Any]) -> Any:
    value = part.get(part["type"])
    return value.get("url", 0) if isinstance(value, dict) else value


def _medium(part: dict[str, Any]) -> str:
    return str(part["type"]).removesuffix("_url")


def _split(row: dict[str, Any]) -> tuple[list[Any], list[Any], list[dict[str, Any]]]:
    """The images in ``images``, those in the messages, and the messages as texts, ``<image>`` in an image's place.

    Each image is a path, an address, the content of its file, or that in base64.
    """
    inside, messages = list[Any](), list[dict[str, Any]]()
    listed = _as_list(row.get("images") or row.get("image"))
    for message in row["messages"]:
        message, content = dict(message), message.get("content")
        if message["role"] not in _TOOL_ROLES:
            if isinstance(content, list):
                parts = [part for part in content if isinstance(part, dict) and "type" in part]
                inside += [_value(part) for part in parts if _medium(part) == "image" and _value(part)]
                # A content with a video stays as it is: its parts have settings.
                if len(parts) == len(content) and all(_medium(part) in ("text", "image") for part in parts):
                    message["content"] = flat_text(content)
            elif isinstance(content, str) and "<img>" in content:
                inside += _INLINE.findall(content)
                message["content"] = _INLINE.sub("<image>", content)
        messages.append(message)
    return [held_image(image) for image in listed], inside, messages


def held_image(image: Any) -> Any:
    """An image of a row; of one as tables hold it, the content of its file, or else its path."""
    return image.get("bytes") or image.get("path") if isinstance(image, dict) else image


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _image(source: str | bytes, folder: Path) -> Path | bytes | None:
    """The image's path, or the content of its file; None for an image on the web."""
    if isinstance(source, bytes):
        return source
    if source.startswith(_ADDRESSES):
        return None
    if source.startswith("data:") or len(source) > _LONGEST_PATH:
        try:
            return base64.b64decode(source.rpartition(",")[2], validate=False)
        except binascii.Error:
            return b""
    return folder / local_path(source)


def local_path(source: str) -> str:
    """A path that may be written as a ``file:`` address.

    >>> local_path("file:///data/my%20image.png")
    '/data/my image.png'
    """
    return unquote(source.removeprefix("file://")) if source.startswith("file://") else source


def _objects(objects: Any, images: int) -> dict[str, Any]:
    """What ``objects`` says, checked: ``ref``, ``bbox``, ``bbox_type`` and ``image_id``."""
    if isinstance(objects, str):
        try:
            objects = json.loads(objects)
        except (ValueError, RecursionError):
            raise ValueError("'objects' is a text that is not JSON") from None
    if isinstance(objects, list):  # one entry for each object, as in older rows of ms-swift
        if not all(isinstance(item, dict) and isinstance(item.get("bbox"), list) for item in objects):
            raise ValueError("an entry of 'objects' needs a 'bbox'")
        types = [item.get("bbox_type") for item in objects]
        if any(each != types[0] for each in types):
            raise ValueError("the entries of 'objects' have different 'bbox_type'")
        objects = {
            "ref": [item.get("caption", item.get("ref", "")) for item in objects],
            "bbox": [item["bbox"] for item in objects],
            "bbox_type": types[0] if types else None,
            "image_id": [item.get("image") or 0 for item in objects],
        }
    if objects is None or objects == {}:
        return {}
    if not isinstance(objects, dict) or not isinstance(objects.get("bbox"), list):
        raise ValueError("'objects' must be {ref: [...], bbox: [[...], ...]}")
    for box in objects["bbox"]:
        even = isinstance(box, list) and len(box) > 1 and len(box) % 2 == 0
        if not even or not all(type(number) in (int, float) and abs(number) < 1e9 for number in box):
            raise ValueError("a 'bbox' in 'objects' must be an even count of numbers, 2 or more")
    labels, ids = objects.get("ref"), objects.get("image_id")
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise ValueError("'ref' in 'objects' must be a list of names")
    if objects.get("bbox_type") not in (None, "real", "norm1"):
        raise ValueError("'bbox_type' must be real or norm1")
    if ids is not None and not (isinstance(ids, list) and all(type(i) is int and 0 <= i < images for i in ids)):
        raise ValueError(f"'image_id' must number the row's {images} images from 0")
    return objects


def _placeholder_faults(
    messages: list[dict[str, Any]], labels: list[str], boxes: int, images: int
) -> Iterator[Problem]:
    texts = [flat_text(message.get("content")) or "" for message in messages]
    image_tags, box_tags, label_tags = map("".join(texts).count, ("<image>", PLACEHOLDER, "<ref-object>"))
    if image_tags not in (0, images):  # without any, ms-swift puts them first
        yield Problem("data-placeholders", f"{image_tags} <image> for {images} images", _PLACEHOLDERS)
    if box_tags != boxes:
        yield Problem("data-placeholders", f"{box_tags} <bbox> for {boxes} boxes in 'objects'", _PLACEHOLDERS)
    if label_tags > len(labels):
        message = f"{label_tags} <ref-object> for {len(labels)} names in 'objects'"
        yield Problem("data-placeholders", message, _PLACEHOLDERS)
    elif not all(label.strip() for label in labels[:label_tags]):
        yield NAMELESS


SWIFT = Format(recognise=_recognise, read=_read)
