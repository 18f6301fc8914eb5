"""Words for left and right, which are exchanged when the image is mirrored."""

from __future__ import annotations

import re

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
