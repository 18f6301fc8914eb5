"""ms-swift's own layout: ``messages``, with images and, for grounding, ``objects``. Such rows are taken as they are.

References:
    ms-swift's ``template/template_inputs.py`` and ``template/base.py``: what ``Template.encode`` takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from swiftalign.config.sections import GroundingTextSection
from swiftalign.data.answers import parse_answer
from swiftalign.data.records import SPELLINGS, Format, Size, TextTarget
from swiftalign.data.row_checks import outside_problems, special_text
from swiftalign.problems import Problem

_TOOL_ROLES = ("tool", "tool_call", "tool_response")
_ROLES = ("system", "user", "assistant", *_TOOL_ROLES)
_LONGEST_PATH = 2000  # characters; ms-swift takes a longer text for the image itself, in base64
# A row of this layout may well spell out an <|im_end|>, but never the tokens of an image.
_VISUAL_TOKENS = re.compile(r"<\|(?:image_pad|video_pad)\|>")


@dataclass(frozen=True)
class SwiftRow:
    """A conversation, whose text says in its own words where things are: its images' geometry must not change.

    Attributes:
        images: absolute paths; None for an image on the web or inline.
        row: the whole row, with all its images in ``images``: absolute paths, addresses, or base64.
    """

    images: tuple[Path | None, ...]
    row: dict[str, Any]

    @cached_property
    def targets(self) -> tuple[TextTarget, ...]:
        """Targets in the last message, where that is text as Qwen3-VL writes it."""
        text = self.row["messages"][-1].get("content")
        if not isinstance(text, str) or not any(spelling.text_key in text for spelling in SPELLINGS.values()):
            return ()
        return parse_answer(text).targets

    @property
    def objects(self) -> int:
        return len((self.row.get("objects") or {}).get("bbox") or self.targets)

    def problems(self, sizes: Sequence[Size | None]) -> Iterator[Problem]:
        if None in self.images:
            yield Problem("data-unchecked", "an image is on the web or inline")
        texts = [flat_text(message.get("content")) or "" for message in self.row["messages"]]
        objects = self.row.get("objects") or {}
        boxes, labels, ids = (objects.get(key) or [] for key in ("bbox", "ref", "image_id"))
        image_tags, box_tags, label_tags = map("".join(texts).count, ("<image>", "<bbox>", "<ref-object>"))
        hint = "write <image> and <bbox> once for each image and box"
        if image_tags not in (0, len(self.images)):  # without any, ms-swift puts them first
            yield Problem("data-placeholders", f"{image_tags} <image> for {len(self.images)} images", hint)
        if box_tags != len(boxes):
            yield Problem("data-placeholders", f"{box_tags} <bbox> for {len(boxes)} boxes in 'objects'", hint)
        if label_tags > len(labels):
            yield Problem("data-placeholders", f"{label_tags} <ref-object> for {len(labels)} names in 'objects'", hint)
        for text in texts:
            yield from special_text(text, _VISUAL_TOKENS)
        for number, (box, image) in enumerate(zip(boxes, [*ids, *[0] * len(boxes)], strict=False), 1):
            if sizes and (size := sizes[image]):
                x, y = size if objects.get("bbox_type") == "norm1" else (1, 1)
                points = [(a * x, b * y) for a, b in zip(box[::2], box[1::2], strict=True)]
                yield from outside_problems(points, size[0], size[1], f"bbox {number}")

    def to_swift(self, sizes: Sequence[Size], text: GroundingTextSection) -> dict[str, Any]:
        return self.row


def flat_text(content: Any) -> str | None:
    """A message's content as ms-swift flattens it, ``<image>`` in an image's place; None for tokens and tool calls."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(map(_part_is_sound, content)):
        return None
    return "".join(part["text"] if part["type"] == "text" else f"<{_medium(part)}>" for part in content)


def _read(row: dict[str, Any], folder: Path) -> SwiftRow:
    listed, inside, messages = _split(row)
    sources, addresses = inside or listed, ("http://", "https://", "data:")
    if not sources:
        return SwiftRow((), row)
    paths = [len(source) <= _LONGEST_PATH and not source.startswith(addresses) for source in sources]
    images = tuple(folder / source if path else None for source, path in zip(sources, paths, strict=True))
    written = [str(image) if image else source for image, source in zip(images, sources, strict=True)]
    return SwiftRow(images, {**row, "messages": messages, "images": written})


