"""Rows as the messages of a chat: what a served model is sent, and what a chat template is given."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

_IMAGE = "<image>"  # stands for an image in ms-swift's rows


@dataclass(frozen=True)
class Chatting:
    """How rows become conversations, beyond what they say themselves.

    Attributes:
        system: the text of a system message for rows without one; None for that of the chat template.
        switches: arguments of the chat template, such as ``enable_thinking``.
    """

    system: str | None = None
    switches: dict[str, Any] = field(default_factory=dict)


PLAIN = Chatting()


def messages_of(row: Mapping[str, Any], system: str | None = None) -> list[dict[str, Any]]:
    """A row's messages, in whose contents each image is a part of its own.

    Args:
        row: a row in ms-swift's layout, without the answer that is asked for.
        system: the text of a system message for a row without one.

    Returns:
        Messages of transformers' chat templates, ``{"type": "image"}`` for an image.
    """
    messages = [{**message, "content": list(_parts(message["content"]))} for message in row["messages"]]
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return messages


def _parts(text: str) -> Iterator[dict[str, str]]:
    for piece in re.split(f"({_IMAGE})", text):
        if piece:
            yield {"type": "image"} if piece == _IMAGE else {"type": "text", "text": piece}


def with_image_urls(messages: list[dict[str, Any]], images: list[Image.Image]) -> list[dict[str, Any]]:
    """Messages whose images are data URLs of PNG files, as OpenAI's protocol takes them.

    The pixels are those that the model is trained with: upright, and not compressed again.
    """
    left = iter(images)

    def sent(part: dict[str, str]) -> dict[str, Any]:
        if part["type"] != "image":
            return part
        file = io.BytesIO()
        next(left).save(file, "PNG", compress_level=1)
        return {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"},
        }

    return [
        {
            **message,
            "content": [*map(sent, message["content"])] if isinstance(message["content"], list) else message["content"],
        }
        for message in messages
    ]
