"""Rows in ms-swift's own layout: ``messages``, with images and, for grounding, ``objects``.

References:
    ms-swift's ``template/template_inputs.py`` and ``template/base.py``: what ``Template.encode`` takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ROLES = ("system", "user", "assistant", "tool", "tool_call", "tool_response")
_TOOL_ROLES = ("tool", "tool_call", "tool_response")
_LONGEST_PATH = 2000  # characters; ms-swift takes a longer text for the image itself, in base64


def swift_row_fault(row: dict[str, Any]) -> str | None:
    """What is wrong with a row that has ``messages``; None where nothing is."""
    return _messages_fault(row["messages"]) or _images_fault(row) or _objects_fault(row)


def swift_images(row: dict[str, Any], folder: Path) -> list[Path | None]:
    """The images of a row without faults, in order; None for those on the web or inline.

    Args:
        folder: of the JSONL file, which image paths count from.
    """
    return [folder / source if _is_path(source) else None for source in _sources(row)]


def with_absolute_images(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A row without faults, all its images in ``images``: absolute paths, addresses, or base64."""
    sources = _sources(row)
    if not sources:
        return row
    images = [str(folder / source) if _is_path(source) else source for source in sources]
    return {**row, "messages": [_without_sources(message) for message in row["messages"]], "images": images}


def flat_text(content: Any) -> str | None:
    """A message's content as ms-swift flattens it, ``<image>`` in an image's place; None for tokens and tool calls."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(_part_is_sound(part) for part in content):
        return None
    return "".join(part["text"] if part["type"] == "text" else f"<{_medium(part)}>" for part in content)


def placeholder_fault(row: dict[str, Any]) -> str | None:
    """Whether the texts of a row without faults have other placeholders than it has images and objects."""
    text = "".join(flat_text(message.get("content")) or "" for message in row["messages"])
    images, tags = len(_sources(row)), text.count("<image>")
    if tags != images and tags:  # without any, ms-swift puts them first
        return f"{tags} <image> for {images} images"
    objects = row.get("objects") or {}
    boxes, tags = len(objects.get("bbox") or []), text.count("<bbox>")
    if tags != boxes:
        return f"{tags} <bbox> for {boxes} boxes in 'objects'"
    labels, tags = len(objects.get("ref") or []), text.count("<ref-object>")
    return f"{tags} <ref-object> for {labels} names in 'objects'" if tags > labels else None


def _messages_fault(messages: Any) -> str | None:
    listed = isinstance(messages, list) and all(isinstance(m, dict) and "role" in m for m in messages)
    if not listed or not messages:
        return "'messages' must be a list of {role, content}"
    for number, message in enumerate(messages):
        role, content = message["role"], message.get("content")
        if role not in _ROLES:
            return f"a message's role must be one of {', '.join(_ROLES)}"
        if role == "system" and (number or not isinstance(content, str)):
            return "the system message must come first, and be text"
        if role not in _TOOL_ROLES and not _content_is_sound(message):
            return f"a message of {role} has no text"
    if not any(_says_something(message) for message in messages):
        return "no message of assistant that could be learned"
    return None


def _content_is_sound(message: dict[str, Any]) -> bool:
    content = message.get("content")
    if isinstance(content, str):
        return True
    if message["role"] == "assistant" and content is not None and _token_ids(content):
        return True
    if content is None:
        calls = message.get("tool_calls") if message["role"] == "assistant" else None
        return isinstance(calls, list) and all(isinstance(call, dict) for call in calls)
    return isinstance(content, list) and bool(content) and all(_part_is_sound(part) for part in content)


def _says_something(message: dict[str, Any]) -> bool:
    if message["role"] == "assistant":
        return bool(message.get("content")) or bool(message.get("tool_calls"))
    return bool(message["role"] == "tool_call")


def _token_ids(content: Any) -> bool:
    """Whether a response is given as token ids: a list of them, or under this name."""
    listed = content.get("token_ids") if isinstance(content, dict) else content
    return isinstance(listed, list) and bool(listed) and all(type(item) is int for item in listed)


def _part_is_sound(part: Any) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return False
    if part["type"] == "text":
        return isinstance(part.get("text"), str)
    value = part.get(part["type"])
    if isinstance(value, dict):
        value = value.get("url", 0)
    return value is None or isinstance(value, str) or _medium(part) == "video"


def _medium(part: dict[str, Any]) -> str:
    kind: str = part["type"]
    return kind.removesuffix("_url")


def _images_fault(row: dict[str, Any]) -> str | None:
    if row.get("image") and not row.get("images"):
        return "the key is 'images'; 'image' would be ignored"
    images = row.get("images")
    listed = images if isinstance(images, list) else [] if images is None else [images]
    if not all(isinstance(_source(image), str) for image in listed):
        return "'images' must be a list of paths"
    if listed and _parts_with_source(row):
        return "images both in 'images' and in the messages"
    return None


def _source(image: Any) -> Any:
    """An entry of ``images`` as one text: a path, an address, or the image itself in base64."""
    return image.get("bytes") or image.get("path") if isinstance(image, dict) else image


def _sources(row: dict[str, Any]) -> list[str]:
    images = row.get("images")
    listed = images if isinstance(images, list) else [] if images is None else [images]
    return [_part_source(part) for part in _parts_with_source(row)] or [_source(image) for image in listed]


def _parts_with_source(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for message in row["messages"] for part in _image_parts(message) if _part_source(part)]


def _image_parts(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, list) and message["role"] not in _TOOL_ROLES:
        yield from (part for part in content if isinstance(part, dict) and _medium(part) == "image")


def _part_source(part: dict[str, Any]) -> Any:
    value = part.get(part["type"])
    return value.get("url") if isinstance(value, dict) else value


def _is_path(source: str) -> bool:
    return len(source) <= _LONGEST_PATH and not source.startswith(("http://", "https://", "data:"))


def _without_sources(message: dict[str, Any]) -> dict[str, Any]:
    """A message with ``<image>`` in the place of the images that it brings along."""
    named = [id(part) for part in _image_parts(message) if _part_source(part)]
    if not named:
        return message
    parts = [{"type": "text", "text": "<image>"} if id(part) in named else part for part in message["content"]]
    return {**message, "content": parts}


def _objects_fault(row: dict[str, Any]) -> str | None:
    objects = row.get("objects")
    if objects is None or objects == {}:
        return None
    if not isinstance(objects, dict) or not isinstance(objects.get("bbox"), list):
        return "'objects' must be {ref: [...], bbox: [[...], ...]}"
    if not all(_box_is_sound(box) for box in objects["bbox"]):
        return "a 'bbox' in 'objects' must be an even count of numbers, 2 or more"
    labels, ids = objects.get("ref"), objects.get("image_id")
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        return "'ref' in 'objects' must be a list of names"
    if objects.get("bbox_type") not in (None, "real", "norm1"):
        return "'bbox_type' must be real or norm1"
    count = len(_sources(row))
    if ids is not None and not (isinstance(ids, list) and all(type(i) is int and 0 <= i < count for i in ids)):
        return f"'image_id' must number the row's {count} images from 0"
    return None


def _box_is_sound(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) >= 2
        and len(box) % 2 == 0
        and all(type(number) in (int, float) and abs(number) < 1e9 for number in box)
    )