def _split(row: dict[str, Any]) -> tuple[list[Any], list[Any], list[dict[str, Any]]]:
    """The images in ``images``, those in the messages, and the messages with ``<image>`` in the place of the latter.

    Each image is one text: a path, an address, or the image itself in base64.
    """
    images, inside, messages = row.get("images"), [], []
    listed = images if isinstance(images, list) else [] if images is None else [images]
    for message in row["messages"]:
        content = message.get("content")
        if isinstance(content, list) and message["role"] not in _TOOL_ROLES:
            brought = [isinstance(part, dict) and _medium(part) == "image" and _value(part) for part in content]
            inside += [image for image in brought if image]
            mark = {"type": "text", "text": "<image>"}
            parts = [mark if image else part for part, image in zip(content, brought, strict=True)]
            message = {**message, "content": parts}
        messages.append(message)
    listed = [image.get("bytes") or image.get("path") if isinstance(image, dict) else image for image in listed]
    return listed, inside, messages


def _value(part: dict[str, Any]) -> Any:
    value = part.get(part["type"])
    return value.get("url", 0) if isinstance(value, dict) else value


def _medium(part: dict[str, Any]) -> str:
    return str(part["type"]).removesuffix("_url")


def _fault(row: dict[str, Any]) -> str | None:
    messages, learned = row["messages"], False
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) and "role" in m for m in messages):
        return "'messages' must be a list of {role, content}"
    for number, message in enumerate(messages):
        role, content = message["role"], message.get("content")
        if role not in _ROLES:
            return f"a message's role must be one of {', '.join(_ROLES)}"
        if role == "system" and (number or not isinstance(content, str)):
            return "the system message must come first, and be text"
        if role not in _TOOL_ROLES and not _content_is_sound(message):
            return f"a message of {role} has no text"
        learned |= role == "tool_call" or (role == "assistant" and bool(content or message.get("tool_calls")))
    if not learned:
        return "no message of assistant that could be learned"
    if row.get("image") and not row.get("images"):
        return "the key is 'images'; 'image' would be ignored"
    listed, inside, _ = _split(row)
    if not all(isinstance(image, str) for image in listed):
        return "'images' must be a list of paths"
    if listed and inside:
        return "images both in 'images' and in the messages"
    objects = row.get("objects")
    if objects is None or objects == {}:
        return None
    if not isinstance(objects, dict) or not isinstance(objects.get("bbox"), list):
        return "'objects' must be {ref: [...], bbox: [[...], ...]}"
    for box in objects["bbox"]:
        even = isinstance(box, list) and len(box) > 1 and len(box) % 2 == 0
        if not even or not all(type(number) in (int, float) and abs(number) < 1e9 for number in box):
            return "a 'bbox' in 'objects' must be an even count of numbers, 2 or more"
    labels, ids, count = objects.get("ref"), objects.get("image_id"), len(inside or listed)
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        return "'ref' in 'objects' must be a list of names"
    if objects.get("bbox_type") not in (None, "real", "norm1"):
        return "'bbox_type' must be real or norm1"
    if ids is not None and not (isinstance(ids, list) and all(type(i) is int and 0 <= i < count for i in ids)):
        return f"'image_id' must number the row's {count} images from 0"
    return None


def _content_is_sound(message: dict[str, Any]) -> bool:
    content, answers = message.get("content"), message["role"] == "assistant"
    if content is None:
        calls = message.get("tool_calls") if answers else None
        return isinstance(calls, list) and all(isinstance(call, dict) for call in calls)
    if answers:  # may be token ids: a list of them, or under this name
        ids = content.get("token_ids") if isinstance(content, dict) else content
        if isinstance(ids, list) and ids and all(type(item) is int for item in ids):
            return True
    return isinstance(content, str) or (isinstance(content, list) and bool(content) and flat_text(content) is not None)


def _part_is_sound(part: Any) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return False
    if part["type"] == "text":
        return isinstance(part.get("text"), str)
    return isinstance(_value(part), str | None) or _medium(part) == "video"


SWIFT = Format(recognise=lambda row: "messages" in row, fault=_fault, read=_read)
