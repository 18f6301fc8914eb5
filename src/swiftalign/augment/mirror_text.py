"""Words for left and right, which are exchanged when the image is mirrored."""

from __future__ import annotations

import re
from dataclasses import replace

from swiftalign.data.records import Record

_SIDES = re.compile(r"\b(?:left|right)(?=most\b|wards?\b|\b)|[左右]", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left", "左": "右", "右": "左"}


def mirror_words(text: str) -> str:
    """Exchange left and right.

    >>> mirror_words("The Left one, RIGHT of the leftmost upright box")
    'The Right one, LEFT of the rightmost upright box'
    """
    return _SIDES.sub(_exchanged, text)


def _exchanged(match: re.Match[str]) -> str:
    word = match[0]
    other = _OTHER[word.lower()]
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other


def names_sides(record: Record) -> bool:
    """Whether a row's prompt, system message or labels contain left or right."""
    return mirror_record(record) != record


def mirror_record(record: Record) -> Record:
    """A record with left and right exchanged in its prompt, system message and labels."""
    targets = tuple(replace(target, label=mirror_words(target.label)) for target in record.targets)
    prompt, system = (None if text is None else mirror_words(text) for text in (record.prompt, record.system))
    return replace(record, targets=targets, prompt=prompt, system=system)
