"""Texts of the data: what they must not hold, and how messages show them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from swiftalign.problems import Problem

_NOT_TEXT = re.compile(
    r"<\|(?:im_start|im_end|endoftext|vision_start|vision_end|image_pad|video_pad)\|>"
    r"|<(?:image|video|audio|bbox|ref-object)>"
)


def special_text(text: str, pattern: re.Pattern[str] = _NOT_TEXT) -> Iterator[Problem]:
    """Whether a text holds what the model or ms-swift reads as something other than text."""
    if "<" in text and (found := pattern.search(text)):
        hint = "remove it; <image> is inserted automatically"
        yield Problem("data-special-text", f"{found[0]} in {shown(text)}", hint)


def shown(text: str, limit: int = 60) -> str:
    """A text of the data for a message: short, on one line, and safe to print."""
    return repr(text if len(text) <= limit else text[:limit] + "...")
