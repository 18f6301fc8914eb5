"""Texts of the data: what they must not hold, when two labels are one, and how messages show them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from swiftalign.problems import Problem

# Special tokens of Qwen's vocabularies: those that a template writes around texts and for images, and those by which
# Qwen2-VL marks names and places. Other added tokens, such as <think>, are not special: decoding keeps them.
_TEMPLATE = r"<\|(?:im_start|im_end|endoftext|(?:vision|audio)_(?:start|end)|(?:vision|image|video|audio)_pad)\|>"
_MARKS = r"<\|(?:object_ref|box|quad)_(?:start|end)\|>"
_OF_TEMPLATE, _MARK = re.compile(_TEMPLATE), re.compile(_MARKS)
_NOT_TEXT = re.compile(rf"{_TEMPLATE}|{_MARKS}|<(?:image|video|audio|bbox|ref-object)>")
_END = re.compile(r"<\|(?:im_end|endoftext)\|>\s*\Z")


def special_text(text: str) -> Iterator[Problem]:
    """Whether a text holds what the model or ms-swift reads as something other than text."""
    if "<" in text and (found := _NOT_TEXT.search(text)):
        hint = "remove it; <image> is inserted automatically"
        yield Problem("data-special-text", f"{found[0]} in {shown(text)}", hint)


def special_message(text: str, *, answer: bool) -> Iterator[Problem]:
    """Whether a message holds special tokens that it is not known to mean; its placeholders are checked elsewhere.

    Args:
        answer: whether it is the assistant's, which may spell out its end.
    """
    if "<|" not in text:
        return
    if found := _OF_TEMPLATE.search(_END.sub("", text) if answer else text):
        hint = "remove it: the model's template writes turns and images"
        yield Problem("data-special-text", f"{found[0]} in {shown(text)}", hint)
    if found := _MARK.search(text):
        hint = "leave it if it is meant as a token; the model can't learn it as letters"
        yield Problem("data-marks", f"{found[0]} in {shown(text)}", hint)


def unified(text: str) -> str:
    """A text with each letter and its accents as one character, where Unicode has it: Qwen's tokenizer makes it so."""
    return unicodedata.normalize("NFC", text)


def label_key(label: str) -> str:
    """What is equal for labels that mean the same: case, space around them and the spelling of accents do not count.

    >>> label_key(" Cafe\\u0301 ") == label_key("café")
    True
    """
    return unified(label.strip().casefold())


def shown(text: str, limit: int = 60) -> str:
    """A text of the data for a message: short, on one line, and safe to print."""
    return repr(text if len(text) <= limit else text[:limit] + "...")
