"""Words for left and right, and for up and down, which are exchanged when the image is mirrored."""

from __future__ import annotations

import re
from typing import NamedTuple


class Exchange(NamedTuple):
    """Which directions of the image are exchanged, by flips or by a turn of more than 90 degrees."""

    left_right: bool = False
    up_down: bool = False

    def then(self, other: Exchange) -> Exchange:
        """What both do together: exchanges cancel each other."""
        return Exchange(self.left_right != other.left_right, self.up_down != other.up_down)


NO_EXCHANGE, LEFT_RIGHT, UP_DOWN = Exchange(), Exchange(left_right=True), Exchange(up_down=True)

_PAIRS = (("left", "right"), ("top", "bottom"), ("upper", "lower"), ("above", "below"), ("up", "down"))
_CHINESE_PAIRS = (("左", "右"), ("上", "下"), ("顶", "底"))
_OTHER = {a: b for one, other in (*_PAIRS, *_CHINESE_PAIRS) for a, b in ((one, other), (other, one))}

_SIDES = re.compile(r"\b(?:left|right)(?=most\b|wards?\b|\b)|[左右]", re.IGNORECASE)
# The first lines find words that are not directions, in both forms, so that two exchanges give the first text again.
# 上 and 下 also mean before and after, on and off: they count in clear compounds only, not in 以下方式 or 线上部分.
_HEIGHTS = re.compile(
    r"(?P<other>\b(?:tank|crop) (?:top|bottom)\b|\b(?:top|bottom)[- ](?:hat|coat|up|down)s?\b"
    r"|\b(?:upper|lower)[- ]case\b|\b(?:above|below) all\b"
    r"|\b(?:see|as|shown|listed|given|described|mentioned|format|rules?|instructions?|examples?) (?:above|below)\b)"
    r"|\b(?:top|bottom|upper|lower)(?=most\b|\b)|\b(?:above|below)\b|\b(?:up|down)(?=wards?\b)"
    r"|(?<![以如线网])[上下](?=[方部侧面边端层排半](?!式|法|署|年))|(?<=[左右最])[上下](?![上下])|[顶底](?=[部端层])",
    re.IGNORECASE,
)


def mirror_words(text: str, exchange: Exchange = LEFT_RIGHT) -> str:
    """Exchange the words for left and right, for up and down, or both.

    >>> mirror_words("The Left one, RIGHT of the leftmost upright box")
    'The Right one, LEFT of the rightmost upright box'
    >>> mirror_words("The top left laptop, above the lowermost shelf", Exchange(True, True))
    'The bottom right laptop, below the uppermost shelf'
    """
    if exchange.left_right:
        text = _SIDES.sub(_exchanged, text)
    if exchange.up_down:
        text = _HEIGHTS.sub(lambda match: match[0] if match["other"] else _exchanged(match), text)
    return text


def _exchanged(match: re.Match[str]) -> str:
    word = match[0]
    other = _OTHER[word.lower()]
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other
